"""The support rules: which tokens each keeps, in operations that neither sort nor depend on the data in their shapes.

Bounds. Top-k and min-p are decided on the input values, exactly. Where a sum decides, probabilities have the relative
error of the exponential: 2e-16 for float64 logits, and 2^-24 (1 + |s - max s|) for narrower ones. Sums are of
integers (top-p) or in float64. Tokens within that of a threshold may fall either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optdecode.backends.torch._numeric import WIDE, Number, floor_of, largest, total
from optdecode.backends.torch._order import prefix
from optdecode.backends.torch._parameters import RuleName


class Measured(NamedTuple):
    """What rules are measured on.

    Attributes
    ----------
    raw : Tensor, shape (B, V)
        Logits as they came, float32 or float64.
    on : Tensor of bool, shape (B, V)
        The tokens that there are; the best is among them.
    key : Tensor of int64, shape (B, V)
        As from `_order.keys`, with their number of bits.
    below : Tensor, shape (B, V)
        Logits less the largest.
    temperature : Number
        That of the model distribution.
    """

    raw: Tensor
    on: Tensor
    key: Tensor
    bits: int
    below: Tensor
    temperature: Number


def select(names: Sequence[RuleName], values: Sequence[Number], measured: Measured) -> Tensor:
    """Return which tokens every rule keeps, each measured on the same ones; bool (B, V)."""
    keep = measured.on
    for (name, raw), value in zip(names, values, strict=True):
        keep = keep & (RULES[name](measured, raw, value) | _best(measured))
    return keep


def _best(measured: Measured) -> Tensor:
    """The best token: the first of the largest."""
    top = measured.on & (measured.raw == largest(measured.raw, measured.on))
    return top & (top.cumsum(-1) == 1)


def _terms(measured: Measured, raw: bool) -> Tensor:
    """Return p times a number: 1 for the best token, 0 where there is none."""
    below = measured.below
    scores = below if raw else (below / measured.temperature).clamp(min=floor_of(below.dtype))
    return torch.where(measured.on, scores.exp(), 0.0)


def _top_k(measured: Measured, raw: bool, k: Number) -> Tensor:
    count = measured.on.to(torch.int64)
    return prefix(measured.key, measured.bits, count, _integers(k, count))


def _integers(value: Number, like: Tensor) -> Tensor:
    number = value if isinstance(value, Tensor) else torch.full_like(like[:, :1], value, dtype=WIDE)
    return number.clamp(max=2.0**62).to(torch.int64)


def _top_p(measured: Measured, raw: bool, mass: Number) -> Tensor:
    terms = _terms(measured, raw)
    # Integer masses; a row of equal ones sums to less than 2^62.
    weight = (terms * 2.0 ** (61 - terms.shape[-1].bit_length())).round().to(torch.int64)
    # Down by what rounding could do, so that k of n equal tokens have mass k / n.
    slack = 1e-15 if measured.raw.dtype == torch.float64 else 6e-7
    target = mass * (1.0 - slack) * weight.sum(-1, keepdim=True).to(WIDE)
    keep = prefix(measured.key, measured.bits, weight, target.ceil().to(torch.int64))
    everything = mass >= 1.0
    return keep | everything if isinstance(everything, Tensor) else measured.on if everything else keep


def _min_p(measured: Measured, raw: bool, offset: Number) -> Tensor:
    top = largest(measured.raw, measured.on).to(WIDE)
    return measured.raw.to(WIDE) >= top + offset


def _top_n_sigma(measured: Measured, raw: bool, n: Number) -> Tensor:
    x, on = measured.raw.to(WIDE), measured.on
    top, bottom = largest(x, on), -largest(-x, on)
    half = torch.where((top - bottom).isfinite(), 1.0, 0.5)  # the spread of +-1.7e308 would overflow
    spread = half * top - half * bottom
    scaled = (half * x - half * top) / torch.where(spread > 0.0, spread, 1.0)
    scaled = torch.where(on & (spread > 0.0), scaled, 0.0)
    count = total(on.to(WIDE))
    mean = total(scaled) / count
    variance = total(torch.where(on, (scaled - mean).square(), 0.0)) / count
    return scaled >= -n * variance.sqrt()


def _p_less(measured: Measured, raw: bool, unused: Number) -> Tensor:
    terms = _terms(measured, raw).to(WIDE)
    return terms * total(terms) >= (1.0 - 1e-6) * total(terms.square())


def _epsilon(measured: Measured, raw: bool, eps: Number) -> Tensor:
    terms = _terms(measured, raw)
    return terms.to(WIDE) >= eps * total(terms)


def _eta(measured: Measured, raw: bool, eps: Number) -> Tensor:
    terms = _terms(measured, raw)
    mass = total(terms)
    entropy = mass.log() - total(torch.where(terms > 0.0, terms * terms.log(), 0.0)) / mass
    least = (eps**0.5 * (-entropy).exp()).clamp(max=eps)
    return terms.to(WIDE) >= least * mass


#: Rule → which tokens pass: all that a new support has to add to this backend.
RULES: dict[str, Callable[[Measured, bool, Number], Tensor]] = {
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "top_n_sigma": _top_n_sigma,
    "p_less": _p_less,
    "epsilon": _epsilon,
    "eta": _eta,
}
