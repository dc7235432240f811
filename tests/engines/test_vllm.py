"""The vLLM adapter in a real engine in this process (V1, CPU), on the embedded model."""

import os

# Read when vLLM is imported.
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare
from tokenizers import Tokenizer
from vllm import LLM, RequestOutput, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

import optdecode as od
from engines.vllm_recorder import Recorder, Row
from optdecode.integrations.vllm import from_sampling_params
from optdecode.models import dagmod

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

MODEL = Path(od.__file__).parent / "models" / "data"
VOCABULARY = 1024
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine() -> LLM:
    return LLM(
        str(MODEL), dtype="float32", enforce_eager=True, logits_processors=[Recorder], seed=0,
        logprobs_mode="processed_logprobs", max_logprobs=VOCABULARY, max_model_len=256, enable_prefix_caching=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def recorded() -> Iterator[list[Row]]:
    Recorder.rows.clear()
    yield Recorder.rows
    Recorder.rows.clear()


def prompts(count: int) -> list[list[int]]:
    """Problems, each cut where it is its turn: some rows of logits are peaked, some are not."""
    ids = [list(TOKENIZER.encode(problem.prompt).ids) for problem in dagmod.generate(count, seed=5)]
    return [row if at % 3 == 0 else row[: 1 + (at * 5) % len(row)] for at, row in enumerate(ids)]


def run(engine: LLM, prompts: list[list[int]], params: list[SamplingParams]) -> list[RequestOutput]:
    return engine.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def asks(decoder: Any, *, optdecode: dict[str, Any] | None = None, **others: Any) -> SamplingParams:
    described = decoder if isinstance(decoder, str) else decoder.to_dict()
    return SamplingParams(extra_args={"optdecode": described, **(optdecode or {})}, **others)


def distribution(output: RequestOutput) -> np.ndarray:
    """The distribution that the engine says it drew the first token from, over all tokens."""
    (found,) = output.outputs[0].logprobs
    assert len(found) == VOCABULARY
    return np.exp([found[token].logprob for token in range(VOCABULARY)])


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.5 * float(np.abs(a - b).sum())


def redraw(row: Row) -> int:
    """The token that the row's decoder draws outside the engine."""
    index, n = row.index or 0, row.n or (row.index or 0) + 1
    draw = row.decoder.sample(row.before, seed=row.seed, position=row.position, n=n, coupling=row.coupling)
    return int(draw.tokens[index])


def test_greedy_is_the_engines_greedy(engine: LLM) -> None:
    asked = prompts(12)
    kinds = [SamplingParams(temperature=0.0, max_tokens=24), asks("greedy()", max_tokens=24)]
    kinds.append(asks("greedy()", optdecode={"optdecode_seed": 3}, max_tokens=24))
    own, log_q, ours = (run(engine, asked, [kind] * 12) for kind in kinds)
    for a, b, c in zip(own, log_q, ours, strict=True):
        assert a.outputs[0].token_ids == b.outputs[0].token_ids == c.outputs[0].token_ids


CHAINS = [
    {"temperature": 0.7}, {"top_k": 1}, {"top_k": 20}, {"top_p": 0.9}, {"top_p": 0.5, "temperature": 1.5},
    {"min_p": 0.05}, {"min_p": 0.3, "temperature": 2.0}, {"top_k": 20, "top_p": 0.8}, {"top_k": 8, "min_p": 0.02},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.6, "min_p": 0.1},
    {"allowed_token_ids": [2, *range(30, 60)], "top_p": 0.9},
]  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_engines_own_parameters_as_a_decoder(engine: LLM, chain: dict[str, Any]) -> None:
    asked = prompts(24)
    own = SamplingParams(logprobs=-1, max_tokens=1, **chain)
    # Allowed tokens are the engine's to forbid, in a request with a decoder too.
    rest = {key: value for key, value in chain.items() if key == "allowed_token_ids"}
    same = from_sampling_params(SamplingParams(**{key: chain[key] for key in chain if key not in rest}))
    ours = asks(same, logprobs=-1, max_tokens=1, **rest)
    outputs = run(engine, asked + asked, [own] * 24 + [ours] * 24)
    whole = from_sampling_params(own)
    for a, b, row in zip(outputs[:24], outputs[24:], rows_of(24), strict=True):
        assert total_variation(distribution(a), distribution(b)) <= 1e-5
        # With the list of allowed tokens, the decoder outside is the whole of what the parameters say.
        assert total_variation(distribution(b), whole(row.before).probs) <= 1e-5


