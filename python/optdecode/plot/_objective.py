"""The objective of a problem at any distribution on a few tokens, for contour lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._decoder import Decoder
from optdecode.plot._read import Row
from optdecode.regularizers import KL, Coverage, NegEntropy, Quadratic, Tsallis

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMED_WEIGHTS = ("model", "uniform", "rank")


def objective(decoder: Decoder, row: Row, ids: NDArray[Any], q: NDArray[Any]) -> NDArray[Any] | None:
    """Return the objective at each q, or None where it has a term whose value is not known here.

    Parameters
    ----------
    decoder : Decoder
        What the problem is of.
    row : Row
        The row; nothing but `ids`, in rank order, is allowed.
    ids : ndarray, shape (n,)
        The tokens.
    q : ndarray, shape (m, n)
        Distributions on them.

    Returns
    -------
    ndarray of float64, shape (m,), or None
    """
    problem = decoder.problem
    if problem.temperature == 0:
        return None
    score = row.logits[ids] / (1.0 if problem.scores == "raw" else problem.temperature)
    total: NDArray[Any] = problem.score_weight * (q @ score)
    for scale, term in () if problem.regularizer is None else problem.regularizer.terms():
        known = _VALUES.get(type(term))
        value = None if known is None else known(term, row, ids, q)
        if value is None:
            return None
        total = total - scale * value
    return total


def _entropies(q: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(q * np.log(np.where(q > 0, q, 1.0)))


def _tsallis(term: Tsallis, row: Row, ids: NDArray[Any], q: NDArray[Any]) -> NDArray[Any] | None:
    alpha = term.alpha
    values = _entropies(q) if alpha == 1 else (q**alpha - q) / (alpha * (alpha - 1.0))
    return np.asarray(values.sum(axis=1))


def _kl(term: KL, row: Row, ids: NDArray[Any], q: NDArray[Any]) -> NDArray[Any] | None:
    if term.anchor != "model":
        return None
    return np.asarray((_entropies(q) - q * row.log_p[ids]).sum(axis=1))


def _coverage(term: Coverage, row: Row, ids: NDArray[Any], q: NDArray[Any]) -> NDArray[Any] | None:
    if not isinstance(term.weights, str) or term.weights not in _NAMED_WEIGHTS:
        return None
    weights = {"model": row.p[ids], "uniform": np.ones(ids.size), "rank": 1.0 / np.arange(1, ids.size + 1)}
    return np.asarray((weights[term.weights] * (1.0 - (1.0 - q) ** term.budget)).sum(axis=1))


_VALUES: dict[type, Callable[..., NDArray[Any] | None]] = {
    NegEntropy: lambda term, row, ids, q: _entropies(q).sum(axis=1),
    Quadratic: lambda term, row, ids, q: 0.5 * (q * q).sum(axis=1),
    Tsallis: _tsallis,
    KL: _kl,
    Coverage: _coverage,
}
