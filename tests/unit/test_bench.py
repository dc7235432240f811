"""Measurement of speed: rows, rounds, ratios, reports, and the clocks of the extension."""

import json
import os

import numpy as np
import pytest

from optdecode import _core, presets
from optdecode._bench import machine, report
from optdecode._bench.cases import ENTRIES, case, floor, forced
from optdecode._bench.rounds import Case, Cell, Effort, Quartiles, Timing, measure
from optdecode._bench.rows import ADVERSARIAL, KINDS, ROTATION_BYTES, make_rows, narrowed, nucleus_size, rotation
from optdecode.backends.rust import compiled
from optdecode.errors import ProblemError

CELL = Cell("lm", "f32", 100, 2)


class TestRows:
    @pytest.mark.parametrize("vocabulary", [4096, 32_000, 151_936])
    def test_lm_rows_have_nuclei_of_1_to_1000_tokens_mixed(self, vocabulary):
        sizes = [nucleus_size(row) for row in make_rows("lm", vocabulary, 40)]
        assert min(sizes) >= 1
        assert max(sizes) <= 1000
        assert sum(size <= 10 for size in sizes) >= 5
        assert sum(size >= 100 for size in sizes) >= 5

    def test_flat_rows_have_most_tokens_in_the_nucleus(self):
        row = make_rows("flat", 151_936, 1)[0]
        assert abs(row.std() - 0.5) < 0.01
        assert 120_000 < nucleus_size(row) < 140_000

    def test_peaked_rows_have_one_token(self):
        assert {nucleus_size(row, 0.9999) for row in make_rows("peaked", 32_000, 5)} == {1}

    def test_adversarial_rows(self):
        ties, infs, huge = (make_rows(kind, 32_000, 2) for kind in ADVERSARIAL)
        assert (ties == ties.max(axis=1, keepdims=True)).sum(axis=1).min() >= 5000
        assert 0.7 < np.isneginf(infs).mean() < 0.8
        assert np.isfinite(infs.max(axis=1)).all()
        assert (np.abs(huge).max(axis=1) > 1e6).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_differ_and_repeat_with_their_seed(self, kind):
        rows = make_rows(kind, 5000, 3, seed=1)
        assert rows.dtype == np.float32
        assert not np.isnan(rows).any()
        assert len({row.tobytes() for row in rows}) == 3
        assert (rows == make_rows(kind, 5000, 3, seed=1)).all()
        assert (rows != make_rows(kind, 5000, 3, seed=2)).any()

    def test_unknown_kind(self):
        with pytest.raises(ProblemError, match="kind must be one of"):
            make_rows("odd", 100, 1)

    @pytest.mark.parametrize(("vocabulary", "itemsize", "batch"), [(32_000, 4, 64), (262_144, 4, 64), (4096, 2, 1)])
    def test_a_rotation_is_cold_and_made_of_whole_batches(self, vocabulary, itemsize, batch):
        rows = rotation(vocabulary, itemsize, batch)
        assert rows % batch == 0
        assert rows >= 2 * batch
        assert rows * vocabulary * itemsize >= ROTATION_BYTES >= 24 << 20

    def test_narrowed(self):
        import ml_dtypes

        rows = make_rows("infs", 5000, 2)
        assert narrowed(rows, "f32") is rows
        assert (narrowed(rows, "f16") == rows.astype(np.float16).view(np.uint16)).all()
        assert (narrowed(rows, "bf16") == rows.astype(ml_dtypes.bfloat16).view(np.uint16)).all()
        with pytest.raises(ProblemError, match="dtype must be"):
            narrowed(rows, "f8")


class Clock:
    """A case that takes as long as it is told, and remembers what it was asked for."""

    def __init__(self, name, nanoseconds):
        self.name, self.nanoseconds, self.calls = name, nanoseconds, []

    def time(self, start, count):
        self.calls.append((start, count))
        return np.full(count, self.nanoseconds, dtype=np.uint64)

    def case(self):
        return Case(self.name, self.time)


class TestMeasure:
    def test_ratios_are_to_the_floor_and_times_are_of_a_row(self):
        base, slow = Clock("F1", 1000), Clock("slow", 3000)
        first, second = measure(CELL, 10, base.case(), [slow.case()], Effort(rounds=5))
        assert (first.name, first.ratio.median) == ("F1", 1.0)
        assert second.ratio == Quartiles(3.0, 3.0, 3.0)
        assert second.microseconds.median == 1.5
        assert second.rounds == 5

    def test_ratios_do_not_see_the_drift_of_the_machine(self):
        base, slow = Clock("F1", 1000), Clock("slow", 3000)

        def drifting(start, count):
            base.nanoseconds *= 2
            slow.nanoseconds *= 2
            return base.time(start, count)

        timings = measure(CELL, 10, Case("F1", drifting), [slow.case()], Effort(rounds=4))
        assert timings[1].ratio == Quartiles(3.0, 3.0, 3.0)
        assert timings[1].microseconds.spread > 0.5

    def test_rows_go_round_whoever_reads(self):
        base, other = Clock("F1", 10**9), Clock("other", 10**9)
        measure(CELL, 10, base.case(), [other.case()], Effort(rounds=3))
        starts = [start for pair in zip(base.calls[1:], other.calls[1:], strict=True) for start, _ in pair]
        assert starts == [4, 6, 8, 0, 2, 4]

    def test_cheap_cases_get_more_readings_and_dear_ones_fewer_rounds(self):
        cheap, dear = Clock("cheap", 1000), Clock("dear", 10**9)
        timings = measure(
            CELL, 10, Clock("F1", 1000).case(), [cheap.case(), dear.case()], Effort(rounds=8, seconds=0.5, readings=7)
        )
        assert [timing.rounds for timing in timings[1:]] == [8, 3]
        assert cheap.calls[-1][1] == 7
        assert dear.calls[-1][1] == 1

    def test_patience_with_dear_cases_ends(self):
        timings = measure(CELL, 10, Clock("F1", 1).case(), [Clock("dear", 10**9).case()], Effort(seconds=0.03))
        assert timings[1].rounds == 1

    def test_a_case_that_raises_is_not_run_and_says_why(self):
        def fails(start, count):
            raise ImportError("no such thing\nat all")

        good = Clock("good", 10)
        timings = measure(CELL, 10, Clock("F1", 10).case(), [Case("bad", fails, "peer"), good.case()], Effort(rounds=3))
        assert timings[1] == Timing("bad", "peer", CELL, reason="ImportError: no such thing")
        assert timings[2].rounds == 3

    def test_a_floor_that_raises_is_an_error(self):
        def fails(start, count):
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            measure(CELL, 10, Case("F1", fails), [], Effort())


