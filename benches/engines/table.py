"""The tables of steps inside engines, printed and saved."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from optdecode._bench import report


def save(
    output: Path, name: str, title: str, introduction: str, table: Sequence[str], machine: Mapping[str, str]
) -> Path:
    """Print a table with the machine and the command that makes it, and save it as Markdown."""
    command = f"`python -m benches.engines.{name.replace('-', '_')}`"
    lines = [f"# {title}", "", introduction, "", *table, "", *report.machine_lines(machine), "", f"Made by {command}."]
    text = "\n".join(lines) + "\n"
    print(text)
    output.mkdir(exist_ok=True)
    path = output / f"{name}-{platform.machine()}.md"
    path.write_text(text, encoding="utf-8")
    print(f"saved: {path}")
    return path
