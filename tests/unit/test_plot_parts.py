"""Pictures: parameters by name, decoders and numbers in words, refusals, and what drawing leaves as it was."""

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import optdecode as od
from optdecode._parse import parse_decoder
from optdecode.plot._parameters import setter
from optdecode.plot._read import shown, spelled
from optdecode.plot._style import clipped, number, percent, spread
from rows import make_row

THREE = np.array([1.0, 0.5, -0.4])
draw = od.plot


class TestParameters:
    @pytest.mark.parametrize(
        ("dec", "name", "value", "expected"),
        [
            (od.softmax(), "temperature", 0.5, od.softmax(0.5)),
            (od.entmax(1.5, 0.7), "alpha", 1.25, od.entmax(1.25, 0.7)),
            (od.top_p(0.9), "p", 0.5, od.top_p(0.5)),
            (od.top_k(9).subject_to(od.MinP(0.1)), "k", 3, od.top_k(3).subject_to(od.MinP(0.1))),
            (od.best_of_k(beta_bar=1.0), "budget", 3, od.best_of_k(3, beta_bar=1.0)),
            (od.best_of_k(beta_bar=1.0), "beta_bar", 3.0, od.best_of_k(beta_bar=3.0)),
            (od.best_of_k(beta_bar=1.0), "lam", 3.0, od.best_of_k(beta_bar=1.0, lam=3.0)),
            (od.best_of_k(beta_bar=1.0), "score_weight", 0.0, od.best_of_k(beta_bar=1.0, score_weight=0.0)),
            (od.best_of_k(beta_bar=1.0, solver=od.MirrorAscent()), "steps", 9,
             od.best_of_k(beta_bar=1.0, solver=od.MirrorAscent(steps=9))),
            (od.softmax(), "lam", 2.0, od.Decoder(od.Problem(2.0 * od.NegEntropy()))),
        ],
    )  # fmt: skip
    def test_one_parameter_changes(self, dec, name, value, expected):
        assert setter("test", dec, name)(value) == expected

    def test_unknown_and_ambiguous_names_are_refused(self):
        with pytest.raises(od.ProblemError, match=r"over='alpha' names no parameter of .*; it has k, lam, score_w"):
            setter("test", od.top_k(4), "alpha")
        with pytest.raises(od.ProblemError, match=r"over='p' names 2 parameters"):
            setter("test", od.top_p(0.9).subject_to(od.MinP(0.1)), "p")


