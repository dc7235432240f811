"""How ratios to F1 change with the vocabulary, with threads and with the instruction set."""

from typing import Any

from optdecode import _core
from optdecode._bench.cases import ENTRIES, Entry, case, floor, forced
from optdecode._bench.report import number
from optdecode._bench.rounds import Case, Cell, Effort, Timing, measure
from optdecode._bench.rows import make_rows, rotation

VOCABULARIES = (4096, 16_384, 65_536, 151_936, 262_144, 1_048_576)
V = 151_936
SHORT = [entry for entry in ENTRIES if entry.short]


def report(effort: Effort) -> tuple[list[str], dict[str, Any]]:
    """Measure all three; return Markdown and data."""
    lines: list[str] = []
    data: dict[str, Any] = {}
    for name, section in (("vocabulary", growth), ("threads", two_threads), ("levels", levels)):
        print(f"scaling: {name}", flush=True)
        found_lines, found = section(effort)
        lines += found_lines
        data[name] = found
    return lines, data


def growth(effort: Effort) -> tuple[list[str], Any]:
    """Ratios over vocabularies, and how much faster than F1 the time grows from the smallest to the largest."""
    ratios: dict[str, dict[int, float]] = {}
    for vocabulary in VOCABULARIES:
        rows = make_rows("lm", vocabulary, rotation(vocabulary, 4, 1))
        cell = Cell("lm", "f32", vocabulary, 1)
        timings = measure(
            cell, len(rows), floor(rows, "f32", 1), [case(entry, rows, "f32", 1) for entry in SHORT], effort
        )
        for timing in timings:
            ratios.setdefault(timing.name, {})[vocabulary] = _ratio(timing)
    lines = ["## Over the vocabulary: ratios to F1, LM-like float32 rows, one at a time", ""]
    lines.append(f"| | {' | '.join(f'V {vocabulary:,}' for vocabulary in VOCABULARIES)} | growth / F1's |")
    lines.append(f"|---|{'---:|' * (len(VOCABULARIES) + 1)}")
    for name, found in ratios.items():
        values = list(found.values())
        texts = [number(value) for value in (*values, values[-1] / values[0])]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return [*lines, ""], ratios


def two_threads(effort: Effort) -> tuple[list[str], Any]:
    """What a second thread gains at B = 64, beside what F1 gains."""
    batch = 64
    rows = make_rows("lm", V, rotation(V, 4, batch))
    one = floor(rows, "f32", batch)
    both = [_named("F1", floor(rows, "f32", batch, 2), 2)]
    for entry in SHORT:
        both += [_named(entry.name, case(entry, rows, "f32", batch, threads), threads) for threads in (1, 2)]
    timings = {
        timing.name: _time(timing) for timing in measure(Cell("lm", "f32", V, batch), len(rows), one, both, effort)
    }
    timings["F1 @1"] = timings.pop("F1")
    gains = {name: timings[f"{name} @1"] / timings[f"{name} @2"] for name in ("F1", *(entry.name for entry in SHORT))}
    lines = [f"## Two threads: LM-like float32 rows, V = {V:,}, B = {batch}", ""]
    lines += ["| | times faster by two threads | of F1's gain |", "|---|---:|---:|"]
    lines += [f"| {name} | {number(gain)} | {number(gain / gains['F1'])} |" for name, gain in gains.items()]
    return [*lines, ""], {"microseconds": timings, "gains": gains}


def levels(effort: Effort) -> tuple[list[str], Any]:
    """Every instruction set of this machine, beside the best."""
    best = _core.build_info()["level"]
    others = [level for level in ("avx2", "scalar") if level != best and _has(level)]
    ratios: dict[str, dict[str, float]] = {}
    for kind in ("lm", "flat"):
        rows = make_rows(kind, V, rotation(V, 4, 1))
        cases = [_forced_case(entry, rows, level) for entry in SHORT for level in (best, *others)]
        for timing in measure(Cell(kind, "f32", V, 1), len(rows), floor(rows, "f32", 1), cases, effort)[1:]:
            name, _, level = timing.name.rpartition(" @")
            ratios.setdefault(name, {})[f"{kind} {level}"] = _ratio(timing)
    columns = [f"{kind} {level}" for kind in ("lm", "flat") for level in (best, *others)]
    lines = [f"## Instruction sets: ratios to F1 by {best}, float32 rows, V = {V:,}, one at a time", ""]
    lines += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [
        f"| {name} | {' | '.join(number(found[column]) for column in columns)} |" for name, found in ratios.items()
    ]
    return [*lines, ""], ratios


def _forced_case(entry: Entry, rows: Any, level: str) -> Case:
    return _named(entry.name, case(entry, rows, "f32", 1, level=level), level)


def _has(level: str) -> bool:
    with forced(level):
        return _core.build_info()["level"] == level


def _named(name: str, found: Case, suffix: object) -> Case:
    return Case(f"{name} @{suffix}", found.time, found.source)


def _ratio(timing: Timing) -> float:
    return float("nan") if timing.ratio is None else timing.ratio.median


def _time(timing: Timing) -> float:
    return float("nan") if timing.microseconds is None else timing.microseconds.median
