"""Backends: each solves and draws rows of plans; `select` finds the one a call asked for.

A backend is a module with ``solve`` and ``sample`` (see `Backend`). Adding one is a name in ``_NAMES``
and its import in ``_module``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from optdecode._inputs import Rows
from optdecode._plan import Plan, PlanKind
from optdecode._status import Status
from optdecode._tensor_inputs import AnyRows, TensorRows
from optdecode.backends import rust
from optdecode.errors import BackendUnavailableError, ProblemError
from optdecode.regularizers.calls import Failures

_NAMES = ("rust", "reference", "torch")
#: By the name that a call gives: the name and the `sample_plain` of the backend that reads plain arguments itself.
PLAIN = {name: ("rust", rust.sample_plain) for name in ("auto", "rust")}


class Solved(NamedTuple):
    """What a backend returns for B rows: arrays, or tensors, (B, V) or (B,)."""

    log_probs: Any
    probs: Any
    face: Any
    threshold: Any
    objective: Any
    entropy: Any
    kl: Any
    kept_mass: Any
    multiplier: Any
    iterations: Any
    status: Any
    failures: Failures | None = None  # what the caller's own code did wrong, by row


class Drawn(NamedTuple):
    """What a backend returns for n draws of B rows; `log_inclusion` with the coupling that has it."""

    tokens: Any
    log_probs: Any
    status: Any
    log_inclusion: Any | None = None
    failures: Failures | None = None


class Backend(Protocol):
    """The functions that a backend module has."""

    def solve(self, plan: Plan, logits: Any, dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any,
              threads: int) -> tuple[Any, ...]:  # fmt: skip
        """Solve every row; the arrays of `Solved`, in order."""

    def sample(self, plans: list[Plan], logits: Any, dtype: str, mask: Any, anchor: Any, weights: Any,
               budget: Any, seeds: Any, positions: Any, n: int, coupling: str,
               threads: int) -> tuple[Any | None, ...]:  # fmt: skip
        """Draw n tokens a row; the arrays of `Drawn`, in order."""

    def sample_codes(self, plans: list[Plan], logits: Any, dtype: str, mask: Any, anchor: Any, weights: Any,
                     budget: Any, seed: int, sequences: Any, codes: Any, steps: Any,
                     threads: int) -> tuple[Any, ...]:  # fmt: skip
        """Draw one token a row by arithmetic codes: tokens, log_probs, status, next codes and steps, all (B,)."""

    def model_log_probs(self, plans: list[Plan], logits: Any, dtype: str, mask: Any, anchor: Any,
                        tokens: Any, m: int, threads: int) -> tuple[Any, ...]:  # fmt: skip
        """Return log p of tokens (B, n), the m best tokens (B, m) and log p of these; −1 and NaN on bad rows."""


def select(name: str, rows: AnyRows | None = None) -> tuple[str, Backend]:
    """Return the name and module of a backend.

    Parameters
    ----------
    name : {"auto", "rust", "reference", "torch"}
        ``"auto"`` is torch for rows that were read as tensors, and the Rust core for others.
    rows : Rows or TensorRows, optional
        What it is to compute.

    Returns
    -------
    tuple
        (name, module).

    Raises
    ------
    ProblemError
        There is no such backend.
    """
    if name == "auto":
        name = "torch" if isinstance(rows, TensorRows) else "rust"
    if name not in _NAMES:
        raise ProblemError(f"backend must be 'auto' or one of {', '.join(map(repr, _NAMES))}; got {name!r}")
    return name, _module(name)


def _module(name: str) -> Backend:
    # Statements, which torch.compile traces, and which load only what is used.
    if name == "torch":
        from optdecode.backends import torch

        return torch
    if name == "reference":
        from optdecode.backends import reference

        return reference
    return rust


def _in_memory(rows: AnyRows) -> Rows:
    """Refuse tensors for code of the caller's own, which sees arrays in CPU memory."""
    if isinstance(rows, TensorRows):
        raise BackendUnavailableError(
            "the torch backend has no solver for USER: code of your own runs beside backend='rust', on the CPU"
        )
    return rows


def _user() -> Any:
    """Import what solves code of the caller's own when it is first needed."""
    from optdecode.backends import user

    return user


