"""The decoders in llama.cpp itself, on the embedded model."""

import ctypes
import inspect
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from llama_cpp._internals import LlamaSampler
from scipy import stats

import optdecode as od
from optdecode.errors import ProblemError
from optdecode.integrations import llama_cpp as ours
from optdecode.integrations._llama_sampler import CANDIDATE
from optdecode.models import dagmod

pytestmark = pytest.mark.engine

PROMPTS = [problem.prompt for problem in dagmod.generate(6, seed=3)]
NEUTRAL = ours.neutral_kwargs("generate")
BROKEN = od.softmax().subject_to(od.Allowed([5000]))  # the model has 1,024 tokens: an error at every call
CUT = od.top_p(0.95, temperature=1.3)
SPARSE = {
    "sparsemax": od.sparsemax(temperature=2.0),
    "entmax": od.entmax(1.5, temperature=1.5),
    "best_of_k": od.best_of_k(budget=8, beta_bar=0.5, lam=1.0, temperature=2.0),
}


@pytest.fixture(scope="module")
def model(dagmod_llama: llama_cpp.Llama) -> llama_cpp.Llama:
    return dagmod_llama


@pytest.fixture(scope="module")
def ids(model: llama_cpp.Llama) -> list[list[int]]:
    return [model.tokenize(prompt.encode()) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def rows(model: llama_cpp.Llama, ids: list[list[int]]) -> np.ndarray:
    """Logits of the model along its greedy answers, some of them flattened; none of them holds ties at a boundary."""
    found = []
    for prompt in ids[:3]:
        answer = list(islice(model.generate(prompt, temp=0.0), 12))
        model.reset()
        model.eval(prompt + answer)
        found.append(np.array(model.scores[len(prompt) - 1 : len(prompt) + len(answer)]))
    peaked = np.concatenate(found)
    return np.concatenate((peaked, peaked[::3] / 2, peaked[::5] / 4)).astype(np.float32)


def apply(sampler: LlamaSampler, row: np.ndarray) -> tuple[np.ndarray, int]:
    """Run a real chain over candidates as the engine makes them; return probabilities by id, and the choice."""
    candidates = np.zeros(len(row), dtype=CANDIDATE)
    candidates["id"], candidates["logit"] = np.arange(len(row)), row
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
    array = llama_cpp.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(array))
    left = candidates[: array.size]
    probs = np.zeros(len(row))
    probs[left["id"]] = left["p"]
    return probs, int(left["id"][array.selected])


def engine_probs(model: llama_cpp.Llama, row: np.ndarray, **options: object) -> np.ndarray:
    return apply(model._init_sampler(**options), row)[0]


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(np.abs(p - q).sum())


def expect_law(counts: np.ndarray, q: np.ndarray) -> None:
    """χ² at 1e-4: a right sampler fails once in 10,000 seeds, and the seeds are fixed."""
    assert not counts[q == 0].any()
    draws = counts.sum()
    common = q * draws >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(q[common], 1 - q[common].sum()) * draws
    kept = expected > 1e-6
    assert stats.chisquare(observed[kept], expected[kept] * observed[kept].sum() / expected[kept].sum()).pvalue > 1e-4


# ---- the same distributions ----


