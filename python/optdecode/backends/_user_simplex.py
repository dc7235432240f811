"""The capped simplex on a face, batched: projection in the geometry of mirror ascent, and the best vertex.

Distributions are kept as log q. On the face log q stays above FLOOR, so that q is never 0 there and an entropy's
gradient stays finite; off the face it is OFF, whose exponential is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FLOOR = -690.0  # q = 1e-300
OFF = -1e4


def project(log_w: Array, face: Flags, cap: float) -> Array:
    """Return log of the distribution that is nearest to weights w in relative entropy, KL(q || w), with q <= cap.

    Parameters
    ----------
    log_w : ndarray, shape (B, V)
        Logarithms of weights, of any size; what is off the face has no effect.
    face : ndarray of bool, shape (B, V)
        At least 1 / cap tokens a row.
    cap : float
        Largest probability of a token.

    Returns
    -------
    ndarray, shape (B, V)
        q is ``min(cap, t w)`` with the t that makes it sum to 1.
    """
    log_w = np.where(face, log_w, -np.inf)
    log_w = log_w - log_w.max(axis=1, keepdims=True)
    log_q = log_w - np.log(np.exp(log_w).sum(axis=1, keepdims=True))
    if cap < 1.0:
        log_q = _capped(log_q, cap)
    return np.asarray(np.where(face, np.maximum(log_q, FLOOR), OFF))


def _capped(log_w: Array, cap: float) -> Array:
    """Cap the k largest, for the smallest k that leaves the others, scaled to the rest of the mass, below the cap."""
    order = np.argsort(-log_w, axis=1, kind="stable")
    ordered = np.take_along_axis(log_w, order, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Only ratios of neighbours count, and those beyond exp(800) are all the same: without them nothing is rounded.
        drops = np.clip(np.nan_to_num(-np.diff(ordered, axis=1)), 0.0, 800.0)
        ordered = np.concatenate([np.zeros((log_w.shape[0], 1)), -np.cumsum(drops, axis=1)], axis=1)
        # log of the sum of what is not capped, for k = 0, 1, ...: from the small end, so nothing is lost to the large
        rest = np.logaddexp.accumulate(ordered[:, ::-1], axis=1)[:, ::-1]
        left = 1.0 - cap * np.arange(log_w.shape[1])
        log_left = np.log(np.maximum(left, 0.0))
    fits = ((ordered - rest) + log_left <= np.log(cap) + 1e-12) | (left <= cap * 1e-12)
    k = np.argmax(fits, axis=1)[:, None]  # some k fits: the caller has seen to n cap >= 1
    scaled = np.minimum((ordered - np.take_along_axis(rest, k, axis=1)) + log_left[k], np.log(cap))
    log_q = np.empty_like(log_w)
    np.put_along_axis(log_q, order, np.where(np.arange(log_w.shape[1]) < k, np.log(cap), scaled), axis=1)
    return log_q


def best_value(gain: Array, face: Flags, cap: float) -> Array:
    """Return the largest ``<y, gain>`` over distributions y on the face with y <= cap, shape (B,)."""
    gain = np.where(face, gain, -np.inf)
    if cap == 1.0:
        return np.asarray(gain.max(axis=1))
    filled, order = fill(gain, face, cap)
    ordered = np.take_along_axis(gain, order, axis=1)
    return np.asarray((filled * np.where(filled > 0.0, ordered, 0.0)).sum(axis=1))


def best_vertex(gain: Array, face: Flags, cap: float) -> Array:
    """Return such a y, shape (B, V): the best tokens by (gain descending, id ascending), each filled to the cap."""
    filled, order = fill(np.where(face, gain, -np.inf), face, cap)
    vertex = np.zeros_like(gain)
    np.put_along_axis(vertex, order, filled, axis=1)
    return vertex


def fill(gain: Array, face: Flags, cap: float) -> tuple[Array, npt.NDArray[np.intp]]:
    """Return probabilities in the order of gain, and that order, both of shape (B, V)."""
    order = np.argsort(-gain, axis=1, kind="stable")
    share = np.clip(1.0 - cap * np.arange(gain.shape[1]), 0.0, cap)
    on_face = np.take_along_axis(face, order, axis=1)
    return np.where(on_face, share, 0.0), order
