r"""Reference solvers of the general family: the scalar dual of a separable sum, and the greedy fill.

The dual of :math:`\max \langle q, l\rangle - \sum_i \varphi_i(q_i)` with :math:`0 \le q_i \le c` is one number
:math:`\nu`: each token solves :math:`\varphi_i'(x) = l_i - \nu` alone, and the sum of the solutions falls with
:math:`\nu`. Both roots are bracketed by stepping outwards and found by Chandrupatla's method, in u = log x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from optdecode.backends._reference_numeric import FaceRow, Found, dot, find_root, find_roots, log1mexp
from optdecode.backends._reference_supports import Array, Flags, log_sum_exp

if TYPE_CHECKING:
    from optdecode._plan import Plan, Term

Indices = npt.NDArray[np.intp]

#: A cap on n tokens is feasible where n cap >= 1 - this; within it of 1 the uniform distribution is the only one.
CAP_SLACK = 1e-12
#: Dual values stay within this.
_FAR = 1e250
#: Powers with exponents nearer to 0 are written with expm1, the others without the constant.
_SMALL = 0.5


# -------------------------------------------------------------------------------------------------------- greedy fill


def greedy_fill(plan: Plan, row: FaceRow) -> Found | None:
    """Omega = 0 under a cap: tokens by (l, logit, -id) descending, each filled up to the cap, the last with the rest.

    The threshold is l of the last token that gets some.
    """
    if row.l.size * plan.cap < 1.0 - CAP_SLACK:
        return None
    order = np.lexsort((-row.x, -row.l))
    full = int((1.0 + CAP_SLACK) / plan.cap)  # so many whole caps fit
    q = np.zeros(row.l.size)
    q[order[:full]] = min(plan.cap, 1.0 / full)
    last = order[min(full, q.size) - 1]
    rest = 1.0 - full * plan.cap
    if rest > CAP_SLACK and full < q.size:
        last = order[full]
        q[last] = rest
    with np.errstate(divide="ignore"):
        return Found(np.log(q), float(row.l[last]), 0.0)


# -------------------------------------------------------------------------------------------------------- derivatives


@dataclass(frozen=True)
class Slope:
    r"""The derivative of phi_i in u = log x, as ``common + own_i +`` a sum of non-decreasing terms.

    ``log u + sum_j c_j e^(a_j (u - log r_j)) / a_j - gain_i (1 - x)^(K-1) - pull_i K (1 - x)^(K-1) / (1 - (1 - x)^K)``;
    where a_j is small, e^v is expm1(v) instead, which stays exact as a_j -> 0.

    Attributes
    ----------
    common : float
        What is constant in x and alike for all tokens; nu absorbs it.
    own : ndarray
        What is constant in x.
    log : float
        Coefficient of log x.
    powers : tuple of (float, float, ndarray)
        (c, a, log r).
    gain, pull : ndarray
        Coverage: c w K for K > 1; log-coverage: c w.
    budget : int
        K.
    """

    common: float
    own: Array
    log: float
    powers: tuple[tuple[float, float, Array], ...]
    gain: Array
    pull: Array
    budget: int

    def falls(self) -> Flags:
        """Return which tokens' derivatives depend on x at all."""
        return np.asarray((self.log != 0.0) | bool(self.powers) | (self.gain > 0.0) | (self.pull > 0.0))

    def at_zero(self) -> Array:
        """Return the limit at x = 0 of all but common, own and gain."""
        endless = self.log > 0.0 or any(a < 0.0 for _, a, _ in self.powers)
        finite = -sum(c / a for c, a, _ in self.powers if 0.0 < a < _SMALL)
        return np.where(endless | (self.pull > 0.0), -np.inf, finite)

    def excess(self, u: Array, t: Array, i: Indices) -> Array:
        """Return derivative - common - own - t[0] at u for the tokens i, times a positive number that keeps it finite.

        With ``t = (l - own - nu, l - own - nu + gain)``, shape (2, V), its zero is the token's log-probability. Of the
        two the one is taken that does not cancel against the coverage.
        """
        exponents = [a * (u - log_r[i]) for _, a, log_r in self.powers]
        hit_pull = self.pull[i] > 0.0
        high = np.max([*exponents, np.where(hit_pull, -u, -np.inf)], axis=0)
        shift = np.maximum(high - 600.0, 0.0)
        total = self._bounded(u, t[:, i], i) * np.exp(-shift)
        for (c, a, _), e in zip(self.powers, exponents, strict=True):
            if abs(a) < _SMALL:
                total += c / a * np.where(shift > 0.0, np.exp(e - shift), np.expm1(np.minimum(e, 700.0)))
            else:
                total += c / a * np.exp(e - shift)
        if hit_pull.any():
            total -= self.pull[i] * np.exp(np.where(hit_pull, -u - shift, -np.inf)) * self._fading(u)
        return np.asarray(total)

    def _bounded(self, u: Array, t: Array, i: Indices) -> Array:
        """Return log u - gain (1 - x)^(K-1) - t[0]."""
        logarithm = self.log * u if self.log else np.zeros(u.size)
        if not self.gain.any():
            return np.asarray(logarithm - t[0])
        log_miss = (self.budget - 1) * log1mexp(np.minimum(u, 0.0))
        hit = -np.expm1(log_miss)
        late = logarithm - self.gain[i] * np.exp(log_miss) - t[0]
        return np.asarray(np.where(hit < 0.5, logarithm + self.gain[i] * hit - t[1], late))

    def _fading(self, u: Array) -> Array:
        """Return x K (1 - x)^(K-1) / (1 - (1 - x)^K), which is 1 at x = 0."""
        log_miss = log1mexp(np.clip(u, -60.0, 0.0))
        others = (self.budget - 1) * log_miss if self.budget > 1 else 0.0
        ratio = np.exp(np.log(self.budget) + u + others - log1mexp(self.budget * log_miss))
        return np.asarray(np.where(u < -60.0, 1.0, ratio))


