r"""Certificates: how far from optimal a returned distribution can be, from the returned arrays and the problem alone.

The problem is :math:`\max_q f(q) = \langle q, l\rangle - \sum_i \varphi_i(q_i)` on a face of the simplex, with every
:math:`\varphi_i` convex. Two upper bounds on what any distribution could gain over q, of which the smaller is reported:

* Frank-Wolfe: :math:`\max_i g_i - \langle q, g\rangle` with :math:`g = l - \nabla\Omega(q)`. Infinite where a token
  that an entropy keeps positive has underflowed to 0.
* Conjugate, valid for every :math:`\nu`:
  :math:`\nu + \sum_i \max_{0 \le x \le 1} [(l_i - \nu) x - \varphi_i(x)] - f(q)`.

Nothing here is shared with a solver. A new regularizer adds one class with `value`, `gradient` and `conjugate`, and its
entries in ``_TERMS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

import optdecode._user_certificate as of_users

if TYPE_CHECKING:
    from optdecode._plan import Plan

Array = npt.NDArray[np.float64]

#: Shifted scores and log-probabilities below this count as this, so that their differences stay finite.
_FLOOR = -1e200

#: Status codes up to this one have a distribution.
_LAST_SOLVED = 1
_GLOBAL, _ON_FACE = "global", "optimal on the selected face"


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far a solution can be from optimal, recomputed in float64 from what was returned.

    Attributes
    ----------
    gap : float64 array, shape (...)
        Upper bound on what any distribution of the feasible set could gain over q in the objective (up to float64
        rounding of the evaluation); computed at q / sum q. NaN on rows without a solution.
    max_active_residual : float64 array, shape (...)
        Largest ``|g_i - eta|`` over tokens with q_i > 0, eta the returned threshold; absolute, in units of the scores.
    max_inactive_violation : float64 array, shape (...)
        Largest positive part of ``g_i - eta`` over tokens of the face with q_i = 0; absolute, in units of the scores.
    simplex_error : float64 array, shape (...)
        Larger of ``|sum q - 1|`` and the mass outside the feasible set.
    scale : float64 array, shape (...)
        max(1, lam, largest finite ``|s_i|`` on the face): what `gap` is to be measured against.
    scope : str
        ``"global"``; ``"optimal on the selected face"`` where supports chose the face from the scores (the bound holds
        on the face, and says nothing of the choice); ``"concavity assumed"`` where the regularizer is code of
        the caller's own, whose gradient and convexity the gap takes for granted.
    """

    gap: Any
    max_active_residual: Any
    max_inactive_violation: Any
    simplex_error: Any
    scale: Any
    scope: str

    @property
    def relative_gap(self) -> Any:
        """``gap / scale``."""
        return self.gap / self.scale


