"""Brute force on tiny vocabularies, and arbitrary precision on a few optima, confirm the reference."""

import itertools

import mpmath
import numpy as np
import pytest

from optdecode._plan import Plan, PlanKind
from optdecode.backends import reference
from optdecode.backends._reference_supports import select
from rows import make_row

TINY = ("gaussian", "tied", "all_equal", "one_hot", "cauchy")


def solve(plan, x):
    log_probs, probs, _, threshold, objective, *_, status = reference.solve(
        plan, np.asarray(x, dtype=np.float64)[None], "f64", None, None, None, None
    )
    assert status[0] == 0
    return log_probs[0], probs[0], threshold[0], objective[0]


def simplex_grid(size, parts):
    """Every distribution on `size` tokens in multiples of 1 / parts."""
    bars = np.array(list(itertools.combinations(range(parts + size - 1), size - 1)))
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + size - 1)])
    return (np.diff(edges, axis=1) - 1) / parts


def objective_of(plan, q, x):
    """The objective at every row of q, from its definition."""
    s = x / plan.temperature
    p = np.exp(s - np.logaddexp.reduce(s))
    w = p if plan.weights == "model" else np.ones(x.size)

    def relative_entropy(r):
        return np.sum(np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0) / r), 0.0), axis=1)

    alpha, kind = plan.alpha, plan.kind
    value = q @ (plan.score_weight * s)
    if kind in (PlanKind.SOFTMAX, PlanKind.FACE_SOFTMAX):
        return value - plan.lam * relative_entropy(1.0)
    if kind is PlanKind.THRESHOLD_QUADRATIC:
        return value - plan.lam * np.sum(q * q, axis=1) / 2
    if kind is PlanKind.THRESHOLD_TSALLIS:
        return value - plan.lam * np.sum(q**alpha - q, axis=1) / (alpha * (alpha - 1))
    if kind is PlanKind.ARGMAX:
        return value
    coverage = np.sum(w * (1 - (1 - q) ** plan.budget), axis=1)
    return value - (plan.lam * relative_entropy(p) if plan.lam else 0.0) + plan.beta_bar * coverage


GRID_PLANS = [
    Plan(PlanKind.ARGMAX),
    Plan(PlanKind.SOFTMAX, lam=0.5),
    Plan(PlanKind.ANCHORED_SOFTMAX, lam=0.5, anchor="model", temperature=2.0),
    *(Plan(PlanKind.THRESHOLD_QUADRATIC, lam=lam) for lam in (0.3, 3.0)),
    *(Plan(PlanKind.THRESHOLD_TSALLIS, lam=2.0, alpha=alpha) for alpha in (1.1, 1.5, 2.0, 4.0, 50.0)),
    *(
        Plan(PlanKind.COVERAGE_DUAL, lam=lam, anchor="model", beta_bar=beta_bar, budget=k, weights=w)
        for lam, beta_bar, k, w in [(0.1, 1.0, 1, "model"), (0.5, 3.0, 2, "uniform"), (0.05, 2.0, 9, "model")]
    ),
    *(
        Plan(PlanKind.COVERAGE_WATERFILL, beta_bar=3.0, budget=k, weights=w)
        for k in (1, 2, 20)
        for w in ("model", "uniform")
    ),
]


@pytest.mark.parametrize("row", TINY)
@pytest.mark.parametrize("plan", GRID_PLANS, ids=str)
def test_nothing_on_a_grid_is_better(plan, row):
    for size, parts in ((1, 1), (2, 2000), (3, 120), (4, 40)):
        x = make_row(row, size, seed=5)
        _, probs, _, objective = solve(plan, x)
        grid = objective_of(plan, simplex_grid(size, parts), x)
        scale = max(1.0, abs(objective))
        np.testing.assert_allclose(objective, objective_of(plan, probs[None], x)[0], atol=1e-10 * scale)
        # The grid comes near the optimum, and never above it.
        assert -1e-9 * scale <= objective - grid.max() <= 0.3


