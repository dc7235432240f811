"""Best-of-K problems of every kind with their terms written out in NumPy; shared by the tests of Best-of-K.

Import as ``from coverage_problems import BestOfK, random_problem`` (the ``tests`` directory is on the path).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import optdecode as od

Array = npt.NDArray[np.float64]
WEIGHTS = ("model", "uniform", "rank", "support", "array", "per call")


def log_softmax(values: Array) -> Array:
    values = values - values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))


def total_variation(q: Any, other: Any) -> float:
    return float(0.5 * np.abs(np.asarray(q, dtype=np.float64) - other).sum())


@dataclass(frozen=True)
class BestOfK:
    """Max of ``w_s <q, s> - lam KL(q || r) + beta_bar sum w (1 - (1 - q)^K)``, as a user would state it."""

    x: Array
    budget: int = 8
    lam: float = 0.5
    beta_bar: float = 1.0
    weights: Any = "model"  # what the decoder takes
    per_call: bool = False  # weights go to the call
    anchor: Array | None = None
    score_weight: float = 1.0
    temperature: float = 1.0
    scores: str = "tempered"

    @property
    def log_p(self) -> Array:
        return log_softmax(self.x / self.temperature)

    @property
    def log_r(self) -> Array:
        return self.log_p if self.anchor is None else log_softmax(self.anchor)

    @property
    def linear(self) -> Array:
        return self.score_weight * self.x / (1.0 if self.scores == "raw" else self.temperature)

    @property
    def w(self) -> Array:
        if isinstance(self.weights, od.TopK):
            return (self._rank() <= self.weights.k).astype(float)
        named = {"model": np.exp(self.log_p), "uniform": np.ones(self.x.size), "rank": 1.0 / self._rank()}
        return named[self.weights] if isinstance(self.weights, str) else np.asarray(self.weights)

    def _rank(self) -> Array:
        rank = np.empty(self.x.size)
        rank[np.lexsort((np.arange(self.x.size), -self.x))] = np.arange(1, self.x.size + 1)
        return rank

    @property
    def smoothness(self) -> float:
        """L, from the maximum over q of K (K-1) q (1-q)^(K-2), found on a grid of q."""
        if self.budget == 1:
            return self.lam
        q = np.append(np.linspace(0.0, 1.0, 100_001)[:-1], 1.0 / (self.budget - 1))
        bend = self.budget * (self.budget - 1) * q * (1.0 - q) ** (self.budget - 2)
        return self.lam + self.beta_bar * float(self.w.max()) * max(float(bend.max()), 2.0 * (self.budget == 2))

    def slope(self, log_q: Array) -> Array:
        """The gradient of the objective."""
        with np.errstate(under="ignore"):
            missed = (1.0 - np.exp(log_q)) ** (self.budget - 1)
        return self.linear - self.lam * (log_q - self.log_r + 1.0) + self.beta_bar * self.budget * self.w * missed

    def value(self, log_q: Array) -> float:
        q = np.exp(log_q)
        with np.errstate(under="ignore"):
            covered = -np.expm1(self.budget * np.log1p(-np.minimum(q, 1.0 - 1e-16)))
        kl = np.where(q > 0.0, q * (np.maximum(log_q, -1e4) - self.log_r), 0.0)
        return float(q @ self.linear - self.lam * kl.sum() + self.beta_bar * self.w @ covered)

    def ascend(self, steps: int, eta: float) -> Array:
        """Algorithm 1 as printed, in log space."""
        log_q = self.log_r
        for _ in range(steps):
            log_q = log_softmax(log_q + eta * self.slope(log_q))
        return log_q

    def decoder(self, solver: od.MirrorAscent | None = None) -> od.Decoder:
        return od.best_of_k(
            self.budget,
            beta_bar=self.beta_bar,
            lam=self.lam,
            weights="model" if self.per_call else self.weights,
            score_weight=self.score_weight,
            temperature=self.temperature,
            anchor="model" if self.anchor is None else "given",
            scores=self.scores,
            solver=solver,
        )

    def solve(self, solver: od.MirrorAscent | None = None, **arguments: Any) -> od.Solution:
        given = {"weights": self.weights if self.per_call else None, "anchor": self.anchor}
        return self.decoder(solver)(self.x, **given, **arguments)

    def but(self, **changes: Any) -> BestOfK:
        return replace(self, **changes)


def random_problem(seed: int, weights: str | None = None, budget: int | None = None) -> BestOfK:
    """One of the whole range: V up to 60, lam in [1e-2, 10], beta_bar in [1e-3, 100], every kind of the rest."""
    rng = np.random.default_rng([seed, 2602])
    size = int(rng.integers(1, 61))
    kind = weights or str(rng.choice(WEIGHTS))
    given = {"support": od.TopK(int(rng.integers(1, size + 1)))}
    if kind in ("array", "per call"):
        given[kind] = rng.uniform(0.0, 2.0, size) * (rng.random(size) < 0.7)
    return BestOfK(
        x=rng.normal(0.0, rng.choice([0.3, 2.0, 5.0]), size),
        budget=budget or int(rng.choice([1, 2, 3, 8, 64])),
        lam=10.0 ** rng.uniform(-2.0, 1.0),
        beta_bar=10.0 ** rng.uniform(-3.0, 2.0),
        weights=given.get(kind, kind),
        per_call=kind == "per call",
        anchor=rng.normal(0.0, 2.0, size) if rng.random() < 0.3 else None,
        score_weight=float(rng.choice([1.0, 1.0, 0.0, 0.4, -0.7, 3.0])),
        temperature=float(rng.choice([1.0, 0.5, 1.7])),
        scores=str(rng.choice(["tempered", "raw"])),
    )
