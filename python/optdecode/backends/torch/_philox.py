"""Philox4x32-10 (Salmon et al., SC 2011) in int64 operations, bit for bit that of Random123 and of the Rust core.

32-bit words are int64 values in [0, 2^32). Products are formed from halves, so that nothing leaves the range of int64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF
_STREAM_DRAWS, _STREAM_ROW_SEEDS = 0, 1


class Words(NamedTuple):
    """64 bits as two words."""

    low: Tensor
    high: Tensor


def multiply(a: Tensor | int, b: Tensor) -> Words:
    """Return the 64-bit product of two words."""
    low = (a & _MASK16) * b
    middle = (a >> 16) * b + (low >> 16)
    return Words((low & _MASK16) | ((middle & _MASK16) << 16), middle >> 16)


def split(bits: Tensor) -> Words:
    """Return the words of int64 values, read as 64 bits."""
    return Words(bits & _MASK32, (bits >> 32) & _MASK32)


def philox4x32_10(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Words) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four output words.

    Parameters
    ----------
    counter : tuple of 4 Tensor
        Words; they broadcast.
    key : Words
        They broadcast with the counter.

    Returns
    -------
    tuple of 4 Tensor
        Words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = multiply(0xD2511F53, c0), multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = second.high ^ c1 ^ k0, second.low, first.high ^ c3 ^ k1, first.low
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


def uniforms(seeds: Tensor, positions: Tensor, n: int, coupling: str) -> Words:
    """Return the 64-bit uniforms of n draws a row, words (B, n).

    Parameters
    ----------
    seeds, positions : Tensor of int64, shape (B,)
        By their 64 bits.
    n : int
        Draws a row.
    coupling : {"iid", "systematic"}
        ``"systematic"``: draw i has the uniform of draw 0, moved by ``floor(i 2^64 / n)``.
    """
    draws = torch.arange(n, dtype=torch.int64, device=seeds.device)[None]
    low, high = split(positions[:, None])
    drawn = draws if coupling == "iid" else torch.zeros_like(draws)
    stream = torch.full_like(draws, _STREAM_DRAWS)
    key = split(seeds[:, None])
    words = philox4x32_10((low + 0 * drawn, high + 0 * drawn, drawn + 0 * low, stream + 0 * low), key)
    first = Words(words[0], words[1])
    return first if coupling == "iid" else _moved(first, draws, n)


def _moved(first: Words, draws: Tensor, n: int) -> Words:
    """Add ``floor(i 2^64 / n)`` to the uniform of draw i, modulo 2^64."""
    whole, rest = divmod(1 << 64, n)
    # i whole + floor(i rest / n): i < n < 2^31, so each product of a word stays below 2^63.
    low = first.low + ((draws * (whole & _MASK32)) & _MASK32) + ((draws * rest) // n & _MASK32)
    carry = ((draws * (whole & _MASK32)) >> 32) + ((draws * rest) // n >> 32) + (low >> 32)
    return Words(low & _MASK32, (first.high + draws * (whole >> 32 & _MASK32) + carry) & _MASK32)


def row_seeds(seed: Tensor, count: int) -> Tensor:
    """Return the seeds that one seed stands for on several rows, int64 by their bits; the first is the seed itself.

    Parameters
    ----------
    seed : Tensor of int64, shape (1,)
        By its 64 bits.
    count : int
        How many.
    """
    index = torch.arange(count, dtype=torch.int64, device=seed.device)
    zero = torch.zeros_like(index)
    key = split(seed)
    words = philox4x32_10((index, zero, zero, zero + _STREAM_ROW_SEEDS), Words(key.low + zero, key.high + zero))
    derived = words[0] | (words[1] << 32)
    return torch.where(index == 0, seed, derived)


def scaled(r: Words, total: Tensor) -> Tensor:
    """Return ``floor(r total / 2^64)`` for totals in [0, 2^63): what a uniform hits of a sum of masses."""
    mass = split(total)
    low, right, left, high = (multiply(a, b) for b in mass for a in r)
    middle = low.high + right.low + left.low
    return (high.high << 32) + high.low + right.high + left.high + (middle >> 32)
