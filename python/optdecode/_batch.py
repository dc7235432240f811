"""One decoder a row: what serving engines need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optdecode import backends
from optdecode._codes import ArithmeticCodes
from optdecode._decoder import Decoder, ModelWanted, draw_plain, draw_rows, thread_count
from optdecode._inputs import check_plans, is_laid_out, mask_rows, writable_rows
from optdecode._plan import Plan
from optdecode._solution import Draw
from optdecode._tensor_inputs import read_call
from optdecode.errors import ProblemError, ShapeError


def sample_batch(
    decoders: Sequence[Decoder],
    logits: Any,
    seeds: Any = None,
    positions: Any = 0,
    mask: Any = None,
    n: int = 1,
    coupling: str | ArithmeticCodes = "iid",
    anchor: Any = None,
    budget: Any = None,
    weights: Any = None,
    threads: int | None = None,
    backend: str = "auto",
    on_failure: str = "mark",
    model_log_probs: bool = False,
    top_log_probs: int = 0,
) -> Draw:
    """Draw tokens from every row with a decoder of its own.

    Row i gives what ``decoders[i].sample(logits[i], seeds[i], positions[i], ...)`` gives alone.

    Parameters
    ----------
    decoders : sequence of Decoder, length B
        One a row; repeats are fine.
    logits : array_like, shape (B, V), or a list of B rows of length V
        As in `Decoder.__call__`.
    seeds, positions : int or integer array of shape (B,)
        As in `Decoder.sample`.
    mask, anchor, budget, weights, n, coupling, threads, backend, model_log_probs, top_log_probs
        As in `Decoder.sample`; arguments that a row's decoder has no use for are ignored on that row.
    on_failure : {"mark", "raise"}
        ``"mark"`` (default) gives bad rows token −1 and leaves the others untouched.

    Returns
    -------
    Draw
        ``tokens`` and ``log_probs`` (B, n), ``status`` (B,); what else was asked for.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        The decoders are not one a row, or an argument does not fit.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> logits = np.array([[0.0, 5.0, 1.0], [4.0, 0.0, 0.0]])
    >>> od.sample_batch([od.greedy(), od.top_k(1)], logits, seeds=[1, 2]).tokens.ravel()
    array([1, 0])
    """
    plans = _plans("sample_batch", decoders)
    logits = _stacked(logits)
    if mask is anchor is budget is weights is None and not model_log_probs and not top_log_probs:
        draw = draw_plain(plans, logits, seeds, positions, n, coupling, backend, threads, on_failure)
        if draw is not None:
            return draw
    rows = read_call(logits, plans, backend, mask=mask, anchor=anchor, budget=budget, weights=weights, mixed=True)
    if len(rows.shape) != 1 or len(plans) != rows.count:
        got = (*rows.shape, rows.vocabulary)
        raise ShapeError(
            f"sample_batch: logits must be (B, V) with one decoder a row; got {got} and {len(plans)} decoders"
        )
    model = ModelWanted(model_log_probs, top_log_probs)
    return draw_rows(plans, rows, seeds, positions, n, coupling, backend, threads, on_failure, model)


def log_probs_in_place(decoders: Sequence[Decoder], logits: Any, mask: Any = None, threads: int | None = 1) -> Any:
    """Replace every row of logits by the log q of its decoder: what engines that draw themselves need.

    Parameters
    ----------
    decoders : sequence of Decoder, length B
        One a row; repeats are fine.
    logits : float32 array or CPU tensor, shape (B, V)
        Read, then overwritten; any strides. A row without a distribution is left as it was.
    mask : array_like, optional
        As in `Decoder.__call__`.
    threads : int, optional
        One by default, as engines have threads of their own.

    Returns
    -------
    int64 array, shape (B,)
        A `Status` a row.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        The decoders are not one a row, or an argument does not fit.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> logits = np.array([[0.0, 5.0, 5.0], [np.nan, 0.0, 0.0]], dtype=np.float32)
    >>> log_probs_in_place([od.top_k(1), od.top_k(1)], logits)
    array([0, 3])
    >>> logits
    array([[-inf,   0., -inf],
           [ nan,   0.,   0.]], dtype=float32)
    """
    plans = _plans("log_probs_in_place", decoders)
    array = writable_rows(logits)
    if len(plans) != array.shape[0]:
        raise ShapeError(f"one decoder a row is needed; got {len(plans)} for {array.shape[0]} rows")
    allowed = None if mask is None else mask_rows(mask, array.shape[:1], array.shape[1])
    check_plans(plans, array.shape[1], anchor=None, budget=None, weights=None, mixed=True)
    rows = array if is_laid_out(array) else np.ascontiguousarray(array)
    status = backends.log_probs_in_place(plans, rows, allowed, thread_count(threads))
    if rows is not array:
        array[...] = rows
    return status.astype(np.int64)


def _plans(caller: str, decoders: Sequence[Decoder]) -> list[Plan]:
    decoders = list(decoders)
    plans = [decoder.plan for decoder in decoders if isinstance(decoder, Decoder)]
    if len(plans) < len(decoders):
        row, other = next((row, item) for row, item in enumerate(decoders) if not isinstance(item, Decoder))
        raise ProblemError(f"{caller}: decoders must be Decoder objects; item {row} is {other!r}")
    return plans


def _stacked(logits: Any) -> Any:
    """Stack a list of rows; a single array passes through."""
    if not isinstance(logits, (list, tuple)) or not logits or np.isscalar(logits[0]):
        return logits
    shapes = {tuple(np.shape(row)) for row in logits}
    if len(shapes) > 1:
        raise ShapeError(f"sample_batch: the rows of logits must share one shape (V,); got {sorted(shapes)}")
    if type(logits[0]).__module__.partition(".")[0] == "torch":
        import torch

        return torch.stack(list(logits))
    return np.stack(list(logits))
