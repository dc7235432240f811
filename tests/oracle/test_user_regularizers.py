"""Solvers for a user's own code against exact solvers, an interior-point solver and closed forms."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optdecode as od
from optdecode.backends._user_simplex import best_value, best_vertex, project
from optdecode.testing import assert_on_simplex, assert_optimal
from optdecode.testing import rows as logits_rows
from rows import ROW_KINDS, make_row, make_rows
from user_terms import (
    DualEntropy,
    DualQuadratic,
    DualTsallis,
    GroupBalance,
    OwnCoverage,
    OwnEntropy,
    OwnKL,
    OwnQuadratic,
    OwnTsallis,
    Repetition,
    TorchEntropy,
    TorchQuadratic,
)


def decoder(regularizer, **problem):
    return od.Decoder(od.Problem(regularizer, **problem))


# -------------------------------------------------------------------------------- the same problem, solved exactly too

PAIRS = [
    (OwnEntropy(), od.NegEntropy()),
    (OwnQuadratic(), od.Quadratic()),
    (OwnTsallis(1.5), od.Tsallis(1.5)),
    (OwnTsallis(2.5), od.Tsallis(2.5)),
    (OwnKL(), od.KL()),
    (DualEntropy(), od.NegEntropy()),
    (DualQuadratic(), od.Quadratic()),
    (DualTsallis(1.5), od.Tsallis(1.5)),
    (TorchEntropy(), od.NegEntropy()),
    (TorchQuadratic(), od.Quadratic()),
    (0.5 * OwnKL() + 0.5 * OwnCoverage(8), 0.5 * od.KL() - 0.5 * od.Coverage(8)),
    (od.KL() + 5.0 * OwnCoverage(16), od.KL() - 5.0 * od.Coverage(16)),
    (5.0 * OwnCoverage(16), -5.0 * od.Coverage(16)),
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("own", "built_in"), PAIRS, ids=[repr(own) for own, _ in PAIRS])
def test_built_in_regularizers_said_again(own, built_in, temperature):
    if "Torch" in repr(own):
        pytest.importorskip("torch")
    for size in (1, 2, 8, 31, 257):
        rows = make_rows(size, seed=1)
        one = decoder(own, temperature=temperature)(rows)
        two = decoder(built_in, temperature=temperature)(rows)
        distance = 0.5 * np.abs(one.probs - two.probs).sum(axis=1)
        assert distance.max() <= 1e-6, dict(zip(ROW_KINDS, distance, strict=True))
        assert_optimal(one, 1e-9)
        np.testing.assert_allclose(one.threshold, two.threshold, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(one.objective, two.objective, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["rust", "reference"])
def test_faces_masks_and_anchors_are_those_of_the_built_in_solver(backend):
    rows, mask = make_rows(50, seed=3)[:2], np.arange(50) % 3 != 1
    anchor = np.stack([make_row("gaussian", 50, seed=9), np.where(np.arange(50) < 9, -np.inf, 0.0)])
    support = od.TopP(0.9) & od.Chain(od.TopK(30), od.TopP(0.95)) & od.Allowed(range(45))
    packed = np.packbits(np.pad(mask, (0, 14)), bitorder="little").view(np.uint32)
    for given_mask in (mask, packed):
        problem = {"support": support, "temperature": 0.7, "score_weight": 0.8, "scores": "raw"}
        one = decoder(0.5 * OwnKL(), **problem)(rows, mask=given_mask, anchor=anchor, backend=backend)
        two = decoder(0.5 * od.KL("given"), **problem)(rows, mask=given_mask, anchor=anchor, backend=backend)
        np.testing.assert_allclose(one.probs, two.probs, atol=1e-9)
        np.testing.assert_allclose(one.kl, two.kl, atol=1e-9)
        np.testing.assert_array_equal(one._solved.face, two._solved.face)
        assert one.certificate().relative_gap.max() <= 1e-11


@pytest.mark.parametrize("weights", ["model", "uniform", "rank", od.TopK(3)])
def test_coverage_beside_ones_own_keeps_its_weights_and_budgets(weights):
    rows = make_rows(30, seed=4)[[0, 2, 8]]
    built_in = decoder(1.5 * od.KL() - 2.0 * od.Coverage(8, weights))
    own = decoder(od.KL() + 0.5 * OwnKL() - 2.0 * od.Coverage(8, weights))
    for arguments in ({}, {"budget": np.array([1, 4, 40])}, {"weights": np.linspace(0.0, 1.0, 30)}):
        one, two = own(rows, **arguments), built_in(rows, **arguments)
        np.testing.assert_allclose(one.probs, two.probs, atol=1e-7)
        assert one.certificate().relative_gap.max() <= 1e-11
    bad = own(rows, weights=np.where(np.arange(30) == 3, np.nan, 1.0), on_failure="mark")
    assert (bad.status == od.Status.BAD_WEIGHTS).all()


# --------------------------------------------------------------------------------------------- an interior-point solver


def by_cvxpy(omega, linear, cap=1.0):
    q = cp.Variable(linear.size)
    program = cp.Problem(cp.Maximize(linear @ q - omega(q)), [q >= 0, q <= cap, cp.sum(q) == 1])
    for tolerance in (1e-10, 1e-9, 1e-8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this tolerance is not reached: the next one is asked for
            program.solve(cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
        if program.status == "optimal":
            break
    assert program.status == "optimal"
    return np.maximum(q.value, 0.0), program.value


TARGETS = (0.2, 0.5, 0.3)
MEMBERS = np.eye(3)[np.arange(40) % 3]
RECENT = (1, 4, 11, 30)

INVENTED = {
    "balance": (
        0.5 * od.NegEntropy() + 8.0 * GroupBalance(TARGETS),
        lambda q: -0.5 * cp.sum(cp.entr(q)) + 4.0 * cp.sum_squares(MEMBERS.T @ q - np.array(TARGETS)),
    ),
    "sparse balance": (
        od.Quadratic() + 30.0 * GroupBalance(TARGETS),
        lambda q: 0.5 * cp.sum_squares(q) + 15.0 * cp.sum_squares(MEMBERS.T @ q - np.array(TARGETS)),
    ),
    "repetition": (
        od.NegEntropy() + 50.0 * Repetition(RECENT),
        lambda q: -cp.sum(cp.entr(q)) + 25.0 * cp.sum_squares(q[list(RECENT)]),
    ),
    "both": (
        0.3 * od.NegEntropy() + 50.0 * Repetition(RECENT) + 20.0 * GroupBalance(TARGETS),
        lambda q: -0.3 * cp.sum(cp.entr(q))
        + 25.0 * cp.sum_squares(q[list(RECENT)])
        + 10.0 * cp.sum_squares(MEMBERS.T @ q - np.array(TARGETS)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("cap", [1.0, 0.15])
@pytest.mark.parametrize("name", INVENTED)
def test_inventions_by_an_interior_point_solver(name, cap):
    regularizer, omega = INVENTED[name]
    for kind in ("gaussian", "tied", "lm"):
        row = make_row(kind, 40, seed=5)
        support = od.Cap(cap) if cap < 1.0 else None
        solution = decoder(regularizer, support=support)(row)
        expected, value = by_cvxpy(omega, row, cap)
        assert solution.status is od.Status.OK
        assert solution.objective >= value - 1e-7
        assert solution.probs.max() <= cap * (1.0 + 1e-12)
        certificate = solution.certificate()
        assert certificate.relative_gap <= 1e-9
        assert certificate.max_active_residual <= 1e-4
        if name != "sparse balance" or kind != "tied":  # its optimum is unique too, but flat: ties across groups
            assert 0.5 * np.abs(solution.probs - expected).sum() <= 2e-4
        assert (np.asarray(solution.objective) + certificate.gap) >= value - 1e-8  # the bound of any distribution


@pytest.mark.parametrize("own", [DualQuadratic(), DualTsallis(1.5)], ids=repr)
def test_the_scalar_dual_under_a_cap(own):
    alpha = getattr(own, "alpha", 2.0)
    for kind in ("gaussian", "tied", "all_equal", "lm"):
        row = make_row(kind, 25, seed=6)
        solution = decoder(4.0 * own, support=od.Cap(0.2))(row)
        expected, _ = by_cvxpy(lambda q: 4.0 * cp.sum(cp.power(q, alpha)) / (alpha * (alpha - 1.0)), row, 0.2)
        np.testing.assert_allclose(solution.probs, expected, atol=1e-4)
        assert solution.certificate().relative_gap <= 1e-11
        by_ascent = decoder(4.0 * OwnTsallis(alpha), support=od.Cap(0.2))(row)
        np.testing.assert_allclose(by_ascent.probs, solution.probs, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- properties

REGULARIZERS = st.one_of(
    st.floats(0.05, 5.0).map(lambda c: c * OwnEntropy()),
    st.floats(0.2, 20.0).map(lambda c: c * OwnQuadratic()),
    st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 200.0)).map(
        lambda c: c[0] * od.NegEntropy() + c[1] * GroupBalance(TARGETS)
    ),
    st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 5.0)).map(lambda c: c[0] * od.KL() + c[1] * OwnCoverage(5)),
    st.tuples(st.floats(0.2, 2.0), st.floats(0.1, 50.0)).map(
        lambda c: c[0] * od.Quadratic() + c[1] * GroupBalance(TARGETS)
    ),
)
SUPPORTS = st.sampled_from([None, od.TopK(5), od.Cap(0.5), od.Cap(0.21) & od.TopK(7)])


@given(st.data())
def test_certified_gaps_are_closed_on_random_problems(data):
    row = data.draw(logits_rows(1, 24))
    dec = decoder(data.draw(REGULARIZERS), support=data.draw(SUPPORTS))
    solution = dec(row, on_failure="mark")
    allowed = int(np.isfinite(row).sum())
    face = min(allowed, dec.plan.supports[0][1]) if dec.plan.supports else allowed
    if face * dec.plan.cap < 1.0:
        assert solution.status is od.Status.INFEASIBLE
        return
    assert solution.status is od.Status.OK
    assert_on_simplex(solution, 1e-12)
    assert_optimal(solution, 1e-9)
    assert solution.probs.max() <= dec.plan.cap * (1.0 + 1e-12)


@given(st.data())
def test_projection_under_a_cap(data):
    """q = min(cap, t w), which sums to 1."""
    row, cap = data.draw(logits_rows(1, 12)), data.draw(st.sampled_from([0.25, 0.3, 0.5, 0.9, 1.0]))
    face = np.isfinite(row)
    if face.sum() * cap < 1.0:
        return
    log_q = project(row[None], face[None], cap)[0]
    q = np.exp(log_q)
    assert abs(q.sum() - 1.0) <= 1e-12
    assert q.max() <= cap * (1.0 + 1e-12)
    assert not q[~face].any()
    slack = 1e-9 + 1e-15 * np.abs(row[face]).max()
    full, least = face & (q >= cap * (1.0 - 1e-12)), face & (log_q <= -690.0)
    log_t = (log_q - row)[face & ~full & ~least]
    if log_t.size:
        assert np.ptp(log_t) <= slack
        assert (row[full] + log_t[0] >= np.log(cap) - slack).all()
        assert (row[least] + log_t[0] <= -690.0 + slack).all()


@given(logits_rows(1, 12), st.sampled_from([0.25, 0.3, 0.5, 0.9, 1.0]))
def test_best_vertices(row, cap):
    face = np.isfinite(row)
    if face.sum() * cap < 1.0:
        return
    vertex, value = best_vertex(row[None], face[None], cap)[0], best_value(row[None], face[None], cap)[0]
    assert vertex.sum() == pytest.approx(1.0)
    assert value == pytest.approx(vertex[face] @ row[face])
    expected, left = 0.0, 1.0
    for gain in sorted(row[face], reverse=True):
        expected += min(cap, left) * gain
        left = max(left - cap, 0.0)
    assert value == pytest.approx(expected)
