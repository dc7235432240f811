"""The support rules of the reference backend: each one line of NumPy on the allowed tokens of one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Shifted scores and log-probabilities below this count as this: a zero in any case, and differences stay finite.
FLOOR = -1e200

#: (rule, parameter, measured on raw logits).
Rule = tuple[str, float, bool]


def log_sum_exp(values: Array) -> float:
    """Return log(sum(exp(values))) without overflow; -inf for values that are all -inf."""
    top = float(values.max())
    return top if np.isinf(top) else top + float(np.log(np.exp(values - top).sum()))


def log_softmax(values: Array) -> Array:
    """Return values - log_sum_exp(values), shifted first so that a large common offset costs no accuracy."""
    shifted = values - values.max()
    return np.asarray(shifted - log_sum_exp(shifted))


def model_log_probs(x: Array, temperature: float) -> Array:
    """Return log softmax(x / temperature), not below FLOOR; shifted before it is scaled."""
    return log_softmax(np.maximum((x - x.max()) / temperature, FLOOR))


def descending(x: Array) -> npt.NDArray[np.intp]:
    """Return the positions by (value descending, position ascending)."""
    return np.argsort(-x, kind="stable")


def select(rules: Sequence[Rule], x: Array, temperature: float) -> Flags:
    """Return which of the allowed tokens every rule keeps.

    Parameters
    ----------
    rules : sequence of (rule, parameter, raw)
        Measured each on all of `x`, then intersected.
    x : ndarray of float64
        The logits of the allowed tokens in ascending token order.
    temperature : float
        That of the model distribution; a raw rule takes 1 in its place.

    Returns
    -------
    ndarray of bool
        Aligned with `x`.
    """
    keep = np.ones(x.size, dtype=bool)
    for name, value, raw in rules:
        keep &= _RULES[name](x, 1.0 if raw else temperature, value)
    return keep


def select_chain(chain: Sequence[Rule], x: Array, temperature: float) -> Flags:
    """Return which of the allowed tokens are left when each rule is measured on what the one before it left."""
    left = np.arange(x.size)
    for rule in chain:
        left = left[select([rule], x[left], temperature)]
    keep = np.zeros(x.size, dtype=bool)
    keep[left] = True
    return keep


def _prob(x: Array, t: float) -> Array:
    return np.exp(model_log_probs(x, t))


def _below_best(x: Array) -> Array:
    """Return x - max x in units of its range: of order 1, be the logits 1e308 or denormal."""
    half = 1.0 if np.isfinite(x.max() - x.min()) else 0.5
    below = half * x - half * x.max()
    return np.asarray(below / max(-float(below.min()), 5e-324))


def _and_best(keep: Flags, x: Array) -> Flags:
    keep[np.argmax(x)] = True  # the first of the largest: the best token in (score, id) order
    return keep


def _top_k(x: Array, t: float, k: float) -> Flags:
    keep = np.zeros(x.size, dtype=bool)
    keep[descending(x)[: int(min(k, x.size))]] = True
    return keep


def _top_p(x: Array, t: float, mass: float) -> Flags:
    keep = np.ones(x.size, dtype=bool)
    if mass < 1.0:
        order = descending(x)
        before = np.cumsum(_prob(x, t)[order])
        keep[order[int(np.searchsorted(before, mass)) + 1 :]] = False
    return keep


def _min_p(x: Array, t: float, rho: float) -> Flags:
    return np.asarray(x >= x.max() + t * np.log(rho)) if rho > 0.0 else np.ones(x.size, dtype=bool)


def _top_n_sigma(x: Array, t: float, n: float) -> Flags:
    below = _below_best(x)
    return np.asarray(below >= -n * np.std(below))


def _p_less(x: Array, t: float, unused: float) -> Flags:
    p = _prob(x, t)
    return _and_best(np.asarray(p >= (1.0 - 1e-6) * (p * p).sum()), x)


def _epsilon(x: Array, t: float, eps: float) -> Flags:
    return _and_best(np.asarray(_prob(x, t) >= eps), x)


def _eta(x: Array, t: float, eps: float) -> Flags:
    p = _prob(x, t)
    entropy = -float((p[p > 0.0] * np.log(p[p > 0.0])).sum())
    return _and_best(np.asarray(p >= min(eps, np.sqrt(eps) * np.exp(-entropy))), x)


def _typical(x: Array, t: float, mass: float) -> Flags:
    keep = np.ones(x.size, dtype=bool)
    if mass < 1.0:
        # -ln p - H(p) = (mean under p of the scores) - score: without the normaliser, which hides small differences.
        p, below = _prob(x, t), _below_best(x)
        distance = np.abs(below - float((p * below).sum()))
        order = np.lexsort((np.arange(x.size), -x, distance))
        keep[order[int(np.searchsorted(np.cumsum(p[order]), mass)) + 1 :]] = False
    return keep


def _top_h(x: Array, t: float, alpha: float) -> Flags:
    keep = np.ones(x.size, dtype=bool)
    if alpha < 1.0:
        order = descending(x)
        # Relative to the best token. With a the sum of the others, ln(1 + a) keeps its digits however small a is.
        ratio = _prob(x, t)[order] / _prob(x, t)[order[0]]
        others = np.cumsum(np.concatenate(([0.0], ratio[1:])))
        bits = np.cumsum(ratio * -np.log(np.where(ratio > 0.0, ratio, 1.0)))
        entropy = np.log1p(others) + bits / (1.0 + others)
        kept = (entropy <= alpha * entropy[-1] * (1.0 + 1e-12)) & (ratio > 0.0)
        keep[order[max(int(np.argmin(np.append(kept, False))), 1) :]] = False
    return keep


_RULES: dict[str, Callable[[Array, float, float], Flags]] = {
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "top_n_sigma": _top_n_sigma,
    "p_less": _p_less,
    "epsilon": _epsilon,
    "eta": _eta,
    "typical": _typical,
    "top_h": _top_h,
}
