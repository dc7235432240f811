"""Plans with code of the caller's own: solved in NumPy, above a backend that measures and draws.

The backend says which tokens are allowed, what the model distribution and the anchor are and which face the built-in
supports select, all through plans that it knows; the caller's supports are intersected with that face. What is solved
is drawn by the backend from log q, so draws obey the same contract as all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optdecode import _checks as checks
from optdecode._inputs import Rows
from optdecode._plan import Plan, PlanKind
from optdecode._status import Status
from optdecode.backends import Backend, rust
from optdecode.backends import _user_ascent as ascent
from optdecode.backends import _user_dual as dual
from optdecode.backends._user_problem import Point, Problem
from optdecode.backends._user_simplex import OFF, Array, Flags, best_vertex, project
from optdecode.regularizers import KL, Context, NegEntropy, Terms, Tsallis, combine, is_own
from optdecode.regularizers.calls import Failure, Failures, kept

#: Elements of (rows, V) that are solved at a time: the memory of the accelerator is a multiple of it.
_ELEMENTS = 1 << 18
_TRACE, _POLISHING = 1e-6, 300
_FLOOR = -1e200  # that of the backends: shifted scores below it count as this


@dataclass(frozen=True, eq=False)
class Answer:
    """The arrays that `optdecode.backends.Solved` lists, in float64, and the failures."""

    log_probs: Array
    face: Flags
    scalars: dict[str, Array]
    iterations: NDArray[Any]
    status: NDArray[Any]
    failures: Failures

    def arrays(self, dtype: str) -> tuple[Any, ...]:
        """In the order of `Solved`, in the precision of the logits."""
        floats = np.float64 if dtype == "f64" else np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            log_probs = self.log_probs.astype(floats)
            probs = np.exp(self.log_probs).astype(floats)
        return (log_probs, probs, self.face, *self.scalars.values(), self.iterations, self.status, self.failures)


_SCALARS = ("threshold", "objective", "entropy", "kl", "kept_mass", "multiplier")


def solve(plan: Plan, rows: Rows, backend: Backend, threads: int, numbers: NDArray[Any] | None = None) -> Answer:
    """Solve every row.

    Parameters
    ----------
    plan : Plan
        Of kind ``USER``.
    rows : Rows
        The batch.
    backend : module
        What measures.
    threads : int
        Of the backend.
    numbers : ndarray of int, optional
        Which row of the caller's batch each row is; 0, 1, ... by default.

    Returns
    -------
    Answer
        One row each.
    """
    count, size = rows.logits.shape
    numbers = np.arange(count) if numbers is None else numbers
    failures: Failures = {}
    ctx, face, status = _measure(plan, rows, backend, threads, numbers)
    answer = Answer(
        np.full((count, size), np.nan),
        np.zeros((count, size), dtype=bool),
        {name: np.full(count, np.nan) for name in _SCALARS},
        np.zeros(count, dtype=np.int64),
        status,
        failures,
    )
    good = np.flatnonzero(status == Status.OK)
    logits, per_part = rows.widened(), max(1, _ELEMENTS // size)
    for start in range(0, good.size, per_part):
        part = good[start : start + per_part]
        _solve_part(plan, logits[part], face[part], ctx.take(part), part, answer)
    for b, number in enumerate(numbers):
        if int(number) in failures:
            status[b] = Status.BAD_REGULARIZER
    return answer


# ----------------------------------------------------------------------------------------------------------- measuring


def measuring(plan: Plan) -> Plan:
    """Return a plan that backends know, with the allowed tokens, the model and the anchor of a plan."""
    return Plan(
        PlanKind.ANCHORED_SOFTMAX, temperature=plan.temperature, score_weight=0.0, lam=1.0, anchor=plan.anchor,
        allowed=plan.allowed,
    )  # fmt: skip


def _measure(
    plan: Plan, rows: Rows, backend: Backend, threads: int, numbers: NDArray[Any]
) -> tuple[Context, Flags, NDArray[Any]]:
    """Return the context of the allowed tokens, the face of the built-in supports, and a status a row."""
    logits, given = rows.widened(), rows.anchor is not None
    model = replace(measuring(plan), anchor="model")

    def ask(question: Plan, mask: Any) -> tuple[Any, ...]:
        return backend.solve(question, logits, "f64", mask, rows.anchor, None, None, threads)

    log_anchor, _, allowed, *_, status = ask(replace(model, anchor="given") if given else model, rows.mask)
    log_p = ask(model, allowed)[0] if given else log_anchor
    face = allowed
    if plan.supports or plan.chains:
        face = ask(replace(model, supports=plan.supports, chains=plan.chains), allowed)[2]
    weights = rows.weights
    if weights is not None:
        weights = np.array(np.broadcast_to(weights, logits.shape))
    elif plan.weights == "support":
        weights = ask(replace(model, supports=plan.weight_supports), allowed)[2].astype(np.float64)
    status = np.array(status)
    if weights is not None:
        bad = (allowed & ~(np.isfinite(weights) & (weights >= 0.0))).any(axis=1)
        status[(status == Status.OK) & bad] = Status.BAD_WEIGHTS
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.where(allowed, np.clip(logits / plan.temperature, -1e300, 1e300), -np.inf)
    budget = None if rows.budget is None else rows.budget.astype(np.int64)
    ctx = Context(scores, log_p, log_anchor, allowed, numbers.astype(np.int64), weights, budget)
    return ctx, face, status


# ------------------------------------------------------------------------------------------------------------- solving


def _solve_part(plan: Plan, logits: Array, face: Flags, ctx: Context, where: NDArray[Any], answer: Answer) -> None:
    """Solve rows whose inputs are sound, and write their part of the answer."""
    if plan.keeps:
        face = face & kept(plan.keeps, ctx, answer.failures)
    count = face.sum(axis=1)
    infeasible = (count == 0) | (count * plan.cap < 1.0 - 1e-12)
    answer.status[where[infeasible]] = Status.INFEASIBLE
    live = np.flatnonzero(~infeasible & [int(row) not in answer.failures for row in ctx.rows])
    if not live.size:
        return
    logits, face, ctx, where = logits[live], face[live], ctx.take(live), where[live]
    linear, shift, scale = _linear(plan, logits, face)
    allowed_ctx = replace(ctx, allowed=face)
    problem = Problem(plan.user, plan.cap, linear, allowed_ctx, scale, answer.failures)
    point, iterations = _optimum(plan, problem)
    solved = np.flatnonzero(~problem.has_failed())
    _write(plan, problem.take(solved), point.take(solved), shift[solved], where[solved], answer)
    answer.iterations[where] = iterations


def _linear(plan: Plan, x: Array, face: Flags) -> tuple[Array, Array, Array]:
    """Return the linear term less its maximum over the face, that maximum, and the scale of a gap."""
    if plan.score_weight == 0.0:
        return np.zeros_like(x), np.zeros(x.shape[0]), np.ones(x.shape[0])
    t, weight = 1.0 if plan.raw_scores else plan.temperature, plan.score_weight
    sign = 1.0 if weight > 0.0 else -1.0
    best = sign * np.where(face, sign * x, -np.inf).max(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        linear = np.where(face, np.maximum(weight * ((x - best[:, None]) / t), _FLOOR), 0.0)
        size = np.where(face, np.minimum(np.abs(weight * (x / t)), -_FLOOR), 0.0).max(axis=1)
    weights = sum(abs(coefficient) for coefficient, _ in plan.user)
    return linear, weight * (best / t), np.maximum(size, max(1.0, weights))


def _optimum(plan: Plan, problem: Problem) -> tuple[Point, NDArray[Any]]:
    """Return the optimum of every row that does not fail, and the iterations."""
    own = tuple((a, term) for a, term in plan.user if is_own(term))
    name = repr(combine(own)) if own else "the regularizer"
    if not plan.user:
        vertex = best_vertex(problem.linear, problem.face, plan.cap)
        with np.errstate(divide="ignore"):
            return problem.at(np.maximum(np.log(vertex), OFF)), np.zeros(problem.count, dtype=np.int64)
    start = _start(plan, problem)
    _must_be_finite(problem, start)
    checks.around(own, start.q, problem.ctx, (checks.scattered_on(problem.face),), problem.failures)
    if dual.separates(problem) and not plan.steps:
        point, iterations = dual.solve(problem)
        _must_invert(problem, point)
    else:
        point, iterations = ascent.ascend(problem, start, name, plan.steps, plan.eta)
    targets = (best_vertex(-point.gradient, problem.face, plan.cap), checks.uniform_on(problem.face))
    checks.around(own, point.q, problem.ctx, targets, problem.failures)
    _must_curve_upwards(problem, point, name)
    return (point if plan.eta is not None else _without_traces(problem, point, name)), iterations


def _start(plan: Plan, problem: Problem) -> Point:
    """Return the model distribution on the face, or the optimum of the built-in entropies where that is better."""
    face, ctx = problem.face, problem.ctx
    start = problem.at(project(ctx.log_p, face, plan.cap))
    if plan.eta is not None:
        return start  # Algorithm 1 starts at the anchor
    weight, log_r = _entropies(plan.user, ctx)
    if weight > 0.0:
        with np.errstate(invalid="ignore"):
            other = problem.at(project(np.where(face, (problem.linear + log_r) / weight, OFF), face, plan.cap))
            better = np.flatnonzero(other.is_finite() & ~(start.value <= other.value))
        start.put(better, other.take(better))
    return start


def _entropies(terms: Terms, ctx: Context) -> tuple[float, Array]:
    """Return the total coefficient of the terms that are entropies, and their anchors' share of the linear term."""
    weight, log_r = 0.0, np.zeros(ctx.log_p.shape)
    for coefficient, term in terms:
        if is_own(term):
            continue
        if isinstance(term, KL):
            log_r += coefficient * np.where(ctx.allowed, ctx.log_p if term.anchor == "model" else ctx.log_anchor, 0.0)
        elif not (isinstance(term, NegEntropy) or (isinstance(term, Tsallis) and term.alpha == 1.0)):
            continue
        weight += coefficient
    return weight, log_r


