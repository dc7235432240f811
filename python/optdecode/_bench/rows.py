"""Rows of logits to time decoders on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode.errors import ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes that a rotation goes through before a row comes again: more than a core's share of the last cache.
ROTATION_BYTES = 32 << 20

#: The largest nucleus (p = 0.95) that an LM-like row is made for; what the bulk adds stays below 1,000.
_LARGEST_NUCLEUS = 900
_HEAD = 4096


def make_rows(kind: str, vocabulary: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Make rows of one kind.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    vocabulary : int
        V.
    count : int
        How many.
    seed : int
        The same rows every time.

    Returns
    -------
    ndarray of float32, shape (count, vocabulary)
        C-contiguous.

    Raises
    ------
    ProblemError
        There is no such kind.
    """
    if kind not in KINDS:
        raise ProblemError(f"make_rows: kind must be one of {', '.join(KINDS)}; got {kind!r}")
    rng = np.random.default_rng([seed, vocabulary])
    rows = np.empty((count, vocabulary), dtype=np.float32)
    for index in range(count):
        rows[index] = KINDS[kind](rng, vocabulary, index)
    return rows


def rotation(vocabulary: int, itemsize: int, batch: int) -> int:
    """Return how many rows to rotate over: at least `ROTATION_BYTES`, two batches, and whole batches."""
    rows = max(-(-ROTATION_BYTES // (vocabulary * itemsize)), 2 * batch)
    return -(-rows // batch) * batch


def narrowed(rows: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Return the rows in a dtype of the core: ``"f32"``, ``"f16"`` or ``"bf16"``, narrow ones as uint16.

    Parameters
    ----------
    rows : ndarray of float32
        Finite or infinite; no NaN.
    dtype : str
        What to round to, to nearest, ties to even.

    Returns
    -------
    ndarray of float32 or uint16
        Of the same shape.
    """
    if dtype == "f32":
        return rows
    if dtype == "f16":
        with np.errstate(over="ignore"):
            return rows.astype(np.float16).view(np.uint16)
    if dtype == "bf16":
        bits = rows.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    raise ProblemError(f"narrowed: dtype must be f32, f16 or bf16; got {dtype!r}")


def nucleus_size(row: NDArray[Any], p: float = 0.95) -> int:
    """Return how many of the best tokens it takes for a softmax mass of p."""
    exponentials = np.exp(row.astype(np.float64) - row.max())
    mass = np.cumsum(np.sort(exponentials)[::-1])
    return int(np.searchsorted(mass, p * mass[-1])) + 1


def _lm(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """A head of decaying scores over a normal bulk of 2 % of the mass; nuclei log-uniform in 1 to about 900 tokens."""
    bulk = rng.standard_normal(vocabulary, dtype=np.float32) * np.float32(2.0)
    size = min(_HEAD, vocabulary // 4)
    head = 0.2 * rng.standard_normal(size) - np.log(np.arange(1, size + 1))
    head = np.sort(head - head.max())[::-1]
    wanted = round(float(np.exp(rng.uniform(0.0, np.log(min(_LARGEST_NUCLEUS, size // 2))))))
    low, high = 0.05, 40.0
    for _ in range(25):
        middle = 0.5 * (low + high)
        mass = np.cumsum(np.exp(middle * head))
        # Of the head's mass, what is 95 % of all of it.
        is_wide = np.searchsorted(mass, 0.95 / 0.98 * mass[-1]) >= wanted
        low, high = (middle, high) if is_wide else (low, middle)
    head *= high
    bulk_mass = float(np.exp(bulk, dtype=np.float64).sum())
    bulk += np.float32(np.log(np.exp(head).sum() * 0.02 / bulk_mass))
    bulk[rng.choice(vocabulary, size, replace=False)] = head
    return bulk + np.float32(18.0)


def _peaked(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """One token with all but 1e-5 of the mass."""
    row = rng.standard_normal(vocabulary, dtype=np.float32)
    row[rng.integers(vocabulary)] = 25.0
    return row


def _flat(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """Normal with a standard deviation of 1/2: most of the vocabulary is in the nucleus."""
    return rng.standard_normal(vocabulary, dtype=np.float32) * np.float32(0.5)


def _ties(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """Multiples of 1/4, and thousands of tokens that share the largest score."""
    row = np.round(rng.standard_normal(vocabulary, dtype=np.float32) * 4) / np.float32(4)
    row[rng.choice(vocabulary, min(5000, vocabulary // 4), replace=False)] = 9.0
    return row


def _infs(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """An LM-like row with -inf in three places of four, at random; its best token stays."""
    row = _lm(rng, vocabulary, index)
    removed = rng.random(vocabulary) < 0.75
    removed[row.argmax()] = False
    row[removed] = -np.inf
    return row


def _huge(rng: np.random.Generator, vocabulary: int, index: int) -> NDArray[np.float32]:
    """LM-like, shifted or scaled beyond 1e6 in turn."""
    row = _lm(rng, vocabulary, index)
    return row * np.float32(1e6) if index % 2 else row + np.float32(4e6)


#: What each kind of row is made by. The last three are the adversarial ones.
KINDS: dict[str, Callable[[np.random.Generator, int, int], NDArray[np.float32]]] = {
    "lm": _lm,
    "peaked": _peaked,
    "flat": _flat,
    "ties": _ties,
    "infs": _infs,
    "huge": _huge,
}
ADVERSARIAL = ("ties", "infs", "huge")
