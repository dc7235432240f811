"""``optdecode bench``: what decoding costs on this machine, beside the cost of reading the logits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optdecode._bench import machine, report
from optdecode._bench.cases import ENTRIES, Entry, case, floor
from optdecode._bench.rounds import Cell, Effort, Timing, measure
from optdecode._bench.rows import make_rows, rotation
from optdecode._spec import positive_int
from optdecode.errors import BackendUnavailableError

_EXAMPLE = """example:
  optdecode bench --vocabulary 128256 --output bench-results
"""
_KINDS = {"lm": "LM-like", "flat": "flat"}
_NOTE = (
    "One thread, float32, one row at a time, rows not in cache; times are taken in the core. F1 is a tuned row maximum:"
    " what reading the row costs. Ratios are medians over rounds, each to F1 in that round; ±: half the interquartile "
    "range. LM-like rows have nuclei (p = .95) of 1 to 1,000 tokens; flat rows are normal with standard deviation 1/2."
)


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "bench",
        help="time the decoders on this machine",
        description="Time a draw by each of the main decoders, as a ratio to reading the row once.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vocabulary", type=int, default=151_936, metavar="V", help="tokens (default 151936)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="save bench.md and bench.json there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise BackendUnavailableError(
            f"the bench needs the extra [demo]: pip install 'optdecode[demo]' ({error})"
        ) from error

    vocabulary = positive_int("bench", "--vocabulary", arguments.vocabulary, high=1 << 22)
    rounds = positive_int("bench", "--rounds", arguments.rounds, high=10_000)
    console = Console()
    where = machine.describe()
    timings: list[Timing] = []
    with console.status("") as status:
        for kind, label in _KINDS.items():
            status.update(f"timing {len(_entries())} decoders on {label} rows, V = {vocabulary:,}")
            timings += _measure(Cell(kind, "f32", vocabulary, 1), rounds)
    Console(width=max(console.width, _TABLE_WIDTH)).print(_table(timings, vocabulary))
    console.print("\n".join(f"{key}: {value}" for key, value in where.items()), style="dim", highlight=False)
    if arguments.output is not None:
        settings = {"vocabulary": vocabulary, "rounds": rounds}
        for path in report.save(
            arguments.output, "bench", _markdown(timings, where, vocabulary), report.as_json(where, settings, timings)
        ):
            console.print(f"saved: {path}", highlight=False)
    return 0


_TABLE_WIDTH = 84


def _entries() -> list[Entry]:
    return [entry for entry in ENTRIES if entry.short]


def _measure(cell: Cell, rounds: int) -> list[Timing]:
    rows = make_rows(cell.kind, cell.vocabulary, rotation(cell.vocabulary, 4, cell.batch))
    effort = Effort(rounds=rounds, seconds=0.02 * rounds, least_rounds=min(rounds, 5))
    cases = [case(entry, rows, cell.dtype, cell.batch) for entry in _entries()]
    return measure(cell, len(rows), floor(rows, cell.dtype, cell.batch), cases, effort)


def _by_name(timings: Sequence[Timing]) -> dict[str, dict[str, Timing]]:
    rows: dict[str, dict[str, Timing]] = {}
    for timing in timings:
        rows.setdefault(timing.name, {})[timing.cell.kind] = timing
    return rows


def _table(timings: Sequence[Timing], vocabulary: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"one draw, V = {vocabulary:,}", caption=_NOTE)
    table.add_column("decoder", no_wrap=True)
    for label in _KINDS.values():
        table.add_column(f"{label} / F1", justify="right", no_wrap=True)
        table.add_column("µs", justify="right", no_wrap=True)
    for name, found in _by_name(timings).items():
        texts = [text(found[kind]) for kind in _KINDS for text in (report.ratio_text, report.time_text)]
        table.add_row(name, *texts, end_section=name == "F1")
    return table


def _markdown(timings: Sequence[Timing], where: dict[str, str], vocabulary: int) -> str:
    columns = [(kind, what) for kind in _KINDS for what in ("/ F1", "µs")]
    lines = [f"# What a draw costs, V = {vocabulary:,}", "", _NOTE, ""]
    lines.append(f"| decoder | {' | '.join(f'{_KINDS[kind]} {what}' for kind, what in columns)} |")
    lines.append(f"|---|{'---:|' * len(columns)}")
    for name, found in _by_name(timings).items():
        texts = [text(found[kind]) for kind in _KINDS for text in (report.ratio_text, report.time_text)]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", *report.machine_lines(where)])
