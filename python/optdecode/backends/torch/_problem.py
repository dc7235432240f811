"""Rows as solvers see them: checked, shifted, with their face, anchor and weights; every tensor (B, V) or (B, 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optdecode._plan import PlanKind
from optdecode._status import Status
from optdecode.backends.torch._numeric import WIDE, Number, floor_of, largest, log_softmax
from optdecode.backends.torch._order import keys, ranks
from optdecode.backends.torch._parameters import Numbers, Structure
from optdecode.backends.torch._supports import Measured, select

_COVERING = (PlanKind.COVERAGE_DUAL, PlanKind.COVERAGE_WATERFILL, PlanKind.MIRROR)


class Inputs(NamedTuple):
    """The tensors of a call, all on one device.

    Attributes
    ----------
    logits : Tensor, shape (B, V)
        Of any float type.
    mask : Tensor of bool, shape (B or 1, V), optional
        Allowed tokens.
    anchor, weights : Tensor of float64, shape (B or 1, V), optional
        As in `Decoder.__call__`.
    budget : Tensor of int64, shape (B,), optional
        As in `Decoder.__call__`; a row whose budget is below 1 is a bad one.
    """

    logits: Tensor
    mask: Tensor | None = None
    anchor: Tensor | None = None
    weights: Tensor | None = None
    budget: Tensor | None = None

    def at(self, rows: Tensor) -> Inputs:
        """Return some of the rows."""

        def some(part: Tensor | None) -> Tensor | None:
            return part if part is None or part.shape[0] == 1 else part.index_select(0, rows)

        budget = None if self.budget is None else self.budget.index_select(0, rows)
        logits = self.logits.index_select(0, rows)
        return Inputs(logits, some(self.mask), some(self.anchor), some(self.weights), budget)


class Problem(NamedTuple):
    """A group of rows with plans of one structure.

    Attributes
    ----------
    structure, numbers
        Of their plans.
    x : Tensor
        Logits, 0 where they are not allowed.
    keep, on : Tensor of bool
        Allowed tokens; those of the face.
    l : Tensor
        The linear term less its largest value over the face, the floor elsewhere.
    offset : Tensor, float64 (B, 1)
        That value.
    log_p, log_r : Tensor
        The model distribution and the anchor (the model, where there is none), over the allowed tokens.
    w : Tensor
        Coverage weights; 0 where a plan has none.
    budget : Number
        K.
    given_weights : bool
        The weights came with the call.
    status : Tensor of int64, (B, 1)
        Rows that are not solved hold zeros for logits.
    """

    structure: Structure
    numbers: Numbers
    x: Tensor
    keep: Tensor
    on: Tensor
    l: Tensor  # noqa: E741  # the notation of the formulas
    offset: Tensor
    log_p: Tensor
    log_r: Tensor
    w: Tensor
    budget: Number
    given_weights: bool
    status: Tensor

    @property
    def width(self) -> torch.dtype:
        """The type of the arithmetic."""
        return self.x.dtype

    @property
    def bad(self) -> Tensor:
        """Rows that are not solved, (B, 1)."""
        return self.status > int(Status.REDUCED_ACCURACY)


def work_type(structure: Structure, logits: Tensor) -> torch.dtype:
    """Return the type that a group of rows is computed in."""
    return torch.float64 if structure.wide or logits.dtype == torch.float64 else torch.float32


def prepare(structure: Structure, numbers: Numbers, inputs: Inputs) -> Problem:
    """Read, check and shift rows; measure their model distribution, face and weights."""
    raw = inputs.logits.detach()
    raw = raw if raw.dtype == torch.float64 else raw.to(torch.float32)
    anchor = inputs.anchor if structure.anchor == "given" else None
    keep, status = _allowed(structure, raw, inputs.mask, anchor)
    bad = status > 0
    keep = keep | bad
    raw = torch.where(keep & ~bad, raw, 0.0)
    x = raw.to(work_type(structure, raw))
    floor = floor_of(x.dtype)
    below = torch.where(keep, x - largest(x, keep), floor)
    log_p, _ = log_softmax((below / numbers.temperature).clamp(min=floor), keep)
    log_r = log_p if anchor is None else _anchor(anchor, keep, bad, x.dtype)
    measured = Measured(raw, keep, *keys(raw), below, numbers.temperature)
    w, status = _weights(structure, numbers, inputs, measured, log_p, status)
    on = select(structure.rules, numbers.rules, measured)
    for names, values in zip(structure.chains, numbers.chains, strict=True):
        rest = measured
        for name, value in zip(names, values, strict=True):
            rest = rest._replace(on=select((name,), (value,), rest))
        on = on & rest.on
    linear, offset = _linear(structure, numbers, x, on)
    budget = numbers.budget
    if inputs.budget is not None and structure.kind in _COVERING:
        own = inputs.budget[:, None]
        status = torch.where((status == 0) & (own < 1), int(Status.BAD_WEIGHTS), status)
        budget = own.clamp(min=1).to(x.dtype)
    given = inputs.weights is not None
    return Problem(structure, numbers, x, keep, on, linear, offset, log_p, log_r, w, budget, given, status)


def _allowed(
    structure: Structure, raw: Tensor, mask: Tensor | None, anchor: Tensor | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the allowed tokens, and what forbids a solution, checked in the order of the status codes."""
    keep = raw != -torch.inf
    if mask is not None:
        keep = keep & mask
    if structure.allowed is not None:
        ids = torch.tensor([i for i in structure.allowed if i < raw.shape[-1]], dtype=torch.int64, device=raw.device)
        keep = keep & torch.zeros_like(keep[0]).scatter(0, ids, True)
    if anchor is not None:
        keep = keep & (anchor != -torch.inf)
    cases = [
        (Status.INFEASIBLE, ~keep),
        (Status.BAD_ANCHOR, None if anchor is None else keep & ~anchor.isfinite()),
        (Status.INF_SCORES, keep & (raw == torch.inf)),
        (Status.NAN_SCORES, keep & raw.isnan()),
    ]
    status = torch.zeros((raw.shape[0], 1), dtype=torch.int64, device=raw.device)
    for code, tokens in cases:
        if tokens is not None:
            found = tokens.all(-1, keepdim=True) if code is Status.INFEASIBLE else tokens.any(-1, keepdim=True)
            status = torch.where(found, int(code), status)
    return keep, status


