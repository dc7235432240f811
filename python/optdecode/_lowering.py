"""From a problem to its plan; `lower` is a pure function.

A sum of regularizers that has a solver of its own is a row in ``_LOWERINGS``; any other sum of separable terms goes to
the scalar dual if it is convex, term by term or because differences of entropies stay convex (`optdecode._curvature`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optdecode._curvature import is_convex
from optdecode._plan import Plan, PlanKind, Term
from optdecode._problem import MirrorAscent, Problem
from optdecode._spec import one_of
from optdecode.constraints import Cap, Constraint, Divergence, Entropy
from optdecode.errors import ProblemError
from optdecode.regularizers import (
    KL,
    L0,
    AlphaDivergence,
    ChiSquare,
    Coverage,
    LogCoverage,
    NegEntropy,
    Quadratic,
    Regularizer,
    ReverseKL,
    Terms,
    Tsallis,
    Weights,
    combine,
    is_own,
)
from optdecode.supports import Rule, Support, allowed_ids, at_zero_temperature, may_drop_best

_COVERING = ("coverage", "log_coverage")


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
    parts = () if problem.regularizer is None else problem.regularizer.terms()
    rules, chains = _faces(problem.support)
    cap = _cap(problem.support)
    base = Plan(
        PlanKind.ARGMAX,
        temperature=problem.temperature,
        score_weight=problem.score_weight,
        raw_scores=problem.scores == "raw",
        supports=rules,
        chains=chains,
        allowed=allowed_ids(problem.support),
        cap=cap,
    )
    keeps = tuple(member for member in _members(problem.support) if member.is_own)
    if keeps or any(is_own(term) for _, term in parts):
        return _lower_user(base, problem, keeps, solver)
    build = _LOWERINGS.get(tuple(sorted(type(term).__name__ for _, term in parts)))
    if any(isinstance(term, L0) for _, term in parts):
        plan = _lower_count(base, parts)
    elif build is not None and (cap == 1.0 or not parts):
        plan = build(base, parts)
    else:
        plan = _lower_sum(base, parts)
    if solver is not None:
        plan = _by_mirror(plan, solver)
    plan = _at_the_vertex(plan)
    if plan.kind is PlanKind.SOFTMAX and plan.selects:
        plan = replace(plan, kind=PlanKind.FACE_SOFTMAX)
    return _with_target(plan, problem)


# ----------------------------------------------------------------------------------------------------- the feasible set


def _faces(support: Support | None) -> tuple[tuple[Rule, ...], tuple[tuple[Rule, ...], ...]]:
    """Return the rules and the chains of a support, each once and in canonical order."""
    if support is None:
        return (), ()
    return tuple(sorted(set(support.rules()))), tuple(sorted(set(support.chains())))


def _members(support: Support | None) -> tuple[Support, ...]:
    return () if support is None else support.members()


def _cap(support: Support | None) -> float:
    return min((member.c for member in _members(support) if isinstance(member, Cap)), default=1.0)


# ------------------------------------------------------------------------------------------- sums with their own solver


def _positive(coefficient: float, term: Regularizer) -> float:
    if coefficient < 0:
        raise ProblemError(f"{coefficient:g} * {term!r} is concave; a regularizer needs a coefficient > 0")
    return coefficient


def _lower_none(base: Plan, parts: Terms) -> Plan:
    return base


def _lower_entropy(base: Plan, parts: Terms) -> Plan:
    return replace(base, kind=PlanKind.SOFTMAX, lam=_positive(*parts[0]))


def _lower_quadratic(base: Plan, parts: Terms) -> Plan:
    return replace(base, kind=PlanKind.THRESHOLD_QUADRATIC, lam=_positive(*parts[0]))


def _lower_tsallis(base: Plan, parts: Terms) -> Plan:
    lam, term = _positive(*parts[0]), parts[0][1]
    assert isinstance(term, Tsallis)
    if term.alpha == 1.0:
        return replace(base, kind=PlanKind.SOFTMAX, lam=lam)
    return replace(base, kind=PlanKind.THRESHOLD_TSALLIS, lam=lam, alpha=term.alpha)


def _lower_kl(base: Plan, parts: Terms) -> Plan:
    lam, term = _positive(*parts[0]), parts[0][1]
    assert isinstance(term, KL)
    return replace(base, kind=PlanKind.ANCHORED_SOFTMAX, lam=lam, anchor=term.anchor)


def _lower_best_of_k(base: Plan, parts: Terms) -> Plan:
    ((coefficient, term),) = [(a, term) for a, term in parts if isinstance(term, Coverage)]
    divergence = tuple((a, term) for a, term in parts if isinstance(term, KL))
    if divergence:
        base = replace(_lower_kl(base, divergence), kind=PlanKind.COVERAGE_DUAL)
    else:
        base = replace(base, kind=PlanKind.COVERAGE_WATERFILL)
    return replace(_with_weights(base, term), beta_bar=_subtracted(coefficient, term))


#: Which sums of regularizers have a plan of their own, by the sorted names of their types.
_LOWERINGS: dict[tuple[str, ...], Callable[[Plan, Terms], Plan]] = {
    (): _lower_none,
    ("NegEntropy",): _lower_entropy,
    ("Quadratic",): _lower_quadratic,
    ("Tsallis",): _lower_tsallis,
    ("KL",): _lower_kl,
    ("Coverage",): _lower_best_of_k,
    ("Coverage", "KL"): _lower_best_of_k,
}


def _subtracted(coefficient: float, term: Regularizer) -> float:
    if coefficient > 0:
        raise ProblemError(f"coverage is concave, so it is subtracted: write - {coefficient:g} * {term!r}")
    return -coefficient


def _with_weights(base: Plan, term: Coverage | LogCoverage) -> Plan:
    """Return the plan with the budget and the weights of its coverage term."""
    weights = term.weights
    return replace(
        base,
        budget=term.budget,
        weights=weights if isinstance(weights, str) else "support" if isinstance(weights, Support) else "array",
        weight_values=weights if isinstance(weights, Weights) else None,
        weight_supports=_weight_rules(weights) if isinstance(weights, Support) else (),
    )


def _weight_rules(support: Support) -> tuple[Rule, ...]:
    if allowed_ids(support) is not None:
        raise ProblemError("Coverage: weights cannot be Allowed(...); pass an array with 1 for these tokens")
    if any(member.is_own for member in support.members()):
        raise ProblemError(f"Coverage: weights cannot be a support of your own; got {support!r}")
    rules, chains = _faces(support)
    if chains or any(isinstance(member, Constraint) for member in support.members()):
        kind = "an ordered chain" if chains else "a constraint that selects no tokens"
        raise ProblemError(f"Coverage: weights cannot be {kind}; got {support!r}")
    return rules


# ----------------------------------------------------------------------------------------------------------- other sums


def _lower_sum(base: Plan, parts: Terms) -> Plan:
    """Lower a convex sum of separable terms to the scalar dual."""
    terms = tuple(_term(coefficient, part) for coefficient, part in parts)
    _check_convex(parts, terms)
    covering = [part for _, part in parts if isinstance(part, (Coverage, LogCoverage))]
    if len(covering) > 1:
        raise ProblemError(
            f"at most one coverage term has a budget and weights of its own; got {' and '.join(map(repr, covering))}"
        )
    for term in covering:
        base = _with_weights(base, term)
    anchors = {term.anchor for term in terms}
    anchor = next((name for name in ("given", "model") if name in anchors), "none")
    return replace(base, kind=PlanKind.SEPARABLE_DUAL, terms=tuple(sorted(terms)), anchor=anchor)


def _term(coefficient: float, part: Regularizer) -> Term:
    match part:
        case NegEntropy():
            return Term("entropy", coefficient)
        case Quadratic():
            return Term("quadratic", coefficient)
        case Tsallis(alpha=alpha):
            return Term("entropy", coefficient) if alpha == 1.0 else Term("tsallis", coefficient, alpha)
        case KL(anchor=anchor):
            return Term("kl", coefficient, anchor=anchor)
        case ChiSquare() | ReverseKL() | AlphaDivergence():
            if coefficient < 0:
                raise ProblemError(f"{coefficient:g} * {part!r}: a divergence from an anchor cannot be subtracted")
            return Term("divergence", coefficient, part.order, part.anchor)
        case Coverage():
            return Term("coverage", _subtracted(coefficient, part))
        case LogCoverage():
            return Term("log_coverage", _subtracted(coefficient, part))
    raise ProblemError(f"no plan solves the regularizer {part!r}")


def _check_convex(parts: Terms, terms: Sequence[Term]) -> None:
    """Refuse a sum that is not convex for want of what its negative terms take away."""
    if all(term.coefficient > 0 for term in terms):
        return
    # Second derivatives, c x^(alpha - 2). Of a divergence it is r^(1 - alpha) times that: at least that for alpha >= 1.
    exponents = {"entropy": -1.0, "kl": -1.0, "quadratic": 0.0}
    powers = [
        (term.coefficient, exponents.get(term.kind, term.alpha - 2.0))
        for term in terms
        if term.kind not in _COVERING and not (term.kind == "divergence" and term.alpha < 1.0)
    ]
    if not is_convex(powers):
        covering = (Coverage, LogCoverage)
        negative = next(part for coefficient, part in parts if coefficient < 0 and not isinstance(part, covering))
        raise ProblemError(
            f"the regularizer {_written(parts)} is not convex on [0, 1]: {negative!r} takes away more than the others "
            "give"
        )


def _written(parts: Terms) -> str:
    return repr(combine(parts))


def _lower_count(base: Plan, parts: Terms) -> Plan:
    """Lower a price a token beside one regularizer whose optimum on the k best tokens has a concave value in k."""
    ((price, _),) = [(a, term) for a, term in parts if isinstance(term, L0)]
    rest = [(a, term) for a, term in parts if not isinstance(term, L0)]
    allowed = len(rest) == 1 and (isinstance(rest[0][1], (NegEntropy, Quadratic, Tsallis)) or rest[0][1] == KL("model"))
    if not allowed:
        raise ProblemError(
            "L0() is solved beside exactly one of NegEntropy(), KL('model'), Quadratic() and Tsallis(alpha); "
            f"got {_written(parts)}"
        )
    if price < 0:
        raise ProblemError(f"{price:g} * L0(): a price a token must be > 0")
    if base.cap < 1.0 or base.score_weight < 0.0:
        given = f"Cap({base.cap:g})" if base.cap < 1.0 else f"score_weight={base.score_weight:g}"
        raise ProblemError(f"L0() keeps the best tokens, which {given} does not")
    term = _term(_positive(*rest[0]), rest[0][1])
    anchor = "model" if term.kind == "kl" else "none"
    return replace(base, kind=PlanKind.ADAPTIVE_K, terms=(term,), price=price, anchor=anchor)


# ------------------------------------------------------------------------------------------------- code of the caller's


def _lower_user(base: Plan, problem: Problem, keeps: tuple[Support, ...], solver: MirrorAscent | None) -> Plan:
    """Lower a problem whose regularizer or support is, in part, the caller's own."""
    parts = () if problem.regularizer is None else problem.regularizer.terms()
    own = [term for _, term in parts if is_own(term)]
    code: Regularizer | Support = own[0] if own else keeps[0]
    for term in own:
        check_own(term)
    for member in _members(problem.support):
        if isinstance(member, (Entropy, Divergence)):
            raise ProblemError(f"{member!r} is not solved with code of your own in the problem; got {code!r}")
    if base.temperature == 0.0:
        if keeps:
            raise ProblemError(
                f"temperature 0 with {keeps[0]!r}: write Problem(support=...) without a regularizer, whose optimum is "
                "the best token that is kept"
            )
        return _at_the_vertex(base)
    rest = tuple((a, term) for a, term in parts if not is_own(term))
    if any(isinstance(term, L0) for _, term in rest):
        raise ProblemError(f"L0() is not solved beside code of your own; got {code!r}")
    if rest:  # what can be known to be convex has to be; the rest is assumed to be
        base = _lower_sum(base, rest)
    plan = replace(base, kind=PlanKind.USER, terms=(), user=parts, keeps=keeps)
    plan = replace(plan, anchor="given" if plan.anchor == "given" else "model")
    if solver is None:
        return plan
    return replace(plan, steps=solver.steps, eta=None if isinstance(solver.eta, str) else float(solver.eta))


