"""What a call from Python costs beside the work of its rows."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import optdecode as od
from optdecode import _core
from optdecode._bench.report import number
from optdecode._bench.rounds import Quartiles
from optdecode._bench.rows import make_rows
from optdecode.backends.rust import compiled

V, ROWS, ROUNDS = 128, 512, 25


def report() -> tuple[list[str], dict[str, Any]]:
    """Time calls; return Markdown and data."""
    rows = make_rows("lm", V, ROWS)
    single = calls(lambda row: od_top_k.sample(row, seed=1, position=2, threads=1), rows, 500)
    decoders, own = mixed(rows)
    seeds, positions = np.arange(ROWS, dtype=np.uint64), np.zeros(ROWS, dtype=np.uint64)
    batch = calls(lambda _: od.sample_batch(decoders, rows, seeds, positions, threads=1), rows, 20)
    added = batch.median - own
    lines = [
        f"## Calls from Python, V = {V}",
        "",
        "| call | µs | bar | met |",
        "|---|---:|---:|---|",
        f"| `dec.sample`, one row | {number(single.median)} | 3 | {_met(single.median, 3)} |",
        f"| `sample_batch`, {ROWS} decoders, beside the rows' own {number(own)} µs | {number(added)} | 100 | "
        f"{_met(added, 100)} |",
        "",
    ]
    data = {
        "vocabulary": V,
        "sample": vars(single),
        "sample_batch": vars(batch),
        "sample_batch_rows": own,
        "sample_batch_added": added,
    }
    return lines, data


od_top_k = od.top_k(5)


def calls(call: Callable[[np.ndarray], object], rows: np.ndarray, count: int) -> Quartiles:
    """Return the microseconds of a call, over rounds of `count` of them."""
    following = itertools.cycle(rows)
    figures = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter_ns()
        for _ in range(count):
            call(next(following))
        figures.append((time.perf_counter_ns() - begun) / count / 1000)
    return Quartiles.of(figures[1:])


def mixed(rows: np.ndarray) -> tuple[list[od.Decoder], float]:
    """Return decoders of eight kinds, no two alike, and the microseconds that their rows take in the core."""
    kinds: list[Callable[[float], od.Decoder]] = [
        od.softmax,
        lambda t: od.top_k(5, t),
        lambda t: od.top_p(0.95, t),
        lambda t: od.min_p(0.05, t),
        od.sparsemax,
        lambda t: od.entmax(1.5, t),
        lambda t: od.top_k(50, t).subject_to(od.TopP(0.95)),
        lambda t: od.best_of_k(8, temperature=t),
    ]
    each = ROWS // len(kinds)
    decoders = [kind(0.5 + index / each) for index in range(each) for kind in kinds]
    own = 0.0
    for number_of_kind, kind in enumerate(kinds):
        times = _core.time_draws(compiled(kind(1.0).plan), rows, "f32", number_of_kind * each, 3 * ROUNDS, each, 1)
        own += float(np.median(times)) / 1000
    return decoders, own


def _met(figure: float, bar: float) -> str:
    return "yes" if figure <= bar else "no"
