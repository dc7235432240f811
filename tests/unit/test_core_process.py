"""The compiled module in its process: threads, environment, instruction sets, fork, GIL."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from core_calls import SOFTMAX, make_plan, plan_settings, run_script, sample, solve
from optdecode import _core


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


def test_num_threads_is_set_and_read() -> None:
    before = _core.num_threads()
    assert before >= 1
    try:
        _core.set_num_threads(3)
        assert _core.num_threads() == _core.build_info()["threads"] == 3
    finally:
        _core.set_num_threads(before)
    for bad in (0, -2, 1 << 40):
        with pytest.raises(ValueError, match="n must be in"):
            _core.set_num_threads(bad)


def available_levels() -> list[str]:
    """The instruction sets that the extension can use here, best last, as its own error message lists them."""
    result = run_script(CALL + "call(1)", {"OPTDECODE_FORCE_LEVEL": "?"})
    return result.stderr.strip().rpartition("available: ")[2].split(", ")


def test_build_info_says_what_was_built() -> None:
    info = _core.build_info()
    assert set(info) == {"version", "profile", "level", "levels", "threads", "target"}
    assert info["levels"] == available_levels()
    assert info["profile"] in ("debug", "release")
    assert info["level"] == (os.environ.get("OPTDECODE_FORCE_LEVEL") or available_levels()[-1])


CALL = f"""
import numpy as np
from optdecode import _core
plan = _core.Plan("softmax", **{plan_settings(lam=1.0)!r})
def call(threads, rows=64, vocabulary=4096):
    x = np.random.default_rng(0).normal(size=(rows, vocabulary)).astype(np.float32)
    zeros = np.zeros(rows, np.uint64)
    return _core.sample([plan], x, "f32", None, None, None, None, zeros, zeros, 1, "iid", threads)[0].sum()
"""


# A level that this machine cannot have.
OTHER_MACHINE = "avx2" if platform.machine().lower() in ("arm64", "aarch64") else "neon"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OPTDECODE_NUM_THREADS": "many"}, "OPTDECODE_NUM_THREADS must be an integer"),
        ({"OPTDECODE_NUM_THREADS": "0"}, "OPTDECODE_NUM_THREADS must be an integer"),
        ({"OPTDECODE_FORCE_LEVEL": OTHER_MACHINE}, f"OPTDECODE_FORCE_LEVEL={OTHER_MACHINE} is not available on this"),
        ({"OPTDECODE_FORCE_LEVEL": "sse9"}, "OPTDECODE_FORCE_LEVEL=sse9 is unknown; available: scalar"),
    ],
)
def test_bad_environment_is_an_error_at_first_use(environment: dict[str, str], words: str) -> None:
    script = CALL + "print([v for v in _core.build_info().values() if 'OPTDECODE' in str(v)])\ncall(0)"
    result = run_script(script, environment)
    assert words in result.stdout
    assert f"ValueError: {words}" in result.stderr


DRAWS = """
import hashlib
import numpy as np
import optdecode as od
rng = np.random.default_rng(0)
rows = [rng.normal(0, scale, (8, 5003)).astype(np.float32) for scale in (0.5, 4)]
rows += [np.round(rows[0], 1), rows[1].astype(np.float16)]
mask = rng.random((8, 5003)) < 0.3
decoders = [od.greedy(), od.top_k(50), od.min_p(0.05), od.sparsemax(), od.entmax(1.5), od.softmax(), od.top_p(0.9)]
digest = hashlib.sha256()
for decoder in decoders:
    for logits in rows:
        for allowed in (None, mask):
            drawn = decoder.sample(logits, n=20, seed=5, mask=allowed)
            digest.update(drawn.tokens.tobytes() + drawn.log_probs.tobytes())
print(od._core.build_info()["level"], digest.hexdigest())
"""


def test_every_level_draws_the_same_tokens() -> None:
    levels = available_levels()
    assert levels[0] == "scalar"
    results = [run_script(DRAWS, {"OPTDECODE_FORCE_LEVEL": level}) for level in levels]
    words = [result.stdout.split() for result in results]
    assert [word[:1] for word in words] == [[level] for level in levels], results
    assert len({digest for _, digest in words}) == 1


def test_environment_chooses_the_threads() -> None:
    script = CALL + "call(0); print(_core.num_threads(), _core.build_info()['level'])"
    result = run_script(script, {"OPTDECODE_NUM_THREADS": "2", "OPTDECODE_FORCE_LEVEL": "scalar"})
    assert (result.stdout, result.returncode) == ("2 scalar\n", 0), result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_default_threads_respect_the_affinity_mask() -> None:
    # After the import, as a launcher may do: nothing is settled before the first call that needs it.
    script = CALL + "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(_core.num_threads())"
    assert run_script(script, {"OPTDECODE_NUM_THREADS": ""}).stdout == "1\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_small_work_and_one_thread_start_no_pool() -> None:
    script = (
        CALL
        + """
import os
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
call(4, rows=1, vocabulary=100_000), call(4, rows=8, vocabulary=100), call(1)
assert count() == before, "a pool for nothing"
call(4)
assert count() == before + 4, "no pool of four"
print("done")
"""
    )
    result = run_script(script)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_after_use_computes() -> None:
    script = (
        CALL
        + """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
expected = call(2)
def child(depth):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    signal.alarm(20)
    fine = call(2) == expected == call(3) == call(1) and (depth == 0 or child(depth - 1))
    sys.stdout.flush()
    os._exit(0 if fine else 1)
assert child(1) and child(0)
assert call(2) == expected
print("done")
"""
    )
    result = run_script(script, timeout=90.0)
    assert result.stdout == "done\n", (result.returncode, result.stderr)


def test_the_gil_is_released_during_a_long_call() -> None:
    plan = make_plan("mirror", steps=400)
    x = np.random.default_rng(0).normal(size=(1, 100_000))
    span: list[float] = []

    def work() -> None:
        start = time.perf_counter()
        solve(plan, x)
        span.extend((start, time.perf_counter()))

    interval = sys.getswitchinterval()
    worker = threading.Thread(target=work)
    ticks = []
    try:
        sys.setswitchinterval(1e-4)
        worker.start()
        while worker.is_alive():
            ticks.append(time.perf_counter())
            time.sleep(1e-3)
    finally:
        sys.setswitchinterval(interval)
    worker.join()
    start, end = span
    # Within the middle of the call this thread ran; with the GIL held it could only before and after.
    inside = [t for t in ticks if start + 0.2 * (end - start) < t < start + 0.8 * (end - start)]
    assert end - start > 0.02, "the call is too short to tell"
    assert len(inside) >= 3


def test_calls_from_many_python_threads_agree(rng: np.random.Generator) -> None:
    x = rng.normal(size=(16, 2000)).astype(np.float32)
    expected = sample([SOFTMAX], x, n=3)[0]
    failures: list[Any] = []

    def work() -> None:
        for _ in range(5):
            got = sample([SOFTMAX], x, n=3, threads=2)[0]
            if not np.array_equal(got, expected):
                failures.append(got)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
