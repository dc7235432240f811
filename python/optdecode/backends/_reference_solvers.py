r"""The solvers of the reference backend: one function a plan, on the face of one row, in float64.

Everything is written for being checked by eye: sorting where a threshold can be found by sorting, bracketed root
finding elsewhere, the plain formula in the docstring. Scores are shifted so that the largest is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optdecode.backends._reference_numeric import (
    FaceRow,
    Found,
    Solver,
    dot,
    find_root,
    find_roots,
    log1mexp,
    positive_log,
    vertex,
)
from optdecode.backends._reference_separable import greedy_fill, separable_dual
from optdecode.backends._reference_supports import FLOOR, Array, descending, log_softmax, log_sum_exp
from optdecode.backends._reference_targets import adaptive_k, reach_target

if TYPE_CHECKING:
    from optdecode._plan import Plan


# ------------------------------------------------------------------------------------------------------ closed forms


def argmax(plan: Plan, row: FaceRow) -> Found:
    """Omega = 0: the vertex at the largest l; the logits break a tie, as l may tie by rounding where they do not."""
    return Found(vertex(row.l.size, int(np.lexsort((-row.x, -row.l))[0])), 0.0, 0.0)


def softmax(plan: Plan, row: FaceRow) -> Found:
    """Solve by q = softmax(l / lam); threshold lam (lse(l / lam) - 1)."""
    z = row.l / plan.lam
    log_q = log_softmax(z)
    return Found(log_q, plan.lam * (log_sum_exp(z) - 1.0), plan.lam * dot(np.exp(log_q), log_q))


def anchored_softmax(plan: Plan, row: FaceRow) -> Found:
    """Solve by q = softmax(log r + l / lam); threshold lam (lse(log r + l / lam) - 1)."""
    z = row.log_r + row.l / plan.lam
    log_q = log_softmax(z)
    return Found(log_q, plan.lam * (log_sum_exp(z) - 1.0), plan.lam * dot(np.exp(log_q), log_q - row.log_r))


# --------------------------------------------------------------------------------------------------- sparse families


def quadratic(plan: Plan, row: FaceRow) -> Found:
    """Sparsemax, q = [z - tau]_+ with z = l / lam: support: the largest sorted prefix with 1 + k z_k > its sum."""
    z = row.l / plan.lam
    head = np.sort(z[z > -1.0])[::-1]  # tau >= max z - 1 = -1
    k = np.arange(1, head.size + 1)
    size = int(k[1.0 + k * head > np.cumsum(head)].max())
    tau = (float(head[:size].sum()) - 1.0) / size
    q = np.maximum(z - tau, 0.0)
    return Found(positive_log(q), plan.lam * tau, 0.5 * plan.lam * float((q * q).sum()))


def tsallis(plan: Plan, row: FaceRow) -> Found:
    """Entmax: q = [y - tau]_+^(1 / (alpha - 1)), y = (alpha - 1) l / lam; t = tau + 1."""
    alpha, lam = plan.alpha, plan.lam
    y = (alpha - 1.0) * row.l / lam
    if alpha == 1.5:
        log_q, t, rounds = _entmax15(y)
    elif alpha < 2.0:
        log_q, t, rounds = _tsallis_smooth(y, alpha)
    else:
        log_q, t, rounds = _tsallis_steep(y, alpha)
    log_q = log_softmax(log_q)
    q = np.exp(log_q)
    with np.errstate(invalid="ignore"):  # q (q^(alpha - 1) - 1), exact as alpha -> 1
        omega = lam * dot(q, np.expm1((alpha - 1.0) * log_q)) / (alpha * (alpha - 1.0))
    return Found(log_q, lam * (t / (alpha - 1.0) - 1.0 / alpha), omega, rounds)


def _entmax15(y: Array) -> tuple[Array, float, int]:
    """Solve sum [y - tau]^2 = 1 (alpha = 1.5): on the k largest a quadratic equation; k is the last consistent one."""
    head = np.sort(y[y > -1.0])[::-1]
    k = np.arange(1, head.size + 1)
    mean, mean_square = np.cumsum(head) / k, np.cumsum(head * head) / k
    spread = 1.0 / k - (mean_square - mean * mean)
    tau_k = mean - np.sqrt(np.maximum(spread, 0.0))
    size = int(((spread >= 0.0) & (tau_k <= head)).nonzero()[0].max()) + 1
    mean_k = float(head[:size].mean())
    tau = mean_k - float(np.sqrt(max(1.0 / size - ((head[:size] - mean_k) ** 2).mean(), 0.0)))
    with np.errstate(divide="ignore"):
        return 2.0 * np.log(np.maximum(y - tau, 0.0)), tau + 1.0, 0


def _tsallis_smooth(y: Array, alpha: float) -> tuple[Array, float, int]:
    """Find the root of log sum q in t = tau + 1 for 1 < alpha < 2; log1p keeps alpha -> 1 exact."""

    def log_q(t: float) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log1p(np.maximum(y - t, -1.0)) / (alpha - 1.0))

    # All q_i = 1 / V would need 1 - t = V^-(alpha - 1): the largest t there can be.
    high = -float(np.expm1(-(alpha - 1.0) * np.log(y.size)))
    t, rounds = find_root(lambda t: log_sum_exp(log_q(t)), 0.0, high)
    return log_q(t), t, rounds


def _tsallis_steep(y: Array, alpha: float) -> tuple[Array, float, int]:
    """Find tau = (a breakpoint y_k) - delta for alpha >= 2; delta may be far below the spacing of floats at y_k.

    The breakpoint is the smallest y with sum_i [y_i - y]_+^(1 / (alpha - 1)) < 1; then bisect in log delta.
    """
    breaks = np.unique(np.append(y[y > -1.0], 0.0))  # ascending

    def log_q(at: float, log_delta: float) -> Array:
        with np.errstate(divide="ignore"):
            above = np.where(y >= at, np.logaddexp(np.log(np.maximum(y - at, 0.0)), log_delta), -np.inf)
        return above / (alpha - 1.0)

    low, high = -1, breaks.size - 1  # the mass at breaks[high] is below 1, at breaks[low] it is not
    while high - low > 1:
        middle = (low + high) // 2
        if log_sum_exp(log_q(float(breaks[middle]), -np.inf)) < 0.0:
            high = middle
        else:
            low = middle
    at = float(breaks[high])
    top = float(np.log(at - (breaks[low] if low >= 0 else -1.0)))
    # q of the tokens at the breakpoint is at least (1 - mass above) / V, and that is resolvable only above 1e-20.
    log_delta, rounds = find_root(lambda v: log_sum_exp(log_q(at, v)), top - 80.0 * (alpha - 1.0) - 80.0, top)
    return log_q(at, log_delta), 1.0 + at - float(np.exp(log_delta)), rounds


# ---------------------------------------------------------------------------------------------------------- coverage


def uncovered(log_q: Array, budget: int) -> Array:
    """Return (1 - q)^K."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.exp(budget * log1mexp(np.minimum(log_q, 0.0)))) if budget else np.ones_like(log_q)


