"""What all regularizers share: their algebra, and the form of their value and gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._spec import Spec, finite
from optdecode.errors import ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A regularizer as a sum: (coefficient, elementary regularizer) pairs.
Terms = tuple[tuple[float, "Regularizer"], ...]


@dataclass(frozen=True, eq=False)
class Context:
    """What a regularizer may look at besides q; every array is batched as q is.

    Attributes
    ----------
    scores : float64 array, shape (B, V)
        Logits over the temperature; −inf where a token is forbidden.
    log_p : float64 array, shape (B, V)
        Log-probabilities of the model distribution, over the allowed tokens; −inf on the others.
    log_anchor : float64 array, shape (B, V)
        Log-probabilities passed as ``anchor=``, renormalised over the allowed tokens; `log_p` if none were passed.
    allowed : bool array, shape (B, V)
        Tokens that may have probability: neither masked, nor off the support.
    rows : int64 array, shape (B,)
        Where each row was in the batch of the call.
    weights : float64 array, shape (B, V), optional
        Coverage weights of the call; None leaves them to `Coverage`.
    budget : int64 array, shape (B,), optional
        Coverage budgets of the call.
    """

    scores: NDArray[Any]
    log_p: NDArray[Any]
    log_anchor: NDArray[Any]
    allowed: NDArray[Any]
    rows: NDArray[Any]
    weights: NDArray[Any] | None = None
    budget: NDArray[Any] | None = None


class Regularizer(Spec):
    """Base of the regularizers; ``0.5 * a + b - 0.1 * c`` combines them.

    A subclass names one convex function of q by its `value` and its `gradient`.
    """

    def terms(self) -> Terms:
        """The sum this regularizer is."""
        return ((1.0, self),)

    def formula(self) -> str:
        """The function of q, in symbols."""
        return f"{type(self).__name__}(q)"

    def value(self, q: Any, ctx: Context) -> Any:
        """Return the function at q.

        Parameters
        ----------
        q : float64 array, shape (B, V)
            Distributions; 0 on tokens that are not allowed.
        ctx : Context
            The rows' scores and model distributions.

        Returns
        -------
        float64 array, shape (B,)
        """
        raise NotImplementedError(f"{type(self).__name__} has no value(q, ctx)")

    def gradient(self, q: Any, ctx: Context) -> Any:
        """Return the partial derivatives at q; what they are on tokens that are not allowed has no effect.

        Parameters
        ----------
        q, ctx
            As for `value`.

        Returns
        -------
        float64 array, shape (B, V)
        """
        raise NotImplementedError(f"{type(self).__name__} has no gradient(q, ctx)")

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

    def value(self, q: Any, ctx: Context) -> Any:
        return np.sum([coefficient * term.value(q, ctx) for coefficient, term in self.parts], axis=0)

    def gradient(self, q: Any, ctx: Context) -> Any:
        return np.sum([coefficient * term.gradient(q, ctx) for coefficient, term in self.parts], axis=0)

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
