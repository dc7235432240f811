"""Plans of a call, taken apart: what decides which operations run, and numbers, which may differ from row to row.

Rows whose plans have the same `Structure` are solved together, whatever their temperatures, thresholds and budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from optdecode._plan import Plan, PlanKind
from optdecode.backends.torch._numeric import WIDE, Number
from optdecode.errors import BackendUnavailableError
from optdecode.regularizers import Weights
from optdecode.supports import Rule

#: (rule, measured on raw logits): a rule without its number.
RuleName = tuple[str, bool]

#: The plans that this backend solves; `SOLVERS` in `_solve` has one function for each.
KINDS = (
    PlanKind.ARGMAX,
    PlanKind.SOFTMAX,
    PlanKind.FACE_SOFTMAX,
    PlanKind.ANCHORED_SOFTMAX,
    PlanKind.THRESHOLD_QUADRATIC,
    PlanKind.THRESHOLD_TSALLIS,
    PlanKind.COVERAGE_DUAL,
    PlanKind.COVERAGE_WATERFILL,
    PlanKind.MIRROR,
)
_CLOSED = (PlanKind.ARGMAX, PlanKind.SOFTMAX, PlanKind.FACE_SOFTMAX, PlanKind.ANCHORED_SOFTMAX)

#: Up to these gains, and gains times K, float32 has the roots of Best-of-K to 3e-6.
_MILD_GAIN, _MILD_PRODUCT = 16.0, 100.0


class Structure(NamedTuple):
    """What decides which operations run."""

    kind: PlanKind
    #: Of Tsallis plans: "quadratic" (alpha = 2), "half" (1.5), "flat" (below 2) or "steep".
    branch: str
    #: Sign of the score weight.
    sign: int
    raw_scores: bool
    anchor: str
    weights: str
    weight_values: Weights | None
    weight_rules: tuple[RuleName, ...]
    steps: int
    auto_step: bool
    rules: tuple[RuleName, ...]
    chains: tuple[tuple[RuleName, ...], ...]
    allowed: tuple[int, ...] | None
    #: Whether scores and probabilities of rows narrower than float64 need float64 all the same.
    wide: bool


class Numbers(NamedTuple):
    """The numbers of the plans of a group of rows."""

    temperature: Number
    score_weight: Number
    lam: Number
    alpha: Number
    beta_bar: Number
    budget: Number
    eta: Number
    rules: tuple[Number, ...]
    chains: tuple[tuple[Number, ...], ...]
    weight_rules: tuple[Number, ...]


#: The rules that this backend measures; `RULES` in `_supports` has one function for each.
RULE_NAMES = ("top_k", "top_p", "min_p", "top_n_sigma", "p_less", "epsilon", "eta")


def refusal(plan: Plan) -> str | None:
    """Return what this backend has no solver for in a plan, None where it solves it."""
    name = plan.kind.name
    if plan.kind not in KINDS:
        return name
    if plan.cap < 1.0:
        return f"{name} with Cap({plan.cap:g})"
    if plan.target is not None:
        return f"{name} with a target of {plan.target[0]}"
    if plan.tolerance is not None:
        return f"{name} with a tolerance"
    rules = [rule for rules in (plan.supports, plan.weight_supports, *plan.chains) for rule, *_ in rules]
    return next((f"the support {rule}" for rule in rules if rule not in RULE_NAMES), None)


def check(plan: Plan) -> None:
    """Refuse a plan that this backend has no solver for, by name.

    Raises
    ------
    BackendUnavailableError
        There is none.
    """
    what = refusal(plan)
    if what is not None:
        raise BackendUnavailableError(
            f"the torch backend has no solver for {what}; on the CPU backend='rust' may have one"
        )


def structure(plan: Plan, *, measured_by_call: bool) -> Structure:
    """Return the structure of a plan; `measured_by_call`: weights or a budget come with the rows."""
    check(plan)
    return Structure(
        kind=plan.kind,
        branch=_branch(plan),
        sign=int(plan.score_weight > 0.0) - int(plan.score_weight < 0.0),
        raw_scores=plan.raw_scores,
        anchor=plan.anchor,
        weights=plan.weights,
        weight_values=plan.weight_values,
        weight_rules=_names(plan.weight_supports),
        steps=plan.steps,
        auto_step=plan.kind is PlanKind.MIRROR and plan.eta is None,
        rules=_names(plan.supports),
        chains=tuple(_names(chain) for chain in plan.chains),
        allowed=plan.allowed,
        wide=not _fits_float32(plan, measured_by_call),
    )


def _names(rules: Sequence[Rule]) -> tuple[RuleName, ...]:
    return tuple((name, raw) for name, _, raw in rules)


def _branch(plan: Plan) -> str:
    if plan.kind is not PlanKind.THRESHOLD_TSALLIS:
        return ""
    if plan.alpha in (1.5, 2.0):
        return "half" if plan.alpha == 1.5 else "quadratic"
    return "flat" if plan.alpha < 2.0 else "steep"


def _fits_float32(plan: Plan, measured_by_call: bool) -> bool:
    """Whether float32 arithmetic has the optimum to 1e-5 in total variation, whatever the row.

    Thresholds subtract scores that are close to each other, so they take float64: with n tokens at a probability of 1
    / n rounding of the scores would be of the same size. So do sums of scores and an anchor of opposite signs.
    """
    numbers = (plan.temperature, plan.temperature * plan.lam if plan.lam else 1.0, abs(plan.score_weight) or 1.0)
    ordinary = all(1e-15 < number < 1e15 for number in numbers)
    if not ordinary or plan.anchor == "given" or plan.score_weight < 0.0:
        return False
    if plan.kind in _CLOSED:
        return True
    if plan.kind is PlanKind.COVERAGE_DUAL and not measured_by_call and plan.weights != "array":
        gain = plan.beta_bar * plan.budget / plan.lam
        return gain <= _MILD_GAIN and gain * plan.budget <= _MILD_PRODUCT
    return False


def numbers(plans: Sequence[Plan], width: torch.dtype, device: torch.device) -> Numbers:
    """Return the numbers of plans with the same structure, one for all rows or one a row."""

    def stack(values: Sequence[float], dtype: torch.dtype) -> Number:
        if all(value == values[0] for value in values):
            return float(values[0])
        return torch.tensor(values, dtype=dtype, device=device)[:, None]

    def own(name: str) -> Number:
        return stack([getattr(plan, name) for plan in plans], width)

    def of_rules(each: Sequence[tuple[Rule, ...]]) -> tuple[Number, ...]:
        columns = zip(*each, strict=True)
        return tuple(
            stack([_number(rule, plan.temperature) for rule, plan in zip(column, plans, strict=True)], WIDE)
            for column in columns
        )

    return Numbers(
        temperature=own("temperature"),
        score_weight=own("score_weight"),
        lam=own("lam"),
        alpha=own("alpha"),
        beta_bar=own("beta_bar"),
        budget=own("budget"),
        eta=stack([plan.eta or 0.0 for plan in plans], width),
        rules=of_rules([plan.supports for plan in plans]),
        chains=tuple(of_rules([plan.chains[i] for plan in plans]) for i in range(len(plans[0].chains))),
        weight_rules=of_rules([plan.weight_supports for plan in plans]),
    )


def _number(rule: Rule, temperature: float) -> float:
    """Return what a rule is measured with: of min-p how far below the best token it ends."""
    name, value, raw = rule
    if name != "min_p":
        return value
    return (1.0 if raw else temperature) * math.log(value) if value > 0.0 else -math.inf