def rows_of(count: int) -> list[Row]:
    """The rows of the first tokens of `count` requests that came together, in the order they came in."""
    first = [row for row in Recorder.rows if row.position == 0]
    assert len(first) == count
    return first


@pytest.mark.parametrize(
    "decoder",
    [od.sparsemax(), od.sparsemax(2.0), od.entmax(1.5), od.entmax(1.2, 1.5), od.best_of_k(8), od.best_of_k(4, beta=0.2),
     od.best_of_k(weights="uniform"), od.entmax(1.5).subject_to(od.TopK(5)), od.softmax().subject_to(od.Eta(1e-3))],
    ids=str,
)  # fmt: skip
def test_decoders_that_no_engine_has(engine: LLM, decoder: od.Decoder) -> None:
    outputs = run(engine, prompts(12), [asks(decoder, logprobs=-1, max_tokens=1)] * 12)
    for output, row in zip(outputs, rows_of(12), strict=True):
        outside = decoder(row.before)
        assert np.array_equal(row.after, outside.log_probs)
        assert total_variation(distribution(output), outside.probs) <= 1e-6
        assert np.array_equal(distribution(output) > 0, outside.support)


@pytest.mark.parametrize(
    "chain", [{"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"temperature": 0.8, "top_k": 50, "top_p": 0.95}], ids=str
)
def test_the_engines_draws_have_the_law_q(engine: LLM, chain: dict[str, Any]) -> None:
    decoder, n = from_sampling_params(SamplingParams(**chain)), 1500
    (output,) = run(engine, [[1]], [asks(decoder, max_tokens=1, n=n, seed=17)])
    q = decoder(Recorder.rows[0].before.astype(np.float64)).probs
    tokens = np.array([child.token_ids[0] for child in output.outputs])
    assert (q[tokens] > 0).all()
    # One test in 1e5 would fail by chance; the seed is fixed.
    common = q * n >= 5
    counts = np.bincount(tokens, minlength=VOCABULARY)
    seen, expected = [*counts[common], counts[~common].sum()], [*q[common] * n, q[~common].sum() * n]
    kept = np.array(expected) > 0
    assert chisquare(np.array(seen)[kept], np.array(expected)[kept]).pvalue > 1e-5


def test_requests_of_all_kinds_in_batches_that_change(engine: LLM) -> None:
    """64 requests of different lengths and kinds: every token is the one drawn outside from the row recorded inside."""
    decoders = ["greedy()", "top_k(20)", "top_p(0.9)", "min_p(0.05)", "sparsemax()", "entmax(1.5)", "best_of_k(8)",
                "softmax(0.7).subject_to(Chain(TopK(50), TopP(0.9)))"]  # fmt: skip
    asked, params = prompts(64), []
    for at in range(64):
        length = {"max_tokens": 1 + (at * 7) % 19, "ignore_eos": True}
        kinds = [
            lambda at=at, length=length: asks(decoders[at // 4 % 8], optdecode={"optdecode_seed": 1000 + at}, **length),
            lambda length=length: SamplingParams(temperature=0.0, **length),
            lambda at=at, length=length: asks(decoders[at // 4 % 8], **length),
            lambda at=at, length=length: SamplingParams(temperature=0.7, top_p=0.9, seed=at, **length),
        ]
        params.append(kinds[at % 4]())
    outputs = run(engine, asked, params)
    drawn = {(row.seed, row.position): row for row in Recorder.rows if row.seed is not None}
    for at in range(0, 64, 4):
        tokens = list(outputs[at].outputs[0].token_ids)
        assert len(tokens) == params[at].max_tokens
        assert tokens == [redraw(drawn[1000 + at, position]) for position in range(len(tokens))]
    assert len(drawn) == sum(params[at].max_tokens for at in range(0, 64, 4))
    # Plain requests beside ours are as they are alone.
    alone = run(engine, asked[1::4], params[1::4])
    assert [o.outputs[0].token_ids for o in alone] == [o.outputs[0].token_ids for o in outputs[1::4]]
    for row in Recorder.rows:
        if row.seed is None:
            assert np.array_equal(row.after, row.decoder(row.before).log_probs)


@pytest.mark.parametrize("coupling", ["iid", "systematic"])
def test_n_children_make_the_n_draws_of_one_call(engine: LLM, coupling: str) -> None:
    own = {"optdecode_seed": 40, "optdecode_coupling": coupling, "optdecode_n": 6}
    (one,) = run(engine, [[1]], [asks("softmax()", optdecode=own, n=6, seed=40, max_tokens=4, ignore_eos=True)])
    tokens = [list(child.token_ids) for child in one.outputs]
    outside = od.softmax().sample(Recorder.rows[0].before, seed=40, position=0, n=6, coupling=coupling).tokens
    assert [row[0] for row in tokens] == outside.tolist()
    assert len({tuple(row) for row in tokens}) > 1
    # The same as six requests that say which they are.
    six = [asks("softmax()", optdecode={**own, "optdecode_index": i}, max_tokens=4, ignore_eos=True) for i in range(6)]
    assert [list(output.outputs[0].token_ids) for output in run(engine, [[1]] * 6, six)] == tokens


def test_what_the_engine_forbids_stays_forbidden(engine: LLM) -> None:
    allowed = [2, *range(20, 40)]
    for own in ({}, {"optdecode_seed": 4}):
        params = asks("softmax(2.0)", optdecode=own, allowed_token_ids=allowed, logit_bias={25: -100.0}, max_tokens=8)
        for output in run(engine, prompts(6), [params] * 6):
            assert set(output.outputs[0].token_ids) <= set(allowed) - {25}


@pytest.mark.parametrize("own", [{}, {"optdecode_seed": 4}], ids=["log q", "our draw"])
def test_grammars_come_before(engine: LLM, own: dict[str, Any]) -> None:
    grammar = StructuredOutputsParams(regex="(a|b|c)[0-9]")
    asked = [asks("softmax(2.0)", optdecode=own, structured_outputs=grammar, max_tokens=4)] * 4
    for output in run(engine, prompts(4), asked):
        words = [TOKENIZER.id_to_token(token) for token in output.outputs[0].token_ids]
        assert words[0] in "abc"
        assert words[1] in "0123456789"
        assert words[2:] in ([], ["<eos>"])


def test_penalties_come_before(engine: LLM) -> None:
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "top_p": 0.9}
    own = SamplingParams(logprobs=-1, max_tokens=1, **penalties)
    del penalties["top_p"]
    outputs = run(engine, prompts(8) * 2, [own] * 8 + [asks("top_p(0.9)", logprobs=-1, max_tokens=1, **penalties)] * 8)
    for a, b in zip(outputs[:8], outputs[8:], strict=True):
        assert total_variation(distribution(a), distribution(b)) <= 1e-5


def test_a_row_without_a_distribution_harms_no_other(engine: LLM) -> None:
    good = asks("top_p(0.9)", optdecode={"optdecode_seed": 5}, max_tokens=6, ignore_eos=True)
    bad = asks("top_p(0.9)", max_tokens=2, logit_bias={7: math.nan})
    asked = prompts(3)
    alone = run(engine, asked, [good] * 3)
    with pytest.warns(RuntimeWarning, match="row 1 of the batch has no distribution, NAN_SCORES"):
        mixed = run(engine, [asked[0], asked[0], *asked[1:]], [good, bad, good, good])
    del mixed[1]
    assert [o.outputs[0].token_ids for o in mixed] == [o.outputs[0].token_ids for o in alone]


def test_a_bad_request_is_refused_and_the_engine_goes_on(engine: LLM) -> None:
    with pytest.raises(VLLMValidationError, match="unknown name"):
        run(engine, [[1]], [asks("top_kk(5)")])
    with pytest.raises(VLLMValidationError, match=r"temperature must be 1\.0"):
        run(engine, [[1]], [asks("top_k(5)", temperature=0.5)])
    (output,) = run(engine, [[1]], [asks("top_k(5)", max_tokens=2)])
    assert output.outputs[0].token_ids


def test_the_example_runs_as_written() -> None:
    repository = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    environment["PYTHONPATH"] = str(repository / "python")
    run = subprocess.run(
        [sys.executable, str(repository / "examples" / "vllm_requests.py")],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    lines = dict(line.split(": ", 1) for line in run.stdout.splitlines() if ": " in line)
    assert len(lines) == 5
    assert lines["Best-of-K, drawn by us"] == lines["once more"] != ""
