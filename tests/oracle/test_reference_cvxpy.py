"""An interior-point solver confirms the reference on every plan that a conic program can express."""

import cvxpy as cp
import numpy as np
import pytest

from conic import by_interior_point, omega
from optdecode._plan import Plan, PlanKind, Term
from optdecode.backends import reference
from rows import make_row

#: PlanKind → the plans to confirm, as (keyword arguments, row kinds, V).
PLANS = {
    PlanKind.ARGMAX: [({}, ("gaussian", "lm"), 50)],
    PlanKind.SOFTMAX: [({"lam": lam}, ("gaussian", "tied", "lm"), 60) for lam in (0.1, 1.0, 30.0)],
    PlanKind.FACE_SOFTMAX: [({"lam": 0.7, "supports": (("top_k", 7.0, False),)}, ("gaussian", "tied"), 60)],
    PlanKind.ANCHORED_SOFTMAX: [
        ({"lam": 0.5, "anchor": "model", "temperature": 2.0, "score_weight": -0.5}, ("gaussian", "lm"), 60),
        ({"lam": 2.0, "anchor": "given"}, ("gaussian",), 60),
    ],
    PlanKind.THRESHOLD_QUADRATIC: [
        ({"lam": lam}, ("gaussian", "tied", "cauchy", "all_equal"), 120) for lam in (0.01, 1.0, 100.0)
    ],
    PlanKind.THRESHOLD_TSALLIS: [
        ({"lam": lam, "alpha": alpha}, ("gaussian", "tied"), 60)
        for lam in (0.1, 1.0, 30.0)
        for alpha in (1.3, 1.5, 2.0, 2.5, 3.0)
    ],
    PlanKind.COVERAGE_DUAL: [
        ({"lam": lam, "anchor": "model", "beta_bar": beta_bar, "budget": k, "weights": w}, ("gaussian", "lm"), 40)
        for lam, beta_bar, k, w in [
            (0.2, 0.004, 8, "model"),
            (0.1, 1.0, 1, "uniform"),
            (1.0, 1.0, 2, "model"),
            (1.0, 3.0, 3, "uniform"),
            (0.05, 1.0, 16, "rank"),
            (10.0, 100.0, 64, "uniform"),
            (0.01, 1.0, 64, "uniform"),
        ]
    ]
    + [
        (
            {"lam": 0.5, "anchor": "model", "beta_bar": 2.0, "budget": 8, "weights": "support", "score_weight": 0.0,
             "weight_supports": (("top_k", 3.0, False),), "supports": (("top_p", 0.95, False),)},
            ("gaussian", "tied"), 40,
        ),
        ({"lam": 0.5, "anchor": "given", "beta_bar": 2.0, "budget": 4}, ("gaussian",), 40),
    ],
    PlanKind.COVERAGE_WATERFILL: [
        ({"beta_bar": beta_bar, "budget": k, "weights": w}, ("gaussian", "lm"), 40)
        for beta_bar, k, w in [(1.0, 2, "model"), (10.0, 3, "uniform"), (5.0, 16, "rank"), (3.0, 64, "uniform")]
    ],
    PlanKind.MIRROR: [
        (
            {"lam": 1.0, "anchor": "model", "beta_bar": 2.0, "budget": 4, "weights": "uniform", "steps": 60},
            ("gaussian",), 40,
        )
    ],
    PlanKind.SEPARABLE_DUAL: [
        ({"terms": (Term("entropy", 0.3), Term("quadratic", 1.0)), "cap": 0.2}, ("gaussian", "tied"), 40),
        (
            {"terms": (Term("divergence", 0.5, 2.0, "given"), Term("kl", 0.2, 1.0, "model")), "anchor": "given",
             "supports": (("top_k", 9.0, False),)},
            ("gaussian",), 40,
        ),
        ({"terms": (Term("coverage", 2.0),), "cap": 0.3, "budget": 4, "weights": "rank"}, ("gaussian", "tied"), 40),
    ],
    PlanKind.GREEDY_FILL: [({"cap": cap}, ("gaussian", "lm"), 40) for cap in (0.3, 0.11)],
    PlanKind.ADAPTIVE_K: [  # the interior point on the tokens kept; which are kept: test_family.py
        ({"terms": (term,), "price": 0.02, "anchor": anchor}, ("gaussian", "lm"), 40)
        for term, anchor in [
            (Term("entropy", 0.7), "none"),
            (Term("kl", 1.0, 1.0, "model"), "model"),
            (Term("tsallis", 1.0, 1.5), "none"),
        ]
    ],
}  # fmt: skip
CASES = [
    pytest.param(Plan(kind, **arguments), row, size, id=f"{kind.value}-{number}-{row}")
    for kind, plans in PLANS.items()
    for number, (arguments, rows, size) in enumerate(plans)
    for row in rows
]


def weights_of(plan, x, p):
    order = np.lexsort((np.arange(x.size), -x))
    rank = np.empty(x.size)
    rank[order] = np.arange(1, x.size + 1)
    named = {"model": p, "uniform": np.ones(x.size), "rank": 1.0 / rank}
    return named[plan.weights] if plan.weights in named else (rank <= plan.weight_supports[0][1]).astype(float)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of tolerances below its reach
@pytest.mark.filterwarnings("ignore:Power atom with exponent")  # says how it is represented
@pytest.mark.parametrize(("plan", "kind", "size"), CASES)
def test_interior_point_agrees(plan, kind, size):
    x = np.clip(np.asarray(make_row(kind, size, seed=3)), -100.0, 100.0)
    anchor = make_row("gaussian", size, seed=4)[None] if plan.anchor == "given" else None
    log_probs, probs, face, _, objective, *_, status = reference.solve(
        plan, x[None], "f64", None, anchor, None, None, 1
    )
    q, face = probs[0], face[0]
    p = np.exp(x / plan.temperature - np.logaddexp.reduce(x / plan.temperature))
    r = p if anchor is None else np.exp(anchor[0] - np.logaddexp.reduce(anchor[0]))
    w = weights_of(plan, x, p)
    linear = plan.score_weight * x / plan.temperature

    def value(q):
        return float(linear[face] @ q[face] - omega(plan, cp.Constant(q[face]), p[face], r[face], w[face]).value)

    other = by_interior_point(plan, linear, face, p, r, w)
    scale = max(1.0, abs(value(q)))
    assert status[0] == 0
    np.testing.assert_allclose(np.exp(log_probs[0]), q)
    np.testing.assert_allclose(objective[0], value(q) - plan.price * face.sum(), atol=1e-9 * scale)
    assert abs(value(q) - value(other)) <= 1e-6 * scale
    assert value(q) >= value(other) - 1e-10 * scale
    assert 0.5 * np.abs(q - other).sum() <= 1e-4


def test_every_plan_is_confirmed():
    assert set(PLANS) == set(PlanKind) - {PlanKind.USER}  # tests/oracle/test_user_regularizers.py
