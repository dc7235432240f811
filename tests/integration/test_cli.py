"""The command line, run in process: what it prints, and how it refuses."""

import json
import re

import numpy as np
import pytest

import optdecode as od
from optdecode.cli import main

PROMPT = "c = a * b ; a = 7 ; b = 4 ; ? c"


def run(capsys, *argv):
    """Return (exit code, standard output, standard error)."""
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def row_file(tmp_path):
    path = tmp_path / "row.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2, 200)) * 3)
    return path


class TestExplain:
    def test_without_logits(self, capsys):
        code, out, _ = run(capsys, "explain", "best_of_k(budget=8).subject_to(TopK(50))")
        assert code == 0
        assert "COVERAGE_DUAL" in out
        assert "the 50 best tokens" in out

    def test_with_logits(self, capsys, row_file):
        code, out, _ = run(
            capsys, "explain", "entmax(alpha=1.5)", "--logits", str(row_file), "--row", "1", "--top", "3"
        )
        assert code == 0
        assert "THRESHOLD_TSALLIS" in out
        assert float(re.search(r"certificate gap (\S+)", out)[1]) < 1e-9
        table = out.split("log q\n")[1].splitlines()
        assert 1 <= len(table) <= 3

    @pytest.mark.parametrize(("name", "starts"), [("out.png", b"\x89PNG"), ("out.svg", b"<?xml"), ("out.PDF", b"%PDF")])
    def test_draws_one_decoder(self, capsys, row_file, tmp_path, name, starts):
        path = tmp_path / name
        code, out, _ = run(
            capsys, "explain", "top_p(0.9)", "--logits", str(row_file), "--row", "1", "--plot", str(path)
        )
        assert code == 0
        assert out.rstrip().endswith(f"picture     {path}")
        assert path.read_bytes().startswith(starts)
        assert path.stat().st_size > 10_000

    def test_draws_several_decoders_side_by_side(self, capsys, row_file, tmp_path, monkeypatch):
        from optdecode import plot

        drawn = []
        compare = plot.compare
        monkeypatch.setattr(plot, "compare", lambda *given: drawn.append(given) or compare(*given))
        arguments = ("explain", "top_p(0.9)", "sparsemax()", "--logits", str(row_file), "--row", "1")
        code, out, _ = run(capsys, *arguments, "--plot", str(tmp_path / "out.png"))
        assert code == 0
        assert out.count("certificate gap") == 2
        ((decoders, row),) = drawn
        assert decoders == [od.top_p(0.9), od.sparsemax()]
        np.testing.assert_array_equal(row, np.load(row_file)[1])
        assert (tmp_path / "out.png").stat().st_size > 10_000

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("topk(5)",), "unknown name"),
            (
                ("top_k(5)", "--logits", "{row}", "--plot", "out.bmp"),
                "out.bmp: the name must end in .png, .svg or",
            ),
            (("top_k(5)", "--logits", "{row}", "--plot", "png"), "the name must end in"),
            (("top_k(5)", "--logits", "{row}", "--plot", "no/such/out.png"), "there is no directory no/such"),
            (("top_k(5)", "--plot", "out.png"), "pass --logits"),
            (("top_k(0)",), "k must be an integer"),
            (("top_k(5)", "--logits", "nowhere.npy"), "nowhere.npy"),
            (("top_k(5)", "--logits", "{row}", "--row", "7"), "--row 7"),
            (("top_k(5)", "--logits", "{text}"), "not a .npy file"),
        ],
    )
    def test_refuses_with_exit_code_2(self, capsys, row_file, tmp_path, arguments, message):
        text = tmp_path / "text.npy"
        text.write_text("hello")
        filled = [argument.format(row=row_file, text=text) for argument in arguments]
        code, _, err = run(capsys, "explain", *filled)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1


class TestGenerate:
    def test_samples_log_probabilities_and_vote(self, capsys):
        arguments = (
            "generate",
            "--decoder",
            "best_of_k(budget=8)",
            "--samples",
            "8",
            "--seed",
            "1",
            "--prompt",
            PROMPT,
        )
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert len(re.findall(r"log q +-?\d", out)) == 8
        assert re.search(r"^vote +\d", out, re.MULTILINE)
        assert run(capsys, *arguments)[1] == out  # a seed repeats itself

    def test_a_held_out_problem_by_default(self, capsys):
        code, out, _ = run(capsys, "generate", "--decoder", "greedy()", "--samples", "1")
        assert code == 0
        assert out.startswith("prompt")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--prompt", "what is love"), "--prompt"),
            (("--decoder", "best_of_k(budget=0)"), "budget must be"),
            (("--samples", "0"), "--samples"),
        ],
    )
    def test_refuses_with_exit_code_2(self, capsys, arguments, message):
        code, _, err = run(capsys, "generate", *arguments)
        assert code == 2
        assert message in err


def test_demo_small(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--problems", "6", "--samples", "3", "--output", str(tmp_path))
    assert code == 0
    for name in ("greedy", "softmax", "top-k", "top-p", "min-p", "sparsemax", "entmax", "best-of-K", "twin"):
        assert out.count(name) >= 2
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    code, _, err = run(capsys, "demo", "--cool", "2", "--hot", "1")
    assert code == 2
    assert "--cool" in err


class TestBench:
    def test_small(self, capsys, tmp_path):
        code, out, _ = run(capsys, "bench", "--vocabulary", "20000", "--rounds", "1", "--output", str(tmp_path))
        assert code == 0
        assert "LM-like / F1" in out
        assert "instruction set: " in out
        report = (tmp_path / "bench.md").read_text()
        for name in ("F1", "greedy", "softmax draw", "top-p .95", "best of 8", "full softmax"):
            assert name in out
            assert f"| {name} |" in report
        assert "not run" not in report
        saved = json.loads((tmp_path / "bench.json").read_text())
        assert saved["settings"] == {"vocabulary": 20000, "rounds": 1}
        assert {timing["cell"]["kind"] for timing in saved["timings"]} == {"lm", "flat"}
        assert all(timing["microseconds"]["median"] > 0 for timing in saved["timings"])

    @pytest.mark.parametrize("option", ["--vocabulary", "--rounds"])
    def test_refuses_with_exit_code_2(self, capsys, option):
        code, _, err = run(capsys, "bench", option, "0")
        assert code == 2
        assert option in err


@pytest.mark.parametrize("command", [(), ("demo",), ("generate",), ("explain",), ("bench",)])
def test_help_shows_an_example(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    if command:
        assert "example:" in out


def test_no_command_and_version(capsys):
    assert run(capsys)[0] == 2
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("optdecode 0.")
