"""`MirrorAscent(tolerance=...)`: when a row stops, what its status says, and that rows and paths agree."""

import numpy as np
import pytest

import optdecode as od
from coverage_problems import BestOfK, log_softmax, random_problem, total_variation
from optdecode._parse import parse_decoder
from rows import ROW_KINDS, make_row, make_rows

BACKENDS = ("rust", "reference")


def ascent(steps=10_000, eta="auto", tolerance=1e-7):
    return od.MirrorAscent(steps, eta, tolerance)


def gap(problem, log_q):
    slope = problem.slope(log_q)
    return float(slope.max() - np.exp(log_q) @ slope)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-7, 1e-10])
def test_a_row_stops_at_the_first_step_below_the_tolerance(tolerance, backend):
    for seed in range(25):
        problem = random_problem(seed).but(lam=1.0)
        problem = problem.but(beta_bar=min(problem.beta_bar, 5.0))
        solution = problem.solve(ascent(tolerance=tolerance), backend=backend)
        assert solution.status is od.Status.OK
        taken, eta = int(solution.iterations), 1.0 / problem.smoothness
        np.testing.assert_allclose(solution.log_probs, problem.ascend(taken, eta), rtol=1e-9, atol=1e-9)
        assert gap(problem, problem.ascend(taken, eta)) <= tolerance * (1 + 1e-3) + 1e-12
        if taken:
            assert gap(problem, problem.ascend(taken - 1, eta)) > tolerance * (1 - 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_few_steps_are_of_reduced_accuracy(backend):
    problem = BestOfK(make_row("gaussian", 30, seed=40), budget=8, lam=0.1, beta_bar=1.0, weights="uniform")
    whole = problem.solve(ascent(), backend=backend)
    taken = int(whole.iterations)
    assert whole.status is od.Status.OK
    assert taken > 20
    enough = problem.solve(ascent(steps=taken), backend=backend)
    assert (enough.status, int(enough.iterations)) == (od.Status.OK, taken)
    short = problem.solve(ascent(steps=taken - 1), backend=backend)  # not a bad row: nothing is raised
    assert (short.status, int(short.iterations)) == (od.Status.REDUCED_ACCURACY, taken - 1)
    np.testing.assert_allclose(
        short.log_probs, problem.solve(od.MirrorAscent(taken - 1, "auto"), backend=backend).log_probs, atol=1e-15
    )
    # Without a tolerance there is none to miss.
    assert problem.solve(od.MirrorAscent(1, "auto"), backend=backend).status is od.Status.OK
    # Steps that are far too long never arrive.
    assert problem.solve(ascent(200, eta=10.0), backend=backend).status is od.Status.REDUCED_ACCURACY


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_anchor_that_is_optimal_takes_no_step(backend):
    x = np.array([0.3, 2.0, -1.0])
    solution = od.best_of_k(beta=0.0, lam=0.7, score_weight=0.0, solver=ascent())(x, backend=backend)
    assert (solution.status, int(solution.iterations)) == (od.Status.OK, 0)
    np.testing.assert_allclose(solution.log_probs, log_softmax(x), atol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_each_row_stops_on_its_own(dtype):
    rows = np.stack([make_row("gaussian", 200, dtype, seed=seed) * (1 + seed) for seed in range(6)])
    rows[2, 7] = np.nan
    decoder = od.best_of_k(16, beta_bar=1.0, lam=0.2, weights="uniform", solver=ascent())
    together = decoder(rows, on_failure="mark")
    assert together.status[2] == od.Status.NAN_SCORES
    assert len(set(together.iterations.tolist())) > 3
    for row in (0, 1, 3, 4, 5):
        alone = decoder(rows[row])
        assert (alone.status, int(alone.iterations)) == (together.status[row], together.iterations[row])
        np.testing.assert_array_equal(alone.probs, together.probs[row])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 33, 257])
