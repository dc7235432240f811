r"""Certificates: how far from optimal a returned distribution can be, from the returned arrays and the problem alone.

The problem is :math:`\max_q f(q) = \langle q, l\rangle - \sum_i \varphi_i(q_i)` with :math:`0 \le q_i \le c` on a face
of the simplex, every :math:`\varphi_i` convex. Two upper bounds on what any distribution could gain over q, of which
the smaller is reported:

* Frank-Wolfe: :math:`\max_v \langle v, g\rangle - \langle q, g\rangle` with :math:`g = l - \nabla\Omega(q)`; the best v
  fills the tokens of largest g up to the cap. Infinite where a token that an entropy keeps positive has underflowed
  to 0.
* Conjugate, valid for every :math:`\nu`:
  :math:`\nu + \sum_i \max_{0 \le x \le c} [(l_i - \nu) x - \varphi_i(x)] - f(q)`.

With a target the problem is that of the returned multiplier m, which is convex. Where the regularizer is
:math:`\lambda` times the function that the target bounds, :math:`\lambda m` times the slack of the target is added: by
Lagrangian duality the sum bounds what any distribution within the target could gain in :math:`\langle q, l\rangle`.

Nothing here, in `optdecode._certificate_problem` (the problem, from a plan and the inputs) and in
`optdecode._certificate_terms` (the regularizers) is shared with a solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import optdecode._user_certificate as of_users
from optdecode._certificate_problem import RowProblem, chooses_face, indicator, row_problem
from optdecode._certificate_terms import Array, Sum, times

if TYPE_CHECKING:
    from optdecode._plan import Plan

#: Status codes up to this one have a distribution.
_LAST_SOLVED = 1
#: A token within this of the cap, relatively, counts as being there: as far as float32 tells.
_AT_CAP = 1e-6
_GLOBAL, _ON_FACE = "global", "optimal on the selected face"


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far a solution can be from optimal, recomputed in float64 from what was returned.

    Attributes
    ----------
    gap : float64 array, shape (...)
        Upper bound on what any distribution of the feasible set could gain over q in the objective (up to float64
        rounding of the evaluation); computed at q / sum q. NaN on rows without a solution. With an `Entropy` or a
        `Divergence` target, in the objective with the returned multiplier; where the target bounds the regularizer
        itself (`NegEntropy` and its entropy, `KL` and its divergence), also what any distribution within the target
        could gain in expected score, so that a multiplier that is too large shows as a gap.
    max_active_residual : float64 array, shape (...)
        Largest ``|g_i - eta|`` over tokens with q_i > 0 below the cap, eta the returned threshold; absolute, in units
        of the scores.
    max_inactive_violation : float64 array, shape (...)
        Largest positive part of ``g_i - eta`` over tokens of the face with q_i = 0, and of ``eta - g_i`` over tokens at
        the cap; absolute, in units of the scores.
    simplex_error : float64 array, shape (...)
        Larger of ``|sum q - 1|`` and the mass outside the feasible set: on forbidden tokens, or above the cap.
    target_error : float64 array, shape (...)
        By how much the target is missed, in nats: the positive part of h - H(q), or of KL(q || r) - eps; 0 where there
        is no target.
    scale : float64 array, shape (...)
        max(1, sum of the magnitudes of the regularizer's coefficients times the multiplier, largest finite ``|s_i|`` on
        the face; of a sum of terms also ``|Omega(q)|``): what `gap` is to be measured against.
    scope : str
        ``"global"``; ``"optimal on the selected face"`` where supports chose the face from the scores (the bound holds
        on the face, and says nothing of the choice); ``"concavity assumed"`` where the regularizer is code of
        the caller's own, whose gradient and convexity the gap takes for granted.
    """

    gap: Any
    max_active_residual: Any
    max_inactive_violation: Any
    simplex_error: Any
    target_error: Any
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
    multiplier: Array | None = None,
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
        Returned face; believed only where the plan has supports, or a price a token.
    threshold, status : ndarray, shape (B,)
        Returned dual value and status.
    multiplier : ndarray, shape (B,), optional
        Returned multiplier of the regularizer; believed only where the plan has a target. 1 by default.
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
    columns = np.full((len(_Numbers._fields), count), np.nan)
    user = plan.kind.value == "user"
    if user:
        rows = np.flatnonzero(status <= _LAST_SOLVED)
        with np.errstate(all="ignore"):
            found = of_users.certify_user(
                plan, logits, mask=mask, anchor=anchor, weights=weights, budget=budget, log_probs=log_probs, face=face,
                threshold=threshold, rows=rows, indicator=indicator,
            )  # fmt: skip
        columns[:, rows] = np.insert(found, _Numbers._fields.index("target_error"), 0.0, axis=0)
    for b in range(0 if user else count):
        if status[b] <= _LAST_SOLVED:
            own = None if budget is None else int(budget[b])
            per_row = (_pick(mask, b), _pick(anchor, b), _pick(weights, b), own)
            m = 1.0 if multiplier is None or plan.target is None else float(multiplier[b])
            with np.errstate(all="ignore"):  # infinities are part of the calculus below; NaN is excluded
                problem = row_problem(plan, m, np.asarray(logits[b], dtype=np.float64), face[b], *per_row)
                columns[:, b] = _certify_row(problem, log_probs[b].astype(np.float64), float(threshold[b]))
    shaped = columns.reshape(-1, *((count,) if shape is None else shape))
    scope = of_users.scope_of(plan) if user else _ON_FACE if chooses_face(plan) else _GLOBAL
    return Certificate(**{name: column[()] for name, column in zip(_Numbers._fields, shaped, strict=True)}, scope=scope)