def check_own(term: Regularizer) -> None:
    """Raise a ProblemError unless a regularizer of the caller's own has what the solver needs."""
    cls = type(term)
    one_of(cls.__name__, "framework", term.framework, ("numpy", "torch"))
    if cls.value is Regularizer.value:
        raise ProblemError(f"{cls.__name__} needs a method value(self, q, ctx)")
    if cls.gradient is Regularizer.gradient and term.framework != "torch":
        raise ProblemError(
            f"{cls.__name__} needs a method gradient(self, q, ctx), or framework = 'torch', whose gradient is automatic"
        )


# --------------------------------------------------------------------------------------------------- solvers and limits


def _by_mirror(plan: Plan, solver: MirrorAscent) -> Plan:
    # ARGMAX here: no regularizer at all, a linear objective.
    mirror_kinds = (PlanKind.COVERAGE_DUAL, PlanKind.COVERAGE_WATERFILL, PlanKind.ANCHORED_SOFTMAX, PlanKind.ARGMAX)
    if plan.kind not in mirror_kinds or plan.cap < 1.0:
        capped = f" under Cap({plan.cap:g})" if plan.cap < 1.0 else ""
        raise ProblemError(
            "MirrorAscent solves a * KL(anchor) - b * Coverage(...), without a cap; the plan of this problem is "
            f"{plan.kind.name}{capped}"
        )
    if solver.tolerance is not None and plan.lam == 0.0:
        raise ProblemError(
            f"MirrorAscent: tolerance is measured in lam, and this problem has lam = 0; got {solver.tolerance:g}. "
            "Leave it out, for exactly `steps` steps"
        )
    eta = None if solver.eta == "auto" else float(solver.eta)
    anchor = "model" if plan.anchor == "none" else plan.anchor
    return replace(plan, kind=PlanKind.MIRROR, steps=solver.steps, eta=eta, tolerance=solver.tolerance, anchor=anchor)