def solve(plan: Plan, rows: AnyRows, backend: str, threads: int) -> tuple[str, Solved]:
    """Solve the rows of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend, rows)
    if plan.kind is PlanKind.USER:
        answer = _user().solve(plan, _in_memory(rows), module, threads)
        return f"{name}+user", Solved(*answer.arrays(rows.dtype))
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, Solved._make((*module.solve(plan, *arrays, threads), None))


def model_log_probs(
    plans: list[Plan], rows: AnyRows, tokens: Any, m: int, backend: str, threads: int
) -> tuple[Any, ...]:
    """Return the model's log p of tokens (B, n), its m best tokens (B, m) and log p of these."""
    _, module = select(backend, rows)
    if any(plan.kind is PlanKind.USER for plan in plans):
        # The rows of such a plan allow what their decoder was solved on; `anchor` is theirs only where it was passed.
        anchored = "model" if _in_memory(rows).anchor is None else "given"
        plans = [
            replace(_user().measuring(plan), anchor=anchored) if plan.kind is PlanKind.USER else plan for plan in plans
        ]
    return module.model_log_probs(plans, rows.logits, rows.dtype, rows.mask, rows.anchor, tokens, m, threads)


def log_probs_in_place(plans: list[Plan], logits: Any, mask: Any | None, threads: int) -> Any:
    """Replace every row of float32 logits (B, V) by log q of its plan, where it has one; a status a row."""
    try:
        return rust.log_probs_in_place(plans, logits, mask, threads)
    except rust.NotCompiledError:
        _, module = select("rust")
        status: Any = _user().log_probs_in_place(plans, logits, mask, module, threads)
        return status


def draw_from(
    plan: Plan, rows: AnyRows, solved: Solved, seeds: Any, positions: Any, n: int, coupling: str,
    backend: str, threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of what was solved."""
    if plan.kind is not PlanKind.USER:  # from logits to tokens in one pass, which costs less than what was solved
        return sample([plan], rows, seeds, positions, n, coupling, backend, threads)
    name, module = select(backend, rows)
    draw: Callable[..., Any] = module.sample

    def call(plans: list[Plan], arrays: Any, index: Any) -> Any:
        return draw(plans, *arrays, seeds[index], positions[index], n, coupling, threads)

    everything = np.arange(rows.count)
    found = _user().draw_solved(solved.log_probs, solved.status, rows.dtype, call, everything)
    return f"{name}+user", Drawn(*found)._replace(failures=solved.failures or {})


def sample(
    plans: list[Plan], rows: AnyRows, seeds: Any, positions: Any, n: int, coupling: str, backend: str,
    threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend, rows)
    draw: Callable[..., Any] = module.sample

    def call(plans: list[Plan], arrays: Any, index: Any) -> Any:
        return draw(plans, *arrays, seeds[index], positions[index], n, coupling, threads)

    name, found, failures = _draw(plans, rows, name, module, threads, call)
    return name, Drawn(*found)._replace(failures=failures)


def sample_codes(
    plans: list[Plan], rows: AnyRows, seed: int, sequences: Any, codes: Any, steps: Any,
    backend: str, threads: int,
) -> tuple[str, Drawn, Any, Any]:  # fmt: skip
    """Draw one token of each sequence by its code; returns the backend's name, the draw, the next codes and steps."""
    name, module = select(backend, rows)
    draw: Callable[..., Any] = module.sample_codes

    def call(plans: list[Plan], arrays: Any, index: Any) -> Any:
        return draw(plans, *arrays, seed, sequences[index], codes[index], steps[index], threads)

    name, (tokens, log_probs, status, *after), failures = _draw(plans, rows, name, module, threads, call)
    # A row without a distribution leaves its code as it was, also where code of the caller's own was what failed.
    unsolved = status > Status.REDUCED_ACCURACY
    after = [np.where(unsolved, old, new) for old, new in zip((codes, steps), after, strict=True)]
    return name, Drawn(tokens[:, None], log_probs[:, None], status, None, failures), after[0], after[1]


def _draw(
    plans: list[Plan], rows: AnyRows, name: str, module: Backend, threads: int, call: Any
) -> tuple[str, Any, Failures | None]:
    """Draw by a function of plans, the arrays of a part of the batch, and its rows."""
    if rows.count and any(plan.kind is PlanKind.USER for plan in plans):
        found, failures = _user().draw(plans, _in_memory(rows), module, threads, call)
        return f"{name}+user", found, failures
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, call(plans, arrays, slice(None)), None
