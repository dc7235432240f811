"""The draw is a pure function of (row, mask, anchor, decoder, seed, position, draw index)."""

import dataclasses
import pickle

import numpy as np
import pytest

import optdecode as od

DECODERS = [
    od.greedy(),
    od.softmax(0.8),
    od.top_k(5),
    od.top_p(0.9),
    od.sparsemax(3.0),
    od.entmax(1.5, temperature=2.0),
    od.best_of_k(8, beta=1.0, lam=1.0),
    od.best_of_k(8, beta_bar=4.0, lam=0.0),
    od.best_of_k(solver=od.MirrorAscent()),
]


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(3).normal(size=(7, 500)) * 2


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestPurity:
    def test_alone_and_in_any_batch(self, decoder, logits):
        seeds, positions = np.arange(7, dtype=np.uint64) + 10, np.arange(7) * 3
        whole = decoder.sample(logits, seed=seeds, position=positions, n=4)
        order = np.random.default_rng(0).permutation(7)
        shuffled = decoder.sample(logits[order], seed=seeds[order], position=positions[order], n=4)
        np.testing.assert_array_equal(shuffled.tokens, whole.tokens[order])
        for row in range(7):
            alone = decoder.sample(logits[row], seed=int(seeds[row]), position=int(positions[row]), n=4)
            np.testing.assert_array_equal(alone.tokens, whole.tokens[row])
            np.testing.assert_array_equal(alone.log_probs, whole.log_probs[row])

    def test_prefix_of_a_longer_iid_draw(self, decoder, logits):
        long = decoder.sample(logits, seed=5, n=9)
        for n in (1, 2, 5):
            np.testing.assert_array_equal(decoder.sample(logits, seed=5, n=n).tokens, long.tokens[:, :n])

    def test_threads(self, decoder, logits):
        big = np.tile(logits, (40, 8))
        one = decoder.sample(big, seed=1, n=2, threads=1)
        two = decoder.sample(big, seed=1, n=2, threads=2)
        np.testing.assert_array_equal(one.tokens, two.tokens)
        np.testing.assert_array_equal(one.log_probs, two.log_probs)

    def test_solution_draws_the_same(self, decoder, logits):
        solution = decoder(logits)
        for coupling in ("iid", "systematic"):
            drawn = solution.sample(seed=4, position=2, n=3, coupling=coupling)
            np.testing.assert_array_equal(
                drawn.tokens, decoder.sample(logits, seed=4, position=2, n=3, coupling=coupling).tokens
            )
            expected = np.take_along_axis(solution.log_probs, drawn.tokens, axis=1)
            np.testing.assert_allclose(drawn.log_probs, expected, rtol=1e-12, atol=1e-12)

    def test_reference_draws_the_same(self, decoder, logits):
        rust = decoder.sample(logits, seed=8, position=1, n=50)
        reference = decoder.sample(logits, seed=8, position=1, n=50, backend="reference")
        assert (rust.backend, reference.backend) == ("rust", "reference")
        np.testing.assert_array_equal(rust.tokens, reference.tokens)


def test_sample_batch_row_by_row(logits):
    decoders = DECODERS[:7]
    seeds, positions = np.arange(7) + 100, np.arange(7)
    draw = od.sample_batch(decoders, logits, seeds, positions, n=3)
    assert draw.tokens.shape == (7, 3)
    for row, decoder in enumerate(decoders):
        alone = decoder.sample(logits[row], seed=100 + row, position=row, n=3)
        np.testing.assert_array_equal(draw.tokens[row], alone.tokens)
    as_list = od.sample_batch(decoders, list(logits), seeds, positions, n=3)
    np.testing.assert_array_equal(as_list.tokens, draw.tokens)


def test_scalar_seed_stands_for_row_seeds(logits):
    seeds = od.row_seeds(42, 7)
    assert seeds[0] == 42
    assert seeds.dtype == np.uint64
    assert len(set(seeds.tolist())) == 7
    np.testing.assert_array_equal(od.row_seeds(42, 3), seeds[:3])
    scalar, array = (od.softmax(3.0).sample(logits, seed=seed, n=5).tokens for seed in (42, seeds))
    np.testing.assert_array_equal(scalar, array)
    equal_rows = od.softmax(3.0).sample(np.tile(logits[:1], (64, 1)), seed=42).tokens
    assert len(np.unique(equal_rows)) > 10


def test_fresh_entropy_differs(logits):
    draws = {tuple(od.softmax(3.0).sample(logits, n=8).tokens.ravel()) for _ in range(3)}
    assert len(draws) == 3


def test_seed_and_position_matter(logits):
    base = od.softmax(3.0).sample(logits, seed=1, position=0, n=16).tokens
    assert not np.array_equal(base, od.softmax(3.0).sample(logits, seed=2, position=0, n=16).tokens)
    assert not np.array_equal(base, od.softmax(3.0).sample(logits, seed=1, position=1, n=16).tokens)
    # both halves of the 64-bit position and seed are used
    assert not np.array_equal(base, od.softmax(3.0).sample(logits, seed=1, position=1 << 32, n=16).tokens)
    assert not np.array_equal(base, od.softmax(3.0).sample(logits, seed=1 + (1 << 32), position=0, n=16).tokens)


def test_systematic_hits_every_token_its_share(logits):
    n = 64
    solution = od.softmax(1.5)(logits)
    draw = solution.sample(seed=3, n=n, coupling="systematic")
    for row in range(7):
        counts = np.bincount(draw.tokens[row], minlength=500)
        assert np.all(np.abs(counts - n * solution.probs[row]) < 1 + 1e-9)


