"""Reference solvers around other solvers: a multiplier that reaches a target, and the number of tokens kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from optdecode.backends._reference_numeric import FaceRow, Found, Solver, dot, find_root
from optdecode.backends._reference_separable import greedy_fill
from optdecode.backends._reference_supports import descending

if TYPE_CHECKING:
    from optdecode._plan import Plan

#: Multipliers lie between the first and the second: scores nearer than the first count as ties.
SMALLEST, LARGEST = 1e-100, 1e100
#: A target is reached within this, relative to max(1, target).
TOLERANCE = 1e-12


# ------------------------------------------------------------------------------------------------------------ targets


def reach_target(plan: Plan, row: FaceRow, solver: Solver) -> Found | None:
    """Solve with the smallest multiplier of the whole regularizer whose optimum reaches the target.

    Multiplier 0, the greedy vertex (the greedy fill under a cap), if that reaches it; otherwise in
    [`SMALLEST`, `LARGEST`]. Where every positive multiplier reaches it (ties at the top) it is the least of these.
    """
    assert plan.target is not None
    kind, bound = plan.target
    reached = _entropy if kind == "entropy" else _closeness
    goal = (bound if kind == "entropy" else -bound) - TOLERANCE * max(1.0, bound)
    greedy = greedy_fill(plan, row)
    if greedy is None or reached(greedy, row) >= goal:
        return None if greedy is None else replace(greedy, multiplier=0.0)
    limit = solver(plan, replace(row, l=np.zeros(row.l.size)))  # what infinite multipliers tend to
    if limit is None or reached(limit, row) < goal:
        return None

    @cache
    def at(log_m: float) -> Found:
        m = float(np.exp(log_m))
        found = solver(scaled(plan, m), row)
        assert found is not None
        return replace(found, multiplier=m)

    return _smallest(at, lambda found: reached(found, row) - goal)


def scaled(plan: Plan, m: float) -> Plan:
    """Return the plan with its whole regularizer times m."""
    terms = tuple(term._replace(coefficient=m * term.coefficient) for term in plan.terms)
    return replace(plan, lam=m * plan.lam, beta_bar=m * plan.beta_bar, terms=terms)


def _entropy(found: Found, row: FaceRow) -> float:
    return -dot(np.exp(found.log_q), found.log_q)


def _closeness(found: Found, row: FaceRow) -> float:
    """Return -KL(q || r)."""
    return -dot(np.exp(found.log_q), found.log_q - row.log_r)


def _smallest(at: Callable[[float], Found], spare: Callable[[Found], float]) -> Found:
    """Return the solution at the least log m where ``spare`` is not negative; it does not fall with log m."""
    least, most = float(np.log(SMALLEST)), float(np.log(LARGEST))
    low = high = 0.0
    step = 1.0
    if spare(at(0.0)) >= 0.0:
        while low > least and spare(at(low)) >= 0.0:
            low, high, step = max(low - step, least), low, 2.0 * step
    else:
        while high < most and spare(at(high)) < 0.0:
            low, high, step = high, min(high + step, most), 2.0 * step
    first = at(low)
    if spare(first) >= 0.0 or spare(at(high)) < 0.0:
        return first if spare(first) >= 0.0 else at(high)
    log_m, rounds = find_root(lambda v: spare(at(v)), low, high)
    step, found = 2.0**-52, at(log_m)
    while spare(found) < 0.0:  # onto the feasible side
        log_m, step = log_m + step, 2.0 * step
        found = at(log_m)
    return replace(found, iterations=rounds)


# ---------------------------------------------------------------------------------------------------- tokens at a price


def adaptive_k(plan: Plan, row: FaceRow, bases: dict[str, Solver]) -> Found:
    """Keep the k best tokens (by logit, then id), k the smallest whose successor gains no more than the price.

    The value of the base problem on the k best is concave in k, so its increments fall.
    """
    (term,) = plan.terms
    order, solver = descending(row.x), bases[term.kind]
    base = replace(plan, lam=term.coefficient, alpha=term.alpha, terms=(), price=0.0)

    def on_best(k: int) -> tuple[Found, FaceRow]:
        few = _only(row, np.sort(order[:k]))
        found = solver(base, few)
        assert found is not None
        return found, few

    def value(k: int) -> float:
        found, few = on_best(k)
        return dot(np.exp(found.log_q), few.l) - found.omega

    if term.kind in ("entropy", "kl"):
        z = (row.l / base.lam + (row.log_r if term.kind == "kl" else 0.0))[order]
        # V_k = lam log sum exp of the k first z: an increment is lam log1p of what the next one adds.
        gains = base.lam * np.log1p(np.exp(z[1:] - np.logaddexp.accumulate(z)[:-1]))
        size = 1 + int(np.argmin(np.append(gains, -np.inf) > plan.price))
    else:
        size = _first_without(lambda k: value(k + 1) - value(k) > plan.price, order.size)
    found, _ = on_best(size)
    kept = np.zeros(order.size, dtype=bool)
    kept[order[:size]] = True
    log_q = np.full(order.size, -np.inf)
    log_q[kept] = found.log_q
    return replace(found, log_q=log_q, omega=found.omega + plan.price * size, kept=kept)


def _only(row: FaceRow, i: npt.NDArray[np.intp]) -> FaceRow:
    return FaceRow(row.x[i], row.l[i], row.log_p[i], row.log_r[i], row.w[i], row.budget)


def _first_without(holds: Callable[[int], bool], size: int) -> int:
    """Return the smallest k in [1, size] where a property, which is never regained, is lost; size if it never is."""
    kept, lost = 0, size
    while lost - kept > 1:
        middle = (kept + lost) // 2
        kept, lost = (middle, lost) if holds(middle) else (kept, middle)
    return lost
