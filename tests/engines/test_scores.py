"""`optdecode.scores` against the processors of transformers and the functions of vLLM."""

import numpy as np
import pytest
import torch
from transformers import (
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)
from vllm.model_executor.layers.utils import apply_penalties
from vllm.v1.sample.ops.bad_words import apply_bad_words

from optdecode import scores

pytestmark = pytest.mark.engine

VOCABULARY, BATCH = 40, 6


@pytest.fixture(params=range(5))
def batch(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Logits with zeros and -inf among them, and histories that repeat themselves."""
    random = np.random.default_rng(request.param)
    logits = random.normal(scale=4, size=(BATCH, VOCABULARY)).astype(np.float32)
    logits[:, 3], logits[:, 5] = 0.0, -np.inf
    return logits, random.integers(0, 12, size=(BATCH, 25))


def run(processor: object, logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return processor(torch.from_numpy(tokens), torch.from_numpy(logits.copy())).numpy()


# ---- transformers ----


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3, 5.0])
def test_repetition_penalty_is_transformers(batch: tuple[np.ndarray, np.ndarray], penalty: float) -> None:
    logits, tokens = batch
    expected = run(RepetitionPenaltyLogitsProcessor(penalty), logits, tokens)
    np.testing.assert_array_equal(scores.repetition_penalty(logits, penalty, tokens), expected)
    assert (expected != logits).any() == (penalty != 1.0)


def test_bad_words_is_transformers(batch: tuple[np.ndarray, np.ndarray]) -> None:
    logits, tokens = batch
    words = [[7], [int(tokens[0, -1]), 8], [*map(int, tokens[1, -3:]), 9], [*map(int, tokens[2, -2:]), 10], [1, 2, 3]]
    expected = run(NoBadWordsLogitsProcessor(words, eos_token_id=[2]), logits, tokens)
    np.testing.assert_array_equal(scores.bad_words(logits, words, tokens), expected)
    for row, forbidden in enumerate((8, 9, 10)):
        assert np.isneginf(expected[row, forbidden])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_repeat_ngram_is_transformers(batch: tuple[np.ndarray, np.ndarray], n: int) -> None:
    logits, tokens = batch
    expected = run(NoRepeatNGramLogitsProcessor(n), logits, tokens)
    np.testing.assert_array_equal(scores.no_repeat_ngram(logits, n, tokens), expected)
    assert np.isneginf(expected[:, :5]).any() or n == 3
    np.testing.assert_array_equal(scores.no_repeat_ngram(logits, 26, tokens), logits)


@pytest.mark.parametrize("minimum", [25, 26])
def test_min_length_is_transformers(batch: tuple[np.ndarray, np.ndarray], minimum: int) -> None:
    logits, tokens = batch
    expected = run(MinLengthLogitsProcessor(minimum, [1, 4]), logits, tokens)
    np.testing.assert_array_equal(scores.min_length(logits, minimum, 25, [1, 4]), expected)
    expected = run(MinNewTokensLengthLogitsProcessor(20, minimum - 20, [1, 4]), logits, tokens)
    np.testing.assert_array_equal(scores.min_length(logits, minimum - 20, 5, [1, 4]), expected)
    assert np.isneginf(expected[:, [1, 4]]).all() == (minimum == 26)


def test_logit_bias_is_transformers(batch: tuple[np.ndarray, np.ndarray]) -> None:
    logits, tokens = batch
    bias = {1: 0.3, 3: -1.7, 5: 2.0, 20: float("-inf")}
    expected = run(SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}), logits, tokens)
    np.testing.assert_array_equal(scores.logit_bias(logits, bias), expected)


# ---- vLLM ----


def split(tokens: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """Ragged prompts and outputs, one of them empty."""
    outputs = [list(map(int, row[10 : 10 + 3 * i])) for i, row in enumerate(tokens)]
    return [list(map(int, row[: 10 - i])) for i, row in enumerate(tokens)], outputs


def padded(histories: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, histories))
    return torch.tensor([history + [VOCABULARY] * (longest - len(history)) for history in histories])


def vllm(
    logits: np.ndarray,
    prompts: list[list[int]],
    outputs: list[list[int]],
    presence: list,
    frequency: list,
    repetition: list,
) -> np.ndarray:
    rows = torch.from_numpy(logits.copy())
    penalties = (torch.tensor(values, dtype=torch.float32) for values in (presence, frequency, repetition))
    return apply_penalties(rows, padded(prompts), padded(outputs), *penalties).numpy()


def test_presence_and_frequency_penalties_are_vllms(batch: tuple[np.ndarray, np.ndarray]) -> None:
    logits, tokens = batch
    prompts, outputs = split(tokens)
    presence, frequency = [0.0, 0.3, 1.1, -0.7, 2.0, 0.9], [0.7, 0.0, -0.3, 1.9, 0.2, 0.1]
    expected = vllm(logits, prompts, outputs, presence, frequency, [1.0] * BATCH)
    found = scores.frequency_penalty(logits, frequency, outputs)
    found = scores.presence_penalty(found, presence, outputs, out=found)
    np.testing.assert_array_equal(found, expected)
    assert (expected != logits).any()


@pytest.mark.parametrize(
    ("penalties", "ulps"), [([0.5, 1.0, 2.0, 4.0, 0.25, 8.0], 0), ([0.7, 1.1, 1.3, 3.0, 1.7, 0.9], 2)]
)
def test_repetition_penalty_is_vllms(batch: tuple[np.ndarray, np.ndarray], penalties: list[float], ulps: int) -> None:
    """vLLM multiplies by the rounded reciprocal where transformers, and this library, divide: equal up to rounding."""
    logits, tokens = batch
    prompts, outputs = split(tokens)
    both = [prompt + output for prompt, output in zip(prompts, outputs, strict=True)]
    expected = vllm(logits, prompts, outputs, [0.0] * BATCH, [0.0] * BATCH, penalties)
    found = scores.repetition_penalty(logits, penalties, both)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    seen = np.isfinite(found)
    if ulps:
        np.testing.assert_array_max_ulp(found[seen], expected[seen], maxulp=ulps)
    else:  # reciprocals of powers of two are exact
        np.testing.assert_array_equal(found, expected)


def test_bad_words_is_vllms(batch: tuple[np.ndarray, np.ndarray]) -> None:
    logits, tokens = batch
    _, outputs = split(tokens)
    words = [[7], [outputs[2][-1], 8], [*outputs[5], 9], [1, 2, 3]]
    expected = logits.copy()
    apply_bad_words(torch.from_numpy(expected), dict.fromkeys(range(BATCH), words), outputs)
    np.testing.assert_array_equal(scores.bad_words(logits, words, outputs), expected)
    assert np.isneginf(expected[2, 8])
    assert np.isneginf(expected[5, 9])
