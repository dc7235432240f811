"""``optdecode explain``: problem, plan, solution, certificate of one row of logits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._parse import parse_decoder
from optdecode._solution import Solution
from optdecode.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXAMPLE = """example:
  python -c "import numpy as np; np.save('row.npy', np.random.default_rng(0).normal(size=1000) * 3)"
  optdecode explain 'entmax(alpha=1.5).subject_to(TopK(50))' --logits row.npy
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "explain",
        help="problem, plan, solution and certificate of a decoder",
        description="Print the problem a decoder solves and, for given logits, its solution and certificate.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("decoder", help="such as 'top_p(0.95, temperature=0.8)'; parsed, never evaluated")
    parser.add_argument("--logits", type=Path, metavar="FILE.npy", help="one row (V,) or several (..., V)")
    parser.add_argument("--row", type=int, default=0, help="which row of the file to show (default 0)")
    parser.add_argument("--top", type=int, default=8, help="how many tokens to list (default 8)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    decoder = parse_decoder(arguments.decoder)
    print(repr(decoder))
    print()
    decoder.explain()
    if arguments.logits is None:
        return 0
    logits = _load(arguments.logits)
    rows = logits.reshape(-1, logits.shape[-1]) if logits.ndim else logits
    if not rows.ndim or not -len(rows) <= arguments.row < len(rows):
        raise ShapeError(f"--row {arguments.row}: {arguments.logits} holds shape {logits.shape}")
    row = rows[arguments.row]
    solution = decoder(row)
    print()
    print("\n".join(_solution_lines(solution)))
    print()
    print("\n".join(_token_lines(row, solution, max(arguments.top, 0))))
    return 0


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