@pytest.mark.parametrize(
    ("options", "decoder"),
    [
        ({"top_k": 5}, od.top_k(5)),
        ({"top_k": 40}, od.top_k(40)),
        ({"top_p": 0.5}, od.top_p(0.5)),
        ({"top_p": 0.95}, od.top_p(0.95)),
        ({"min_p": 0.05}, od.min_p(0.05)),
        ({"min_p": 0.3}, od.min_p(0.3)),
        ({"temp": 0.7}, od.softmax(0.7)),
    ],
)
def test_single_cuts_equal_the_engines(
    model: llama_cpp.Llama, rows: np.ndarray, options: dict[str, float], decoder: od.Decoder
) -> None:
    for row in rows:
        assert total_variation(engine_probs(model, row, **NEUTRAL | options), decoder(row).probs) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temp": 1.7},
        {"top_k": 8, "temp": 0.3},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": -1, "min_p": 0.0, "temp": 2.0},
        {"top_p": 1.0, "min_p": 0.2},
        {"top_k": 2000, "top_p": 0.9, "min_p": 0.1, "temp": 1.2},
        {"typical_p": 0.6},
        {"top_k": 0, "typical_p": 0.3, "top_p": 0.8, "temp": 1.4},
        {"temp": -1.0},
    ],
)
def test_chains_equal_the_engines(model: llama_cpp.Llama, rows: np.ndarray, options: dict[str, float]) -> None:
    decoder = ours.from_llama_kwargs(**options)
    sizes = set()
    for row in rows:
        probs, expected = decoder(row).probs, engine_probs(model, row, **options)
        assert total_variation(expected, probs) <= 1e-5
        sizes.add(int((probs > 0).sum()))
    assert len(sizes) > 3 or "temp" in options  # the rows tell the cuts apart


def test_from_llama_kwargs_covers_the_engines_signature() -> None:
    default = ours.from_llama_kwargs()
    changed = {"top_k": 7, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.5, "temp": 1.4, "penalize_nl": False}
    elsewhere = {"self", "tokens", "reset", "logits_processor", "stopping_criteria", "grammar"}
    for name, parameter in inspect.signature(llama_cpp.Llama.generate).parameters.items():
        if name in elsewhere:
            continue
        assert ours.from_llama_kwargs(**{name: parameter.default}) == default, name
        value = changed.get(name, 2 if name == "mirostat_mode" else 0.5)
        if name in ("mirostat_tau", "mirostat_eta", "penalize_nl"):  # the engine does not read them here
            assert ours.from_llama_kwargs(**{name: value}) == default
        elif name in changed:
            assert ours.from_llama_kwargs(**{name: value}) != default
        else:
            with pytest.raises(ProblemError, match=name):
                ours.from_llama_kwargs(**{name: value})