def _pick(rows: npt.NDArray[Any] | None, b: int) -> npt.NDArray[Any] | None:
    return None if rows is None else rows[b if rows.shape[0] > 1 else 0]


# ---------------------------------------------------------------------------------------------------------- one row


class _Numbers(NamedTuple):
    """The numbers of a `Certificate`, of one row."""

    gap: float
    max_active_residual: float
    max_inactive_violation: float
    simplex_error: float
    target_error: float
    scale: float


def _certify_row(problem: RowProblem, log_probs: Array, threshold: float) -> _Numbers:
    on_face = log_probs[problem.ids]
    total = float(np.exp(log_probs).sum())
    stray = max(total - float(np.exp(on_face).sum()), 0.0)
    above = float(np.maximum(np.exp(on_face) - np.exp(problem.log_cap), 0.0).sum())
    simplex_error = max(abs(total - 1.0), stray, above)
    top = float(on_face.max()) if on_face.size else -np.inf
    if not np.isfinite(top):
        return _Numbers(np.inf, np.inf, np.inf, simplex_error, np.inf if problem.target else 0.0, problem.scale)
    log_q = on_face - (top + float(np.log(np.exp(on_face - top).sum())))
    q = np.exp(log_q)
    g = problem.linear - problem.term.gradient(log_q)
    eta = threshold - problem.shift
    paid = problem.term.value(log_q)
    scale = problem.scale
    if isinstance(problem.term, Sum) and np.isfinite(paid).all():
        scale = max(scale, abs(float(paid.sum())))
    active = log_q > -np.inf
    full = (log_q >= problem.log_cap - _AT_CAP) & (problem.log_cap < 0.0)
    residual = np.abs(g[active & ~full] - eta).max(initial=0.0)
    violation = max(np.maximum(g[~active] - eta, 0.0).max(initial=0.0), np.maximum(eta - g[full], 0.0).max(initial=0.0))
    gap = _smaller_bound(problem, log_q, g, eta, float((times(q, problem.linear) - paid).sum()))
    missed = 0.0
    if problem.target is not None:
        slack = problem.target.slack(log_q)
        gap, missed = gap + problem.target.price * max(slack, 0.0), max(-slack, 0.0)
    return _Numbers(gap, float(residual), float(violation), simplex_error, missed, scale)


def _smaller_bound(problem: RowProblem, log_q: Array, g: Array, eta: float, value: float) -> float:
    """Return the smaller of the two bounds on what could be gained over q, whose objective is `value`."""
    mean_g = float(times(np.exp(log_q), g).sum())
    best, marginal = _fill(g, float(np.exp(problem.log_cap)))
    gap = best - mean_g
    for nu in (eta, marginal, mean_g, float(g[log_q > -np.inf].max())):
        if gap <= 1e-15 * problem.scale:
            break
        if np.isfinite(nu):
            gap = min(gap, nu + float(problem.term.conjugate(problem.linear - nu).sum()) - value)
    return float("inf") if np.isnan(gap) else max(gap, 0.0)  # an objective beyond any float bounds nothing


def _fill(g: Array, cap: float) -> tuple[float, float]:
    """Return the largest <v, g> of all distributions below the cap, and g of the last token that gets something."""
    if cap >= 1.0:
        return float(g.max()), float(g.max())
    g = -np.sort(-g)
    v = np.clip(1.0 - cap * np.arange(g.size), 0.0, cap)
    return float(times(v, g).sum()), float(g[v > 0.0].min())
