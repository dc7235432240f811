"""The certificate of problems with code of the caller's own: the Frank-Wolfe gap of the gradient that the code states.

Nothing here is shared with a solver but the functions of the problem themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optdecode.errors import ConvergenceError
from optdecode.regularizers import Context, is_own
from optdecode.regularizers.calls import Failures, evaluate

if TYPE_CHECKING:
    from optdecode._plan import Plan

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_FLOOR = -1e200
_NEAR_CAP = 1.0 - 1e-5  # float32 rounds a probability at the cap by less


def scope_of(plan: Plan) -> str:
    """What a gap of such a plan is relative to."""
    own = any(is_own(term) for _, term in plan.user)
    return "concavity assumed" if own else "optimal on the selected face" if plan.selects else "global"


def certify_user(
    plan: Plan, logits: Array, *, mask: npt.NDArray[Any] | None, anchor: Array | None, weights: Array | None,
    budget: npt.NDArray[Any] | None, log_probs: npt.NDArray[Any], face: Flags, threshold: Array, rows: npt.NDArray[Any],
    indicator: Callable[..., Array],
) -> Array:  # fmt: skip
    """Certify some rows of a batch.

    Parameters
    ----------
    plan : Plan
        Of kind ``USER``.
    logits, mask, anchor, weights, budget, log_probs, face, threshold
        As in `optdecode._certificate.certify`, of the whole batch.
    rows : ndarray of int
        Which rows have a solution.
    indicator : callable
        Says which of the allowed logits the supports of coverage weights keep.

    Returns
    -------
    ndarray, shape (5, len(rows))
        gap, active residual, inactive violation, simplex error, scale.

    Raises
    ------
    ConvergenceError
        The code fails at the returned distributions.
    """
    x, budgets = logits[rows], None if budget is None else budget[rows].astype(np.int64)
    mask, anchor, weights = (None if a is None else a[rows if a.shape[0] > 1 else [0]] for a in (mask, anchor, weights))
    ctx = _context(plan, x, mask, anchor, rows)
    if weights is not None:
        weights = np.array(np.broadcast_to(weights, x.shape))
    elif plan.weights == "support":
        weights = np.zeros(x.shape)
        for b, tokens in enumerate(ctx.allowed):
            weights[b, tokens] = indicator(plan.weight_supports, x[b, tokens], plan.temperature)
    face = ctx.allowed & face[rows] if plan.selects else ctx.allowed
    linear, shift, scale = _linear(plan, x, face)
    returned = np.exp(log_probs[rows].astype(np.float64))
    on_face = np.where(face, returned, 0.0)
    total, kept = returned.sum(axis=1), on_face.sum(axis=1)
    simplex_error = np.maximum(np.abs(total - 1.0), np.maximum(total - kept, 0.0))
    q = on_face / np.where(kept > 0.0, kept, 1.0)[:, None]
    gain = _gain(plan, q, linear, replace(ctx, allowed=face, weights=weights, budget=budgets))
    used = np.where(q > 0.0, q * gain, 0.0).sum(axis=1)
    gap = np.where(kept > 0.0, np.maximum(_best(gain, plan.cap) - used, 0.0), np.inf)
    dual = (threshold[rows] - shift)[:, None]
    between = (q > 0.0) & ((q < plan.cap * _NEAR_CAP) | (plan.cap == 1.0))
    residual = np.where(between, np.abs(gain - dual), 0.0).max(axis=1)
    violation = np.where(face & (q == 0.0), np.maximum(gain - dual, 0.0), 0.0).max(axis=1)
    return np.stack([gap, residual, violation, simplex_error, scale])


def _context(
    plan: Plan, x: Array, mask: npt.NDArray[Any] | None, anchor: Array | None, rows: npt.NDArray[Any]
) -> Context:
    """Rebuild what terms may look at, ``allowed`` being the tokens that no mask forbids."""
    allowed = np.isfinite(x) & _bits(mask, x.shape[1])
    if plan.allowed is not None:
        allowed &= np.isin(np.arange(x.shape[1]), plan.allowed)
    if anchor is not None:
        allowed &= anchor > -np.inf
    log_p = _log_softmax(x, allowed, plan.temperature)
    log_r = log_p if anchor is None else _log_softmax(np.broadcast_to(anchor, x.shape), allowed, 1.0)
    scores = np.where(allowed, np.clip(x / plan.temperature, -1e300, 1e300), -np.inf)
    return Context(scores, log_p, log_r, allowed, rows.astype(np.int64))


def _linear(plan: Plan, x: Array, face: Flags) -> tuple[Array, Array, Array]:
    """Return the linear term less its maximum on the face, that maximum, and the scale."""
    t, weight = 1.0 if plan.raw_scores else plan.temperature, plan.score_weight
    least = max(1.0, sum(abs(coefficient) for coefficient, _ in plan.user))
    if weight == 0.0:
        return np.zeros(x.shape), np.zeros(x.shape[0]), np.full(x.shape[0], least)
    sign = 1.0 if weight >= 0.0 else -1.0
    best = sign * np.where(face, sign * x, -np.inf).max(axis=1)
    linear = np.where(face, np.maximum(weight * ((x - best[:, None]) / t), _FLOOR), 0.0)
    size = np.where(face, np.minimum(np.abs(weight * (x / t)), -_FLOOR), 0.0).max(axis=1)
    return linear, weight * (best / t), np.maximum(size, least)


def _gain(plan: Plan, q: Array, linear: Array, ctx: Context) -> Array:
    """Return the gradient of the objective; −inf off the face."""
    failures: Failures = {}
    found = evaluate(plan.user, q, ctx, failures)
    if failures:
        row, failure = next(iter(failures.items()))
        raise ConvergenceError(f"row {row}: {failure.reason}") from failure.cause
    return np.asarray(np.where(ctx.allowed, linear - found.gradient, -np.inf))


def _best(gain: Array, cap: float) -> Array:
    """Return the largest ``<y, gain>``, y on the face with y <= cap: the best tokens, each up to the cap."""
    if cap == 1.0:
        return np.asarray(gain.max(axis=1))
    full = int(1.0 / cap)
    best = -np.sort(-gain, axis=1)[:, : full + 1]
    share = np.full(best.shape[1], cap)
    if best.shape[1] > full:
        share[full] = 1.0 - full * cap
    return np.asarray(np.where(share > 0.0, share * best, 0.0).sum(axis=1))


def _log_softmax(values: Array, allowed: Flags, temperature: float) -> Array:
    top = np.where(allowed, values, -np.inf).max(axis=1, keepdims=True)
    shifted = np.where(allowed, np.maximum((values - top) / temperature, _FLOOR), -np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _bits(mask: npt.NDArray[Any] | None, size: int) -> Flags | np.bool_:
    if mask is None:
        return np.bool_(True)
    if mask.dtype == np.bool_:
        return mask
    ids = np.arange(size)
    words = np.concatenate([mask.astype(np.uint32), np.zeros((mask.shape[0], 1), np.uint32)], axis=1)
    return np.asarray(words[:, np.minimum(ids // 32, mask.shape[1])] >> (ids % 32).astype(np.uint32) & 1, dtype=bool)
