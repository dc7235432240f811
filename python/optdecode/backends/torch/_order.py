"""The order of the tokens, score descending and index ascending, without sorting.

A score becomes an integer key that orders as it does. The smallest prefix of the order whose integer weights reach a
target is then found digit by digit: each pass sums the weights of the keys that agree so far, by their next 8 bits.
Integer sums do not depend on the order in which they are formed, so the prefix is exact and the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DIGIT = 8
_BINS = 1 << _DIGIT


def keys(x: Tensor) -> tuple[Tensor, int]:
    """Return int64 keys that compare as the scores do, and how many bits they have; 0 and −0 tie.

    Parameters
    ----------
    x : Tensor, shape (B, V)
        float32 or float64, no NaN.

    Returns
    -------
    tuple
        Keys (B, V), bits.
    """
    x = torch.where(x == 0.0, 0.0, x)
    if x.dtype == torch.float64:
        bits = x.view(torch.int64)
        return torch.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits), 64
    bits = x.view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits), 32


def prefix(key: Tensor, bits: int, weight: Tensor, target: Tensor) -> Tensor:
    """Return the tokens of the smallest prefix of the order whose weights sum to the target, bool (B, V).

    A token belongs if what comes before it does not reach the target. Tokens without weight may be marked; they change
    nothing for the others.

    Parameters
    ----------
    key : Tensor of int64, shape (B, V)
        As from `keys`, with their number of bits.
    weight : Tensor of int64, shape (B, V)
        Not negative; sums below 2^63.
    target : Tensor of int64, shape (B, 1)
        At least 1. One that all weights do not reach keeps all.
    """
    digits = key ^ -(1 << 63) if bits == 64 else key + (1 << 31)  # in the same order, as if without a sign
    target = torch.minimum(target, weight.sum(-1, keepdim=True))
    before = torch.zeros_like(target)
    found = torch.zeros_like(target)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        inside = weight
        if shift + _DIGIT < bits:
            same = (digits >> (shift + _DIGIT)) & ((1 << (bits - shift - _DIGIT)) - 1)
            inside = torch.where(same == found, weight, 0)
        digit = (digits >> shift) & (_BINS - 1)
        sums = torch.zeros((*key.shape[:-1], _BINS), dtype=torch.int64, device=key.device)
        sums = sums.scatter_add(-1, digit, inside)
        reach = before + sums.flip(-1).cumsum(-1).flip(-1)
        # The largest digit whose keys and those above it reach the target.
        pick = ((reach >= target).sum(-1, keepdim=True) - 1).clamp(min=0)
        before = reach.gather(-1, pick) - sums.gather(-1, pick)
        found = (found << _DIGIT) | pick
    last = found ^ -(1 << 63) if bits == 64 else found - (1 << 31)
    tied = torch.where(key == last, weight, 0)
    return (key > last) | ((key == last) & (before + tied.cumsum(-1) - tied < target))


def ranks(key: Tensor, bits: int, on: Tensor) -> Tensor:
    """Return the place of every token in the order, from 1, int64 (B, V); those of tokens not `on` are of no use.

    Coverage weights by rank are the one thing that needs every rank. The keys are split by their bits, from the
    lowest, each time keeping the order among equals.
    """
    # Larger keys first, and tokens that are not on after all others.
    left = torch.where(on, ~key, (1 << (bits - 1)) - 1)
    token = torch.arange(key.shape[-1], device=key.device).expand_as(key)
    for bit in range(bits):
        ones = (left >> bit) & 1
        if bit == bits - 1:
            ones = 1 - ones  # the sign: negative keys come first
        zeros = 1 - ones
        place = torch.where(ones == 1, zeros.sum(-1, keepdim=True) + ones.cumsum(-1), zeros.cumsum(-1)) - 1
        left = torch.zeros_like(left).scatter(-1, place, left)
        token = torch.zeros_like(token).scatter(-1, place, token)
    places = torch.arange(1, key.shape[-1] + 1, device=key.device).expand_as(key)
    return torch.zeros_like(token).scatter(-1, token, places)
