"""Tests of the law of draws, shared by the statistical tests: ``from laws import assert_law``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm

#: The probability with which a right sampler fails one comparison.
LEVEL = 1e-6


def assert_law(tokens: npt.NDArray[np.int64], q: npt.NDArray[np.float64], level: float = LEVEL) -> None:
    """Accept unless Pearson's statistic over cells of expectation >= 10 lies beyond the 1 - level quantile."""
    counts, expected = np.bincount(tokens, minlength=q.size).astype(float), tokens.size * q
    assert not counts[q == 0].any()
    small = expected < 10
    cells = np.append(expected[~small], expected[small].sum())
    seen = np.append(counts[~small], counts[small].sum())
    cells, seen = cells[cells > 0], seen[cells > 0]
    statistic = ((seen - cells) ** 2 / cells).sum()
    assert cells.size > 1, "one cell has no law to test"
    assert statistic < chi2.ppf(1 - level, cells.size - 1), statistic


def assert_rates(rates: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], count: int) -> None:
    """Accept unless one of the rates over `count` trials is beyond its two-sided quantile, Bonferroni over all of them.

    A rate that is expected to be 0 or 1 must be; the normal approximation gets an allowance of two trials.
    """
    sigmas = norm.isf(LEVEL / (2 * rates.size))
    sure = (expected < 1e-12) | (expected > 1 - 1e-12)
    slack = np.where(sure, 0.0, sigmas * np.sqrt(expected * (1 - expected) / count) + 2 / count)
    far = np.abs(rates - expected) > slack + 1e-12
    assert not far.any(), (np.flatnonzero(far), rates[far], expected[far])


def assert_means(samples: npt.NDArray[np.float64], expected: npt.NDArray[np.float64] | float) -> None:
    """Accept unless a mean over axis 0 is beyond its two-sided quantile, Bonferroni over them, errors estimated."""
    sigmas = norm.isf(LEVEL / (2 * max(1, np.size(expected))))
    mean, error = samples.mean(axis=0), samples.std(axis=0) / np.sqrt(len(samples))
    far = np.abs(mean - expected) > sigmas * error
    assert not np.any(far), (np.flatnonzero(far), mean, expected, error)
