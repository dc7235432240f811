"""The Rust core: every plan, on rows in CPU memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import _core
from optdecode._plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compiled(plan: Plan) -> _core.Plan:
    """Return the core's form of a plan, built once a plan object."""
    native: _core.Plan | None = plan.__dict__.get("_native")
    if native is None:
        native = _compile(plan)
        object.__setattr__(plan, "_native", native)
    return native


def _compile(plan: Plan) -> _core.Plan:
    return _core.Plan(
        plan.kind.value,
        temperature=plan.temperature,
        score_weight=plan.score_weight,
        raw_scores=plan.raw_scores,
        lam=plan.lam,
        alpha=plan.alpha,
        beta_bar=plan.beta_bar,
        budget=plan.budget,
        weights=plan.weights,
        weight_values=plan.weight_array(),
        weight_supports=list(plan.weight_supports),
        anchor=plan.anchor,
        steps=plan.steps,
        eta=plan.eta,
        supports=list(plan.supports),
        allowed=None if plan.allowed is None else np.array(plan.allowed, dtype=np.uint32),
    )


def solve(
    plan: Plan, logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any, threads: int
) -> tuple[NDArray[Any], ...]:
    """Solve every row; see `optdecode.backends.Backend`."""
    return _core.solve(compiled(plan), logits, dtype, mask, anchor, weights, budget, threads)


def sample(
    plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any,
    seeds: NDArray[Any], positions: NDArray[Any], n: int, coupling: str, threads: int,
) -> tuple[NDArray[Any], ...]:  # fmt: skip
    """Draw n tokens a row; see `optdecode.backends.Backend`."""
    natives = [compiled(plan) for plan in plans]
    return _core.sample(natives, logits, dtype, mask, anchor, weights, budget, seeds, positions, n, coupling, threads)
