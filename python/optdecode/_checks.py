"""Checks of code that claims to be a convex function with its gradient.

A stationary point of a wrong gradient looks optimal to every gap, so value and gradient are held against each other:
for a convex f, ``<g(x), y - x> <= f(y) - f(x) <= <g(y), y - x>`` for all x and y. The outer two out of order disprove
concavity of the objective; the middle outside of them disproves the gradient, whatever the distance. Small steps make
the bounds tight.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode.regularizers import Context, Terms
from optdecode.regularizers.calls import Failure, Failures, evaluate

Array = npt.NDArray[np.float64]

#: Rounding of slopes and of values, relative to the sums that they are; and of what a value may be made of.
_SLOPE_NOISE, _VALUE_NOISE, _PART_NOISE = 1e-9, 1e-12, 1e-14
_STEPS = (1e-3, 1e-6)
_TOKENS_NAMED = 3


def between(
    values: tuple[Array, Array], gradients: tuple[Array, Array], move: Array, rows: npt.NDArray[Any],
    failures: Failures, name: str,
) -> None:  # fmt: skip
    """Check the inequality between two points a row of the whole objective, of which only convexity is known.

    Parameters
    ----------
    values : pair of ndarray, shape (B,)
        Of a function that is to be convex.
    gradients : pair of ndarray, shape (B, V)
        Finite.
    move : ndarray, shape (B, V)
        The second point less the first.
    rows : ndarray of int, shape (B,)
        Their names.
    failures : dict
        Gets the rows that fail.
    name : str
        What the function is made of.
    """
    slopes, slack = _slopes(gradients, move)
    change = values[1] - values[0]
    noise = slack + _noise_of(*values, np.abs(gradients[0]).max(axis=1, initial=0.0))
    falls = slopes[1] - slopes[0] < -slack
    off = ~falls & ((change < slopes[0] - noise) | (change > slopes[1] + noise))
    for b in np.flatnonzero(falls):
        reason = (
            f"{name} is not convex: on {_direction(move[b])} its slope falls from {slopes[0][b]:.9g} to "
            f"{slopes[1][b]:.9g}"
        )
        failures.setdefault(int(rows[b]), Failure(reason))
    for b in np.flatnonzero(off):
        failures.setdefault(int(rows[b]), _mismatch(name, move[b], change[b], slopes[0][b], slopes[1][b], 1.0))


def around(terms: Terms, q: Array, ctx: Context, targets: tuple[Array, ...], failures: Failures) -> None:
    """Hold each term's gradient at q against finite differences of its value.

    Parameters
    ----------
    terms : tuple of (float, Regularizer)
        Each is checked for itself.
    q : ndarray, shape (B, V)
        Distributions on the face, ``ctx.allowed``.
    ctx : Context
        Of these rows.
    targets : tuple of ndarray, shape (B, V)
        Distributions towards which q is moved, besides a relative change of every token.
    failures : dict
        Gets the rows that fail.
    """
    moves = [(h, _relative_move(q)) for h in _STEPS] + [(_STEPS[0], target - q) for target in targets]
    for _, term in terms:
        one = ((1.0, term),)
        here = evaluate(one, q, ctx, failures)
        for h, direction in moves:
            moved = q + h * direction
            there = evaluate(one, moved, ctx, failures)
            # The move is what rounding left of it: next to a large probability that may be little.
            slopes, slack = _slopes((here.gradient, there.gradient), (moved - q) / h)
            change = (there.value - here.value) / h
            parts = (q * np.where(q > 0.0, np.abs(here.gradient), 0.0)).sum(axis=1)
            noise = slack + _noise_of(here.value, there.value, parts) / h
            low, high = np.minimum(*slopes) - noise, np.maximum(*slopes) + noise
            for b in np.flatnonzero(np.isfinite(change + low + high) & ((change < low) | (change > high))):
                failure = _mismatch(repr(term), direction[b], change[b], slopes[0][b], slopes[1][b], h)
                failures.setdefault(int(ctx.rows[b]), failure)


def near(q: Array) -> Array:
    """Return distributions so close to q that a function's curvature at q shows in its slopes."""
    return np.asarray(q + 0.02 * _relative_move(q))


def _noise_of(first: Array, second: Array, parts: Array) -> Array:
    """Return what rounding may do to a difference of values."""
    return np.asarray(_VALUE_NOISE * (np.abs(first) + np.abs(second)) + _PART_NOISE * (1.0 + parts))


def uniform_on(face: npt.NDArray[np.bool_]) -> Array:
    """Return the uniform distribution on each face."""
    return np.asarray(face / np.maximum(face.sum(axis=1, keepdims=True), 1))


def scattered_on(face: npt.NDArray[np.bool_]) -> Array:
    """Return a distribution on each face that treats no two tokens alike, the same whatever the row."""
    weights = np.where(face, 1.0 + _noise(face.shape[1]), 0.0) ** 2 + 1e-3 * face
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300))


@lru_cache(maxsize=4)
def _noise(size: int) -> Array:
    noise = np.random.default_rng(0x0D).uniform(-1.0, 1.0, size)
    noise.flags.writeable = False
    return noise


def _relative_move(q: Array) -> Array:
    """Return a direction that changes every token in proportion to its probability, and sums to 0."""
    noise = np.broadcast_to(_noise(q.shape[1]), q.shape)
    return np.asarray(0.5 * q * (noise - (q * noise).sum(axis=1, keepdims=True)))


def _slopes(gradients: tuple[Array, Array], move: Array) -> tuple[tuple[Array, Array], Array]:
    with np.errstate(invalid="ignore", over="ignore"):
        first, second = (np.where(move != 0.0, gradient * move, 0.0) for gradient in gradients)
        noise = _SLOPE_NOISE * (np.abs(first) + np.abs(second)).sum(axis=1)
    return (first.sum(axis=1), second.sum(axis=1)), np.asarray(noise)


def _direction(move: Array) -> str:
    """Name the tokens that lose most and gain most."""
    order = np.argsort(move, kind="stable")
    lose = [int(i) for i in order[:_TOKENS_NAMED] if move[i] < 0.0]
    gain = [int(i) for i in order[::-1][:_TOKENS_NAMED] if move[i] > 0.0]
    return f"the way from tokens {lose} to tokens {gain}"


def _mismatch(name: str, move: Array, change: float, first: float, second: float, step: float) -> Failure:
    predicted = f"{first:.9g}" if step < 1.0 else f"between {first:.9g} and {second:.9g}"
    kind = "slope" if step < 1.0 else "change"
    return Failure(
        f"the gradient of {name} is not that of its value: on {_direction(move)} the value has {kind} {change:.9g}, "
        f"and the gradient says {predicted}"
    )
