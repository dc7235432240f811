"""Pictures: what their lines, bars and words say is what the solution says, and all of it can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

import optdecode as od
from optdecode._parse import parse_decoder
from optdecode.plot._decoder import scores_of, threshold_score
from optdecode.plot._objective import objective
from optdecode.plot._path import CORNERS
from optdecode.plot._read import read_row, solve, spelled
from optdecode.plot._style import SERIES, number, percent
from pages import check_readable, line, looks, luminance, points, says, words
from rows import make_row

THREE = np.array([1.0, 0.5, -0.4])
FEW = ["yes", " no", "maybe"]
LONG = [" a-very-long-token-name-indeed", "\n\n", "$x^2$", " the", ""]
EIGHT = [
    od.softmax(), od.softmax(0.7), od.top_k(20), od.top_p(0.9), od.min_p(0.05), od.sparsemax(), od.entmax(1.5),
    od.best_of_k(budget=8, beta=1.0, lam=1.0),
]  # fmt: skip
ROWS = {
    "lm": make_row("lm", 151_936),
    "flat": 0.05 * make_row("gaussian", 1000),
    "peaked": np.r_[12.0, np.linspace(1.0, -2.0, 499)],
    "three": THREE,
    "ties": make_row("tied", 60),
    "gaussian": make_row("gaussian", 200),
    "one": np.array([3.0]),
    "two": np.array([3.0, -np.inf, 2.0]),
    "one_hot": make_row("one_hot", 50),
    "huge": make_row("huge", 40),
    "all_equal": make_row("all_equal", 31),
    "minus_inf": make_row("minus_inf", 90),
}


DECODERS = ["top_p(0.9)", "entmax(1.5)", "best_of_k(budget=8, beta=1.0, lam=1.0)", "greedy()"]
#: Rows that every picture is drawn of; all others are in the slow tests.
MAIN = ("three", "gaussian")
ROWS_MAIN_FIRST = [*MAIN, *(pytest.param(name, marks=pytest.mark.slow) for name in ROWS if name not in MAIN)]


class TestDecoder:
    @pytest.mark.parametrize(
        ("row", "dec"),
        [*zip(ROWS, itertools.cycle(DECODERS), strict=False), ("lm", "greedy()"), ("lm", "entmax(1.5)")],
    )  # fmt: skip
    def test_is_readable(self, row, dec):
        self.check(row, dec)

    @pytest.mark.slow
    @pytest.mark.parametrize("row", ROWS)
    @pytest.mark.parametrize("dec", DECODERS)
    def test_every_row_is_readable_with_every_decoder(self, row, dec):
        self.check(row, dec)

    def check(self, row, dec):
        labels = (lambda i: LONG[i % len(LONG)]) if dec.startswith("entmax") else None
        check_readable(od.plot.decoder(parse_decoder(dec), ROWS[row], labels=labels))

    @pytest.mark.parametrize("top", [1, 40, 100])
    @pytest.mark.parametrize("labels", [None, lambda i: f" {i}"])
    def test_any_number_of_tokens_is_readable(self, top, labels):
        figure = od.plot.decoder(od.top_k(7), 0.1 * make_row("gaussian", 300), top=top, labels=labels)
        check_readable(figure)
        assert sum(len(bars) for bars in figure.axes[1].containers[:2]) == top

    @pytest.mark.parametrize("row", ["lm", "ties", "minus_inf"])
    @pytest.mark.parametrize("dec", [od.top_p(0.6), od.sparsemax(2.0), od.best_of_k(budget=8, beta=1.0, lam=1.0)])
    def test_the_numbers_drawn_are_those_of_the_solution(self, row, dec):
        logits = ROWS[row]
        figure = od.plot.decoder(dec, logits)
        solution = dec(logits)
        _, bars, curves, link, _ = figure.axes
        order = np.lexsort((np.arange(logits.size), -logits))
        order = order[np.isfinite(logits[order])]
        p = np.exp(od.softmax(dec.problem.temperature)(logits).log_probs)
        best = order[: round(bars.get_xlim()[1] - 0.6)]
        kept, dropped, inner = bars.containers
        for bar, values, where in (
            (kept, p, solution.support[best]),
            (dropped, p, ~solution.support[best]),
            (inner, solution.probs, solution.support[best]),
        ):
            assert [patch.get_height() for patch in bar] == pytest.approx(values[best[where]])
            assert [round(patch.get_x() + patch.get_width() / 2) for patch in bar] == list(1 + np.flatnonzero(where))
        for label, values in (("p", p), ("q", solution.probs)):
            rank, drawn = points(curves, label)
            assert drawn == pytest.approx(values[order[rank.astype(int) - 1]])
        on_support = np.flatnonzero(solution.support[order]) + 1
        assert set(points(curves, "q")[0]) <= set(on_support)
        assert points(curves, "q")[0][[0, -1]].tolist() == on_support[[0, -1]].tolist()
        score, drawn = line(link, "q")
        here = solution.support[best]
        assert score == pytest.approx(logits[best[here]] / dec.problem.temperature)
        assert drawn == pytest.approx(solution.probs[best[here]])
        assert line(link, "dropped")[0].size == (~here).sum()

    def test_a_curve_breaks_where_tokens_between_are_dropped(self):
        logits, dec = (
            np.array([3.0, 2.0, 1.0, 0.5, 0.0]),
            od.best_of_k(4, beta_bar=9.0, lam=0.0, weights=[9, 0, 9, 9, 0]),
        )
        assert dec(logits).support.tolist() == [True, False, True, True, False]
        figures = od.plot.decoder(dec, logits), od.plot.compare({"q": dec}, logits)
        for figure in figures:
            rank, drawn = line(figure.axes[2], "q")
            np.testing.assert_array_equal(rank, [1, np.nan, 3, 4])
            np.testing.assert_array_equal(drawn, [dec(logits).probs[0], np.nan, *dec(logits).probs[2:4]])
            check_readable(figure)

    def test_the_words_are_those_of_the_solution(self):
        dec, logits = od.top_p(0.6, temperature=0.8), ROWS["gaussian"]
        solution, text = dec(logits), says(od.plot.decoder(dec, logits))
        assert "top_p(0.6, temperature=0.8)" in text
        assert f"{solution.support_size} of 200 tokens kept" in text
        assert f"{100 * solution.kept_mass:.1f} % of the model's mass" in text
        assert f"entropy {solution.entropy:.4g} nats (p: {od.softmax(0.8)(logits).entropy:.4g})" in text
        assert f"KL(q‖p) {solution.kl:.4g} nats" in text
        assert f"gap {number(float(solution.certificate().gap), 2)}: no q gains more" in text
        assert "scope: optimal on the selected face" in text
        assert f"threshold η = {solution.threshold:.4g}" in text
        assert "p = softmax(x / 0.8)" in text

    @pytest.mark.parametrize("row", ["gaussian", "lm", "ties", "three", "flat", "one_hot", "minus_inf"])
    @pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_the_threshold_parts_the_scores_that_are_kept(self, row, alpha, temperature):
        dec, logits = od.entmax(alpha, temperature), ROWS[row]
        view, solved = read_row(dec, logits, None, None), solve(dec, logits, None, None)
        score, _ = scores_of(dec.problem, view)
        cut = threshold_score(dec.problem, solved, score, view)
        assert cut is not None
        slack = 1e-6 * max(1.0, abs(cut))
        assert score[solved.support].min() >= cut - slack
        assert score[view.allowed & ~solved.support].max(initial=-np.inf) <= cut + slack

    @pytest.mark.parametrize(
        "dec", [od.softmax(), od.top_p(0.5), od.greedy(), od.best_of_k(), od.sparsemax().subject_to(od.TopK(1))]
    )
    def test_no_threshold_is_drawn_where_it_drops_nothing(self, dec):
        view, solved = read_row(dec, THREE, None, None), solve(dec, THREE, None, None)
        assert threshold_score(dec.problem, solved, *scores_of(dec.problem, view)[:1], view) is None
        assert "kept above" not in says(od.plot.decoder(dec, THREE))

    def test_the_threshold_is_marked_where_it_is(self):
        figure = od.plot.decoder(od.sparsemax(), THREE)
        assert "kept above\nη = 0.25" in says(figure)
        (mark,) = [one for one in figure.axes[3].lines if len(set(one.get_xdata())) == 1 and one.get_marker() == "None"]
        assert mark.get_xdata()[0] == pytest.approx(0.25)

    def test_dropped_and_kept_differ_in_black_and_white(self):
        kept, dropped, inner = od.plot.decoder(od.sparsemax(), THREE).axes[1].containers
        assert dropped[0].get_hatch()
        assert not kept[0].get_hatch()
        assert luminance(kept[0].get_facecolor()) - luminance(inner[0].get_facecolor()) > 0.4
        assert inner[0].get_width() < kept[0].get_width()
        lines = od.plot.decoder(od.sparsemax(), THREE).axes[2].lines[:2]
        assert len(set(looks(lines))) == 2

    @pytest.mark.parametrize("kind", ["list", "mapping", "function"])
    def test_labels_are_those_of_the_tokens(self, kind):
        labels = {"list": FEW, "mapping": dict(enumerate(FEW)), "function": FEW.__getitem__}[kind]
        logits = np.array([-0.4, 1.0, 0.5])
        ticks = od.plot.decoder(od.softmax(), logits, labels=labels).axes[1].get_xticklabels()
        assert [tick.get_text() for tick in ticks] == ["·no", "maybe", "yes"]

    def test_mask_anchor_and_allowed(self):
        logits, mask = ROWS["gaussian"], np.arange(200) % 2 == 0
        dec = od.best_of_k(budget=4, beta_bar=1.0, lam=1.0, anchor="given")
        anchor = np.where(np.arange(200) < 50, np.linspace(0.0, -3.0, 200), -np.inf)
        solution = dec(logits, mask=mask, anchor=anchor)
        text = says(od.plot.decoder(dec, logits, mask=mask, anchor=anchor))
        assert "25 allowed of 200 tokens" in text
        assert f"KL(q‖anchor) {solution.kl:.4g} nats" in text
        view = read_row(dec, logits, mask, anchor)
        assert view.p[solution.support].sum() == pytest.approx(float(solution.kept_mass))
        assert "7 allowed of 200 tokens" in says(od.plot.decoder(od.softmax().subject_to(od.Allowed(range(7))), logits))

    def test_torch(self):
        torch = pytest.importorskip("torch")
        logits = torch.tensor([1.0, 0.5, -0.4, 0.25], dtype=torch.bfloat16)
        figure = od.plot.decoder(od.sparsemax(), logits, mask=torch.tensor([True, True, True, False]))
        solution = od.sparsemax()(logits.double().numpy(), mask=np.arange(4) < 3)
        assert line(figure.axes[2], "q")[1] == pytest.approx(solution.probs[:2], abs=1e-6)

    def test_in_a_subfigure(self):
        page = Figure(figsize=(16, 7))
        left, right = page.subfigures(1, 2)
        assert od.plot.decoder(od.sparsemax(), THREE, figure=left, title="left") is page
        assert od.plot.compare([od.softmax()], THREE, figure=right) is page
        assert len(left.axes) == 5
        with pytest.raises(od.ProblemError, match=r"plot\.decoder: figure must be empty; it has 5 axes"):
            od.plot.decoder(od.sparsemax(), THREE, figure=left)


class TestCompare:
    @pytest.mark.parametrize("row", ROWS_MAIN_FIRST)
    def test_is_readable(self, row):
        check_readable(od.plot.compare(EIGHT, ROWS[row]))

    def test_long_names_and_labels_are_readable(self):
        names = [f"decoder {i} with a name that is longer than any column is wide, I think" for i in range(12)]
        many = [od.softmax(0.5 + 0.1 * i) for i in range(12)]
        figure = od.plot.compare(
            many, ROWS["gaussian"], labels=names, token_labels=lambda i: LONG[i % len(LONG)], top=40
        )
        check_readable(figure)
        assert sum("…" in text for text, _ in words(figure)) >= 12

    def test_the_numbers_drawn_are_those_of_the_solutions(self):
        logits = ROWS["gaussian"]
        figure = od.plot.compare(EIGHT, logits)
        order = np.argsort(-logits, kind="stable")
        for place, dec in enumerate(EIGHT, start=1):
            solution = dec(logits)
            best, every = figure.axes[1].lines[place], figure.axes[2].lines[place]
            assert best.get_label() == every.get_label() == spelled(dec)
            drawn = np.asarray(best.get_ydata())
            q = np.where(solution.support, solution.probs, np.nan)[order[: drawn.size]]
            np.testing.assert_array_equal(drawn, q)
            rank = np.asarray(every.get_xdata()).astype(int)
            assert set(rank) == set(np.flatnonzero(solution.support[order]) + 1)
            np.testing.assert_array_equal(every.get_ydata(), solution.probs[order[rank - 1]])

    def test_the_table_is_that_of_the_solutions(self):
        logits = ROWS["lm"]
        table = [text.get_text() for text in od.plot.compare(EIGHT, logits).axes[3].texts]
        head = table.index("decoder") + 1
        for place, dec in enumerate(EIGHT):
            solution = dec(logits)
            name, kept, mass, entropy, kl, gap = table[head + 6 * place : head + 6 * place + 6]
            assert name == spelled(dec)
            assert kept == f"{solution.support_size:,}"
            assert mass == percent(float(solution.kept_mass))
            assert (float(entropy), float(kl)) == pytest.approx((solution.entropy, solution.kl), abs=6e-4)
            assert gap == number(float(solution.certificate().gap), 2)

    def test_series_differ_in_black_and_white(self):
        looked = looks(od.plot.compare([od.softmax(1 + i) for i in range(12)], ROWS["gaussian"]).axes[2].lines[1:])
        assert len({marker for _, marker, _ in looked}) == 12
        assert len({dashes for dashes, _, _ in looked}) == 12
        assert max(luminance(ink) for ink, _, _ in SERIES) < 0.65  # dark enough to be seen on white

    def test_names_of_a_mapping(self):
        figure = od.plot.compare({"nucleus": od.top_p(0.9), "sparse": od.sparsemax()}, THREE)
        assert [one.get_label() for one in figure.axes[2].lines] == ["p", "nucleus", "sparse"]

    def test_a_decoder_without_solution_harms_no_other(self):
        logits = np.array([-np.inf, 1.0, 0.0])
        figure = od.plot.compare([od.softmax(), od.softmax().subject_to(od.Allowed([0]))], logits)
        assert "infeasible" in says(figure)
        assert line(figure.axes[2], "softmax()")[1] == pytest.approx(od.softmax()(logits).probs[1:])
        check_readable(figure)
        with pytest.raises(od.ConvergenceError, match="INFEASIBLE"):
            od.plot.compare([od.softmax().subject_to(od.Allowed([0]))], logits)


class TestPath:
    @pytest.mark.parametrize(
        ("dec", "over"),
        [
            (od.softmax(), "temperature"), (od.entmax(1.5), "alpha"), (od.best_of_k(beta_bar=1.0, lam=0.5), "budget"),
            (od.best_of_k(beta_bar=1.0, lam=0.5), "beta_bar"), (od.best_of_k(beta_bar=1.0, lam=0.5), "lam"),
            (od.best_of_k(beta_bar=1.0, lam=0.5), "score_weight"), (od.greedy(), "temperature"),
        ],
    )  # fmt: skip
    def test_is_readable(self, dec, over):
        check_readable(od.plot.path(dec, THREE, over=over, labels=FEW))
        check_readable(od.plot.path(dec, ROWS["peaked"], over=over, labels=lambda i: LONG[i % len(LONG)]))

    def test_several_are_readable_and_differ_in_black_and_white(self):
        figure = od.plot.path(EIGHT[:6], ROWS["gaussian"], over="temperature")
        check_readable(figure)
        assert len(set(looks(figure.axes[2].lines))) == 6
        with pytest.raises(od.ProblemError, match="at most 6 decoders"):
            od.plot.path(EIGHT, ROWS["gaussian"])

    def test_the_path_is_that_of_the_solutions(self):
        logits, values = np.array([0.5, -9.0, 1.0, 0.7, -0.4]), np.geomspace(0.1, 5.0, 7)
        figure = od.plot.path(od.entmax(1.5), logits, over="temperature", values=values)
        mask = np.array([True, False, True, True, False])
        q = np.array([od.entmax(1.5, t)(logits, mask=mask).probs[[2, 3, 0]] for t in values])
        x, y = line(figure.axes[1], "entmax(1.5)")
        np.testing.assert_allclose(np.column_stack([x, y]), q @ CORNERS, atol=1e-12)
        for name, expected in zip(("token 2", "token 3", "token 0"), q.T, strict=True):
            drawn, probability = line(figure.axes[2], name)
            np.testing.assert_allclose(drawn, values)
            np.testing.assert_allclose(probability, expected)
        text = says(figure)
        assert "the three best of 5 tokens, the rest masked" in text
        assert "T = 0.1" in text
        assert "T = 5" in text
        for mark, end in (("start", 0), ("end", -1)):
            assert np.ravel(line(figure.axes[1], mark)) == pytest.approx(q[end] @ CORNERS)

    def test_a_function_of_the_value(self):
        figure = od.plot.path(None, THREE, over=lambda k: od.top_k(k), values=[3, 2, 1], symbol="k", labels=FEW)
        q = np.array([od.top_k(k)(THREE).probs for k in (3, 2, 1)])
        np.testing.assert_allclose(np.column_stack(line(figure.axes[1], "q")), q @ CORNERS)
        assert "k = 3" in says(figure)
        assert "contours: the objective at k = 1 (whole simplex)" in says(figure)

    @pytest.mark.parametrize(
        "dec",
        [
            od.softmax(0.7), od.sparsemax(2.0), od.entmax(1.0), od.entmax(1.3), od.greedy(),
            od.best_of_k(beta_bar=2.0, lam=0.5), od.best_of_k(beta_bar=2.0, lam=0.5, weights="rank", temperature=2.0),
            od.best_of_k(beta_bar=2.0, lam=0.5, weights="uniform", score_weight=0.3, scores="raw", temperature=2.0),
        ],
    )  # fmt: skip
    def test_contours_are_of_the_objective(self, dec):
        row, solution = read_row(dec, THREE, None, None), dec(THREE)
        ids = np.arange(3)
        assert objective(dec, row, ids, solution.probs[None])[0] == pytest.approx(float(solution.objective), abs=1e-9)
        elsewhere = np.random.default_rng(0).dirichlet(np.ones(3), size=500)
        assert objective(dec, row, ids, elsewhere).max() <= float(solution.objective) + 1e-9

    def test_no_contours_where_the_objective_is_not_known(self):
        weights = [1.0, 2.0, 3.0]
        figure = od.plot.path(od.best_of_k(beta_bar=1.0, lam=0.5, weights=weights), THREE, over="lam")
        assert "contours" not in says(figure)
        assert not figure.axes[1].collections
        assert od.plot.path(od.softmax(), THREE).axes[1].collections

    def test_a_path_breaks_where_there_is_no_solution(self):
        def over(k):
            return od.softmax().subject_to(od.Allowed([3] if k == 2 else [0, 1, 2]))

        figure = od.plot.path(None, np.append(THREE, -2.0), over=over, values=[1, 2, 3])
        assert np.isnan(line(figure.axes[1], "q")[0]).tolist() == [False, True, False]


class TestCoverage:
    @pytest.mark.parametrize("row", ROWS_MAIN_FIRST)
    @pytest.mark.parametrize("dec", ["top_p(0.9)", "best_of_k(budget=8, beta=1.0, lam=1.0)", "greedy()"])
    def test_is_readable(self, row, dec):
        figure = od.plot.coverage(parse_decoder(dec), ROWS[row])
        check_readable(figure)
        assert len(set(looks(figure.axes[1].lines[:3]))) == 3

    @pytest.mark.parametrize("weights", [None, "model", "uniform", "rank", od.TopK(2), np.array([0.5, 2.0, 0.0])])
    def test_the_numbers_drawn_are_expectations_over_all_draws(self, weights):
        dec, counts = od.best_of_k(budget=3, beta_bar=1.0, lam=0.5), [1, 2, 3, 4]
        figure = od.plot.coverage(dec, THREE, budgets=counts, weights=weights)
        p = od.softmax()(THREE).probs
        named = {None: np.ones(3), "model": p, "uniform": np.ones(3), "rank": 1 / np.arange(1, 4)}
        w = named[weights] if weights is None or isinstance(weights, str) else weights
        w = np.array([1.0, 1.0, 0.0]) if isinstance(w, od.TopK) else w
        for name, decoder in (("i.i.d.", dec), ("twin, i.i.d.", dec.twin())):
            q = decoder(THREE).probs
            for side, worth in ((1, p), (2, w)):
                drawn, values = line(figure.axes[side], name)
                assert drawn.tolist() == counts
                for k, value in zip(counts, values, strict=True):
                    draws = itertools.product(range(3), repeat=k)
                    assert value == pytest.approx(
                        sum(np.prod(q[list(d)]) * sum(worth[t] for t in set(d)) for d in draws)
                    )

    def test_systematic_draws_cover_what_the_library_draws(self):
        dec, n = od.best_of_k(budget=3, beta_bar=1.0, lam=0.5), 3
        figure = od.plot.coverage(dec, THREE, budgets=[1, n])
        many = dec.sample(np.tile(THREE, (4000, 1)), seed=1, n=n, coupling="systematic").tokens
        distinct = np.mean([len(set(row)) for row in many.tolist()])
        # The standard error is at most 0.5 / sqrt(4000) = 0.008: four of them.
        assert line(figure.axes[2], "systematic")[1][-1] == pytest.approx(distinct, abs=0.032)
        assert (line(figure.axes[2], "systematic")[1] >= line(figure.axes[2], "i.i.d.")[1] - 1e-12).all()

    def test_the_table_is_of_the_decoders_budget(self):
        dec = od.best_of_k(budget=16, beta_bar=1.0, lam=0.5)
        figure = od.plot.coverage(dec, ROWS["gaussian"])
        text = says(figure)
        counts, values = line(figure.axes[1], "i.i.d.")
        assert "K = 16 draws" in text
        assert "budget K = 16" in text
        assert percent(values[counts.tolist().index(16)]) in text

    def test_without_coverage_the_model_is_drawn_beside(self):
        figure = od.plot.coverage(od.top_p(0.5), ROWS["gaussian"])
        assert [one.get_label() for one in figure.axes[1].lines[:3]] == ["systematic", "i.i.d.", "p, i.i.d."]
        assert f"kept: {percent(float(od.top_p(0.5)(ROWS['gaussian']).kept_mass))}" in says(figure)

    def test_mirror_ascent_without_twin(self):
        dec = od.best_of_k(beta_bar=1.0, lam=0.0, solver=od.MirrorAscent())
        assert [one.get_label() for one in od.plot.coverage(dec, THREE).axes[1].lines[:2]] == ["systematic", "i.i.d."]
