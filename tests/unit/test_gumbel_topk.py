"""`coupling="gumbel_topk"`: distinct tokens, what is said of them, and rows that have too few."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optdecode as od
from decoders import all_decoders
from optdecode import _core
from rows import ROW_KINDS, make_row, make_rows

DECODERS = [
    od.greedy(),
    od.softmax(0.8),
    od.top_k(5),
    od.top_p(0.9),
    od.min_p(0.05),
    od.sparsemax(3.0),
    od.entmax(1.5, temperature=2.0),
    od.best_of_k(8, beta=1.0, lam=1.0),
    od.best_of_k(8, beta_bar=4.0, lam=0.0),
    od.best_of_k(solver=od.MirrorAscent()),
]


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(3).normal(size=(7, 500)) * 2


def sample(decoder, logits, n, **given):
    return decoder.sample(logits, n=n, coupling="gumbel_topk", **({"seed": 4, "on_failure": "mark"} | given))


def assert_same(one, other):
    for name in ("tokens", "log_probs", "log_inclusion", "status"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestEveryDecoder:
    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    def test_distinct_on_the_support_and_first_as_iid(self, decoder, logits, dtype):
        rows = logits.astype(dtype)
        draw, solution = sample(decoder, rows, 9), decoder(rows)
        kept = np.minimum(solution.support_size, 9)
        for row in range(7):
            tokens = draw.tokens[row, : kept[row]]
            assert len(set(tokens.tolist())) == kept[row]
            assert np.asarray(solution.support)[row, tokens].all()
            assert (draw.tokens[row, kept[row] :] == -1).all()
        missing = draw.tokens < 0
        np.testing.assert_array_equal(np.isnan(draw.log_probs), missing)
        np.testing.assert_array_equal(np.isnan(draw.log_inclusion), missing)
        assert (draw.log_inclusion[~missing] <= 0).all()
        np.testing.assert_array_equal(draw.status, np.where(kept < 9, od.Status.TOO_FEW_TOKENS, od.Status.OK))
        first = decoder.sample(rows, seed=4)
        np.testing.assert_array_equal(draw.tokens[:, :1], first.tokens)
        np.testing.assert_array_equal(draw.log_probs[:, :1], first.log_probs)
        np.testing.assert_array_equal(sample(decoder, rows, 1).tokens, first.tokens)

    def test_pure(self, decoder, logits):
        seeds, positions = np.arange(7) + 10, np.arange(7) * 3
        whole = sample(decoder, logits, 4, seed=seeds, position=positions)
        for row in range(7):
            alone = sample(decoder, logits[row], 4, seed=int(seeds[row]), position=int(positions[row]))
            np.testing.assert_array_equal(alone.tokens, whole.tokens[row])
            np.testing.assert_array_equal(alone.log_inclusion, whole.log_inclusion[row])
        batch = od.sample_batch([decoder] * 7, logits, seeds, positions, n=4, coupling="gumbel_topk")
        assert_same(batch, whole)
        assert_same(decoder(logits).sample(seeds, positions, 4, "gumbel_topk"), whole)
        big = np.tile(logits, (20, 8))
        assert_same(sample(decoder, big, 4, threads=1), sample(decoder, big, 4, threads=2))

    def test_the_first_tokens_do_not_depend_on_n(self, decoder, logits):
        long = sample(decoder, logits, 9)
        for n in (1, 3):
            np.testing.assert_array_equal(sample(decoder, logits, n).tokens, long.tokens[:, :n])

    @pytest.mark.parametrize("level", _core.build_info()["levels"])
    def test_every_instruction_set(self, decoder, logits, level, monkeypatch):
        rows = logits.astype(np.float32)
        expected = sample(decoder, rows, 6)
        monkeypatch.setenv("OPTDECODE_FORCE_LEVEL", level)
        assert_same(sample(decoder, rows, 6), expected)


SOME = all_decoders()[::5]
PARITY = [
    *SOME,
    *(pytest.param(decoder, marks=pytest.mark.slow) for decoder in all_decoders() if decoder not in SOME),
]


@pytest.mark.parametrize("decoder", PARITY, ids=repr)
def test_reference_draws_the_same(decoder):
    for size in (1, 3, 97):  # 97: no rule about sums is met exactly by equal tokens
        rows = make_rows(size, seed=9)
        rust, reference = (sample(decoder, rows, 7, backend=name) for name in ("rust", "reference"))
        # A support that is about sums, or a root find, may end at another token where q is next to nothing.
        same = (rust.status == reference.status) & (rust.tokens == reference.tokens).all(axis=1)
        # Where any objective is beyond a float there is no optimum to agree on.
        for row in np.flatnonzero(~same & (rust.status != od.Status.REDUCED_ACCURACY)):
            q = decoder(rows[row]).probs
            differing = set(rust.tokens[row].tolist()) ^ set(reference.tokens[row].tolist()) - {-1}
            assert max(q[list(differing)], default=1.0) < 1e-9, (
                ROW_KINDS[row],
                rust.tokens[row],
                reference.tokens[row],
            )
        np.testing.assert_allclose(rust.log_inclusion[same], reference.log_inclusion[same], rtol=1e-6, atol=1e-6)


def test_tokens_that_underflow_count_as_none():
    row = np.array([0.0, -1e9, -5.0, -np.inf, -800.0])
    draw = sample(od.softmax(), row, 4)
    assert draw.status is od.Status.TOO_FEW_TOKENS
    assert sorted(draw.tokens.tolist()) == [-1, -1, 0, 2]
    np.testing.assert_array_equal(draw.log_inclusion[:2], [0.0, 0.0])
    # exp(-700) does not.
    row[4] = -700.0
    assert sorted(sample(od.softmax(), row, 4).tokens.tolist()) == [-1, 0, 2, 4]


def test_exactly_as_many_as_there_are_is_enough():
    draw = sample(od.top_k(3), np.random.default_rng(0).normal(size=(4, 50)), 3, on_failure="raise")
    assert (draw.status == od.Status.OK).all()
    np.testing.assert_array_equal(draw.log_inclusion, np.zeros((4, 3)))


def test_too_few_tokens_raise_and_say_so():
    rows = np.array([[0.0, 1.0, 2.0], [0.0, -np.inf, 2.0]])
    with pytest.raises(od.ConvergenceError, match=r"row 1: TOO_FEW_TOKENS \(fewer tokens have probability") as caught:
        od.softmax().sample(rows, seed=1, n=3, coupling="gumbel_topk")
    tokens = caught.value.result.tokens
    assert sorted(tokens[0].tolist()) == [0, 1, 2]
    assert set(tokens[1, :2].tolist()) == {0, 2}
    assert tokens[1, 2] == -1
    assert not od.Status.TOO_FEW_TOKENS.is_solved


def test_bad_rows_are_marked_and_harm_no_other(logits):
    rows = logits.copy()
    rows[2], rows[4] = np.nan, -np.inf
    draw, whole = sample(od.softmax(), rows, 3, seed=np.arange(7)), sample(od.softmax(), logits, 3, seed=np.arange(7))
    assert draw.status[[2, 4]].tolist() == [od.Status.NAN_SCORES, od.Status.INFEASIBLE]
    assert (draw.tokens[[2, 4]] == -1).all()
    assert np.isnan(draw.log_inclusion[[2, 4]]).all()
    healthy = [0, 1, 3, 5, 6]
    np.testing.assert_array_equal(draw.tokens[healthy], whole.tokens[healthy])


def test_types_shapes_and_what_goes_with_them(logits):
    draw = sample(od.softmax(), logits[:6].reshape(2, 3, 500).astype(np.float32), 4, seed=np.arange(6).reshape(2, 3))
    assert draw.tokens.shape == draw.log_inclusion.shape == (2, 3, 4)
    assert draw.log_inclusion.dtype == np.float32
    assert sample(od.softmax(), logits[0], 4).log_inclusion.dtype == np.float64
    assert od.softmax().sample(logits[0], seed=1, n=4).log_inclusion is None
    assert od.softmax().sample(logits[0], seed=1, n=4, coupling="systematic").log_inclusion is None
    again = pickle.loads(pickle.dumps(draw))
    np.testing.assert_array_equal(again.log_inclusion, draw.log_inclusion)
    model = sample(od.top_k(2), logits, 3, model_log_probs=True, top_log_probs=2)
    np.testing.assert_array_equal(np.isnan(model.model_log_probs), model.tokens < 0)
    assert model.log_inclusion.shape == (7, 3)
    torch = pytest.importorskip("torch")
    tensor = sample(od.softmax(), torch.from_numpy(logits), 4)
    assert isinstance(tensor.log_inclusion, torch.Tensor)
    np.testing.assert_array_equal(tensor.tokens.numpy(), sample(od.softmax(), logits, 4).tokens)


def test_masks_and_more_places_than_tokens(logits):
    allowed = np.zeros(500, dtype=bool)
    allowed[[3, 77, 499]] = True
    draw = sample(od.softmax(5.0), logits, 1000, mask=allowed)
    for tokens in draw.tokens:
        assert sorted(tokens[:3].tolist()) == [3, 77, 499]
        assert (tokens[3:] == -1).all()


@pytest.mark.parametrize("coupling", ["gumbel", "GUMBEL_TOPK", None, 3])
def test_unknown_couplings_are_refused_by_name(logits, coupling):
    allowed = "'iid', 'systematic', 'gumbel_topk', or an ArithmeticCodes"
    for draw in (od.softmax().sample, lambda rows, **given: od.sample_batch([od.softmax()] * 7, rows, **given)):
        with pytest.raises(od.ProblemError, match=f"{allowed}; got {coupling!r}"):
            draw(logits, coupling=coupling)


def test_the_core_names_its_couplings():
    x, zero = np.zeros((1, 3)), np.zeros(1, dtype=np.uint64)
    plan = od.backends.rust.compiled(od.softmax().plan)
    arguments = ([plan], x, "f64", None, None, None, None, zero, zero, 2)
    with pytest.raises(ValueError, match="'iid', 'systematic' or 'gumbel_topk'; got \"gumbel\""):
        _core.sample(*arguments, "gumbel", 1)
    assert _core.sample(*arguments, "gumbel_topk", 1)[3].shape == (1, 2)
    assert _core.sample(*arguments, "iid", 1)[3] is None
    assert _core.sample_plain(plan, x, 0, 0, 2, "gumbel_topk", None) is None


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(ROW_KINDS),
    size=st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200]),
    n=st.integers(1, 40),
    decoder=st.sampled_from(DECODERS),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_row(kind, size, n, decoder, dtype, seed):
    row = make_row(kind, size, dtype, seed=seed % 5)
    draw, solution = sample(decoder, row, n, seed=seed), decoder(row)
    drawn = draw.tokens[draw.tokens >= 0]
    assert np.unique(drawn).size == drawn.size
    assert np.asarray(solution.support)[drawn].all()
    assert draw.tokens[0] == decoder.sample(row, seed=seed).tokens[0]
    assert (draw.log_inclusion[: drawn.size] <= 0).all()
    assert draw.status in ((od.Status.OK,) if drawn.size == n else (od.Status.TOO_FEW_TOKENS,))
    if drawn.size < n:
        assert drawn.size == (np.exp(decoder(row.astype(np.float64)).log_probs) > 0).sum()
