"""From a group of rows to their optima: the table of solvers, and the scalars that go with every distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from optdecode._plan import PlanKind
from optdecode._status import Status
from optdecode.backends.torch import _closed, _coverage, _threshold, _waterfill
from optdecode.backends.torch._closed import Found
from optdecode.backends.torch._numeric import WIDE, total
from optdecode.backends.torch._problem import Problem

#: Plan kind → solver: all that a new plan has to add to this backend, beside its name in `_parameters.KINDS`.
SOLVERS: dict[PlanKind, Callable[[Problem], Found]] = {
    PlanKind.ARGMAX: _closed.argmax,
    PlanKind.SOFTMAX: _closed.softmax,
    PlanKind.FACE_SOFTMAX: _closed.softmax,
    PlanKind.ANCHORED_SOFTMAX: _closed.anchored_softmax,
    PlanKind.THRESHOLD_QUADRATIC: _threshold.quadratic,
    PlanKind.THRESHOLD_TSALLIS: _threshold.tsallis,
    PlanKind.COVERAGE_DUAL: _coverage.coverage_dual,
    PlanKind.COVERAGE_WATERFILL: _waterfill.coverage_waterfill,
    PlanKind.MIRROR: _coverage.mirror,
}

#: Of ``|sum q - 1|`` before the last normalisation: what float precision explains.
_RESIDUAL = {torch.float64: 1e-9, torch.float32: 1e-5}


class Scalars(NamedTuple):
    """What is reported with a distribution, float64 (B, 1); NaN on rows without one."""

    threshold: Tensor
    objective: Tensor
    entropy: Tensor
    kl: Tensor
    kept_mass: Tensor


def find(problem: Problem) -> tuple[Found, Tensor]:
    """Solve a group of rows; returns what was found, and the statuses (B, 1)."""
    found = SOLVERS[problem.structure.kind](problem)
    # Written so that a residual that is not a number is none that precision explains.
    loose = ~(found.residual <= _RESIDUAL[problem.width])
    reduced = torch.where(loose & (problem.status == 0), int(Status.REDUCED_ACCURACY), problem.status)
    return found, reduced


def scalars(problem: Problem, found: Found) -> Scalars:
    """Measure a distribution."""
    q, log_q = found.q, found.log_q
    some = q > 0.0  # what has underflowed contributes nothing
    linear = total(torch.where(some, q * problem.l, 0.0))
    entropy = -total(torch.where(some, q * log_q, 0.0))
    kl = total(torch.where(some, q * (log_q - problem.log_r), 0.0))
    kept = total(torch.where(log_q > -torch.inf, problem.log_p.exp(), 0.0))
    columns = (
        found.threshold + problem.offset,
        linear - _regularizer(problem, found, entropy, kl) + problem.offset,
        entropy.clamp(min=0.0),
        kl.clamp(min=0.0),
        kept,
    )
    return Scalars(*(torch.where(problem.bad, torch.nan, value) for value in columns))


def _regularizer(problem: Problem, found: Found, entropy: Tensor, kl: Tensor) -> Tensor:
    """Return Omega(q), (B, 1)."""
    lam, kind = problem.numbers.lam, problem.structure.kind
    if kind is PlanKind.ARGMAX:
        return torch.zeros_like(entropy)
    if kind in (PlanKind.SOFTMAX, PlanKind.FACE_SOFTMAX):
        return -lam * entropy
    if kind is PlanKind.ANCHORED_SOFTMAX:
        return lam * kl
    if kind is PlanKind.THRESHOLD_QUADRATIC:
        return 0.5 * lam * total(found.q.to(WIDE).square())
    if kind is PlanKind.THRESHOLD_TSALLIS:
        power = problem.numbers.alpha - 1.0
        # q (q^(alpha - 1) - 1), which does not cancel as alpha approaches 1.
        each = torch.where(found.q > 0.0, found.q * torch.expm1(power * found.log_q), 0.0)
        return lam * total(each) / (problem.numbers.alpha * power)
    return lam * kl - problem.numbers.beta_bar * _coverage.covered(problem, found.q)
