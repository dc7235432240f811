"""Let a virtual environment import the torch of the interpreter that runs this.

`borrow_torch.py VENV` links torch and what it requires, as this interpreter has them, into VENV/borrowed, and puts that
folder last on the environment's path. Exit code 1: this interpreter has no torch. `--undo VENV` takes the folder away.
"""

import argparse
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path


def closure(name: str) -> dict[str, metadata.Distribution]:
    """Return the installed distributions that `name` requires, itself included."""
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    queue = [(name, "")]
    while queue:
        requested, extras = queue.pop()
        if (requested, extras) in seen:
            continue
        seen.add((requested, extras))
        try:
            distribution = metadata.distribution(requested)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        found[distribution.metadata["Name"]] = distribution
        for requirement in distribution.requires or []:
            parsed = re.match(r"([\w.-]+)\s*(?:\[(.*?)\])?", requirement)
            extra = re.search(r"""\bextra\s*==\s*["'](.*?)["']""", requirement)
            if not extra or extra[1] in extras.split(","):
                queue.append((parsed[1], (parsed[2] or "").replace(" ", "")))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--undo", action="store_true")
    parser.add_argument("venv", type=Path)
    arguments = parser.parse_args()
    borrowed = arguments.venv.resolve() / "borrowed"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = arguments.venv / "lib" / python / "site-packages"
    path_file = site_packages / "borrowed.pth"
    path_file.unlink(missing_ok=True)
    shutil.rmtree(borrowed, ignore_errors=True)
    if arguments.undo:
        return 0

    distributions = closure("torch")
    if "torch" not in distributions:
        return 1
    borrowed.mkdir()
    owned = {distribution.metadata["Name"] for distribution in metadata.distributions(path=[str(site_packages)])}
    for name in distributions.keys() - owned:
        distribution = distributions[name]
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (borrowed / top).exists():
                (borrowed / top).symlink_to(source.resolve())
    path_file.write_text(f"{borrowed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
