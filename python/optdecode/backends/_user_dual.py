"""The scalar dual of one separable term whose derivative can be inverted: q_i = clip(phi'^-1((l_i - nu) / c))."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode.backends._user_problem import Point, Problem
from optdecode.backends._user_simplex import FLOOR, OFF, Array
from optdecode.regularizers import Regularizer
from optdecode.regularizers.calls import call

_ROUNDS = 300
_EXACT = 1e-12


def separates(problem: Problem) -> bool:
    """Whether the regularizer is one term with a `gradient_inverse`, times a positive coefficient."""
    return len(problem.terms) == 1 and problem.terms[0][0] > 0.0 and hasattr(problem.terms[0][1], "gradient_inverse")


class _Dual:
    """Masses as a function of nu, on the rows that are not finished."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.coefficient: float = problem.terms[0][0]
        self.term: Regularizer = problem.terms[0][1]

    def at(self, nu: Array, live: npt.NDArray[Any]) -> Array:
        """Return q of some rows, shape (len(live), V); NaN where the term fails."""
        part = self.problem.take(live)
        with np.errstate(over="ignore"):
            t = np.where(part.face, (part.linear - nu[:, None]) / self.coefficient, 0.0)
        x = call(self.term, "gradient_inverse", t, part.ctx, self.problem.failures)
        return np.where(part.face, np.clip(x, 0.0, self.problem.cap), 0.0)


def solve(problem: Problem) -> tuple[Point, npt.NDArray[np.int64]]:
    """Return the optimum of every row, and the evaluations that it took.

    The mass ``sum q(nu)`` does not increase in nu: a bracket is widened until it holds 1, then halved, or cut by the
    secant where that makes it shorter. Where the mass jumps over 1, because a derivative is flat, the optimum lies
    between the two sides of the jump.
    """
    dual, count = _Dual(problem), problem.count
    rounds = np.zeros(count, dtype=np.int64)
    with np.errstate(all="ignore"):
        top = np.where(problem.face, problem.linear, -np.inf).max(axis=1)
        low, q_low = _bracket(dual, top, -1.0, rounds)  # mass >= 1
        high, q_high = _bracket(dual, top, 1.0, rounds)  # mass <= 1
        _narrow(dual, (low, high), (q_low, q_high), rounds)
        above, below = q_low.sum(axis=1) - 1.0, 1.0 - q_high.sum(axis=1)
        share = np.where(above + below > 0.0, above / (above + below), 0.5)
        share = np.where(np.abs(below) <= _EXACT, 1.0, np.where(np.abs(above) <= _EXACT, 0.0, share))[:, None]
        q = (1.0 - share) * q_low + share * q_high
        log_q = np.where(problem.face, np.maximum(np.log(q), OFF), OFF)
    log_q[problem.has_failed()] = OFF
    point = problem.at(log_q)
    # What an entropy keeps positive may have underflowed: its gradient is infinite there, and q next to nothing.
    rows = np.flatnonzero(~point.is_finite() & ~problem.has_failed())
    if rows.size:
        part = problem.take(rows)
        point.put(rows, part.at(np.where(part.face, np.maximum(log_q[rows], FLOOR), OFF)))
    return point, rounds


def _bracket(dual: _Dual, start: Array, sign: float, rounds: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Go from the start, in steps that double, until the mass is on the wanted side of 1."""
    nu, width = start.copy(), dual.coefficient
    q = np.zeros_like(dual.problem.linear)
    live = np.arange(start.size)
    for _ in range(_ROUNDS):
        q[live] = dual.at(nu[live], live)
        rounds[live] += 1
        excess = q[live].sum(axis=1) - 1.0
        live = live[((excess < 0.0) if sign < 0.0 else (excess > 0.0)) & ~dual.problem.has_failed()[live]]
        if not live.size:
            break
        nu[live] = start[live] + sign * width
        width *= 2.0
    return nu, q


def _narrow(dual: _Dual, nu: tuple[Array, Array], q: tuple[Array, Array], rounds: npt.NDArray[np.int64]) -> None:
    (low, high), (q_low, q_high) = nu, q
    live = np.arange(low.size)
    for number in range(_ROUNDS):
        above, below = q_low[live].sum(axis=1) - 1.0, 1.0 - q_high[live].sum(axis=1)
        middle = 0.5 * (low[live] + high[live])
        open_ = (above > _EXACT) & (below > _EXACT) & (low[live] < middle) & (middle < high[live])
        live, above, below, middle = live[open_], above[open_], below[open_], middle[open_]
        if not live.size:
            return
        if number % 3:  # two secants, kept inside, then a bisection
            secant = low[live] + (high[live] - low[live]) * (above / (above + below))
            middle = np.where((secant > low[live]) & (secant < high[live]), secant, middle)
        found = dual.at(middle, live)
        rounds[live] += 1
        heavy = found.sum(axis=1) >= 1.0
        for side, end, of_end in ((heavy, low, q_low), (~heavy, high, q_high)):
            end[live[side]] = middle[side]
            of_end[live[side]] = found[side]
        live = live[~dual.problem.has_failed()[live]]
