"""Backends: each solves and draws rows of plans; `select` finds the one a call asked for.

A backend is a module with ``solve`` and ``sample`` (see `Backend`). Adding one is a row in ``_MODULES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from optdecode._inputs import Rows
from optdecode._plan import Plan, PlanKind
from optdecode._status import Status
from optdecode.backends import rust
from optdecode.errors import ProblemError
from optdecode.regularizers.calls import Failures

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MODULES = {"rust": "optdecode.backends.rust", "reference": "optdecode.backends.reference"}
#: By the name that a call gives: the name and the `sample_plain` of the backend that reads plain arguments itself.
PLAIN = {name: ("rust", rust.sample_plain) for name in ("auto", "rust")}


class Solved(NamedTuple):
    """What a backend returns for B rows: arrays (B, V) or (B,)."""

    log_probs: NDArray[Any]
    probs: NDArray[Any]
    face: NDArray[Any]
    threshold: NDArray[Any]
    objective: NDArray[Any]
    entropy: NDArray[Any]
    kl: NDArray[Any]
    kept_mass: NDArray[Any]
    multiplier: NDArray[Any]
    iterations: NDArray[Any]
    status: NDArray[Any]
    failures: Failures | None = None  # what the caller's own code did wrong, by row


class Drawn(NamedTuple):
    """What a backend returns for n draws of B rows; `log_inclusion` with the coupling that has it."""

    tokens: NDArray[Any]
    log_probs: NDArray[Any]
    status: NDArray[Any]
    log_inclusion: NDArray[Any] | None = None
    failures: Failures | None = None


class Backend(Protocol):
    """The functions that a backend module has."""

    def solve(self, plan: Plan, logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any,
              threads: int) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Solve every row; the arrays of `Solved`, in order."""

    def sample(self, plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any,
               budget: Any, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str,
               threads: int) -> tuple[NDArray[Any] | None, ...]:  # fmt: skip
        """Draw n tokens a row; the arrays of `Drawn`, in order."""

    def sample_codes(self, plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any,
                     budget: Any, seed: int, sequences: NDArray[Any], codes: NDArray[Any], steps: NDArray[Any],
                     threads: int) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Draw one token a row by arithmetic codes: tokens, log_probs, status, next codes and steps, all (B,)."""

    def model_log_probs(self, plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any,
                        tokens: NDArray[Any], m: int, threads: int) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Return log p of tokens (B, n), the m best tokens (B, m) and log p of these; −1 and NaN on bad rows."""


def select(name: str) -> tuple[str, Backend]:
    """Return the name and module of a backend.

    Parameters
    ----------
    name : {"auto", "rust", "reference"}
        ``"auto"`` is the Rust core: everything this version accepts lives in CPU memory.

    Returns
    -------
    tuple
        (name, module).

    Raises
    ------
    ProblemError
        There is no such backend.
    """
    name = "rust" if name == "auto" else name
    if name not in _MODULES:
        raise ProblemError(f"backend must be 'auto' or one of {', '.join(map(repr, _MODULES))}; got {name!r}")
    return name, _module(name)


def _user() -> Any:
    """Import what solves code of the caller's own when it is first needed."""
    from optdecode.backends import user

    return user


@cache
def _module(name: str) -> Backend:
    return cast("Backend", import_module(_MODULES[name]))


def solve(plan: Plan, rows: Rows, backend: str, threads: int) -> tuple[str, Solved]:
    """Solve the rows of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend)
    if plan.kind is PlanKind.USER:
        answer = _user().solve(plan, rows, module, threads)
        return f"{name}+user", Solved(*answer.arrays(rows.dtype))
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, Solved._make((*module.solve(plan, *arrays, threads), None))


def model_log_probs(
    plans: list[Plan], rows: Rows, tokens: NDArray[Any], m: int, backend: str, threads: int
) -> tuple[NDArray[Any], ...]:
    """Return the model's log p of tokens (B, n), its m best tokens (B, m) and log p of these."""
    _, module = select(backend)
    if any(plan.kind is PlanKind.USER for plan in plans):
        # The rows of such a plan allow what their decoder was solved on; `anchor` is theirs only where it was passed.
        anchored = "model" if rows.anchor is None else "given"
        plans = [
            replace(_user().measuring(plan), anchor=anchored) if plan.kind is PlanKind.USER else plan for plan in plans
        ]
    return module.model_log_probs(plans, rows.logits, rows.dtype, rows.mask, rows.anchor, tokens, m, threads)


def log_probs_in_place(
    plans: list[Plan], logits: NDArray[Any], mask: NDArray[Any] | None, threads: int
) -> NDArray[Any]:
    """Replace every row of float32 logits (B, V) by log q of its plan, where it has one; a status a row."""
    try:
        return rust.log_probs_in_place(plans, logits, mask, threads)
    except rust.NotCompiledError:
        _, module = select("rust")
        status: NDArray[Any] = _user().log_probs_in_place(plans, logits, mask, module, threads)
        return status


def draw_from(
    plan: Plan, rows: Rows, solved: Solved, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str,
    backend: str, threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of what was solved."""
    if plan.kind is not PlanKind.USER:  # from logits to tokens in one pass, which costs less than what was solved
        return sample([plan], rows, seeds, positions, n, coupling, backend, threads)
    name, module = select(backend)
    draw: Callable[..., Any] = module.sample

    def call(plans: list[Plan], arrays: Any, index: NDArray[Any]) -> Any:
        return draw(plans, *arrays, seeds[index], positions[index], n, coupling, threads)

    everything = np.arange(rows.count)
    found = _user().draw_solved(solved.log_probs, solved.status, rows.dtype, call, everything)
    return f"{name}+user", Drawn(*found)._replace(failures=solved.failures or {})


def sample(
    plans: list[Plan], rows: Rows, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str, backend: str,
    threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend)
    draw: Callable[..., Any] = module.sample

    def call(plans: list[Plan], arrays: Any, index: Any) -> Any:
        return draw(plans, *arrays, seeds[index], positions[index], n, coupling, threads)

    name, found, failures = _draw(plans, rows, name, module, threads, call)
    return name, Drawn(*found)._replace(failures=failures)


def sample_codes(
    plans: list[Plan], rows: Rows, seed: int, sequences: NDArray[Any], codes: NDArray[Any], steps: NDArray[Any],
    backend: str, threads: int,
) -> tuple[str, Drawn, NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Draw one token of each sequence by its code; returns the backend's name, the draw, the next codes and steps."""
    name, module = select(backend)
    draw: Callable[..., Any] = module.sample_codes

    def call(plans: list[Plan], arrays: Any, index: Any) -> Any:
        return draw(plans, *arrays, seed, sequences[index], codes[index], steps[index], threads)

    name, (tokens, log_probs, status, *after), failures = _draw(plans, rows, name, module, threads, call)
    # A row without a distribution leaves its code as it was, also where code of the caller's own was what failed.
    unsolved = status > Status.REDUCED_ACCURACY
    after = [np.where(unsolved, old, new) for old, new in zip((codes, steps), after, strict=True)]
    return name, Drawn(tokens[:, None], log_probs[:, None], status, None, failures), after[0], after[1]


def _draw(
    plans: list[Plan], rows: Rows, name: str, module: Backend, threads: int, call: Any
) -> tuple[str, Any, Failures | None]:
    """Draw by a function of plans, the arrays of a part of the batch, and its rows."""
    if rows.count and any(plan.kind is PlanKind.USER for plan in plans):
        found, failures = _user().draw(plans, rows, module, threads, call)
        return f"{name}+user", found, failures
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, call(plans, arrays, slice(None)), None
