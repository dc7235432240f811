"""The problem that a certificate is about, rebuilt from a plan and the inputs of a call, apart from any solver.

A new regularizer adds its entry in ``TERMS``, or in `_parts` if it is a term of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optdecode._certificate_terms import (
    Array,
    Coverage,
    HalfSquare,
    Logarithmic,
    LogCoverage,
    Part,
    PowerDivergence,
    RelativeEntropy,
    Sum,
    Term,
    Tsallis,
    Zero,
    times,
)

if TYPE_CHECKING:
    from optdecode import _plan
    from optdecode._plan import Plan

#: Shifted scores and log-probabilities below this count as this, so that their differences stay finite.
_FLOOR = -1e200


def chooses_face(plan: Plan) -> bool:
    """Return whether the face is part of the answer."""
    return plan.selects or plan.kind.value == "adaptive_k"


@dataclass(frozen=True)
class RowProblem:
    """The problem of one row on its face: token ids, linear term less its maximum (shift), regularizer, scale."""

    ids: npt.NDArray[np.intp]
    linear: Array
    shift: float
    term: Term
    log_cap: float
    scale: float
    target: Target | None


@dataclass(frozen=True)
class FaceData:
    """What regularizers are built from, on the face."""

    log_p: Array
    log_r: Array
    w: Array
    budget: int


@dataclass(frozen=True)
class Target:
    """A bound on the entropy or on the divergence from r, and its price if the regularizer is what it bounds."""

    kind: str
    bound: float
    log_r: Array
    price: float

    def slack(self, log_q: Array) -> float:
        """Return H(q) - h or eps - KL(q || r)."""
        q = np.exp(log_q)
        if self.kind == "entropy":
            return -float(times(q, log_q).sum()) - self.bound
        return self.bound - float(times(q, log_q - self.log_r).sum())


# ------------------------------------------------------------------------------------------------------- regularizers


def _coverage_term(plan: Plan, data: FaceData) -> Term:
    return Coverage(plan.lam, data.log_r, plan.beta_bar * data.w, data.budget)


def _entropy_term(plan: Plan, data: FaceData) -> Term:
    return RelativeEntropy(plan.lam, np.zeros_like(data.log_r))


def _sum_term(plan: Plan, data: FaceData) -> Term:
    return Sum((_logarithmic(plan.terms, data), *_parts(plan.terms, data)), _log_cap(plan, data.log_r.size))


def _base_term(plan: Plan, data: FaceData) -> Term:
    """Return the one term of a plan with a price a token, which is a constant on the face."""
    (term,) = plan.terms
    base = replace(plan, lam=term.coefficient, alpha=term.alpha)
    kinds = {"entropy": "softmax", "kl": "anchored_softmax", "quadratic": "threshold_quadratic"}
    return TERMS[kinds.get(term.kind, "threshold_tsallis")](base, data)


#: Plan kind → regularizer on the face.
TERMS: dict[str, Callable[[Plan, FaceData], Term]] = {
    "argmax": lambda plan, data: Zero(),
    "softmax": _entropy_term,
    "face_softmax": _entropy_term,
    "anchored_softmax": lambda plan, data: RelativeEntropy(plan.lam, data.log_r),
    "threshold_quadratic": lambda plan, data: HalfSquare(plan.lam),
    "threshold_tsallis": lambda plan, data: Tsallis(plan.lam, plan.alpha),
    "coverage_dual": _coverage_term,
    "coverage_waterfill": _coverage_term,
    "mirror": _coverage_term,
    "separable_dual": _sum_term,
    "greedy_fill": lambda plan, data: Zero(_log_cap(plan, data.log_r.size)),
    "adaptive_k": _base_term,
}


def _logarithmic(terms: Iterable[_plan.Term], data: FaceData) -> Logarithmic:
    """Return entropies and relative entropies in one, so that what one adds and another takes away cancels."""
    weight, tilt, constant = 0.0, np.zeros_like(data.log_r), np.zeros_like(data.log_r)
    for kind, c, alpha, anchor in terms:
        log_r = data.log_p if anchor == "model" else data.log_r
        if kind == "entropy":
            weight += c
        elif kind == "kl":
            weight, tilt = weight + c, tilt + c * log_r
        elif kind == "divergence" and alpha == 1.0:  # x log(x / r) - x + r
            weight, tilt, constant = weight + c, tilt + c * (log_r + 1.0), constant + c * np.exp(log_r)
    return Logarithmic(weight, tilt, constant)


def _parts(terms: Iterable[_plan.Term], data: FaceData) -> Iterable[Part]:
    """Yield the other terms of a sum."""
    for kind, c, alpha, anchor in terms:
        if kind == "quadratic":
            yield HalfSquare(c)
        elif kind == "tsallis":
            yield Tsallis(c, alpha)
        elif kind == "divergence" and alpha != 1.0:
            yield PowerDivergence(c, alpha, data.log_p if anchor == "model" else data.log_r)
        elif kind == "coverage":
            yield Coverage(0.0, data.log_r, c * data.w, data.budget)
        elif kind == "log_coverage":
            yield LogCoverage(c * data.w, data.budget)


def _log_cap(plan: Plan, size: int) -> float:
    """Return log of the cap; where it leaves one distribution, rounding does not exclude that."""
    return min(max(float(np.log(plan.cap)), -float(np.log(size))), 0.0)


# -------------------------------------------------------------------------------------------------------- measurement


def row_problem(
    plan: Plan,
    m: float,
    x: Array,
    face: npt.NDArray[np.bool_],
    mask: npt.NDArray[Any] | None,
    anchor: Array | None,
    weights: Array | None,
    budget: int | None,
) -> RowProblem:
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
    ids = np.flatnonzero(allowed & face if chooses_face(plan) else allowed)
    t, weight = 1.0 if plan.raw_scores else plan.temperature, plan.score_weight
    best = float(x[ids].max() if weight >= 0.0 else x[ids].min())
    linear = np.maximum(weight * ((x[ids] - best) / t), _FLOOR) if weight else np.zeros(ids.size)
    largest = float(np.nanmax(np.minimum(np.abs(weight * (x[ids] / t)), -_FLOOR)))
    coefficients = plan.lam + sum(abs(term.coefficient) for term in plan.terms)
    data = FaceData(log_p[ids], log_r[ids], w[ids], plan.budget if budget is None else budget)
    return RowProblem(
        ids,
        linear,
        weight * (best / t) if weight else 0.0,
        TERMS[plan.kind.value](_multiplied(plan, m), data) if m else Zero(_log_cap(plan, ids.size)),
        _log_cap(plan, ids.size),
        max(1.0, m * coefficients, largest),
        _target(plan, m, data),
    )


def _multiplied(plan: Plan, m: float) -> Plan:
    """Return the plan with its regularizer times m."""
    terms = tuple(term._replace(coefficient=m * term.coefficient) for term in plan.terms)
    return replace(plan, lam=m * plan.lam, beta_bar=m * plan.beta_bar, terms=terms)


def _target(plan: Plan, m: float, data: FaceData) -> Target | None:
    if plan.target is None:
        return None
    kind, bound = plan.target
    names = [(term.kind, term.alpha) for term in plan.terms]
    whole = {
        "entropy": plan.kind.value in ("softmax", "face_softmax") or names == [("entropy", 1.0)],
        "divergence": plan.kind.value == "anchored_softmax" or names in ([("kl", 1.0)], [("divergence", 1.0)]),
    }[kind]
    strength = plan.terms[0].coefficient if plan.terms else plan.lam
    return Target(kind, bound, data.log_r, m * strength if whole else 0.0)


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
        return indicator(plan.weight_supports, x, plan.temperature)
    p = np.exp(_normalised((x - x.max()) / plan.temperature))
    return p if plan.weights == "model" else 1.0 / (1.0 + _rank(x))


def _rank(x: Array) -> Array:
    """Return each token's place, from 0, by (value descending, index ascending)."""
    place = np.empty(x.size)
    place[np.lexsort((np.arange(x.size), -x))] = np.arange(x.size)
    return place


