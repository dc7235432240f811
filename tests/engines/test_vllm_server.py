"""vLLM's OpenAI-compatible server with the adapter, in its own processes on the loopback: whole, and in two parts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI

import optdecode as od
from engines.vllm_recorder import Row, read_rows
from optdecode.backends._reference_draw import uniform
from optdecode.models import dagmod

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
MODEL = Path(od.__file__).parent / "models" / "data"
DECODERS = [
    "greedy()", "softmax(1.5)", "top_k(20)", "top_p(0.9)", "min_p(0.02, temperature=1.5)", "sparsemax(2.0)",
    "entmax(1.5).subject_to(TopK(50))", json.dumps(od.best_of_k(8, temperature=1.3).to_dict()),
]  # fmt: skip
REQUESTS, TOKENS = 64, 16
CORES = sorted(os.sched_getaffinity(0))  # before an engine in this process binds its threads


@dataclass
class Server:
    address: str
    records: Path
    ranks: int

    def post(self, **body: Any) -> dict[str, Any]:
        data = {"model": "embedded", "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True} | body
        request = urllib.request.Request(
            f"{self.address}/v1/completions", json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def tokens(self, **body: Any) -> list[int]:
        return self.post(**body)["choices"][0]["token_ids"]

    def refused(self, **body: Any) -> tuple[int, str]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.post(**body)
        return caught.value.code, json.load(caught.value)["error"]["message"]

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "tensor parallel"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OPTDECODE_RECORD": str(folder),
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY / "python"), str(REPOSITORY / "tests"))),
    }  # fmt: skip
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # another module's, for an engine in this process
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--served-model-name", "embedded",
               "--host", "127.0.0.1", "--port", str(port),
               "--logits-processors", "engines.vllm_recorder:Recorder"]  # fmt: skip
    if request.param > 1:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(CORES[rank % len(CORES)]) for rank in range(2))
        options += ["--tensor-parallel-size", "2"]
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), *options],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    found = Server(f"http://127.0.0.1:{port}", folder, request.param)
    try:
        deadline = time.monotonic() + 150
        while not found.healthy():
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield found
        assert process.poll() is None, log.read_text()[-4000:]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def asked() -> list[dict[str, Any]]:
    problems = dagmod.generate(REQUESTS, seed=8)
    return [
        {"prompt": problem.prompt, "vllm_xargs": {"optdecode": DECODERS[at % 8], "optdecode_seed": 2**63 + at}}
        for at, problem in enumerate(problems)
    ]


@dataclass
class Served:
    """What clients got and what the engine's processes saw: all requests at once, then each alone."""

    together: list[list[int]]
    alone: list[list[int]]
    rows_together: list[dict[tuple[int, int], Row]]
    rows_alone: list[dict[tuple[int, int], Row]]


@pytest.fixture(scope="module")
def served(server: Server) -> Served:
    bodies = asked()
    with ThreadPoolExecutor(REQUESTS) as clients:
        together = list(clients.map(lambda body: server.tokens(**body), bodies))
    before = read_rows(server.records)
    alone = [server.tokens(**body) for body in bodies]
    after = read_rows(server.records)
    assert len(after) == server.ranks
    return Served(
        together,
        alone,
        [{(row.seed, row.position): row for row in rows} for rows in before.values()],
        [{(row.seed, row.position): row for row in rows[len(before[name]) :]} for name, rows in after.items()],
    )


def test_tokens_are_those_drawn_outside_from_the_rows_recorded_inside(served: Served) -> None:
    for answers, ranks in ((served.together, served.rows_together), (served.alone, served.rows_alone)):
        for rows in ranks:
            assert len(rows) == REQUESTS * TOKENS
            for at, tokens in enumerate(answers):
                seed = 2**63 + at
                found = [rows[seed, position] for position in range(TOKENS)]
                outside = [row.decoder.sample(row.before, seed, row.position).tokens[0] for row in found]
                assert outside == tokens
                assert [int(row.after.argmax()) for row in found] == tokens
                assert all(np.isneginf(row.after).sum() == row.after.size - 1 for row in found)


def test_clients_shared_batches(served: Served) -> None:
    for together, alone in zip(served.rows_together, served.rows_alone, strict=True):
        assert np.median([row.beside for row in together.values()]) >= REQUESTS / 4
        assert {row.beside for row in alone.values()} == {1}


def test_all_ranks_see_the_same_rows(served: Served) -> None:
    first, *others = served.rows_together
    for other in others:
        for key, row in first.items():
            assert np.array_equal(row.before, other[key].before)
            assert np.array_equal(row.after, other[key].after)


def explained(seed: int, position: int, a: Row, b: Row) -> bool:
    """Whether the two rows' logits put a boundary of their CDFs on either side of the draw's uniform number."""
    if np.array_equal(a.before, b.before) or np.abs(a.before - b.before).max() > 1e-3:
        return False  # the engine's rounding, and no more than that
    u = uniform(seed, position, 0, 0) / 2.0**64
    first = min(int(a.after.argmax()), int(b.after.argmax()))
    at = [float(row.decoder(row.before.astype(np.float64)).probs[: first + 1].sum()) for row in (a, b)]
    return min(at) - 1e-6 <= u <= max(at) + 1e-6


