"""log q in place of the logits, one decoder a row: what engines that draw themselves call."""

import numpy as np
import pytest
import torch

import optdecode as od
from optdecode._batch import log_probs_in_place
from rows import ROW_KINDS, make_row

DECODERS = [
    od.greedy(),
    od.softmax(0.7),
    od.top_k(5),
    od.top_p(0.9, 1.3),
    od.softmax().subject_to(od.Chain(od.TopK(20), od.TopP(0.9))),
    od.sparsemax(),
    od.entmax(1.5, 0.5),
    od.best_of_k(8),
    od.best_of_k(solver=od.MirrorAscent()),
]


def batch(size, kinds=ROW_KINDS):
    rows = np.stack([make_row(kind, size, "float32", seed=1) for kind in kinds])
    return rows, [DECODERS[i % len(DECODERS)] for i in range(len(rows))]


@pytest.mark.parametrize("size", [1, 3, 130, 2049, 20_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_row_gets_what_its_decoder_gives_alone(size, threads):
    for shift in range(len(DECODERS)):
        rows, decoders = batch(size)
        decoders = decoders[shift:] + decoders[:shift]
        written = rows.copy()
        status = log_probs_in_place(decoders, written, threads=threads)
        assert (status == od.Status.OK).all()
        for decoder, row, log_q in zip(decoders, rows, written, strict=True):
            expected = np.asarray(decoder(row).log_probs)
            np.testing.assert_array_equal(np.isneginf(log_q), np.isneginf(expected))
            finite = np.isfinite(expected)
            np.testing.assert_allclose(log_q[finite], expected[finite], rtol=2e-6, atol=4e-6)


def test_rows_without_a_distribution_stay_as_they_were():
    rows, decoders = batch(300)
    rows[1, 7], rows[3], rows[5, 0] = np.nan, -np.inf, np.inf
    written = rows.copy()
    status = log_probs_in_place(decoders, written)
    bad = {1: od.Status.NAN_SCORES, 3: od.Status.INFEASIBLE, 5: od.Status.INF_SCORES}
    for row in range(len(rows)):
        assert status[row] == bad.get(row, od.Status.OK)
        if row in bad:
            np.testing.assert_array_equal(written[row], rows[row])
        else:
            assert np.exp(written[row].astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("one", [False, True])
def test_masks(packed, one):
    rows, decoders = batch(200)
    flags = np.random.default_rng(0).random(rows.shape) < 0.5
    flags[:, 3] = True
    flags = flags[:1] if one else flags
    mask = np.packbits(flags, axis=1, bitorder="little")
    mask = np.pad(mask, ((0, 0), (0, -mask.shape[1] % 4))).view(np.int32) if packed else flags
    written = rows.copy()
    status = log_probs_in_place(decoders, written, mask=mask)
    full = np.broadcast_to(flags, rows.shape)
    for row, decoder in enumerate(decoders):
        expected = decoder(rows[row], mask=full[row], on_failure="mark")
        assert status[row] == expected.status
        if status[row] == od.Status.OK:
            assert np.isneginf(written[row][~full[row]]).all()
            np.testing.assert_allclose(written[row], expected.log_probs, rtol=2e-6, atol=4e-6)


def test_views_and_tensors_are_written_through():
    rows, decoders = batch(150)
    expected = rows.copy()
    log_probs_in_place(decoders, expected)
    wide = np.full((len(rows), 300), 7.0, dtype=np.float32)
    views = {
        "every other column": wide[:, ::2],
        "a part of the columns": wide[:, 50:200],
        "backwards": np.empty_like(rows)[::-1],
        "columns first": np.empty(rows.shape[::-1], dtype=np.float32).T,
        "fields": np.zeros(rows.shape, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])["logit"],
    }
    for name, view in views.items():
        view[...] = rows
        assert (log_probs_in_place(decoders, view) == 0).all(), name
        np.testing.assert_array_equal(view, expected, err_msg=name)
    assert (wide[:, 201::2] == 7.0).all()  # between the columns that were written
    tensor = torch.from_numpy(rows.copy())
    log_probs_in_place(decoders, tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_nothing_to_do():
    assert log_probs_in_place([], np.empty((0, 5), dtype=np.float32)).shape == (0,)


FINE = np.zeros((2, 4), dtype=np.float32)
FIXED = FINE.copy()
FIXED.flags.writeable = False


@pytest.mark.parametrize(
    ("decoders", "logits", "error", "message"),
    [
        ([od.greedy()] * 2, FINE.astype(np.float64), od.errors.DTypeError, "must be float32; got float64"),
        ([od.greedy()] * 2, torch.zeros(2, 4, dtype=torch.bfloat16), od.errors.DTypeError, "got torch.bfloat16"),
        ([od.greedy()] * 2, FINE.tolist(), od.errors.DTypeError, "got list"),
        ([od.greedy()], FINE[0], od.errors.ShapeError, r"\(B, V\)"),
        ([od.greedy()], FINE, od.errors.ShapeError, "got 1 for 2 rows"),
        ([od.greedy(), "top_k"], FINE, od.ProblemError, "item 1 is 'top_k'"),
        ([od.greedy()] * 2, FIXED, od.ProblemError, "writable"),
        ([od.greedy()] * 2, np.broadcast_to(FINE[:1], (2, 4)), od.ProblemError, "writable"),
        ([od.greedy(), od.best_of_k(anchor="given")], FINE, od.ProblemError, "row 1"),
        ([od.greedy(), od.softmax().subject_to(od.Allowed([9]))], FINE, od.errors.ShapeError, "row 1"),
        ([od.greedy(), od.best_of_k(weights=[1.0])], FINE, od.errors.ShapeError, "row 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(decoders, logits, error, message):
    with pytest.raises(error, match=message):
        log_probs_in_place(decoders, logits)


def test_rows_that_overlap_are_refused():
    rows = np.lib.stride_tricks.as_strided(np.zeros(10, np.float32), (3, 6), (8, 4))
    with pytest.raises(ValueError, match="must not overlap"):
        log_probs_in_place([od.greedy()] * 3, rows)
