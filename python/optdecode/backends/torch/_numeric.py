"""Sums, logarithms and root finds over the last axis, for rows of any device.

Sums are accumulated in float64 whatever the width of their terms. Where a token does not take part, its value counts as
`floor_of` the width: a zero in any case, and differences of such values stay finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: A parameter of a plan: one number for all rows, or one a row, shape (B, 1).
Number = float | Tensor

WIDE = torch.float64


def floor_of(dtype: torch.dtype) -> float:
    """Return what lower scores and log-probabilities count as."""
    return -1e200 if dtype == torch.float64 else -1e37


def total(values: Tensor) -> Tensor:
    """Return sums in float64, shape (B, 1)."""
    return values.sum(-1, keepdim=True, dtype=WIDE)


def largest(values: Tensor, on: Tensor) -> Tensor:
    """Return the largest value of the tokens that take part, shape (B, 1)."""
    return torch.where(on, values, -torch.inf).amax(-1, keepdim=True)


def log_sum_exp(values: Tensor, on: Tensor) -> Tensor:
    """Return log sum exp over the tokens that take part, float64, shape (B, 1)."""
    top = largest(values, on)
    return total(torch.where(on, torch.exp(values - top), 0.0)).log() + top.to(WIDE)


def log_softmax(values: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-softmax over the tokens that take part, the floor elsewhere; and the log-sum-exp, (B, 1)."""
    top = largest(values, on)
    shifted = values - top
    log_total = total(torch.where(on, torch.exp(shifted), 0.0)).log()
    floor = floor_of(values.dtype)
    log_q = torch.where(on, shifted - log_total.to(values.dtype), floor).clamp(min=floor)
    return log_q, log_total + top.to(WIDE)


def first_true(flags: Tensor) -> Tensor:
    """Return the index of the first true flag of each row, V where there is none; int64 (B, 1)."""
    size = flags.shape[-1]
    places = torch.arange(size, device=flags.device)
    return torch.where(flags, places, size).amin(-1, keepdim=True)


class Root(NamedTuple):
    """Where a root find stopped, and after how many evaluations; (B, 1)."""

    x: Tensor
    iterations: Tensor


#: A residual below this that no longer halves is rounding.
_NOISE = {torch.float64: 1e-10, torch.float32: 1e-6}
_DONE = {torch.float64: 1e-14, torch.float32: 1e-7}


def falling(
    low: Tensor, high: Tensor, start: Tensor, evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], rounds: int,
    width: torch.dtype, middle: Callable[[Tensor, Tensor], Tensor] = lambda low, high: low + 0.5 * (high - low),
) -> Root:  # fmt: skip
    """Find the root of a decreasing function in [low, high], a fixed number of evaluations for all rows.

    Newton steps are taken while they stay inside the bracket and halve the residual; otherwise the bracket is halved.

    Parameters
    ----------
    low, high, start : Tensor, shape (B, 1)
        float64.
    evaluate : callable
        From x (B, 1) to the function and where Newton would go.
    rounds : int
        Evaluations; rows that have arrived stay where they are.
    width : torch.dtype
        The width that residuals are computed in: what counts as rounding.
    middle : callable
        Where a bracket is split.

    Returns
    -------
    Root
    """
    x, last = start, torch.full_like(start, torch.inf)
    done = torch.zeros_like(start, dtype=torch.bool)
    iterations = torch.zeros_like(start, dtype=torch.int64)
    for _ in range(rounds):
        residual, newton = evaluate(x)
        iterations = iterations + ~done
        size = residual.abs()
        slow = size > 0.5 * last
        done = done | (size <= _DONE[width]) | (slow & (size < _NOISE[width]))
        done = done | ((newton - x).abs() <= 4.5e-16 * x.abs())
        low = torch.where(residual > 0.0, torch.maximum(low, x), low)
        high = torch.where(residual > 0.0, high, torch.minimum(high, x))
        # Roots may be at an end of the bracket.
        following = torch.where(slow, middle(low, high), torch.minimum(torch.maximum(newton, low), high))
        last = torch.where(slow, torch.inf, size)
        done = done | (following == x)
        x = torch.where(done, x, following)
    return Root(x, iterations)


def rising(start: Tensor, evaluate: Callable[[Tensor], Tensor], rounds: int) -> Root:
    """Rise from the left of a root by Newton steps, a fixed number of them; steps that do not rise end a row's rise.

    For a convex decreasing function f with slopes between 1 and s the product of f and its slope falls by a factor of
    4 at least with every step, as f_next / f + slope_next / slope <= 1: `newton_rounds` of them reach float64
    precision.
    """
    x = start
    iterations = torch.zeros_like(start, dtype=torch.int64)
    done = torch.zeros_like(start, dtype=torch.bool)
    for _ in range(rounds):
        following = evaluate(x)
        done = done | ~(following > x)
        iterations = iterations + ~done
        x = torch.where(done, x, following)
    return Root(x, iterations)


def newton_rounds(size: int) -> int:
    """Return how many steps `rising` needs at most for sums of V terms that are at most 1 each."""
    return (2 * size.bit_length() + 50) // 2