@pytest.mark.parametrize("call", ["create_completion", "create_chat_completion", "generate", "sample"])
def test_neutral_kwargs_leave_a_row_as_it_is(model: llama_cpp.Llama, rows: np.ndarray, call: str) -> None:
    neutral = ours.neutral_kwargs(call)
    accepted = inspect.signature(getattr(llama_cpp.Llama, call)).parameters
    assert set(neutral) <= set(accepted)
    sampling = {"top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "frequency_penalty", "presence_penalty"}
    assert sampling <= set(neutral)
    assert ("temp" in neutral) != ("temperature" in neutral)
    if "temperature" in neutral:
        neutral["temp"] = neutral.pop("temperature")
    softmax = od.softmax()
    for row in rows:
        assert total_variation(engine_probs(model, row, **neutral), softmax(row).probs) <= 1e-5


@pytest.mark.parametrize("decoder", [*SPARSE.values(), CUT], ids=[*SPARSE, "top_p"])
def test_the_processor_makes_the_engine_draw_from_q(
    model: llama_cpp.Llama, rows: np.ndarray, decoder: od.Decoder
) -> None:
    processor = ours.OptdecodeLogitsProcessor(decoder)
    chain = {name: value for name, value in processor.kwargs("generate").items() if name != "stopping_criteria"}
    for row in rows:
        assert total_variation(engine_probs(model, row, **chain), decoder(row).probs) <= 1e-5
    assert processor.calls == len(rows)
    assert not processor.check()


# ---- the same tokens ----


def outside(model: llama_cpp.Llama, prompt: list[int], decoder: od.Decoder, seed: int, count: int) -> list[int]:
    """Draw from the logits that the model has kept of a run."""
    recorded = np.array(model.scores[len(prompt) - 1 : len(prompt) - 1 + count])
    return [int(decoder.sample(row, seed=seed, position=i).tokens[0]) for i, row in enumerate(recorded)]


def test_greedy_equals_the_engines_greedy(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    for prompt in ids:
        expected = []
        for token in model.generate(prompt, temp=0.0):
            expected.append(token)
            if token == model.token_eos():
                break
        (found,) = ours.generate(model, prompt, od.greedy(), max_tokens=100)
        assert (found.tokens, found.finished) == (expected, True)
        with ours.drawing(model, od.greedy()):
            text = model.create_completion(prompt, max_tokens=100)["choices"][0]
        assert (text["text"].split(), text["finish_reason"]) == (model.detokenize(expected).decode().split(), "stop")
        processor = ours.OptdecodeLogitsProcessor(od.greedy())
        same = model.create_completion(prompt, max_tokens=100, **processor.kwargs())["choices"][0]
        assert same["text"] == text["text"]


@pytest.mark.parametrize("decoder", [*SPARSE.values(), CUT, ours.from_llama_kwargs(temp=1.5)])
def test_tokens_are_those_of_sample_on_the_same_logits(
    model: llama_cpp.Llama, ids: list[list[int]], decoder: od.Decoder
) -> None:
    for seed, prompt in enumerate(ids):
        (found,) = ours.generate(model, prompt, decoder, seed=seed, max_tokens=40)
        assert found.tokens == outside(model, prompt, decoder, seed, len(found.tokens))
        recorded = model.scores[len(prompt) - 1 : len(prompt) - 1 + len(found.tokens)]
        expected = [float(decoder.sample(row, seed=seed, position=i).log_probs[0]) for i, row in enumerate(recorded)]
        assert found.log_probs == expected
        with ours.drawing(model, decoder, seed=seed):
            drawn = list(islice(model.generate(prompt), 20))
        assert drawn == outside(model, prompt, decoder, seed, 20)


def test_sequences_depend_on_their_seeds_alone(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    several = ours.generate(model, ids[0], CUT, seed=5, n=6, max_tokens=20)
    assert len({tuple(found.tokens) for found in several}) > 1
    seeds = od.row_seeds(5, 6)
    for found, seed in zip(several, seeds, strict=True):
        assert ours.generate(model, ids[0], CUT, seed=seed, max_tokens=20) == [found]
    assert ours.generate(model, ids[0], CUT, seed=seeds[::-1].copy(), n=6, max_tokens=20) == several[::-1]
    assert ours.generate(model, PROMPTS[0], CUT, seed=5, n=6, max_tokens=20) == several
    unlike = [ours.generate(model, ids[0], od.softmax(2.0), max_tokens=20)[0].tokens for _ in range(2)]
    assert unlike[0] != unlike[1]


def test_draws_of_the_sampler_have_law_q(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    decoder = od.best_of_k(budget=8, beta_bar=0.5, lam=1.0, temperature=2.0)
    model.reset()
    model.eval(ids[1])
    row = np.array(model.scores[len(ids[1]) - 1])
    counts = np.zeros(len(row))
    for seed in range(4000):
        sampler = ours.DecoderSampler(len(row))
        sampler.add_decoder(decoder, seed)
        counts[sampler.sample(model._ctx)] += 1
        sampler.close()
    expect_law(counts, decoder(row).probs.astype(float))


def test_the_engines_draws_through_the_processor_have_law_q(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    decoder = od.entmax(1.5, temperature=3.0)
    model.reset()
    model.eval(ids[2])
    row = np.array(model.scores[len(ids[2]) - 1])
    counts = np.zeros(len(row))
    kwargs = ours.OptdecodeLogitsProcessor(decoder).kwargs("generate")
    for seed in range(2000):
        model.set_seed(seed)
        counts[next(model.generate(ids[2], **kwargs))] += 1
    expect_law(counts, decoder(row).probs.astype(float))


def test_the_c_interface_takes_the_selected_token(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    model.reset()
    model.eval(ids[0])
    row = np.array(model.scores[len(ids[0]) - 1])
    sampler = ours.DecoderSampler(len(row))
    sampler.add_decoder(od.softmax(2.0), seed=11, position=4)
    token = LlamaSampler.sample(sampler, model._ctx)  # llama_sampler_sample
    assert token == od.softmax(2.0).sample(row, seed=11, position=4).tokens[0]
    assert sampler.position == 5
    sampler.reset()
    assert sampler.sample(model._ctx) == token


# ---- what other links leave ----


def add_foreign(sampler: LlamaSampler) -> None:
    def reverse(pointer: ctypes.POINTER) -> None:
        data = pointer.contents.data
        size = pointer.contents.size
        memory = (llama_cpp.llama_token_data * size).from_address(ctypes.addressof(data.contents))
        array = np.frombuffer(memory, dtype=CANDIDATE)
        array[:] = array[::-1].copy()

    sampler.add_custom(reverse)


@pytest.mark.parametrize(
    "add",
    [
        lambda sampler: sampler.add_top_k(30),
        lambda sampler: sampler.add_top_k(1024),
        lambda sampler: (sampler.add_top_k(1024), sampler.add_penalties(1024, 64, 1.5, 0.0, 0.0)),
        lambda sampler: sampler.add_top_p(0.97),
        lambda sampler: sampler.add_typical(0.9),
        add_foreign,
    ],
)
def test_a_draw_does_not_depend_on_the_order_of_candidates(
    rows: np.ndarray, add: Callable[[LlamaSampler], object]
) -> None:
    sampler = ours.DecoderSampler(rows.shape[1])
    add(sampler)
    sampler.add_decoder(CUT, seed=3)
    plain = LlamaSampler()
    add(plain)
    plain.add_dist(0)
    for i, row in enumerate(rows):
        sampler.reset()  # penalties forget
        sampler.position = i
        left = np.where(apply(plain, row)[0] > 0, row, -np.inf).astype(np.float32)
        assert sampler.draw(row) == CUT.sample(left, seed=3, position=i).tokens[0]


def test_candidates_are_never_sorted(rows: np.ndarray) -> None:
    sampler = ours.DecoderSampler(rows.shape[1])
    sampler.add_logit_bias(1024, {20: -1.0, 30: 2.0})
    sampler.add_penalties(1024, 64, 1.1, 0.1, 0.1)
    sampler.add_decoder(od.top_k(20), seed=1)
    for row in rows:
        before = row.copy()
        sampler.draw(row)
        np.testing.assert_array_equal(sampler._candidates["id"], np.arange(1024))
        np.testing.assert_array_equal(row, before)


def test_logit_bias_and_penalties_come_before_the_decoder(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    decoder = od.softmax()
    bias = {11: float("-inf"), 30: 3.0, 31: float("-inf")}
    most = 0.0
    for seed, prompt in enumerate(ids):
        penalties = {"repeat_penalty": 1.1, "presence_penalty": 0.25, "frequency_penalty": 0.5}
        (found,) = ours.generate(model, prompt, decoder, seed=seed, logit_bias=bias, **penalties)
        recorded = np.array(model.scores[len(prompt) - 1 : len(prompt) - 1 + len(found.tokens)])
        counts = np.zeros(1024, dtype=np.float32)
        for position, (row, token) in enumerate(zip(recorded, found.tokens, strict=True)):
            for biased, value in bias.items():
                row[biased] += np.float32(value)
            scaled = np.where(row <= 0, row * np.float32(1.1), row / np.float32(1.1))
            edited = np.where(counts > 0, scaled - (counts * np.float32(0.5) + np.float32(0.25)), row)
            assert token == decoder.sample(edited, seed=seed, position=position).tokens[0]
            counts[token] += 1
        assert not {11, 31} & set(found.tokens)
        most = max(most, counts.max())
    assert most > 1  # a token was drawn again, so that penalties had something to count


def test_a_grammar_comes_before_the_decoder(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    digits = llama_cpp.LlamaGrammar.from_string('root ::= (" " [3-5])+ " #"', verbose=False)
    allowed = np.zeros(1024, dtype=bool)
    allowed[[14, 15, 16, 9]] = True
    decoder = od.softmax(4.0)
    several = ours.generate(model, ids[0], decoder, seed=8, n=4, max_tokens=12, grammar=digits)
    for found, seed in zip(several, od.row_seeds(8, 4), strict=True):
        (found,) = ours.generate(model, ids[0], decoder, seed=seed, max_tokens=12, grammar=digits)
        recorded = np.array(model.scores[len(ids[0]) - 1 : len(ids[0]) - 1 + len(found.tokens)])
        for position, (row, token) in enumerate(zip(recorded, found.tokens, strict=True)):
            mask = allowed & (np.arange(1024) != 9) if position == 0 else allowed
            if position and found.tokens[position - 1] == 9:
                assert token == model.token_eos()
                continue
            assert token == decoder.sample(row, seed=seed, position=position, mask=mask).tokens[0]
    assert any(found.finished for found in several)
    with ours.drawing(model, decoder, seed=8):
        text = model.create_completion(ids[0], max_tokens=12, grammar=digits)["choices"][0]["text"]
    assert text.split() == model.detokenize([t for t in several[0].tokens if t != model.token_eos()]).decode().split()


def test_logits_processors_run_before_the_decoder(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    seen = []

    def forbid(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen.append(len(input_ids))
        scores[:21] = -np.inf
        return scores

    before = llama_cpp.LogitsProcessorList([forbid, llama_cpp.MinTokensLogitsProcessor(5, 2)])
    with ours.drawing(model, od.softmax(3.0), seed=1):
        tokens = list(islice(model.generate(ids[0], logits_processor=before), 8))
        model.create_completion(ids[0], logit_bias={31: 100.0}, max_tokens=4)
        biased = list(model._input_ids[len(ids[0]) :])
    assert min(tokens) >= 21
    assert seen == list(range(len(ids[0]), len(ids[0]) + 8))
    assert biased == [31] * 3


# ---- rows as the engine hands them over ----


def test_strided_scores(rows: np.ndarray) -> None:
    candidates = np.zeros(rows.shape[1], dtype=CANDIDATE)
    candidates["logit"] = rows[0]
    scores = candidates["logit"]
    assert scores.strides == (12,)
    found = ours.OptdecodeLogitsProcessor(CUT)(np.arange(3, dtype=np.intc), scores)
    np.testing.assert_array_equal(found, CUT(rows[0]).log_probs)
    np.testing.assert_array_equal(scores, rows[0])
    assert found.dtype == np.float32


def test_a_bad_row_is_left_with_a_warning(rows: np.ndarray) -> None:
    row = rows[0].copy()
    row[3] = np.nan
    with pytest.warns(RuntimeWarning, match="token 9 .*NAN_SCORES"):
        found = ours.OptdecodeLogitsProcessor(CUT)(np.arange(9, dtype=np.intc), row)
    np.testing.assert_array_equal(found, row)


def test_torch_is_never_imported(dagmod_gguf: Path) -> None:
    code = f"""
import sys, llama_cpp, optdecode as od
from optdecode.integrations import llama_cpp as ours
model = llama_cpp.Llama({str(dagmod_gguf)!r}, n_ctx=256, verbose=False)
assert ours.generate(model, [1, 26, 4, 16], od.entmax(1.5), seed=1, max_tokens=5)[0].tokens
model.create_completion([1, 26, 4, 16], max_tokens=5, **ours.OptdecodeLogitsProcessor(od.sparsemax()).kwargs())
assert "torch" not in sys.modules, "torch was imported"
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_the_example_runs(dagmod_gguf: Path) -> None:
    script = Path(__file__).parents[2] / "examples/llama_cpp_python.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["completion", "votes", "same", "engine"]
    assert "(' 6', " in lines[1]  # the answer of its prompt
    again = subprocess.run(
        [sys.executable, script, dagmod_gguf, PROMPTS[0]], capture_output=True, text=True, check=False
    )
    assert len(again.stdout.splitlines()) == 4, again.stderr
