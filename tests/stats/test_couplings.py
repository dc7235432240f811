"""The laws of coupled draws.

Seeds are fixed; a right sampler fails a comparison with probability 1e-6, and the file with less than 1e-3.
"""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import ks_2samp

import optdecode as od
from laws import LEVEL, assert_law, assert_means, assert_rates
from rows import make_row

pytestmark = pytest.mark.statistical

ROWS = {
    f"{name} {size}": row
    for size in (5, 60, 1000)
    for name, row in (
        ("flat", 0.3 * make_row("gaussian", size, seed=1)),
        ("peaked", np.linspace(0.0, -3.0, size) + 4.0 * (np.arange(size) == size // 2)),
        ("lm", make_row("lm", size, seed=2)),
    )
}


def draws(row, count, n, coupling, decoder=None, seed=0, dtype="float64"):
    """n coupled draws of one row, under `count` seeds."""
    rows = np.broadcast_to(row.astype(dtype), (count, row.size))
    decoder = decoder or od.softmax()
    return decoder.sample(rows, seed=np.arange(count) + seed, n=n, coupling=coupling, on_failure="mark")


@pytest.mark.parametrize("name", ROWS)
class TestSystematic:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_each_index_alone_has_law_q(self, name, dtype):
        row, n = ROWS[name], 7
        tokens = draws(row, 30_000, n, "systematic", dtype=dtype).tokens
        for index in range(n):
            assert_law(tokens[:, index], od.softmax()(row).probs)

    @pytest.mark.parametrize("n", [2, 8, 100])
    def test_a_token_is_hit_with_probability_min_1_n_q(self, name, n):
        row, count = ROWS[name], 20_000
        tokens = draws(row, count, n, "systematic").tokens
        hit = np.zeros((count, row.size), dtype=bool)
        np.put_along_axis(hit, tokens, True, axis=1)
        assert_rates(hit.mean(axis=0), np.minimum(1.0, n * od.softmax()(row).probs), count)


# ------------------------------------------------------------------------------------------------------- gumbel_topk


def plackett_luce(q, n):
    """Probability of every ordered n-tuple of distinct tokens, drawn without replacement."""
    law = np.zeros([q.size] * n)
    for order in permutations(range(q.size), n):
        left, law[order] = 1.0, 1.0
        for token in order:
            law[order] *= q[token] / left
            left -= q[token]
    return law.clip(0.0)


FIVE = np.array([1.0, 0.2, -0.3, -1.5, 2.0])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_orders_are_those_of_draws_without_replacement(n):
    tokens = draws(FIVE, 60_000, n, "gumbel_topk").tokens
    law = plackett_luce(od.softmax()(FIVE).probs, n)
    assert law.sum() == pytest.approx(1.0)
    assert_law(np.ravel_multi_index(tuple(tokens.T), law.shape), law.ravel())


def test_sets_are_those_of_draws_without_replacement():
    tokens = draws(FIVE, 60_000, 3, "gumbel_topk", seed=10**6).tokens
    law = plackett_luce(od.softmax()(FIVE).probs, 3)
    of_sets = np.zeros(32)
    for order in np.ndindex(law.shape):
        of_sets[sum(1 << token for token in set(order))] += law[order]
    assert_law((1 << tokens).sum(axis=1), of_sets)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_first_has_law_q(name, dtype):
    tokens = draws(ROWS[name], 50_000, 2, "gumbel_topk", dtype=dtype).tokens
    assert_law(tokens[:, 0], od.softmax()(ROWS[name]).probs)


@pytest.mark.parametrize(
    ("size", "height", "dtype"),
    [(5, 60.0, "float64"), (1000, 60.0, "float32"), (1000, 47.0, "float64"), (1000, 41.0, "float32")],
)
def test_what_is_left_of_one_sure_token_has_its_own_law(size, height, dtype):
    """The second is drawn from the others as if there were no first: where they have no integer mass, or hardly any."""
    row = make_row("gaussian", size, seed=3)
    row[1] = height
    tokens = draws(row, 40_000, 2, "gumbel_topk", dtype=dtype).tokens
    assert (tokens[:, 0] == 1).all()
    row[1] = -np.inf
    assert_law(tokens[:, 1], od.softmax()(row).probs)


def test_late_draws_of_many_have_the_law_of_what_is_left():
    """Draws 1,100 to 1,200 of 1,200, of 10 kinds of 120 tokens: past the point where what is left is laid out anew."""
    kinds, n = np.repeat(np.arange(10), 120), 1200
    tokens = draws(np.log1p(kinds), 200, n, "gumbel_topk").tokens
    assert (np.sort(tokens, axis=1) == np.arange(n)).all()
    weights = 1.0 + np.arange(10)
    scores, expected = [], []
    for draw in kinds[tokens]:
        left = np.full(10, 120)
        for place, kind in enumerate(draw):
            if place >= 1100 and (left > 0).sum() > 1:
                law = weights * left / (weights * left).sum()
                scores.append(weights[kind])
                expected.append(law @ weights)
            left[kind] -= 1
    assert_means(np.array(scores) - expected, 0.0)


@pytest.mark.parametrize(
    ("name", "n"), [("flat 5", 2), ("peaked 5", 3), ("lm 60", 8), ("peaked 60", 20), ("lm 1000", 8)]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_estimator_is_unbiased(name, n, dtype):
    """Sum of f q / inclusion over what is drawn has mean E f; for f the sign of a token, and for indicators."""
    row, count = ROWS[name], 40_000
    draw = draws(row, count, n, "gumbel_topk", dtype=dtype)
    q = od.softmax()(row).probs
    weights = np.exp(draw.log_probs.astype(np.float64) - draw.log_inclusion)
    f = np.random.default_rng(0).normal(size=row.size)
    assert_means((f[draw.tokens] * weights).sum(axis=1), float(f @ q))
    assert_means(weights.sum(axis=1), 1.0)
    share, other = np.zeros((count, row.size)), np.zeros((count, row.size))
    np.put_along_axis(share, draw.tokens, weights, axis=1)
    # Tokens that are now drawn and now not, by draws of their own: rarer events have no normal error in so many rows.
    np.put_along_axis(other, draws(row, count, n, "gumbel_topk", dtype=dtype, seed=10**7).tokens, 1.0, axis=1)
    both = (other.mean(axis=0) > 0.01) & (other.mean(axis=0) < 0.99)
    assert both.any()
    assert_means(share[:, both], q[both])


def test_the_estimator_is_unbiased_beside_a_sure_token():
    """f is 1e22 times larger on the others."""
    row = make_row("gaussian", 40, seed=4)
    row[1] = 52.0
    draw = draws(row, 40_000, 4, "gumbel_topk")
    assert (draw.tokens[:, 0] == 1).all()
    q = od.softmax()(row).probs
    f = np.random.default_rng(1).uniform(size=row.size) / (1 - q[1] if q[1] < 1 else q[np.arange(40) != 1].sum())
    f[1] = 0.0
    weights = np.exp(draw.log_probs - draw.log_inclusion)
    assert_means((f[draw.tokens] * weights).sum(axis=1), float(f @ q))


@pytest.mark.parametrize("n", [1, 3])
def test_the_next_value_has_the_law_of_perturbed_log_probabilities(n):
    """kappa, from log_inclusion, against V Gumbels a row and a sort; with the order of the tokens beside it."""
    count, q = 40_000, od.softmax()(FIVE).probs
    draw = draws(FIVE, count, n, "gumbel_topk")
    # An inclusion of nearly 1 does not say kappa: that of the least probable token does.
    least = np.arange(count), draw.log_probs.argmin(axis=1)
    kappa = draw.log_probs[least] - np.log(-np.log1p(-np.exp(draw.log_inclusion[least])))
    perturbed = np.log(q) + np.random.default_rng(5).gumbel(size=(count, 5))
    expected = np.sort(perturbed, axis=1)[:, -1 - n]
    for first in range(5):
        mine, naive = draw.tokens[:, 0] == first, perturbed.argmax(axis=1) == first
        assert ks_2samp(kappa[mine], expected[naive]).pvalue > LEVEL
    inclusion = -np.expm1(-np.exp(draw.log_probs - kappa[:, None]))  # one kappa a row
    np.testing.assert_allclose(np.exp(draw.log_inclusion), inclusion, rtol=1e-9)


# -------------------------------------------------------------------------------------------------- arithmetic codes

EOS, STEPS, WIDTH = 0, 4, 4


def toy_logits(prefixes):
    """A model of 3 words and EOS whose logits depend on all tokens so far."""
    return np.stack([np.random.default_rng([9, *prefix]).normal(size=WIDTH) * 1.5 for prefix in prefixes])


def toy_law(decoder):
    """Every sequence of the toy model that ends, or is cut, with its probability."""
    law, grown = {}, {(): 1.0}
    for _ in range(STEPS):
        longer = {}
        for prefix, mass in grown.items():
            for token, q in enumerate(decoder(toy_logits([prefix])).probs[0]):
                (law if token == EOS else longer)[(*prefix, token)] = mass * q
        grown = longer
    law.update(grown)
    return {sequence: mass for sequence, mass in law.items() if mass > 0}


def generate(decoder, codes, table):
    """The sequences of one group, ended ones dropped from the batch as they end."""
    sequences = [()] * len(codes)
    live = np.arange(len(codes))
    for _ in range(STEPS):
        logits = np.stack([table[sequences[i]] for i in live])
        tokens = decoder.sample(logits, coupling=codes.take(live)).tokens.ravel()
        for i, token in zip(live, tokens.tolist(), strict=True):
            sequences[i] += (token,)
        live = live[tokens != EOS]
        if not live.size:
            break
    return sequences


@pytest.mark.parametrize("decoder", [od.softmax(), od.sparsemax(3.0)], ids=repr)
def test_sequences_have_the_law_of_the_model_and_cover_it(decoder):
    n, count = 5, 6_000
    law = toy_law(decoder)
    index = {sequence: i for i, sequence in enumerate(law)}
    mass = np.array(list(law.values()))
    assert mass.sum() == pytest.approx(1.0)
    prefixes = {sequence[:length] for sequence in law for length in range(len(sequence))}
    table = {prefix: toy_logits([prefix])[0] for prefix in prefixes}
    found = np.array(
        [[index[s] for s in generate(decoder, od.ArithmeticCodes(n, seed), table)] for seed in range(count)]
    )
    for i in range(n):
        assert_law(found[:, i], mass)
    hit = np.zeros((count, mass.size), dtype=bool)
    np.put_along_axis(hit, found, True, axis=1)
    assert_rates(hit.mean(axis=0), np.minimum(1.0, n * mass), count)


@pytest.mark.parametrize("row", [np.array([0.5, -0.5, 1.5, -2.0]), np.zeros(4)], ids=["any", "powers of two"])
def test_long_sequences_do_not_run_out_of_bits(row):
    """2,000 tokens of 1.5 or 2 bits: late tokens, and pairs and triples of them, have the law of independent draws."""
    n, groups, steps, late = 6, 6, 2_000, 1_500
    q = od.softmax()(row).probs
    rows = np.tile(row, (n, 1))
    tokens = np.empty((groups, steps, n), dtype=np.int64)
    for group in range(groups):
        codes = od.ArithmeticCodes(n, seed=group)
        for step in range(steps):
            tokens[group, step] = od.softmax().sample(rows, coupling=codes).tokens.ravel()
        assert (codes.steps == steps).all()
    found = tokens[:, late:]
    for i in range(n):
        assert_law(found[..., i].ravel(), q)
    assert_law(found.ravel(), q)
    triples = (found[:, :-2] * 16 + found[:, 1:-1] * 4 + found[:, 2:])[:, ::3]
    assert_law(triples.ravel(), np.einsum("i,j,k->ijk", q, q, q).ravel())
    # Sequences that parted long ago are independent.
    pairs = found[..., 0] * 4 + found[..., 1]
    assert_law(pairs.ravel(), np.outer(q, q).ravel())


def test_codes_are_uniform_after_tokens_of_any_size():
    """Rows of tiny and of nearly sure tokens in turn; codes by 64 cells, and by their 6 lowest bits."""
    n, groups = 4, 2_000
    rare, sure = np.array([0.0, -12.0, -30.0]), np.array([0.0, 12.0])
    rows = [np.tile(row, (n, 1)) for row in (np.zeros(16), np.pad(rare, (0, 900), constant_values=-8.0), sure)]
    codes_after = []
    for seed in range(groups):
        codes = od.ArithmeticCodes(n, seed)
        for logits in rows:
            od.softmax().sample(logits, coupling=codes)
        codes_after.append(codes.codes)
    for index in range(n):
        codes = np.array(codes_after)[:, index]
        uniform = np.full(64, 1 / 64)
        assert_law((codes >> np.uint64(58)).astype(np.int64), uniform)
        assert_law((codes & np.uint64(63)).astype(np.int64), uniform)