def _must_be_finite(problem: Problem, point: Point) -> None:
    for b in np.flatnonzero(~point.is_finite() & ~problem.has_failed()):
        token = int(np.argmin(np.isfinite(point.gradient[b])))
        found = f"the value is {point.value[b]:g}"
        if np.isfinite(point.value[b]):
            found = f"the derivative for token {token}, q = {point.q[b, token]:g}, is {point.gradient[b, token]:g}"
        reason = f"{combine(problem.terms)!r} is not finite where the solver starts: {found}"
        problem.failures[int(problem.ctx.rows[b])] = Failure(reason)


def _must_curve_upwards(problem: Problem, point: Point, name: str) -> None:
    """Fail the rows where the objective is not concave at what was found: it may be a saddle, or a minimum."""
    q = checks.near(point.q)
    with np.errstate(divide="ignore"):
        other = problem.at(np.maximum(np.log(q), OFF))
    rows = np.flatnonzero(other.is_finite() & point.is_finite() & ~problem.has_failed())
    one, two = point.take(rows), other.take(rows)
    values, gradients = (one.value, two.value), (one.gradient, two.gradient)
    checks.between(values, gradients, two.q - one.q, problem.ctx.rows[rows], problem.failures, name)


def _must_invert(problem: Problem, point: Point) -> None:
    """Fail the rows where the inverse and the gradient contradict each other."""
    ((coefficient, term),) = problem.terms
    wrong = ~(point.gap <= ascent.ACCEPTED * problem.scale) & ~problem.has_failed()
    if not wrong.any():
        return
    excess = point.gradient - point.dual(problem.face, problem.cap)[:, None]
    for b in np.flatnonzero(wrong):
        free = point.free(problem.face, problem.cap)[b]
        token = int(np.argmax(np.where(free, np.abs(excess[b]), 0.0) if free.any() else -excess[b]))
        slope = (point.gradient[b, token] + problem.linear[b, token]) / coefficient
        wanted = slope - excess[b, token] / coefficient
        reason = (
            f"{term!r}.gradient_inverse does not invert its gradient, or does not increase: on token {token} it leads "
            f"to {point.q[b, token]:.9g}, where the gradient is {slope:.9g}, not {wanted:.9g}"
        )
        problem.failures[int(problem.ctx.rows[b])] = Failure(reason)


