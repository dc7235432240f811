r"""Regularizers: the convex :math:`\Omega` of :math:`\max_q \langle q, s\rangle - \Omega(q)`.

Each class names one function of a distribution q; scalar multiples, sums and differences build the rest. What a decoder
can solve is decided where a problem is lowered to a plan (`optdecode._plan`), not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._spec import Spec, finite, in_range, one_of, positive_int
from optdecode.errors import ProblemError
from optdecode.supports import Support

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A regularizer as a sum: (coefficient, elementary regularizer) pairs.
Terms = tuple[tuple[float, "Regularizer"], ...]

_ANCHORS = ("model", "given")
_NAMED_WEIGHTS = ("model", "uniform", "rank")


class Regularizer(Spec):
    """Base of the regularizers; ``0.5 * a + b - 0.1 * c`` combines them."""

    def terms(self) -> Terms:
        """The sum this regularizer is."""
        return ((1.0, self),)

    def formula(self) -> str:
        """The function of q, in symbols."""
        raise NotImplementedError

    def __mul__(self, factor: object) -> Regularizer:
        if isinstance(factor, Spec):
            return NotImplemented
        scale = finite("scalar * regularizer", "the scalar", factor)
        return combine(tuple((scale * coefficient, term) for coefficient, term in self.terms()))

    __rmul__ = __mul__

    def __neg__(self) -> Regularizer:
        return -1.0 * self

    def __add__(self, other: object) -> Regularizer:
        if not isinstance(other, Regularizer):
            return NotImplemented
        return combine(self.terms() + other.terms())

    def __sub__(self, other: object) -> Regularizer:
        if not isinstance(other, Regularizer):
            return NotImplemented
        return self + (-1.0) * other


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


@dataclass(frozen=True, repr=False)
class Quadratic(Regularizer):
    r"""Half the squared norm, :math:`\tfrac12 \sum_i q_i^2`; its optimum is sparsemax (arXiv:1602.02068)."""

    def formula(self) -> str:
        return "(1/2) sum q^2"


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


@dataclass(frozen=True, repr=False)
class KL(Regularizer):
    r"""Relative entropy :math:`\sum_i q_i \log(q_i / r_i)` to an anchor r.

    Parameters
    ----------
    anchor : {"model", "given"}
        r = p, the model distribution; or log-probabilities passed to each call as ``anchor=``, renormalised over the
        allowed tokens (−inf forbids a token).
    """

    anchor: str = "model"

    def __post_init__(self) -> None:
        one_of("KL", "anchor", self.anchor, _ANCHORS)

    def formula(self) -> str:
        return "KL(q || p)" if self.anchor == "model" else "KL(q || anchor)"


@dataclass(frozen=True, repr=False)
class Weights(Spec):
    """One non-negative weight a token, for `Coverage`.

    Parameters
    ----------
    values : array_like of float, shape (V,)
        Copied; two objects are equal when their float64 bytes are.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            array = np.array(self.values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ProblemError(f"weights must be numbers, one a token; got {self.values!r}") from error
        if array.ndim != 1 or array.size == 0:
            raise ProblemError(f"weights must have shape (V,) with V >= 1; got {array.shape}")
        bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
        if bad.size:
            raise ProblemError(f"weights must be finite and >= 0; token {bad[0]} has {array[bad[0]]}")
        array += 0.0  # -0.0 and 0.0 are the same weight
        array.flags.writeable = False
        object.__setattr__(self, "values", tuple(array.tolist()))
        object.__setattr__(self, "_array", array)

    def array(self) -> NDArray[Any]:
        """The weights, shape (V,), float64, read-only."""
        array: NDArray[Any] = self._array  # type: ignore[attr-defined]  # set in __post_init__
        return array

    def __hash__(self) -> int:
        return hash(self.array().tobytes())


@dataclass(frozen=True, repr=False)
class Coverage(Regularizer):
    r"""Expected weight covered by K i.i.d. draws, :math:`U_K(q) = \sum_i w_i (1 - (1 - q_i)^K)` (arXiv:2602.18292).

    Concave, so it is subtracted: ``lam * KL("model") - beta_bar * Coverage(8)`` is the Best-of-K regularizer.

    Parameters
    ----------
    budget : int
        K, at least 1.
    weights : {"model", "uniform", "rank"} or Support or array_like of shape (V,)
        w = p; w = 1; w = 1 / rank in top-k's order; the indicator of a support; or given weights.
    """

    budget: int
    weights: str | Support | Weights = "model"

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", positive_int("Coverage", "budget", self.budget))
        weights = self.weights
        if isinstance(weights, str):
            one_of("Coverage", "weights (as a string)", weights, _NAMED_WEIGHTS)
        elif not isinstance(weights, (Support, Weights)):
            object.__setattr__(self, "weights", Weights(weights))

    def formula(self) -> str:
        name = {"model": "p", "uniform": "1", "rank": "1/rank"}.get(str(self.weights))
        if name is None:
            name = "w" if isinstance(self.weights, Weights) else f"[{self.weights!r}]"
        return f"sum {name} (1 - (1 - q)^{self.budget})"


@dataclass(frozen=True, repr=False)
class Combination(Regularizer):
    """What sums and scalar multiples make; equal whatever the order it was written in.

    Parameters
    ----------
    parts : tuple of (float, Regularizer)
        Coefficients and elementary regularizers. Equal ones are merged, zero coefficients dropped.
    """

    parts: tuple[tuple[float, Regularizer], ...]

    def __post_init__(self) -> None:
        merged: dict[Regularizer, float] = {}
        for part in self.parts:
            if not (isinstance(part, tuple) and len(part) == 2 and isinstance(part[1], Regularizer)):
                raise ProblemError(f"Combination: parts must be (coefficient, regularizer) pairs; got {part!r}")
            scale = finite("Combination", "a coefficient", part[0])
            for coefficient, term in part[1].terms():
                merged[term] = merged.get(term, 0.0) + scale * coefficient
        kept = [(coefficient, term) for term, coefficient in merged.items() if coefficient != 0.0]
        object.__setattr__(self, "parts", tuple(sorted(kept, key=lambda part: (part[0] < 0, repr(part[1])))))

    def terms(self) -> Terms:
        return self.parts

    def formula(self) -> str:
        return _signed_sum([(coefficient, term.formula()) for coefficient, term in self.parts], spell="{:g} [{}]")

    def __repr__(self) -> str:
        return _signed_sum([(coefficient, repr(term)) for coefficient, term in self.parts], spell="{!r} * {}")


def _signed_sum(parts: list[tuple[float, str]], spell: str) -> str:
    if not parts:
        return "0.0 * NegEntropy()"
    text = ""
    for position, (coefficient, name) in enumerate(parts):
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} " if position else ("-" if coefficient < 0 else "")
        text += name if abs(coefficient) == 1.0 and position else spell.format(abs(coefficient), name)
    return text


def combine(parts: Terms) -> Regularizer:
    """Return the sum of the parts; a single part of coefficient 1 is returned as it is."""
    combination = Combination(parts)
    if len(combination.parts) == 1 and combination.parts[0][0] == 1.0:
        return combination.parts[0][1]
    return combination
