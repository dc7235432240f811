"""The common call in one step, `_core.sample_plain`: what `_core.sample` gives, or it is left to the caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core_calls import KINDS, OK, SOFTMAX, make_plan, sample
from optdecode import _core


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("coupling", ["iid", "systematic"])
def test_plain_arguments_give_what_sample_gives(dtype: Any, coupling: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 90)).astype(dtype)
    x[2, 5] = np.nan
    rows, tag = (x.view(np.uint16), "f16") if dtype == np.float16 else (x, None)
    plans = [make_plan(kind) for kind in KINDS[:6]]
    seeds, positions = _core.row_seeds(7, 6), np.array([3, 1, 4, 1, 5, 9], np.uint64)
    given: dict[str, Any] = {"n": 4, "coupling": coupling, "positions": positions}
    tokens, log_probs, status = sample(plans, rows, tag, seeds=seeds, **given)

    seeds_given = [7, seeds, seeds.tolist()]
    positions_given = [positions, positions.astype(np.int64), positions.tolist()]
    for seed, position in zip(seeds_given, positions_given, strict=True):
        plain = _core.sample_plain(plans, x, seed, position, 4, coupling, None)
        assert plain is not None
        np.testing.assert_array_equal(plain[0], tokens)
        np.testing.assert_array_equal(plain[1], log_probs.astype(np.float64 if dtype == np.float64 else np.float32))
        np.testing.assert_array_equal(plain[2], status)
        assert [array.dtype.name for array in (plain[0], plain[2])] == ["int64", "int64"]  # type: ignore[union-attr]
        assert plain[1].dtype == (np.float64 if dtype == np.float64 else np.float32)
        assert plain[3] is False
    for row in range(6):
        single = _core.sample_plain(plans[row], x[row], int(seeds[row]), int(positions[row]), 4, coupling, 1)
        assert single is not None
        np.testing.assert_array_equal(single[0], tokens[row])
        np.testing.assert_array_equal(single[1], log_probs[row].astype(single[1].dtype))
        assert single[2:] == (status[row], status[row] == OK)
        assert type(single[2]) is int
    one = _core.sample_plain(SOFTMAX, x[:2], 7, 0, 1, coupling, 2)
    assert one is not None
    assert (one[0].shape, one[3]) == ((2, 1), True)
    np.testing.assert_array_equal(one[0], sample([SOFTMAX], rows[:2], tag, seeds=seeds[:2], coupling=coupling)[0])


def test_many_plain_draws_of_a_row() -> None:
    x = np.zeros(50, np.float32)
    for n in (1, 5000, 2, 5000):
        plain = _core.sample_plain(SOFTMAX, x, 3, 0, n, "iid", None)
        assert plain is not None
        np.testing.assert_array_equal(plain[0], sample([SOFTMAX], x[None], seeds=np.array([3], np.uint64), n=n)[0][0])
        np.testing.assert_allclose(plain[1], np.full(n, -np.log(50)), rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": [0.0, 1.0]},
        {"logits": np.float32(0.0)},
        {"logits": np.zeros((1, 2, 4))},
        {"logits": np.zeros((2, 0))},
        {"logits": np.zeros((0, 4))},
        {"logits": np.zeros((2, 4), np.int64)},
        {"logits": np.zeros((2, 4), np.uint16)},
        {"logits": np.zeros((2, 4), np.complex64)},
        {"logits": np.zeros((2, 4), ">f2")},
        {"logits": np.zeros((2, 4), ">f4")},
        {"logits": np.zeros((2, 8))[:, ::2]},
        {"logits": np.zeros((2, 4))[::-1]},
        {"logits": np.zeros((4, 2)).T},
        {"logits": np.zeros(65, np.uint8)[1:].view(np.float64).reshape(2, 4)},
        {"seed": None},
        {"seed": True},
        {"seed": -1},
        {"seed": 1 << 64},
        {"seed": 1.0},
        {"seed": np.uint64(1)},
        {"seed": np.zeros(3, np.uint64)},
        {"seed": np.zeros((2, 1), np.uint64)},
        {"seed": np.zeros(4, np.uint64)[::2]},
        {"seed": np.zeros(2, np.int32)},
        {"seed": [1]},
        {"seed": [1, True]},
        {"seed": [1, -1]},
        {"seed": (1, 2)},
        {"position": np.array([0, -1])},
        {"position": "0"},
        {"n": 0},
        {"n": 1 << 31},
        {"n": True},
        {"n": np.int64(1)},
        {"coupling": "gumbel"},
        {"coupling": None},
        {"threads": 0},
        {"threads": 4097},
        {"threads": True},
        {"plans": []},
        {"plans": [SOFTMAX]},
        {"plans": [SOFTMAX, None]},
        {"plans": (SOFTMAX, SOFTMAX)},
        {"plans": [SOFTMAX, make_plan(allowed=np.array([4], np.uint32))]},
        {"plans": make_plan("anchored_softmax", anchor="given")},
        {"plans": make_plan("coverage_waterfill", weights="array", weight_values=np.ones(3))},
        {"plans": [SOFTMAX], "logits": np.zeros(4)},
    ],
)
def test_what_is_not_plain_is_left_to_the_caller(changes: dict[str, Any]) -> None:
    plain: dict[str, Any] = {
        "plans": SOFTMAX, "logits": np.zeros((2, 4)), "seed": 0, "position": 0, "n": 1, "coupling": "iid", "threads": 1,
    }  # fmt: skip
    assert _core.sample_plain(**plain) is not None
    assert _core.sample_plain(**plain | changes) is None