def coverage_omega(plan: Plan, row: FaceRow, log_q: Array) -> float:
    """Return lam KL(q || r) - beta_bar sum w (1 - (1 - q)^K)."""
    kl = plan.lam * dot(np.exp(log_q), log_q - row.log_r) if plan.lam else 0.0
    covered = -np.expm1(row.budget * log1mexp(np.minimum(log_q, 0.0)))
    return kl - plan.beta_bar * dot(covered, row.w)


def coverage_dual(plan: Plan, row: FaceRow) -> Found:
    """Best-of-K: u = log q_i solves u - a_i (1 - e^u)^(K-1) = d_i, a_i = beta_bar w_i K / lam.

    Here d_i = log r_i + l_i / lam - 1 - n, and n = nu / lam is the multiplier. With a_i up to 1e10, n is resolved from
    whichever end of its bracket is nearer, and u from the form of its equation that does not cancel (d, or e = d + a).
    """
    a = plan.beta_bar * row.budget * row.w / plan.lam
    c = row.log_r + row.l / plan.lam - 1.0
    offset = float(c.max())
    c = c - offset
    if row.budget == 1 or not a.any():  # an exact shift of the scores
        n, rounds = log_sum_exp(c + (a - a.max())) + float(a.max()), 0
        log_q = log_softmax(c + (a - a.max()))
    else:
        log_q, n, rounds = _coverage_root(c, a, row.budget)
    return Found(log_softmax(log_q), plan.lam * (n + offset), coverage_omega(plan, row, log_q), rounds)


