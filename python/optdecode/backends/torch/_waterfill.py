"""Coverage without a divergence (lam = 0): ``q = [1 - ((nu - l) / A)_+^(1/(K-1))]_+`` with ``A = beta_bar w K``.

With nu = max l + v^(K-1) the unknown is log v: for large K, nu - max l underflows and log v is an ordinary number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optdecode.backends.torch._closed import Found, vertex
from optdecode.backends.torch._coverage import column
from optdecode.backends.torch._numeric import WIDE, falling, first_true, largest, total
from optdecode.backends.torch._problem import Problem

#: Evaluations of the root find; below the top of its bracket log v is looked for this far.
_ROUNDS, _DEPTH = 64, 1500.0


def coverage_waterfill(problem: Problem) -> Found:
    """Solve lam = 0 exactly, in float64."""
    budget = column(problem.budget, problem.w)
    gain = (problem.numbers.beta_bar * budget * problem.w).clamp(max=torch.finfo(WIDE).max)
    weighted = problem.on & (gain > 0.0)
    point = vertex(problem, torch.where(weighted, problem.l + gain, problem.l))
    flat = (budget <= 1.0) | ~weighted.any(-1, keepdim=True)
    filled = _fill(problem, gain, weighted, (budget - 1.0).clamp(min=1.0))
    return Found(*(torch.where(flat, a, b) for a, b in zip(point, filled, strict=True)))


def _fill(problem: Problem, gain: Tensor, weighted: Tensor, draws: Tensor) -> Found:
    active = weighted & (problem.l + gain > 0.0)
    depth = torch.where(active, -problem.l, 1.0)
    gain = torch.where(active, gain, 1.0)
    log_depth, log_gain = depth.log(), gain.log()
    ratio = depth / gain
    # Denormal score differences: the ratio underflows before the difference of the logarithms loses anything.
    own = torch.where(ratio >= torch.finfo(WIDE).tiny, ratio.log(), log_depth - log_gain) / draws

    def log_rest(log_v: Tensor) -> Tensor:
        """Return log(1 - q), at most 0: log((depth + v^(K-1)) / A) / (K-1)."""
        level = log_v - log_gain / draws
        small, large = torch.minimum(own, level), torch.maximum(own, level)
        both = large + (draws * (small - large)).exp().log1p() / draws
        return torch.where(active, torch.where(small == -torch.inf, large, both), 0.0).clamp(max=0.0)

    def evaluate(log_v: Tensor) -> tuple[Tensor, Tensor]:
        rest = log_rest(log_v)
        mass = total(-torch.expm1(rest))
        # d log(1 - q) / d log v is the share of v^(K-1) in the depth of the token.
        share = torch.where(depth > 0.0, 1.0 / (1.0 + (log_depth - draws * log_v).exp()), 1.0)
        slope = total(torch.where(rest < 0.0, rest.exp() * share, 0.0))
        return mass - 1.0, log_v + ((mass - 1.0) / slope).clamp(min=-1.0).log1p()

    dry = torch.full_like(problem.offset, -torch.inf)
    flooded = total(-torch.expm1(log_rest(dry)))
    high = largest(gain - depth, active).log() / draws
    root = falling(high - _DEPTH, high, high - 1.0 / draws, evaluate, _ROUNDS, WIDE)
    over = flooded > 1.0
    log_v = torch.where(over, root.x, dry)
    q = -torch.expm1(log_rest(log_v))
    rest = torch.where(over, 0.0, (1.0 - flooded).clamp(min=0.0))
    q = torch.where(_taker(problem, weighted), q + rest, q)
    mass = total(q)
    q = q / mass
    iterations = torch.where(over, root.iterations, 0)
    return Found(q.log(), q, (draws * log_v).exp(), iterations, (mass - 1.0).abs())


def _taker(problem: Problem, weighted: Tensor) -> Tensor:
    """The best token that has no gain of its own, else the best: it takes what is left at nu = max l."""
    value = torch.where(weighted, torch.finfo(WIDE).min, problem.l)
    on = problem.on & (value == largest(value, problem.on))
    on = on & (problem.x == largest(problem.x, on))
    return torch.arange(on.shape[-1], device=on.device) == first_true(on)