def slope_of(plan: Plan, row: FaceRow) -> Slope:
    """Return the derivative of a plan's regularizer, with like terms merged so that they may cancel exactly."""
    n = row.l.size
    common, log, size = 0.0, 0.0, 0.0
    own, gain, pull = np.zeros(n), np.zeros(n), np.zeros(n)
    powers: dict[tuple[float, str], float] = {}

    def add_power(term: Term, a: float) -> None:
        nonlocal common
        powers[a, term.anchor] = powers.get((a, term.anchor), 0.0) + term.coefficient
        if abs(a) >= _SMALL and term.kind != "quadratic":
            common -= term.coefficient / a

    for term in plan.terms:
        c = term.coefficient
        if term.kind in ("entropy", "kl") or (term.kind == "divergence" and term.alpha == 1.0):
            log, size = log + c, size + abs(c)
            common += 0.0 if term.kind == "divergence" else c
            own -= 0.0 if term.kind == "entropy" else c * anchor_of(term, row)
        elif term.kind == "coverage":
            own -= c * row.w if row.budget == 1 else 0.0
            gain += c * row.w * row.budget if row.budget > 1 else 0.0
        elif term.kind == "log_coverage":
            pull += c * row.w
        else:
            add_power(term, 1.0 if term.kind == "quadratic" else term.alpha - 1.0)
            common += c / term.alpha if term.kind == "tsallis" else 0.0
    log = 0.0 if abs(log) <= 1e-15 * size else log
    anchors = {"none": np.zeros(n), "model": row.log_p, "given": row.log_r}
    kept = tuple((c, a, anchors[name]) for (a, name), c in powers.items() if c != 0.0)
    return Slope(common, own, log, kept, gain, pull, row.budget)


def anchor_of(term: Term, row: FaceRow) -> Array:
    """Return log r of a term."""
    return row.log_p if term.anchor == "model" else row.log_r


# -------------------------------------------------------------------------------------------------------- scalar dual


