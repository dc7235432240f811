"""Plain edits of logits for loops without an engine: penalties, biases, bad words, minimum length.

Engines have these themselves; here they are for a loop that calls a model and a decoder. Each takes one row of logits
(V,) or a batch (B, V), float16, float32 or float64, and returns a new array, or fills ``out=``, which may be the logits
themselves. Histories of tokens are a sequence of ids for one row, a sequence of B of them, of any lengths, for a batch.
Their order is yours; vLLM penalises repetition, frequency and presence, in this order, after it has forbidden tokens.

>>> import numpy as np, optdecode as od
>>> logits, output = np.array([2.0, 1.0, 0.5, -1.0], dtype=np.float32), [0, 1, 0]
>>> edited = repetition_penalty(logits, 2.0, output)
>>> edited = min_length(edited, minimum=5, lengths=len(output), end=2)
>>> edited
array([ 1. ,  0.5, -inf, -1. ], dtype=float32)
>>> od.greedy().sample(edited).tokens
array([0])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode._spec import positive_int
from optdecode.errors import DTypeError, ProblemError, ShapeError

__all__ = [
    "bad_words",
    "frequency_penalty",
    "logit_bias",
    "min_length",
    "no_repeat_ngram",
    "presence_penalty",
    "repetition_penalty",
]

Array = npt.NDArray[Any]
#: Ids of one row, or of each row of a batch.
Histories = Sequence[int] | Sequence[Sequence[int]] | Array


def repetition_penalty(logits: Any, penalty: Any, tokens: Histories, *, out: Array | None = None) -> Array:
    """Divide the positive logits of tokens that have occurred by a penalty, multiply the others by it (CTRL).

    Parameters
    ----------
    logits : array_like, shape (V,) or (B, V)
        Scores.
    penalty : float or array of shape (B,)
        Above 0; 1 changes nothing, more discourages repetition.
    tokens : sequence of int, or B of them
        Prompt and output, as transformers and vLLM count.
    out : array, optional
        Where to write.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        An argument does not fit; the message names the row.

    Examples
    --------
    >>> repetition_penalty(np.array([[3.0, -1.0, 2.0], [3.0, -1.0, 2.0]]), [1.5, 2.0], [[0, 1, 1], [1]])
    array([[ 2. , -1.5,  2. ],
           [ 3. , -2. ,  2. ]])
    """
    edited, rows = _start("repetition_penalty", logits, out)
    penalties = _per_row("repetition_penalty", "penalty", penalty, rows, positive=True)
    row, token, _ = _counted("repetition_penalty", tokens, edited, rows)
    values = _wide(rows[row, token])
    factors = penalties[row].astype(values.dtype)
    negative = values < 0
    values[negative] *= factors[negative]
    values[~negative] /= factors[~negative]
    rows[row, token] = values
    return edited


def presence_penalty(logits: Any, penalty: Any, output: Histories, *, out: Array | None = None) -> Array:
    """Subtract a penalty from the logits of tokens that have been generated.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    penalty : float or array of shape (B,)
        0 changes nothing.
    output : sequence of int, or B of them
        Tokens generated so far, without the prompt, as OpenAI and vLLM count.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> presence_penalty(np.array([1.0, 1.0, 1.0]), 0.5, [2, 2])
    array([1. , 1. , 0.5])
    """
    edited, rows = _start("presence_penalty", logits, out)
    penalties = _per_row("presence_penalty", "penalty", penalty, rows)
    row, token, _ = _counted("presence_penalty", output, edited, rows)
    values = _wide(rows[row, token])
    rows[row, token] = values - penalties[row].astype(values.dtype)
    return edited


def frequency_penalty(logits: Any, penalty: Any, output: Histories, *, out: Array | None = None) -> Array:
    """Subtract a penalty from the logits of generated tokens, once for each time.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    penalty, output
        As in `presence_penalty`.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> frequency_penalty(np.array([1.0, 1.0, 1.0]), 0.25, [2, 0, 2])
    array([0.75, 1.  , 0.5 ])
    """
    edited, rows = _start("frequency_penalty", logits, out)
    penalties = _per_row("frequency_penalty", "penalty", penalty, rows)
    row, token, count = _counted("frequency_penalty", output, edited, rows)
    values = _wide(rows[row, token])
    rows[row, token] = values - penalties[row].astype(values.dtype) * count.astype(values.dtype)
    return edited


def logit_bias(
    logits: Any, bias: Mapping[int, float] | Sequence[Mapping[int, float]], *, out: Array | None = None
) -> Array:
    """Add biases to the logits of some tokens.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    bias : mapping of int to float, or B of them
        Finite, or -inf, which forbids the token whatever its logit is.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> logit_bias(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), [{0: 0.5, 2: float("-inf")}, {}])
    array([[ 1.5,  2. , -inf],
           [ 1. ,  2. ,  3. ]])
    """
    edited, rows = _start("logit_bias", logits, out)
    mappings = [bias] * len(rows) if isinstance(bias, Mapping) else list(bias)
    if len(mappings) != len(rows) or not all(isinstance(each, Mapping) for each in mappings):
        raise ShapeError(f"logit_bias: bias must be a mapping, or one for each of {len(rows)} rows; got {bias!r}")
    for row, mapping in zip(rows, mappings, strict=True):
        token = _ids("logit_bias", list(mapping), rows.shape[1], "bias")
        value = np.asarray(list(mapping.values()), dtype=np.float64)
        if not (np.isfinite(value) | (value == -np.inf)).all():
            raise ProblemError(f"logit_bias: a bias must be finite or -inf; got {dict(mapping)!r}")
        before = _wide(row[token])
        row[token] = np.where(
            value == -np.inf, -np.inf, before + np.where(value == -np.inf, 0, value).astype(before.dtype)
        )
    return edited


def bad_words(logits: Any, words: Sequence[Sequence[int]], tokens: Histories, *, out: Array | None = None) -> Array:
    """Forbid the last token of each word whose other tokens have just occurred.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    words : sequence of sequences of int
        Words as token ids, none empty.
    tokens : sequence of int, or B of them
        What the words are matched with: prompt and output in transformers, the output alone in vLLM.

    Returns
    -------
    array
        The logits, with -inf where a word would be completed.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> bad_words(np.zeros((2, 4)), [[3], [1, 2]], [[0, 1], [1, 0]])
    array([[  0.,   0., -inf, -inf],
           [  0.,   0.,   0., -inf]])
    """
    edited, rows = _start("bad_words", logits, out)
    histories = _histories("bad_words", tokens, edited, rows)
    by_length: dict[int, list[Array]] = {}
    for i, word in enumerate(words):
        ids = _ids("bad_words", word, rows.shape[1], f"word {i}")
        if not len(ids):
            raise ProblemError(f"bad_words: word {i} is empty")
        by_length.setdefault(len(ids), []).append(ids)
    for length, group in by_length.items():
        long_enough = [row for row, history in enumerate(histories) if len(history) >= length - 1]
        if not long_enough:
            continue
        ends = np.stack([histories[row][len(histories[row]) - length + 1 :] for row in long_enough])
        candidates = np.stack(group)
        row, word_index = np.nonzero((ends[:, None] == candidates[None, :, :-1]).all(axis=-1))
        rows[np.asarray(long_enough)[row], candidates[word_index, -1]] = -np.inf
    return edited


def min_length(logits: Any, minimum: Any, lengths: Any, end: int | Sequence[int], *, out: Array | None = None) -> Array:
    """Forbid the end of a sequence that is shorter than a minimum.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    minimum : int or integer array of shape (B,)
        Tokens a sequence must have before it may end.
    lengths : int or integer array of shape (B,)
        Tokens it has: with the prompt (transformers' ``min_length``) or without (``min_new_tokens``, vLLM's
        ``min_tokens``).
    end : int or sequence of int
        The tokens that end a sequence.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> min_length(np.zeros((2, 3)), 4, [3, 4], end=2)
    array([[  0.,   0., -inf],
           [  0.,   0.,   0.]])
    """
    edited, rows = _start("min_length", logits, out)
    least = _per_row("min_length", "minimum", minimum, rows)
    short = np.flatnonzero(_per_row("min_length", "lengths", lengths, rows) < least)
    ends = _ids("min_length", np.atleast_1d(np.asarray(end)), rows.shape[1], "end")
    rows[short[:, None], ends] = -np.inf
    return edited


def no_repeat_ngram(logits: Any, n: int, tokens: Histories, *, out: Array | None = None) -> Array:
    """Forbid the tokens that would complete an n-gram that has occurred.

    Parameters
    ----------
    logits, out
        As in `repetition_penalty`.
    n : int
        At least 1; with 1 every token occurs once.
    tokens : sequence of int, or B of them
        Prompt and output, as transformers counts.

    Returns
    -------
    array
        The edited logits.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        As in `repetition_penalty`.

    Examples
    --------
    >>> no_repeat_ngram(np.zeros(4), 2, [1, 2, 3, 1])
    array([  0.,   0., -inf,   0.])
    """
    edited, rows = _start("no_repeat_ngram", logits, out)
    n = positive_int("no_repeat_ngram", "n", n)
    for row, history in zip(rows, _histories("no_repeat_ngram", tokens, edited, rows), strict=True):
        if len(history) < n:
            continue
        grams = np.lib.stride_tricks.sliding_window_view(history, n)
        seen = (grams[:, :-1] == history[len(history) - n + 1 :]).all(axis=1)
        row[grams[seen, -1]] = -np.inf
    return edited


def _start(caller: str, logits: Any, out: Array | None) -> tuple[Array, Array]:
    """Return the array to edit, filled with the logits, and a (B, V) view of it."""
    given = np.asarray(logits)
    if given.dtype not in (np.float16, np.float32, np.float64):
        raise DTypeError(f"{caller}: logits must be float16, float32 or float64; got {given.dtype}")
    if given.ndim not in (1, 2) or not given.shape[-1]:
        raise ShapeError(f"{caller}: logits must be (V,) or (B, V) with V >= 1; got {given.shape}")
    if out is None:
        out = given.copy()
    elif not isinstance(out, np.ndarray) or out.shape != given.shape or out.dtype != given.dtype:
        got = f"{getattr(out, 'dtype', type(out).__name__)} {getattr(out, 'shape', '')}".rstrip()
        raise ShapeError(f"{caller}: out must be an array like the logits, {given.dtype} {given.shape}; got {got}")
    else:
        np.copyto(out, given)
    return out, out[None] if out.ndim == 1 else out


def _wide(values: Array) -> Array:
    """Values to compute with: float32 at least."""
    return values.astype(np.result_type(values.dtype, np.float32))


def _per_row(caller: str, name: str, value: Any, rows: Array, positive: bool = False) -> Array:
    """Return one float64 a row, from a scalar or from one a row."""
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((), rows.shape[:1]):
        raise ProblemError(f"{caller}: {name} must be a number, or one for each of {len(rows)} rows; got {value!r}")
    numbers = np.broadcast_to(numbers.astype(np.float64), rows.shape[:1])
    bad = np.flatnonzero(~np.isfinite(numbers) | (positive & (numbers <= 0)))
    if len(bad):
        wanted = "finite and > 0" if positive else "finite"
        raise ProblemError(f"{caller}: {name} must be {wanted}; row {bad[0]} has {numbers[bad[0]]}")
    return numbers


def _ids(caller: str, ids: Any, vocabulary: int, what: str) -> Array:
    """Return token ids as an int64 array."""
    try:
        found = np.asarray(ids)
    except ValueError:  # sequences of several lengths
        found = np.zeros((0, 0))
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ProblemError(f"{caller}: {what} must be a sequence of token ids; got {ids!r}")
    outside = np.flatnonzero((found < 0) | (found >= vocabulary))
    if len(outside):
        raise ProblemError(f"{caller}: {what} has token {found[outside[0]]}; ids are in [0, {vocabulary})")
    return found.astype(np.int64)


def _histories(caller: str, tokens: Any, edited: Array, rows: Array) -> list[Array]:
    """Return the ids of each row."""
    if edited.ndim == 1:
        return [_ids(caller, tokens, rows.shape[1], "tokens")]
    if len(tokens) != len(rows):
        raise ShapeError(f"{caller}: {len(rows)} rows of logits need as many sequences of tokens; got {len(tokens)}")
    return [_ids(caller, history, rows.shape[1], f"row {row} of tokens") for row, history in enumerate(tokens)]


def _counted(caller: str, tokens: Any, edited: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Return row, id and count of each token that has occurred in a row."""
    histories = _histories(caller, tokens, edited, rows)
    vocabulary = rows.shape[1]
    places = [row * vocabulary + history for row, history in enumerate(histories)]
    place, count = np.unique(np.concatenate(places) if places else np.zeros(0, np.int64), return_counts=True)
    return place // vocabulary, place % vocabulary, count
