"""Backends: each solves and draws rows of plans; `select` finds the one a call asked for.

A backend is a module with ``solve`` and ``sample`` (see `Backend`). Adding one is a row in ``_MODULES``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from optdecode._inputs import Rows
from optdecode._plan import Plan, PlanKind
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
    """What a backend returns for n draws of B rows."""

    tokens: NDArray[Any]
    log_probs: NDArray[Any]
    status: NDArray[Any]
    failures: Failures | None = None


class Backend(Protocol):
    """The functions that a backend module has."""

    def solve(self, plan: Plan, logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any,
              threads: int) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Solve every row; the arrays of `Solved`, in order."""

    def sample(self, plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any,
               budget: Any, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str,
               threads: int) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """Draw n tokens a row; the arrays of `Drawn`, in order."""

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
    dtype = "f64" if rows.dtype == "f64" else "f32"
    arrays = (solved.log_probs, solved.status, solved.failures or {}, dtype, module, seeds, positions)
    return f"{name}+user", _user().draw(*arrays, n, coupling, threads)


def sample(
    plans: list[Plan], rows: Rows, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str, backend: str,
    threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend)
    if any(plan.kind is PlanKind.USER for plan in plans):
        return f"{name}+user", _user().sample(plans, rows, module, seeds, positions, n, coupling, threads)
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, Drawn._make((*module.sample(plans, *arrays, seeds, positions, n, coupling, threads), None))
