"""Backends: each solves and draws rows of plans; `select` finds the one a call asked for.

A backend is a module with ``solve`` and ``sample`` (see `Backend`). Adding one is a row in ``_MODULES``.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from optdecode._inputs import Rows
from optdecode._plan import Plan
from optdecode.backends import rust
from optdecode.errors import ProblemError

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


class Drawn(NamedTuple):
    """What a backend returns for n draws of B rows; `log_inclusion` with the coupling that has it."""

    tokens: NDArray[Any]
    log_probs: NDArray[Any]
    status: NDArray[Any]
    log_inclusion: NDArray[Any] | None = None


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


@cache
def _module(name: str) -> Backend:
    return cast("Backend", import_module(_MODULES[name]))


def solve(plan: Plan, rows: Rows, backend: str, threads: int) -> tuple[str, Solved]:
    """Solve the rows of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend)
    return name, Solved(
        *module.solve(plan, rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget, threads)
    )


def model_log_probs(
    plans: list[Plan], rows: Rows, tokens: NDArray[Any], m: int, backend: str, threads: int
) -> tuple[NDArray[Any], ...]:
    """Return the model's log p of tokens (B, n), its m best tokens (B, m) and log p of these."""
    _, module = select(backend)
    return module.model_log_probs(plans, rows.logits, rows.dtype, rows.mask, rows.anchor, tokens, m, threads)


def sample(
    plans: list[Plan], rows: Rows, seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str, backend: str,
    threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend)
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, Drawn(*module.sample(plans, *arrays, seeds, positions, n, coupling, threads))  # type: ignore[arg-type]


def sample_codes(
    plans: list[Plan], rows: Rows, seed: int, sequences: NDArray[Any], codes: NDArray[Any], steps: NDArray[Any],
    backend: str, threads: int,
) -> tuple[str, Drawn, NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Draw one token of each sequence by its code; returns the backend's name, the draw, the next codes and steps."""
    name, module = select(backend)
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    tokens, log_probs, status, *after = module.sample_codes(plans, *arrays, seed, sequences, codes, steps, threads)
    return name, Drawn(tokens[:, None], log_probs[:, None], status), after[0], after[1]
