"""Sparse optima: sparsemax and entmax of every exponent, in float64.

Each threshold is the root of a convex decreasing function, the excess of a norm of positive parts. Newton's method
rises to it from the left without a safeguard, in a number of steps that is known beforehand (`_numeric.rising`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optdecode.backends.torch._closed import Found
from optdecode.backends.torch._numeric import WIDE, floor_of, largest, newton_rounds, rising, total
from optdecode.backends.torch._order import keys
from optdecode.backends.torch._problem import Problem


def quadratic(problem: Problem) -> Found:
    """Sparsemax, q = [z - tau]_+ with z = l / lam (arXiv:1602.02068)."""
    z = _scaled(problem)

    def step(tau: Tensor) -> Tensor:
        above = (z - tau).clamp(min=0.0)
        return tau + (total(above) - 1.0) / total((above > 0.0).to(WIDE))

    root = rising(torch.full_like(problem.offset, -1.0), step, newton_rounds(z.shape[-1]))
    return _normalised(problem, (z - root.x).clamp(min=0.0), problem.numbers.lam * root.x, root.iterations)


def tsallis(problem: Problem) -> Found:
    """Entmax (arXiv:1905.05702), by its exponent."""
    return _BRANCHES[problem.structure.branch](problem)


def _as_quadratic(problem: Problem) -> Found:
    """Solve alpha = 2: the quadratic regularizer but for a constant gradient."""
    found = quadratic(problem)
    return found._replace(threshold=found.threshold + 0.5 * problem.numbers.lam)


def _half(problem: Problem) -> Found:
    """Solve alpha = 1.5: q = [z - tau]_+^2 with z = l / (2 lam); the Euclidean norm of the positive parts is 1."""
    z = _scaled(problem, 0.5)

    def step(tau: Tensor) -> Tensor:
        above = (z - tau).clamp(min=0.0)
        norm = total(above.square()).sqrt()
        return tau + (norm - 1.0) * norm / total(above)

    root = rising(torch.full_like(problem.offset, -1.0), step, newton_rounds(z.shape[-1]))
    q = (z - root.x).clamp(min=0.0).square()
    return _normalised(problem, q, problem.numbers.lam * (2.0 * root.x + 4.0 / 3.0), root.iterations)


def _flat(problem: Problem) -> Found:
    """Solve 1 < alpha < 2: q^(alpha-1) = [1 + (alpha-1)(z - mu)]_+, by Newton on (S^(alpha-1) - 1) / (alpha-1)."""
    alpha = problem.numbers.alpha
    power = alpha - 1.0
    z = _scaled(problem)

    def at(mu: Tensor) -> tuple[Tensor, Tensor]:
        base = (power * (z - mu)).clamp(min=-1.0)
        return base, base.log1p() / power

    def step(mu: Tensor) -> Tensor:
        base, log_q = at(mu)
        q = log_q.exp()
        mass = total(q)
        slope = total(torch.where(base > -1.0, q / (1.0 + base), 0.0))
        grown = power * mass.log()
        return mu + torch.expm1(grown) / power * mass / (grown.exp() * slope)

    root = rising(torch.zeros_like(problem.offset), step, newton_rounds(z.shape[-1]))
    _, log_q = at(root.x)
    log_q = torch.where(problem.on, log_q, -torch.inf)
    mass = total(log_q.exp())
    log_q = log_q - mass.log()
    threshold = problem.numbers.lam * (root.x - 1.0 / alpha)
    return Found(log_q, log_q.exp(), threshold, root.iterations, (mass - 1.0).abs())


def _steep(problem: Problem) -> Found:
    """Solve alpha > 2: the support by its breakpoints, then Newton on its smallest probability.

    Near the root mu cannot resolve small probabilities, which are high roots of tiny differences. With z_k the last
    of the support and d_j = (alpha - 1)(z_j - z_k) the unknown is v = q_k: q_j is the (alpha - 1)-norm of
    (d_j^(1/(alpha - 1)), v).
    """
    alpha = problem.numbers.alpha
    power = alpha - 1.0
    z = _scaled(problem, power)

    def roots(last: Tensor) -> Tensor:
        return (z - last).clamp(min=0.0) ** (1.0 / power)

    last = _last_of_support(z, problem.on, lambda last: total(roots(last)) < 1.0)
    on = problem.on & (z >= last)
    root = torch.where(on, roots(last), 0.0)

    def shares(v: Tensor) -> Tensor:
        return torch.where(on, _norm2(root, v, power), 0.0)

    def step(negative: Tensor) -> Tensor:
        v = -negative
        q = shares(v)
        slope = total(torch.where(q > 0.0, (v / torch.where(q > 0.0, q, 1.0)) ** (power - 1.0), 0.0))
        return torch.where(v > 0.0, negative + (total(q) - 1.0) / slope, negative).clamp(max=0.0)

    ties = total((on & (z == last)).to(WIDE))
    start = ((1.0 - total(root)) / ties).clamp(min=0.0)
    found = rising(-start, step, newton_rounds(z.shape[-1]))
    v = -found.x
    marginal = v**power / power - 1.0 / (alpha * power)
    scaled_last = last / power
    threshold = problem.numbers.lam * (scaled_last - marginal)
    return _normalised(problem, shares(v), threshold, found.iterations)


_BRANCHES: dict[str, Callable[[Problem], Found]] = {
    "quadratic": _as_quadratic,
    "half": _half,
    "flat": _flat,
    "steep": _steep,
}


def _scaled(problem: Problem, factor: float | Tensor = 1.0) -> Tensor:
    """Return factor * l / lam, the floor off the face."""
    return (factor * (problem.l / problem.numbers.lam)).clamp(min=floor_of(problem.width))


def _normalised(problem: Problem, q: Tensor, threshold: Tensor, iterations: Tensor) -> Found:
    q = torch.where(problem.on, q, 0.0)
    mass = total(q)
    q = q / mass
    return Found(q.log(), q, threshold, iterations, (mass - 1.0).abs())


def _norm2(a: Tensor, b: Tensor, p: float | Tensor) -> Tensor:
    """Return (a^p + b^p)^(1/p) for non-negative a and b, without overflow or underflow."""
    large, small = torch.maximum(a, b), torch.minimum(a, b)
    ratio = small / torch.where(large > 0.0, large, 1.0)
    return large * ((ratio**p).log1p() / p).exp()


def _last_of_support(z: Tensor, on: Tensor, belongs: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the smallest z of the face, above −1, that passes a test which holds from some value on; the largest is 0.

    The value is found by bisection of its bits, so exactly.
    """
    low = torch.full_like(z[:, :1], -1.0)
    low_key, _ = keys(low)
    high_key = torch.zeros_like(low_key)
    for _ in range(63):
        middle = low_key + ((high_key - low_key) >> 1)
        fits = belongs(_from_key(middle))
        high_key = torch.where(fits, middle, high_key)
        low_key = torch.where(fits, low_key, middle)
    least = _from_key(high_key)
    return -largest(-z, on & (z >= least))


def _from_key(key: Tensor) -> Tensor:
    bits = torch.where(key < 0, key ^ 0x7FFFFFFFFFFFFFFF, key)
    return bits.view(torch.float64)
