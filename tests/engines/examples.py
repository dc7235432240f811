"""Run an example as its users do."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"


def output_of(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
