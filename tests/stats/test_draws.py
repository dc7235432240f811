"""χ² tests of the draws. Seeds are fixed; a right sampler fails a case with probability 1e-6, the file with < 1e-4."""

import numpy as np
import pytest
from scipy.stats import chi2

import optdecode as od

pytestmark = pytest.mark.statistical
LEVEL = 1e-6
DRAWS = 200_000
DECODERS = [
    od.softmax(1.3),
    od.top_p(0.9, temperature=2.0),
    od.sparsemax(4.0),
    od.entmax(1.5, temperature=3.0),
    od.best_of_k(8, beta=2.0, lam=1.0, weights="uniform"),
    od.best_of_k(8, beta_bar=4.0, lam=0.0),
]


@pytest.fixture(scope="module")
def row():
    return np.random.default_rng(11).normal(size=60) * 1.5


def assert_law(tokens, q):
    """Accept unless Pearson's statistic over cells of expectation >= 10 lies beyond the 1 - LEVEL quantile."""
    counts, expected = np.bincount(tokens, minlength=q.size).astype(float), tokens.size * q
    assert not counts[q == 0].any()
    small = expected < 10
    cells = np.append(expected[~small], expected[small].sum())
    seen = np.append(counts[~small], counts[small].sum())
    cells, seen = cells[cells > 0], seen[cells > 0]
    statistic = ((seen - cells) ** 2 / cells).sum()
    assert statistic < chi2.ppf(1 - LEVEL, cells.size - 1), statistic


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestLaw:
    def test_along_n(self, decoder, row):
        assert_law(decoder.sample(row, seed=1, n=DRAWS).tokens, decoder(row).probs)

    def test_along_seeds(self, decoder, row):
        rows = np.broadcast_to(row, (DRAWS // 4, row.size))
        assert_law(decoder.sample(rows, seed=np.arange(DRAWS // 4)).tokens.ravel(), decoder(row).probs)

    def test_along_derived_seeds(self, decoder, row):
        rows = np.broadcast_to(row, (DRAWS // 4, row.size))
        assert_law(decoder.sample(rows, seed=12345).tokens.ravel(), decoder(row).probs)

    def test_along_positions(self, decoder, row):
        rows = np.broadcast_to(row, (DRAWS // 4, row.size))
        draw = decoder.sample(rows, seed=np.full(DRAWS // 4, 9), position=np.arange(DRAWS // 4))
        assert_law(draw.tokens.ravel(), decoder(row).probs)

    @pytest.mark.parametrize("along", ["seed", "position"])
    def test_each_systematic_index(self, decoder, row, along):
        count, n = DRAWS // 8, 4
        rows = np.broadcast_to(row, (count, row.size))
        arguments = {"seed": np.full(count, 9), "position": 0, along: np.arange(count)}
        tokens = decoder.sample(rows, n=n, coupling="systematic", **arguments).tokens
        for index in range(n):
            assert_law(tokens[:, index], decoder(row).probs)


def test_draws_of_one_row_are_independent(row):
    """Pairs (draw 0, draw 1) along seeds follow the product law."""
    decoder, count = od.top_k(6, temperature=3.0), 100_000
    rows = np.broadcast_to(row, (count, row.size))
    tokens = decoder.sample(rows, seed=np.arange(count), n=2).tokens
    q = decoder(row).probs
    assert_law(tokens[:, 0] * row.size + tokens[:, 1], np.outer(q, q).ravel())


def test_the_test_can_fail(row):
    q = od.softmax(1.3)(row).probs
    tokens = od.softmax(1.33).sample(row, seed=1, n=DRAWS).tokens
    with pytest.raises(AssertionError):
        assert_law(tokens, q)


def test_systematic_inclusion(row):
    """Token v appears with probability min(1, n q_v), within 5 standard errors for every token."""
    decoder, count, n = od.softmax(1.3), 40_000, 8
    rows = np.broadcast_to(row, (count, row.size))
    tokens = decoder.sample(rows, seed=np.arange(count), n=n, coupling="systematic").tokens
    hits = np.zeros((count, row.size), dtype=bool)
    np.put_along_axis(hits, tokens, True, axis=1)
    expected = np.minimum(1.0, n * decoder(row).probs)
    error = np.sqrt(expected * (1 - expected) / count)
    assert np.all(np.abs(hits.mean(axis=0) - expected) <= 5 * error + 1e-12)
