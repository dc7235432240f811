"""Votes and estimators against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optdecode as od
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


class TestPrefixGroups:
    def test_counts_equal_prefixes(self):
        ids = [[1, 2, 3], [1, 2, 9], [1, 5, 3], [1, 2, 3]]
        assert od.prefix_groups(ids, 3).tolist() == [2, 1, 1, 2]
        assert od.prefix_groups(ids, 2).tolist() == [3, 3, 1, 3]
        assert od.prefix_groups(ids, 0).tolist() == [4, 4, 4, 4]
        assert od.prefix_groups(ids, 3, [True, True, True, False]).tolist() == [1, 1, 1, 0]

    def test_lengths_tell_padding_from_tokens(self):
        ids = [[4, 0], [4, 0], [4, 7]]
        assert od.prefix_groups(ids, [1, 2, 1]).tolist() == [2, 1, 2]

    @given(st.integers(0, 7), st.integers(0, 4), st.randoms(use_true_random=False))
    def test_against_the_definition(self, n, width, random):
        ids = np.array([[random.randrange(2) for _ in range(width)] for _ in range(n)], dtype=np.int64).reshape(
            n, width
        )
        lengths = np.array([random.randint(0, width) for _ in range(n)], dtype=np.int64)
        live = np.array([random.random() < 0.7 for _ in range(n)], dtype=bool)
        prefixes = [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)]
        expected = [
            sum(other == mine and alive for other, alive in zip(prefixes, live, strict=True)) if lives else 0
            for mine, lives in zip(prefixes, live, strict=True)
        ]
        assert od.prefix_groups(ids, lengths, live).tolist() == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([1, 2], 1), "token_ids must be"),
            (([[1, 2]], 3), r"lengths must be in \[0, 2\]"),
            (([[1, 2]], [1, 1]), "must have shape"),
            (([[1, 2]], 1, [True, True]), "must have shape"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(od.ProblemError, match=message):
            od.prefix_groups(*arguments)
