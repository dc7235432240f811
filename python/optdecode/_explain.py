"""A decoder in words: objective, constraint set, plan."""

from __future__ import annotations

from optdecode._plan import Plan, PlanKind
from optdecode._problem import Problem


def describe(problem: Problem, plan: Plan) -> str:
    """Return the text that `Decoder.explain` prints."""
    scores = "x" if plan.raw_scores or problem.temperature == 1 else f"x / {problem.temperature:g}"
    tempered = "x" if problem.temperature == 1 else f"x / {problem.temperature:g}"
    if problem.temperature == 0:
        scores = tempered = "x / T, T -> 0"
    weight = "" if problem.score_weight == 1 else f"{problem.score_weight:g} "
    omega = "" if problem.regularizer is None else f" - Omega(q),  Omega(q) = {problem.regularizer.formula()}"
    members = () if problem.support is None else problem.support.members()
    lines = [
        f"objective   max over q of  {weight}<q, s>{omega}",
        f"scores      s = {scores}  (x the logits of the allowed tokens)",
        "over        the probability simplex" + (", on the face of:" if members else ""),
        *(f"              {member!r}: {member.formula()}" for member in members),
    ]
    if members or "p" in omega:
        raw = ", p_raw = softmax(x)" if any("p_raw" in line for line in lines) else ""
        lines.append(f"where       p = softmax({tempered}){raw}")
    lines.append(f"plan        {plan.kind.name}: {plan.kind.method}")
    if plan.kind is PlanKind.MIRROR:
        eta = "1 / L" if plan.eta is None else f"{plan.eta:g}"
        until = "" if plan.tolerance is None else f", until the gap is at most {plan.tolerance:g} lam"
        count = f"{plan.steps}" if plan.tolerance is None else f"at most {plan.steps}"
        lines.append(f"steps       {count} of size {eta}, from the anchor{until}")
    return "\n".join(lines)