@pytest.mark.parametrize("row", TINY)
@pytest.mark.parametrize("lam", [0.05, 1.0, 20.0])
def test_sparsemax_by_enumeration_of_supports(row, lam):
    for size in range(1, 7):
        x = make_row(row, size, seed=6)
        best = None
        for flags in itertools.product((False, True), repeat=size):
            on = np.array(flags)
            if not on.any():
                continue
            tau = (x[on].sum() - lam) / on.sum()
            q = np.where(on, (x - tau) / lam, 0.0)
            value = q @ x - lam * q @ q / 2
            if q.min() >= 0 and (best is None or value > best[0]):
                best = (value, q, tau)
        _, probs, threshold, objective = solve(Plan(PlanKind.THRESHOLD_QUADRATIC, lam=lam), x)
        scale = max(1.0, np.abs(x).max())
        np.testing.assert_allclose(probs, best[1], atol=1e-12 * scale / lam)
        np.testing.assert_allclose([objective, threshold], [best[0], best[2]], rtol=1e-12, atol=1e-12 * scale)


# ------------------------------------------------------------------------------------------------- supports by search


@pytest.mark.parametrize("row", TINY)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_top_p_is_the_smallest_prefix(row, temperature):
    for size in range(1, 7):
        x = make_row(row, size, seed=7)
        p = np.exp(x / temperature - np.logaddexp.reduce(x / temperature))
        order = sorted(range(size), key=lambda i: (-x[i], i))
        for mass in (1e-9, 0.123, 0.511, 0.777, 0.95, 0.999):
            sizes = [k for k in range(1, size + 1) if sum(p[i] for i in order[:k]) >= mass]
            kept = select([("top_p", mass, False)], x, temperature)
            assert sorted(np.flatnonzero(kept)) == sorted(order[: sizes[0]])
        assert select([("top_p", 1.0, False)], x, temperature).all()


@pytest.mark.parametrize("row", TINY)
def test_pointwise_rules_token_by_token(row):
    x = make_row(row, 9, seed=8)
    for t, raw in ((0.7, False), (3.0, False), (0.7, True)):
        scale = 1.0 if raw else t
        p = [float(mpmath.exp(v / scale) / mpmath.fsum(mpmath.exp(u / scale) for u in x)) for v in x]
        entropy = -sum(v * np.log(v) for v in p if v > 0)
        best = int(np.argmax(x))
        std = np.sqrt(np.mean((x - x.mean()) ** 2))
        expected = {
            ("min_p", 0.0217): [v >= x.max() + scale * np.log(0.0217) for v in x],
            ("top_n_sigma", 0.83): [v >= x.max() - 0.83 * std - 1e-12 for v in x],
            ("p_less", 0.0): [v >= (1 - 1e-6) * sum(u * u for u in p) for v in p],
            ("epsilon", 0.1003): [v >= 0.1003 for v in p],
            ("eta", 0.3003): [v >= min(0.3003, np.sqrt(0.3003) * np.exp(-entropy)) for v in p],
            ("top_k", 4.0): [sum((u > v) or (u == v and j < i) for j, u in enumerate(x)) < 4 for i, v in enumerate(x)],
        }
        for (name, value), keep in expected.items():
            keep[best] = True
            assert select([(name, value, raw)], x, t).tolist() == [bool(v) for v in keep], name


# ------------------------------------------------------------------------------------------------ arbitrary precision


def mp_root(function, low, high):
    """Bisection to an absolute precision near that of the working numbers."""
    rising = function(high) > 0
    for _ in range(mpmath.mp.prec + 10):
        middle = (low + high) / 2
        if (function(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def mp_best_of_k(x, lam, beta_bar, k, uniform):
    """log q and the multiplier by nested bisection."""
    s = [mpmath.mpf(float(v)) for v in x]
    total = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in s))
    c = [v + lam * (v - total) - lam for v in s]
    gain = [beta_bar * k * (mpmath.mpf(1) if uniform else mpmath.exp(v - total)) for v in s]

    def token(i, nu):
        d = (c[i] - nu) / lam
        equation = lambda u: u - gain[i] / lam * max(1 - mpmath.exp(u), 0) ** (k - 1) - d  # noqa: E731
        return mp_root(equation, d, d + gain[i] / lam)

    low = lam * mpmath.log(mpmath.fsum(mpmath.exp(v / lam) for v in c))
    high = lam * mpmath.log(mpmath.fsum(mpmath.exp((v + g) / lam) for v, g in zip(c, gain, strict=True)))
    nu = mp_root(lambda nu: mpmath.fsum(mpmath.exp(token(i, nu)) for i in range(len(s))) - 1, low, high)
    return [token(i, nu) for i in range(len(s))], nu


