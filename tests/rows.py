"""Named rows of logits that break naive solvers; shared by the oracle, parity and property tests.

Import as ``from rows import make_row, ROW_KINDS`` (the ``tests`` directory is on the path).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _lm_like(rng: np.random.Generator, size: int) -> Array:
    """A few peaked candidates over a Zipf-like bulk, as next-token logits look."""
    x = 14.0 - 1.1 * np.log1p(np.arange(size)) + 0.5 * rng.standard_normal(size)
    x[: min(4, size)] += rng.uniform(0.0, 4.0, min(4, size))
    return rng.permutation(x)


def _one_hot(rng: np.random.Generator, size: int) -> Array:
    x = np.zeros(size)
    x[rng.integers(size)] = 60.0
    return x


def _minus_inf(rng: np.random.Generator, size: int) -> Array:
    x = 3.0 * rng.standard_normal(size)
    x[rng.random(size) < 0.6] = -np.inf
    x[rng.integers(size)] = 0.5
    return x


def _huge(rng: np.random.Generator, size: int) -> Array:
    return np.where(rng.random(size) < 0.3, 1e30, -1e30) * np.where(rng.random(size) < 0.5, 1.0, 0.5)


_MAKERS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "gaussian": lambda rng, size: 2.0 * rng.standard_normal(size),
    "cauchy": lambda rng, size: rng.standard_cauchy(size),
    "tied": lambda rng, size: rng.integers(-2, 3, size).astype(np.float64),
    "one_hot": _one_hot,
    "all_equal": lambda rng, size: np.full(size, -3.25),
    "minus_inf": _minus_inf,
    "denormal": lambda rng, size: rng.integers(-5, 6, size) * 5e-324,
    "huge": _huge,
    "lm": _lm_like,
}

#: The names that `make_row` knows.
ROW_KINDS = tuple(_MAKERS)


def make_row(kind: str, size: int, dtype: str = "float64", seed: int = 0) -> npt.NDArray[np.generic]:
    """Return one row of logits.

    Parameters
    ----------
    kind : str
        One of `ROW_KINDS`.
    size : int
        V.
    dtype : {"float64", "float32", "float16"}
        ``"huge"`` shrinks to half the largest finite value where 1e30 does not fit; ``"denormal"`` takes the smallest
        denormals of the type.
    seed : int
        Equal arguments give equal rows.

    Returns
    -------
    ndarray, shape (size,)
        At least one entry is finite; none is NaN or +inf.
    """
    rng = np.random.default_rng([seed, size, ROW_KINDS.index(kind)])
    row = _MAKERS[kind](rng, size)
    info = np.finfo(dtype)
    if kind == "huge":
        row = row * min(1.0, 0.5 * float(info.max) / 1e30)
    if kind == "denormal":
        row = np.sign(row) * np.round(np.abs(row) / 5e-324) * float(info.smallest_subnormal)
    with np.errstate(over="ignore"):
        return np.clip(row, -np.inf, float(info.max)).astype(dtype)


def make_rows(size: int, dtype: str = "float64", seed: int = 0) -> npt.NDArray[np.generic]:
    """Return one row of every kind, shape (len(ROW_KINDS), size), in the order of `ROW_KINDS`."""
    return np.stack([make_row(kind, size, dtype, seed) for kind in ROW_KINDS])
