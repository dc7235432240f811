"""Rows of an engine's logits, rewritten to say what their requests ask for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._batch import log_probs_in_place, sample_batch
from optdecode._status import Status
from optdecode.integrations._requests import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rewrite_rows(logits: Any, rows: Sequence[int], requests: Sequence[Request], positions: Sequence[int]) -> None:
    """Replace rows of logits by log q, or by 0 at the token drawn and −inf elsewhere where the draw is ours.

    Parameters
    ----------
    logits : tensor, shape (R, V)
        Written in place. What is not float32 on the CPU travels there and back: the solvers run on the CPU.
    rows : sequence of int
        Ascending.
    requests, positions : sequences as long as ``rows``
        What each row's request asks for, and how many tokens it has so far.
    """
    if not rows:
        return
    whole = len(rows) == logits.shape[0] and logits.device.type == "cpu" and str(logits.dtype) == "torch.float32"
    block = logits if whole else logits[list(rows)].float().cpu()
    status = _rewrite(block.detach().numpy(), requests, positions)
    if not whole:
        logits[list(rows)] = block.to(logits)
    for at in np.flatnonzero(status > Status.REDUCED_ACCURACY).tolist():
        warnings.warn(
            f"optdecode: row {rows[at]} of the batch has no distribution, {Status(status[at]).name} "
            f"({Status(status[at]).meaning}); its logits stay as the engine gave them",
            RuntimeWarning,
            stacklevel=2,
        )


def _rewrite(block: NDArray[Any], requests: Sequence[Request], positions: Sequence[int]) -> NDArray[Any]:
    """Rewrite all rows, those of a kind in one call, and return a status a row."""
    kinds: dict[tuple[str, int | None] | None, list[int]] = {}
    for at, request in enumerate(requests):
        # Draw i of independent ones does not depend on how many there are.
        kind = None if request.seed is None else (request.coupling, None if request.coupling == "iid" else request.n)
        kinds.setdefault(kind, []).append(at)
    status = np.zeros(len(requests), dtype=np.int64)
    for kind, members in kinds.items():
        part = block if len(members) == len(requests) else block[members]
        of = [requests[at] for at in members]
        if kind is None:
            status[members] = log_probs_in_place([request.decoder for request in of], part, threads=1)
        else:
            status[members] = _one_hot(part, of, [positions[at] for at in members], kind)
        if part is not block:
            block[members] = part
    return status


def _one_hot(
    part: NDArray[Any], requests: Sequence[Request], positions: Sequence[int], kind: tuple[str, int | None]
) -> NDArray[Any]:
    coupling, n = kind
    index = [request.index or 0 for request in requests]
    draw = sample_batch(
        [request.decoder for request in requests],
        part,
        seeds=np.array([request.seed for request in requests], dtype=np.uint64),
        positions=np.array(positions, dtype=np.uint64),
        n=n or max(index) + 1,
        coupling=coupling,
        threads=1,
    )
    solved = np.flatnonzero(draw.status <= Status.REDUCED_ACCURACY)
    part[solved] = -np.inf
    part[solved, draw.tokens[np.arange(len(index)), index][solved]] = 0.0
    return np.asarray(draw.status)
