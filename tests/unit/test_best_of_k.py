"""What Best-of-K is made of: twin, size of coverage, order of tokens, budgets by prefix, the paper's form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optdecode as od
from coverage_problems import BestOfK, log_softmax, random_problem, total_variation
from optdecode._parse import parse_decoder
from rows import make_row

BACKENDS = ("rust", "reference")


# ---------------------------------------------------------------------------------------------------------------- twin


#: lam → (eta, temperature for raw scores, for tempered ones) at T = 0.9 after 5 steps.
EARLY_STOPPED = {
    0.1: [(0.1, 0.625, 0.604), (0.5, 0.296, 0.276), (1.0, 0.192, 0.177)],
    0.2: [(0.1, 0.628, 0.608), (0.5, 0.317, 0.295), (1.0, 0.224, 0.206)],
    0.5: [(0.1, 0.640, 0.620), (0.5, 0.379, 0.356), (1.0, 0.328, 0.306)],
}


@pytest.mark.parametrize("lam", EARLY_STOPPED)
def test_early_stopped_temperatures(lam):
    for eta, raw, tempered in EARLY_STOPPED[lam]:
        for scores, expected in (("raw", raw), ("tempered", tempered)):
            decoder = od.best_of_k(lam=lam, temperature=0.9, scores=scores, solver=od.MirrorAscent(5, eta))
            assert decoder.effective_temperature() == pytest.approx(expected, abs=5e-4)


def factor(lam, solver):
    """What the twin multiplies s by: (1 - (1 - eta lam)^J) / lam after J steps, by recursion; 1 / lam at the end."""
    if solver is None:
        return 1.0 / lam
    eta = solver.eta if solver.eta != "auto" else 1.0 / lam if lam else 1.0
    a = 0.0
    for _ in range(solver.steps):
        a = (1.0 - eta * lam) * a + eta
    return a


SOLVERS = [
    None,
    *(od.MirrorAscent(steps, eta) for steps in (1, 2, 5, 20) for eta in (0.1, 0.5, 1.0, 1.9)),
    od.MirrorAscent(7, 1e-9),
    od.MirrorAscent(3, "auto"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scores", ["raw", "tempered"])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_twin_is_a_softmax_at_its_temperature(solver, scores, backend):
    x = make_row("gaussian", 50, seed=31)
    for lam in (0.0, 0.1, 0.5, 1.0):
        if lam == 0.0 and solver is None:
            continue
        for temperature, score_weight in ((0.9, 1.0), (1.0, 0.25), (1.7, -0.3), (0.5, 3.0)):
            decoder = od.best_of_k(
                beta_bar=2.0, lam=lam, temperature=temperature, score_weight=score_weight, scores=scores, solver=solver
            )
            # Case A of raw scores: 1 / T + a w_s; case B of tempered ones: (1 + a w_s) / T.
            slope = score_weight * factor(lam, solver)
            inverse = 1.0 / temperature + (slope if scores == "raw" else slope / temperature)
            solution = decoder.twin()(x, backend=backend)
            np.testing.assert_allclose(solution.log_probs, log_softmax(inverse * x), rtol=1e-11, atol=1e-11)
            assert decoder.effective_temperature() == pytest.approx(1.0 / inverse, rel=1e-12)
            if inverse > 0.0:
                plain = od.softmax(decoder.effective_temperature())(x)
                np.testing.assert_allclose(solution.log_probs, plain.log_probs, rtol=1e-10, atol=1e-10)
            if np.asarray(solution.probs).max() < 0.99:  # it is a comparison: the decoder itself is elsewhere
                assert total_variation(decoder(x, backend=backend).probs, solution.probs) > 1e-12


def test_the_twin_of_anything_keeps_all_but_coverage():
    for seed in range(30):
        problem = random_problem(seed).but(anchor=None, per_call=False)
        for solver in (None, od.MirrorAscent(4, 0.3)):
            twin = problem.decoder(solver).twin()
            assert twin == problem.but(beta_bar=0.0).decoder(solver)
            assert twin.twin() == twin
            assert twin.effective_temperature() == problem.decoder(solver).effective_temperature()


def test_the_twin_without_a_kl_term_starts_from_the_model():
    """At lam = 0 the J steps on a linear objective multiply p by exp(eta J s): a real decoder, in every form."""
    decoder = od.best_of_k(lam=0.0, beta_bar=1.0, temperature=0.8, solver=od.MirrorAscent(5, 0.3))
    twin = decoder.twin()
    assert twin.effective_temperature() == decoder.effective_temperature() == pytest.approx(0.8 / (1 + 1.5))
    assert od.Decoder.from_dict(twin.to_dict()) == twin
    assert parse_decoder(repr(twin)) == twin
    rows = np.stack([make_row("lm", 3000, "float32", seed=seed) for seed in range(3)])
    plain = od.softmax(decoder.effective_temperature())
    np.testing.assert_allclose(twin(rows).probs, plain(rows).probs, rtol=2e-5, atol=1e-9)
    assert (twin.sample(rows, seed=7, n=50).tokens == plain.sample(rows, seed=7, n=50).tokens).all()
    # The exact solver's twin there is greedy, and so is a mirror twin at temperature 0.
    assert od.best_of_k(lam=0.0, beta_bar=1.0).effective_temperature() == 0.0
    assert od.best_of_k(lam=0.2, temperature=0.0, solver=od.MirrorAscent()).effective_temperature() == 0.0


def test_temperatures_that_there_are_not():
    with pytest.raises(od.ProblemError, match="infinite temperature"):
        od.best_of_k(lam=1.0, score_weight=-1.0).effective_temperature()
    with pytest.raises(od.ProblemError, match=r"diverge.*take eta < 2 / lam"):
        od.best_of_k(lam=1.0, solver=od.MirrorAscent(5000, 10.0)).effective_temperature()


# -------------------------------------------------------------------------------------------------- size of coverage


@pytest.mark.parametrize("seed", range(40))
def test_coverage_moves_a_token_by_no_more_than_its_first_draw(seed):
    """Stationarity: log q - log q_twin = beta K w (1 - q)^(K-1) + c, c common: by at most beta K w nats."""
    problem = random_problem(seed)
    twin = np.asarray(problem.but(beta_bar=0.0, per_call=False).solve().log_probs)
    log_q = np.asarray(problem.solve().log_probs)
    beta = problem.beta_bar / problem.lam
    noise = 1e-12 * (1.0 + np.abs(problem.linear).max() / problem.lam + beta * problem.budget * problem.w.max())
    with np.errstate(under="ignore"):
        moved = beta * problem.budget * problem.w * (1.0 - np.exp(log_q)) ** (problem.budget - 1)
    # 1 - q is known to an absolute 1e-16, so its power only where q is not 1.
    sure = np.exp(log_q) < 0.999
    shift = (log_q - twin - moved)[sure]
    assert np.ptp(shift) <= 10 * noise if sure.any() else True
    constant = float(shift[0]) if sure.any() else 0.0
    relative = log_q - twin - constant
    if sure.any():
        assert relative.min() >= -10 * noise
        assert (relative <= beta * problem.budget * problem.w + 10 * noise).all()


@pytest.mark.parametrize("beta", [0.01, 0.02, 0.05])
def test_with_model_weights_the_pure_tilt_is_at_most_half_of_beta(beta):
    """K p (1 - p)^(K-1) <= (1 - 1/K)^(K-1) <= 1/2 where q is near p: .005, .01, .025 nats. It is nearly reached."""
    largest = 0.0
    for seed in range(20):
        x = make_row("gaussian", (2, 3, 20)[seed % 3], seed=seed)
        for budget in (2, 3, 8, 64):
            decoder = od.best_of_k(budget, beta=beta, lam=0.3, score_weight=0.0)
            moved = np.ptp(np.asarray(decoder(x).log_probs) - log_softmax(x))
            assert moved <= 0.5 * beta * np.exp(beta)
            largest = max(largest, moved)
    assert largest >= 0.35 * beta
    # With w = 1 it is beta K, sixteen times that at K = 8.
    flat = od.best_of_k(8, beta=beta, lam=0.3, score_weight=0.0, weights="uniform")
    moved = np.ptp(np.asarray(flat(np.array([6.0, -3.0, -4.0])).log_probs) - log_softmax(np.array([6.0, -3.0, -4.0])))
    assert 7.0 * beta <= moved <= 8.0 * beta


# ------------------------------------------------------------------------------------------------------ order of tokens


@st.composite
def ordered_problems(draw):
    """Scores, weights and anchor in one order, w_s >= 0; and the tokens in that order, worst first."""
    size = draw(st.integers(1, 12))
    named = draw(st.sampled_from(["model", "uniform", "rank", od.TopK(2), None]))
    # Ranks and supports break ties of scores by the token id, lowest best; so must the anchor and the order.
    ties_by_id = named == "rank" or isinstance(named, od.TopK)
    order = list(reversed(range(size))) if ties_by_id else draw(st.permutations(range(size)))
    x, weights, anchor = np.empty((3, size))
    for values in (x, weights, anchor):
        values[order] = np.sort(draw(st.lists(st.integers(0, 40), min_size=size, max_size=size))) / 8
    problem = BestOfK(
        x=x,
        budget=draw(st.sampled_from([1, 2, 3, 8, 64, 1000])),
        lam=10.0 ** draw(st.floats(-2, 1)),
        beta_bar=10.0 ** draw(st.floats(-3, 2)),
        weights=weights if named is None else named,
        anchor=anchor if draw(st.booleans()) else None,
        score_weight=draw(st.sampled_from([0.0, 0.3, 1.0])),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        scores=draw(st.sampled_from(["raw", "tempered"])),
    )
    return problem, order


def assert_order_kept(problem, solution, order=None):
    log_q = np.asarray(solution.log_probs)
    order = np.lexsort((-np.arange(problem.x.size), problem.x)) if order is None else order
    noise = 1e-12 * (1.0 + np.abs(log_q).max() + problem.smoothness / problem.lam)
    assert (np.diff(log_q[order]) >= -noise).all(), (problem, log_q)


@given(ordered=ordered_problems(), steps=st.integers(1, 12), shorter=st.floats(0.05, 1.0))
def test_order_is_kept_when_weights_and_anchor_are_ordered_as_scores(ordered, steps, shorter):
    problem, order = ordered
    for solver in (None, od.MirrorAscent(steps, shorter / problem.smoothness), od.MirrorAscent(steps, "auto")):
        assert_order_kept(problem, problem.solve(solver), order)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_longer_than_one_over_l_can_break_the_order(backend):
    """Algorithm 1 at eta = 1 where L = 3.27: one step makes the best of eight tokens the worst, q .102 for .128."""
    problem = BestOfK(np.array([0.2] + 7 * [0.0]), budget=8, lam=0.1, beta_bar=1.0, weights="uniform")
    assert problem.smoothness == pytest.approx(0.1 + 8 * (6 / 7) ** 6)
    once = np.asarray(problem.solve(od.MirrorAscent(1, 1.0), backend=backend).probs)
    np.testing.assert_allclose(once[:2], [0.10175, 0.12832], atol=5e-6)
    for steps, kept in ((1, False), (2, True), (3, False), (5, False)):
        q = np.asarray(problem.solve(od.MirrorAscent(steps, 1.0), backend=backend).probs)
        assert (q[0] > q[1]) is np.bool_(kept), (steps, q)
    # The optimum, and steps of 1 / L, keep it.
    assert_order_kept(problem, problem.solve(backend=backend))
    assert_order_kept(problem, problem.solve(od.MirrorAscent(5, "auto"), backend=backend))


def test_the_optimum_need_not_keep_an_order_that_the_weights_do_not_have():
    problem = BestOfK(np.array([1.0, 0.9]), budget=2, lam=1.0, beta_bar=1.0, weights=np.array([0.0, 1.0]))
    q = np.asarray(problem.solve().probs)
    assert q[1] > q[0]


# ---------------------------------------------------------------------------------------------------- budgets by prefix


@pytest.mark.parametrize("vocabulary", [40, 700])  # solved in float64, and by sweeps in float32
def test_a_group_of_sequences_with_budgets_by_prefix(vocabulary):
    """Six sequences from one prompt: the budget of a row is the number of live ones that share its prefix."""
    n, length, lam, beta_bar = 6, 5, 0.5, 2.0
    bigram = np.stack([make_row("gaussian", vocabulary, "float32", seed=seed) for seed in range(vocabulary)])
    decoder = od.best_of_k(n, beta_bar=beta_bar, lam=lam)
    ids = np.zeros((n, length + 1), dtype=np.int64)
    seen = set()
    for step in range(length):
        groups = od.prefix_groups(ids, lengths=step + 1)
        logits = bigram[ids[:, step]]
        q = np.asarray(decoder(logits, budget=groups).probs, dtype=np.float64)
        draw = decoder.sample(logits, budget=groups, seed=3, position=step)
        for row, budget in enumerate(groups.tolist()):
            seen.add(budget)
            log_p = log_softmax(logits[row].astype(np.float64))
            if budget == 1:  # the coverage of one draw is a bonus on the scores
                alone = np.exp(log_softmax(log_p + (logits[row].astype(np.float64) + beta_bar * np.exp(log_p)) / lam))
            else:
                alone = np.asarray(od.best_of_k(budget, beta_bar=beta_bar, lam=lam)(logits[row].astype(float)).probs)
            assert total_variation(q[row], alone) <= 2e-6
            # With the budget of the whole group it would be another distribution.
            if budget < n:
                other = np.asarray(decoder(logits[row].astype(float)).probs)
                assert total_variation(q[row], other) > 1e-4
            same = od.best_of_k(budget, beta_bar=beta_bar, lam=lam)
            assert (
                same.sample(logits[row], seed=od.row_seeds(3, n)[row], position=step).tokens[0] == draw.tokens[row, 0]
            )
        ids[:, step + 1] = draw.tokens[:, 0]
    assert {1, n} <= seen
    assert len(seen) > 2


def test_sequences_that_ended_have_no_budget():
    ids = np.array([[4, 1], [4, 2], [4, 1]])
    groups = od.prefix_groups(ids, lengths=2, live=[True, False, True])
    assert groups.tolist() == [2, 0, 2]
    rows = np.zeros((3, 5))
    with pytest.raises(od.ProblemError, match="budget"):
        od.best_of_k()(rows, budget=groups)
    live = groups > 0
    assert (np.asarray(od.best_of_k()(rows[live], budget=groups[live]).status) == od.Status.OK).all()


# ----------------------------------------------------------------------------------------------------- the paper's form


def algorithm_1(x, beta, lam, t, k=8, weights="model", eta=1.0, scores="raw", scale=1.0, model="tempered", bar=False):
    """Five steps, as printed in arXiv:2602.18292, in probabilities."""
    s = scale * (x if scores == "raw" else x / t)
    p = np.exp(log_softmax(x / t if model == "tempered" else x))
    w = p if weights == "model" else np.ones(x.size)
    beta_bar, q = beta if bar else lam * beta, p
    for _ in range(5):
        g = s - lam * (np.log(q / p) + 1.0) + beta_bar * w * k * (1.0 - q) ** (k - 1)
        q = q * np.exp(eta * g - (eta * g).max())
        q = q / q.sum()
    return q


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("keywords", "as_written"),
    [
        ({}, {}),
        ({"budget": 50}, {"k": 50}),
        ({"weights": "uniform"}, {"weights": "uniform"}),
        ({"eta": 0.3}, {"eta": 0.3}),
        ({"scores": "tempered"}, {"scores": "tempered"}),
        ({"score_weight": 0.5}, {"scale": 0.5}),
        ({"scores": "tempered", "model": "raw"}, {"scores": "tempered", "model": "raw"}),
        ({"scores": "tempered", "model": "raw", "score_weight": 2.0},
         {"scores": "tempered", "model": "raw", "scale": 2.0}),
        ({"beta_is": "beta_bar"}, {"bar": True}),
    ],
    ids=str,
)  # fmt: skip
def test_the_paper_constructor_is_algorithm_1_for_every_choice(keywords, as_written, backend):
    x = make_row("gaussian", 30, seed=33)
    found = []
    for beta, lam in ((0.01, 0.1), (0.02, 0.2), (0.05, 0.5)):
        for t in (0.5, 0.7, 0.9):
            solution = od.paper_best_of_k(beta, lam, t, **keywords)(x, backend=backend)
            np.testing.assert_allclose(solution.probs, algorithm_1(x, beta, lam, t, **as_written), atol=1e-12)
            assert solution.iterations == 5
            found.append(solution.probs)
    if keywords:  # a choice is one: it changes the distribution
        default = od.paper_best_of_k(0.05, 0.5, 0.9)(x).probs
        assert total_variation(found[-1], default) > 1e-5


def test_the_paper_constructor_states_its_choices():
    decoder = od.paper_best_of_k()
    assert decoder == od.best_of_k(
        8, beta=0.02, lam=0.2, weights="model", score_weight=1.0, temperature=0.7, scores="raw",
        solver=od.MirrorAscent(steps=5, eta=1.0),
    )  # fmt: skip
    assert decoder.effective_temperature() == pytest.approx(1 / (1 / 0.7 + (1 - 0.8**5) / 0.2))
    x = make_row("gaussian", 20, seed=32)
    both_raw = od.paper_best_of_k(temperature=1.0, model="raw")(x)
    np.testing.assert_array_equal(both_raw.probs, od.paper_best_of_k(temperature=1.0)(x).probs)
    text = "od.paper_best_of_k(0.05, 0.5, 0.9, weights='uniform').subject_to(TopK(50))"
    assert parse_decoder(text) == od.paper_best_of_k(0.05, 0.5, 0.9, weights="uniform").subject_to(od.TopK(50))
    assert parse_decoder(repr(decoder)) == decoder


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": 0.0}, "paper_best_of_k: temperature must be > 0"),
        ({"scores": "logits"}, "paper_best_of_k: scores must be one of 'raw', 'tempered'"),
        ({"model": "p"}, "paper_best_of_k: model must be one of 'tempered', 'raw'"),
        ({"beta_is": "bar"}, "paper_best_of_k: beta_is must be one of"),
        ({"model": "raw"}, "a temperature has no effect"),
        ({"model": "raw", "scores": "tempered", "score_weight": "1"}, "score_weight must be a real number"),
        ({"lam": 0.0}, "beta_bar = lam"),
        ({"beta": -0.1}, "beta must be >= 0"),
        ({"steps": 0}, "steps must be an integer"),
    ],
)
def test_the_paper_constructor_refuses(keywords, message):
    with pytest.raises(od.ProblemError, match=message):
        od.paper_best_of_k(**keywords)


@pytest.mark.parametrize(("beta", "lam"), [(0.01, 0.1), (0.02, 0.2), (0.05, 0.5)])
def test_at_the_papers_settings_a_step_of_one_keeps_the_order(beta, lam):
    """With w <= 1, K up to 50 and beta or beta_bar as listed, 1 <= 1 / L: there Algorithm 1 only sharpens and lifts."""
    for budget in (8, 50):
        for beta_is in ("beta", "beta_bar"):
            for weights in ("model", "uniform", "rank"):
                decoder = od.paper_best_of_k(beta, lam, budget=budget, beta_is=beta_is, weights=weights)
                bar = beta if beta_is == "beta_bar" else beta * lam
                problem = BestOfK(make_row("gaussian", 200, seed=34), budget, lam, bar, "uniform", temperature=0.7)
                if problem.smoothness > 1.0:
                    assert (budget, beta_is) == (50, "beta_bar")
                    continue
                assert_order_kept(problem, decoder(problem.x))
