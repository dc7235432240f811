"""A decoder in words: objective, face, constraints, plan."""

from __future__ import annotations

from optdecode._plan import Plan, PlanKind
from optdecode._problem import Problem
from optdecode.constraints import Constraint


def describe(problem: Problem, plan: Plan) -> str:
    """Return the text that `Decoder.explain` prints."""
    scores = "x" if plan.raw_scores or problem.temperature == 1 else f"x / {problem.temperature:g}"
    tempered = "x" if problem.temperature == 1 else f"x / {problem.temperature:g}"
    if problem.temperature == 0:
        scores = tempered = "x / T, T -> 0"
    weight = "" if problem.score_weight == 1 else f"{problem.score_weight:g} "
    multiplier = "" if plan.target is None else "m "
    formula = "" if problem.regularizer is None else problem.regularizer.formula()
    omega = f" - {multiplier}Omega(q),  Omega(q) = {formula}" if formula else ""
    members = () if problem.support is None else problem.support.members()
    constraints = [member for member in members if isinstance(member, Constraint)]
    faces = [member for member in members if not isinstance(member, Constraint)]
    lines = [
        f"objective   max over q of  {weight}<q, s>{omega}",
        f"scores      s = {scores}  (x the logits of the allowed tokens)",
        "over        the probability simplex" + (", on the face of:" if faces else ""),
        *(f"              {member!r}: {member.formula()}" for member in faces),
    ]
    if constraints:
        lines += ["subject to", *(f"              {member!r}: {member.formula()}" for member in constraints)]
    if faces or "p" in omega:
        raw = ", p_raw = softmax(x)" if any("p_raw" in line for line in lines) else ""
        lines.append(f"where       p = softmax({tempered}){raw}")
    if plan.kind is PlanKind.ADAPTIVE_K:
        lines.append(f"tokens      the best ones, while the next one gains more than {plan.price:g}")
    lines.append(f"plan        {plan.kind.name}: {plan.kind.method}")
    if plan.kind is PlanKind.MIRROR:
        eta = "1 / L" if plan.eta is None else f"{plan.eta:g}"
        until = "" if plan.tolerance is None else f", until the gap is at most {plan.tolerance:g} lam"
        count = f"{plan.steps}" if plan.tolerance is None else f"at most {plan.steps}"
        lines.append(f"steps       {count} of size {eta}, from the anchor{until}")
    return "\n".join(lines)
