"""What all regularizers share: their algebra, and the form of their value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from optdecode._spec import Spec, check_usable, finite
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

    def each(self, change: Callable[[Any], Any]) -> Context:
        """Return a context with every array changed by a function."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if array is None else change(array) for name, array in arrays.items()}
        return Context(**changed)

    def take(self, index: NDArray[Any]) -> Context:
        """Return some of the rows."""
        return self.each(lambda array: array[index])


class Regularizer(Spec):
    """Base of the regularizers; ``0.5 * a + b - 0.1 * c`` combines them.

    A subclass names one convex function of q by its `value` and its `gradient`, in NumPy or in torch, and is a frozen
    dataclass. Subclass it to invent a decoder: mirror ascent solves it, sums with built-in regularizers included, and
    `optdecode.testing.check_regularizer` finds the usual mistakes.

    A function that is a sum over tokens may also have ``gradient_inverse(t, ctx)``, which returns the x in [0, 1] with
    partial derivative t (0 and 1 where there is none), for t of shape (B, V). Alone, such a regularizer is solved
    exactly.

    Attributes
    ----------
    framework : {"numpy", "torch"}
        What `value` and `gradient` are written in. ``"torch"``: q and the arrays of the context come as float64 CPU
        tensors, and a class without `gradient` has that of `value` by automatic differentiation.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, optdecode as od
    >>> @dataclass(frozen=True)
    ... class Crowding(od.Regularizer):
    ...     def value(self, q, ctx):
    ...         return (q**4).sum(axis=-1) / 4
    ...
    ...     def gradient(self, q, ctx):
    ...         return q**3
    >>> od.Decoder(od.Problem(5.0 * Crowding()))(np.array([0.3, 0.0, -9.0])).probs.round(3)
    array([0.54, 0.46, 0.  ])
    """

    framework: ClassVar[str] = "numpy"

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
            check_usable(part[1])
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
