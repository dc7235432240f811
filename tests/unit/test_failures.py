"""Bad rows and bad arrays: each a documented outcome, and no harm to the rows beside them."""

import numpy as np
import pytest

import optdecode as od
from optdecode import Status

DECODERS = [
    od.greedy(),
    od.softmax(),
    od.top_p(0.9),
    od.sparsemax(),
    od.entmax(1.3),
    od.best_of_k(),
    od.best_of_k(lam=0.0, beta_bar=1.0),
    od.best_of_k(solver=od.MirrorAscent()),
]
BACKENDS = ["rust", "reference"]


@pytest.fixture
def logits():
    return np.random.default_rng(5).normal(size=(6, 300)).astype(np.float32)


def spoiled(logits):
    """Rows 1, 3, 4 have no solution; the others are untouched."""
    bad = logits.copy()
    bad[1, 7] = np.nan
    bad[3, 8] = np.inf
    bad[4] = -np.inf
    return bad, {1: Status.NAN_SCORES, 3: Status.INF_SCORES, 4: Status.INFEASIBLE}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestBadRows:
    def test_marked_and_harmless(self, decoder, backend, logits):
        bad, expected = spoiled(logits)
        solution = decoder(bad, on_failure="mark", backend=backend)
        draw = decoder.sample(bad, seed=np.arange(6), n=3, on_failure="mark", backend=backend)
        good = [row for row in range(6) if row not in expected]
        for row, status in expected.items():
            assert solution.status[row] == draw.status[row] == status
            assert np.isnan(solution.probs[row]).all()
            assert np.isnan(solution.log_probs[row]).all()
            assert np.isnan(solution.threshold[row])
            assert (draw.tokens[row] == -1).all()
            assert np.isnan(draw.log_probs[row]).all()
        assert (np.asarray(solution.status)[good] == Status.OK).all()
        alone = decoder(logits[good], backend=backend)
        np.testing.assert_array_equal(solution.probs[good], alone.probs)
        np.testing.assert_array_equal(solution.log_probs[good], alone.log_probs)
        tokens = decoder.sample(logits[good], seed=np.array(good), n=3, backend=backend).tokens
        np.testing.assert_array_equal(draw.tokens[good], tokens)

    def test_raised_with_the_rows_named(self, decoder, backend, logits):
        bad, _ = spoiled(logits)
        with pytest.raises(od.ConvergenceError, match=r"3 of 6 rows.*row 1: NAN_SCORES.*row 3.*row 4") as error:
            decoder(bad, backend=backend)
        assert error.value.result.status[0] == Status.OK
        with pytest.raises(od.ConvergenceError, match="row 1"):
            decoder.sample(bad, seed=0, backend=backend)

    def test_forbidden_tokens_may_hold_anything(self, decoder, backend, logits):
        mask = np.ones(300, dtype=bool)
        mask[[7, 8]] = False
        bad = logits.copy()
        bad[:, 7], bad[:, 8] = np.nan, np.inf
        solution = decoder(bad, mask=mask, backend=backend)
        clean = decoder(np.where(mask, logits, -np.inf), backend=backend)
        np.testing.assert_array_equal(solution.probs, clean.probs)
        assert (np.asarray(solution.status) == Status.OK).all()

    def test_nothing_allowed(self, decoder, backend, logits):
        solution = decoder(logits[0], mask=np.zeros(300, dtype=bool), on_failure="mark", backend=backend)
        assert solution.status is Status.INFEASIBLE
        disjoint = decoder.subject_to(od.Allowed([1, 2]) & od.Allowed([3]))
        assert disjoint(logits[0], on_failure="mark", backend=backend).status is Status.INFEASIBLE

    def test_one_token(self, decoder, backend):
        solution = decoder(np.array([[3.0]]), backend=backend)
        np.testing.assert_array_equal(solution.probs, [[1.0]])

    def test_empty_batch(self, decoder, backend):
        solution = decoder(np.zeros((0, 5), dtype=np.float32), backend=backend)
        assert solution.probs.shape == (0, 5)
        assert np.asarray(solution.status).shape == (0,)
        assert decoder.sample(np.zeros((2, 0, 5)), n=3, backend=backend).tokens.shape == (2, 0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_anchor_and_weights(logits, backend):
    anchor = np.zeros((6, 300))
    anchor[2, 5] = np.nan
    draw = od.best_of_k(anchor="given").sample(logits, seed=0, anchor=anchor, on_failure="mark", backend=backend)
    assert list(draw.status) == [0, 0, Status.BAD_ANCHOR, 0, 0, 0]
    weights = np.ones((6, 300))
    weights[1, 5] = -1.0
    solution = od.best_of_k()(logits, weights=weights, on_failure="mark", backend=backend)
    assert list(solution.status) == [0, Status.BAD_WEIGHTS, 0, 0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_that_the_anchor_forbids_may_hold_anything(logits, backend):
    decoder, anchor = od.best_of_k(anchor="given"), np.zeros(300)
    anchor[[7, 8]] = -np.inf
    bad = logits.copy()
    bad[:, 7], bad[:, 8] = np.nan, np.inf
    solution = decoder(bad, anchor=anchor, backend=backend)
    np.testing.assert_array_equal(solution.probs, decoder(logits, anchor=anchor, backend=backend).probs)
    assert not np.isnan(solution.certificate().gap).any()


@pytest.mark.parametrize("shape", [(), (4, 0), (0,)])
def test_shapes_refused(shape):
    with pytest.raises(od.ShapeError, match=r"logits must be \(..., V\) with V >= 1; got"):
        od.softmax()(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, complex, object, "datetime64[s]"])
def test_dtypes_refused(dtype):
    with pytest.raises(od.DTypeError, match="float16, bfloat16, float32 or float64"):
        od.softmax()(np.zeros((2, 3)).astype(dtype))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("mask", np.ones(299, dtype=bool), od.ShapeError),
        ("mask", np.ones((5, 300), dtype=bool), od.ShapeError),
        ("mask", np.ones(11, dtype=np.int32), od.ShapeError),
        ("mask", np.ones(300), od.DTypeError),
        ("mask", np.ones(10, dtype=np.int64), od.DTypeError),
        ("mask", np.bool_(True), od.ShapeError),
    ],
)
def test_masks_refused(logits, argument, value, error):
    with pytest.raises(error, match="mask"):
        od.softmax()(logits, **{argument: value})


