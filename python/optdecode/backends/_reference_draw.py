"""Random numbers and inverse-CDF draws of the reference backend, in Python integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK32, _MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_STREAM_DRAWS, _STREAM_ROW_SEEDS = 0, 1

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
    cumulative = np.cumsum(np.rint(q * 2.0**62).astype(np.uint64), dtype=np.uint64)
    total = int(cumulative[-1])
    if coupling == "systematic":
        first = uniform(seed, position, 0, _STREAM_DRAWS)
        numbers = [(first + (i << 64) // n) & _MASK64 for i in range(n)]
    else:
        numbers = [uniform(seed, position, i, _STREAM_DRAWS) for i in range(n)]
    targets = np.array([r * total >> 64 for r in numbers], dtype=np.uint64)
    return np.searchsorted(cumulative, targets, side="right")
