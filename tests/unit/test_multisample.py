"""Votes and estimators against brute force."""

from itertools import combinations

import numpy as np
import pytest

from optdecode.errors import ProblemError
from optdecode.multisample import bootstrap_ci, pass_at_k, vote


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 1), (6, 3), (6, 6)])
def test_pass_at_k_equals_enumeration(n, c):
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        expected = np.mean([any(subset) for subset in combinations(right, k)])
        assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_vectorises_and_marks_short_rows():
    np.testing.assert_allclose(pass_at_k([4, 4, 1], [1, 4, 1], 2), [0.5, 1.0, np.nan])
    with pytest.raises(ProblemError):
        pass_at_k(3, 4, 1)


def test_vote():
    result = vote([3, 7, None, 7], log_probs=[-1.0, -9.0, 0.0, -2.0])
    assert (result.answer, result.index, result.margin, result.n_valid) == (7, 3, 1, 3)
    assert vote([3, 7], log_probs=[-2.0, -1.0]).answer == 7
    assert vote([3, 7]).answer == 3
    assert vote([None, None]).index == -1
    with pytest.raises(ProblemError):
        vote([1, 2], log_probs=[0.0])


def test_bootstrap_interval_covers_its_mean_and_shrinks():
    rng = np.random.default_rng(0)
    small, large = (rng.random(size) < 0.5 for size in (50, 5000))
    low, high = bootstrap_ci(small)
    assert low < small.mean() < high
    assert np.ptp(bootstrap_ci(large)) < 0.2 * (high - low)
    assert bootstrap_ci(small) == (low, high)
