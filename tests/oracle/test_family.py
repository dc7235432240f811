"""The general family on the reference: an interior-point solver, closed forms, brute force and thirty digits."""

import itertools

import cvxpy as cp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optdecode as od
from conic import by_interior_point, maximise, omega
from rows import make_row

#: The separable terms, as they enter a sum: coverage is subtracted.
TERMS = {
    "entropy": od.NegEntropy(),
    "quadratic": od.Quadratic(),
    "tsallis": od.Tsallis(1.5),
    "kl": od.KL(),
    "kl_given": od.KL("given"),
    "chi_square": od.ChiSquare(),
    "chi_square_given": od.ChiSquare("given"),
    "reverse_kl": od.ReverseKL(),
    "hellinger": od.AlphaDivergence(0.5),
    "cubic": od.AlphaDivergence(3.0, "given"),
    "coverage": -1.0 * od.Coverage(8),
    "coverage_uniform": -0.3 * od.Coverage(4, "uniform"),
    "log_coverage": -0.2 * od.LogCoverage(4, "uniform"),
}
PAIRS = [pair for pair in itertools.combinations(TERMS, 2) if sum("coverage" in name for name in pair) < 2]


def sum_of(pair, scale=0.6):
    return scale * TERMS[pair[0]] + (1.0 - scale) * TERMS[pair[1]]


def solve(decoder, x, anchor=None):
    """Solve by the reference; the certificate agrees that this is the optimum."""
    solution = decoder(x, anchor=anchor if decoder.plan.anchor == "given" else None, backend="reference")
    certificate = solution.certificate()
    assert np.max(certificate.relative_gap) <= 1e-9, decoder
    assert np.max(certificate.simplex_error) <= 1e-9
    return solution


def separable(regularizer, *constraints):
    """A decoder whose plan is the scalar dual, also where the regularizer has a solver of its own."""
    if od.Decoder(od.Problem(regularizer)).plan.kind is not od.PlanKind.SEPARABLE_DUAL and not constraints:
        constraints = (od.Cap(1.0 - 1e-9),)
    decoder = od.Decoder(od.Problem(regularizer)).subject_to(*constraints)
    assert decoder.plan.kind is od.PlanKind.SEPARABLE_DUAL
    return decoder


# --------------------------------------------------------------------------------------------------- interior point


def assert_interior_point_agrees(decoder, x, seed):
    plan, rng = decoder.plan, np.random.default_rng(seed)
    anchor = x / 2 + rng.standard_normal(x.size)
    solution = solve(decoder, x, anchor)
    p, r = np.exp(x - np.logaddexp.reduce(x)), np.exp(anchor - np.logaddexp.reduce(anchor))
    r = r if plan.anchor == "given" else p
    w = {"model": p, "uniform": np.ones(x.size)}[plan.weights]
    everything = np.ones(x.size, dtype=bool)

    def value(q):
        return float(x @ q - omega(plan, cp.Constant(q), p, r, w).value)

    q, other = solution.probs, by_interior_point(plan, x, everything, p, r, w)
    scale = max(1.0, abs(value(q)))
    assert abs(solution.objective - value(q)) <= 1e-9 * scale
    assert abs(value(q) - value(other)) <= 1e-6 * scale
    assert value(q) >= value(other) - 1e-8 * scale
    assert 0.5 * np.abs(q - other).sum() <= 1e-3
    assert q.max() <= plan.cap * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of tolerances below its reach
