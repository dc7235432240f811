"""``optdecode explain``: problem, plan, solution, certificate of one row of logits, and their picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._decoder import Decoder
from optdecode._parse import parse_decoder
from optdecode._solution import Solution
from optdecode.errors import ProblemError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXAMPLE = """example:
  python -c "import numpy as np; np.save('row.npy', np.random.default_rng(0).normal(size=1000) * 3)"
  optdecode explain 'entmax(alpha=1.5).subject_to(TopK(50))' --logits row.npy --plot entmax.png
  optdecode explain 'top_p(0.9)' 'min_p(0.05)' 'sparsemax()' --logits row.npy --plot compared.svg
"""
_SUFFIXES = (".png", ".svg", ".pdf")
_PIXELS_PER_INCH = 150


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "explain",
        help="problem, plan, solution and certificate of a decoder",
        description=(
            "Print the problem a decoder solves and, for given logits, its solution and certificate. "
            "With --plot, also draw them; several decoders are drawn side by side."
        ),
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "decoder", nargs="+", help="such as 'top_p(0.95, temperature=0.8)'; parsed, never evaluated; one or several"
    )
    parser.add_argument("--logits", type=Path, metavar="FILE.npy", help="one row (V,) or several (..., V)")
    parser.add_argument("--row", type=int, default=0, help="which row of the file to show (default 0)")
    parser.add_argument("--top", type=int, default=8, help="how many tokens to list (default 8)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the row; the name ends in .png, .svg or .pdf (needs --logits)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    decoders = [parse_decoder(text) for text in arguments.decoder]
    if arguments.plot is not None:
        _check_plot(arguments.plot, arguments.logits)
    row = None if arguments.logits is None else _row(arguments.logits, arguments.row)
    for place, decoder in enumerate(decoders):
        if place:
            print("\n")
        _explain(decoder, row, max(arguments.top, 0))
    if arguments.plot is not None:
        _plot(decoders, row, arguments.plot)
        print(f"\npicture     {arguments.plot}")
    return 0


def _explain(decoder: Decoder, row: NDArray[Any] | None, top: int) -> None:
    print(repr(decoder))
    print()
    decoder.explain()
    if row is None:
        return
    solution = decoder(row)
    print()
    print("\n".join(_solution_lines(solution)))
    print()
    print("\n".join(_token_lines(row, solution, top)))


def _check_plot(path: Path, logits: Path | None) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise ProblemError(f"--plot {path}: the name must end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise ProblemError(f"--plot {path}: there is no directory {path.parent}")
    if logits is None:
        raise ProblemError("--plot draws one row of logits: pass --logits FILE.npy")


def _plot(decoders: list[Decoder], row: Any, path: Path) -> None:
    from optdecode import plot

    figure = plot.decoder(decoders[0], row) if len(decoders) == 1 else plot.compare(decoders, row)
    figure.savefig(path, dpi=_PIXELS_PER_INCH)


def _row(path: Path, index: int) -> NDArray[Any]:
    logits = _load(path)
    rows = logits.reshape(-1, logits.shape[-1]) if logits.ndim else logits
    if not rows.ndim or not -len(rows) <= index < len(rows):
        raise ShapeError(f"--row {index}: {path} holds shape {logits.shape}")
    row: NDArray[Any] = rows[index]
    return row


def _load(path: Path) -> NDArray[Any]:
    try:
        logits = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ShapeError(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(logits, np.ndarray):
        raise ShapeError(f"{path} holds several arrays; save one with numpy.save")
    return logits


def _solution_lines(solution: Solution) -> list[str]:
    certificate = solution.certificate()
    return [
        f"solution    {solution.support_size} tokens, status {solution.status.name}, backend {solution.backend}, "
        f"{solution.iterations} iterations",
        f"            objective {solution.objective:.6g}, threshold {solution.threshold:.6g}",
        f"            entropy {solution.entropy:.4g} nats, KL {solution.kl:.4g} nats, "
        f"kept model mass {solution.kept_mass:.4g}",
        f"certificate gap {float(certificate.gap):.3g} (nothing feasible gains more), scope: {certificate.scope}",
        f"            active residual {float(certificate.max_active_residual):.3g}, inactive violation "
        f"{float(certificate.max_inactive_violation):.3g}, simplex error {float(certificate.simplex_error):.3g}",
    ]


def _token_lines(row: NDArray[Any], solution: Solution, top: int) -> list[str]:
    order = np.argsort(-solution.log_probs, kind="stable")[:top]
    lines = [f"{'token':>8}  {'logit':>12}  {'q':>12}  {'log q':>10}"]
    for token in order:
        if solution.log_probs[token] == -np.inf:
            break
        lines.append(
            f"{token:>8}  {float(row[token]):>12.5g}  {solution.probs[token]:>12.6g}  "
            f"{solution.log_probs[token]:>10.4f}"
        )
    return lines