def test_other_arrays_refused(logits):
    bok = od.best_of_k(anchor="given")
    with pytest.raises(od.ProblemError, match="pass anchor="):
        bok(logits)
    with pytest.raises(od.ShapeError, match="anchor"):
        bok(logits, anchor=np.zeros(5))
    with pytest.raises(od.DTypeError, match="anchor"):
        bok(logits, anchor=np.array(["a"] * 300))
    with pytest.raises(od.ShapeError, match="weights have length 3"):
        od.best_of_k(weights=[1.0, 2.0, 3.0])(logits)
    with pytest.raises(od.ShapeError, match="token 300"):
        od.softmax().subject_to(od.Allowed([300]))(logits)
    with pytest.raises(od.ProblemError, match="row 2 has 0"):
        od.best_of_k()(logits, budget=[1, 2, 0, 4, 5, 6])
    with pytest.raises(od.ShapeError, match="one decoder a row"):
        od.sample_batch([od.greedy()], logits)
    with pytest.raises(od.ProblemError, match="item 1"):
        od.sample_batch([od.greedy(), "greedy"], logits[:2])
    with pytest.raises(od.ShapeError, match="share one shape"):
        od.sample_batch([od.greedy()] * 2, [np.zeros(3), np.zeros(4)])
    with pytest.raises(od.ShapeError, match="rectangular"):
        od.greedy()([[1.0, 2.0], [1.0]])


def test_logits_are_never_written_and_any_layout_works(logits):
    for decoder in DECODERS:
        expected = decoder(logits).probs
        frozen = logits.copy()
        frozen.flags.writeable = False
        np.testing.assert_array_equal(decoder(frozen).probs, expected)
        wide = np.full((6, 2, 600), np.nan, dtype=np.float32)
        wide[:, 0, ::2] = logits
        np.testing.assert_array_equal(decoder(wide[:, 0, ::2]).probs, expected)
        np.testing.assert_array_equal(decoder(np.asfortranarray(logits)).probs, expected)
        np.testing.assert_array_equal(decoder(logits[::-1]).probs, expected[::-1])
        np.testing.assert_array_equal(decoder(logits.reshape(2, 3, 300)).probs, expected.reshape(2, 3, 300))
        np.testing.assert_array_equal(decoder(logits.astype(">f4")).probs, expected)
        np.testing.assert_array_equal(
            decoder.sample(wide[:, 0, ::2], seed=1).tokens, decoder.sample(logits, seed=1).tokens
        )


def test_later_writes_do_not_reach_a_solution(logits):
    solution = od.entmax(1.5)(logits)
    before, tokens = solution.certificate().gap.copy(), solution.sample(seed=0).tokens
    logits[:] = 0.0
    np.testing.assert_array_equal(solution.certificate().gap, before)
    np.testing.assert_array_equal(solution.sample(seed=0).tokens, tokens)
