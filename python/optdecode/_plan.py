"""From a problem to a plan: the closed set of ways in which distributions are computed.

`lower` is a pure function. A new plan is a member of `PlanKind`, a row in `_LOWERINGS` and a solver in each backend;
tests are parametrised over `PlanKind`, so a plan without a solver fails them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optdecode._problem import MirrorAscent, Problem
from optdecode.errors import ProblemError
from optdecode.regularizers import KL, Coverage, NegEntropy, Quadratic, Regularizer, Tsallis, Weights
from optdecode.supports import Rule, Support, allowed_ids, at_zero_temperature, may_drop_best

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PlanKind(Enum):
    """Which solver runs; values are the names that backends know."""

    ARGMAX = "argmax"
    SOFTMAX = "softmax"
    FACE_SOFTMAX = "face_softmax"
    ANCHORED_SOFTMAX = "anchored_softmax"
    THRESHOLD_QUADRATIC = "threshold_quadratic"
    THRESHOLD_TSALLIS = "threshold_tsallis"
    COVERAGE_DUAL = "coverage_dual"
    COVERAGE_WATERFILL = "coverage_waterfill"
    MIRROR = "mirror"

    @property
    def method(self) -> str:
        """How the plan computes its distribution."""
        return _METHODS[self]

    @property
    def is_exact(self) -> bool:
        """Whether the result is the optimum to float precision."""
        return self is not PlanKind.MIRROR


_METHODS = {
    PlanKind.ARGMAX: "vertex at the largest score, lowest token id on ties",
    PlanKind.SOFTMAX: "softmax in closed form",
    PlanKind.FACE_SOFTMAX: "softmax in closed form on the face that the supports select",
    PlanKind.ANCHORED_SOFTMAX: "r exp(s / lam), normalised, in closed form",
    PlanKind.THRESHOLD_QUADRATIC: "[s - eta]+ / lam with an exact finite threshold search",
    PlanKind.THRESHOLD_TSALLIS: "entmax threshold: finite search for alpha 1.5 and 2, safeguarded Newton otherwise",
    PlanKind.COVERAGE_DUAL: "exact scalar dual: Newton on the normaliser, one monotone root a token",
    PlanKind.COVERAGE_WATERFILL: "exact waterfilling (lam = 0): one monotone root, sparse",
    PlanKind.MIRROR: "mirror ascent from the anchor (Algorithm 1 of arXiv:2602.18292)",
}


@dataclass(frozen=True)
class Plan:
    """A problem in the form that backends solve; see `rust/core/src/plan.rs`, its mirror image.

    Attributes
    ----------
    kind : PlanKind
        Which solver runs.
    temperature, score_weight, raw_scores
        As in `Problem`; temperature is positive.
    lam : float
        Coefficient of the main regularizer.
    alpha : float
        Tsallis exponent (1 where there is none).
    beta_bar, budget, weights, weight_values, weight_supports
        The coverage term; ``weights`` is ``"model"``, ``"uniform"``, ``"rank"``, ``"support"`` or ``"array"``.
    anchor : str
        ``"none"``, ``"model"`` or ``"given"``.
    steps, eta, tolerance
        Mirror ascent; eta None is 1 / L; tolerance, in lam, None for exactly `steps` steps.
    supports : tuple of Rule
        (rule, parameter, measured on raw logits).
    chains : tuple of tuple of Rule
        Ordered rules, each measured on the renormalised rest of the one before it.
    allowed : tuple of int, optional
        Sorted token ids, None for all.
    """

    kind: PlanKind
    temperature: float = 1.0
    score_weight: float = 1.0
    raw_scores: bool = False
    lam: float = 0.0
    alpha: float = 1.0
    beta_bar: float = 0.0
    budget: int = 1
    weights: str = "model"
    weight_values: Weights | None = None
    weight_supports: tuple[Rule, ...] = ()
    anchor: str = "none"
    steps: int = 0
    eta: float | None = None
    tolerance: float | None = None
    supports: tuple[Rule, ...] = ()
    chains: tuple[tuple[Rule, ...], ...] = ()
    allowed: tuple[int, ...] | None = None

    def weight_array(self) -> NDArray[Any] | None:
        """The weights given as an array, shape (V,), float64; None where they are not."""
        return None if self.weight_values is None else self.weight_values.array()

    def __getstate__(self) -> dict[str, Any]:
        # A backend may hang its compiled form on the plan (`_native`); it is derived, so it does not travel.
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_native")}

    @cached_property
    def fits_any_call(self) -> bool:
        """Whether the plan solves logits of any V with nothing beside them."""
        return self.anchor != "given" and self.weight_values is None and not self.allowed

    @property
    def selects(self) -> bool:
        """Whether the scores choose a face."""
        return bool(self.supports or self.chains)

    @property
    def has_coverage(self) -> bool:
        """Whether budget and weights mean anything to this plan."""
        return self.kind in (PlanKind.COVERAGE_DUAL, PlanKind.COVERAGE_WATERFILL, PlanKind.MIRROR)


def lower(problem: Problem, solver: MirrorAscent | None = None) -> Plan:
    """Return the plan that solves a problem.

    Parameters
    ----------
    problem : Problem
        What to solve.
    solver : MirrorAscent, optional
        None is the exact solver of the plan; mirror ascent runs only where a coverage objective allows it.

    Returns
    -------
    Plan
        Equal problems give equal plans.

    Raises
    ------
    ProblemError
        The problem is not concave, or no plan solves it.
    """
    terms = {} if problem.regularizer is None else {type(term): (a, term) for a, term in problem.regularizer.terms()}
    build = _LOWERINGS.get(frozenset(terms))
    if build is None or (problem.regularizer is not None and len(terms) < len(problem.regularizer.terms())):
        raise ProblemError(_no_plan(problem.regularizer))
    rules, chains = _faces(problem.support)
    base = Plan(
        PlanKind.ARGMAX,
        temperature=problem.temperature,
        score_weight=problem.score_weight,
        raw_scores=problem.scores == "raw",
        supports=rules,
        chains=chains,
        allowed=allowed_ids(problem.support),
    )
    plan = build(base, terms)
    if solver is not None:
        plan = _by_mirror(plan, solver)
    if plan.kind is PlanKind.ARGMAX or plan.temperature == 0.0:
        plan = _to_argmax(plan)
    if plan.kind is PlanKind.SOFTMAX and plan.selects:
        plan = replace(plan, kind=PlanKind.FACE_SOFTMAX)
    return plan


def _faces(support: Support | None) -> tuple[tuple[Rule, ...], tuple[tuple[Rule, ...], ...]]:
    """Return the rules and the chains of a support, each once and in canonical order."""
    if support is None:
        return (), ()
    return tuple(sorted(set(support.rules()))), tuple(sorted(set(support.chains())))


TermMap = dict[type[Regularizer], tuple[float, Any]]


def _positive(coefficient: float, term: Regularizer) -> float:
    if coefficient < 0:
        raise ProblemError(f"{coefficient:g} * {term!r} is concave; a regularizer needs a coefficient > 0")
    return coefficient


def _lower_none(base: Plan, terms: TermMap) -> Plan:
    return base


def _lower_entropy(base: Plan, terms: TermMap) -> Plan:
    return replace(base, kind=PlanKind.SOFTMAX, lam=_positive(*terms[NegEntropy]))


def _lower_quadratic(base: Plan, terms: TermMap) -> Plan:
    return replace(base, kind=PlanKind.THRESHOLD_QUADRATIC, lam=_positive(*terms[Quadratic]))


def _lower_tsallis(base: Plan, terms: TermMap) -> Plan:
    lam, term = _positive(*terms[Tsallis]), terms[Tsallis][1]
    if term.alpha == 1.0:
        return replace(base, kind=PlanKind.SOFTMAX, lam=lam)
    return replace(base, kind=PlanKind.THRESHOLD_TSALLIS, lam=lam, alpha=term.alpha)


def _lower_kl(base: Plan, terms: TermMap) -> Plan:
    lam, term = _positive(*terms[KL]), terms[KL][1]
    return replace(base, kind=PlanKind.ANCHORED_SOFTMAX, lam=lam, anchor=term.anchor)


def _lower_coverage(base: Plan, terms: TermMap) -> Plan:
    coefficient, term = terms[Coverage]
    if coefficient > 0:
        raise ProblemError(f"coverage is concave, so it is subtracted: write - {coefficient:g} * {term!r}")
    if KL in terms:
        base = replace(_lower_kl(base, terms), kind=PlanKind.COVERAGE_DUAL)
    else:
        base = replace(base, kind=PlanKind.COVERAGE_WATERFILL)
    weights = term.weights
    return replace(
        base,
        beta_bar=-coefficient,
        budget=term.budget,
        weights=weights if isinstance(weights, str) else "support" if isinstance(weights, Support) else "array",
        weight_values=weights if isinstance(weights, Weights) else None,
        weight_supports=_weight_rules(weights) if isinstance(weights, Support) else (),
    )


def _weight_rules(support: Support) -> tuple[Rule, ...]:
    if allowed_ids(support) is not None:
        raise ProblemError("Coverage: weights cannot be Allowed(...); pass an array with 1 for these tokens")
    rules, chains = _faces(support)
    if chains:
        raise ProblemError(f"Coverage: weights cannot be an ordered chain; got {support!r}")
    return rules


#: Which sums of regularizers have a plan. Keys are the types that occur, each once.
_LOWERINGS: dict[frozenset[type[Regularizer]], Callable[[Plan, TermMap], Plan]] = {
    frozenset(): _lower_none,
    frozenset({NegEntropy}): _lower_entropy,
    frozenset({Quadratic}): _lower_quadratic,
    frozenset({Tsallis}): _lower_tsallis,
    frozenset({KL}): _lower_kl,
    frozenset({Coverage}): _lower_coverage,
    frozenset({KL, Coverage}): _lower_coverage,
}


def _no_plan(regularizer: Regularizer | None) -> str:
    return (
        f"no plan solves the regularizer {regularizer!r}; solvable are a * NegEntropy(), a * Quadratic(), "
        "a * Tsallis(alpha), a * KL(anchor) and a * KL(anchor) - b * Coverage(budget, weights) with a, b >= 0"
    )


def _by_mirror(plan: Plan, solver: MirrorAscent) -> Plan:
    # ARGMAX here: no regularizer at all, a linear objective.
    mirror_kinds = (PlanKind.COVERAGE_DUAL, PlanKind.COVERAGE_WATERFILL, PlanKind.ANCHORED_SOFTMAX, PlanKind.ARGMAX)
    if plan.kind not in mirror_kinds:
        raise ProblemError(
            f"MirrorAscent solves a * KL(anchor) - b * Coverage(...); the plan of this problem is {plan.kind.name}"
        )
    if solver.tolerance is not None and plan.lam == 0.0:
        raise ProblemError(
            f"MirrorAscent: tolerance is measured in lam, and this problem has lam = 0; got {solver.tolerance:g}. "
            "Leave it out, for exactly `steps` steps"
        )
    eta = None if solver.eta == "auto" else float(solver.eta)
    anchor = "model" if plan.anchor == "none" else plan.anchor
    return replace(plan, kind=PlanKind.MIRROR, steps=solver.steps, eta=eta, tolerance=solver.tolerance, anchor=anchor)


def _to_argmax(plan: Plan) -> Plan:
    # In the limit T -> 0 the scores outweigh every finite regularizer. What is left are the constraints that forbid
    # tokens outright, and supports if some may drop the best token.
    if plan.score_weight <= 0 or (plan.temperature == 0 and plan.raw_scores):
        raise ProblemError(
            "greedy decoding (no regularizer, or temperature 0) needs score_weight > 0 and scores='tempered'; "
            f"got score_weight={plan.score_weight:g}, scores={'raw' if plan.raw_scores else 'tempered'!r}"
        )
    supports, chains = plan.supports, plan.chains
    if plan.temperature == 0:
        supports, *chains_at_zero = (tuple(map(at_zero_temperature, rules)) for rules in (supports, *chains))
        supports, chains = tuple(sorted(set(supports))), tuple(sorted(set(chains_at_zero)))
    if not any(map(may_drop_best, (rule for rules in (supports, *chains) for rule in rules))):
        supports, chains = (), ()
    return Plan(
        PlanKind.ARGMAX,
        temperature=plan.temperature or 1.0,
        score_weight=plan.score_weight,
        raw_scores=plan.raw_scores,
        anchor="given" if plan.anchor == "given" else "none",
        supports=supports,
        chains=chains,
        allowed=plan.allowed,
    )
