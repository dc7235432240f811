"""What the solvers for code of the caller's own work on: rows of a problem, measured, and points with their gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode.backends._user_simplex import FLOOR, Array, Flags, best_value
from optdecode.regularizers import Context, Terms
from optdecode.regularizers.calls import Failures, evaluate


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise ``Omega(q) - <q, linear>`` on a face, for B rows.

    Attributes
    ----------
    terms : tuple of (float, Regularizer)
        Omega.
    cap : float
        Largest probability of a token.
    linear : ndarray, shape (B, V)
        Weighted scores, less their maximum over the face; 0 off the face.
    ctx : Context
        What terms may look at; ``ctx.allowed`` is the face.
    scale : ndarray, shape (B,)
        What a gap is measured against.
    failures : dict
        Gets the rows whose code fails; shared by all parts of a batch.
    zeros : ndarray of bool, shape (B, V), optional
        Tokens that a solver leaves at 0; a gap counts them in.
    """

    terms: Terms
    cap: float
    linear: Array
    ctx: Context
    scale: Array
    failures: Failures
    zeros: Flags | None = None

    @property
    def open(self) -> Flags:
        """Tokens of the face that a solver gives probability to, shape (B, V)."""
        return self.face if self.zeros is None else np.asarray(self.face & ~self.zeros)

    @property
    def face(self) -> Flags:
        """Tokens that may have probability, shape (B, V)."""
        return np.asarray(self.ctx.allowed)

    @property
    def count(self) -> int:
        """B."""
        return int(self.linear.shape[0])

    def take(self, index: npt.NDArray[Any]) -> Problem:
        """Some of the rows."""
        zeros = None if self.zeros is None else self.zeros[index]
        return replace(self, linear=self.linear[index], ctx=self.ctx.take(index), scale=self.scale[index], zeros=zeros)

    def has_failed(self) -> Flags:
        """Which rows are in `failures`, shape (B,)."""
        return np.array([int(row) in self.failures for row in self.ctx.rows], dtype=bool)

    def at(self, log_q: Array) -> Point:
        """Evaluate a distribution a row."""
        q = np.exp(log_q)
        found = evaluate(self.terms, q, self.ctx, self.failures)
        gradient = np.where(self.face, found.gradient - self.linear, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            value = found.value - (q * self.linear).sum(axis=1)
            gap = (q * gradient).sum(axis=1) + best_value(-gradient, self.face, self.cap)
        return Point(log_q, q, value, gradient, gap)


@dataclass(eq=False)
class Point:
    """One distribution a row, with value and gradient of the objective, and an upper bound on what could be gained."""

    log_q: Array
    q: Array
    value: Array
    gradient: Array
    gap: Array

    def take(self, index: npt.NDArray[Any]) -> Point:
        """Some of the rows."""
        return Point(self.log_q[index], self.q[index], self.value[index], self.gradient[index], self.gap[index])

    def put(self, index: npt.NDArray[Any], other: Point) -> None:
        """Overwrite some of the rows."""
        for name in ("log_q", "q", "value", "gradient", "gap"):
            getattr(self, name)[index] = getattr(other, name)

    def is_finite(self) -> Flags:
        """Which rows have a finite value and gradient."""
        return np.isfinite(self.value) & np.isfinite(self.gradient).all(axis=1)

    def free(self, face: Flags, cap: float) -> Flags:
        """Tokens that are neither at the cap nor at the floor."""
        return np.asarray(face & ~self.full(cap) & (self.log_q > FLOOR))

    def full(self, cap: float) -> Flags:
        """Tokens at the cap, of which there are none where it is 1: that q sums to 1 says as much."""
        return np.asarray((self.q >= cap * (1.0 - 1e-12)) & (cap < 1.0))

    def dual(self, face: Flags, cap: float) -> Array:
        """The common gradient of tokens that are free to move, weighed by their probabilities, shape (B,)."""
        weight = np.where(self.free(face, cap), self.q, 0.0)
        total = weight.sum(axis=1)
        mean = (weight * self.gradient).sum(axis=1) / np.where(total > 0.0, total, 1.0)
        # All at the cap: the dual lies anywhere between the gradients of what is full and of what is empty.
        full = np.where(face & self.full(cap), self.gradient, -np.inf).max(axis=1)
        return np.asarray(np.where(total > 0.0, mean, full))