def certify(
    plan: Plan,
    logits: Array,
    *,
    mask: npt.NDArray[Any] | None = None,
    anchor: Array | None = None,
    weights: Array | None = None,
    budget: npt.NDArray[Any] | None = None,
    log_probs: npt.NDArray[Any],
    face: npt.NDArray[np.bool_],
    threshold: Array,
    status: npt.NDArray[Any],
    shape: tuple[int, ...] | None = None,
) -> Certificate:
    """Certify the rows of a batch.

    Parameters
    ----------
    plan : Plan
        The problem. Its solver is of no concern here.
    logits : ndarray of float64, shape (B, V)
        As the solver saw them, widened.
    mask : ndarray, optional
        bool (B or 1, V) or packed uint32 (B or 1, W), least significant bit first.
    anchor, weights : ndarray, shape (B or 1, V), optional
        As passed to the solver.
    budget : ndarray, shape (B,), optional
        As passed to the solver.
    log_probs : ndarray, shape (B, V)
        Returned log q, in the precision in which it was returned.
    face : ndarray of bool, shape (B, V)
        Returned face; believed only where the plan has supports.
    threshold, status : ndarray, shape (B,)
        Returned dual value and status.
    shape : tuple of int, optional
        Batch shape of the result; (B,) by default.

    Returns
    -------
    Certificate
        Rows whose status is not solved hold NaN.

    Notes
    -----
    Coverage weights that are the indicator of a support are measured again here; a token within rounding of the
    support's threshold may then count differently than it did in the solver, which shows as a gap.
    """
    count = logits.shape[0]
    columns = np.full((5, count), np.nan)
    user = plan.kind.value == "user"
    if user:
        rows = np.flatnonzero(status <= _LAST_SOLVED)
        with np.errstate(all="ignore"):
            columns[:, rows] = of_users.certify_user(
                plan, logits, mask=mask, anchor=anchor, weights=weights, budget=budget, log_probs=log_probs, face=face,
                threshold=threshold, rows=rows, indicator=_indicator,
            )  # fmt: skip
    for b in range(0 if user else count):
        if status[b] <= _LAST_SOLVED:
            own = None if budget is None else int(budget[b])
            per_row = (_pick(mask, b), _pick(anchor, b), _pick(weights, b), own)
            with np.errstate(all="ignore"):  # infinities are part of the calculus below; NaN is excluded
                problem = _measure(plan, np.asarray(logits[b], dtype=np.float64), face[b], *per_row)
                columns[:, b] = _certify_row(problem, log_probs[b].astype(np.float64), float(threshold[b]))
    gap, residual, violation, error, scale = columns.reshape(5, *((count,) if shape is None else shape))
    scope = of_users.scope_of(plan) if user else _ON_FACE if plan.selects else _GLOBAL
    return Certificate(gap[()], residual[()], violation[()], error[()], scale[()], scope=scope)


def _pick(rows: npt.NDArray[Any] | None, b: int) -> npt.NDArray[Any] | None:
    return None if rows is None else rows[b if rows.shape[0] > 1 else 0]


# ------------------------------------------------------------------------------------------------------- regularizers


class Term(Protocol):
    """A separable regularizer on a face, aligned with its tokens."""

    def value(self, log_q: Array) -> Array:
        """Return phi_i(q_i)."""

    def gradient(self, log_q: Array) -> Array:
        """Return phi_i'(q_i); at log q = -inf the one-sided limit."""

    def conjugate(self, t: Array) -> Array:
        """Return max over 0 <= x <= 1 of t_i x - phi_i(x), or an upper bound that is tight to rounding."""


@dataclass(frozen=True)
class _Zero:
    def value(self, log_q: Array) -> Array:
        return np.zeros_like(log_q)

    def gradient(self, log_q: Array) -> Array:
        return np.zeros_like(log_q)

    def conjugate(self, t: Array) -> Array:
        return np.maximum(t, 0.0)


@dataclass(frozen=True)
class _RelativeEntropy:
    """Lam x log(x / r); r = 1 is negative entropy."""

    lam: float
    log_r: Array

    def value(self, log_q: Array) -> Array:
        return self.lam * _times(np.exp(log_q), log_q - self.log_r)

    def gradient(self, log_q: Array) -> Array:
        return self.lam * (log_q - self.log_r + 1.0)

    def conjugate(self, t: Array) -> Array:
        log_x = self.log_r + t / self.lam - 1.0  # where the derivative vanishes
        return np.asarray(np.where(log_x < 0.0, self.lam * np.exp(log_x), t + self.lam * self.log_r))


@dataclass(frozen=True)
class _HalfSquare:
    """Lam x^2 / 2."""

    lam: float

    def value(self, log_q: Array) -> Array:
        return 0.5 * self.lam * np.exp(2.0 * log_q)

    def gradient(self, log_q: Array) -> Array:
        return self.lam * np.exp(log_q)

    def conjugate(self, t: Array) -> Array:
        x = np.clip(t / self.lam, 0.0, 1.0)
        return np.asarray(_times(x, t - 0.5 * self.lam * x))


