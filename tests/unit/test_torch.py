"""CPU tensors go in without a copy and come back as tensors."""

import ml_dtypes
import numpy as np
import pytest
import torch

import optdecode as od


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_same_answers_as_numpy(dtype):
    rows = (torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    same = rows.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if dtype == torch.bfloat16 else rows.numpy()
    for decoder in (od.top_p(0.9), od.entmax(1.5), od.best_of_k(), od.greedy()):
        solution = decoder(rows)
        assert isinstance(solution.probs, torch.Tensor)
        assert solution.probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_array_equal(solution.probs.numpy(), decoder(same).probs)
        assert solution.support.dtype == torch.bool
        assert solution.status.tolist() == [[0] * 3] * 2
        draw = decoder.sample(rows, seed=torch.arange(6).reshape(2, 3), n=2)
        assert draw.tokens.dtype == torch.int64
        assert draw.tokens.shape == (2, 3, 2)
        np.testing.assert_array_equal(
            draw.tokens.numpy(), decoder.sample(same, seed=np.arange(6).reshape(2, 3), n=2).tokens
        )


def test_tensors_are_shared_not_copied_nor_written():
    rows = torch.randn(4, 100)
    before = rows.clone()
    od.sparsemax().sample(rows, seed=0)
    od.sparsemax()(rows)
    assert torch.equal(rows, before)


def test_masks_gradients_and_strides():
    rows = torch.randn(4, 100, requires_grad=True)
    mask = torch.rand(4, 100) < 0.5
    solution = od.softmax()(rows, mask=mask)
    assert not solution.probs[~mask].any()
    packed = torch.from_numpy(
        np.packbits(np.pad(mask.numpy(), ((0, 0), (0, 28))), axis=1, bitorder="little").view(np.int32)
    )
    assert torch.equal(od.softmax()(rows, mask=packed).probs, solution.probs)
    strided = torch.randn(100, 4).T
    assert torch.equal(od.softmax()(strided).probs, od.softmax()(strided.contiguous()).probs)


def test_single_rows_and_scalars():
    solution = od.softmax()(torch.zeros(4))
    assert solution.probs.shape == (4,)
    assert float(solution.entropy) == pytest.approx(np.log(4))
    assert solution.entropy.shape == ()
    assert od.softmax().sample(torch.zeros(4), seed=1).tokens.shape == (1,)


def test_lists_of_tensors():
    rows = torch.randn(3, 50)
    draw = od.sample_batch([od.softmax()] * 3, list(rows), seeds=[1, 2, 3])
    assert torch.equal(draw.tokens, od.sample_batch([od.softmax()] * 3, rows, seeds=[1, 2, 3]).tokens)


def test_integers_refused():
    with pytest.raises(od.DTypeError, match="int64"):
        od.softmax()(torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plain_call_comes_back_as_tensors_too(dtype):
    rows = torch.randn(3, 50, dtype=dtype)
    rows[1, 4] = torch.nan
    draw = od.softmax().sample(rows, seed=[1, 2, 3], on_failure="mark")
    same = od.softmax().sample(rows.numpy(), seed=[1, 2, 3], on_failure="mark")
    for name in ("tokens", "log_probs", "status"):
        value = getattr(draw, name)
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value.numpy(), getattr(same, name))
    assert draw.log_probs.dtype == dtype
    with pytest.raises(od.errors.ConvergenceError, match="row 1: NAN_SCORES") as error:
        od.softmax().sample(rows, seed=1)
    assert isinstance(error.value.result.tokens, torch.Tensor)
    single = od.softmax().sample(rows[0], seed=1)
    assert single.status is od.Status.OK
    assert single.tokens.shape == (1,)
    # A transposed view is read the long way.
    columns = torch.randn(50, 3, dtype=dtype).T
    assert torch.equal(
        od.top_k(3).sample(columns, seed=4).tokens, od.top_k(3).sample(columns.contiguous(), seed=4).tokens
    )
