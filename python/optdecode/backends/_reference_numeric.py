"""What the solvers of the reference backend share: their input and output, and bracketed root finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from optdecode.backends._reference_supports import Array, Flags, log_softmax

if TYPE_CHECKING:
    from optdecode._plan import Plan


@dataclass(frozen=True)
class FaceRow:
    """One row on its face, tokens in ascending order.

    Attributes
    ----------
    x : ndarray
        Logits as given.
    l : ndarray
        Linear term minus its largest value, so that ``l.max() == 0``.
    log_p, log_r : ndarray
        Model distribution and reference, over all allowed tokens (not renormalised on the face).
    w : ndarray
        Coverage weights.
    budget : int
        K.
    """

    x: Array
    l: Array  # noqa: E741  # the notation of the formulas
    log_p: Array
    log_r: Array
    w: Array
    budget: int


@dataclass(frozen=True)
class Found:
    """The optimum: log q, the dual threshold (of the shifted scores), Omega(q), iterations, multiplier of Omega.

    ``kept``: the tokens that a solver kept of those it was given; None is all. ``accurate``: whether a tolerance was
    met.
    """

    log_q: Array
    threshold: float
    omega: float
    iterations: int = 0
    multiplier: float = 1.0
    kept: Flags | None = None
    accurate: bool = True


#: None where no distribution satisfies the constraints.
Solver = Callable[["Plan", FaceRow], "Found | None"]


# ---------------------------------------------------------------------------------------------------------- helpers


def dot(q: Array, values: Array) -> float:
    """Return the sum of q * values with 0 * inf = 0."""
    on = q > 0.0
    return float((q[on] * values[on]).sum())


def log1mexp(u: Array) -> Array:
    """Return log(1 - exp(u)) for u <= 0 without cancellation at either end."""
    with np.errstate(divide="ignore"):
        near = np.log(-np.expm1(np.maximum(u, -1.0)))
        return np.asarray(np.where(u > -np.log(2.0), near, np.log1p(-np.exp(u))))


def find_roots(
    f: Callable[[Array, npt.NDArray[np.intp]], Array], low: Array, high: Array, nearest: float = 1e-300
) -> tuple[Array, int]:
    """Solve f = 0 in each coordinate's bracket by Chandrupatla's method (bisection or inverse quadratic steps).

    ``f(x, i)`` gives the values at x of the coordinates i. Where rounding hides the sign change, the end with the
    smaller value is the root. Returns the roots, within ``nearest`` or two units in the last place, and the number of
    rounds.
    """
    i = np.arange(low.size)
    a, b = high.astype(np.float64), low.astype(np.float64)
    fa, fb = f(a, i), f(b, i)
    roots = np.where(np.abs(fa) < np.abs(fb), a, b)
    live = (np.sign(fa) * np.sign(fb) < 0.0) & (a != b)
    i, a, b, fa, fb = i[live], a[live], b[live], fa[live], fb[live]
    t = np.full(i.size, 0.5)
    rounds = 0
    while i.size and rounds < 300:
        rounds += 1
        x = a + t * (b - a)
        fx = f(x, i)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        roots[i] = best
        # Half of the smallest step that still moves the iterate, relative to the bracket.
        limit = (2.0 * np.finfo(np.float64).eps * np.abs(best) + nearest) / np.maximum(np.abs(b - a), 1e-300)
        live = (limit < 0.5) & (fa != 0.0)
        i, a, b, c, limit = i[live], a[live], b[live], c[live], limit[live]
        fa, fb, fc = fa[live], fb[live], fc[live]
        with np.errstate(all="ignore"):  # steps that divide by zero are discarded below
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            quadratic = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            usable = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi) & np.isfinite(quadratic)
        t = np.clip(np.where(usable, quadratic, 0.5), limit, 1.0 - limit)
    return roots, rounds


def find_root(f: Callable[[float], float], low: float, high: float, nearest: float = 1e-300) -> tuple[float, int]:
    """Scalar form of `find_roots`."""

    def each(x: Array, i: npt.NDArray[np.intp]) -> Array:
        return np.array([f(float(v)) for v in x])

    roots, rounds = find_roots(each, np.array([low]), np.array([high]), nearest)
    return float(roots[0]), rounds


def vertex(size: int, at: int) -> Array:
    """Return the log-probabilities of a point mass."""
    log_q = np.full(size, -np.inf)
    log_q[at] = 0.0
    return log_q


def positive_log(q: Array) -> Array:
    """Return log q with log 0 = -inf, normalised."""
    with np.errstate(divide="ignore"):
        return log_softmax(np.log(q))
