"""Entropies: convex functions of q alone, each the same for every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._spec import in_range
from optdecode.regularizers.base import Context, Regularizer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def logarithm(q: NDArray[Any]) -> NDArray[Any]:
    """Return log q, −inf at 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(q))


def times(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return a * b with 0 * inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where(a == 0.0, 0.0, a * b)


@dataclass(frozen=True, repr=False)
class NegEntropy(Regularizer):
    r"""Negative Shannon entropy :math:`\sum_i q_i \log q_i`; its optimum is softmax.

    Examples
    --------
    >>> 0.5 * NegEntropy()
    0.5 * NegEntropy()
    """

    def formula(self) -> str:
        return "sum q log q"

    def value(self, q: Any, ctx: Context) -> Any:
        return times(q, logarithm(q)).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        return logarithm(q) + 1.0


@dataclass(frozen=True, repr=False)
class Quadratic(Regularizer):
    r"""Half the squared norm, :math:`\tfrac12 \sum_i q_i^2`; its optimum is sparsemax (arXiv:1602.02068)."""

    def formula(self) -> str:
        return "(1/2) sum q^2"

    def value(self, q: Any, ctx: Context) -> Any:
        return 0.5 * (q * q).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        return q


@dataclass(frozen=True, repr=False)
class Tsallis(Regularizer):
    r"""Negative Tsallis entropy :math:`\sum_i (q_i^\alpha - q_i) / (\alpha(\alpha-1))`.

    Its optimum is :math:`\alpha`-entmax (arXiv:1905.05702).

    Parameters
    ----------
    alpha : float
        At least 1. 1 is `NegEntropy` (the limit), 2 is `Quadratic` up to a constant.
    """

    alpha: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", in_range("Tsallis", "alpha", self.alpha, 1.0))

    def formula(self) -> str:
        return f"sum (q^{self.alpha:g} - q) / {self.alpha * (self.alpha - 1):g}" if self.alpha > 1 else "sum q log q"

    def value(self, q: Any, ctx: Context) -> Any:
        if self.alpha == 1.0:
            return NegEntropy().value(q, ctx)
        # q^alpha - q = q (q^(alpha - 1) - 1): expm1 keeps alpha near 1 exact.
        power = np.expm1((self.alpha - 1.0) * logarithm(q))
        return times(q, power).sum(axis=-1) / (self.alpha * (self.alpha - 1.0))

    def gradient(self, q: Any, ctx: Context) -> Any:
        if self.alpha == 1.0:
            return NegEntropy().gradient(q, ctx)
        return np.expm1((self.alpha - 1.0) * logarithm(q)) / (self.alpha - 1.0) + 1.0 / self.alpha
