"""Random numbers and inverse-CDF draws of the reference backend, in Python integers."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_MASK32, _MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_STREAM_DRAWS, _STREAM_ROW_SEEDS, _STREAM_VALUES, _STREAM_CODES = 0, 1, 2, 3
# Of distinct tokens: uniforms left, and intervals taken, at which what is left is laid out anew.
_LEAST_LEFT, _MOST_TAKEN = 1 << 44, 1024

Words = tuple[int, int, int, int]


def philox4x32_10(counter: tuple[int, ...], key: tuple[int, ...]) -> Words:
    """Return the four 32-bit words of Philox4x32-10 (Salmon et al., SC 2011).

    Parameters
    ----------
    counter : tuple of 4 int
        32-bit words.
    key : tuple of 2 int
        32-bit words.

    Returns
    -------
    tuple of 4 int
        32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & _MASK32, (product0 >> 32) ^ c3 ^ k1, product0 & _MASK32
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


def uniform(seed: int, position: int, draw: int, stream: int) -> int:
    """Return the 64-bit uniform of one draw: output words 0 (low) and 1 (high)."""
    counter = (position & _MASK32, position >> 32, draw & _MASK32, stream)
    low, high, _, _ = philox4x32_10(counter, (seed & _MASK32, seed >> 32))
    return low | high << 32


def row_seeds(seed: int, n: int) -> npt.NDArray[np.uint64]:
    """Return the seeds that a scalar seed stands for on n rows; element 0 is the seed itself.

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    n : int
        How many.

    Returns
    -------
    ndarray of uint64, shape (n,)
    """
    seeds = [seed if index == 0 else uniform(seed, index, 0, _STREAM_ROW_SEEDS) for index in range(n)]
    return np.array(seeds, dtype=np.uint64)


def draw_positions(q: npt.NDArray[np.float64], seed: int, position: int, n: int, coupling: str) -> npt.NDArray[np.intp]:
    """Return n positions in `q` by integer inverse CDF: the first with cumulative mass above r M / 2^64."""
    cumulative = _cumulative(q)
    total = int(cumulative[-1])
    if coupling == "systematic":
        first = uniform(seed, position, 0, _STREAM_DRAWS)
        numbers = [(first + (i << 64) // n) & _MASK64 for i in range(n)]
    else:
        numbers = [uniform(seed, position, i, _STREAM_DRAWS) for i in range(n)]
    targets = np.array([r * total >> 64 for r in numbers], dtype=np.uint64)
    return np.searchsorted(cumulative, targets, side="right")


def _cumulative(q: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    return np.cumsum(np.rint(q * 2.0**62).astype(np.uint64), dtype=np.uint64)


def _edges(q: npt.NDArray[np.float64]) -> list[int]:
    """Return where the uniforms of each token begin, and 2^64: those of token i are edges[i] to edges[i + 1] - 1."""
    cumulative = [0, *_cumulative(q).tolist()]
    return [-(-(mass << 64) // cumulative[-1]) for mass in cumulative]


def draw_by_code(q: npt.NDArray[np.float64], code: int, step: int, seed: int, sequence: int) -> tuple[int, int]:
    """Return the position in `q` that a code falls on, and the next code.

    That is the place inside the token's interval, with 64 fresh bits below it, expanded to 64 bits.
    """
    cumulative = _cumulative(q)
    target = code * int(cumulative[-1]) >> 64
    index = int(np.searchsorted(cumulative, np.uint64(target), side="right"))
    low, high = _edges(q)[index : index + 2]
    inside = (code - low) << 64 | uniform(seed, step, sequence, _STREAM_CODES)
    return index, inside // (high - low)


class Distinct(NamedTuple):
    """Positions in `q` of distinct tokens in descending order of perturbed log q, and their log-inclusion."""

    positions: npt.NDArray[np.intp]
    log_inclusion: npt.NDArray[np.float64]


def draw_distinct(log_q: npt.NDArray[np.float64], seed: int, position: int, n: int) -> Distinct:
    """Draw up to n distinct tokens by the Gumbel-top-k trick (arXiv:1903.06059), top down; fewer if q has fewer.

    The largest perturbed value is Gumbel(0) and its token follows q; the next is a Gumbel located at the log of the
    mass left and truncated at the one before, its token following q on what is left.
    """
    values: list[float] = []  # the perturbed log-probabilities, the one after the last drawn included
    drawn: list[int] = []
    while len(values) <= n:
        rest = [int(v) for v in np.flatnonzero(np.exp(log_q) > 0.0) if int(v) not in set(drawn)]
        if not rest:
            values.append(-math.inf)
            break
        highest = float(log_q[rest].max()) if drawn else 0.0
        weights = np.exp(log_q[rest] - highest)
        # The first time q is laid out as it is: its sum is 1 but for rounding.
        total = float(weights.sum()) if drawn else 1.0
        _fill(values, drawn, rest, weights / total, highest + math.log(total), seed, position, n)
    kappa = values[-1]
    with np.errstate(over="ignore"):  # the next value may be far below the last one drawn: inclusion 1
        rates = np.exp(log_q[drawn] - kappa)
    small = rates < 1.0
    with np.errstate(divide="ignore"):
        inclusion = np.where(small, np.log(-np.expm1(-np.where(small, rates, 1.0))), np.log1p(-np.exp(-rates)))
    return Distinct(np.array(drawn, dtype=np.intp), np.where(rates < 1e-17, log_q[drawn] - kappa, inclusion) + 0.0)


def _fill(
    values: list[float],
    drawn: list[int],
    tokens: list[int],
    q: npt.NDArray[np.float64],
    log_mass: float,
    seed: int,
    position: int,
    n: int,
) -> None:
    """Go on until n + 1 values are there, or what is left must be laid out anew."""
    edges = _edges(q)
    widths = [high - low for low, high in pairwise(edges)]
    taken = 0
    while (left := sum(widths)) >= _LEAST_LEFT and len(values) <= n and (taken < _MOST_TAKEN or len(drawn) == n):
        place = ((uniform(seed, position, len(values), _STREAM_VALUES) >> 12) + 0.5) / 2.0**52
        gumbel = log_mass + math.log(left / 2.0**64) - math.log(-math.log(place))
        values.append(_truncated(gumbel, values[-1]) if values else gumbel)
        if len(drawn) == n:
            return
        target = uniform(seed, position, len(drawn), _STREAM_DRAWS) * left >> 64
        index = next(i for i, end in enumerate(accumulate(widths)) if end > target)
        drawn.append(tokens[index])
        widths[index] = 0
        taken += 1


def _truncated(gumbel: float, bound: float) -> float:
    """Map a Gumbel to one truncated at `bound`: -log(exp(-bound) + exp(-gumbel))."""
    return float(-np.logaddexp(-bound, -gumbel))