def _at_the_vertex(plan: Plan) -> Plan:
    """Return the plan of the limits without a regularizer, and others as they are."""
    if plan.kind is not PlanKind.ARGMAX and plan.temperature > 0.0:
        return plan
    # In the limit T -> 0 the scores outweigh every finite regularizer. What is left are the constraints that forbid
    # tokens outright, and supports if some may drop the best token.
    if plan.score_weight <= 0 or (plan.temperature == 0 and plan.raw_scores):
        raise ProblemError(
            "greedy decoding (no regularizer, or temperature 0) needs score_weight > 0 and scores='tempered'; "
            f"got score_weight={plan.score_weight:g}, scores={'raw' if plan.raw_scores else 'tempered'!r}"
        )
    if plan.cap < 1.0:
        if plan.temperature == 0.0:
            raise ProblemError(
                f"temperature 0 with Cap({plan.cap:g}): write Problem(support=...) without a regularizer, whose "
                "optimum fills the best tokens up to the cap"
            )
        return replace(plan, kind=PlanKind.GREEDY_FILL)
    supports, chains = plan.supports, plan.chains
    if plan.temperature == 0:
        supports, *chains_at_zero = (tuple(map(at_zero_temperature, rules)) for rules in (supports, *chains))
        supports, chains = tuple(sorted(set(supports))), tuple(sorted(set(chains_at_zero)))
    if not any(map(may_drop_best, (rule for rules in (supports, *chains) for rule in rules))):
        supports, chains = (), ()
    return Plan(
        PlanKind.ARGMAX,
        temperature=plan.temperature or 1.0,
        anchor="given" if plan.anchor == "given" else "none",
        score_weight=plan.score_weight,
        raw_scores=plan.raw_scores,
        supports=supports,
        chains=chains,
        allowed=plan.allowed,
    )