def _without_traces(problem: Problem, point: Point, name: str) -> Point:
    """Take the probability of tokens that mirror ascent only leaves exponentially slowly, where that costs nothing."""
    with np.errstate(invalid="ignore"):
        excess = point.gradient - point.dual(problem.face, problem.cap)[:, None]
        traces = problem.face & (point.q < _TRACE) & (excess > _TRACE * problem.scale[:, None])
    left = (problem.face & ~traces).sum(axis=1)
    rows = np.flatnonzero(traces.any(axis=1) & (left * problem.cap >= 1.0) & ~problem.has_failed())
    if not rows.size:
        return point
    # Failures here are none of the problem: a gradient may be undefined at 0.
    part = replace(problem.take(rows), zeros=traces[rows], failures={})
    start = part.at(project(point.log_q[rows], part.open, problem.cap))
    sound = np.flatnonzero(start.is_finite() & ~part.has_failed())
    rows, part = rows[sound], part.take(sound)
    trial, _ = ascent.ascend(part, start.take(sound), name, _POLISHING, None)
    limit = np.maximum(point.gap[rows], 2.0 * ascent.TARGET * part.scale)
    good = np.flatnonzero(trial.is_finite() & (trial.gap <= limit) & ~part.has_failed())
    point.put(rows[good], trial.take(good))
    return point