@dataclass(frozen=True)
class _Tsallis:
    """Lam (x^alpha - x) / (alpha (alpha - 1))."""

    lam: float
    alpha: float

    @property
    def _unit(self) -> float:
        return self.lam / (self.alpha * (self.alpha - 1.0))

    def value(self, log_q: Array) -> Array:
        # x^alpha - x = x (x^(alpha - 1) - 1): expm1 keeps alpha near 1 exact.
        return self._unit * _times(np.exp(log_q), np.expm1((self.alpha - 1.0) * log_q))

    def gradient(self, log_q: Array) -> Array:
        return self._unit * (self.alpha * np.expm1((self.alpha - 1.0) * log_q) + (self.alpha - 1.0))

    def conjugate(self, t: Array) -> Array:
        # alpha x^(alpha - 1) = 1 + t / unit at the stationary point.
        excess = (t / self._unit - (self.alpha - 1.0)) / self.alpha
        log_x = np.clip(np.log1p(np.maximum(excess, -1.0)) / (self.alpha - 1.0), -np.inf, 0.0)
        return np.asarray(_times(np.exp(log_x), t - self._unit * np.expm1((self.alpha - 1.0) * log_x)))


@dataclass(frozen=True)
class _Coverage:
    """Lam x log(x / r) - beta_bar w (1 - (1 - x)^K)."""

    lam: float
    log_r: Array
    worth: Array  # beta_bar w
    budget: int

    def _covered(self, log_q: Array) -> Array:
        return np.asarray(-self.worth * np.expm1(self.budget * _log1mexp(log_q)))

    def _slope(self, log_q: Array) -> Array:
        if self.budget == 1:
            return self.worth
        return np.asarray(self.worth * self.budget * np.exp((self.budget - 1) * _log1mexp(log_q)))

    def value(self, log_q: Array) -> Array:
        kl = _RelativeEntropy(self.lam, self.log_r).value(log_q) if self.lam else 0.0
        return np.asarray(kl - self._covered(log_q))

    def gradient(self, log_q: Array) -> Array:
        kl = _RelativeEntropy(self.lam, self.log_r).gradient(log_q) if self.lam else 0.0
        return np.asarray(kl - self._slope(log_q))

    def conjugate(self, t: Array) -> Array:
        first_draw = self.worth * self.budget
        if self.lam == 0.0:
            return self._sparse_conjugate(t, first_draw)
        # 1 - (1 - x)^K <= K x: exact at K = 1, and near enough where x is tiny, which is nearly everywhere.
        bound = _RelativeEntropy(self.lam, self.log_r).conjugate(t + first_draw)
        log_x = np.minimum(self.log_r + (t + first_draw) / self.lam - 1.0, 0.0)
        slack = 0.5 * first_draw * (self.budget - 1) * np.exp(2.0 * log_x)
        (rest,) = (slack > 1e-20).nonzero()
        if rest.size:
            part = _Coverage(self.lam, self.log_r[rest], self.worth[rest], self.budget)
            bound[rest] = np.minimum(bound[rest], part._bracketed_conjugate(t[rest]))
        return bound

    def _sparse_conjugate(self, t: Array, first_draw: Array) -> Array:
        if self.budget == 1:
            return np.maximum(t + first_draw, 0.0)
        # (1 - x)^(K - 1) = -t / (K beta_bar w) at the stationary point.
        log_miss = np.where(t < 0.0, np.log(np.maximum(-t, 0.0)) - np.log(first_draw), -np.inf) / (self.budget - 1)
        log_miss = np.minimum(log_miss, 0.0)
        return np.asarray(_times(-np.expm1(log_miss), t) - self.worth * np.expm1(self.budget * log_miss))

    def _bracketed_conjugate(self, t: Array) -> Array:
        """Bisect the derivative in u = log x; concavity bounds the maximum by value + derivative * width."""

        def derivative(u: Array) -> Array:
            return t - self.lam * (u - self.log_r + 1.0) + self._slope(u)

        low = np.minimum(self.log_r + t / self.lam - 1.0, 0.0)
        high = np.minimum(low + self.worth * self.budget / self.lam, 0.0)
        for step in range(1, 161):
            middle = 0.5 * (low + high)
            rising = derivative(middle) >= 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
            if step % 16 == 0:
                slack = np.maximum(derivative(low), 0.0) * (np.exp(high) - np.exp(low))
                if float(slack.sum()) <= 1e-15 * (1.0 + self.lam):
                    break
        value = _times(np.exp(low), t - self.lam * (low - self.log_r)) + self._covered(low)
        return np.asarray(value + np.maximum(derivative(low), 0.0) * (np.exp(high) - np.exp(low)))