def indicator(rules: Iterable[tuple[str, float, bool]], x: Array, temperature: float) -> Array:
    """Return 1 where every rule keeps the token; all rules keep the best, but for the typical set."""
    keep = np.ones(x.size, dtype=bool)
    rank = _rank(x)
    for name, value, raw in rules:
        keep &= _keeps(name, value, x, 1.0 if raw else temperature, rank) | ((rank == 0) & (name != "typical"))
    return keep.astype(np.float64)


def _keeps(name: str, value: float, x: Array, t: float, rank: Array) -> npt.NDArray[np.bool_]:
    """Return one rule's condition, as it is written in the documentation."""
    p = np.exp(_normalised((x - x.max()) / t))
    if name == "top_k":
        return np.asarray(rank < value)
    if name == "top_p":
        return np.asarray((_ahead(p, rank) < value) | (value >= 1.0))
    if name == "typical":  # -ln p - H(p) is how far the score is below its mean, here in units of the range of scores
        score = (x - x.max()) / max(float(np.ptp(x)), 5e-324)
        distance = np.abs(score - float(times(p, score).sum()))
        nearness = np.lexsort((rank, distance)).argsort().astype(np.float64)
        return np.asarray((_ahead(p, nearness) < value) | (value >= 1.0))
    if name == "top_h":
        return np.asarray((_prefix_entropies(p, rank) <= value * float(-times(p, np.log(p)).sum())) | (value >= 1.0))
    if name == "min_p":
        return np.asarray(x >= x.max() + t * np.log(value))  # log 0 = -inf keeps all
    if name == "top_n_sigma":
        unit = max(float(np.ptp(x)), 5e-324)
        return np.asarray((x - x.max()) / unit >= -value * ((x - x.max()) / unit).std())
    cutoff = {
        "p_less": (1.0 - 1e-6) * float(p @ p),
        "epsilon": value,
        "eta": min(value, float(np.sqrt(value) * np.exp(times(p, np.log(p)).sum()))),
    }
    return np.asarray(p >= cutoff[name])


def _ahead(p: Array, rank: Array) -> Array:
    """Return the mass of the tokens that come before each in an order."""
    order = np.argsort(rank)
    ahead = np.empty(p.size)
    ahead[order] = np.concatenate(([0.0], np.cumsum(p[order])[:-1]))
    return ahead


def _prefix_entropies(p: Array, rank: Array) -> Array:
    """Return for each token the entropy of p renormalised on it and those before it."""
    order = np.argsort(rank)
    mass = np.cumsum(p[order])
    entropies = np.empty(p.size)
    entropies[order] = np.log(mass) - np.cumsum(times(p[order], np.log(p[order]))) / mass
    return entropies
