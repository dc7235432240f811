"""`ArithmeticCodes`: exact steps, the state and its views, batches, rows without a distribution."""

import copy
import pickle
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optdecode as od
from decoders import all_decoders
from optdecode import _core
from optdecode.backends.reference import philox4x32_10
from rows import ROW_KINDS, make_row, make_rows

DECODERS = [
    od.greedy(),
    od.softmax(0.8),
    od.top_k(5),
    od.top_p(0.9),
    od.sparsemax(3.0),
    od.entmax(1.5, temperature=2.0),
    od.best_of_k(8, beta=1.0, lam=1.0),
    od.best_of_k(solver=od.MirrorAscent()),
]


def uniform(seed, position, draw, stream):
    words = (position & 0xFFFFFFFF, position >> 32, draw, stream), (seed & 0xFFFFFFFF, seed >> 32)
    low, high, *_ = philox4x32_10(*words)
    return low | high << 32


def step_in_integers(q, code, seed, step, sequence):
    """Token and next code from q, all of it by its definition: the uniforms of a token, one by one where they end."""
    masses = [round(float(p) * 2**62) for p in q]
    total, low = sum(masses), 0
    for token, below in enumerate(accumulate(masses)):
        high = -(-(below << 64) // total)
        if low <= code < high:
            return token, ((code - low) * 2**64 + uniform(seed, step, sequence, 3)) // (high - low)
        low = high
    raise AssertionError("a code is on some token")


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestEveryDecoder:
    @pytest.mark.parametrize("seed", [0, 5, 2**64 - 1])
    def test_steps_are_exact(self, decoder, seed, rng):
        """Every token and every bit of every code, from the probabilities of float64 rows."""
        n, codes = 6, od.ArithmeticCodes(6, seed)
        u = uniform(seed, 0, 0, 0)
        assert codes.codes.tolist() == [(u + (i << 64) // n) % 2**64 for i in range(n)]
        for step in range(25):
            logits = rng.normal(size=(n, 60)) * 2
            q, before = decoder(logits).probs, codes.codes.tolist()
            expected = [step_in_integers(q[i], before[i], seed, step, i) for i in range(n)]
            draw = decoder.sample(logits, coupling=codes)
            assert draw.tokens.shape == (n, 1)
            assert list(zip(draw.tokens.ravel().tolist(), codes.codes.tolist(), strict=True)) == expected
            log_q = np.take_along_axis(decoder(logits).log_probs, draw.tokens, axis=1)
            np.testing.assert_allclose(draw.log_probs, log_q, rtol=1e-12, atol=1e-12)
            assert (codes.steps == step + 1).all()

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    @pytest.mark.parametrize("size", [60, 5000])
    def test_the_first_tokens_are_systematic(self, decoder, dtype, size, rng):
        row = (rng.normal(size=size) * 2).astype(dtype)
        codes = od.ArithmeticCodes(9, seed=3)
        draw = decoder.sample(np.tile(row, (9, 1)), coupling=codes)
        other = decoder.sample(row, seed=3, n=9, coupling="systematic")
        np.testing.assert_array_equal(draw.tokens.ravel(), other.tokens)
        np.testing.assert_array_equal(draw.log_probs.ravel(), other.log_probs)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_pure(self, decoder, dtype, rng, monkeypatch):
        """One sequence alone, in any batch, with any threads and instruction set, by any entry."""
        n, steps = 5, 4
        logits = (rng.normal(size=(steps, n, 3000)) * 2).astype(dtype)

        def run(draw):
            codes = od.ArithmeticCodes(n, seed=2)
            tokens = [draw(logits[step], codes) for step in range(steps)]
            return np.array(tokens).reshape(steps, n).tolist(), codes.codes.tolist()

        def alone(rows, codes):
            order = reversed(range(n))
            return [decoder.sample(rows[i : i + 1], coupling=codes.take([i])).tokens for i in order][::-1]

        def shuffled(rows, codes):
            order = np.array([3, 1, 4, 0, 2])
            return decoder.sample(rows[order], coupling=codes.take(order)).tokens[np.argsort(order)]

        expected = run(lambda rows, codes: decoder.sample(rows, coupling=codes).tokens)
        assert run(alone) == expected
        assert run(shuffled) == expected
        assert run(lambda rows, codes: decoder.sample(rows, coupling=codes, threads=1).tokens) == expected
        assert run(lambda rows, codes: decoder(rows).sample(coupling=codes).tokens) == expected
        assert run(lambda rows, codes: od.sample_batch([decoder] * n, rows, coupling=codes).tokens) == expected
        for level in _core.build_info()["levels"]:
            monkeypatch.setenv("OPTDECODE_FORCE_LEVEL", level)
            assert run(lambda rows, codes: decoder.sample(rows, coupling=codes).tokens) == expected


SOME = all_decoders()[::5]
PARITY = [
    *SOME,
    *(pytest.param(decoder, marks=pytest.mark.slow) for decoder in all_decoders() if decoder not in SOME),
]


@pytest.mark.parametrize("decoder", PARITY, ids=repr)
def test_reference_draws_the_same(decoder):
    """Step by step from the same codes: equal tokens, and codes as far as q agrees."""
    rows = make_rows(31, seed=11)
    codes = od.ArithmeticCodes(len(rows), seed=6)
    for _ in range(2):
        other = codes.copy()
        # A cap or a target may leave a row without a distribution.
        rust = decoder.sample(rows, coupling=codes, on_failure="mark")
        reference = decoder.sample(rows, coupling=other, backend="reference", on_failure="mark")
        np.testing.assert_array_equal(rust.status, reference.status)
        np.testing.assert_array_equal(rust.tokens, reference.tokens)
        apart = np.abs(codes.codes.astype(np.float64) - other.codes.astype(np.float64)) / 2.0**64
        probs = np.where(rust.tokens < 0, 1.0, np.exp(rust.log_probs)).ravel()
        assert (apart <= 1e-7 / probs).all(), (apart, probs)
        assert (codes.steps == other.steps).all()


def test_reference_has_the_same_codes_where_q_is_the_same():
    """Rows of 1, 2, 4 and 8 equal tokens: q is a power of two on both, and so every code is equal, bit for bit."""
    rng, decoder = np.random.default_rng(1), od.softmax()
    rust, reference = od.ArithmeticCodes(8, seed=9), od.ArithmeticCodes(8, seed=9)
    for _ in range(60):
        logits = np.full((8, 16), -np.inf)
        for row in logits:
            row[rng.permutation(16)[: 2 ** rng.integers(4)]] = 0.0
        tokens = [
            decoder.sample(logits, coupling=codes, backend=name).tokens
            for name, codes in (("rust", rust), ("reference", reference))
        ]
        np.testing.assert_array_equal(*tokens)
        assert rust == reference


def test_sequences_that_share_a_prefix_stay_spread():
    """Of n codes, those on one token keep their order and the distances 1 / (n P), however long the prefix."""
    n, codes = 64, od.ArithmeticCodes(64, seed=8)
    together, mass = np.arange(n), 1.0
    rng = np.random.default_rng(3)
    for _ in range(300):
        logits = np.tile(rng.normal(size=40) * 2 + 12.0 * (np.arange(40) == rng.integers(40)), (len(together), 1))
        q = od.softmax()(logits[0]).probs
        tokens = od.softmax().sample(logits, coupling=codes.take(together)).tokens.ravel()
        common = np.bincount(tokens).argmax()
        together, mass = together[tokens == common], mass * q[common]
        if n * mass < 8:
            break
    assert len(together) in (int(n * mass), int(n * mass) + 1)
    assert codes.steps.max() > 30
    left = np.sort(codes.take(together).codes).astype(np.float64) / 2.0**64
    np.testing.assert_allclose(np.diff(left), 1 / (n * mass), rtol=1e-9)
    # So a flat row tells all of them apart.
    tokens = od.softmax().sample(np.zeros((len(together), 50)), coupling=codes.take(together)).tokens
    assert len(set(tokens.ravel().tolist())) == len(together)


class TestState:
    def test_what_it_says(self):
        codes = od.ArithmeticCodes(4, seed=7)
        assert repr(codes) == "ArithmeticCodes(4, seed=7)"
        assert (codes.n, codes.seed, len(codes)) == (4, 7, 4)
        assert codes.sequences.tolist() == [0, 1, 2, 3]
        assert (codes.codes.dtype, codes.steps.dtype) == (np.uint64, np.int64)
        od.softmax().sample(np.zeros((2, 9)), coupling=codes.take([1, 3]))
        assert repr(codes) == "<ArithmeticCodes(4, seed=7) after 0..1 tokens>"
        assert repr(codes.take([0])) == "ArithmeticCodes(4, seed=7).take([0])"
        codes.codes[:] = 0
        codes.steps[:] = 9
        codes.sequences[:] = 0
        assert codes.steps.tolist() == [0, 1, 0, 1]
        assert codes.sequences.tolist() == [0, 1, 2, 3]
        with pytest.raises(TypeError, match="unhashable"):
            hash(codes)

    def test_fresh_entropy(self):
        one, other = od.ArithmeticCodes(3), od.ArithmeticCodes(3)
        assert one.seed != other.seed
        assert od.ArithmeticCodes(3, one.seed) == one
        assert one != other
        assert one != 3

    def test_views_share_and_copies_do_not(self):
        codes = od.ArithmeticCodes(5, seed=np.uint64(7))
        view = codes.take([4, 1, 0])
        inner = view.take(np.array([False, True, True]))
        assert inner.sequences.tolist() == [1, 0]
        twin, deep, shallow, again = (
            codes.copy(),
            copy.deepcopy(codes),
            copy.copy(codes),
            pickle.loads(pickle.dumps(inner)),
        )
        od.softmax().sample(np.zeros((2, 9)), coupling=inner)
        assert codes.steps.tolist() == [1, 1, 0, 0, 0]
        assert view.steps.tolist() == [0, 1, 1]
        for other in (twin, deep, shallow):
            assert other.steps.tolist() == [0] * 5
        assert again.sequences.tolist() == [1, 0]
        assert again.steps.tolist() == [0, 0]
        od.softmax().sample(np.zeros((2, 9)), coupling=again)
        assert again == inner
        assert codes.take([]).codes.size == 0

    def test_it_goes_on_after_a_pickle(self):
        rows = np.random.default_rng(0).normal(size=(6, 4, 30))
        codes = od.ArithmeticCodes(4, seed=1)
        for logits in rows[:3]:
            od.softmax().sample(logits, coupling=codes)
        again = pickle.loads(pickle.dumps(codes))
        assert again == codes
        for logits in rows[3:]:
            tokens = [od.softmax().sample(logits, coupling=one).tokens for one in (codes, again)]
            np.testing.assert_array_equal(*tokens)
        assert again == codes

    @pytest.mark.parametrize(
        "arguments", [(0,), (-1,), (1.5,), ("3",), (True,), (2, -1), (2, 2**64), (2, 0.5), (2, True)]
    )
    def test_bad_arguments(self, arguments):
        with pytest.raises(od.ProblemError, match=r"ArithmeticCodes: (n|seed) must be"):
            od.ArithmeticCodes(*arguments)

    @pytest.mark.parametrize(
        ("places", "error", "message"),
        [
            ([0, 4], od.ProblemError, r"in \[0, 4\); got 4"),
            ([-1], od.ProblemError, "got -1"),
            ([1, 1], od.ProblemError, "twice"),
            ([0.5], od.DTypeError, "float64"),
            ([[0]], od.ShapeError, "one-dimensional"),
            ([True, False], od.ShapeError, "4 sequences; got 2"),
            (2, od.ShapeError, "one-dimensional"),
        ],
    )
    def test_bad_places(self, places, error, message):
        with pytest.raises(error, match=message):
            od.ArithmeticCodes(4, seed=1).take(places)


class TestCalls:
    @pytest.mark.parametrize(
        "given", [{"seed": 1}, {"seed": [1, 2]}, {"position": 3}, {"position": np.zeros(2, int)}, {"n": 2}, {"n": 2.0}]
    )
    def test_what_codes_bring_is_refused_by_name(self, given):
        codes, (name,) = od.ArithmeticCodes(2, seed=1), given
        before = codes.copy()
        with pytest.raises(od.ProblemError, match=f"{name}= cannot be given beside ArithmeticCodes"):
            od.softmax().sample(np.zeros((2, 5)), coupling=codes, **given)
        batch = {"seed": "seeds", "position": "positions"}.get(name, name)
        with pytest.raises(od.ProblemError, match="beside ArithmeticCodes"):
            od.sample_batch([od.softmax()] * 2, np.zeros((2, 5)), coupling=codes, **{batch: given[name]})
        with pytest.raises(od.ProblemError, match="beside ArithmeticCodes"):
            od.softmax()(np.zeros((2, 5))).sample(coupling=codes, **given)
        assert codes == before

    @pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (2, 1, 5), (0, 5)])
    def test_a_row_for_each_sequence(self, shape):
        with pytest.raises(od.ShapeError, match=r"each of the n = 2 sequences .* got"):
            od.softmax().sample(np.zeros(shape), coupling=od.ArithmeticCodes(2, seed=1))

    def test_bad_rows_leave_their_codes(self):
        logits = np.random.default_rng(0).normal(size=(5, 20))
        logits[1], logits[3, 4] = -np.inf, np.nan
        codes = od.ArithmeticCodes(5, seed=1)
        before = codes.copy()
        draw = od.softmax().sample(logits, coupling=codes, on_failure="mark")
        assert draw.status.tolist() == [0, od.Status.INFEASIBLE, 0, od.Status.NAN_SCORES, 0]
        assert (draw.tokens[[1, 3]] == -1).all()
        assert np.isnan(draw.log_probs[[1, 3]]).all()
        assert codes.steps.tolist() == [1, 0, 1, 0, 1]
        np.testing.assert_array_equal(codes.codes[[1, 3]], before.codes[[1, 3]])
        healthy = before.copy().take([0, 2, 4])
        np.testing.assert_array_equal(
            od.softmax().sample(logits[[0, 2, 4]], coupling=healthy).tokens, draw.tokens[[0, 2, 4]]
        )
        np.testing.assert_array_equal(healthy.codes, codes.codes[[0, 2, 4]])
        for backend in ("rust", "reference"):
            other = before.copy()
            with pytest.raises(od.ConvergenceError, match="row 1: INFEASIBLE") as caught:
                od.softmax().sample(logits, coupling=other, backend=backend)
            np.testing.assert_array_equal(caught.value.result.tokens, draw.tokens)
            assert other == before

    def test_one_decoder_a_row_and_everything_else_that_a_call_has(self):
        rng = np.random.default_rng(5)
        logits, decoders = rng.normal(size=(4, 40)), [od.greedy(), od.top_k(3), od.softmax(), od.best_of_k(8)]
        mask = rng.random((4, 40)) < 0.5
        codes = od.ArithmeticCodes(4, seed=3)
        views = codes.copy()
        given = {"mask": mask, "model_log_probs": True, "top_log_probs": 2}
        draw = od.sample_batch(decoders, logits, coupling=codes, budget=[1, 2, 3, 4], **given)
        for row, decoder in enumerate(decoders):
            budget = {"budget": 4} if row == 3 else {}
            alone = decoder.sample(
                logits[row : row + 1], coupling=views.take([row]), **given | {"mask": mask[row]} | budget
            )
            for name in ("tokens", "log_probs", "model_log_probs", "top_tokens"):
                np.testing.assert_array_equal(getattr(alone, name)[0], getattr(draw, name)[row])
        assert views == codes
        assert mask[np.arange(4), draw.tokens.ravel()].all()

    def test_torch(self):
        torch = pytest.importorskip("torch")
        logits = np.random.default_rng(5).normal(size=(4, 40)).astype(np.float32)
        one, other = od.ArithmeticCodes(4, seed=3), od.ArithmeticCodes(4, seed=3)
        draw = od.softmax().sample(torch.from_numpy(logits), coupling=one.take(torch.tensor([0, 1, 2, 3])))
        assert isinstance(draw.tokens, torch.Tensor)
        np.testing.assert_array_equal(draw.tokens.numpy(), od.softmax().sample(logits, coupling=other).tokens)
        assert one == other

    def test_the_core_checks_what_it_is_given(self):
        plan, x = od.backends.rust.compiled(od.softmax().plan), np.zeros((2, 3))
        fine = {
            "seed": 1,
            "sequences": np.zeros(2, np.uint32),
            "codes": np.zeros(2, np.uint64),
            "steps": np.zeros(2, np.uint64),
        }

        def call(**changes):
            return _core.sample_codes([plan], x, "f64", None, None, None, None, *(fine | changes).values(), 1)

        assert [array.shape for array in call()] == [(2,)] * 5
        for name in ("sequences", "codes", "steps"):
            with pytest.raises(ValueError, match=f"{name} must have one element a row"):
                call(**{name: fine[name][:1]})
            with pytest.raises(TypeError, match=name):
                call(**{name: fine[name].astype(np.int8)})
        with pytest.raises(ValueError, match="seed"):
            call(seed=-1)
        with pytest.raises(ValueError, match="n must be"):
            _core.first_codes(1, 0)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(ROW_KINDS),
    size=st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]),
    n=st.integers(1, 9),
    decoder=st.sampled_from(DECODERS),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_row(kind, size, n, decoder, seed):
    """Exact on adversarial rows; tokens of equal rows ascend with the codes."""
    row = make_row(kind, size, seed=seed % 5)
    codes = od.ArithmeticCodes(n, seed)
    before, q = codes.codes.tolist(), decoder(row).probs
    tokens = decoder.sample(np.tile(row, (n, 1)), coupling=codes).tokens.ravel()
    assert list(zip(tokens.tolist(), codes.codes.tolist(), strict=True)) == [
        step_in_integers(q, before[i], seed, 0, i) for i in range(n)
    ]
    assert (np.diff(tokens[np.argsort(before)]) >= 0).all()
