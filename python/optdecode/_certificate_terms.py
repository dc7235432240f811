r"""What certificates know of regularizers: value, gradient and conjugate of each on the tokens of a face.

The conjugate is :math:`\varphi^*_i(t) = \max_{0 \le x \le c} t x - \varphi_i(x)`. Closed forms where there are some,
with c = 1; `Sum` takes any convex sum of terms, and a cap, and bisects. Nothing here is shared with a solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Term(Protocol):
    """A separable regularizer on a face, aligned with its tokens."""

    def value(self, log_q: Array) -> Array:
        """Return phi_i(q_i)."""

    def gradient(self, log_q: Array) -> Array:
        """Return phi_i'(q_i); at log q = -inf the one-sided limit."""

    def conjugate(self, t: Array) -> Array:
        """Return max over 0 <= x <= cap of t_i x - phi_i(x), or an upper bound that is tight to rounding."""


@dataclass(frozen=True)
class Zero:
    """No regularizer, 0 <= x <= cap."""

    log_cap: float = 0.0

    def value(self, log_q: Array) -> Array:
        return np.zeros_like(log_q)

    def gradient(self, log_q: Array) -> Array:
        return np.zeros_like(log_q)

    def conjugate(self, t: Array) -> Array:
        return np.asarray(np.exp(self.log_cap) * np.maximum(t, 0.0))


@dataclass(frozen=True)
class RelativeEntropy:
    """Lam x log(x / r); r = 1 is negative entropy."""

    lam: float
    log_r: Array

    def value(self, log_q: Array) -> Array:
        return self.lam * times(np.exp(log_q), log_q - self.log_r)

    def gradient(self, log_q: Array) -> Array:
        return self.lam * (log_q - self.log_r + 1.0)

    def conjugate(self, t: Array) -> Array:
        log_x = self.log_r + t / self.lam - 1.0  # where the derivative vanishes
        return np.asarray(np.where(log_x < 0.0, self.lam * np.exp(log_x), t + self.lam * self.log_r))


@dataclass(frozen=True)
class HalfSquare:
    """Lam x^2 / 2."""

    lam: float

    def value(self, log_q: Array) -> Array:
        return 0.5 * self.lam * np.exp(2.0 * log_q)

    def gradient(self, log_q: Array) -> Array:
        return self.lam * np.exp(log_q)

    def conjugate(self, t: Array) -> Array:
        x = np.clip(t / self.lam, 0.0, 1.0)
        return np.asarray(times(x, t - 0.5 * self.lam * x))


@dataclass(frozen=True)
class Tsallis:
    """Lam (x^alpha - x) / (alpha (alpha - 1))."""

    lam: float
    alpha: float

    @property
    def _unit(self) -> float:
        return self.lam / (self.alpha * (self.alpha - 1.0))

    def value(self, log_q: Array) -> Array:
        # x^alpha - x = x (x^(alpha - 1) - 1): expm1 keeps alpha near 1 exact.
        return self._unit * times(np.exp(log_q), np.expm1((self.alpha - 1.0) * log_q))

    def gradient(self, log_q: Array) -> Array:
        return self._unit * (self.alpha * np.expm1((self.alpha - 1.0) * log_q) + (self.alpha - 1.0))

    def conjugate(self, t: Array) -> Array:
        # alpha x^(alpha - 1) = 1 + t / unit at the stationary point.
        excess = (t / self._unit - (self.alpha - 1.0)) / self.alpha
        log_x = np.clip(np.log1p(np.maximum(excess, -1.0)) / (self.alpha - 1.0), -np.inf, 0.0)
        return np.asarray(times(np.exp(log_x), t - self._unit * np.expm1((self.alpha - 1.0) * log_x)))