class TestWords:
    @pytest.mark.parametrize(
        "dec",
        [
            od.softmax(), od.softmax(0.7), od.top_k(20), od.top_p(0.9), od.min_p(0.05), od.sparsemax(), od.entmax(1.5),
            od.best_of_k(budget=8, beta=1.0, lam=1.0), od.greedy(),
            od.top_k(5, temperature=0.5).subject_to(od.MinP(0.1), od.PLess()),
            od.entmax(1.0),
            od.best_of_k(budget=3, beta_bar=0.3, lam=0.0), od.best_of_k(), od.softmax().subject_to(od.Allowed([3, 5])),
            od.best_of_k(weights="rank", score_weight=0.0, anchor="given", scores="raw", temperature=2.0),
            od.sparsemax(0.3).subject_to(od.Chain(od.TopK(5), od.TopP(0.5))),
            od.best_of_k(beta=0.1, weights=od.TopK(3), solver=od.MirrorAscent(steps=2)),
        ],
    )  # fmt: skip
    def test_a_decoder_is_spelled_as_it_is_made(self, dec):
        assert parse_decoder(spelled(dec)) == dec
        assert not spelled(dec).startswith("Decoder(")

    def test_what_no_preset_makes_is_spelled_in_short(self):
        heavy = od.best_of_k(weights=np.ones(1000))
        assert spelled(heavy) == "best_of_k(budget=8, weights=<1000 weights>)"
        assert "Allowed(<9 tokens>)" in spelled(od.softmax().subject_to(od.Allowed(range(9))))
        assert (
            spelled(od.Decoder(od.Problem(2.0 * od.NegEntropy(), support=od.TopK(3))))
            == "2.0 * NegEntropy() on TopK(k=3)"
        )

    @pytest.mark.parametrize(
        ("share", "text"),
        [(1.0, "100 %"), (0.99999, "99.99 %"), (0.9994, "99.9 %"), (0.5, "50.0 %"), (0.0123, "1.2 %"), (0.0, "0 %")],
    )
    def test_percent(self, share, text):
        assert percent(share) == text

    def test_numbers(self):
        assert [number(v) for v in (-0.5, 1e-16, 12345678.0, np.inf, -np.inf, np.nan, 0.0)] == [
            "−0.5", "1×10⁻¹⁶", "1.235×10⁷", "∞", "−∞", "undefined", "0",
        ]  # fmt: skip
        assert [shown(v) for v in (" a\n", "", "  ", "$x$")] == ["·a\\n", "(empty)", "··", "$x$"]
        assert clipped("abcdefghij", 7) == "abcd…ij"

    def test_places_are_moved_apart_as_little_as_it_takes(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            wanted = np.round(rng.random(6), 1)
            moved = spread(wanted, 0.1, 0.0, 1.0)
            order = np.argsort(wanted, kind="stable")
            assert (np.diff(moved[order]) >= 0.1 - 1e-12).all()
            assert moved.min() >= 0
            assert moved.max() <= 1 + 1e-12
        assert spread([0.1, 0.5, 0.9], 0.1, 0.0, 1.0) == pytest.approx([0.1, 0.5, 0.9])
        assert spread([0.5, 0.5], 0.2, 0.0, 1.0) == pytest.approx([0.4, 0.6])


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: draw.decoder("top_p", THREE), od.ProblemError, "expected a Decoder such as"),
            (lambda: draw.decoder(od.softmax(), THREE[None]), od.ShapeError, r"one row \(V,\).* such as logits\[0\]"),
            (lambda: draw.decoder(od.softmax(), np.zeros(0)), od.ShapeError, "one row"),
            (lambda: draw.decoder(od.softmax(), np.arange(3)), od.DTypeError, "logits must be float16"),
            (lambda: draw.decoder(od.softmax(), np.full(3, np.nan)), od.ConvergenceError, "NAN_SCORES"),
            (lambda: draw.decoder(od.softmax(), THREE, labels=["a"]), od.ShapeError, "labels must be V = 3 texts"),
            (lambda: draw.decoder(od.softmax(), THREE, labels="abc"), od.ShapeError, "labels must be V = 3 texts"),
            (lambda: draw.decoder(od.softmax(), THREE, top=0), od.ProblemError, "top must be an integer"),
            (lambda: draw.decoder(od.softmax(), THREE, figure="new"), od.ProblemError, "figure must be a mat"),
            (lambda: draw.decoder(od.softmax(), THREE, mask=[True]), od.ShapeError, "bool mask must be"),
            (lambda: draw.decoder(od.best_of_k(anchor="given"), THREE), od.ProblemError, "'given': pass anchor="),
            (lambda: draw.compare([], THREE), od.ProblemError, "expected decoders"),
            (lambda: draw.compare(["x"], THREE), od.ProblemError, "expected a Decoder"),
            (lambda: draw.compare([od.softmax()] * 13, THREE), od.ProblemError, "at most 12 decoders"),
            (lambda: draw.compare([od.softmax()], THREE, labels=["a", "b"]), od.ProblemError, "one name a decoder"),
            (lambda: draw.path(od.softmax(), THREE[:2]), od.ShapeError, "needs 3 that are allowed; got 2"),
            (lambda: draw.path(od.softmax(), THREE, over="alpha"), od.ProblemError, "names no parameter"),
            (lambda: draw.path(od.top_k(2), THREE, over="k"), od.ProblemError, "over='k' needs values="),
            (lambda: draw.path(od.softmax(), THREE, values=[1.0]), od.ProblemError, "at least 2 finite numbers"),
            (lambda: draw.path(od.softmax(), THREE, values=[1.0, -1.0]), od.ProblemError, "temperature must be >= 0"),
            (lambda: draw.path(od.softmax(), THREE, over=3), od.ProblemError, "over must name a parameter"),
            (lambda: draw.path(od.softmax(), THREE, over=od.top_k), od.ProblemError, "dec must be None"),
            (lambda: draw.path(None, THREE, over=od.top_k), od.ProblemError, "values= is needed"),
            (lambda: draw.path(None, THREE, over=str, values=[1, 2]), od.ProblemError, "over must return a Decoder"),
            (lambda: draw.path(od.best_of_k(anchor="given"), THREE), od.ProblemError, "'given': pass anchor="),
            (lambda: draw.coverage(od.softmax(), THREE, budgets=[2, 1]), od.ProblemError, "integers that increase"),
            (lambda: draw.coverage(od.softmax(), THREE, budgets=[0, 1]), od.ProblemError, "budgets must be an integer"),
            (lambda: draw.coverage(od.softmax(), THREE, budgets=8), od.ProblemError, "budgets must be a sequence"),
            (lambda: draw.coverage(od.softmax(), THREE, weights="w"), od.ProblemError, "weights"),
            (lambda: draw.coverage(od.softmax(), THREE, weights=[1.0]), od.ShapeError, "weights have length 1"),
        ],
    )  # fmt: skip
    def test_bad_input_is_refused_by_name(self, call, error, message):
        with pytest.raises(error, match=message):
            call()

    def test_matplotlib_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(od.BackendUnavailableError, match=r"pip install 'optdecode\[plot\]'"):
            od.plot.decoder(od.softmax(), THREE)


class TestState:
    def test_nothing_global_changes(self):
        before = dict(mpl.rcParams)
        for figure in (
            od.plot.decoder(od.softmax(), THREE), od.plot.compare([od.softmax()], THREE),
            od.plot.path(od.softmax(), THREE), od.plot.coverage(od.softmax(), THREE),
        ):  # fmt: skip
            assert type(figure) is Figure
        assert dict(mpl.rcParams) == before

    def test_pyplot_is_not_imported_and_plot_is_imported_on_use(self):
        code = (
            "import sys, numpy, optdecode as od; print('optdecode.plot' in sys.modules, 'matplotlib' in sys.modules);"
            "od.plot; print('matplotlib' in sys.modules);"
            "od.plot.decoder(od.softmax(), numpy.zeros(3)); print('matplotlib.pyplot' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.split() == ["False", "False", "False", "False"]

    def test_the_callers_style_changes_no_picture(self):
        loud = {
            "axes.facecolor": "black", "figure.facecolor": "black", "text.color": "white", "font.size": 25,
            "xtick.labelsize": 30, "ytick.labelsize": 30, "axes.titlesize": 40, "lines.linewidth": 9, "axes.grid": True,
            "xtick.minor.visible": True, "xtick.bottom": False, "legend.frameon": True, "figure.dpi": 50,
        }  # fmt: skip
        pages = []
        for style in ({}, loud):
            with mpl.rc_context(style):
                figure = od.plot.decoder(od.sparsemax(), make_row("gaussian", 200))
                figure.savefig(page := io.BytesIO(), dpi=80, facecolor=figure.get_facecolor())
            pages.append(page.getvalue())
        assert pages[0] == pages[1]