def _write(plan: Plan, problem: Problem, point: Point, shift: Array, where: NDArray[Any], answer: Answer) -> None:
    ctx = problem.ctx
    log_q = np.where(point.log_q > OFF / 2, point.log_q, -np.inf)
    answer.log_probs[where], answer.face[where] = log_q, problem.face
    on = log_q > -np.inf
    scalars = {
        "threshold": shift - point.dual(problem.face, plan.cap),
        "objective": shift - point.value,
        "entropy": 0.0 - np.where(on, point.q * point.log_q, 0.0).sum(axis=1),
        "kl": (point.q * np.where(on, point.log_q - np.where(on, ctx.log_anchor, 0.0), 0.0)).sum(axis=1),
        "kept_mass": np.where(on, np.exp(ctx.log_p), 0.0).sum(axis=1),
        "multiplier": np.ones(where.size),
    }
    for name, values in scalars.items():
        answer.scalars[name][where] = values
    rough = (point.gap > ascent.ACCEPTED * problem.scale) & (plan.eta is None)
    answer.status[where] = np.where(rough, Status.REDUCED_ACCURACY, Status.OK)


# ------------------------------------------------------------------------------------------------------------- drawing


#: Draws from rows by a backend: plans, the arrays of a part of a batch, and which rows these are; tokens, log_probs and
#: status come first in what it returns.
Call = Callable[[list[Plan], tuple[Any, ...], NDArray[Any]], tuple[Any, ...]]


def draw(
    plans: list[Plan], rows: Rows, backend: Backend, threads: int, call: Call
) -> tuple[list[NDArray[Any] | None], Failures]:
    """Draw from every row of a batch, some plans being the caller's own; returns what `call` does, and the failures."""
    all_plans = plans if len(plans) > 1 else plans * rows.count
    failures: Failures = {}
    whole: list[NDArray[Any] | None] = []
    for plan, index in groups(all_plans):
        part = rows.take(index)
        if plan is None:
            arrays = (part.logits, part.dtype, part.mask, part.anchor, part.weights, part.budget)
            found = call([all_plans[b] for b in index], arrays, index)
        else:
            answer = solve(plan, part, backend, threads, index)
            log_probs, *_ = answer.arrays(part.dtype)
            found = draw_solved(log_probs, answer.status, part.dtype, call, index)
            failures |= answer.failures
        if not whole:
            whole = [None if a is None else np.empty((rows.count, *a.shape[1:]), a.dtype) for a in found]
        for into, some in zip(whole, found, strict=True):
            if into is not None:
                into[index] = some
    return whole, failures


def draw_solved(log_probs: Array, status: NDArray[Any], dtype: str, call: Call, index: NDArray[Any]) -> tuple[Any, ...]:
    """Draw from log q, shape (B, V), as a backend draws from a softmax of it."""
    unsolved = status > Status.REDUCED_ACCURACY
    scores = np.where(unsolved[:, None], 0.0, log_probs).astype(log_probs.dtype)
    floats = "f64" if dtype == "f64" else "f32"
    softmax = Plan(PlanKind.SOFTMAX, lam=1.0)
    tokens, log_q, found, *others = call([softmax], (scores, floats, None, None, None, None), index)
    tokens[unsolved], log_q[unsolved] = -1, np.nan
    for values in others:
        if values is not None and values.dtype.kind == "f":
            values[unsolved] = np.nan
    return tokens, log_q, np.where(unsolved, status, np.maximum(status, found)).astype(np.uint8), *others


def groups(plans: list[Plan]) -> list[tuple[Plan | None, NDArray[Any]]]:
    """Return the rows of every plan of the caller's own, and those of all others under None."""
    rows: dict[Plan | None, list[int]] = {}
    for b, plan in enumerate(plans):
        rows.setdefault(plan if plan.kind is PlanKind.USER else None, []).append(b)
    return [(plan, np.array(index)) for plan, index in rows.items()]


def log_probs_in_place(
    plans: list[Plan], logits: NDArray[Any], mask: NDArray[Any] | None, backend: Backend, threads: int
) -> NDArray[Any]:
    """Replace every row of float32 logits (B, V) by log q of its plan, where it has one; a status a row."""
    status = np.zeros(len(plans), dtype=np.uint8)
    rows = Rows(logits, "f32", (len(plans),), mask=mask)
    for plan, index in groups(plans):
        part = rows.take(index)
        if plan is None:
            array = np.ascontiguousarray(part.logits)
            status[index] = rust.log_probs_in_place([plans[b] for b in index], array, part.mask, threads)
            logits[index] = array
            continue
        answer = solve(plan, part, backend, threads, index)
        solved = answer.status <= Status.REDUCED_ACCURACY
        logits[index[solved]] = answer.log_probs[solved]
        status[index] = answer.status
    return status