@dataclass(frozen=True)
class Coverage:
    """Lam x log(x / r) - beta_bar w (1 - (1 - x)^K)."""

    lam: float
    log_r: Array
    worth: Array  # beta_bar w
    budget: int

    def _covered(self, log_q: Array) -> Array:
        return np.asarray(-self.worth * np.expm1(self.budget * log1mexp(log_q)))

    def _slope(self, log_q: Array) -> Array:
        if self.budget == 1:
            return self.worth
        return np.asarray(self.worth * self.budget * np.exp((self.budget - 1) * log1mexp(log_q)))

    def value(self, log_q: Array) -> Array:
        kl = RelativeEntropy(self.lam, self.log_r).value(log_q) if self.lam else 0.0
        return np.asarray(kl - self._covered(log_q))

    def gradient(self, log_q: Array) -> Array:
        kl = RelativeEntropy(self.lam, self.log_r).gradient(log_q) if self.lam else 0.0
        return np.asarray(kl - self._slope(log_q))

    def conjugate(self, t: Array) -> Array:
        first_draw = self.worth * self.budget
        if self.lam == 0.0:
            return self._sparse_conjugate(t, first_draw)
        # 1 - (1 - x)^K <= K x: exact at K = 1, and near enough where x is tiny, which is nearly everywhere.
        bound = RelativeEntropy(self.lam, self.log_r).conjugate(t + first_draw)
        log_x = np.minimum(self.log_r + (t + first_draw) / self.lam - 1.0, 0.0)
        slack = 0.5 * first_draw * (self.budget - 1) * np.exp(2.0 * log_x)
        (rest,) = (slack > 1e-20).nonzero()
        if rest.size:
            part = Coverage(self.lam, self.log_r[rest], self.worth[rest], self.budget)
            bound[rest] = np.minimum(bound[rest], part._bracketed_conjugate(t[rest]))
        return bound

    def _sparse_conjugate(self, t: Array, first_draw: Array) -> Array:
        if self.budget == 1:
            return np.maximum(t + first_draw, 0.0)
        # (1 - x)^(K - 1) = -t / (K beta_bar w) at the stationary point.
        log_miss = np.where(t < 0.0, np.log(np.maximum(-t, 0.0)) - np.log(first_draw), -np.inf) / (self.budget - 1)
        log_miss = np.minimum(log_miss, 0.0)
        return np.asarray(times(-np.expm1(log_miss), t) - self.worth * np.expm1(self.budget * log_miss))

    def _bracketed_conjugate(self, t: Array) -> Array:
        """Bisect the derivative in u = log x; concavity bounds the maximum by value + derivative * width."""

        def derivative(u: Array) -> Array:
            return t - self.lam * (u - self.log_r + 1.0) + self._slope(u)

        low = np.minimum(self.log_r + t / self.lam - 1.0, 0.0)
        high = np.minimum(low + self.worth * self.budget / self.lam, 0.0)
        for step in range(1, 161):
            middle = 0.5 * (low + high)
            rising = derivative(middle) >= 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
            if step % 16 == 0:
                slack = np.maximum(derivative(low), 0.0) * (np.exp(high) - np.exp(low))
                if float(slack.sum()) <= 1e-15 * (1.0 + self.lam):
                    break
        value = times(np.exp(low), t - self.lam * (low - self.log_r)) + self._covered(low)
        return np.asarray(value + np.maximum(derivative(low), 0.0) * (np.exp(high) - np.exp(low)))


# --------------------------------------------------------------------------------------------------------------- sums


class Part(Protocol):
    """A term of a sum: what `Sum` needs of it. Its coefficient is part of it, and may be negative."""

    def value(self, log_q: Array) -> Array:
        """Return phi_i(q_i)."""

    def gradient(self, log_q: Array) -> Array:
        """Return phi_i'(q_i); at log q = -inf the one-sided limit."""


@dataclass(frozen=True)
class Logarithmic:
    """Weight x log x - tilt x + constant: entropies and relative entropies together, which may cancel."""

    weight: float
    tilt: Array
    constant: Array

    def value(self, log_q: Array) -> Array:
        q = np.exp(log_q)
        return np.asarray(self.weight * times(q, log_q) - times(q, self.tilt) + self.constant)

    def gradient(self, log_q: Array) -> Array:
        return np.asarray((self.weight * (log_q + 1.0) if self.weight else 0.0) - self.tilt)


@dataclass(frozen=True)
class PowerDivergence:
    """Lam r f(x / r), f(t) = (t^alpha - alpha t + alpha - 1) / (alpha (alpha - 1)) or -log t + t - 1 at alpha = 0."""

    lam: float
    alpha: float
    log_r: Array

    def value(self, log_q: Array) -> Array:
        q, r, log_t = np.exp(log_q), np.exp(self.log_r), log_q - self.log_r
        if self.alpha == 0.0:
            return np.asarray(self.lam * (times(r, -log_t) + (q - r)))
        # r t^alpha - q is exact as alpha -> 1, r t^alpha - r as alpha -> 0; far from t = 1 neither q nor r is a factor.
        base, e = (q, (self.alpha - 1.0) * log_t) if self.alpha > 0.5 else (r, self.alpha * log_t)
        power = np.where(np.abs(e) < 1.0, times(base, np.expm1(e)), np.exp(self.log_r + self.alpha * log_t) - base)
        if self.alpha > 0.5:
            return np.asarray(self.lam * (power / (self.alpha - 1.0) - (q - r)) / self.alpha)
        return np.asarray(self.lam * (power / self.alpha - (q - r)) / (self.alpha - 1.0))

    def gradient(self, log_q: Array) -> Array:
        return self.lam * np.expm1((self.alpha - 1.0) * (log_q - self.log_r)) / (self.alpha - 1.0)

    def log_slope(self, log_q: Array) -> Array:
        """Return log |gradient| where that is too large for a float."""
        return (self.alpha - 1.0) * (log_q - self.log_r)


