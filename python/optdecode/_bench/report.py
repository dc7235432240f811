"""Timings as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optdecode._bench.rounds import Timing


def number(value: float) -> str:
    """Return a figure with about three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_text(timing: Timing) -> str:
    """Return the ratio to the floor, or why there is none."""
    return f"not run: {timing.reason}" if timing.ratio is None else number(timing.ratio.median)


def time_text(timing: Timing) -> str:
    """Return microseconds a row and the interquartile range in per cent, or why there are none."""
    if timing.microseconds is None:
        return f"not run: {timing.reason}"
    return f"{number(timing.microseconds.median)} ±{100 * timing.microseconds.spread / 2:.0f} %"


def table(
    header: Sequence[str],
    timings: Iterable[Timing],
    row: Callable[[Timing], Hashable],
    column: Callable[[Timing], Hashable],
    text: Callable[[Timing], str],
    columns: Sequence[Hashable] | None = None,
) -> list[str]:
    """Lay timings out as a Markdown table.

    Parameters
    ----------
    header : sequence of str
        The title of the first column, then of each column.
    timings : iterable of Timing
        What to lay out.
    row, column : callable
        Where a timing belongs; rows come in order of appearance.
    text : callable
        What stands there.
    columns : sequence, optional
        Keys of the columns; by default in order of appearance.

    Returns
    -------
    list of str
        Lines. Places without a timing hold a dash.
    """
    places: dict[Hashable, dict[Hashable, str]] = {}
    seen: dict[Hashable, None] = {}
    for timing in timings:
        places.setdefault(row(timing), {})[column(timing)] = text(timing)
        seen.setdefault(column(timing))
    keys = list(seen) if columns is None else list(columns)
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * len(keys)}"]
    for name, cells in places.items():
        lines.append(f"| {name} | {' | '.join(cells.get(key, '–') for key in keys)} |")
    return lines


def machine_lines(machine: Mapping[str, str]) -> list[str]:
    """Return the description of a machine as a Markdown list."""
    return [f"* {key}: {value}" for key, value in machine.items()]


def as_json(machine: Mapping[str, str], settings: Mapping[str, Any], timings: Iterable[Timing]) -> str:
    """Return everything that was measured, for programs.

    Parameters
    ----------
    machine, settings : mapping
        Where it was measured, and how.
    timings : iterable of Timing
        What was measured.

    Returns
    -------
    str
        JSON: ``machine``, ``settings`` and ``timings``, each of these as `Timing` has it.
    """
    return json.dumps(
        {"machine": dict(machine), "settings": dict(settings), "timings": [asdict(timing) for timing in timings]},
        indent=1,
    )


def save(folder: Path, name: str, markdown: str, data: str) -> list[Path]:
    """Write ``name.md`` and ``name.json`` into a folder, made if it is missing; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.md", folder / f"{name}.json"]
    for path, text in zip(paths, (markdown, data), strict=True):
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return paths
