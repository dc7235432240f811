"""Regularizers and supports as a user would write them, in NumPy and in torch; shared by their tests.

``Own*`` say again what built-in ones say, so that exact solvers can be compared; others are inventions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import optdecode as od


def _log(q):
    with np.errstate(divide="ignore"):
        return np.log(q)


@dataclass(frozen=True)
class OwnEntropy(od.Regularizer):
    def value(self, q, ctx):
        return np.where(q > 0, q * _log(q), 0.0).sum(axis=-1)

    def gradient(self, q, ctx):
        return _log(q) + 1.0


@dataclass(frozen=True)
class OwnQuadratic(od.Regularizer):
    def value(self, q, ctx):
        return 0.5 * (q * q).sum(axis=-1)

    def gradient(self, q, ctx):
        return q.copy()


@dataclass(frozen=True)
class OwnTsallis(od.Regularizer):
    alpha: float

    def value(self, q, ctx):
        return ((q**self.alpha - q) / (self.alpha * (self.alpha - 1.0))).sum(axis=-1)

    def gradient(self, q, ctx):
        return (self.alpha * q ** (self.alpha - 1.0) - 1.0) / (self.alpha * (self.alpha - 1.0))


@dataclass(frozen=True)
class OwnKL(od.Regularizer):
    def value(self, q, ctx):
        return np.where(q > 0, q * (_log(q) - np.where(ctx.allowed, ctx.log_anchor, 0.0)), 0.0).sum(axis=-1)

    def gradient(self, q, ctx):
        return _log(q) - ctx.log_anchor + 1.0


@dataclass(frozen=True)
class OwnCoverage(od.Regularizer):
    """Minus the coverage of K draws, weights p: convex."""

    budget: int

    def value(self, q, ctx):
        return (np.exp(ctx.log_p) * (np.maximum(1.0 - q, 0.0) ** self.budget - 1.0) * ctx.allowed).sum(axis=-1)

    def gradient(self, q, ctx):
        return -self.budget * np.exp(ctx.log_p) * np.maximum(1.0 - q, 0.0) ** (self.budget - 1)


@dataclass(frozen=True)
class DualEntropy(OwnEntropy):
    def gradient_inverse(self, t, ctx):
        return np.exp(np.minimum(t - 1.0, 0.0))


@dataclass(frozen=True)
class DualQuadratic(OwnQuadratic):
    def gradient_inverse(self, t, ctx):
        return np.clip(t, 0.0, 1.0)


@dataclass(frozen=True)
class DualTsallis(OwnTsallis):
    def gradient_inverse(self, t, ctx):
        base = (t * self.alpha * (self.alpha - 1.0) + 1.0) / self.alpha
        return np.clip(np.maximum(base, 0.0) ** (1.0 / (self.alpha - 1.0)), 0.0, 1.0)


@dataclass(frozen=True)
class Linear(od.Regularizer):
    """A price a unit of mass: flat, so that its dual jumps."""

    def value(self, q, ctx):
        return 0.25 * q.sum(axis=-1)

    def gradient(self, q, ctx):
        return np.full(q.shape, 0.25)

    def gradient_inverse(self, t, ctx):
        return (t > 0.25).astype(float)


@dataclass(frozen=True)
class TorchEntropy(od.Regularizer):
    """Without a gradient: automatic."""

    framework = "torch"

    def value(self, q, ctx):
        import torch

        return torch.special.xlogy(q, q).sum(dim=-1)


@dataclass(frozen=True)
class TorchQuadratic(od.Regularizer):
    framework = "torch"

    def value(self, q, ctx):
        return 0.5 * (q * q).sum(dim=-1)

    def gradient(self, q, ctx):
        return q


@dataclass(frozen=True)
class GroupBalance(od.Regularizer):
    """Half the squared deviation of group masses from targets; token i is in group i % len(targets)."""

    targets: tuple[float, ...]

    def _off(self, q):
        groups = len(self.targets)
        padded = np.pad(q, ((0, 0), (0, -q.shape[1] % groups)))
        return padded.reshape(q.shape[0], -1, groups).sum(axis=1) - np.array(self.targets)

    def value(self, q, ctx):
        return 0.5 * (self._off(q) ** 2).sum(axis=-1)

    def gradient(self, q, ctx):
        return self._off(q)[:, np.arange(q.shape[1]) % len(self.targets)]


@dataclass(frozen=True)
class Repetition(od.Regularizer):
    """Half the squared mass of each recent token."""

    recent: tuple[int, ...]

    def value(self, q, ctx):
        return 0.5 * (q[:, list(self.recent)] ** 2).sum(axis=-1)

    def gradient(self, q, ctx):
        gradient = np.zeros(q.shape)
        gradient[:, list(self.recent)] = q[:, list(self.recent)]
        return gradient


@dataclass(frozen=True)
class Broken(OwnQuadratic):
    """`OwnQuadratic`, wrong in one way on the rows of the batch that are named."""

    fault: str
    rows: tuple[int, ...] = ()

    def _here(self, ctx):
        return np.isin(ctx.rows, self.rows) if self.rows else np.ones(ctx.rows.shape, dtype=bool)

    def value(self, q, ctx):
        here, value = self._here(ctx), super().value(q, ctx)
        if self.fault == "raises" and here.any():
            raise KeyError("no such group")
        if self.fault == "shape" and here.any():
            return value.sum()
        if self.fault == "dtype" and here.any():
            return value.astype(np.float32)
        if self.fault == "nan value":
            return np.where(here, np.nan, value)
        if self.fault == "concave":
            return np.where(here, -40.0 * value, value)
        if self.fault == "mixed" and here.any():
            return value + 0.1 * value.mean()
        return value

    def gradient(self, q, ctx):
        here, gradient = self._here(ctx)[:, None], super().gradient(q, ctx)
        if self.fault == "gradient":
            return np.where(here, 2.0 * gradient, gradient)
        if self.fault == "sign":
            return np.where(here, -gradient, gradient)
        if self.fault == "nan gradient":
            gradient[:, 3] = np.where(here[:, 0], np.nan, gradient[:, 3])
        if self.fault == "concave":
            return np.where(here, -40.0 * gradient, gradient)
        if self.fault == "in place":
            q *= 2.0
        return gradient


@dataclass(frozen=True)
class BrokenInverse(OwnQuadratic):
    """An inverse of another function."""

    def gradient_inverse(self, t, ctx):
        return np.clip(0.5 * t, 0.0, 1.0)


@dataclass(frozen=True)
class Even(od.Support):
    def keep(self, ctx):
        return np.broadcast_to(np.arange(ctx.log_p.shape[-1]) % 2 == 0, ctx.log_p.shape)


@dataclass(frozen=True)
class Above(od.Support):
    """Tokens of at least so much probability: `Epsilon` without its exception for the best."""

    least: float

    def keep(self, ctx):
        return ctx.log_p >= np.log(self.least)


@dataclass(frozen=True)
class TorchAbove(od.Support):
    least: float
    framework = "torch"

    def keep(self, ctx):
        return ctx.log_p.exp() >= self.least