class TestReport:
    TIMINGS = (
        Timing("F1", "optdecode", CELL, Quartiles(20.0, 19.0, 21.0), Quartiles(1.0, 1.0, 1.0), 9),
        Timing("top-p .95", "optdecode", CELL, Quartiles(31.0, 30.0, 33.1), Quartiles(1.55, 1.5, 1.6), 9),
        Timing("sort", "peer", CELL, reason="ImportError: no peer"),
    )

    def test_texts(self):
        assert [report.number(value) for value in (1234.5, 99.96, 12.34, 1.556)] == ["1,234", "100.0", "12.3", "1.56"]
        assert [report.ratio_text(timing) for timing in self.TIMINGS] == [
            "1.00",
            "1.55",
            "not run: ImportError: no peer",
        ]
        assert report.time_text(self.TIMINGS[1]) == "31.0 ±5 %"

    def test_table(self):
        lines = report.table(
            ("decoder", "a", "b"),
            self.TIMINGS,
            lambda timing: timing.name,
            lambda timing: timing.source,
            report.ratio_text,
        )
        assert lines == [
            "| decoder | a | b |",
            "|---|---:|---:|",
            "| F1 | 1.00 | – |",
            "| top-p .95 | 1.55 | – |",
            "| sort | – | not run: ImportError: no peer |",
        ]

    def test_json_holds_everything(self):
        saved = json.loads(report.as_json({"processor": "x"}, {"rounds": 9}, self.TIMINGS))
        assert saved["machine"] == {"processor": "x"}
        assert saved["settings"] == {"rounds": 9}
        assert saved["timings"][1]["ratio"] == {"median": 1.55, "low": 1.5, "high": 1.6}
        assert saved["timings"][2]["reason"] == "ImportError: no peer"

    def test_save(self, tmp_path):
        paths = report.save(tmp_path / "new", "name", "# a\n\n", "{}")
        assert [path.name for path in paths] == ["name.md", "name.json"]
        assert paths[0].read_text() == "# a\n"

    def test_machine(self):
        described = machine.describe(["numpy", "no-such-distribution"])
        assert described["instruction set"] == _core.build_info()["level"]
        assert described["numpy"] == np.__version__
        assert "no-such-distribution" not in described


class TestClocks:
    ROWS = make_rows("lm", 3000, 4)
    SOFTMAX = compiled(presets.softmax().plan)

    @pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
    def test_every_entry_is_timed(self, entry):
        times = case(entry, self.ROWS, "f32", 2).time(3, 5)
        assert times.shape == (5,)
        assert (times > 0).all()

    @pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_widths_and_threads(self, dtype, threads):
        rows = narrowed(self.ROWS, dtype)
        for timed in (
            floor(rows, dtype, 4, threads),
            *(case(entry, rows, dtype, 4, threads) for entry in ENTRIES if entry.short),
        ):
            assert (timed.time(0, 3) > 0).all()

    def test_double_rows(self):
        rows = self.ROWS.astype(np.float64)
        assert (_core.time_row_max(rows, "f64", 0, 2, 1, 1) > 0).all()
        assert (_core.time_solve(self.SOFTMAX, rows, "f64", 0, 2, 1, 1) > 0).all()

    def test_a_row_without_a_distribution_is_an_error(self):
        rows = self.ROWS.copy()
        rows[2, 7] = np.nan
        for timer in (_core.time_draws, _core.time_solve):
            assert len(timer(self.SOFTMAX, rows, "f32", 0, 2, 1, 1)) == 2
            with pytest.raises(ValueError, match="row 2 has no distribution"):
                timer(self.SOFTMAX, rows, "f32", 2, 2, 1, 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((-1, 1, 1, 1), "start"), ((0, 0, 1, 1), "count"), ((0, 1, 0, 1), "batch"), ((0, 1, 1, -1), "threads")],
    )
    def test_bad_numbers(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            _core.time_draws(self.SOFTMAX, self.ROWS, "f32", *arguments)

    def test_no_rows(self):
        with pytest.raises(ValueError, match="at least one row"):
            _core.time_row_max(np.zeros((0, 5), dtype=np.float32), "f32", 0, 1, 1, 1)

    def test_a_level_is_forced_for_the_time_of_a_reading(self, monkeypatch):
        monkeypatch.delenv("OPTDECODE_FORCE_LEVEL", raising=False)
        with forced("scalar"):
            assert _core.build_info()["level"] == "scalar"
        assert "OPTDECODE_FORCE_LEVEL" not in os.environ
        monkeypatch.setenv("OPTDECODE_FORCE_LEVEL", "scalar")
        with forced("nonsense"), pytest.raises(ValueError, match="nonsense"):
            floor(self.ROWS, "f32", 1).time(0, 1)
        assert os.environ["OPTDECODE_FORCE_LEVEL"] == "scalar"