def _coverage_root(c: Array, a: Array, budget: int) -> tuple[Array, float, int]:
    peak = float(a.max())
    top = c + (a - peak)
    n_low, n_top = log_sum_exp(c), log_sum_exp(top)  # n lies between n_low and n_top + peak
    width = n_top + peak - n_low

    def log_q(v: float, from_low: bool) -> Array:
        d = (c - n_low) - v if from_low else (top - n_top) - v - a
        e = d + a if from_low else (top - n_top) - v
        return _coverage_inner(d, e, a, budget)

    from_low = log_sum_exp(log_q(0.5 * width, True)) <= 0.0
    ends = (0.0, 0.5 * width) if from_low else (-0.5 * width, 0.0)
    v, rounds = find_root(lambda v: log_sum_exp(log_q(v, from_low)), *ends)
    return log_q(v, from_low), (n_low if from_low else n_top + peak) + v, rounds


def _coverage_inner(d: Array, e: Array, a: Array, budget: int) -> Array:
    """Solve u - a (1 - e^u)^(K-1) = d for every token, in [d, e]."""
    u = e.copy()
    # 1 - (1 - q)^(K-1) <= (K - 1) q: below this bound u = e to float precision.
    (hard,) = (a * (budget - 1) * np.exp(np.minimum(e, 0.0)) > 1e-18).nonzero()

    def residual(x: Array, i: npt.NDArray[np.intp]) -> Array:
        log_miss = (budget - 1) * log1mexp(np.minimum(x, 0.0))
        hit, j = -np.expm1(log_miss), hard[i]
        return np.asarray(np.where(hit < 0.5, x + a[j] * hit - e[j], x - a[j] * np.exp(log_miss) - d[j]))

    # The same bound, with W(z) <= log(1 + z), puts u above e - log(1 + a (K - 1) e^e).
    d_hard, e_hard, a_hard = d[hard], e[hard], a[hard]
    low = np.maximum(d_hard, e_hard - np.logaddexp(0.0, np.log(a_hard * (budget - 1)) + e_hard))
    high = np.where(e_hard < a_hard, np.minimum(e_hard, 0.0), e_hard)
    u[hard], _ = find_roots(residual, low, high)
    return u


def coverage_waterfill(plan: Plan, row: FaceRow) -> Found:
    """Waterfilling (lam = 0): q_i = [1 - ((nu - l_i) / A_i)_+^(1 / (K-1))]_+, A_i = beta_bar w_i K, nu >= max l = 0."""
    gain = plan.beta_bar * row.budget * row.w
    if row.budget == 1 or not gain.any():  # a linear objective
        at = int(np.lexsort((-row.x, -(row.l + gain)))[0])
        log_q, nu, rounds = vertex(row.l.size, at), float((row.l + gain)[at]), 0
    else:
        log_q, nu, rounds = _waterfill(row.l, gain, row.budget, descending(row.x))
    return Found(log_softmax(log_q), nu, coverage_omega(plan, row, log_q), rounds)


def _waterfill(l: Array, gain: Array, budget: int, order: npt.NDArray[np.intp]) -> tuple[Array, float, int]:  # noqa: E741
    with np.errstate(divide="ignore"):
        log_gap, log_gain = np.log(-l), np.log(gain)
    paid = gain > 0.0

    def log_miss(y: float) -> Array:  # log(1 - q) at nu = e^y
        z = np.zeros(l.size)
        z[paid] = np.minimum((np.logaddexp(y, log_gap[paid]) - log_gain[paid]) / (budget - 1), 0.0)
        return z

    best = order[l[order] == 0.0]
    hubs = best[paid[best]]
    hub = int(hubs[0]) if hubs.size else int(best[0])
    others = np.arange(l.size) != hub

    def excess(y: float) -> float:
        """Sum of q minus 1, without the cancellation that q_hub near 1 would bring."""
        z = log_miss(y)
        return float(-np.expm1(z[others]).sum()) - float(np.exp(z[hub]))

    if excess(-np.inf) <= 0.0:  # the hub takes what the others leave, at nu = max l
        z = log_miss(-np.inf)
        z[hub] = np.log(rest) if (rest := float(-np.expm1(z[others]).sum())) > 0.0 else -np.inf
        return log1mexp(z), 0.0, 0
    high = float(np.log((l + gain).max()))
    step = 1.0
    while excess(high - step) <= 0.0:
        step *= 2.0
    y, rounds = find_root(excess, high - step, high)
    return log1mexp(log_miss(y)), float(np.exp(y)), rounds