@dataclass(frozen=True)
class LogCoverage:
    """Minus worth log(1 - (1 - x)^K)."""

    worth: Array
    budget: int

    def _log_hit(self, log_q: Array) -> Array:
        near = log1mexp(self.budget * log1mexp(log_q))
        return np.asarray(np.where(log_q < -60.0, np.log(self.budget) + log_q, near))

    def value(self, log_q: Array) -> Array:
        return -times(self.worth, self._log_hit(log_q))

    def gradient(self, log_q: Array) -> Array:
        others: Any = (self.budget - 1) * log1mexp(log_q) if self.budget > 1 else 0.0
        return -times(self.worth, np.exp(np.log(self.budget) + others - self._log_hit(log_q)))

    def log_slope(self, log_q: Array) -> Array:
        """Return log |gradient| where that is too large for a float."""
        return np.asarray(np.where(self.worth > 0.0, -log_q, -np.inf))


@dataclass(frozen=True)
class Sum:
    """A convex sum of terms on 0 <= x <= cap."""

    parts: tuple[Part, ...]
    log_cap: float = 0.0

    def value(self, log_q: Array) -> Array:
        total: Array = np.sum([part.value(log_q) for part in self.parts], axis=0)
        return total

    def gradient(self, log_q: Array) -> Array:
        total: Array = np.sum([part.gradient(log_q) for part in self.parts], axis=0)
        unclear = np.isnan(total)  # +inf and -inf: anchors that differ by more than a float can say
        if unclear.any():
            total[unclear] = _steepest(self.parts, log_q)[unclear]
        return total

    def conjugate(self, t: Array) -> Array:
        top = np.full(t.size, self.log_cap)
        bound = t * np.exp(top) - self.value(top)
        falling = t < self.gradient(top)
        empty = np.full(t.size, -np.inf)
        at_zero = falling & (t <= self.gradient(empty))
        bound[at_zero] = -self.value(empty)[at_zero]
        (i,) = (falling & ~at_zero).nonzero()
        if i.size:
            bound[i] = Sum(tuple(only(part, i) for part in self.parts), self.log_cap)._bracketed_conjugate(t[i])
        return np.asarray(bound)

    def _bracketed_conjugate(self, t: Array) -> Array:
        """Bisect the derivative in u = log x; concavity bounds the maximum by value + derivative * width.

        A maximum below e^-1024, which is 0, is bounded by the tangent at that point.
        """
        low, high = np.full(t.size, -1024.0), np.full(t.size, self.log_cap)
        slack = np.full(t.size, np.inf)
        for step in range(1, 201):
            middle = 0.5 * (low + high)
            rising = t - self.gradient(middle) >= 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
            if step % 8 == 0:
                slack = times(np.exp(high) - np.exp(low), np.maximum(t - self.gradient(low), 0.0))
                if float(slack.sum()) <= 1e-16:
                    break
        return np.asarray(times(np.exp(low), t) - self.value(low) + slack)


def _steepest(parts: Sequence[Any], log_q: Array) -> Array:
    """Return the infinite gradient that outgrows the others."""
    growths = [part.log_slope(log_q) if hasattr(part, "log_slope") else np.full(log_q.size, -np.inf) for part in parts]
    winner = np.argmax(growths, axis=0)
    gradients = np.array([part.gradient(log_q) for part in parts])
    return np.asarray(np.take_along_axis(gradients, winner[None], axis=0)[0])


def only(part: Any, i: npt.NDArray[np.intp]) -> Any:
    """Return a term on some of its tokens."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: value[i] for name, value in values.items() if isinstance(value, np.ndarray)})


# ------------------------------------------------------------------------------------------------------------ helpers


def times(a: Array, b: Array) -> Array:
    """Return a * b with 0 * inf = 0."""
    return np.asarray(np.where(a == 0.0, 0.0, a * b))


def log1mexp(u: Array) -> Array:
    """Return log(1 - exp(u)) for u <= 0 (values above, which are rounding, count as 0)."""
    u = np.minimum(u, 0.0)
    return np.asarray(np.where(u > -0.6931, np.log(-np.expm1(np.maximum(u, -1.0))), np.log1p(-np.exp(u))))
