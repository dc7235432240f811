"""Best-of-K: the exact dual, and Algorithm 1 of arXiv:2602.18292.

With c = l / lam + log r and a = beta_bar w K / lam the optimum has ``u - a (1 - e^u)^(K-1) = c - nu``, u = log q, for
every token, and nu is where ``sum e^u = 1``. Both are found by Newton's method, in numbers of steps that are fixed
beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optdecode.backends.torch._closed import Found, from_logs
from optdecode.backends.torch._numeric import (
    WIDE,
    Number,
    falling,
    floor_of,
    log_softmax,
    log_sum_exp,
    total,
)
from optdecode.backends.torch._problem import Problem

#: Gains beyond this are as good as infinite, and their products stay finite.
_LARGEST_GAIN = 1e120
#: Evaluations of the sum, and Newton steps of a token in each, by the width of the arithmetic.
_ROUNDS = {torch.float64: (24, 9), torch.float32: (10, 6)}


class Tokens(NamedTuple):
    """The inner equations: gains (B, V), and what depends on K alone, (B, 1)."""

    gain: Tensor
    #: K - 1, and at least 1 of it.
    draws: Tensor
    some: Tensor
    #: The inflection of the left-hand side, ``e^u = 1 / (K - 1)``: convex left of it, concave right of it.
    knee: Tensor
    #: ``(1 - e^knee)^(K-1)``.
    knee_power: Tensor
    steps: int


class Roots(NamedTuple):
    """Log-probabilities, and the derivatives of the left-hand sides there, at least 1."""

    u: Tensor
    slope: Tensor


def column(value: Number, like: Tensor) -> Tensor:
    """Return a number, or one a row, as (B, 1) in the type of `like`."""
    return value.to(like.dtype) if isinstance(value, Tensor) else torch.full_like(like[:, :1], value)


def coverage_dual(problem: Problem) -> Found:
    """Solve lam > 0 exactly."""
    outer, steps = _ROUNDS[problem.width]
    lam, on = problem.numbers.lam, problem.on
    budget = column(problem.budget, problem.w)
    tokens = _tokens(problem.numbers.beta_bar * budget / lam * problem.w, budget - 1.0, steps)
    score = (problem.l / lam).clamp(min=floor_of(problem.width)) + problem.log_r
    shift = torch.where(on, score, -torch.inf).amax(-1, keepdim=True)
    c = score - shift
    low, high = log_sum_exp(c, on), log_sum_exp(c + tokens.gain, on)

    def evaluate(nu: Tensor) -> tuple[Tensor, Tensor]:
        found = roots(tokens, (c - nu.to(c.dtype)).clamp(max=0.0))
        q = torch.where(on, found.u.exp(), 0.0)
        mass = total(q)
        residual = mass.log()
        return residual, nu + residual * mass / total(q / found.slope)

    def middle(left: Tensor, right: Tensor) -> Tensor:
        # Large gains make sum q a function of log (nu - low).
        return low - 1.0 + ((left - low + 1.0) * (right - low + 1.0)).sqrt()

    nu, iterations = falling(low, high, high, evaluate, outer, problem.width, middle)
    u = roots(tokens, (c - nu.to(c.dtype)).clamp(max=0.0)).u
    log_q, log_total = log_softmax(u, on)
    threshold = lam * (nu + shift.to(WIDE) - 1.0)
    return from_logs(problem, log_q, threshold, iterations, torch.expm1(log_total).abs())


def _tokens(gain: Tensor, draws: Tensor, steps: int) -> Tokens:
    largest = _LARGEST_GAIN if gain.dtype == torch.float64 else 1e30
    some = draws.clamp(min=1.0)
    knee_power = (some * (-1.0 / some).log1p()).exp()
    return Tokens(gain.clamp(max=largest), draws, some, -some.log(), knee_power, steps)


def roots(tokens: Tokens, d: Tensor) -> Roots:
    """Solve ``u - a (1 - e^u)^(K-1) = d`` for every token, d <= 0.

    In the part where the left-hand side is convex every Newton step lands right of the root, in the concave part left
    of it: from the first step on the iterates are monotone, and bounds clip only what overshot.
    """
    gain, draws, some = tokens.gain, tokens.draws, tokens.some
    top, rate = d + gain, gain * draws
    convex = tokens.knee - gain * tokens.knee_power >= d
    low = torch.where(convex, floor_of(d.dtype), tokens.knee)
    high = torch.where(convex, torch.minimum(tokens.knee, top), 0.0)
    # Lower bounds of the root: (1 - q)^(K-1) >= 1 - (K-1) q, exact for K = 2; and (1 - q)^(K-1) <= -d / a.
    left = _wright_root(top, rate)
    right = (-torch.expm1((-d / gain).log() / some)).log()
    u = torch.where(convex, left, right)
    u = torch.minimum(torch.maximum(torch.where(u.isnan(), low, u), low), high)
    for _ in range(tokens.steps):
        excess, slope = _excess(tokens, u, d, top)
        u = torch.minimum(torch.maximum(u - excess / slope, low), high)
    _, slope = _excess(tokens, u, d, top)
    # Nothing to gain, or so little that a series has it to the last bit.
    x = top.clamp(max=0.0).exp()
    linear = (gain <= 0.0) | (draws <= 0.0)
    small = (top < 0.0) & (rate * x < 1e-6) & (draws * x < 1e-5)
    drop = rate * x * (1.0 - rate * x - 0.5 * (draws - 1.0) * x)
    u = torch.where(linear, top, torch.where(small, top - drop, u))
    return Roots(u, torch.where(linear, 1.0, torch.where(small, 1.0 + rate * x, slope)))


def _excess(tokens: Tokens, u: Tensor, d: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left-hand side less d, in the form that does not cancel, and its derivative."""
    q = u.exp()
    rest = (1.0 - q).clamp(min=torch.finfo(u.dtype).tiny)
    log_miss = tokens.some * (-q).log1p().clamp(min=floor_of(u.dtype))
    miss, hit = log_miss.exp(), -torch.expm1(log_miss)
    slope = 1.0 + tokens.gain * tokens.draws * q * miss / rest
    return torch.where(hit < 0.5, u - top + tokens.gain * hit, u - d - tokens.gain * miss), slope


