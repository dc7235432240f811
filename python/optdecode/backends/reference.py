"""The reference backend: every plan in plain float64 NumPy, row by row.

Slow on purpose. It shares no code with the Rust core and, where it can, no algorithm either, so agreement of the two
means something. `optdecode.backends._reference_solvers.SOLVERS` holds one function a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from optdecode._status import Status
from optdecode.backends._reference_draw import draw_by_code, draw_distinct, draw_positions, philox4x32_10, row_seeds
from optdecode.backends._reference_numeric import FaceRow, Found, dot
from optdecode.backends._reference_solvers import optimum
from optdecode.backends._reference_supports import (
    FLOOR,
    Array,
    Flags,
    descending,
    log_softmax,
    select,
    select_chain,
)
from optdecode.backends._reference_supports import model_log_probs as model_log_probs_of

if TYPE_CHECKING:
    from optdecode._plan import Plan

__all__ = ["model_log_probs", "philox4x32_10", "row_seeds", "sample", "sample_codes", "solve"]


#: Threshold, objective, entropy, kl, kept mass, multiplier.
Scalars = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class SolvedRow:
    """One row: face token ids, log q on them, `Scalars`, iterations, status."""

    ids: npt.NDArray[np.intp]
    log_q: Array
    scalars: Scalars
    iterations: int
    status: Status


@dataclass(frozen=True)
class Batch:
    """The arrays of a call; `row` broadcasts those that have one row for all."""

    logits: Array
    mask: Flags | None
    anchor: Array | None
    weights: Array | None
    budget: npt.NDArray[np.uint32] | None

    def row(self, b: int) -> tuple[Array, Flags | None, Array | None, Array | None, int | None]:
        """Return logits, mask, anchor, weights and budget of row b."""
        picked = [None if a is None else a[b if a.shape[0] > 1 else 0] for a in (self.mask, self.anchor, self.weights)]
        return self.logits[b], picked[0], picked[1], picked[2], None if self.budget is None else int(self.budget[b])


def solve(
    plan: Plan,
    logits: npt.NDArray[np.generic],
    dtype: str,
    mask: npt.NDArray[np.generic] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: npt.NDArray[np.uint32] | None,
    threads: int = 0,
) -> tuple[npt.NDArray[np.generic], ...]:
    """Solve every row of a batch.

    Parameters
    ----------
    plan : Plan
        One for all rows.
    logits : ndarray, shape (B, V)
        float64 or float32, or the uint16 patterns of ``"f16"`` and ``"bf16"``.
    dtype : {"f64", "f32", "f16", "bf16"}
        How to read `logits`.
    mask : ndarray, optional
        bool (B or 1, V) or packed uint32 (B or 1, W).
    anchor, weights : ndarray of float64, shape (B or 1, V), optional
        Log-probabilities of the reference; coverage weights in place of the plan's.
    budget : ndarray of uint32, shape (B,), optional
        K in place of the plan's.
    threads : int
        Ignored.

    Returns
    -------
    tuple of ndarray
        log_probs, probs, face (B, V); threshold, objective, entropy, kl, kept_mass, multiplier, iterations,
        status (B,).
    """
    batch = _batch(logits, dtype, mask, anchor, weights, budget)
    with np.errstate(over="ignore"):  # rows of +-1e308: infinities that FLOOR then catches
        rows = [_solve_row(plan, *batch.row(b)) for b in range(batch.logits.shape[0])]
    shape, floats = batch.logits.shape, np.float64 if dtype == "f64" else np.float32
    log_probs, probs = np.full(shape, -np.inf, floats), np.zeros(shape, floats)
    face = np.zeros(shape, dtype=bool)
    for b, row in enumerate(rows):
        if row.status.is_solved:
            with np.errstate(over="ignore"):  # to -inf, in float32
                log_probs[b, row.ids] = row.log_q
            probs[b, row.ids], face[b, row.ids] = np.exp(row.log_q), True
        else:
            log_probs[b], probs[b] = np.nan, np.nan
    scalars = np.array([row.scalars for row in rows], dtype=np.float64).reshape(len(rows), 6)
    iterations = np.array([row.iterations for row in rows], dtype=np.uint32)
    status = np.array([row.status for row in rows], dtype=np.uint8)
    return log_probs, probs, face, *(np.ascontiguousarray(column) for column in scalars.T), iterations, status


def sample(
    plans: list[Plan],
    logits: npt.NDArray[np.generic],
    dtype: str,
    mask: npt.NDArray[np.generic] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: npt.NDArray[np.uint32] | None,
    seeds: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.uint64],
    n: int,
    coupling: str,
    threads: int = 0,
) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.uint8], Array | None]:
    """Draw n tokens from the optimum of every row.

    Parameters
    ----------
    plans : list of Plan
        One for all rows, or one a row.
    logits, dtype, mask, anchor, weights, budget, threads
        As in `solve`.
    seeds, positions : ndarray of uint64, shape (B,)
        Key and counter of the random numbers.
    n : int
        Draws a row.
    coupling : {"iid", "systematic", "gumbel_topk"}
        How the draws of a row depend on each other.

    Returns
    -------
    tuple of ndarray
        tokens (B, n), -1 on rows without a distribution; log_probs (B, n), NaN there; status (B,); log_inclusion (B, n)
        of ``"gumbel_topk"``, else None.
    """
    batch = _batch(logits, dtype, mask, anchor, weights, budget)
    count = batch.logits.shape[0]
    log_inclusion = np.full((count, n), np.nan) if coupling == "gumbel_topk" else None
    tokens = np.full((count, n), -1, dtype=np.int64)
    log_probs = np.full((count, n), np.nan)
    status = np.zeros(count, dtype=np.uint8)
    for b in range(count):
        with np.errstate(over="ignore"):
            row = _solve_row(plans[b if len(plans) > 1 else 0], *batch.row(b))
        status[b] = row.status
        if not row.status.is_solved:
            continue
        if log_inclusion is None:
            drawn = draw_positions(np.exp(row.log_q), int(seeds[b]), int(positions[b]), n, coupling)
        else:
            drawn, inclusion = draw_distinct(row.log_q, int(seeds[b]), int(positions[b]), n)
            log_inclusion[b, : drawn.size] = inclusion
            status[b] = row.status if drawn.size == n else Status.TOO_FEW_TOKENS
        tokens[b, : drawn.size], log_probs[b, : drawn.size] = row.ids[drawn], row.log_q[drawn]
    return tokens, log_probs, status, log_inclusion


def sample_codes(
    plans: list[Plan],
    logits: npt.NDArray[np.generic],
    dtype: str,
    mask: npt.NDArray[np.generic] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: npt.NDArray[np.uint32] | None,
    seed: int,
    sequences: npt.NDArray[np.uint32],
    codes: npt.NDArray[np.uint64],
    steps: npt.NDArray[np.uint64],
    threads: int = 0,
) -> tuple[npt.NDArray[np.generic], ...]:
    """Draw one token of every row by the arithmetic code of its sequence.

    Parameters
    ----------
    plans, logits, dtype, mask, anchor, weights, budget, threads
        As in `sample`.
    seed : int
        Key of the fresh bits.
    sequences : ndarray of uint32, shape (B,)
        Which sequence a row is of.
    codes, steps : ndarray of uint64, shape (B,)
        Its code, and how many tokens it has.

    Returns
    -------
    tuple of ndarray
        tokens, log_probs, status, next codes, next steps, all (B,); a row without a distribution keeps its own.
    """
    batch = _batch(logits, dtype, mask, anchor, weights, budget)
    count = batch.logits.shape[0]
    tokens, log_probs = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
    status, codes, steps = np.zeros(count, dtype=np.uint8), codes.copy(), steps.copy()
    for b in range(count):
        with np.errstate(over="ignore"):
            row = _solve_row(plans[b if len(plans) > 1 else 0], *batch.row(b))
        status[b] = row.status
        if row.status.is_solved:
            q, code, step = np.exp(row.log_q), int(codes[b]), int(steps[b])
            drawn, codes[b] = draw_by_code(q, code, step, seed, int(sequences[b]))
            tokens[b], log_probs[b], steps[b] = row.ids[drawn], row.log_q[drawn], step + 1
    return tokens, log_probs, status, codes, steps


def model_log_probs(
    plans: list[Plan],
    logits: npt.NDArray[np.generic],
    dtype: str,
    mask: npt.NDArray[np.generic] | None,
    anchor: Array | None,
    tokens: npt.NDArray[np.int64],
    m: int,
    threads: int = 0,
) -> tuple[Array, npt.NDArray[np.int64], Array]:
    """Return what the model says of tokens, and its best ones.

    Parameters
    ----------
    plans : list of Plan
        One for all rows, or one a row; their temperature is that of the model distribution.
    logits, dtype, mask, anchor, threads
        As in `solve`.
    tokens : ndarray of int64, shape (B, n)
        Negative ones have log-probability NaN.
    m : int
        How many of the best.

    Returns
    -------
    tuple of ndarray
        log p (B, n); the best tokens (B, m), -1 past the allowed ones, and log p of these. NaN and -1 on bad rows.
    """
    batch = _batch(logits, dtype, mask, anchor, None, None)
    log_probs, best = np.full(tokens.shape, np.nan), np.full((tokens.shape[0], m), -1, dtype=np.int64)
    best_log_probs = np.full(best.shape, np.nan)
    for b in range(tokens.shape[0]):
        plan, (x, row_mask, row_anchor, *_) = plans[b if len(plans) > 1 else 0], batch.row(b)
        ids, status = _allowed(plan, x, row_mask, row_anchor)
        if status.is_solved:
            model = np.full(x.size + 1, -np.inf)
            with np.errstate(over="ignore"):
                model[ids] = model_log_probs_of(x[ids], plan.temperature)
            known = tokens[b] >= 0
            log_probs[b, known] = model[np.minimum(tokens[b, known], x.size)]
            first = ids[descending(x[ids])[:m]]
            best[b, : first.size], best_log_probs[b] = first, -np.inf
            best_log_probs[b, : first.size] = model[first]
    return log_probs, best, best_log_probs


# --------------------------------------------------------------------------------------------------------- one row


def _solve_row(
    plan: Plan, x: Array, mask: Flags | None, anchor: Array | None, weights: Array | None, budget: int | None
) -> SolvedRow:
    ids, status = _allowed(plan, x, mask, anchor)
    w: Array | None = None
    if status.is_solved and plan.has_coverage:
        w, status = _weights(plan, x[ids], None if weights is None else weights[ids], ids)
    if not status.is_solved:
        return _without_distribution(status)
    x, w = x[ids], np.zeros(ids.size) if w is None else w
    log_p = model_log_probs_of(x, plan.temperature)
    given = plan.anchor == "given"
    log_r = log_softmax(np.maximum(anchor[ids], FLOOR)) if given and anchor is not None else log_p
    on = select(plan.supports, x, plan.temperature)
    for chain in plan.chains:
        on &= select_chain(chain, x, plan.temperature)
    if not on.any():
        return _without_distribution(Status.INFEASIBLE)
    l, shift = _linear(plan, x[on])  # noqa: E741
    face = FaceRow(
        x=x[on],
        l=l,
        log_p=log_p[on],
        log_r=log_r[on],
        w=w[on],
        budget=plan.budget if budget is None else budget,
    )
    found = optimum(plan, face)
    if found is None:
        return _without_distribution(Status.INFEASIBLE)
    scalars = _scalars(plan, face, found, shift)
    kept = np.ones(face.x.size, dtype=bool) if found.kept is None else found.kept
    # A divergence from an anchor that underflows may be too large for a float at every distribution.
    accurate = found.accurate and np.isfinite(scalars[:2]).all()
    status = Status.OK if accurate else Status.REDUCED_ACCURACY
    return SolvedRow(ids[on][kept], found.log_q[kept], scalars, found.iterations, status)


def _without_distribution(status: Status) -> SolvedRow:
    return SolvedRow(np.empty(0, dtype=np.intp), np.empty(0), (float("nan"),) * 6, 0, status)


def _allowed(plan: Plan, x: Array, mask: Flags | None, anchor: Array | None) -> tuple[npt.NDArray[np.intp], Status]:
    """Return the allowed token ids and what forbids a solution, checked in the order of the status codes."""
    keep = np.ones(x.size, dtype=bool)
    if plan.allowed is not None:
        keep[:] = False
        keep[list(plan.allowed)] = True
    if mask is not None:
        keep &= mask
    log_r = None
    if plan.anchor == "given":
        if anchor is None:
            raise ValueError("this plan's anchor is 'given': pass anchor log-probabilities")
        log_r = anchor
        keep &= log_r != -np.inf
    keep &= x != -np.inf
    ids = keep.nonzero()[0]
    if np.isnan(x[ids]).any():
        return ids, Status.NAN_SCORES
    if np.isinf(x[ids]).any():
        return ids, Status.INF_SCORES
    if log_r is not None and not np.isfinite(log_r[ids]).all():
        return ids, Status.BAD_ANCHOR
    return ids, Status.OK if ids.size else Status.INFEASIBLE


def _weights(plan: Plan, x: Array, given: Array | None, ids: npt.NDArray[np.intp]) -> tuple[Array, Status]:
    """Return the coverage weights of the allowed tokens."""
    w = _named_weights(plan, x, ids) if given is None else given
    return w, Status.OK if (np.isfinite(w) & (w >= 0.0)).all() else Status.BAD_WEIGHTS


def _named_weights(plan: Plan, x: Array, ids: npt.NDArray[np.intp]) -> Array:
    if plan.weights == "model":
        return np.exp(model_log_probs_of(x, plan.temperature))
    if plan.weights == "uniform":
        return np.ones(x.size)
    if plan.weights == "rank":
        w = np.empty(x.size)
        w[descending(x)] = 1.0 / np.arange(1, x.size + 1)
        return w
    if plan.weights == "support":
        return select(plan.weight_supports, x, plan.temperature).astype(np.float64)
    values = plan.weight_array()
    if plan.weights != "array" or values is None:
        raise ValueError(f"unknown coverage weights {plan.weights!r}")
    return np.asarray(values, dtype=np.float64)[ids]


def _linear(plan: Plan, x: Array) -> tuple[Array, float]:
    """Return the linear term less its largest value, and that value."""
    if plan.score_weight == 0.0:
        return np.zeros(x.size), 0.0
    best = float(x.max() if plan.score_weight > 0.0 else x.min())
    t = 1.0 if plan.raw_scores else plan.temperature
    return np.maximum(plan.score_weight * ((x - best) / t), FLOOR), plan.score_weight * (best / t)


def _scalars(plan: Plan, face: FaceRow, found: Found, shift: float) -> Scalars:
    """Return threshold, objective, entropy, kl, kept mass and multiplier."""
    log_q = found.log_q
    q = np.exp(log_q)
    reference = face.log_p if plan.anchor == "none" else face.log_r
    return (
        found.threshold + shift,
        dot(q, face.l) - found.omega + shift,
        0.0 - dot(q, log_q),
        dot(q, log_q - reference),
        float(np.exp(face.log_p[log_q > -np.inf]).sum()),
        found.multiplier,
    )


# ------------------------------------------------------------------------------------------------------------ arrays


def _batch(
    logits: npt.NDArray[np.generic],
    dtype: str,
    mask: npt.NDArray[np.generic] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: npt.NDArray[np.uint32] | None,
) -> Batch:
    widened = _widen(logits, dtype)
    flags = None if mask is None else _mask_flags(mask, widened.shape[1])
    return Batch(widened, flags, anchor, weights, budget)


def _widen(logits: npt.NDArray[np.generic], dtype: str) -> Array:
    """Return the logits as float64, exactly."""
    if dtype == "bf16":
        return (logits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "f16":
        return logits.view(np.float16).astype(np.float64)
    return logits.astype(np.float64)


def _mask_flags(mask: npt.NDArray[np.generic], size: int) -> Flags:
    """Return a bool or bit-packed mask as bool (rows, size); tokens past a packed mask are forbidden."""
    if mask.dtype == np.bool_:
        return mask.astype(np.bool_)
    words = np.ascontiguousarray(mask, dtype="<u4")
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :size].astype(np.bool_)
    return np.pad(bits, ((0, 0), (0, size - bits.shape[1])))
