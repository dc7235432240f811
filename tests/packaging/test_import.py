"""What `import optdecode` costs and loads, each time in a fresh interpreter."""

import statistics
import subprocess
import sys

BUDGET_MS = 150
HEAVY = ("torch", "onnxruntime", "tokenizers", "matplotlib", "rich")


def run_fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap() -> None:
    code = "import time, numpy; t = time.perf_counter(); import optdecode; print(1e3 * (time.perf_counter() - t))"
    run_fresh(code)  # compiles the bytecode, warms the page cache
    milliseconds = [float(run_fresh(code)) for _ in range(7)]
    assert statistics.median(milliseconds) < BUDGET_MS, milliseconds


def test_import_loads_nothing_heavy() -> None:
    loaded = run_fresh("import sys, optdecode; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "optdecode" in loaded
    assert not set(HEAVY) & set(loaded)
