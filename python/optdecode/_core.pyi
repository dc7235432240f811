"""The compiled core of optdecode: rows of logits in CPU memory, solved and drawn.

Arrays are NumPy's, rows first: B rows of V tokens, native-endian, the last axis contiguous. Nothing is copied, and an
array must not be written to while a call reads it. Wrong numbers and shapes raise ValueError, wrong types and layouts
TypeError.
"""

from typing import TypeAlias, TypedDict, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Plan",
    "build_info",
    "first_codes",
    "forget_pools",
    "log_probs_in_place",
    "model_log_probs",
    "num_threads",
    "philox4x32_10",
    "row_seeds",
    "sample",
    "sample_codes",
    "sample_plain",
    "set_num_threads",
    "solve",
    "time_draws",
    "time_row_max",
    "time_solve",
]

_Logits: TypeAlias = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.uint16]
_Mask: TypeAlias = NDArray[np.bool_] | NDArray[np.uint32]
_Probs: TypeAlias = NDArray[np.float64] | NDArray[np.float32]

class _BuildInfo(TypedDict):
    version: str
    profile: str
    level: str
    levels: list[str]
    threads: int | str
    target: str

@final
class Plan:
    """One distribution problem with its parameters, checked and immutable."""

    def __new__(
        cls,
        kind: str,
        *,
        temperature: float,
        score_weight: float,
        raw_scores: bool,
        lam: float,
        alpha: float,
        beta_bar: float,
        budget: int,
        weights: str,
        weight_values: NDArray[np.float64] | None,
        weight_supports: list[tuple[str, float, bool]],
        anchor: str,
        steps: int,
        eta: float | None,
        tolerance: float | None,
        terms: list[tuple[str, float, float, str]],
        price: float,
        cap: float,
        target: tuple[str, float] | None,
        supports: list[tuple[str, float, bool]],
        chains: list[list[tuple[str, float, bool]]],
        allowed: NDArray[np.uint32] | None,
    ) -> Plan:
        """Check and store the parameters; those that the kind does not have are ignored."""

def model_log_probs(
    plans: list[Plan],
    logits: _Logits,
    dtype: str,
    mask: _Mask | None,
    anchor: NDArray[np.float64] | None,
    tokens: NDArray[np.int64],
    m: int,
    threads: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Log p of tokens (B, n); and the m best tokens (B, m) in order, and log p of these.

    Without a distribution they are NaN and -1; past the allowed tokens -1 and -inf. Plans are one for all rows,
    or one a row.
    """

def log_probs_in_place(
    plans: list[Plan],
    logits: NDArray[np.float32],
    mask: _Mask | None,
    threads: int,
) -> NDArray[np.uint8]:
    """Replace every row (B, V) of logits by log q of its plan; a status a row.

    A row without a distribution is left as it was. Plans are one a row, and take no given anchor.
    """

def solve(
    plan: Plan,
    logits: _Logits,
    dtype: str,
    mask: _Mask | None,
    anchor: NDArray[np.float64] | None,
    weights: NDArray[np.float64] | None,
    budget: NDArray[np.uint32] | None,
    threads: int,
) -> tuple[
    _Probs,
    _Probs,
    NDArray[np.bool_],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.uint32],
    NDArray[np.uint8],
]:
    """Solve every row.

    (log_probs, probs, face, threshold, objective, entropy, kl, kept_mass, multiplier, iterations, status).
    """

def sample(
    plans: list[Plan],
    logits: _Logits,
    dtype: str,
    mask: _Mask | None,
    anchor: NDArray[np.float64] | None,
    weights: NDArray[np.float64] | None,
    budget: NDArray[np.uint32] | None,
    seeds: NDArray[np.uint64],
    positions: NDArray[np.uint64],
    n: int,
    coupling: str,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8], NDArray[np.float64] | None]:
    """Draw n tokens from every row: (tokens, log_probs, status, log_inclusion).

    Plans are one for all rows, or one a row. Couplings are "iid", "systematic" and "gumbel_topk", which alone has
    log_inclusion (B, n).
    """

def sample_codes(
    plans: list[Plan],
    logits: _Logits,
    dtype: str,
    mask: _Mask | None,
    anchor: NDArray[np.float64] | None,
    weights: NDArray[np.float64] | None,
    budget: NDArray[np.uint32] | None,
    seed: int,
    sequences: NDArray[np.uint32],
    codes: NDArray[np.uint64],
    steps: NDArray[np.uint64],
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
    """Draw one token from every row by the code of its sequence: (tokens, log_probs, status, codes, steps), all (B,).

    Codes and steps are what the given ones become; a row without a distribution leaves its own.
    """

def first_codes(seed: int, n: int) -> NDArray[np.uint64]:
    """The codes that n sequences start with: the uniforms of n systematic draws at position 0."""

def sample_plain(
    plans: Plan | list[Plan],
    logits: object,
    seed: object,
    position: object,
    n: object,
    coupling: object,
    threads: object,
) -> (
    tuple[NDArray[np.int64], NDArray[np.float32] | NDArray[np.float64], int, bool]
    | tuple[NDArray[np.int64], NDArray[np.float32] | NDArray[np.float64], NDArray[np.int64], bool]
    | None
):
    """Draw as `sample` does, from arguments as callers have them; None if one is not plain, or wrong.

    Plain are logits (V,) or (B, V), contiguous float16, float32 or float64; seed and position as an int, a list of int,
    or a contiguous uint64 or int64 array (B,); n as an int; coupling "iid" or "systematic"; threads as an int or None;
    one plan, or a list with one for each row of (B, V). An int seed stands for `row_seeds`.

    Returns (tokens, log_probs, status, solved): (n,), (n,) and an int of (V,), else (B, n), (B, n) and (B,); log_probs
    are float64 of float64 logits and else float32; solved says whether every row has a distribution.
    """

def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four words of counter and two of key to four words of output."""

def row_seeds(seed: int, n: int) -> NDArray[np.uint64]:
    """The seeds of n rows that one seed stands for; the first is the seed itself."""

def time_draws(
    plan: Plan, logits: _Logits, dtype: str, start: int, count: int, batch: int, threads: int
) -> NDArray[np.uint64]:
    """Time draws of one token a row: nanoseconds of count batches, which go round the rows from row start on."""

def time_solve(
    plan: Plan, logits: _Logits, dtype: str, start: int, count: int, batch: int, threads: int
) -> NDArray[np.uint64]:
    """Time whole distributions, of which nothing but the probabilities is written; the rest is as in time_draws."""

def time_row_max(logits: _Logits, dtype: str, start: int, count: int, batch: int, threads: int) -> NDArray[np.uint64]:
    """Time the largest score of a row, which is the cost of reading it; the rest is as in time_draws."""

def set_num_threads(n: int) -> None:
    """Set how many threads a call with ``threads=0`` may use, at least 1."""

def forget_pools() -> None:
    """Leave every thread pool behind, unused and undropped; for a child after a fork."""

def num_threads() -> int:
    """How many threads a call with ``threads=0`` may use."""

def build_info() -> _BuildInfo:
    """Version, build profile, instruction set in use, threads and target of this build.

    Bad environment variables do not raise here: what is wrong with them stands in place of what they set.
    """