def separable_dual(plan: Plan, row: FaceRow) -> Found | None:
    """Solve the dual of a sum of terms under a cap, on scores that are shifted to where the answer lies."""
    n, log_cap = row.l.size, float(np.log(plan.cap))
    if n * plan.cap < 1.0 - CAP_SLACK:
        return None
    slope = slope_of(plan, row)
    t = np.stack([row.l - slope.own, row.l - slope.own + slope.gain])
    if n * plan.cap <= 1.0 + CAP_SLACK or n == 1:
        log_q = np.full(n, -np.log(n))
        nu, rounds = _highest_price(slope, t, log_q), 0
    else:
        log_q, nu, rounds = _dual(slope, t, row.x, log_cap)
        # A root far from 0 is resolved no finer than its own spacing of floats: solve again from a score next to it.
        inside = t[:, int(np.argmax(np.where(log_q < log_cap - 1e-9, log_q, -np.inf)))]
        base = float(inside[int(np.argmin(np.abs(inside - nu)))])
        if abs(nu) > 4.0 * abs(nu - base):
            log_q, nu, more = _dual(slope, t - base, row.x, log_cap)
            nu, rounds = nu + base, rounds + more
        if plan.cap == 1.0 and log_q.max() == 0.0:  # a vertex: of all nu that give it the one without a cap
            (at,) = (log_q == 0.0).nonzero()
            nu = float(-slope.excess(log_q[at], t, at)[0])
            log_q = np.where(log_q < 0.0, _tokens(slope, t - nu, log_cap), 0.0)
    return Found(log_q, nu - slope.common, sum_of_terms(plan, row, log_q), rounds)


def _highest_price(slope: Slope, t: Array, log_q: Array) -> float:
    """Return the largest nu at which no token wants less than q: the least of l - derivative."""
    return float(np.clip(np.min(-slope.excess(log_q, t, np.arange(log_q.size))), -_FAR, _FAR))


def _dual(slope: Slope, t: Array, x: Array, log_cap: float) -> tuple[Array, float, int]:
    """Return log q, nu and how often the sum of q was computed."""
    evaluations = 0

    def mass(nu: float) -> float:
        """Return log sum q."""
        nonlocal evaluations
        evaluations += 1
        return log_sum_exp(_tokens(slope, t - nu, log_cap))

    low, high = _around(mass, _guess(slope, t, log_cap))
    if low == -np.inf:  # slopes beyond any float, of an anchor that underflows: what is left is shared
        most, least = np.full(x.size, log_cap), _tokens(slope, t - high, log_cap)
        return _between(most, least, ~slope.falls(), np.lexsort((-x, -t[0]))), high, evaluations
    nearest = max(1e-300, 1e-17 * slope.log)  # a log x turns this into a relative error of q
    nu, _ = find_root(mass, low, high, nearest)
    # The sum may jump over 1 between two floats: where all of it does (linear objectives) and where the derivative is
    # so steep in q that nu does not resolve it.
    width = 4.0 * np.finfo(np.float64).eps * abs(nu) + nearest
    left, right = nu, nu
    while mass(left) < 0.0:
        left, width = left - width, 8.0 * width
    while mass(right) > 0.0:
        right, width = right + width, 8.0 * width
    most, least = _tokens(slope, t - left, log_cap), _tokens(slope, t - right, log_cap)
    return _between(most, least, ~slope.falls(), np.lexsort((-x, -t[0]))), nu, evaluations


def _guess(slope: Slope, t: Array, log_cap: float) -> float:
    """Return the nu at which the token of the largest score has a half, or the cap."""
    best = np.array([int(np.argmax(t[0]))])
    half = np.array([min(log_cap, -np.log(2.0))])
    return float(np.clip(-slope.excess(half, t, best), -_FAR, _FAR)[0])


def _around(mass: Callable[[float], float], start: float) -> tuple[float, float]:
    """Return low <= root <= high of a falling function, near to one another in order of magnitude."""
    step = 1e-3 * max(1.0, abs(start))
    low = high = start
    if mass(start) > 0.0:
        while mass(high) > 0.0:
            low, high, step = high, high + step, 8.0 * step
    else:
        while mass(low) < 0.0:
            if low < -_FAR:
                return -np.inf, low
            low, high, step = low - step, low, 8.0 * step
    while np.arcsinh(high) - np.arcsinh(low) > 8.0:
        middle = float(np.sinh(0.5 * (np.arcsinh(low) + np.arcsinh(high))))
        low, high = (middle, high) if mass(middle) > 0.0 else (low, middle)
    return low, high