def _anchor(anchor: Tensor, keep: Tensor, bad: Tensor, width: torch.dtype) -> Tensor:
    floor = floor_of(width)
    values = torch.where(keep & ~bad, anchor, 0.0).clamp(min=floor).to(width)
    return log_softmax(values, keep)[0]


def _weights(
    structure: Structure, numbers: Numbers, inputs: Inputs, measured: Measured, log_p: Tensor, status: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the coverage weights, and statuses with those that the weights bring."""
    keep = measured.on
    none = torch.zeros_like(log_p)
    if structure.kind not in _COVERING:
        return none, status
    given = inputs.weights
    if given is None and structure.weight_values is not None:
        given = torch.from_numpy(structure.weight_values.array().copy()).to(log_p.device)[None]
    if given is not None:
        bad = (keep & ~(given.isfinite() & (given >= 0.0))).any(-1, keepdim=True)
        status = torch.where((status == 0) & bad, int(Status.BAD_WEIGHTS), status)
        return torch.where(keep & ~bad, given, 0.0).to(log_p.dtype), status
    if structure.weights == "model":
        return torch.where(keep, log_p.exp(), 0.0), status
    if structure.weights == "rank":
        place = ranks(measured.key, measured.bits, keep)
        return torch.where(keep, 1.0 / place.to(log_p.dtype), 0.0), status
    if structure.weights == "support":
        return select(structure.weight_rules, numbers.weight_rules, measured).to(log_p.dtype), status
    return torch.where(keep, torch.ones_like(none), 0.0), status


def _linear(structure: Structure, numbers: Numbers, x: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Return the linear term less its largest value over the face, and that value."""
    floor = floor_of(x.dtype)
    if structure.sign == 0:
        return torch.where(on, torch.zeros_like(x), floor), torch.zeros_like(x[:, :1], dtype=WIDE)
    best = largest(x, on) if structure.sign > 0 else -largest(-x, on)
    scale = 1.0 if structure.raw_scores else numbers.temperature
    moved = (numbers.score_weight * ((x - best) / scale).clamp(floor, -floor)).clamp(min=floor)
    return torch.where(on, moved, floor), numbers.score_weight * (best.to(WIDE) / scale)
