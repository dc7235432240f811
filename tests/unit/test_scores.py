"""Edits of logits against what one token at a time says."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optdecode import scores
from optdecode.errors import DTypeError, ProblemError, ShapeError

VOCABULARY = 7
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=9)
WORDS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4), max_size=5)
VALUES = st.one_of(st.floats(-30, 30, width=16), st.just(-np.inf), st.just(0.0))


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    histories = draw(st.lists(TOKENS, min_size=1, max_size=4))
    shape = (len(histories), VOCABULARY)
    values = draw(st.lists(VALUES, min_size=shape[0] * VOCABULARY, max_size=shape[0] * VOCABULARY))
    return np.array(values, dtype=dtype).reshape(shape), histories


def one_by_one(logits: np.ndarray, edit: Callable[[int, int, float], float]) -> np.ndarray:
    """Apply ``edit(row, token, value)`` to every entry, in the precision that the library computes in."""
    wide = np.float64 if logits.dtype == np.float64 else np.float32
    edited = [[edit(b, v, wide(x)) for v, x in enumerate(row)] for b, row in enumerate(logits)]
    return np.array(edited, dtype=wide).astype(logits.dtype)


def check(found: np.ndarray, logits: np.ndarray, before: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(logits, before)
    assert found.dtype == logits.dtype
    assert found is not logits


PENALTIES = st.sampled_from([0.25, 0.7, 1.0, 1.3, 2.0])


@given(batches(), PENALTIES)
def test_repetition_penalty(batch: tuple[np.ndarray, list[list[int]]], penalty: float) -> None:
    logits, histories = batch

    def edit(row: int, token: int, value: np.floating) -> np.floating:
        if token not in histories[row]:
            return value
        return value * type(value)(penalty) if value < 0 else value / type(value)(penalty)

    before = logits.copy()
    check(scores.repetition_penalty(logits, penalty, histories), logits, before, one_by_one(logits, edit))


@given(batches(), st.floats(-2, 2, width=16))
def test_presence_and_frequency_penalty(batch: tuple[np.ndarray, list[list[int]]], penalty: float) -> None:
    logits, histories = batch
    before = logits.copy()

    def presence(row: int, token: int, value: np.floating) -> np.floating:
        return value - type(value)(penalty) if token in histories[row] else value

    def frequency(row: int, token: int, value: np.floating) -> np.floating:
        return value - type(value)(penalty) * type(value)(histories[row].count(token))

    check(scores.presence_penalty(logits, penalty, histories), logits, before, one_by_one(logits, presence))
    check(scores.frequency_penalty(logits, penalty, histories), logits, before, one_by_one(logits, frequency))


@given(
    batches(), st.dictionaries(st.integers(0, VOCABULARY - 1), st.one_of(st.floats(-5, 5, width=16), st.just(-np.inf)))
)
def test_logit_bias(batch: tuple[np.ndarray, list[list[int]]], bias: dict[int, float]) -> None:
    logits, histories = batch
    before = logits.copy()
    expected = one_by_one(logits, lambda row, token, value: value + type(value)(bias.get(token, 0.0)))
    check(scores.logit_bias(logits, bias), logits, before, expected)
    each = [bias if row % 2 else {} for row in range(len(histories))]
    expected = one_by_one(logits, lambda row, token, value: value + type(value)(each[row].get(token, 0.0)))
    check(scores.logit_bias(logits, each), logits, before, expected)


@given(batches(), WORDS)
def test_bad_words(batch: tuple[np.ndarray, list[list[int]]], words: list[list[int]]) -> None:
    logits, histories = batch
    before = logits.copy()

    def edit(row: int, token: int, value: np.floating) -> np.floating:
        completed = any((histories[row] + [token])[-len(word) :] == word for word in words)
        return type(value)(-np.inf) if completed else value

    check(scores.bad_words(logits, words, histories), logits, before, one_by_one(logits, edit))


@given(batches(), st.integers(0, 9), st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3))
def test_min_length(batch: tuple[np.ndarray, list[list[int]]], minimum: int, ends: list[int]) -> None:
    logits, histories = batch
    before = logits.copy()
    lengths = [len(history) for history in histories]

    def edit(row: int, token: int, value: np.floating) -> np.floating:
        return type(value)(-np.inf) if token in ends and lengths[row] < minimum else value

    check(scores.min_length(logits, minimum, lengths, ends), logits, before, one_by_one(logits, edit))


@given(batches(), st.integers(1, 4))
def test_no_repeat_ngram(batch: tuple[np.ndarray, list[list[int]]], n: int) -> None:
    logits, histories = batch
    before = logits.copy()

    def edit(row: int, token: int, value: np.floating) -> np.floating:
        history = histories[row]
        seen = [history[i : i + n] for i in range(len(history) - n + 1)]
        return type(value)(-np.inf) if len(history) >= n and [*history, token][-n:] in seen else value

    check(scores.no_repeat_ngram(logits, n, histories), logits, before, one_by_one(logits, edit))


CALLS = {
    "repetition_penalty": lambda x, h, **k: scores.repetition_penalty(x, 1.5, h, **k),
    "presence_penalty": lambda x, h, **k: scores.presence_penalty(x, 1.5, h, **k),
    "frequency_penalty": lambda x, h, **k: scores.frequency_penalty(x, 1.5, h, **k),
    "bad_words": lambda x, h, **k: scores.bad_words(x, [[1], [0, 2], [2, 2]], h, **k),
    "min_length": lambda x, h, **k: scores.min_length(x, 3, len(h) if np.ndim(x) == 1 else [*map(len, h)], 1, **k),
    "no_repeat_ngram": lambda x, h, **k: scores.no_repeat_ngram(x, 2, h, **k),
    "logit_bias": lambda x, h, **k: scores.logit_bias(x, {1: 0.5, 2: -np.inf}, **k),
}
HISTORIES = [[0, 2, 2, 0], [], [2, 2]]
LOGITS = np.linspace(-2, 2, 3 * VOCABULARY, dtype=np.float32).reshape(3, VOCABULARY)


@pytest.mark.parametrize("name", CALLS)
def test_one_row_is_a_row_of_a_batch_and_out_receives_it(name: str) -> None:
    call = CALLS[name]
    batch = call(LOGITS, HISTORIES)
    assert not np.array_equal(batch, LOGITS)
    for row, history in enumerate(HISTORIES):
        np.testing.assert_array_equal(call(LOGITS[row], history), batch[row])
        np.testing.assert_array_equal(call(LOGITS[row], np.array(history, dtype=np.int32)), batch[row])
    strided = np.zeros((VOCABULARY, 3), dtype=np.float32).T
    assert call(LOGITS, HISTORIES, out=strided) is strided
    np.testing.assert_array_equal(strided, batch)
    own = LOGITS.copy()
    assert call(own, HISTORIES, out=own) is own
    np.testing.assert_array_equal(own, batch)
    np.testing.assert_array_equal(call(LOGITS[:0], []), LOGITS[:0])


@pytest.mark.parametrize("name", CALLS)
def test_logits_and_out_that_do_not_fit_are_named(name: str) -> None:
    call = CALLS[name]
    with pytest.raises(DTypeError, match=f"{name}: logits must be float16, float32 or float64; got int64"):
        call(np.zeros((3, VOCABULARY), dtype=np.int64), HISTORIES)
    for shape in [(), (2, 3, 4), (3, 0)]:
        with pytest.raises(ShapeError, match=rf"{name}: logits must be \(V,\) or \(B, V\)"):
            call(np.zeros(shape), [])
    for out in [np.zeros((3, VOCABULARY)), np.zeros((2, VOCABULARY), dtype=np.float32), [[0.0]]]:
        with pytest.raises(ShapeError, match=f"{name}: out must be an array like the logits"):
            call(LOGITS, HISTORIES, out=out)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("logit_bias", "min_length")])
def test_histories_that_do_not_fit_name_the_row(name: str) -> None:
    call = CALLS[name]
    with pytest.raises(ShapeError, match=f"{name}: 3 rows of logits need as many sequences of tokens; got 2"):
        call(LOGITS, HISTORIES[:2])
    with pytest.raises(ProblemError, match=rf"{name}: row 2 of tokens has token 7; ids are in \[0, 7\)"):
        call(LOGITS, [[0], [1], [2, 7]])
    with pytest.raises(ProblemError, match=f"{name}: row 1 of tokens has token -1"):
        call(LOGITS, [[0], [-1], []])
    with pytest.raises(ProblemError, match=f"{name}: tokens must be a sequence of token ids"):
        call(LOGITS[0], [0.5])
    with pytest.raises(ProblemError, match=f"{name}: tokens must be a sequence of token ids"):
        call(LOGITS[0], HISTORIES[:1])
    with pytest.raises(ProblemError, match=f"{name}: tokens must be a sequence of token ids"):
        call(LOGITS[0], HISTORIES)


def test_parameters_one_a_row() -> None:
    by_row = scores.repetition_penalty(LOGITS, [1.0, 2.0, 4.0], [[0]] * 3)
    factors = np.where(LOGITS[:, 0] < 0, [1, 2, 4], [1, 0.5, 0.25])
    np.testing.assert_array_equal(by_row[:, 0], LOGITS[:, 0] * factors)
    by_row = scores.presence_penalty(LOGITS, [0, 1, 2], [[3]] * 3)
    np.testing.assert_array_equal(by_row[:, 3], LOGITS[:, 3] - np.float32([0, 1, 2]))
    by_row = scores.frequency_penalty(LOGITS, [0, 1, 2], [[3, 3]] * 3)
    np.testing.assert_array_equal(by_row[:, 3], LOGITS[:, 3] - np.float32([0, 2, 4]))
    short = scores.min_length(LOGITS, [1, 5, 5], [1, 4, 5], [0, 6])
    np.testing.assert_array_equal(np.isneginf(short[:, [0, 6]]), [[False] * 2, [True] * 2, [False] * 2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores.repetition_penalty(LOGITS, 0.0, HISTORIES), "penalty must be finite and > 0; row 0 has 0.0"),
        (lambda: scores.repetition_penalty(LOGITS, [1, -1, 1], HISTORIES), "row 1 has -1.0"),
        (lambda: scores.presence_penalty(LOGITS, [0, 0, np.nan], HISTORIES), "penalty must be finite; row 2 has nan"),
        (lambda: scores.frequency_penalty(LOGITS, [1, 2], HISTORIES), "a number, or one for each of 3 rows"),
        (lambda: scores.frequency_penalty(LOGITS, "high", HISTORIES), "got 'high'"),
        (lambda: scores.logit_bias(LOGITS, {7: 1.0}), "bias has token 7"),
        (lambda: scores.logit_bias(LOGITS, {1: np.inf}), "finite or -inf"),
        (lambda: scores.logit_bias(LOGITS, [{}, {}]), "one for each of 3 rows"),
        (lambda: scores.bad_words(LOGITS, [[1], []], HISTORIES), "word 1 is empty"),
        (lambda: scores.bad_words(LOGITS, [[1], [9]], HISTORIES), "word 1 has token 9"),
        (lambda: scores.bad_words(LOGITS, [1, 2], HISTORIES), "word 0 must be a sequence of token ids"),
        (lambda: scores.min_length(LOGITS, 2, [1, 2], 0), "lengths must be a number, or one for each of 3 rows"),
        (lambda: scores.min_length(LOGITS, 2, 1, 7), "end has token 7"),
        (lambda: scores.no_repeat_ngram(LOGITS, 0, HISTORIES), "n must be an integer"),
    ],
)
def test_parameters_that_do_not_fit_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ProblemError, ShapeError), match=words):
        call()


def test_a_forbidden_token_stays_forbidden_and_nan_is_kept() -> None:
    row = np.array([-np.inf, np.nan, np.inf, 0.0])
    edited = scores.repetition_penalty(row, 2.0, [0, 1, 2, 3])
    edited = scores.frequency_penalty(edited, 1.0, [0, 1, 2, 3])
    edited = scores.presence_penalty(edited, 1.0, [0, 1, 2, 3])
    np.testing.assert_array_equal(edited, [-np.inf, np.nan, np.inf, -2.0])
    np.testing.assert_array_equal(scores.logit_bias(row, dict.fromkeys(range(4), -np.inf)), [-np.inf] * 4)