def _tokens(slope: Slope, t: Array, log_cap: float) -> Array:
    """Return every token's log q: the root of its derivative = t, cut at 0 and at the cap."""
    u = np.full(t.shape[1], log_cap)
    below_cap = slope.excess(u, t, np.arange(u.size)) > 0.0
    below_cap |= ~slope.falls() & (t[0] <= 0.0)
    zero = below_cap & (t[1] <= slope.at_zero())
    u[zero] = -np.inf
    (i,) = (below_cap & ~zero).nonzero()
    if not i.size:
        return u
    low, high = np.full(i.size, log_cap), np.full(i.size, log_cap)
    step, above = 1.0, np.arange(i.size)
    while above.size and step < 1e300:
        high[above] = low[above]
        low[above] -= step
        step *= 16.0
        above = above[slope.excess(low[above], t, i[above]) > 0.0]
    u[i], _ = find_roots(lambda v, j: slope.excess(v, t, i[j]), low, high)
    u[i[above]] = -np.inf  # below any float
    return u


def _between(most: Array, least: Array, flat: Flags, order: Indices) -> Array:
    """Return log q with sum 1 between two solutions whose sums are above and below 1.

    Tokens of a linear objective are filled one after the other, as under a cap alone; others move together.
    """
    q, goal = np.exp(least), np.exp(most)
    rest = 1.0 - float(q.sum())
    log_q = least.copy()
    for token in order[flat[order] & (goal[order] > q[order])]:
        taken = min(goal[token] - q[token], max(rest, 0.0))
        q[token] += taken
        rest -= taken
        log_q[token] = np.log(q[token]) if q[token] > 0.0 else -np.inf
    moved = ~flat
    spread = float((goal - q)[moved].sum())
    if rest <= 0.0 or spread <= 0.0:
        return log_q
    share = min(rest / spread, 1.0)
    with np.errstate(divide="ignore"):
        mixed = np.logaddexp(np.log1p(-share) + least[moved], np.log(share) + most[moved])
    log_q[moved] = mixed
    return log_q


# ------------------------------------------------------------------------------------------------------------- values


def sum_of_terms(plan: Plan, row: FaceRow, log_q: Array) -> float:
    """Return Omega(q) from the definitions of its terms."""
    return sum(term.coefficient * _value(term, row, log_q) for term in plan.terms)


def _value(term: Term, row: FaceRow, log_q: Array) -> float:
    q = np.exp(log_q)
    if term.kind == "entropy":
        return dot(q, log_q)
    if term.kind == "quadratic":
        return 0.5 * float((q * q).sum())
    if term.kind == "tsallis":
        return dot(q, np.expm1((term.alpha - 1.0) * log_q)) / (term.alpha * (term.alpha - 1.0))
    if term.kind == "kl":
        return dot(q, log_q - anchor_of(term, row))
    if term.kind == "divergence":
        return _divergence(term.alpha, log_q, anchor_of(term, row))
    log_miss = log1mexp(np.minimum(log_q, 0.0))
    if term.kind == "coverage":
        return -dot(row.w, -np.expm1(row.budget * log_miss))
    log_hit = np.where(log_q < -60.0, np.log(row.budget) + log_q, log1mexp(row.budget * log_miss))
    return -dot(row.w, log_hit)


def _divergence(alpha: float, log_q: Array, log_r: Array) -> float:
    """Return sum r f(q / r), f(t) = (t^alpha - alpha t + alpha - 1) / (alpha (alpha - 1)) or its limit."""
    q, r, log_t = np.exp(log_q), np.exp(log_r), log_q - log_r
    more = float(q.sum() - r.sum())
    if alpha == 1.0:
        return dot(q, log_t) - more
    if alpha == 0.0:
        return -dot(r, log_t) + more
    # r t^alpha is q + q expm1((alpha - 1) log t) and r + r expm1(alpha log t): no cancellation near t = 1, and near
    # alpha = 1 and alpha = 0. Far from t = 1, q or r may underflow where it does not.
    base, exponent = (q, (alpha - 1.0) * log_t) if alpha > 0.5 else (r, alpha * log_t)
    close = np.abs(exponent) < 1.0
    power = dot(base[close], np.expm1(exponent[close]))
    power += float((np.exp(log_r + alpha * log_t) - base)[~close].sum())
    return (power / (alpha - 1.0) - more) / alpha if alpha > 0.5 else (power / alpha - more) / (alpha - 1.0)