@pytest.mark.parametrize(
    ("lam", "beta_bar", "k", "weights"),
    [
        ("0.2", "0.004", 8, "model"),
        ("0.001", "1000", 3, "uniform"),
        ("0.01", "5", 40, "model"),
        ("0.001", "10", 10_000, "uniform"),
    ],
)
def test_best_of_k_in_thirty_digits(lam, beta_bar, k, weights):
    x = make_row("gaussian", 3, seed=9)
    plan = Plan(
        PlanKind.COVERAGE_DUAL, lam=float(lam), anchor="model", beta_bar=float(beta_bar), budget=k, weights=weights
    )
    log_probs, probs, threshold, _ = solve(plan, x)
    with mpmath.workdps(30):
        log_q, nu = mp_best_of_k(x, mpmath.mpf(float(lam)), mpmath.mpf(float(beta_bar)), k, weights == "uniform")
        exact = np.array([float(mpmath.exp(v)) for v in log_q])
    assert 0.5 * np.abs(probs - exact).sum() <= 1e-9
    np.testing.assert_allclose(threshold, float(nu), rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(log_probs, [float(v) for v in log_q], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0001, 1.3, 1.5, 1.9, 2.0, 2.5, 7.0, 50.0, 200.0])
@pytest.mark.parametrize("lam", ["0.05", "1", "30"])
def test_tsallis_in_many_digits(alpha, lam):
    x = make_row("gaussian", 6, seed=10)
    _, probs, threshold, _ = solve(Plan(PlanKind.THRESHOLD_TSALLIS, lam=float(lam), alpha=alpha), x)
    with mpmath.workdps(60 + 2 * int(alpha)):  # tau sits within q^(alpha - 1) of a breakpoint
        a, lam = mpmath.mpf(alpha), mpmath.mpf(float(lam))
        y = [(a - 1) * mpmath.mpf(float(v)) / lam for v in x]
        mass = lambda tau: mpmath.fsum((v - tau) ** (1 / (a - 1)) for v in y if v > tau) - 1  # noqa: E731
        tau = mp_root(mass, max(y) - 1, max(y))
        exact = [float((v - tau) ** (1 / (a - 1))) if v > tau else 0.0 for v in y]
        eta = float(lam * (tau + 1 / a) / (a - 1))
    np.testing.assert_allclose(probs, exact, atol=1e-11)
    np.testing.assert_allclose(threshold, eta, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("k", "weights"), [(2, "uniform"), (5, "model"), (300, "uniform")])
def test_waterfilling_in_many_digits(k, weights):
    x = make_row("gaussian", 5, seed=11)
    _, probs, threshold, _ = solve(Plan(PlanKind.COVERAGE_WATERFILL, beta_bar=4.0, budget=k, weights=weights), x)
    with mpmath.workdps(40 + k):  # nu - max l is of the order (1 - max q)^(k - 1)
        s = [mpmath.mpf(float(v)) for v in x]
        total = mpmath.fsum(mpmath.exp(v) for v in s)
        gain = [4 * k * (mpmath.mpf(1) if weights == "uniform" else mpmath.exp(v) / total) for v in s]

        def q(nu):
            shares = [1 - (max(nu - v, 0) / a) ** (mpmath.mpf(1) / (k - 1)) for v, a in zip(s, gain, strict=True)]
            return [max(share, 0) for share in shares]

        nu = mp_root(lambda nu: mpmath.fsum(q(nu)) - 1, max(s), max(v + a for v, a in zip(s, gain, strict=True)))
        exact = [float(v) for v in q(nu)]
    np.testing.assert_allclose(probs, exact, atol=1e-11)
    np.testing.assert_allclose(threshold, float(nu), rtol=1e-10)