@pytest.mark.filterwarnings("ignore:Power atom with exponent")  # says how it is represented
class TestInteriorPoint:
    @pytest.mark.parametrize("cap", [None, 0.2])
    @pytest.mark.parametrize("name", TERMS)
    def test_every_term(self, name, cap):
        constraints = () if cap is None else (od.Cap(cap),)
        assert_interior_point_agrees(separable(TERMS[name], *constraints), make_row("gaussian", 40, seed=3) / 2, 1)

    @pytest.mark.parametrize("pair", PAIRS[::4], ids="-".join)
    def test_some_pairs(self, pair):
        assert_interior_point_agrees(separable(sum_of(pair), od.Cap(0.15)), make_row("gaussian", 40, seed=4) / 2, 2)

    @pytest.mark.slow
    @pytest.mark.parametrize("cap", [None, 0.15])
    @pytest.mark.parametrize("pair", PAIRS, ids="-".join)
    def test_every_pair(self, pair, cap):
        constraints = () if cap is None else (od.Cap(cap),)
        for kind in ("gaussian", "tied"):
            x = make_row(kind, 40, seed=5) / 2
            assert_interior_point_agrees(separable(sum_of(pair), *constraints), x, 3)


# ---------------------------------------------------------------------------------------------------- thirty digits


def mp_slope(term, x, p, r, w, budget):
    """phi'(x) of one term, from the table of formulas."""
    c, a = mpmath.mpf(term.coefficient), mpmath.mpf(term.alpha)
    anchor = p if term.anchor == "model" else r
    match term.kind:
        case "entropy":
            return c * (mpmath.log(x) + 1)
        case "quadratic":
            return c * x
        case "tsallis":
            return c * (a * x ** (a - 1) - 1) / (a * (a - 1))
        case "kl":
            return c * (mpmath.log(x / anchor) + 1)
        case "divergence" if a == 1:
            return c * mpmath.log(x / anchor)
        case "divergence":
            return c * ((x / anchor) ** (a - 1) - 1) / (a - 1)
        case "coverage":
            return -c * w * budget * (1 - x) ** (budget - 1)
        case "log_coverage":
            return -c * w * budget * (1 - x) ** (budget - 1) / (1 - (1 - x) ** budget)


def mp_slopes(plan, x, anchor):
    """phi_i'(x) of a plan, as a function of i and x."""

    def normalised(logs):
        shares = [mpmath.exp(mpmath.mpf(float(v))) for v in logs]
        return [share / mpmath.fsum(shares) for share in shares]

    p = normalised(x)
    r = normalised(anchor) if plan.anchor == "given" else p
    w = p if plan.weights == "model" else [mpmath.mpf(1)] * len(x)
    return lambda i, at: mpmath.fsum(mp_slope(term, at, p[i], r[i], w[i], plan.budget) for term in plan.terms)


DIFFERENCES = [
    od.NegEntropy() - 0.9 * od.Quadratic(),
    od.NegEntropy() - 0.999 * od.Quadratic(),
    od.NegEntropy() - od.Tsallis(1.5),
    od.KL() - 0.9 * od.NegEntropy(),
    od.KL("given") - 0.5 * od.KL(),
    od.Tsallis(1.5) - 0.6 * od.Quadratic(),
    od.ChiSquare() - 0.5 * od.Quadratic() + 0.1 * od.ReverseKL("given"),
]
STEEP = [
    od.AlphaDivergence(-16.0),
    od.AlphaDivergence(16.0, "given"),
    od.AlphaDivergence(1.0 + 1e-7),
    od.AlphaDivergence(-1e-7, "given"),
    od.Quadratic() + od.Tsallis(20.0),
    1e-3 * od.ReverseKL() - 5.0 * od.Coverage(300, "uniform"),
]