def _times(a: Array, b: Array) -> Array:
    """Return a * b with 0 * inf = 0."""
    return np.asarray(np.where(a == 0.0, 0.0, a * b))


def _log1mexp(u: Array) -> Array:
    """Return log(1 - exp(u)) for u <= 0 (values above, which are rounding, count as 0)."""
    u = np.minimum(u, 0.0)
    return np.asarray(np.where(u > -0.6931, np.log(-np.expm1(np.maximum(u, -1.0))), np.log1p(-np.exp(u))))


# ---------------------------------------------------------------------------------------------------------- one row


@dataclass(frozen=True)
class _RowProblem:
    """The problem of one row on its face: token ids, linear term less its maximum (shift), regularizer, scale."""

    ids: npt.NDArray[np.intp]
    linear: Array
    shift: float
    term: Term
    scale: float


@dataclass(frozen=True)
class _FaceData:
    """What regularizers are built from, on the face."""

    log_r: Array
    w: Array
    budget: int


def _coverage_term(plan: Plan, data: _FaceData) -> Term:
    return _Coverage(plan.lam, data.log_r, plan.beta_bar * data.w, data.budget)


def _entropy_term(plan: Plan, data: _FaceData) -> Term:
    return _RelativeEntropy(plan.lam, np.zeros_like(data.log_r))


#: Plan kind → regularizer on the face.
_TERMS: dict[str, Callable[[Plan, _FaceData], Term]] = {
    "argmax": lambda plan, data: _Zero(),
    "softmax": _entropy_term,
    "face_softmax": _entropy_term,
    "anchored_softmax": lambda plan, data: _RelativeEntropy(plan.lam, data.log_r),
    "threshold_quadratic": lambda plan, data: _HalfSquare(plan.lam),
    "threshold_tsallis": lambda plan, data: _Tsallis(plan.lam, plan.alpha),
    "coverage_dual": _coverage_term,
    "coverage_waterfill": _coverage_term,
    "mirror": _coverage_term,
}


def _certify_row(problem: _RowProblem, log_probs: Array, threshold: float) -> tuple[float, float, float, float, float]:
    """Return gap, active residual, inactive violation, simplex error, scale."""
    on_face = log_probs[problem.ids]
    total = float(np.exp(log_probs).sum())
    stray = max(total - float(np.exp(on_face).sum()), 0.0)
    simplex_error = max(abs(total - 1.0), stray)
    top = float(on_face.max()) if on_face.size else -np.inf
    if not np.isfinite(top):
        return np.inf, np.inf, np.inf, simplex_error, problem.scale
    log_q = on_face - (top + float(np.log(np.exp(on_face - top).sum())))
    q = np.exp(log_q)
    g = problem.linear - problem.term.gradient(log_q)
    active = log_q > -np.inf
    mean_g = float(_times(q, g).sum())
    eta = threshold - problem.shift
    violation = float(np.maximum(g[~active] - eta, 0.0).max(initial=0.0))
    gap = float(g.max()) - mean_g
    value = float((_times(q, problem.linear) - problem.term.value(log_q)).sum())
    for nu in (mean_g, float(g[active].max()), eta):
        if np.isfinite(nu):
            gap = min(gap, nu + float(problem.term.conjugate(problem.linear - nu).sum()) - value)
    return max(gap, 0.0), float(np.abs(g[active] - eta).max()), violation, simplex_error, problem.scale