def test_batch_shapes(logits):
    draw = od.top_k(5).sample(logits[:6].reshape(2, 3, 500), seed=np.arange(6).reshape(2, 3), n=2)
    assert draw.tokens.shape == (2, 3, 2)
    assert draw.tokens.dtype == np.int64
    flat = od.top_k(5).sample(logits[:6], seed=np.arange(6), n=2)
    np.testing.assert_array_equal(draw.tokens.reshape(6, 2), flat.tokens)
    assert od.top_k(5).sample(logits[0], seed=0).tokens.shape == (1,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("decoder", [od.greedy(), od.top_k(5), od.softmax()], ids=repr)
def test_one_step_and_step_by_step_are_the_same(decoder, logits, dtype):
    # Rows that are strided are read and laid out in Python; contiguous ones go to the core as they are.
    rows = logits.astype(dtype)
    strided = np.repeat(rows, 2, axis=1)[:, ::2]
    for index in (0, slice(0, 1), slice(None)):
        draws = [decoder.sample(given[index], seed=11, position=2, n=3) for given in (rows, strided)]
        for one, other in zip(*(vars(draw).values() for draw in draws), strict=True):
            assert type(one) is type(other)
            assert np.shape(one) == np.shape(other)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
            np.testing.assert_array_equal(one, other)
    batches = [od.sample_batch([decoder] * 7, given, 5, range(7)) for given in (rows, strided)]
    np.testing.assert_array_equal(batches[0].tokens, batches[1].tokens)
    lists = od.sample_batch([decoder] * 7, rows, od.row_seeds(5, 7).tolist(), list(range(7)))
    np.testing.assert_array_equal(lists.tokens, batches[0].tokens)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_step_and_step_by_step_fail_the_same(logits, bad):
    logits = logits.copy()
    logits[1:6] = bad
    strided = np.repeat(logits, 2, axis=1)[:, ::2]
    for index in (1, slice(1, 2), slice(None)):
        errors = []
        for given in (logits, strided):
            with pytest.raises(od.ConvergenceError) as caught:
                od.softmax().sample(given[index], seed=1)
            errors.append(caught.value)
        assert str(errors[0]) == str(errors[1])
        np.testing.assert_array_equal(errors[0].result.tokens, errors[1].result.tokens)
        np.testing.assert_array_equal(errors[0].result.status, errors[1].result.status)
        marked = od.softmax().sample(logits[index], seed=1, on_failure="mark")
        np.testing.assert_array_equal(marked.status, errors[0].result.status)


def test_a_draw_is_a_frozen_value(logits):
    draw = od.greedy().sample(logits[0], seed=1)
    assert isinstance(draw.status, od.Status)
    with pytest.raises(dataclasses.FrozenInstanceError):
        draw.tokens = None
    again = pickle.loads(pickle.dumps(draw))
    assert repr(again) == repr(draw)
    assert dataclasses.replace(draw, backend="other").backend == "other"
    assert od.Draw(1, 2, 3, "rust") == od.Draw(tokens=1, log_probs=2, status=3, backend="rust")


def test_masks_forbid(logits):
    allowed = np.zeros(500, dtype=bool)
    allowed[[3, 77, 499]] = True
    words = np.packbits(np.pad(allowed, (0, 12)), bitorder="little").view(np.int32)
    for mask in (allowed, words, words.view(np.uint32), np.tile(words, (7, 1))):
        tokens = od.softmax(5.0).sample(logits, seed=0, n=200, mask=mask).tokens
        assert set(np.unique(tokens)) == {3, 77, 499}
    short = words[:3]  # tokens past a packed mask are forbidden
    assert set(np.unique(od.softmax(5.0).sample(logits, seed=0, n=200, mask=short).tokens)) == {3, 77}
    tokens = od.softmax(5.0).subject_to(od.Allowed([3, 77, 499])).sample(logits, seed=0, n=200).tokens
    assert set(np.unique(tokens)) == {3, 77, 499}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_million_draws_never_give_a_zero(dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    logits = (np.random.default_rng(1).normal(size=1000) * 4).astype(kind)
    logits[[0, 10, 999]] = -np.inf
    for decoder in (od.softmax(), od.entmax(1.5, temperature=4.0)):
        solution = decoder(logits)
        counts = np.bincount(solution.sample(seed=1, n=1_000_000).tokens, minlength=1000)
        assert not counts[~solution.support].any()
        assert counts.sum() == 1_000_000


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 1 << 64},
        {"position": -1},
        {"n": 0},
        {"n": 1.5},
        {"coupling": "gumbel"},
        {"on_failure": "ignore"},
        {"threads": 0},
        {"backend": "cuda"},
        {"seed": np.array([-1] * 7)},
        {"budget": 4},
        {"anchor": np.zeros(500)},
        {"weights": np.zeros(500)},
    ],
)
def test_bad_arguments(logits, arguments):
    with pytest.raises(od.ProblemError):
        od.softmax().sample(logits, **arguments)


@pytest.mark.parametrize("arguments", [{"seed": np.arange(3)}, {"position": np.arange(14).reshape(2, 7)}])
def test_bad_argument_shapes(logits, arguments):
    with pytest.raises(od.ShapeError, match=r"batch shape \(7,\)"):
        od.softmax().sample(logits, **arguments)


@pytest.mark.parametrize("arguments", [{"seed": 1.5}, {"position": np.zeros(7)}, {"seed": "x"}])
def test_bad_argument_types(logits, arguments):
    with pytest.raises(od.DTypeError):
        od.softmax().sample(logits, **arguments)