@pytest.mark.parametrize("cap", [1.0, 0.35])
@pytest.mark.parametrize(
    "regularizer", [*DIFFERENCES, *STEEP, *TERMS.values(), *map(sum_of, PAIRS[::3])], ids=repr
)  # fmt: skip
def test_optimality_conditions_in_thirty_digits(regularizer, cap):
    """The derivative passes l - nu between q (1 - 1e-10) and q (1 + 1e-10), or beyond the ends 0 and the cap."""
    rng = np.random.default_rng(11)
    x, anchor = rng.standard_normal(6), rng.standard_normal(6)
    plan = separable(regularizer, *(() if cap == 1.0 else (od.Cap(cap),))).plan
    solution = solve(separable(regularizer, *(() if cap == 1.0 else (od.Cap(cap),))), x, anchor)
    with mpmath.workdps(30):
        slope, nu = mp_slopes(plan, x, anchor), mpmath.mpf(float(solution.threshold))
        for i, log_q in enumerate(solution.log_probs):
            q, want = mpmath.exp(mpmath.mpf(float(log_q))), mpmath.mpf(float(x[i])) - nu
            close = mpmath.mpf(10) ** -10
            if q < plan.cap * (1 - close):
                assert slope(i, max(q * (1 + close), mpmath.mpf(10) ** -60)) >= want - 1e-12
            if q > 0:
                assert slope(i, q * (1 - close)) <= want + 1e-12
        assert abs(mpmath.fsum(map(mpmath.exp, map(float, solution.log_probs))) - 1) <= 1e-12


# ------------------------------------------------------------------------------------------------------ closed forms


def softmax(z):
    return np.exp(z - np.logaddexp.reduce(z))


@pytest.mark.parametrize("kind", ["gaussian", "tied", "lm", "cauchy", "all_equal"])
class TestClosedForms:
    @pytest.mark.parametrize("lam", [0.1, 1.0, 20.0])
    def test_chi_square_is_the_clipped_tilt_of_the_anchor(self, kind, lam):
        x = make_row(kind, 33, seed=6)
        solution, r = solve(od.Decoder(od.Problem(lam * od.ChiSquare())), x), softmax(x)
        q = r * np.maximum(1 + (x - solution.threshold) / lam, 0.0)
        np.testing.assert_allclose(solution.probs, q, atol=1e-9)
        np.testing.assert_allclose(q.sum(), 1.0, atol=1e-9)

    @pytest.mark.parametrize("lam", [0.1, 1.0, 20.0])
    def test_reverse_kl_is_a_harmonic_tilt(self, kind, lam):
        x = make_row(kind, 33, seed=6)
        solution, r = solve(od.Decoder(od.Problem(lam * od.ReverseKL())), x), softmax(x)
        q = solution.probs
        # lam (1 - r / q) = x - nu, where rounding of nu leaves something of x - nu - lam.
        inner = (q > 1e-6) & (q < 1 - 1e-6)
        np.testing.assert_allclose((lam * (1 - r / q))[inner], (x - solution.threshold)[inner], rtol=1e-8, atol=1e-8)
        assert (q[r > 0] > 0).all()

    @pytest.mark.parametrize(("a", "b"), [(0.3, 0.7), (2.0, 0.1), (0.05, 5.0)])
    def test_entropy_and_kl_are_softmax(self, kind, a, b):
        x = make_row(kind, 33, seed=7)
        decoder = separable(a * od.NegEntropy() + b * od.KL())
        np.testing.assert_allclose(solve(decoder, x).probs, softmax((b * x + x) / (a + b)), atol=1e-9)

    @pytest.mark.parametrize("cap", [0.04, 0.1, 0.4, 0.9])
    @pytest.mark.parametrize("lam", [0.2, 3.0])
    def test_capped_softmax_by_sorting(self, kind, cap, lam):
        x = make_row(kind, 33, seed=8)
        order, z = np.argsort(-x, kind="stable"), x / lam
        for full in range(33):  # the first number of tokens at the cap that leaves the others below it
            rest = order[full:]
            q = np.full(33, cap)
            q[rest] = (1 - full * cap) * softmax(z[rest])
            if q[rest].max() <= cap:
                break
        np.testing.assert_allclose(solve(od.softmax(lam).subject_to(od.Cap(cap)), x).probs, q, atol=1e-9)

    @pytest.mark.parametrize("cap", [0.04, 0.1, 0.4, 0.9])
    @pytest.mark.parametrize("lam", [0.2, 3.0])
    def test_capped_sparsemax_by_its_breakpoints(self, kind, cap, lam):
        x = make_row(kind, 33, seed=9)
        breaks = np.unique(np.concatenate([x, x - lam * cap]))
        mass = np.array([np.clip((x - nu) / lam, 0.0, cap).sum() for nu in breaks])  # falls, linear in between
        at = int(np.flatnonzero(mass >= 1.0).max())
        slope = ((x > breaks[at]) & (x - lam * cap <= breaks[at])).sum() / lam
        nu = breaks[at] + (mass[at] - 1.0) / slope if mass[at] > 1.0 else breaks[at]
        expected = np.clip((x - nu) / lam, 0.0, cap)
        solution = solve(separable(lam * od.Quadratic(), od.Cap(cap)), x)
        np.testing.assert_allclose(solution.probs, expected, atol=1e-9 * max(1.0, np.abs(x).max() / lam))