def test_hard_rows_arrive_or_say_that_they_do_not(size, backend):
    """Ties, one-hot, denormals, +-1e30: an OK is one, by the exact solver and by the certificate."""
    rows = make_rows(size, seed=41)
    arrived = np.zeros(len(ROW_KINDS), dtype=bool)
    for budget, lam, beta_bar, weights in ((8, 0.5, 0.5, "model"), (3, 1.0, 2.0, "uniform"), (64, 0.2, 0.1, "rank")):
        exact = od.best_of_k(budget, beta_bar=beta_bar, lam=lam, weights=weights)
        solution = od.Decoder(exact.problem, ascent())(rows, backend=backend)
        certificate = solution.certificate()
        ok = np.asarray(solution.status) == od.Status.OK
        arrived |= ok
        distance = 0.5 * np.abs(solution.probs - exact(rows).probs).sum(axis=1)
        assert (distance[ok] <= 1e-7 + 1e-12).all(), dict(zip(ROW_KINDS, distance, strict=True))
        assert (certificate.gap[ok] <= 1e-7 * lam + 1e-12 * certificate.scale[ok]).all()
        assert (np.asarray(solution.iterations)[~ok] == 10_000).all()
    # Tokens that underflow, as those of one-hot and huge rows, do not keep a row from it.
    assert arrived.all(), [kind for kind, ok in zip(ROW_KINDS, arrived, strict=True) if not ok]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_without_mass_cannot_hold_a_row_back(backend):
    """What e^-2000 could gain is nothing, though its slope is 40 lam above the others; slopes near 1e30 are noise."""
    problem = BestOfK(np.array([0.0, -1.0, -2000.0]), 8, 0.5, 2.5, np.array([0.0, 0.0, 1.0]), score_weight=0.0)
    assert gap(problem, problem.log_p) == pytest.approx(20.0)
    solution = problem.solve(ascent(), backend=backend)
    assert (solution.status, int(solution.iterations)) == (od.Status.OK, 0)
    assert solution.certificate().gap <= 1e-15
    # If it can have mass it does hold the row back: there is more to gain than its weight in the anchor.
    mass = problem.but(x=np.array([0.0, -1.0, -30.0])).solve(ascent(), backend=backend)
    assert (mass.status, int(mass.iterations) > 10) == (od.Status.OK, True)
    assert mass.probs[2] > 0.05
    huge = np.stack([make_row("huge", 50, seed=seed) * 0.7 for seed in range(20)])
    solution = od.best_of_k(beta=0.0, lam=0.3, solver=ascent())(huge, backend=backend)
    assert (np.asarray(solution.status) == od.Status.OK).all()
    assert (np.asarray(solution.iterations) <= 2).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("weights", ["model", "uniform"])
def test_long_rows_are_solved_in_double_precision(weights, dtype):
    """Mirror ascent without a tolerance has sweeps in float32 for these; they cannot know a gap of 1e-7."""
    rows = np.stack([make_row(kind, 3000, dtype, seed=42) for kind in ("gaussian", "lm", "tied")])
    exact = od.best_of_k(8, beta_bar=0.2, lam=0.5, weights=weights)
    decoder = od.Decoder(exact.problem, ascent())
    solution = decoder(rows)
    wide = decoder(rows.astype(np.float64))
    assert solution.iterations.tolist() == wide.iterations.tolist()
    np.testing.assert_array_equal(solution.probs, wide.probs.astype(np.float32))
    np.testing.assert_allclose(wide.probs, exact(rows.astype(np.float64)).probs, atol=1e-7)
    # Draws come from the same distribution, and say what the solution says.
    draw = decoder.sample(rows, seed=5, n=40)
    np.testing.assert_array_equal(draw.tokens, solution.sample(seed=5, n=40).tokens)
    assert (np.asarray(draw.status) == od.Status.OK).all()
    short = od.Decoder(exact.problem, ascent(steps=2)).sample(rows, seed=5)
    assert (np.asarray(short.status) == od.Status.REDUCED_ACCURACY).all()
    assert (short.tokens >= 0).all()


def test_in_words_and_in_strings(capsys):
    decoder = od.best_of_k(solver=od.MirrorAscent(10_000, "auto", tolerance=1e-7))
    decoder.explain()
    assert "at most 10000 of size 1 / L, from the anchor, until the gap is at most 1e-07 lam" in capsys.readouterr().out
    od.best_of_k(solver=od.MirrorAscent()).explain()
    assert "steps       5 of size 1, from the anchor\n" in capsys.readouterr().out
    assert parse_decoder("best_of_k(solver=MirrorAscent(10000, eta='auto', tolerance=1e-7))") == decoder
    assert od.Decoder.from_dict(decoder.to_dict()) == decoder
    # The twin keeps it, and needs one step.
    twin = decoder.twin()(make_row("gaussian", 20, seed=43))
    assert (twin.status, int(twin.iterations)) == (od.Status.OK, 1)
    assert total_variation(twin.probs, od.best_of_k().twin()(make_row("gaussian", 20, seed=43)).probs) <= 1e-12


def test_a_tolerance_needs_a_unit():
    with pytest.raises(od.ProblemError, match=r"tolerance is measured in lam.*lam = 0; got 1e-07.*Leave it out"):
        od.best_of_k(lam=0.0, beta_bar=1.0, solver=od.MirrorAscent(tolerance=1e-7))
    with pytest.raises(od.ProblemError, match=r"MirrorAscent: tolerance must be > 0; got -1"):
        od.MirrorAscent(tolerance=-1)
