"""Coverage: what K draws from q hit, in expectation. Concave in q, so these terms are subtracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._spec import Spec, one_of, positive_int
from optdecode.errors import ProblemError
from optdecode.regularizers.base import Context, Regularizer
from optdecode.regularizers.entropies import times
from optdecode.supports import Support

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMED_WEIGHTS = ("model", "uniform", "rank")


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


class _Covering(Regularizer):
    """A concave function of the probabilities that K draws hit each token."""

    budget: int
    weights: str | Support | Weights

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "budget", positive_int(owner, "budget", self.budget))
        weights = self.weights
        if isinstance(weights, str):
            one_of(owner, "weights (as a string)", weights, _NAMED_WEIGHTS)
        elif not isinstance(weights, (Support, Weights)):
            object.__setattr__(self, "weights", Weights(weights))

    @property
    def _weight_name(self) -> str:
        if isinstance(self.weights, str):
            return {"model": "p", "uniform": "1", "rank": "1/rank"}[self.weights]
        return "w" if isinstance(self.weights, Weights) else f"[{self.weights!r}]"

    def _measured(self, ctx: Context) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return w, shape (B, V), 0 on tokens that are not allowed, and K, shape (B, 1)."""
        shape = ctx.log_p.shape
        if ctx.weights is not None:
            w = ctx.weights
        elif isinstance(self.weights, Weights):
            w = np.broadcast_to(self.weights.array(), shape)
        elif self.weights == "model":
            w = np.exp(ctx.log_p)
        elif self.weights == "uniform":
            w = np.ones(shape)
        elif self.weights == "rank":
            order = np.argsort(-ctx.log_p, axis=-1, kind="stable")
            w = np.empty(shape)
            np.put_along_axis(w, order, np.broadcast_to(1.0 / np.arange(1, shape[-1] + 1), shape), axis=-1)
        else:
            raise ProblemError(f"{self!r}: which tokens a support keeps is measured by a solver: pass ctx.weights")
        budget = np.full(shape[:1], self.budget) if ctx.budget is None else ctx.budget
        return np.where(ctx.allowed, w, 0.0), np.asarray(budget, dtype=np.float64)[:, None]


def _log_miss(q: Any) -> NDArray[Any]:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-np.clip(q, 0.0, 1.0)))


@dataclass(frozen=True, repr=False)
class Coverage(_Covering):
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

    def formula(self) -> str:
        return f"sum {self._weight_name} (1 - (1 - q)^{self.budget})"

    def value(self, q: Any, ctx: Context) -> Any:
        w, k = self._measured(ctx)
        return (w * -np.expm1(k * _log_miss(q))).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        w, k = self._measured(ctx)
        return w * k * np.exp(times(k - 1.0, _log_miss(q)))


@dataclass(frozen=True, repr=False)
class LogCoverage(_Covering):
    r"""Log-probability that K i.i.d. draws hit a token, weighted: :math:`\sum_i w_i \log(1 - (1 - q_i)^K)`.

    A proportional-fair form of `Coverage`, this library's own and experimental: every token of positive weight keeps
    some probability, since a token that no draw can hit costs infinitely much. Concave, so it is subtracted.

    Parameters
    ----------
    budget, weights
        As for `Coverage`.
    """

    budget: int
    weights: str | Support | Weights = "model"

    def formula(self) -> str:
        return f"sum {self._weight_name} log(1 - (1 - q)^{self.budget})"

    def value(self, q: Any, ctx: Context) -> Any:
        w, k = self._measured(ctx)
        with np.errstate(divide="ignore"):
            return times(w, np.log(-np.expm1(k * _log_miss(q)))).sum(axis=-1)

    def gradient(self, q: Any, ctx: Context) -> Any:
        w, k = self._measured(ctx)
        with np.errstate(divide="ignore"):
            rate = k * np.exp(times(k - 1.0, _log_miss(q))) / -np.expm1(k * _log_miss(q))
        return times(w, rate)