# ------------------------------------------------------------------------------------------------ caps and linear terms


@pytest.mark.parametrize("cap", [1.0, 0.5, 0.3, 0.11, 1 / 49, 1 / 33])
@pytest.mark.parametrize("kind", ["gaussian", "tied", "cauchy", "all_equal", "huge"])
def test_greedy_fill_takes_the_best_in_order(kind, cap):
    x = make_row(kind, 49, seed=12)
    left, q = 1.0, np.zeros(49)
    for token in sorted(range(49), key=lambda i: (-x[i], i)):
        q[token] = min(cap, left)
        left -= q[token]
        left = 0.0 if left < 1e-13 else left
    solution = solve(od.Decoder(od.Problem(support=od.Cap(cap))), x)
    np.testing.assert_allclose(solution.probs, q, atol=1e-12)
    np.testing.assert_allclose(solution.threshold, x[q > 0].min(), rtol=1e-14)


@pytest.mark.parametrize("cap", [0.3, 0.11])
def test_greedy_fill_is_the_linear_program(cap):
    x, q = make_row("gaussian", 40, seed=13), cp.Variable(40, nonneg=True)
    best = maximise(q, x @ q, [q <= cap])
    np.testing.assert_allclose(solve(od.Decoder(od.Problem(support=od.Cap(cap))), x).probs, best, atol=1e-6)


LINEAR = [
    -1.0 * od.Coverage(1, "uniform"),
    -1.0 * od.Coverage(4, weights=np.zeros(6)),
    od.KL() - od.NegEntropy(),
    od.Quadratic() - od.Tsallis(2.0),
]


@pytest.mark.parametrize("regularizer", LINEAR, ids=["K = 1", "no weights", "KL - entropy", "Quadratic - Tsallis(2)"])
def test_linear_objectives_fill_in_order(regularizer):
    """Regularizers that are linear, or vanish: ties at the threshold go to the lower token id, as under a cap alone."""
    x = np.array([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])
    for cap, expected in ((0.4, [0.0, 0.4, 0.4, 0.0, 0.2, 0.0]), (0.3, [0.1, 0.3, 0.3, 0.0, 0.3, 0.0])):
        solution = solve(separable(regularizer, od.Cap(cap)), x)
        np.testing.assert_allclose(solution.probs, expected, atol=1e-15)


def test_a_token_without_weight_is_filled_last():
    """Where some tokens have a strictly concave objective and one a linear one, the linear one takes what is left."""
    x, weights = np.array([0.0, 0.0, 1.0]), [1.0, 1.0, 0.0]
    solution = solve(separable(-1.0 * od.Coverage(2, weights), od.Cap(0.9)), x)
    np.testing.assert_allclose(solution.probs, [0.5, 0.5, 0.0], atol=1e-12)  # 2 (1 - q) >= 1
    solution = solve(separable(-1.0 * od.Coverage(2, weights), od.Cap(0.9)), x + np.array([0.0, 0.0, 0.5]))
    np.testing.assert_allclose(solution.probs, [0.25, 0.25, 0.5], atol=1e-12)  # 2 (1 - q) = 1.5


