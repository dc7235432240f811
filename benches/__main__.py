"""`python -m benches`: the decoders beside their floor and beside other samplers, as Markdown and JSON.

Everything is narrowed by options; `make bench ARGS='--vocabulary 151936 --batch 1 --kinds lm,flat --only top-p'` takes
seconds.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from benches import calls, cells, peers, scaling, tables
from optdecode._bench import machine, report
from optdecode._bench.rounds import Effort, Timing


def main() -> int:
    asked = parser().parse_args()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    where = machine.describe(peers.PACKAGES)
    begun = time.monotonic()
    timings: list[Timing] = []
    further: list[str] = []
    every = list(cells.cells(asked))
    for done, cell in enumerate(every):
        if time.monotonic() - begun > 60 * asked.minutes:
            further = [
                f"{len(every) - done} of {len(every)} cells were left out: {asked.minutes:g} minutes had passed.",
                "",
            ]
            break
        found = cells.measure_cell(cell, asked)
        timings += found
        print(
            f"[{time.monotonic() - begun:5.0f} s] {cell.kind} {cell.dtype} V {cell.vocabulary:,} B {cell.batch}: "
            f"{len(found)} timed, F1 {report.time_text(found[0])} µs",
            file=sys.stderr,
            flush=True,
        )
    settings = {key: value for key, value in vars(asked).items() if key != "output"}
    if asked.calls:
        lines, settings["calls"] = calls.report()
        further += lines
    if cores is not None:
        # vLLM binds whoever imports it to a core, and the threads that are started next with it.
        os.sched_setaffinity(0, cores)
    if asked.scaling:
        lines, settings["scaling"] = scaling.report(Effort(asked.rounds, asked.seconds))
        further += lines
    text = tables.markdown(timings, where, further)
    print(text)
    for path in report.save(asked.output, asked.name, text, report.as_json(where, settings, timings)):
        print(f"saved: {path}", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benches", description=__doc__.partition("\n\n")[0])
    add = found.add_argument
    add("--vocabulary", type=integers, default=cells.VOCABULARIES, metavar="V,...", help="default %(default)s")
    add("--batch", type=integers, default=cells.BATCHES, metavar="B,...", help="default %(default)s")
    add("--dtypes", type=words(cells.DTYPES), default=cells.DTYPES, metavar="NAME,...", help="default %(default)s")
    kinds = (*cells.KINDS, "adversarial")
    add("--kinds", type=words(kinds), default=cells.KINDS, metavar="NAME,...", help="default %(default)s")
    add("--only", type=lambda text: text.split(","), default=[], metavar="PART,...", help="parts of names")
    add("--peers", choices=("some", "all", "none"), default="some", help="in which cells; default %(default)s")
    add("--rounds", type=int, default=7, help="at most; default %(default)s")
    add("--seconds", type=float, default=0.05, help="a case and cell, about; default %(default)s")
    add("--minutes", type=float, default=20.0, help="begin no further cell after; default %(default)s")
    add("--calls", action=argparse.BooleanOptionalAction, default=True, help="what calls from Python cost")
    add("--scaling", action="store_true", help="over vocabularies, threads and instruction sets")
    add("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR", help="default benches/results")
    add("--name", default=platform.machine(), help="of the two files; default %(default)s")
    return found


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def words(known: tuple[str, ...]):
    def parse(text: str) -> tuple[str, ...]:
        parts = tuple(text.split(","))
        if unknown := set(parts) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} unknown; known: {', '.join(known)}")
        return parts

    return parse


if __name__ == "__main__":
    sys.exit(main())
