"""The Rust core: every plan, on rows in CPU memory."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import _core
from optdecode._plan import Plan, PlanKind

if TYPE_CHECKING:
    from numpy.typing import NDArray


_native = attrgetter("_native")


def compiled(plan: Plan) -> _core.Plan:
    """Return the core's form of a plan, built once a plan object."""
    try:
        native: _core.Plan = _native(plan)
    except AttributeError:
        native = _compile(plan)
        object.__setattr__(plan, "_native", native)
    return native


def _all_compiled(plans: list[Plan]) -> list[_core.Plan]:
    try:
        return list(map(_native, plans))  # what all batches but the first need, at a fraction of the cost
    except AttributeError:
        return [compiled(plan) for plan in plans]


class NotCompiledError(Exception):
    """A plan has code of the caller's own, which runs in Python."""


def _compile(plan: Plan) -> _core.Plan:
    if plan.kind is PlanKind.USER:
        raise NotCompiledError(f"the Rust core cannot run {plan!r}")
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
        tolerance=plan.tolerance,
        terms=list(plan.terms),
        price=plan.price,
        cap=plan.cap,
        target=plan.target,
        supports=list(plan.supports),
        chains=[list(chain) for chain in plan.chains],
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
) -> tuple[NDArray[Any] | None, ...]:  # fmt: skip
    """Draw n tokens a row; see `optdecode.backends.Backend`."""
    natives = _all_compiled(plans)
    return _core.sample(natives, logits, dtype, mask, anchor, weights, budget, seeds, positions, n, coupling, threads)


def sample_codes(
    plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any, seed: int,
    sequences: NDArray[Any], codes: NDArray[Any], steps: NDArray[Any], threads: int,
) -> tuple[NDArray[Any], ...]:  # fmt: skip
    """Draw one token a row by arithmetic codes; see `optdecode.backends.Backend`."""
    arrays = (logits, dtype, mask, anchor, weights, budget)
    return _core.sample_codes(_all_compiled(plans), *arrays, seed, sequences, codes, steps, threads)


def model_log_probs(
    plans: list[Plan], logits: NDArray[Any], dtype: str, mask: Any, anchor: Any, tokens: NDArray[Any], m: int,
    threads: int,
) -> tuple[NDArray[Any], ...]:  # fmt: skip
    """Log p of tokens, and the m best; see `optdecode.backends.Backend`."""
    return _core.model_log_probs(_all_compiled(plans), logits, dtype, mask, anchor, tokens, m, threads)


def log_probs_in_place(plans: list[Plan], logits: NDArray[Any], mask: Any, threads: int) -> NDArray[Any]:
    """Replace every row of float32 logits (B, V) by log q of its plan, where it has one; a status a row."""
    return _core.log_probs_in_place(_all_compiled(plans), logits, mask, threads)


def sample_plain(
    plans: Plan | list[Plan], logits: Any, seed: Any, position: Any, n: Any, coupling: Any, threads: Any
) -> tuple[NDArray[Any], NDArray[Any], Any, bool] | None:
    """Draw n tokens a row if the core can read every argument as it is, else return None.

    Parameters
    ----------
    plans : Plan or list of Plan
        One for all rows, or one a row.
    logits, seed, position, n, coupling, threads
        As in `Decoder.sample`, not checked; without mask, anchor, budget and weights.

    Returns
    -------
    tuple, optional
        (tokens, log_probs, status, whether all rows have a distribution); the arrays have the caller's batch shape, and
        the status of a single row is an int.
    """
    try:
        natives = _all_compiled(plans) if isinstance(plans, list) else compiled(plans)
    except NotCompiledError:
        return None
    return _core.sample_plain(natives, logits, seed, position, n, coupling, threads)