@pytest.mark.parametrize("regularizer", [None, od.NegEntropy(), od.ChiSquare() - 0.1 * od.LogCoverage(4)], ids=repr)
def test_too_few_tokens_for_a_cap(regularizer):
    decoder = od.Decoder(od.Problem(regularizer, support=od.Cap(0.1)))
    rows = np.random.default_rng(14).standard_normal((3, 12))
    mask = np.ones((3, 12), dtype=bool)
    mask[0, 9:], mask[1, 10:] = False, False
    solution = decoder(rows, mask=mask, backend="reference", on_failure="mark")
    assert list(solution.status) == [od.Status.INFEASIBLE, od.Status.OK, od.Status.OK]
    assert np.isnan(solution.probs[0]).all()
    np.testing.assert_allclose(solution.probs[1], [0.1] * 10 + [0.0] * 2)
    assert solution.certificate().gap[1] <= 1e-12


def test_scores_far_from_zero_lose_nothing():
    """The threshold is near -1e14, the regularizer of order 1: resolved from a score next to it."""
    x = np.array([0.0, 0.0, -1e14, -1e14 - 1.0, -1e14 - 2.0])
    q = solve(od.softmax().subject_to(od.Cap(0.4)), x).probs
    np.testing.assert_allclose(q, [0.4, 0.4, *(0.2 * softmax(np.array([0.0, -1.0, -2.0])))], atol=1e-12)
    q = solve(separable(od.NegEntropy() + 8.0 * od.Quadratic(), od.Cap(0.4)), x).probs
    np.testing.assert_allclose(np.diff(np.log(q) + 8.0 * q)[2:], [-1.0, -1.0], atol=1e-12)


@pytest.mark.parametrize(
    "regularizer", [od.NegEntropy() - 0.9 * od.Quadratic(), od.KL() - 0.9 * od.NegEntropy()], ids=repr
)
def test_the_threshold_is_resolved_at_a_vertex(regularizer):
    """One token has all but e^-60 of the mass, or all but e^-700: what the others have decides the threshold."""
    for x in (np.array([60.0, 0.0, -1.0]), np.array([70.0, 0.0, -1.0])):
        certificate = solve(od.Decoder(od.Problem(regularizer)), x).certificate()
        assert certificate.max_active_residual <= 1e-9
        assert certificate.max_inactive_violation <= 1e-9


@pytest.mark.parametrize("far", [-700.0, -1e5, -1e200])
def test_anchors_that_underflow(far):
    x, anchor = np.array([3.0, 1.0, 0.0]), np.array([far, 0.0, 0.5])
    for alpha in (-16.0, 0.0, 0.5, 2.0, 16.0) if far > -1e100 else (0.0, 2.0):
        solution = solve(od.Decoder(od.Problem(od.AlphaDivergence(alpha, "given"))), x, anchor)
        if alpha > 1.0:
            assert solution.probs[0] <= np.exp(far / 2)
    # Both pull so hard on token 0 that the objective is beyond any float at every distribution: not certified, not OK.
    both = od.Decoder(od.Problem(0.5 * od.AlphaDivergence(16.0, "given") + 0.5 * od.AlphaDivergence(-16.0)))
    solution = both(x, anchor=anchor, backend="reference")
    assert solution.status is od.Status.REDUCED_ACCURACY
    assert solution.certificate().gap == np.inf
    assert solution.probs.sum() == pytest.approx(1.0)


# --------------------------------------------------------------------------------------------- the number of tokens


def on_subset(regularizer, x, subset):
    """Value of the best distribution on a set of tokens, without a price."""
    few = od.Decoder(od.Problem(regularizer))
    mask = np.isin(np.arange(x.size), subset)
    if isinstance(regularizer.terms()[0][1], od.KL):  # p is over all tokens, not renormalised
        lam = regularizer.terms()[0][0]
        return lam * np.logaddexp.reduce((np.log(softmax(x)) + x / lam)[mask])
    return float(few(x, mask=mask, backend="reference").objective)


