"""Certificates: zero at optima, an upper bound everywhere, and not to be fooled."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optdecode import _certificate_terms as terms
from optdecode._certificate import _fill, certify
from optdecode._certificate_problem import TERMS as BUILDERS
from optdecode._plan import Plan, PlanKind, Term
from optdecode.backends import reference
from rows import ROW_KINDS, make_row, make_rows

COVERAGE = {"anchor": "model", "beta_bar": 2.0, "budget": 8, "weights": "uniform"}

#: PlanKind → plans whose returned distribution is the optimum.
OPTIMA = {
    PlanKind.ARGMAX: [{}],
    PlanKind.SOFTMAX: [{"lam": lam} for lam in (1e-3, 0.7, 1e3)],
    PlanKind.FACE_SOFTMAX: [{"lam": 0.7, "supports": (("top_k", 5.0, False), ("min_p", 0.01, True))}],
    PlanKind.ANCHORED_SOFTMAX: [
        {"lam": 1e-3, "anchor": "model"},
        {"lam": 1.0, "anchor": "model", "score_weight": -0.5, "temperature": 2.0, "raw_scores": True},
        {"lam": 1e3, "anchor": "model", "score_weight": 0.0},
    ],
    PlanKind.THRESHOLD_QUADRATIC: [{"lam": lam} for lam in (1e-3, 1.0, 1e3)],
    PlanKind.THRESHOLD_TSALLIS: [
        {"lam": lam, "alpha": alpha} for lam in (1e-3, 1.0, 1e3) for alpha in (1.0001, 1.3, 1.5, 2.0, 3.0, 50.0)
    ],
    PlanKind.COVERAGE_DUAL: [
        {"lam": lam, "anchor": "model", "beta_bar": beta_bar, "budget": k, "weights": w}
        for lam in (1e-3, 0.2, 1e3)
        for beta_bar, k, w in [(0.004, 8, "model"), (1.0, 1, "uniform"), (10.0, 2, "rank"), (1.0, 10_000, "uniform")]
    ]
    + [{**COVERAGE, "lam": 0.5, "supports": (("top_p", 0.9, False),), "score_weight": 0.0}],
    PlanKind.COVERAGE_WATERFILL: [
        {"beta_bar": beta_bar, "budget": k, "weights": w}
        for beta_bar, k, w in [(1.0, 1, "rank"), (1.0, 2, "model"), (30.0, 64, "uniform"), (1.0, 10_000, "uniform")]
    ]
    + [{"beta_bar": 1.0, "budget": 4, "weights": "support", "weight_supports": (("top_k", 2.0, False),)}],
    PlanKind.MIRROR: [{**COVERAGE, "lam": 2.0, "steps": 200}],
    PlanKind.SEPARABLE_DUAL: [
        {"terms": terms, "cap": cap, "anchor": "model", "budget": 4}
        for terms in [
            (Term("entropy", 1.0),),
            (Term("entropy", 1.0), Term("quadratic", -0.9)),
            (Term("divergence", 0.5, 2.0, "model"), Term("kl", 0.3, 1.0, "model"), Term("coverage", 0.5)),
            (Term("tsallis", 1e-3, 1.5), Term("divergence", 1e-3, 0.0, "model")),
            (Term("log_coverage", 0.3), Term("quadratic", 20.0)),
        ]
        for cap in (1.0, 0.3)
    ],
    PlanKind.GREEDY_FILL: [{"cap": 0.3}, {"cap": 0.5, "supports": (("top_k", 5.0, False),)}],
    PlanKind.ADAPTIVE_K: [
        {"terms": (term,), "price": 0.02, "anchor": term.anchor}
        for term in (Term("entropy", 0.5), Term("kl", 1.0, 1.0, "model"), Term("tsallis", 1.0, 1.5))
    ],
}
PLANS = [Plan(kind, **arguments) for kind, each in OPTIMA.items() for arguments in each]


def solved(plan, logits, **inputs):
    logits = np.atleast_2d(logits)
    given_inputs = [inputs.get(name) for name in ("mask", "anchor", "weights", "budget")]
    out = reference.solve(plan, logits, {"float64": "f64", "float32": "f32"}[logits.dtype.name], *given_inputs)
    result = {"log_probs": out[0], "face": out[2], "threshold": out[3], "multiplier": out[8], "status": out[-1]}
    return result, out


def certified(plan, logits, changes=(), **inputs):
    result, _ = solved(plan, logits, **inputs)
    return certify(plan, np.atleast_2d(logits).astype(np.float64), **inputs, **{**result, **dict(changes)})


def log(probs):
    with np.errstate(divide="ignore"):
        return np.log(np.atleast_2d(probs))


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance", "mass"), [("float64", 1e-9, 1e-12), ("float32", 1e-6, 1e-5)])
def test_no_gap_at_an_optimum(plan, dtype, tolerance, mass):
    for size in (1, 2, 33) if dtype == "float64" else (33,):
        rows = make_rows(size, dtype, seed=1)
        result = certified(plan, rows)
        feasible = np.isfinite(rows).sum(axis=1) * plan.cap >= 1.0
        assert (np.isnan(result.gap) == ~feasible).all()
        # Anchors that underflow: under a cap the divergence is beyond any float, and so may its slope be at a float32.
        extreme = np.array([kind == "huge" for kind in ROW_KINDS]) & any(t.kind == "divergence" for t in plan.terms)
        ordinary = feasible & ~(extreme & (plan.cap < 1.0))
        assert np.isfinite(result.gap[ordinary]).all()
        assert np.isfinite(result.max_active_residual[feasible & ~extreme]).all()
        assert (result.gap[feasible] >= 0.0).all()
        worst = result.relative_gap[ordinary].max(initial=0.0)
        assert worst <= tolerance, dict(zip(ROW_KINDS, result.relative_gap, strict=True))
        assert result.simplex_error[feasible].max(initial=0.0) <= mass
        assert (result.target_error[feasible] == 0.0).all()
        on_face = plan.supports or plan.kind is PlanKind.ADAPTIVE_K
        assert result.scope == ("optimal on the selected face" if on_face else "global")


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_residuals_at_an_optimum(plan):
    result = certified(plan, np.stack([make_row(kind, 33, seed=2) for kind in ("gaussian", "tied", "lm")]))
    scale = result.scale * max(1.0, plan.beta_bar * plan.budget)
    assert (result.max_active_residual / scale).max() <= 1e-9
    assert (result.max_inactive_violation / scale).max() <= 1e-9


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.kind is not PlanKind.ARGMAX], ids=str)
def test_moving_a_thousandth_of_the_mass_raises_the_gap(plan):
    for kind in ("gaussian", "lm"):
        x = make_row(kind, 40, seed=3)
        result, out = solved(plan, x)
        before = certified(plan, x)
        probs, face = np.array(out[1][0]), np.flatnonzero(out[2][0])
        source = int(np.argmax(probs))
        for target in (face[0], face[-1], face[face != source][np.argmax(probs[face[face != source]])]):
            if target == source:
                continue
            moved = probs.copy()
            moved[source] -= 1e-3
            moved[target] += 1e-3
            after = certify(plan, x[None], **{**result, "log_probs": log(moved)})
            if moved[target] > plan.cap:
                assert after.simplex_error[0] == pytest.approx(moved[target] - plan.cap)
            else:
                least = min([1.0, plan.lam or 1.0, *(abs(term.coefficient) for term in plan.terms)])
                assert after.gap[0] > before.gap[0] + 1e-9 * least


def test_greedy_on_the_second_best_is_seen():
    x = np.array([1.0, 3.0, 2.5])
    assert certified(Plan(PlanKind.ARGMAX), x, {"log_probs": log([0.0, 0.0, 1.0])}).gap[0] == pytest.approx(0.5)


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.lam == 0.2 or plan.lam == 1.0], ids=str)
def test_a_solution_for_another_strength_is_seen(plan):
    x = make_row("gaussian", 30, seed=4)[None] / 4
    other, _ = solved(replace(plan, lam=1.2 * plan.lam), x)
    if plan.score_weight and (other["log_probs"] > -np.inf).sum() > 1:
        assert certify(plan, x, **other).gap[0] > 1e-6
    assert certified(plan, x).gap[0] < 1e-12


# ----------------------------------------------------------------------------------------------------- upper bound


def divergence_value(term, q, r, *_):
    t, a = q / r, term.alpha
    if a == 0.0:
        with np.errstate(divide="ignore"):
            return (r * (-np.log(t) + t - 1)).sum(-1)
    return (r * (t**a - a * t + a - 1)).sum(-1) / (a * (a - 1))


def entropy_value(term, q, *_):
    return (q * np.log(np.where(q > 0, q, 1.0))).sum(-1)


#: Term kind → its value, from the definition.
TERM_VALUES = {
    "entropy": entropy_value,
    "quadratic": lambda term, q, *_: (q * q).sum(-1) / 2,
    "tsallis": lambda term, q, *_: (q**term.alpha - q).sum(-1) / (term.alpha * (term.alpha - 1)),
    "kl": lambda term, q, r, *_: entropy_value(term, q) - (q * np.log(r)).sum(-1),
    "divergence": divergence_value,
    "coverage": lambda term, q, r, w, k: -(w * (1 - (1 - q) ** k)).sum(-1),
    "log_coverage": lambda term, q, r, w, k: -(w * np.log(np.maximum(1 - (1 - q) ** k, 1e-300))).sum(-1),
}


def objective(plan, q, x, w, r):
    """The objective from its definition, for any number of distributions; without what a token costs."""
    s = x / plan.temperature
    value = plan.score_weight * q @ (x if plan.raw_scores else s)
    log_q = np.where(q > 0, np.log(np.where(q > 0, q, 1.0)), 0.0)
    if plan.terms or plan.kind is PlanKind.GREEDY_FILL:
        return value - sum(term.coefficient * TERM_VALUES[term.kind](term, q, r, w, plan.budget) for term in plan.terms)
    if plan.kind in (PlanKind.SOFTMAX, PlanKind.FACE_SOFTMAX):
        return value - plan.lam * (q * log_q).sum(-1)
    if plan.kind is PlanKind.THRESHOLD_QUADRATIC:
        return value - plan.lam * (q * q).sum(-1) / 2
    if plan.kind is PlanKind.THRESHOLD_TSALLIS:
        return value - plan.lam * (q**plan.alpha - q).sum(-1) / (plan.alpha * (plan.alpha - 1))
    if plan.kind is PlanKind.ARGMAX:
        return value
    kl = plan.lam * (q * (log_q - np.log(r))).sum(-1) if plan.lam else 0.0
    return value - kl + plan.beta_bar * (w * (1 - (1 - q) ** plan.budget)).sum(-1)


def distributions(rng, count, size):
    """Peaked, flat and sparse ones."""
    q = rng.dirichlet(np.full(size, 10.0 ** rng.uniform(-2, 1)), count) * (rng.random((count, size)) < 0.8)
    q[q.sum(1) == 0] = 1.0
    return q / q.sum(1, keepdims=True)


def within(plan, face, q):
    """Move distributions onto a face that is part of the answer, and towards the uniform one until the cap holds."""
    if plan.kind is PlanKind.ADAPTIVE_K:
        q = np.where(face, q + 1e-9, 0.0)
        q = q / q.sum(1, keepdims=True)
    share = np.clip((q.max(1, keepdims=True) - plan.cap) / (q.max(1, keepdims=True) - 1 / q.shape[1] + 1e-300), 0, 1)
    return (1 - share) * q + share / q.shape[1]


@given(
    seed=st.integers(0, 2**32),
    plan=st.sampled_from(PLANS),
    lam=st.sampled_from([1e-2, 0.3, 1.0, 20.0]),
    k=st.integers(1, 40),
    uniform=st.booleans(),
)
def test_nothing_gains_more_than_the_gap(seed, plan, lam, k, uniform):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(6) * 10.0 ** rng.uniform(-1, 1)
    plan = replace(plan, lam=lam if plan.lam else 0.0, supports=(), weights="uniform" if uniform else "model")
    plan = replace(plan, budget=k) if plan.has_coverage else plan
    s = x / plan.temperature
    r = np.exp(s - np.logaddexp.reduce(s))
    w = np.ones(6) if uniform else r
    result, out = solved(plan, x)
    q, others = distributions(rng, 1, 6), np.vstack([distributions(rng, 200, 6), np.eye(6)])
    q, others = within(plan, out[2][0], q), np.vstack([within(plan, out[2][0], others), out[1]])
    found = certify(plan, x[None], **{**result, "log_probs": log(q)})
    gain = objective(plan, others, x, w, r).max() - objective(plan, q, x, w, r)[0]
    assert gain <= found.gap[0] + 1e-9 * found.scale[0] * max(1.0, plan.beta_bar)


TERMS = [
    terms.Zero(),
    terms.RelativeEntropy(0.7, np.log([0.3])),
    terms.RelativeEntropy(2.0, np.zeros(1)),
    terms.HalfSquare(0.4),
    *(terms.Tsallis(0.5, alpha) for alpha in (1.01, 1.5, 3.0, 20.0)),
    *(
        terms.Coverage(lam, np.log([0.05]), np.array([worth]), k)
        for lam in (0.0, 0.02, 1.0)
        for worth in (0.0, 0.3, 5.0)
        for k in (1, 2, 9, 500)
    ),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # `certify` silences them around its terms
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_conjugates_and_gradients_against_a_grid(term):
    x = np.concatenate([np.geomspace(1e-12, 1e-3, 4000), np.linspace(1e-3, 1.0, 200_001)])
    spread = type(term)(**{k: np.broadcast_to(v, x.shape) if np.ndim(v) else v for k, v in vars(term).items()})
    value = spread.value(np.log(x))
    scale = max(1.0, np.abs(value).max())
    for t in (-2e3, -30.0, -3.0, -0.4, -1e-3, 0.0, 0.02, 1.0, 7.0):
        on_grid = max(0.0, float((t * x - value).max()))
        found = float(term.conjugate(np.array([t]))[0])
        assert on_grid - 1e-12 * scale <= found <= on_grid + 1e-4 * scale
    inner = x[(x > 1e-3) & (x < 0.9)][::1000]
    h = 1e-6 * inner
    few = type(term)(**{k: np.broadcast_to(v, inner.shape) if np.ndim(v) else v for k, v in vars(term).items()})
    slope = (few.value(np.log(inner + h)) - few.value(np.log(inner - h))) / (2 * h)
    np.testing.assert_allclose(few.gradient(np.log(inner)), slope, rtol=1e-4, atol=1e-4 * scale)


SUMS = [
    (terms.Logarithmic(0.7, np.log([0.3]), np.array([0.1])), terms.HalfSquare(-0.5)),
    (terms.Logarithmic(0.0, np.array([0.4]), np.zeros(1)), terms.HalfSquare(2.0), terms.Tsallis(0.3, 3.0)),
    *((terms.PowerDivergence(0.5, alpha, np.log([0.05])),) for alpha in (-3.0, 0.0, 0.4, 0.999, 1.001, 2.0, 7.0)),
    (terms.LogCoverage(np.array([0.3]), 5), terms.HalfSquare(1.0)),
    (terms.LogCoverage(np.array([0.0]), 5), terms.Coverage(0.0, np.zeros(1), np.array([1.0]), 4)),
]


def stretched(part, shape):
    """The same term for every x of a grid."""
    values = {k: np.broadcast_to(v, shape).copy() if np.ndim(v) else v for k, v in vars(part).items()}
    return type(part)(**values)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cap", [1.0, 0.3])
@pytest.mark.parametrize("parts", SUMS, ids=str)
def test_sums_against_a_grid(parts, cap):
    x = np.concatenate([[0.0], np.geomspace(1e-12, 1e-3, 4000), np.linspace(1e-3, cap, 200_001)])
    whole, log_cap = terms.Sum(tuple(stretched(part, x.shape) for part in parts), np.log(cap)), float(np.log(cap))
    value = whole.value(np.log(x))
    found = terms.Sum(parts, log_cap)
    for t in (-2e3, -30.0, -3.0, -0.4, -1e-3, 0.0, 0.02, 1.0, 7.0, 50.0):
        on_grid = float(np.max(t * x - value))
        assert on_grid - 1e-12 * max(1.0, abs(on_grid)) <= found.conjugate(np.array([t]))[0] <= on_grid + 1e-4
    inner = x[(x > 1e-3) & (x < 0.9 * cap)][::1000]
    few, h = terms.Sum(tuple(stretched(part, inner.shape) for part in parts)), 1e-6 * inner
    slope = (few.value(np.log(inner + h)) - few.value(np.log(inner - h))) / (2 * h)
    np.testing.assert_allclose(few.gradient(np.log(inner)), slope, rtol=1e-4, atol=1e-6)


def test_slopes_beyond_any_float_are_compared_by_their_logarithms():
    """One anchor pulls up and the other down, both by more than a float holds: the larger exponent decides."""
    up, down = terms.PowerDivergence(1.0, 3.0, np.array([-3000.0])), terms.PowerDivergence(1.0, -3.0, np.array([-1.0]))
    both = terms.Sum((up, down))
    with np.errstate(all="ignore"):
        # 2 (u + 3000) against 4 (-1 - u): equal at u = -1000.67.
        assert both.gradient(np.array([-990.0]))[0] == np.inf
        assert both.gradient(np.array([-1010.0]))[0] == -np.inf


# ----------------------------------------------------------------------------------------------------- caps and targets


def test_the_cap_is_part_of_the_frank_wolfe_bound():
    """At a capped optimum max g - <q, g> is large; what fills up to the cap gains nothing."""
    assert _fill(np.array([1.0, 3.0, 2.0]), 0.5) == (2.5, 2.0)
    assert _fill(np.array([1.0, 3.0, 2.0]), 0.4) == (pytest.approx(2.2), 1.0)
    x, plan = np.array([[5.0, 1.0, 0.0]]), Plan(PlanKind.GREEDY_FILL, cap=0.5)
    found = certified(plan, x)
    assert found.gap[0] == 0.0
    assert found.max_inactive_violation[0] == 0.0
    wrong = certified(plan, x, {"log_probs": log([0.5, 0.25, 0.25])})
    assert wrong.gap[0] == pytest.approx(0.25)
    above = certified(plan, x, {"log_probs": log([0.6, 0.4, 0.0])})
    assert above.simplex_error[0] == pytest.approx(0.1)


def test_a_token_at_the_cap_must_want_more():
    x, plan = np.array([[2.0, 1.0, 0.0]]), Plan(PlanKind.SEPARABLE_DUAL, cap=0.4, terms=(Term("entropy", 1.0),))
    result, _ = solved(plan, x)
    assert certify(plan, x, **result).max_inactive_violation[0] == 0.0
    raised = {**result, "threshold": result["threshold"] + 2.0}
    g = 1.0 - (np.log(0.4) + 1.0)  # of token 1, which is at the cap too
    violation = certify(plan, x, **raised).max_inactive_violation[0]
    assert violation == pytest.approx(result["threshold"][0] + 2.0 - g)
    assert violation > 0.1


@pytest.mark.parametrize(
    "plan",
    [
        Plan(PlanKind.SOFTMAX, lam=0.5, target=("entropy", 1.0)),
        Plan(PlanKind.ANCHORED_SOFTMAX, lam=2.0, anchor="model", target=("divergence", 0.3)),
        Plan(PlanKind.SEPARABLE_DUAL, cap=0.5, terms=(Term("entropy", 1.0),), target=("entropy", 1.2)),
    ],
    ids=str,
)
def test_targets_by_lagrangian_bound(plan):
    """No distribution within the target gains more than the gap, also at a multiplier that is not the least."""
    rng = np.random.default_rng(16)
    x = rng.standard_normal((1, 6))
    result, _ = solved(plan, x)
    found = certify(plan, x, **result)
    assert found.gap[0] <= 1e-9
    assert found.target_error[0] <= 1e-11

    def with_multiplier(m):
        scaled = tuple(term._replace(coefficient=m * term.coefficient) for term in plan.terms)
        other, _ = solved(replace(plan, lam=m * plan.lam, target=None, terms=scaled), x)
        return {**other, "multiplier": np.array([m])}

    least = float(result["multiplier"][0])
    larger, smaller = with_multiplier(1.3 * least), with_multiplier(0.7 * least)
    bound = certify(plan, x, **larger)
    assert bound.gap[0] > 1e-3
    assert bound.target_error[0] == 0.0
    assert certify(plan, x, **smaller).target_error[0] > 1e-3
    others = within(plan, None, distributions(rng, 20_000, 6))
    entropy, log_p = -entropy_value(None, others), x[0] - np.logaddexp.reduce(x[0])
    limit = plan.target[1]
    inside = entropy >= limit if plan.target[0] == "entropy" else -entropy - others @ log_p <= limit
    best = (others[inside] @ x[0]).max()
    assert best <= float(np.exp(result["log_probs"][0]) @ x[0]) + 1e-9
    assert best - float(np.exp(larger["log_probs"][0]) @ x[0]) <= bound.gap[0] + 1e-9


def test_multiplier_zero_is_the_linear_objective():
    x, plan = np.array([[2.0, 1.0, 0.0]]), Plan(PlanKind.SOFTMAX, lam=0.5, target=("entropy", 0.0))
    result, _ = solved(plan, x)
    assert result["multiplier"][0] == 0.0
    assert certify(plan, x, **result).gap[0] == 0.0
    assert certify(plan, x, **{**result, "log_probs": log([0.0, 1.0, 0.0])}).gap[0] == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------------ inputs


def test_every_plan_has_a_regularizer():
    without_code = set(PlanKind) - {PlanKind.USER}  # tests/oracle/test_user_regularizers.py
    assert set(BUILDERS) == {kind.value for kind in without_code}
    assert set(OPTIMA) == without_code


@pytest.mark.parametrize("plan", [PLANS[2], Plan(PlanKind.COVERAGE_DUAL, lam=0.5, **COVERAGE)], ids=str)
def test_masks_anchors_weights_and_budgets_are_part_of_the_problem(plan):
    rng = np.random.default_rng(5)
    x = 2.0 * rng.standard_normal((3, 70))
    flags = rng.random((3, 70)) < 0.5
    packed = np.packbits(np.pad(flags, ((0, 0), (0, 26))), axis=1, bitorder="little").view("<u4")
    x[:, 7], flags[:, 7], packed[:, 0] = np.nan, False, packed[:, 0] & ~np.uint32(1 << 7)
    plan = replace(plan, allowed=tuple(range(0, 60)))
    more = {}
    if plan.has_coverage:
        plan = replace(plan, anchor="given")
        anchor = rng.standard_normal((1, 70))
        anchor[0, 3] = -np.inf
        more = {"anchor": anchor, "weights": rng.random((3, 70)), "budget": np.array([1, 4, 90], dtype=np.uint32)}
    for mask in (flags, packed):
        result = certified(plan, x, mask=mask, **more)
        assert (result.gap <= 1e-12).all()
        assert (result.simplex_error <= 1e-12).all()
    for name in ("mask", *more):
        wrong = {"mask": packed, **more}
        wrong[name] = {"mask": ~flags & (x == x), "budget": np.full(3, 7, np.uint32)}.get(name, np.zeros((1, 70)))
        found, _ = solved(plan, x, mask=packed, **more)
        forged = certify(plan, x, **wrong, **found)
        assert (np.maximum(forged.gap, forged.simplex_error) > 1e-4).any(), name


def test_a_smaller_face_is_not_believed_without_supports():
    x = np.array([[1.0, 0.9, 0.0]])
    face = np.array([[True, False, False]])
    claimed = {"log_probs": np.array([[0.0, -np.inf, -np.inf]]), "face": face}
    on_face = Plan(PlanKind.FACE_SOFTMAX, lam=1.0, supports=(("top_k", 1.0, False),))
    assert certified(on_face, x, claimed).gap[0] == 0.0
    assert certified(Plan(PlanKind.SOFTMAX, lam=1.0), x, claimed).gap[0] > 0.5


def test_mass_that_is_missing_or_forbidden_is_a_simplex_error():
    x, plan = np.array([[1.0, 0.0, -np.inf]]), Plan(PlanKind.SOFTMAX, lam=1.0)
    assert certified(plan, x, {"log_probs": log([0.5, 0.4, 0.0])}).simplex_error[0] == pytest.approx(0.1)
    assert certified(plan, x, {"log_probs": log([0.5, 0.3, 0.2])}).simplex_error[0] == pytest.approx(0.2)


def test_rows_without_a_solution_are_nan_and_shapes_are_restored():
    x = np.array([[1.0, np.nan], [1.0, 2.0]])
    result, _ = solved(PLANS[1], x)
    found = certify(PLANS[1], x, **result, shape=(2, 1))
    assert found.gap.shape == (2, 1)
    assert np.isnan(found.gap[0, 0])
    assert found.relative_gap[1, 0] <= 1e-12
    assert np.ndim(certify(PLANS[1], x[1:], **{k: v[1:] for k, v in result.items()}, shape=()).gap) == 0


def test_underflow_and_spread_never_give_nan():
    x = np.array([[1.7e308, -1.7e308, 0.0], [-1e30, 1e30, 1e30], [0.0, -5e4, -1e6]])
    for plan in PLANS:
        if plan.cap < 1.0:
            plan = replace(plan, cap=0.9)
        found = certified(plan, x)
        assert not np.isnan([found.gap, found.max_active_residual, found.max_inactive_violation]).any()
        beyond_floats = plan.cap < 1.0 and any(term.kind == "divergence" for term in plan.terms)  # r underflows
        if plan.kind is not PlanKind.MIRROR and not beyond_floats:
            assert (found.relative_gap <= 1e-9).all(), plan
