"""Closed forms: the vertex and the softmaxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optdecode.backends.torch._numeric import WIDE, first_true, floor_of, largest, log_softmax
from optdecode.backends.torch._problem import Problem


class Found(NamedTuple):
    """The optimum on the face.

    Attributes
    ----------
    log_q, q : Tensor, shape (B, V)
        −inf and 0 off the support.
    threshold : Tensor, float64 (B, 1)
        Of the shifted linear term.
    iterations : Tensor, int64 (B, 1)
        0 for closed forms.
    residual : Tensor, float64 (B, 1)
        ``|sum q - 1|`` before the last normalisation.
    """

    log_q: Tensor
    q: Tensor
    threshold: Tensor
    iterations: Tensor
    residual: Tensor


def from_logs(
    problem: Problem, log_q: Tensor, threshold: Tensor, iterations: Tensor | None = None, residual: Tensor | None = None
) -> Found:  # fmt: skip
    """Return what a solver found in logarithms that are normalised already."""
    log_q = torch.where(problem.on, log_q, -torch.inf)
    none = torch.zeros_like(threshold)
    steps = none.to(torch.int64) if iterations is None else iterations
    return Found(log_q, log_q.exp(), threshold, steps, none if residual is None else residual)


def vertex(problem: Problem, value: Tensor) -> Found:
    """All mass on the best token by (value descending, logit descending, index ascending)."""
    on = problem.on & (value == largest(value, problem.on))
    on = on & (problem.x == largest(problem.x, on))
    at = torch.arange(on.shape[-1], device=on.device) == first_true(on)
    log_q = torch.where(at, torch.zeros_like(value), -torch.inf)
    return from_logs(problem, log_q, largest(value, problem.on).to(WIDE))


def argmax(problem: Problem) -> Found:
    """Omega = 0."""
    return vertex(problem, problem.l)


def softmax(problem: Problem) -> Found:
    """Solve by q = softmax(l / lam); threshold lam (lse(l / lam) - 1)."""
    return _softmax(problem, _over_lam(problem))


def anchored_softmax(problem: Problem) -> Found:
    """Solve by q = softmax(log r + l / lam); threshold lam (lse(log r + l / lam) - 1)."""
    return _softmax(problem, _over_lam(problem) + problem.log_r)


def _over_lam(problem: Problem) -> Tensor:
    return (problem.l / problem.numbers.lam).clamp(min=floor_of(problem.width))


def _softmax(problem: Problem, z: Tensor) -> Found:
    log_q, log_total = log_softmax(z, problem.on)
    return from_logs(problem, log_q, problem.numbers.lam * (log_total - 1.0))