def _measure(
    plan: Plan,
    x: Array,
    face: npt.NDArray[np.bool_],
    mask: npt.NDArray[Any] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: int | None,
) -> _RowProblem:
    """Rebuild the problem of one row from its inputs."""
    given = anchor if plan.anchor == "given" else None
    allowed = np.isfinite(x) & _mask_bits(mask, x.size)
    if plan.allowed is not None:
        allowed &= np.isin(np.arange(x.size), plan.allowed)
    if given is not None:
        allowed &= given > -np.inf
    log_p = np.full(x.size, -np.inf)
    log_p[allowed] = _normalised(np.maximum((x[allowed] - x[allowed].max()) / plan.temperature, _FLOOR))
    log_r = log_p if given is None else _normalised(np.where(allowed, np.maximum(given, _FLOOR), -np.inf))
    w = np.zeros(x.size)
    if plan.has_coverage:
        w[allowed] = _coverage_weights(plan, x[allowed], allowed) if weights is None else weights[allowed]
    # A returned face is believed only where the plan lets the scores choose one.
    ids = np.flatnonzero(allowed & face if plan.selects else allowed)
    t, weight = 1.0 if plan.raw_scores else plan.temperature, plan.score_weight
    best = float(x[ids].max() if weight >= 0.0 else x[ids].min())
    linear = np.maximum(weight * ((x[ids] - best) / t), _FLOOR) if weight else np.zeros(ids.size)
    scale = max(1.0, plan.lam, float(np.nanmax(np.minimum(np.abs(weight * (x[ids] / t)), -_FLOOR))))
    data = _FaceData(log_r[ids], w[ids], plan.budget if budget is None else budget)
    return _RowProblem(ids, linear, weight * (best / t) if weight else 0.0, _TERMS[plan.kind.value](plan, data), scale)


def _normalised(values: Array) -> Array:
    values = values - values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))


def _mask_bits(mask: npt.NDArray[Any] | None, size: int) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(size, dtype=bool)
    if mask.dtype == np.bool_:
        return mask
    ids = np.arange(size)
    words = np.append(mask.astype(np.uint32), np.uint32(0))  # past the end: forbidden
    bits = words[np.minimum(ids // 32, mask.size)] >> (ids % 32).astype(np.uint32) & 1
    return np.asarray(bits, dtype=bool)


def _coverage_weights(plan: Plan, x: Array, allowed: npt.NDArray[np.bool_]) -> Array:
    values = plan.weight_array()
    if values is not None:
        return np.asarray(values[allowed], dtype=np.float64)
    if plan.weights == "uniform":
        return np.ones(x.size)
    if plan.weights == "support":
        return _indicator(plan.weight_supports, x, plan.temperature)
    p = np.exp(_normalised((x - x.max()) / plan.temperature))
    return p if plan.weights == "model" else 1.0 / (1.0 + _rank(x))


def _rank(x: Array) -> Array:
    """Return each token's place, from 0, by (value descending, index ascending)."""
    place = np.empty(x.size)
    place[np.lexsort((np.arange(x.size), -x))] = np.arange(x.size)
    return place


def _indicator(rules: Iterable[tuple[str, float, bool]], x: Array, temperature: float) -> Array:
    """Return 1 where every rule keeps the token; all rules keep the best."""
    keep = np.ones(x.size, dtype=bool)
    rank = _rank(x)
    for name, value, raw in rules:
        keep &= _keeps(name, value, x, 1.0 if raw else temperature, rank) | (rank == 0)
    return keep.astype(np.float64)


def _keeps(name: str, value: float, x: Array, t: float, rank: Array) -> Array:
    """Return one rule's condition, as it is written in the documentation."""
    p = np.exp(_normalised((x - x.max()) / t))
    if name == "top_k":
        return np.asarray(rank < value)
    if name == "top_p":
        order = np.argsort(rank)
        ahead = np.empty(x.size)  # mass of the better tokens
        ahead[order] = np.concatenate(([0.0], np.cumsum(p[order])[:-1]))
        return np.asarray((ahead < value) | (value >= 1.0))
    if name == "min_p":
        return np.asarray(x >= x.max() + t * np.log(value))  # log 0 = -inf keeps all
    if name == "top_n_sigma":
        unit = max(float(np.ptp(x)), 5e-324)
        return np.asarray((x - x.max()) / unit >= -value * ((x - x.max()) / unit).std())
    cutoff = {
        "p_less": (1.0 - 1e-6) * float(p @ p),
        "epsilon": value,
        "eta": min(value, float(np.sqrt(value) * np.exp(_times(p, np.log(p)).sum()))),
    }
    return np.asarray(p >= cutoff[name])