def test_a_sequence_parts_from_itself_alone_only_at_a_boundary(served: Served) -> None:
    for at, (together, alone) in enumerate(zip(served.together, served.alone, strict=True)):
        if together == alone:
            continue
        position = next(i for i, (a, b) in enumerate(zip(together, alone, strict=True)) if a != b)
        key = 2**63 + at, position
        assert explained(*key, served.rows_together[0][key], served.rows_alone[0][key])


def test_the_check_of_boundaries_sees_boundaries() -> None:
    u, rows = uniform(5, 0, 0, 0) / 2.0**64, []
    for edge in (u - 1e-5, u + 1e-5):
        logits = np.log(np.array([edge, 1.0 - edge])).astype(np.float32)
        token = int(od.softmax().sample(logits, seed=5).tokens[0])
        rows.append(Row(od.softmax(), 5, "iid", None, None, 0, logits, np.where(np.arange(2) == token, 0, -np.inf), 1))
    assert [int(row.after.argmax()) for row in rows] == [1, 0]
    assert explained(5, 0, *rows)


def test_the_check_of_boundaries_can_fail() -> None:
    base = np.zeros(4, dtype=np.float32)
    dec = od.softmax()
    u = uniform(5, 0, 0, 0) / 2.0**64
    token = int(dec.sample(base, seed=5).tokens[0])
    one_hot = np.where(np.arange(4) == token, 0.0, -np.inf)
    other = np.where(np.arange(4) == (token + 1) % 4, 0.0, -np.inf)
    near = base + np.float32(1e-4) * np.arange(4, dtype=np.float32)
    rows = [Row(dec, 5, "iid", None, None, 0, x, y, 1) for x, y in ((base, one_hot), (base, other), (near, other))]
    assert not explained(5, 0, rows[0], rows[1])
    assert min(abs(u - edge) for edge in (0.25, 0.5, 0.75)) > 1e-3
    assert not explained(5, 0, rows[0], rows[2])


BAD = [
    ({"vllm_xargs": {"optdecode": "top_kk(5)"}}, "unknown name"),
    ({"vllm_xargs": {"optdecode": "top_k(0)"}}, "k must be an integer"),
    ({"vllm_xargs": {"optdecode": '{"type": "Decoder"}'}}, "problem"),
    ({"vllm_xargs": {"optdecode": "top_k(5)", "optdecode_sed": 1}}, "optdecode_sed is no argument"),
    ({"vllm_xargs": {"optdecode": "top_k(5)"}, "temperature": 0.7}, "temperature must be 1.0"),
    ({"vllm_xargs": {"optdecode": "top_k(5)"}, "temperature": 0}, "greedy()"),
    ({"vllm_xargs": {"optdecode": "top_k(5)"}, "top_p": 0.9}, "top_p must be 1.0"),
    ({"vllm_xargs": {"optdecode": "top_k(5)", "optdecode_seed": 1}, "n": 2}, "needs seed=1 too"),
]


def test_bad_requests_are_refused_alone(server: Server, served: Served) -> None:
    bodies = asked()[:24]
    with ThreadPoolExecutor(48) as clients:
        good = [clients.submit(server.tokens, **body) for body in bodies]
        bad = [clients.submit(server.refused, prompt="a = 7", **body) for body, _ in BAD * 3]
        refusals = [future.result() for future in bad]
        tokens = [future.result() for future in good]
    for (code, message), (_, expected) in zip(refusals, BAD * 3, strict=True):
        assert code == 400
        assert expected in message
    assert all(len(row) == TOKENS for row in tokens)
    assert server.healthy()
    assert server.tokens(**bodies[0])[:1] == served.alone[0][:1]


def test_the_openai_client(server: Server) -> None:
    client = OpenAI(base_url=f"{server.address}/v1", api_key="none")
    ask = {"model": "embedded", "prompt": "a = 7 ; b = a + c ; c = 2 ; ? b", "max_tokens": 32}
    greedy = client.completions.create(**ask, temperature=0)
    ours = client.completions.create(**ask, temperature=1, extra_body={"vllm_xargs": {"optdecode": "greedy()"}})
    assert ours.choices[0].text == greedy.choices[0].text != ""
    spread = {"optdecode": "softmax(2.0)", "optdecode_seed": 3, "optdecode_coupling": "systematic", "optdecode_n": 8}
    eight = client.completions.create(**ask, n=8, seed=3, extra_body={"vllm_xargs": spread})
    assert len({choice.text for choice in eight.choices}) > 1
    with pytest.raises(BadRequestError, match="unknown name"):
        client.completions.create(**ask, extra_body={"vllm_xargs": {"optdecode": "nucleus(3)"}})
