"""Backends: each solves and draws rows of plans; `select` finds the one a call asked for.

A backend is a module with ``solve`` and ``sample`` (see `Backend`). Adding one is a name in ``_NAMES`` and its import in
``_module``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from optdecode._plan import Plan
from optdecode._tensor_inputs import AnyRows, TensorRows
from optdecode.backends import rust
from optdecode.errors import ProblemError

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


class Drawn(NamedTuple):
    """What a backend returns for n draws of B rows, arrays or tensors."""

    tokens: Any
    log_probs: Any
    status: Any


class Backend(Protocol):
    """The functions that a backend module has."""

    def solve(self, plan: Plan, logits: Any, dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any,
              threads: int) -> tuple[Any, ...]:  # fmt: skip
        """Solve every row; the arrays of `Solved`, in order."""

    def sample(self, plans: list[Plan], logits: Any, dtype: str, mask: Any, anchor: Any, weights: Any,
               budget: Any, seeds: Any, positions: Any, n: int, coupling: str,
               threads: int) -> tuple[Any, ...]:  # fmt: skip
        """Draw n tokens a row; the arrays of `Drawn`, in order."""

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


def solve(plan: Plan, rows: AnyRows, backend: str, threads: int) -> tuple[str, Solved]:
    """Solve the rows of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend, rows)
    return name, Solved(
        *module.solve(plan, rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget, threads)
    )


def model_log_probs(
    plans: list[Plan], rows: AnyRows, tokens: Any, m: int, backend: str, threads: int
) -> tuple[Any, ...]:
    """Return the model's log p of tokens (B, n), its m best tokens (B, m) and log p of these."""
    _, module = select(backend, rows)
    return module.model_log_probs(plans, rows.logits, rows.dtype, rows.mask, rows.anchor, tokens, m, threads)


def sample(
    plans: list[Plan], rows: AnyRows, seeds: Any, positions: Any, n: int, coupling: str, backend: str,
    threads: int,
) -> tuple[str, Drawn]:  # fmt: skip
    """Draw n tokens from every row of a batch; returns the name of the backend that ran, and its arrays."""
    name, module = select(backend, rows)
    arrays = (rows.logits, rows.dtype, rows.mask, rows.anchor, rows.weights, rows.budget)
    return name, Drawn(*module.sample(plans, *arrays, seeds, positions, n, coupling, threads))
