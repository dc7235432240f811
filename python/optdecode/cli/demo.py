"""``optdecode demo``: every decoder on the embedded language model, one table and one picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optdecode import presets
from optdecode._decoder import Decoder
from optdecode._spec import positive_int
from optdecode.errors import BackendUnavailableError, ProblemError

if TYPE_CHECKING:
    from optdecode.cli._measure import Measured

_EXAMPLE = """example:
  optdecode demo --problems 100 --samples 8 --output demo-results
"""
_BUDGET_NOTE = (
    "A sample counts as right only if its whole derivation verifies. pass@K: any of K samples is right; majority@K: "
    "the most probable sample of the winning answer is right. Intervals: 95 % bootstrap over problems."
)


@dataclass(frozen=True)
class Entry:
    """One decoder of the demonstration, as a function of (temperature, samples)."""

    name: str
    build: Callable[[float, int], Decoder]


_TABLE_WIDTH = 112

#: What the demonstration compares. Best-of-K stands beside its twin without coverage: their difference is coverage.
ENTRIES = (
    Entry("greedy", lambda t, k: presets.greedy()),
    Entry("softmax", lambda t, k: presets.softmax(t)),
    Entry("top-k 10", lambda t, k: presets.top_k(10, t)),
    Entry("top-p .95", lambda t, k: presets.top_p(0.95, t)),
    Entry("min-p .1", lambda t, k: presets.min_p(0.1, t)),
    Entry("sparsemax", lambda t, k: presets.sparsemax(t)),
    Entry("entmax 1.5", lambda t, k: presets.entmax(1.5, t)),
    Entry("best-of-K", lambda t, k: presets.best_of_k(k, beta_bar=0.5, lam=1.0, temperature=t)),
    Entry("twin (no coverage)", lambda t, k: presets.best_of_k(k, beta_bar=0.5, lam=1.0, temperature=t).twin()),
)


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="decode the embedded model with every decoder and compare them",
        description="Draw K samples for each of many held-out problems with every decoder, cool and hot.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--problems", type=int, default=100, help="held-out problems (default 100)")
    parser.add_argument("--samples", type=int, default=8, metavar="K", help="samples a problem (default 8)")
    parser.add_argument("--cool", type=float, default=0.5, help="cool temperature (default 0.5)")
    parser.add_argument("--hot", type=float, default=1.5, help="hot temperature (default 1.5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of problems and draws (default 0)")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-results"), metavar="DIR", help="where the picture goes"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from rich.console import Console

        from optdecode.cli._measure import measure
        from optdecode.cli._picture import save_picture
    except ImportError as error:
        raise BackendUnavailableError(
            f"the demo needs the extra [demo]: pip install 'optdecode[demo]' ({error})"
        ) from error
    from optdecode.models import dagmod
    from optdecode.models.runtime import EmbeddedModel

    samples = positive_int("demo", "--samples", arguments.samples, high=1024)
    problems = dagmod.generate(positive_int("demo", "--problems", arguments.problems, high=10**6), seed=arguments.seed)
    temperatures = _temperatures(arguments.cool, arguments.hot)
    console = Console()
    model = EmbeddedModel()
    results: list[Measured] = []
    with _progress(console) as progress:
        task = progress.add_task("decoding", total=len(ENTRIES) * len(temperatures))
        for label, temperature in temperatures:
            for entry in ENTRIES:
                progress.update(task, description=f"{entry.name} at T = {temperature:g}")
                decoder = entry.build(temperature, samples)
                results.append(
                    measure(model, entry.name, label, temperature, decoder, problems, samples, arguments.seed)
                )
                progress.advance(task)
        progress.update(task, description="done")
    # Cells cut short say nothing: a narrower terminal wraps the lines.
    Console(width=max(console.width, _TABLE_WIDTH)).print(_table(results, samples, len(problems)))
    console.print(_BUDGET_NOTE, style="dim")
    console.print(f"picture: {save_picture(results, samples, arguments.output)}")
    return 0


def _progress(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("[bold]{task.description:<32}"), *columns, console=console)


def _temperatures(cool: float, hot: float) -> list[tuple[str, float]]:
    if not 0 < cool < hot:
        raise ProblemError(f"demo: needs 0 < --cool < --hot; got {cool!r}, {hot!r}")
    return [("cool", cool), ("hot", hot)]


def _table(results: list[Measured], samples: int, problems: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{problems} held-out problems, {samples} samples each"
    )
    table.add_column("decoder", no_wrap=True)
    for name in ("T", "pass@1", f"pass@{samples}", f"majority@{samples}", "distinct", "entropy", "µs/token", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for position, result in enumerate(results):
        new_block = position + 1 < len(results) and results[position + 1].temperature != result.temperature
        table.add_row(
            result.name,
            f"{result.temperature:g}",
            *(estimate.shown() for estimate in (result.pass_1, result.pass_k, result.majority)),
            f"{result.distinct:.2f}",
            f"{result.entropy:.3f}",
            f"{result.microseconds:.1f}",
            f"{100 * result.share:.0f} %",
            end_section=new_block,
        )
    table.caption = (
        "distinct: answers a problem; entropy: mean of q, nats; µs/token: decoding alone; share: of the step's time"
    )
    return table
