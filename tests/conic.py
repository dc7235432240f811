"""Plans as conic programs: their regularizers as CVXPY expressions, and an interior-point solver for them."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from optdecode._plan import PlanKind

TOLERANCES = (1e-11, 1e-10, 1e-9, 1e-8)


def term_expression(term, q, p, r, w, budget):
    """One term of a sum, times its coefficient; convex in q unless the coefficient is negative.

    Weights and coefficients go inside the powers: small coefficients of the cones make the solver stall.
    """
    c, alpha = term.coefficient, term.alpha
    anchor = p if term.anchor == "model" else r
    if term.kind == "entropy":
        return -c * cp.sum(cp.entr(q))
    if term.kind == "quadratic":
        return c * cp.sum_squares(q) / 2
    if term.kind == "tsallis":
        return c * cp.sum(cp.power(q, alpha) - q) / (alpha * (alpha - 1))
    if term.kind == "kl":
        return c * cp.sum(cp.rel_entr(q, anchor))
    if term.kind == "coverage":
        return -c * np.sum(w) + cp.sum(cp.power(cp.multiply((c * w) ** (1 / budget), 1 - q), budget))
    if term.kind == "log_coverage":
        return -c * cp.sum(cp.multiply(w, cp.log(1 - cp.power(1 - q, budget))))
    more = cp.sum(q) - np.sum(anchor)
    if alpha == 0.0:
        return c * (cp.sum(cp.rel_entr(anchor, q)) + more)
    if alpha == 1.0:
        return c * (cp.sum(cp.rel_entr(q, anchor)) - more)
    if alpha == 2.0:
        return c * cp.sum_squares(cp.multiply(anchor**-0.5, q - anchor)) / 2
    power = cp.sum(cp.power(cp.multiply(anchor ** (1 / alpha - 1), q), alpha)) - np.sum(anchor)
    return c * (power - alpha * more) / (alpha * (alpha - 1))


def omega(plan, q, p, r, w):
    """The regularizer as a CVXPY expression; also evaluates at constant q."""
    lam, alpha, k = plan.lam, plan.alpha, plan.budget
    if plan.kind in (PlanKind.ARGMAX, PlanKind.GREEDY_FILL):
        return cp.Constant(0.0)
    if plan.kind in (PlanKind.SEPARABLE_DUAL, PlanKind.ADAPTIVE_K):
        return sum(term_expression(term, q, p, r, w, k) for term in plan.terms)
    if plan.kind in (PlanKind.SOFTMAX, PlanKind.FACE_SOFTMAX):
        return -lam * cp.sum(cp.entr(q))
    if plan.kind is PlanKind.THRESHOLD_QUADRATIC:
        return lam * cp.sum_squares(q) / 2
    if plan.kind is PlanKind.THRESHOLD_TSALLIS:
        return lam * cp.sum(cp.power(q, alpha) - q) / (alpha * (alpha - 1))
    kl = lam * cp.sum(cp.rel_entr(q, r)) if lam else cp.Constant(0.0)
    missed = cp.sum(cp.power(cp.multiply((plan.beta_bar * w) ** (1 / k), 1 - q), k))
    return kl - plan.beta_bar * np.sum(w) + missed


def maximise(q, objective, constraints):
    """Solve for q, in the simplex beside the constraints, and return it normalised."""
    problem = cp.Problem(cp.Maximize(objective), [cp.sum(q) == 1, *constraints])
    for tolerance in TOLERANCES:
        tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
        try:
            problem.solve(solver=cp.CLARABEL, max_iter=500, **tight)
            break
        except cp.SolverError:  # stalls at times on the tightest tolerance
            continue
    probs = np.maximum(q.value, 0.0)
    return probs / probs.sum()


def by_interior_point(plan, linear, face, p, r, w):
    """Solve a plan, less its target, on a face."""
    q = cp.Variable(int(face.sum()), nonneg=True)
    objective = linear[face] @ q - omega(plan, q, p[face], r[face], w[face])
    probs = np.zeros(face.size)
    probs[face] = maximise(q, objective, [q <= plan.cap] if plan.cap < 1.0 else [])
    return probs
