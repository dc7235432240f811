"""The command line: ``optdecode demo``, ``generate``, ``explain``, ``bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from optdecode._system import version
from optdecode.cli import bench, demo, explain, generate
from optdecode.errors import OptdecodeError

_COMMANDS = (demo, generate, explain, bench)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; each command module adds its own."""
    parser = argparse.ArgumentParser(
        prog="optdecode", description="Language-model decoding solved as optimisation on the probability simplex."
    )
    parser.add_argument("--version", action="version", version=f"optdecode {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; the process's own by default.

    Returns
    -------
    int
        0 on success, 2 on bad arguments.
    """
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (OptdecodeError, OSError) as error:
        print(f"optdecode {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status