@pytest.mark.parametrize("price", [1e-6, 0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize(
    "regularizer", [0.7 * od.NegEntropy(), od.KL(), 3.0 * od.Quadratic(), od.Tsallis(1.3), 2.0 * od.Tsallis(3.0)],
    ids=repr,
)  # fmt: skip
def test_no_other_set_of_tokens_is_better(regularizer, price):
    decoder = od.Decoder(od.Problem(regularizer + price * od.L0()))
    for kind, size in (("gaussian", 7), ("tied", 6), ("all_equal", 5), ("gaussian", 1)):
        x = make_row(kind, size, seed=15)
        solution = solve(decoder, x)
        sets = [s for k in range(1, size + 1) for s in itertools.combinations(range(size), k)]
        values = [on_subset(regularizer, x, subset) - price * len(subset) for subset in sets]
        assert solution.objective >= max(values) - 1e-9
        kept = tuple(np.flatnonzero(solution.support))
        assert kept == tuple(sorted(sorted(range(size), key=lambda i: (-x[i], i))[: len(kept)]))
        np.testing.assert_allclose(solution.objective, on_subset(regularizer, x, kept) - price * len(kept), atol=1e-9)
        assert solution.certificate().scope == "optimal on the selected face"


@pytest.mark.parametrize("regularizer", [od.NegEntropy(), od.KL()], ids=repr)
def test_no_other_set_of_twelve_is_better(regularizer):
    """All 4,095 sets by their log-normalisers."""
    x = make_row("gaussian", 12, seed=16)
    z = x + (np.log(softmax(x)) if regularizer == od.KL() else 0.0)
    flags = np.array(list(itertools.product((False, True), repeat=12))[1:])
    values = np.logaddexp.reduce(np.where(flags, z, -np.inf), axis=1) - 0.2 * flags.sum(1)
    solution = solve(od.Decoder(od.Problem(regularizer + 0.2 * od.L0())), x)
    np.testing.assert_array_equal(solution.support, flags[np.argmax(values)])
    np.testing.assert_allclose(solution.objective, values.max(), atol=1e-12)


def test_a_gain_equal_to_the_price_is_not_worth_it():
    """Two equal tokens: the second adds 1/4 to the quadratic objective, exactly, and log 2 to the entropy's."""
    for regularizer, gain in ((od.Quadratic(), 0.25), (od.NegEntropy(), float(np.log1p(1.0)))):
        for price, size in ((gain, 1), (gain - 1e-9, 2)):
            assert solve(od.Decoder(od.Problem(regularizer + price * od.L0())), np.zeros(2)).support_size == size


# ------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    pair=st.sampled_from(PAIRS),
    share=st.floats(0.01, 0.99),
    strength=st.floats(-3.0, 3.0),
    cap=st.sampled_from([1.0, 0.5, 0.26]),
)
def test_certified_on_random_rows(seed, pair, share, strength, cap):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 30))
    x = rng.standard_normal(size) * 10.0 ** rng.uniform(-2, 2)
    anchor = rng.standard_normal(size) * 10.0 ** rng.uniform(-2, 1)
    decoder = od.Decoder(od.Problem(10.0**strength * sum_of(pair, share), support=od.Cap(cap)))
    order = rng.permutation(size)
    solution, moved = solve(decoder, x, anchor), solve(decoder, x[order], anchor[order])
    np.testing.assert_allclose(moved.probs, solution.probs[order], atol=1e-7)  # permutation equivariance
    if decoder.plan.anchor != "none" or decoder.plan.has_coverage:
        return
    np.testing.assert_allclose(solve(decoder, x + 3.0).probs, solution.probs, atol=1e-7)  # shift invariance
