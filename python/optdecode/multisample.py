"""Many samples of one prompt: votes, estimators over k, confidence intervals. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optdecode.errors import ProblemError


@dataclass(frozen=True)
class VoteResult:
    """Outcome of a majority vote.

    Attributes
    ----------
    answer : hashable or None
        The winning answer; None if every vote was invalid.
    index : int
        The sample that stands for it: the winner's most probable one (the first, without log-probabilities);
        −1 if none.
    counts : dict
        Votes by answer, in order of first appearance.
    margin : int
        Votes of the winner less those of the runner-up.
    n_valid : int
        Votes counted.
    """

    answer: Hashable | None
    index: int
    counts: dict[Hashable, int]
    margin: int
    n_valid: int


def vote(answers: Sequence[Hashable | None], log_probs: Any = None) -> VoteResult:
    """Majority vote over the answers of one problem; None is an invalid answer and does not vote.

    Parameters
    ----------
    answers : sequence of hashable or None, length n
        One a sample.
    log_probs : array_like, shape (n,), optional
        Log-probability of each sample; breaks ties (larger best member wins) and picks the representative. Without
        them the earlier answer wins.

    Returns
    -------
    VoteResult
        Winner, representative and counts.

    Examples
    --------
    >>> vote([7, 3, 7, None]).answer
    7
    """
    scores = np.zeros(len(answers)) if log_probs is None else np.asarray(log_probs, dtype=np.float64)
    if scores.shape != (len(answers),):
        raise ProblemError(f"vote: log_probs must have shape ({len(answers)},), one an answer; got {scores.shape}")
    counts: dict[Hashable, int] = {}
    best: dict[Hashable, int] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        counts[answer] = counts.get(answer, 0) + 1
        if answer not in best or scores[index] > scores[best[answer]]:
            best[answer] = index
    if not counts:
        return VoteResult(None, -1, counts, 0, 0)
    ranked = sorted(counts, key=lambda answer: (-counts[answer], -scores[best[answer]], best[answer]))
    runner_up = counts[ranked[1]] if len(ranked) > 1 else 0
    return VoteResult(ranked[0], best[ranked[0]], counts, counts[ranked[0]] - runner_up, sum(counts.values()))


def pass_at_k(n: Any, c: Any, k: int) -> Any:
    r"""Unbiased estimate of the probability that at least one of k samples is right (arXiv:2107.03374).

    :math:`1 - \binom{n-c}{k} / \binom{n}{k}`, from n independent samples of which c are right.

    Parameters
    ----------
    n, c : array_like of int, any common shape
        Samples drawn, samples right.
    k : int
        At least 1.

    Returns
    -------
    float64 array
        NaN where n < k.

    Examples
    --------
    >>> float(pass_at_k(4, 1, 2))
    0.5
    """
    drawn, right = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k < 1 or np.any(right > drawn) or np.any(right < 0):
        raise ProblemError(f"pass_at_k: needs k >= 1 and 0 <= c <= n; got k={k}")
    steps = np.arange(k)
    factors = np.clip((drawn - right)[..., None] - steps, 0.0, None) / np.maximum(drawn[..., None] - steps, 1.0)
    return np.where(drawn >= k, 1.0 - np.prod(factors, axis=-1), np.nan)[()]


def prefix_groups(token_ids: Any, lengths: Any, live: Any = None) -> Any:
    """Count, for each live sequence, the live ones that have the same tokens so far: its budget in Best-of-K.

    Parameters
    ----------
    token_ids : integer array, shape (n, T)
        The sequences, padded on the right with anything.
    lengths : int or integer array of shape (n,)
        Tokens of each sequence.
    live : bool array, shape (n,), optional
        Sequences that still grow; all by default.

    Returns
    -------
    int64 array, shape (n,)
        At least 1 for a live sequence, which counts itself; 0 for the others.

    Raises
    ------
    ProblemError
        The shapes do not fit, or a length is not in [0, T].

    Examples
    --------
    >>> prefix_groups([[5, 7, 0], [5, 7, 9], [5, 8, 0]], lengths=2)
    array([2, 2, 1])
    """
    ids = np.asarray(token_ids)
    if ids.ndim != 2:
        raise ProblemError(f"prefix_groups: token_ids must be (n, T); got {ids.shape}")
    count, longest = ids.shape
    alive = np.ones(count, dtype=bool) if live is None else np.asarray(live, dtype=bool)
    sizes = np.asarray(lengths)
    if sizes.shape not in ((), (count,)) or alive.shape != (count,):
        raise ProblemError(
            f"prefix_groups: lengths and live must have shape ({count},); got {sizes.shape} and {alive.shape}"
        )
    sizes = np.broadcast_to(sizes, (count,))
    if count and not 0 <= sizes.min() <= sizes.max() <= longest:
        raise ProblemError(f"prefix_groups: lengths must be in [0, {longest}]; got {sizes.min()}..{sizes.max()}")
    # A length tells apart what the padding could make look alike.
    prefixes = np.column_stack([sizes, np.where(np.arange(longest) < sizes[:, None], ids, 0)])
    group = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(count)
    members = np.bincount(group, weights=alive).astype(np.int64)
    return np.where(alive, members[group], 0)


def bootstrap_ci(values: Any, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, resampling problems (the independent units), not samples.

    Parameters
    ----------
    values : array_like, shape (problems,)
        One number a problem, such as its pass@k.
    level : float
        Confidence level in (0, 1).
    resamples, seed : int
        Number of bootstrap resamples and the seed of their generator.

    Returns
    -------
    tuple of float
        Lower and upper end.

    Examples
    --------
    >>> bootstrap_ci([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not 0 < level < 1:
        raise ProblemError(
            f"bootstrap_ci: values must be (problems,), not empty, 0 < level < 1; got {array.shape}, {level}"
        )
    rng = np.random.default_rng(seed)
    means = array[rng.integers(array.size, size=(resamples, array.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