def _with_target(plan: Plan, problem: Problem) -> Plan:
    """Return the plan with the entropy or the divergence that its multiplier is to reach, if there is one."""
    targets = [member for member in _members(problem.support) if isinstance(member, (Entropy, Divergence))]
    if not targets:
        return plan
    if len(targets) > 1:
        raise ProblemError(f"one multiplier reaches one target; got {' and '.join(map(repr, targets))}")
    target = targets[0]
    if plan.kind in (PlanKind.ARGMAX, PlanKind.GREEDY_FILL, PlanKind.MIRROR, PlanKind.ADAPTIVE_K):
        raise ProblemError(
            f"{target!r} chooses the multiplier of a convex regularizer, which a plan {plan.kind.name} has not"
        )
    if plan.score_weight <= 0:
        raise ProblemError(f"{target!r} needs score_weight > 0; got {plan.score_weight:g}")
    parts = () if problem.regularizer is None else problem.regularizer.terms()
    if isinstance(target, Entropy):
        _check_entropy_target(target, plan)
        return replace(plan, target=("entropy", target.target))
    if not (len(parts) == 1 and isinstance(parts[0][1], (KL, ChiSquare, AlphaDivergence, ReverseKL))):
        raise ProblemError(
            f"{target!r} needs one divergence from an anchor as the regularizer, such as KL(); got {_written(parts)}"
        )
    return replace(plan, target=("divergence", target.max_kl))


def _check_entropy_target(target: Entropy, plan: Plan) -> None:
    """Refuse regularizers whose optimum need not be ordered as the scores: its entropy may fall as they gain weight."""
    # dH / d lam is a covariance of log q and s under positive weights, so it is >= 0 where q is ordered as s is.
    # A KL that is subtracted turns the order around once its multiplier is large.
    ordered = plan.anchor != "given" and plan.weights != "array"
    ordered &= not any(term.kind == "kl" and term.coefficient < 0.0 for term in plan.terms)
    coverage = plan.kind is PlanKind.COVERAGE_WATERFILL or {term.kind for term in plan.terms} == {"coverage"}
    if not ordered or coverage:
        raise ProblemError(
            f"{target!r} needs a regularizer whose optimum keeps the order of the scores: no given anchor, no given "
            "weights, no KL that is subtracted, and not coverage alone"
        )
