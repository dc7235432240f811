r"""Gradients of optima in the logits, by implicit differentiation.

At a fixed face the optimum q of a separable problem has ``y_i - Omega_i'(q_i) = eta`` on its support, y what the
problem adds to the scores. So ``dq = D (dy - d eta)`` with ``D = 1 / Omega''(q)`` and d eta such that ``sum dq = 0``:
a gradient v in q becomes ``D (v - <D, v> / sum D)`` in y, and that goes on to the logits through the scores, the
anchor p and the weights w = p. Nothing of the iterations is kept or gone through again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optdecode._plan import PlanKind
from optdecode.backends.torch._closed import Found
from optdecode.backends.torch._coverage import column, power_1m
from optdecode.backends.torch._numeric import Number, total
from optdecode.backends.torch._problem import Problem


def attach(problem: Problem, found: Found, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log q and q, with their gradients in the logits where the plan has any.

    Plans without a regularizer do not move with the logits, except where they jump; mirror ascent stops before it has
    an optimum. Theirs have no graph: differentiating them is an error of torch's.
    """
    rate = RATES.get(problem.structure.kind)
    if rate is None or not logits.requires_grad:
        return found.log_q, found.q
    relative = torch.where(found.log_q > -torch.inf, rate(problem, found), 0.0)
    # What a gradient in y becomes in the logits: a factor, and through the weights.
    numbers, structure = problem.numbers, problem.structure
    scale = numbers.score_weight / (1.0 if structure.raw_scores else numbers.temperature)
    if structure.anchor == "model":
        scale = scale + numbers.lam / numbers.temperature
    through: Tensor | None = None
    if structure.kind is PlanKind.COVERAGE_DUAL and structure.weights == "model" and not problem.given_weights:
        budget = column(problem.budget, found.q)
        through = numbers.beta_bar * budget * power_1m(found.q, budget - 1.0)
    p = torch.where(problem.keep, problem.log_p.exp(), 0.0)
    factors = (column(scale, found.q), column(1.0 / numbers.temperature, found.q))
    log_q, q = _Optimum.apply(logits, found.log_q, found.q, relative, through, p, problem.bad, *factors)
    return log_q, q


class _Optimum(torch.autograd.Function):
    """q and log q as functions of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_q: Tensor, q: Tensor, *saved: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(log_q, q, *saved)
        ctx.dtype = logits.dtype
        return log_q.clone(), q.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_log_q: Tensor, grad_q: Tensor) -> tuple[Tensor | None, ...]:
        log_q, q, relative, through, p, bad, scale, inverse = ctx.saved_tensors
        on = log_q > -torch.inf
        weight = relative * q
        # D v, of a gradient in log q D / q times it, so that tokens whose q has underflowed count.
        moved = weight * grad_q + torch.where(on, relative * grad_log_q, 0.0)
        moved = moved - weight * (total(moved) / total(weight)).to(q.dtype)
        grad = scale * moved
        if through is not None:
            in_w = p * through * moved
            grad = grad + inverse * (in_w - p * total(in_w).to(q.dtype))
        return torch.where(bad, torch.nan, grad).to(ctx.dtype), *(None,) * 9


def _of_entropy(problem: Problem, found: Found) -> Tensor:
    return torch.ones_like(found.q) / problem.numbers.lam


def _of_quadratic(problem: Problem, found: Found) -> Tensor:
    return 1.0 / (problem.numbers.lam * found.q)


def _of_tsallis(problem: Problem, found: Found) -> Tensor:
    power: Number = 1.0 - problem.numbers.alpha
    return (power * found.log_q).exp() / problem.numbers.lam


def _of_coverage(problem: Problem, found: Found) -> Tensor:
    budget = column(problem.budget, found.q)
    gain = problem.numbers.beta_bar * problem.w * budget * (budget - 1.0)
    return 1.0 / (problem.numbers.lam + gain * found.q * power_1m(found.q, (budget - 2.0).clamp(min=0.0)))


#: Plan kind → ``1 / (q Omega''(q))``, on the support.
RATES: dict[PlanKind, Callable[[Problem, Found], Tensor]] = {
    PlanKind.SOFTMAX: _of_entropy,
    PlanKind.FACE_SOFTMAX: _of_entropy,
    PlanKind.ANCHORED_SOFTMAX: _of_entropy,
    PlanKind.THRESHOLD_QUADRATIC: _of_quadratic,
    PlanKind.THRESHOLD_TSALLIS: _of_tsallis,
    PlanKind.COVERAGE_DUAL: _of_coverage,
}
