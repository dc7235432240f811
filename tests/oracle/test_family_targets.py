"""Targets of entropy and divergence on the reference: an interior-point solver, limits, and monotone multipliers."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optdecode as od
from conic import maximise
from rows import make_row

SIZE = 30


def solve(decoder, x, **inputs):
    solution = decoder(x, backend="reference", on_failure="mark", **inputs)
    if solution.status is od.Status.OK:
        certificate = solution.certificate()
        assert certificate.relative_gap <= 1e-9
        assert certificate.target_error <= 1e-11
    return solution


def with_target(regularizer, *constraints):
    return od.Decoder(od.Problem(regularizer)).subject_to(*constraints)


def log_softmax(x):
    return x - np.logaddexp.reduce(x)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of tolerances below its reach
class TestInteriorPoint:
    @pytest.mark.parametrize("kind", ["gaussian", "tied"])
    @pytest.mark.parametrize("cap", [1.0, 0.3])
    @pytest.mark.parametrize("h", [1.3, 2.5, 3.3])
    def test_most_score_at_an_entropy(self, kind, cap, h):
        x, q = make_row(kind, SIZE, seed=1), cp.Variable(SIZE)
        best = maximise(q, x @ q, [cp.sum(cp.entr(q)) >= h, q <= cap])
        solution = solve(with_target(3.0 * od.NegEntropy(), od.Entropy(h), od.Cap(cap)), x)
        assert solution.probs @ x == pytest.approx(best @ x, abs=1e-6)
        if solution.multiplier > 0.0:  # else a linear objective, which ties may leave with many optima
            np.testing.assert_allclose(solution.probs, best, atol=1e-4)

    @pytest.mark.parametrize("kind", ["gaussian", "tied"])
    @pytest.mark.parametrize("cap", [1.0, 0.3])
    @pytest.mark.parametrize("eps", [0.01, 0.2, 1.0])
    def test_most_score_within_a_divergence(self, kind, cap, eps):
        rng = np.random.default_rng(2)
        x, q = make_row(kind, SIZE, seed=3), cp.Variable(SIZE)
        anchor = log_softmax(rng.standard_normal(SIZE) / 2)
        best = maximise(q, x @ q, [cp.sum(cp.rel_entr(q, np.exp(anchor))) <= eps, q <= cap])
        solution = solve(with_target(0.2 * od.KL("given"), od.Divergence(eps), od.Cap(cap)), x, anchor=anchor)
        assert solution.probs @ x == pytest.approx(best @ x, abs=1e-6)
        if solution.multiplier > 0.0:  # else a linear objective, which ties may leave with many optima
            np.testing.assert_allclose(solution.probs, best, atol=1e-4)


EVERY_KIND = [
    (od.NegEntropy(), od.Entropy(1.0)),
    (0.01 * od.KL(), od.Entropy(0.4)),
    (od.Quadratic(), od.Entropy(1.0)),
    (od.Tsallis(1.5), od.Entropy(2.0)),
    (od.NegEntropy() - 0.5 * od.Quadratic(), od.Entropy(1.5)),
    (0.5 * od.KL() - 0.3 * od.Coverage(8, "uniform"), od.Entropy(1.4)),
    (od.ChiSquare(), od.Entropy(0.9)),
    (od.KL(), od.Divergence(0.2)),
    (od.ChiSquare("given"), od.Divergence(0.2)),
    (od.ReverseKL(), od.Divergence(0.1)),
    (od.AlphaDivergence(0.5), od.Divergence(0.2) & od.Cap(0.45)),
]


def slack(solution, target, log_r):
    q, log_q = solution.probs[solution.probs > 0], solution.log_probs[solution.probs > 0]
    if isinstance(target, od.Entropy):
        return -(q * log_q).sum() - target.target
    return target.max_kl - (q * (log_q - log_r[solution.probs > 0])).sum()


@pytest.mark.parametrize(("regularizer", "constraint"), EVERY_KIND, ids=repr)
def test_the_least_multiplier(regularizer, constraint):
    """The problem with the multiplier written out has this optimum; with one percent less the target is missed."""
    target = next(member for member in constraint.members() if not isinstance(member, od.Cap))
    rest = [member for member in constraint.members() if isinstance(member, od.Cap)]
    x = make_row("gaussian", 12, seed=4)
    anchor = log_softmax(np.random.default_rng(5).standard_normal(12))
    given = {"anchor": anchor} if "given" in repr(regularizer) else {}
    log_r = anchor if given else log_softmax(x)
    solution = solve(with_target(regularizer, constraint), x, **given)
    assert -3e-12 <= slack(solution, target, log_r) <= 1e-14  # as near as a target counts as reached: 1e-12 max(1, h)
    bound = target.target if isinstance(target, od.Entropy) else target.max_kl
    assert slack(solution, target, log_r) >= -1e-12 * max(1.0, bound) - 2e-15
    m = float(solution.multiplier)
    assert m > 0.0
    same, less = (solve(with_target(factor * m * regularizer, *rest), x, **given) for factor in (1.0, 0.99))
    np.testing.assert_allclose(same.probs, solution.probs, atol=1e-10)
    np.testing.assert_allclose([same.objective, same.threshold], [solution.objective, solution.threshold], rtol=1e-9)
    assert slack(less, target, log_r) < -1e-6


class TestLimits:
    x = np.array([2.0, 1.0, 0.5, -1.0])

    def test_what_the_vertex_reaches(self):
        solution = solve(od.softmax().subject_to(od.Entropy(0.0)), self.x)
        np.testing.assert_array_equal(solution.probs, [1.0, 0.0, 0.0, 0.0])
        assert (solution.multiplier, solution.threshold, solution.objective) == (0.0, 2.0, 2.0)
        near = -log_softmax(self.x)[0]
        for eps, vertex in ((near + 1e-9, True), (near - 1e-9, False)):
            solution = solve(with_target(od.KL(), od.Divergence(eps)), self.x)
            assert (solution.multiplier == 0.0) == vertex

    def test_what_the_greedy_fill_reaches(self):
        solution = solve(od.softmax().subject_to(od.Entropy(1.0), od.Cap(0.4)), self.x)
        np.testing.assert_allclose(solution.probs, [0.4, 0.4, 0.2, 0.0])  # its entropy is 1.05
        assert solution.multiplier == 0.0

    def test_what_no_multiplier_reaches(self):
        for regularizer, h in ((od.NegEntropy(), np.log(4) + 1e-9), (od.Quadratic(), 1.4), (od.KL(), 1.2)):
            solution = solve(with_target(regularizer, od.Entropy(h)), self.x)
            assert solution.status is od.Status.INFEASIBLE
            assert np.isnan(solution.multiplier)

    def test_what_only_the_limit_reaches(self):
        for regularizer, h in ((od.NegEntropy(), np.log(4)), (od.Quadratic(), np.log(4))):
            solution = solve(with_target(regularizer, od.Entropy(h)), self.x)
            assert solution.status is od.Status.OK
            np.testing.assert_allclose(solution.probs, 0.25, atol=1e-5)
            assert np.isfinite(solution.multiplier)
        p = np.exp(log_softmax(self.x))
        solution = solve(with_target(od.KL(), od.Divergence(0.0)), self.x)
        np.testing.assert_allclose(solution.probs, p, atol=3e-6)  # within sqrt(1e-12)

    def test_divergences_on_a_face_start_at_its_mass(self):
        log_p = log_softmax(self.x)
        least = -np.logaddexp(log_p[0], log_p[1])
        for regularizer in (od.KL(), od.ChiSquare(), od.ReverseKL()):
            for eps, status in ((least - 1e-6, od.Status.INFEASIBLE), (least + 1e-6, od.Status.OK)):
                solution = solve(with_target(regularizer, od.Divergence(eps), od.TopK(2)), self.x)
                assert solution.status is status
            p = np.exp(log_p[:2] - np.logaddexp(log_p[0], log_p[1]))
            np.testing.assert_allclose(solution.probs[:2], p, atol=2e-3)

    def test_ties_at_the_top_take_the_least_positive_multiplier(self):
        x = np.array([1.0, 0.0, 1.0, 1.0])
        for regularizer in (od.NegEntropy(), od.Quadratic()):
            solution = solve(with_target(regularizer, od.Entropy(1.0)), x)
            np.testing.assert_allclose(solution.probs, [1 / 3, 0.0, 1 / 3, 1 / 3], atol=1e-15)
            assert 0.0 < solution.multiplier <= 1.0000001e-100

    def test_a_cap_that_cannot_hold(self):
        solution = solve(od.softmax().subject_to(od.Entropy(0.0), od.Cap(0.2)), self.x)
        assert solution.status is od.Status.INFEASIBLE

    def test_one_token(self):
        assert solve(od.softmax().subject_to(od.Entropy(0.0)), self.x[:1]).multiplier == 0.0
        assert solve(od.softmax().subject_to(od.Entropy(0.1)), self.x[:1]).status is od.Status.INFEASIBLE


ORDERED = [regularizer for regularizer, constraint in EVERY_KIND if isinstance(constraint, od.Entropy)]
ANCHORED = [od.KL(), od.ChiSquare(), od.ReverseKL(), od.AlphaDivergence(0.5), od.AlphaDivergence(3.0)]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    regularizer=st.sampled_from([*ORDERED, *ANCHORED]),
    log_m=st.floats(-3.0, 3.0),
    factor=st.floats(1.001, 10.0),
    cap=st.sampled_from([1.0, 0.4]),
)
def test_entropy_rises_and_divergence_falls_with_the_multiplier(seed, regularizer, log_m, factor, cap):
    x = np.random.default_rng(seed).standard_normal(8) * 2
    m = 10.0**log_m
    small, large = (solve(with_target(scale * regularizer, od.Cap(cap)), x) for scale in (m, m * factor))
    assert large.entropy >= small.entropy - 1e-9
    if regularizer in ANCHORED:
        assert large.kl <= small.kl + 1e-9
