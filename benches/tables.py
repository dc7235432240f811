"""The Markdown of `make bench`."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from benches import bars
from optdecode._bench.report import machine_lines, number, ratio_text, table, time_text
from optdecode._bench.rounds import Timing

KIND_NAMES = {
    "lm": "LM-like rows",
    "peaked": "peaked rows",
    "flat": "flat rows",
    "ties": "adversarial rows: ties by the thousand",
    "infs": "adversarial rows: three tokens of four at −inf",
    "huge": "adversarial rows: logits beyond 1e6",
}
INTRODUCTION = """\
Rows rotate over at least 32 MB. Rounds are interleaved: each reading of a case follows one of F1, the tuned row
maximum, on the rows before it. A ratio is the median over rounds of a case's time to F1's in that round; ± is half the
interquartile range of the rounds. One thread. Our times are taken in the core, peers' in Python around one call.

LM-like rows have nuclei (p = .95) of 1 to 1,000 tokens, mixed; flat rows are normal with standard deviation 1/2
(nucleus about 130,000); peaked rows have one token. Peers that work in place get float32 copies, made outside the time.
The rows of the package entmax, of `torch softmax`, `torch max` and `torch 5 mirror steps` do not draw. llama.cpp takes
one row at a time, with the filling of its candidate array in the time or without."""


def markdown(timings: Sequence[Timing], machine: Mapping[str, str], further: Sequence[str] = ()) -> str:
    """Lay everything out: ratios first, then bars, times, peers, the machine."""
    lines = ["# Benchmark", "", INTRODUCTION, "", *machine_lines(machine), "", "## Ratios to F1", ""]
    for title, group in _groups(timings):
        lines += [f"### {title}", "", *_grid(group, ratio_text), ""]
    lines += [*_bars(timings), *_narrow(timings), *_faster(timings), "## Microseconds a row", ""]
    for title, group in _groups(timings):
        lines += [f"### {title}", "", *_grid(group, time_text), ""]
    return "\n".join([*lines, *further])


def _groups(timings: Iterable[Timing]) -> Iterable[tuple[str, list[Timing]]]:
    """Split by kind and dtype; rows of one kind in the order of `KIND_NAMES`."""
    order = list(KIND_NAMES)

    def key(timing: Timing) -> tuple[int, str]:
        return order.index(timing.cell.kind), "a" if timing.cell.dtype == "f32" else timing.cell.dtype

    for (kind, _), group in itertools.groupby(sorted(timings, key=key), key):
        members = list(group)
        yield f"{KIND_NAMES[order[kind]]}, {members[0].cell.dtype}", members


def _grid(timings: Sequence[Timing], text: Callable[[Timing], str]) -> list[str]:
    columns = sorted({(timing.cell.batch, timing.cell.vocabulary) for timing in timings})
    header = ["", *(f"B {batch}, V {vocabulary:,}" for batch, vocabulary in columns)]
    return table(
        header,
        timings,
        lambda timing: timing.name,
        lambda timing: (timing.cell.batch, timing.cell.vocabulary),
        text,
        columns,
    )


def _bars(timings: Sequence[Timing]) -> list[str]:
    """What was asked of ratios, and what became of it."""
    at = [timing for timing in timings if timing.cell == replace(bars.BARS_CELL, kind=timing.cell.kind)]
    if not at:
        return []
    return [f"## Bars: V = {bars.BARS_CELL.vocabulary:,}, float32, one row at a time", "", *_bar_lines(at), ""]


def _bar_lines(timings: Sequence[Timing]) -> list[str]:
    ratios = {(timing.name, timing.cell.kind): timing.ratio for timing in timings}
    lines = ["| decoder | LM | bar | met | flat | bar | met |", "|---|---:|---:|---|---:|---:|---|"]
    for name in bars.RATIOS:
        texts = []
        for kind in ("lm", "flat"):
            asked, ratio = bars.bar(name, kind), ratios.get((name, kind))
            if ratio is None or asked is None:
                texts += ["–", f"{asked}", "–"]
            else:
                texts += [number(ratio.median), f"{asked}", "yes" if ratio.median <= asked else "no"]
        if texts[0] != "–" or texts[3] != "–":
            lines.append(f"| {name} | {' | '.join(texts)} |")
    return lines


def _narrow(timings: Sequence[Timing]) -> list[str]:
    """What bfloat16 rows take beside the same rows in float32: at most 1 is asked."""
    wide = {(timing.name, timing.cell): timing.microseconds for timing in timings}
    found = {}
    for timing in timings:
        before = wide.get((timing.name, replace(timing.cell, dtype="f32")))
        is_asked = timing.cell == replace(bars.BARS_CELL, kind=timing.cell.kind, dtype="bf16")
        if is_asked and before and timing.microseconds:
            found[timing] = number(timing.microseconds.median / before.median)
    if not found:
        return []
    columns = list(dict.fromkeys(timing.cell.kind for timing in found))
    grid = table(
        ["", *columns],
        found,
        lambda timing: timing.name,
        lambda timing: timing.cell.kind,
        found.__getitem__,
        columns,
    )
    return [f"## bfloat16 rows to the same in float32, V = {bars.BARS_CELL.vocabulary:,}, one at a time", "", *grid, ""]


def _faster(timings: Sequence[Timing]) -> list[str]:
    """One table for every cell of LM-like rows with peers."""
    lines = []
    for cell in dict.fromkeys(timing.cell for timing in timings if timing.source != "optdecode"):
        if cell.kind == "lm":
            members = [timing for timing in timings if timing.cell == cell]
            lines += [f"### V = {cell.vocabulary:,}, B = {cell.batch}, {cell.dtype}", ""]
            lines += [*bars.speedup_lines(members, judged=cell == bars.BARS_CELL), ""]
    return ["## Times faster than the peers, LM-like rows", "", *lines] if lines else []
