"""What a draw says of the model beside the tokens, and log q in an array of the caller's."""

import numpy as np
import pytest
import torch

import optdecode as od
from rows import ROW_KINDS, make_rows

DECODERS = [od.greedy(), od.top_k(5, 0.7), od.sparsemax(2.0), od.best_of_k(8), od.softmax(0.0)]


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_log_p_of_the_tokens_and_of_the_best(decoder, dtype):
    rows = make_rows(300, dtype, seed=4)
    draw = decoder.sample(rows, seed=3, n=4, model_log_probs=True, top_log_probs=7)
    plain = decoder.sample(rows, seed=3, n=4)
    np.testing.assert_array_equal(draw.tokens, plain.tokens)
    np.testing.assert_array_equal(draw.log_probs, plain.log_probs)
    assert draw.model_log_probs.dtype == draw.top_log_probs.dtype == dtype
    temperature = decoder.problem.temperature or 1.0
    for row, tokens, model, top, top_logs in zip(
        rows.astype(np.float64), draw.tokens, draw.model_log_probs, draw.top_tokens, draw.top_log_probs, strict=True
    ):
        with np.errstate(over="ignore"):
            expected = log_softmax(np.maximum((row - row.max()) / temperature, -1e200))
        order = np.lexsort((np.arange(row.size), -row))[:7]
        allowed = row[order] > -np.inf
        np.testing.assert_array_equal(top, np.where(allowed, order, -1))
        np.testing.assert_allclose(model, expected[tokens].astype(dtype), rtol=1e-6, atol=3e-6)
        np.testing.assert_allclose(top_logs[allowed], expected[order][allowed].astype(dtype), rtol=1e-6, atol=3e-6)
        assert np.isneginf(top_logs[~allowed]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_backends_say_the_same(dtype):
    rows = make_rows(200, dtype, seed=5)
    rows[3], rows[4, 2] = -np.inf, np.nan
    mask = np.random.default_rng(1).random(rows.shape) < 0.3
    mask[:, :3] = True
    decoders = [DECODERS[i % 5].subject_to(*[od.Allowed(range(150))] * (i % 2)) for i in range(len(rows))]
    arguments = {"seeds": 9, "mask": mask, "n": 2, "model_log_probs": True, "top_log_probs": 80}
    rust = od.sample_batch(decoders, rows, **arguments)
    reference = od.sample_batch(decoders, rows, backend="reference", **arguments)
    np.testing.assert_array_equal(rust.top_tokens, reference.top_tokens)
    np.testing.assert_allclose(rust.top_log_probs, reference.top_log_probs, rtol=1e-6, atol=3e-6)
    np.testing.assert_allclose(rust.model_log_probs, reference.model_log_probs, rtol=1e-6, atol=3e-6)
    for row in (3, 4):
        assert (rust.top_tokens[row] == -1).all()
        assert np.isnan(rust.top_log_probs[row]).all()
        assert np.isnan(rust.model_log_probs[row]).all()


def test_a_given_anchor_forbids_here_too():
    logits, anchor = np.zeros(4, np.float32), np.log(np.array([0.5, 0.1, 0.2, 0.2], np.float32))
    anchor[1] = -np.inf
    decoder = od.best_of_k(anchor="given")
    draw = decoder.sample(logits, seed=0, anchor=anchor, model_log_probs=True, top_log_probs=4)
    np.testing.assert_allclose(draw.model_log_probs, np.log(1 / 3), atol=1e-6)
    np.testing.assert_array_equal(draw.top_tokens, [0, 2, 3, -1])


def test_only_what_is_asked_for_comes():
    row = np.zeros((2, 5), np.float32)
    assert od.softmax().sample(row, seed=0).model_log_probs is None
    draw = od.softmax().sample(row, seed=0, top_log_probs=2)
    assert draw.model_log_probs is None
    assert draw.top_tokens.tolist() == [[0, 1], [0, 1]]
    draw = od.softmax()(torch.from_numpy(row)).sample(seed=0, model_log_probs=True)
    assert isinstance(draw.model_log_probs, torch.Tensor)
    assert draw.top_tokens is None
    np.testing.assert_allclose(draw.model_log_probs.numpy(), np.full((2, 1), -np.log(5)), rtol=1e-6)


@pytest.mark.parametrize("best", [-1, 2.5, "3"])
def test_a_count_that_is_none_is_refused(best):
    with pytest.raises(od.ProblemError, match="top_log_probs"):
        od.softmax().sample(np.zeros(5), seed=0, top_log_probs=best)


class TestOut:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_receives_log_q(self, dtype):
        rows = make_rows(100, dtype, seed=6)
        expected = od.top_p(0.9)(rows)
        out = np.empty((len(ROW_KINDS), 200), dtype)[:, ::2]
        solution = od.top_p(0.9)(rows, out=out)
        np.testing.assert_array_equal(out, expected.log_probs)
        np.testing.assert_array_equal(solution.log_probs, expected.log_probs)

    def test_may_be_the_logits(self):
        rows = make_rows(100, "float32", seed=7)
        tensor = torch.from_numpy(rows.copy())
        solution = od.sparsemax()(tensor, out=tensor)
        np.testing.assert_array_equal(tensor.numpy(), od.sparsemax()(rows).log_probs)
        assert (solution.certificate().gap < 1e-4).all()  # of the logits as they were
        single = rows[0].copy()
        od.sparsemax()(single, out=single)
        np.testing.assert_array_equal(single, tensor[0].numpy())

    def test_is_untouched_by_a_call_that_raises(self):
        rows = make_rows(10, "float32", seed=8)
        rows[1, 3] = np.nan
        out = rows.copy()
        with pytest.raises(od.errors.ConvergenceError):
            od.softmax()(rows, out=out)
        np.testing.assert_array_equal(out, rows)
        od.softmax()(rows, out=out, on_failure="mark")
        assert np.isnan(out[1]).all()
        assert not np.isnan(out[0]).any()

    @pytest.mark.parametrize(
        ("out", "error", "message"),
        [
            (np.zeros(4), od.errors.DTypeError, "float32"),
            (np.zeros((1, 4), np.float32), od.errors.ShapeError, r"\(4,\)"),
            ([0.0] * 4, od.errors.DTypeError, "list"),
            (np.broadcast_to(np.float32(0), (4,)), od.ProblemError, "writable"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_refused(self, out, error, message):
        with pytest.raises(error, match=message):
            od.softmax()(np.zeros(4, np.float32), out=out)
