"""Every regularizer's value and gradient, what is convex, and which pairs and constraints are solved or refused."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optdecode as od
from optdecode._certificate_problem import row_problem
from optdecode._curvature import is_convex
from optdecode.regularizers import Context
from rows import make_row

# ----------------------------------------------------------------------------------------------- values and gradients

FUNCTIONS = [
    od.NegEntropy(),
    od.Quadratic(),
    *(od.Tsallis(alpha) for alpha in (1.0, 1.0001, 1.5, 2.0, 7.0)),
    od.KL(),
    od.KL("given"),
    od.ChiSquare("given"),
    od.ReverseKL(),
    *(od.AlphaDivergence(alpha) for alpha in (-16.0, -1e-9, 0.0, 0.5, 1.0, 1.0 + 1e-9, 3.0)),
    *(od.Coverage(k, weights) for k, weights in ((1, "model"), (8, "uniform"), (300, "rank"))),
    *(od.LogCoverage(k, weights) for k, weights in ((1, "uniform"), (8, np.linspace(0.0, 1.0, 6)))),
    0.5 * od.KL() - 0.3 * od.Coverage(4) + 0.1 * od.Quadratic(),
]


def context(x, anchor):
    def log_softmax(v):
        return v - np.logaddexp.reduce(v)

    everything = np.ones((1, x.size), dtype=bool)
    return Context(x[None], log_softmax(x)[None], log_softmax(anchor)[None], everything, np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize("regularizer", FUNCTIONS, ids=repr)
def test_gradients_are_derivatives_of_values(regularizer):
    rng = np.random.default_rng(1)
    x, anchor, q = rng.standard_normal(6), rng.standard_normal(6), rng.dirichlet(np.full(6, 2.0))
    ctx = context(x, anchor)
    gradient = regularizer.gradient(q[None], ctx)[0]
    for i, h in enumerate(1e-5 * q):
        step = np.where(np.arange(6) == i, h, 0.0)
        slope = (regularizer.value((q + step)[None], ctx) - regularizer.value((q - step)[None], ctx))[0] / (2 * h)
        assert slope == pytest.approx(gradient[i], rel=1e-6, abs=1e-7)


def as_terms(regularizer):
    """The plan of a regularizer as a sum of terms: coverage beside something convex, and a cap."""
    return od.Decoder(od.Problem(regularizer, support=od.Cap(1.0 - 1e-9))).plan


@pytest.mark.parametrize("regularizer", FUNCTIONS, ids=repr)
def test_certificates_know_the_same_functions(regularizer):
    rng = np.random.default_rng(2)
    x, anchor, q = rng.standard_normal(6), rng.standard_normal(6), rng.dirichlet(np.full(6, 1.0))
    sign = -1.0 if isinstance(regularizer, (od.Coverage, od.LogCoverage)) else 1.0
    plan, ctx = as_terms(sign * regularizer), context(x, anchor)
    problem = row_problem(plan, 1.0, x, np.ones(6, dtype=bool), None, anchor, None, None)
    value, gradient = problem.term.value(np.log(q)), problem.term.gradient(np.log(q))
    assert value.sum() == pytest.approx(sign * regularizer.value(q[None], ctx)[0], rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(gradient, sign * regularizer.gradient(q[None], ctx)[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("regularizer", FUNCTIONS, ids=repr)
def test_values_at_zero(regularizer):
    """At q = 0 the value is the limit of values, infinite for what keeps every token."""
    ctx = context(np.array([0.3, -0.2, 0.1, 0.2, 0.0, 0.5]), np.array([0.0, 0.5, -0.5, 0.3, -1.0, 0.7]))
    q = np.array([[0.4, 0.2, 0.0, 0.1, 0.2, 0.1]])
    order = getattr(regularizer, "order", 1.0)
    if order <= 0.0 or isinstance(regularizer, od.LogCoverage):
        assert abs(regularizer.value(q, ctx)[0]) == np.inf
    else:
        near = regularizer.value(q + np.array([0.0, 0.0, 1e-14, 0.0, 0.0, 0.0]), ctx)[0]
        assert regularizer.value(q, ctx)[0] == pytest.approx(near, rel=1e-6)


def test_alpha_is_continuous_at_its_limits():
    x, q = np.array([0.3, -0.2, 0.1]), np.array([[0.6, 0.3, 0.1]])
    for limit in (0.0, 1.0):
        at, near = od.AlphaDivergence(limit), od.AlphaDivergence(limit + 1e-9)
        assert near.value(q, context(x, x)) == pytest.approx(at.value(q, context(x, x)), rel=1e-7)
        np.testing.assert_allclose(near.gradient(q, context(x, x)), at.gradient(q, context(x, x)), atol=1e-7)


# ------------------------------------------------------------------------------------------------------------ convexity

GRID = np.concatenate([np.geomspace(1e-9, 1e-2, 2000), np.linspace(1e-2, 1.0, 4000)])


@given(
    st.lists(
        st.tuples(
            st.floats(-3.0, 3.0).filter(lambda c: abs(c) > 1e-3),
            st.sampled_from([-1.0, -0.75, -0.5, 0.0, 0.3, 1.0, 2.0, 5.0, 14.0]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_convexity_is_decided_as_on_a_grid(powers):
    """Sums that come within a thousandth of zero may fall either way towards refusal, never towards acceptance."""
    least = min(exponent for _, exponent in powers)
    values = sum(c * GRID ** (exponent - least) for c, exponent in powers)
    if is_convex(powers):
        assert values.min() >= -1e-12
    else:
        assert values.min() <= 1e-3


# -------------------------------------------------------------------------------------------------------------- pairs

REGULARIZERS = {
    "NegEntropy": od.NegEntropy(),
    "Quadratic": od.Quadratic(),
    "Tsallis": od.Tsallis(1.5),
    "Tsallis steep": od.Tsallis(3.0),
    "KL": od.KL(),
    "KL given": od.KL("given"),
    "ChiSquare": od.ChiSquare(),
    "ChiSquare given": od.ChiSquare("given"),
    "ReverseKL": od.ReverseKL(),
    "AlphaDivergence": od.AlphaDivergence(0.5),
    "AlphaDivergence steep": od.AlphaDivergence(3.0),
    "Coverage": -0.2 * od.Coverage(8),
    "LogCoverage": -0.2 * od.LogCoverage(4, "uniform"),
    "L0": 0.05 * od.L0(),
}
CONSTRAINTS = {
    "none": None,
    "TopK": od.TopK(5),
    "Cap": od.Cap(0.3),
    "Entropy": od.Entropy(0.8),
    "Divergence": od.Divergence(0.3),
    "Cap and Entropy": od.Cap(0.6) & od.Entropy(0.8),
}
SUMS = [names for k in (1, 2) for names in itertools.combinations(REGULARIZERS, k)]
COVERING, COUNTED = {"Coverage", "LogCoverage"}, {"NegEntropy", "Quadratic", "Tsallis", "Tsallis steep", "KL"}
ANCHORED = {name for name in REGULARIZERS if name.split()[0] in ("KL", "ChiSquare", "ReverseKL", "AlphaDivergence")}


def refusal(names, constraint):
    """What the message names where a problem is refused, else None: the table of what is not solved."""
    rest = set(names) - {"L0"}
    if "L0" in names:
        if not (len(rest) == 1 and rest <= COUNTED):
            return "L0()"
        return {"Cap": "Cap(0.3)", "Cap and Entropy": "Cap(0.6)", "Entropy": "Entropy", "Divergence": "Divergence"}.get(
            constraint
        )
    if set(names) == COVERING:
        return "Coverage(budget=8) and LogCoverage"
    if "Entropy" in constraint and (any("given" in name for name in names) or names == ("Coverage",)):
        return "Entropy(target=0.8) needs"
    if constraint == "Divergence" and not (len(names) == 1 and rest <= ANCHORED):
        return "Divergence(max_kl=0.3) needs"
    return None


def sum_of(names):
    return sum((REGULARIZERS[name] for name in names[1:]), start=REGULARIZERS[names[0]])


def check(names, constraint):
    problem = od.Problem(sum_of(names), support=CONSTRAINTS[constraint])
    named = refusal(names, constraint)
    if named is not None:
        with pytest.raises(od.ProblemError, match=re.escape(named)):
            od.Decoder(problem)
        return
    decoder = od.Decoder(problem)
    row = make_row("gaussian", 9, seed=4)
    anchor = np.random.default_rng(5).standard_normal(9) if decoder.plan.anchor == "given" else None
    solution = decoder(row, anchor=anchor, backend="reference")
    certificate = solution.certificate()
    assert certificate.relative_gap <= 1e-9, (names, constraint)
    assert certificate.target_error <= 1e-11
    assert certificate.simplex_error <= 1e-11


@pytest.mark.parametrize("constraint", ["none", "TopK", "Cap", "Divergence"])
def test_every_pair_is_solved_or_refused_by_name(constraint):
    for names in SUMS:
        check(names, constraint)


@pytest.mark.parametrize("constraint", ["Entropy", "Cap and Entropy"])
def test_some_pairs_with_a_target_of_entropy(constraint):
    for names in SUMS[::8]:
        check(names, constraint)


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["Entropy", "Cap and Entropy"])
def test_every_pair_with_a_target_of_entropy(constraint):
    for names in SUMS:
        check(names, constraint)