def mirror(plan: Plan, row: FaceRow) -> Found:
    """Ascend by Algorithm 1 of arXiv:2602.18292 from q = r on the face; eta = 1 / L unless given."""
    gain = plan.beta_bar * row.budget * row.w
    log_q = log_softmax(row.log_r)

    def gradient(log_q: Array) -> Array:
        g = row.l + gain * uncovered(log_q, row.budget - 1)
        return g - plan.lam * (log_q - row.log_r + 1.0) if plan.lam else g

    def is_near(log_q: Array) -> bool:
        if plan.tolerance is None:
            return False
        return _mirror_gap(plan, row, log_q, gradient(log_q)) <= plan.tolerance * plan.lam

    eta = plan.eta if plan.eta is not None else _auto_eta(plan.lam, float(gain.max()), row.budget)
    taken = 0
    while taken < plan.steps and not is_near(log_q):
        # A step size far above 2 / L diverges; it stays among the finite numbers.
        moved = np.clip(log_q + eta * gradient(log_q), FLOOR, -FLOOR)
        log_q = np.maximum(log_softmax(moved), FLOOR)
        taken += 1
    threshold, accurate = dot(np.exp(log_q), gradient(log_q)), plan.tolerance is None or is_near(log_q)
    return Found(log_q, threshold, coverage_omega(plan, row, log_q), taken, accurate=accurate)


def _mirror_gap(plan: Plan, row: FaceRow, log_q: Array, g: Array) -> float:
    """Return max g - <q, g>; tokens without mass by the conjugate at nu = max g: max over x of (l - nu) x - phi(x)."""
    on = np.exp(log_q) > 0.0
    nu = float(g[on].max())
    gain = plan.beta_bar * row.budget * row.w
    with np.errstate(over="ignore"):
        lost = np.exp(row.log_r + (row.l + gain - nu) / plan.lam - 1.0)[~on]
    return nu - dot(np.exp(log_q), g) + plan.lam * float(lost.sum())


def _auto_eta(lam: float, gain: float, budget: int) -> float:
    """Return 1 / L, L = lam + max_x gain (K-1) x (1-x)^(K-2) the smoothness relative to negative entropy."""
    k = budget
    bend = {1: 0.0, 2: 1.0}.get(k, ((k - 2) / max(k - 1, 1)) ** (k - 2))
    smoothness = lam + gain * bend
    return 1.0 / smoothness if smoothness > 0.0 else 1.0


def at_a_price(plan: Plan, row: FaceRow) -> Found:
    """Choose the number of tokens for one of the solvers above."""
    bases: dict[str, Solver] = {"entropy": softmax, "kl": anchored_softmax, "quadratic": quadratic, "tsallis": tsallis}
    return adaptive_k(plan, row, bases)


#: Plan kind → solver: all that a new plan has to add to this backend.
SOLVERS: dict[Any, Solver] = {
    "argmax": argmax,
    "softmax": softmax,
    "face_softmax": softmax,
    "anchored_softmax": anchored_softmax,
    "threshold_quadratic": quadratic,
    "threshold_tsallis": tsallis,
    "coverage_dual": coverage_dual,
    "coverage_waterfill": coverage_waterfill,
    "mirror": mirror,
    "separable_dual": separable_dual,
    "greedy_fill": greedy_fill,
    "adaptive_k": at_a_price,
}


def optimum(plan: Plan, row: FaceRow) -> Found | None:
    """Solve a plan on a face, with the multiplier of its target if it has one; None where it is infeasible."""
    solver = SOLVERS[plan.kind.value]
    return solver(plan, row) if plan.target is None else reach_target(plan, row, solver)
