r"""Divergences :math:`\sum_i r_i f(q_i / r_i)` of q from an anchor r."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._spec import in_range, one_of
from optdecode.regularizers.base import Context, Regularizer
from optdecode.regularizers.entropies import logarithm, times

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANCHORS = ("model", "given")


class _Anchored(Regularizer):
    """A divergence with the choice of its anchor."""

    anchor: str

    def __post_init__(self) -> None:
        one_of(type(self).__name__, "anchor", self.anchor, _ANCHORS)

    @property
    def _anchor_name(self) -> str:
        return "p" if self.anchor == "model" else "anchor"

    def _log_ratio(self, q: Any, ctx: Context) -> NDArray[Any]:
        """Return log(q / r) on the allowed tokens, 0 elsewhere."""
        return np.where(ctx.allowed, logarithm(q) - np.where(ctx.allowed, self._log_r(ctx), 0.0), 0.0)

    def _log_r(self, ctx: Context) -> NDArray[Any]:
        return ctx.log_p if self.anchor == "model" else ctx.log_anchor


@dataclass(frozen=True, repr=False)
class KL(_Anchored):
    r"""Relative entropy :math:`\sum_i q_i \log(q_i / r_i)` to an anchor r.

    Parameters
    ----------
    anchor : {"model", "given"}
        r = p, the model distribution; or log-probabilities passed to each call as ``anchor=``, renormalised over the
        allowed tokens (−inf forbids a token).
    """

    anchor: str = "model"

    def formula(self) -> str:
        return f"KL(q || {self._anchor_name})"

    def value(self, q: Any, ctx: Context) -> Any:
        return times(q, self._log_ratio(q, ctx)).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        return self._log_ratio(q, ctx) + 1.0


class _AlphaFamily(_Anchored):
    r"""The f-divergence of :math:`f(t) = (t^\alpha - \alpha t + \alpha - 1) / (\alpha (\alpha - 1))`."""

    @property
    def order(self) -> float:
        """The alpha of the family."""
        raise NotImplementedError

    def value(self, q: Any, ctx: Context) -> Any:
        a, log_t = self.order, self._log_ratio(q, ctx)
        r = np.where(ctx.allowed, np.exp(self._log_r(ctx)), 0.0)
        if a == 1.0:
            return (times(q, log_t) - q + r).sum(axis=-1)
        if a == 0.0:
            return (times(r, -log_t) + q - r).sum(axis=-1)
        # r t^alpha is r + r expm1(alpha log t), and q + q expm1((alpha - 1) log t). Neither cancels near t = 1, nor
        # the first near alpha = 0, nor the second near alpha = 1. Far from t = 1, r may underflow where it does not.
        base, exponent = (q, (a - 1.0) * log_t) if a > 0.5 else (r, a * log_t)
        with np.errstate(over="ignore"):
            near = times(base, np.expm1(exponent))
            far = np.exp(np.where(ctx.allowed, self._log_r(ctx) + a * log_t, -np.inf)) - base
        power = np.where(np.abs(exponent) < 1.0, near, far)
        if a > 0.5:
            return ((power / (a - 1.0) - (q - r)) / a).sum(axis=-1)
        return ((power / a - (q - r)) / (a - 1.0)).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        a, log_t = self.order, self._log_ratio(q, ctx)
        return log_t if a == 1.0 else np.expm1((a - 1.0) * log_t) / (a - 1.0)


@dataclass(frozen=True, repr=False)
class ChiSquare(_AlphaFamily):
    r"""Half of Pearson's divergence, :math:`\tfrac12 \sum_i (q_i - r_i)^2 / r_i`; its optimum is sparse.

    The optimum is :math:`r_i [1 + (s_i - \eta) / \lambda]_+`: the anchor, reweighted by the clipped scores.

    Parameters
    ----------
    anchor : {"model", "given"}
        r, as for `KL`.
    """

    anchor: str = "model"

    @property
    def order(self) -> float:
        return 2.0

    def formula(self) -> str:
        name = self._anchor_name
        return f"(1/2) sum (q - {name})^2 / {name}"


@dataclass(frozen=True, repr=False)
class ReverseKL(_AlphaFamily):
    r"""Relative entropy of the anchor from q, :math:`\sum_i r_i \log(r_i / q_i) + q_i - r_i`; keeps every token.

    Parameters
    ----------
    anchor : {"model", "given"}
        r, as for `KL`.
    """

    anchor: str = "model"

    @property
    def order(self) -> float:
        return 0.0

    def formula(self) -> str:
        return f"KL({self._anchor_name} || q)"


@dataclass(frozen=True, repr=False)
class AlphaDivergence(_AlphaFamily):
    r"""Power divergences :math:`\sum_i r_i (t_i^\alpha - \alpha t_i + \alpha - 1) / (\alpha (\alpha - 1))`, t = q / r.

    Cressie and Read's family (doi:10.1111/j.2517-6161.1984.tb01318.x). 2 is `ChiSquare`, 1 is `KL`, 0 `ReverseKL`, and
    1/2 is four times the squared Hellinger distance :math:`\tfrac12 \sum (\sqrt{q} - \sqrt{r})^2`. Above 1 the optimum
    is sparse.

    Parameters
    ----------
    alpha : float
        In [-16, 16].
    anchor : {"model", "given"}
        r, as for `KL`.
    """

    alpha: float
    anchor: str = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", in_range("AlphaDivergence", "alpha", self.alpha, -16.0, 16.0))

    @property
    def order(self) -> float:
        return self.alpha

    def formula(self) -> str:
        return f"D_{self.alpha:g}(q || {self._anchor_name})"