def _wright_root(top: Tensor, rate: Tensor) -> Tensor:
    """Return the root of ``u + rate e^u = top``, by the Wright function: omega + log omega = top + log rate.

    A guess by its asymptotes, and two steps of Fritsch, Shafer and Crowley's iteration (doi:10.1145/361952.361970).
    """
    z = top + rate.log()
    small = z.clamp(max=0.0).exp()
    log = z.clamp(min=1.0).log()
    guess = torch.where(
        z < -2.0,
        small * (1.0 - small * (1.0 - 1.5 * small)),
        torch.where(z < 1.0, (2.0 * (z.clamp(-3.0, 2.0) - 1.0) / 3.0).exp(), z - log + log / z.clamp(min=1.0)),
    )
    w = guess.clamp(min=torch.finfo(z.dtype).tiny)
    for _ in range(2):
        residual = (z - w) - w.log()
        above = 1.0 + w
        product = above * (above + 2.0 / 3.0 * residual)
        w = w * (1.0 + residual / above * ((product - 0.5 * residual) / (product - residual)))
    extreme = (z < -40.0) | (z > 1e15)
    w = torch.where(extreme, guess, w)
    return torch.where(w < 1.0, top - w, (w / rate).log())


def power_1m(q: Tensor, n: Tensor) -> Tensor:
    """Return (1 - q)^n for 0 <= q <= 1 and n >= 0, with 0^0 = 1."""
    log_rest = (-q.clamp(max=1.0)).log1p().clamp(min=floor_of(q.dtype))
    return (n * log_rest).exp()


def covered(problem: Problem, q: Tensor) -> Tensor:
    """Return ``sum w (1 - (1 - q)^K)``, (B, 1)."""
    log_rest = (-q.clamp(max=1.0)).log1p().clamp(min=floor_of(q.dtype))
    return total(problem.w * -torch.expm1(column(problem.budget, q) * log_rest))


def mirror(problem: Problem) -> Found:
    """Ascend by Algorithm 1 from q = r on the face, in log space; eta = 1 / L unless given."""
    lam, floor, budget = problem.numbers.lam, floor_of(problem.width), column(problem.budget, problem.w)
    gain = problem.numbers.beta_bar * budget * problem.w
    eta = problem.numbers.eta
    if problem.structure.auto_step:
        eta = _guaranteed_step(lam, torch.where(problem.on, gain, 0.0), budget)
    log_q, _ = log_softmax(problem.log_r, problem.on)

    def gradient(log_q: Tensor) -> Tensor:
        cover = gain * power_1m(log_q.exp(), budget - 1.0)
        return problem.l - lam * (log_q - problem.log_r + 1.0) + cover

    for _ in range(problem.structure.steps):
        # A step far too long must not leave the finite numbers.
        moved = (log_q + eta * gradient(log_q)).clamp(floor, -floor)
        log_q, _ = log_softmax(moved, problem.on)
    q = torch.where(problem.on, log_q.exp(), 0.0)
    threshold = total(torch.where(q > 0.0, q * gradient(log_q), 0.0))
    steps = torch.full_like(threshold, problem.structure.steps, dtype=torch.int64)
    return from_logs(problem, log_q, threshold, steps)


def _guaranteed_step(lam: Number, gain: Tensor, budget: Tensor) -> Tensor:
    """Return 1 / L, L = lam + max_x gain (K-1) x (1-x)^(K-2) the smoothness relative to negative entropy."""
    k = budget.clamp(min=2.0)
    bend = ((k - 2.0) / (k - 1.0)) ** (k - 2.0)
    smoothness = lam + gain.amax(-1, keepdim=True) * torch.where(budget > 1.5, bend, 0.0)
    return torch.where(smoothness > 0.0, 1.0 / smoothness, 1.0)
