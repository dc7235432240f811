"""χ² tests of the draws. Seeds are fixed; a right sampler fails a case with probability 1e-6, the file with < 1e-4."""

import numpy as np
import pytest

import optdecode as od
from laws import assert_law

pytestmark = pytest.mark.statistical
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
