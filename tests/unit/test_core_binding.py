"""The compiled module as such: arrays in and out, errors. What the numbers should be is tested through the decoders and
against the reference backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from core_calls import INFEASIBLE, KINDS, NAN_SCORES, OK, SOFTMAX, bf16_bits, make_plan, pack, sample, softmax, solve
from optdecode import _core


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


# ---------------------------------------------------------------- generator


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert _core.philox4x32_10(counter, key) == expected


@pytest.mark.parametrize("bad", [(0, 0, 0), (0, 0, 0, -1), (0, 0, 0, 1 << 32), (0, 0, 0, 0.5), "abcd", None])
def test_philox_rejects_bad_counters(bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        _core.philox4x32_10(bad, (0, 0))


def test_row_seeds_are_the_documented_words() -> None:
    seed = 0x0123456789ABCDEF
    seeds = _core.row_seeds(seed, 5)
    assert seeds.dtype == np.uint64
    assert seeds.shape == (5,)
    assert int(seeds[0]) == seed
    for index in range(1, 5):
        low, high, _, _ = _core.philox4x32_10((index, 0, 0, 1), (seed & 0xFFFFFFFF, seed >> 32))
        assert int(seeds[index]) == low | high << 32
    assert _core.row_seeds(seed, 0).shape == (0,)
    assert int(_core.row_seeds((1 << 64) - 1, 1)[0]) == (1 << 64) - 1


@pytest.mark.parametrize(("seed", "n"), [(-1, 1), (1 << 64, 1), (0, -1)])
def test_row_seeds_rejects_what_is_out_of_range(seed: int, n: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        _core.row_seeds(seed, n)


# ---------------------------------------------------------------- solve


@pytest.mark.parametrize("tag", ["f64", "f32", "f16", "bf16"])
def test_solve_reads_every_float_type(tag: str) -> None:
    x = np.array([[0.5, -1.0, 2.0, 0.0], [1.5, 1.5, -8.0, -np.inf]])
    encode: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "f64": lambda x: x,
        "f32": lambda x: x.astype(np.float32),
        "f16": lambda x: x.astype(np.float16).view(np.uint16),
        "bf16": bf16_bits,
    }
    log_probs, probs, face, *scalars, iterations, status = solve(SOFTMAX, encode[tag](x), tag)
    expected = "float64" if tag == "f64" else "float32"
    assert [array.dtype.name for array in (log_probs, probs, face)] == [expected, expected, "bool"]
    assert log_probs.shape == probs.shape == face.shape == x.shape
    assert all(s.dtype == np.float64 and s.shape == (2,) for s in scalars)
    assert [array.dtype.name for array in (iterations, status)] == ["uint32", "uint8"]
    np.testing.assert_allclose(probs, softmax(x), rtol=1e-6 if expected == "float32" else 1e-13)
    np.testing.assert_array_equal(face, np.isfinite(x))
    np.testing.assert_array_equal(status, [OK, OK])
    assert log_probs[1, 3] == -np.inf
    assert probs[1, 3] == 0.0
    _, _, entropy, kl, kept_mass, multiplier = scalars
    np.testing.assert_allclose(entropy, -(softmax(x) * np.log(np.maximum(softmax(x), 1e-300))).sum(1), rtol=1e-12)
    np.testing.assert_allclose(kl, 0.0, atol=1e-12)
    np.testing.assert_allclose(kept_mass, 1.0, rtol=1e-12)
    np.testing.assert_array_equal(multiplier, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_a_distribution_that_is_drawn_from(kind: str, rng: np.random.Generator) -> None:
    plan = make_plan(kind)
    x = rng.normal(size=(5, 40))
    log_probs, probs, face, *_, status = solve(plan, x)
    np.testing.assert_array_equal(status, np.zeros(5))
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-12)
    assert (probs[~face] == 0).all()
    tokens, drawn, status = sample([plan], x, n=50)
    np.testing.assert_array_equal(status, np.zeros(5))
    assert (np.take_along_axis(probs, tokens, axis=1) > 0).all()
    np.testing.assert_array_equal(drawn, np.take_along_axis(log_probs, tokens, axis=1))


def test_rows_without_a_distribution_are_marked_alone() -> None:
    x = np.array([[0.0, 1.0], [np.nan, 0.0], [-np.inf, -np.inf], [1.0, 0.0]])
    log_probs, probs, face, *scalars, _, status = solve(SOFTMAX, x)
    np.testing.assert_array_equal(status, [OK, NAN_SCORES, INFEASIBLE, OK])
    for array in (log_probs, probs, *scalars):
        assert np.isnan(array[1:3]).all()
        assert not np.isnan(array[[0, 3]]).any()
    assert not face[1:3].any()
    tokens, drawn, status = sample([SOFTMAX], x, n=2)
    np.testing.assert_array_equal(status, [OK, NAN_SCORES, INFEASIBLE, OK])
    np.testing.assert_array_equal(tokens[1:3], -1)
    assert np.isnan(drawn[1:3]).all()
    assert (tokens[[0, 3]] >= 0).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("broadcast", [False, True])
def test_masks_forbid_tokens(packed: bool, broadcast: bool, rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 70)).astype(np.float32)
    mask = rng.random((1 if broadcast else 6, 70)) < 0.4
    mask[:, 69] = True
    given = pack(mask) if packed else mask
    _, probs, face, *_ = solve(SOFTMAX, x, mask=given)
    np.testing.assert_array_equal(face, np.broadcast_to(mask, face.shape))
    np.testing.assert_allclose(probs, softmax(np.where(mask, x, -np.inf).astype(np.float64)), rtol=1e-6)
    tokens, _, _ = sample([SOFTMAX], x, n=100, mask=given)
    assert np.take_along_axis(face, tokens, axis=1).all()


def test_a_short_packed_mask_forbids_what_lies_past_it() -> None:
    mask = np.full((1, 1), 0xFFFFFFFF, dtype=np.uint32)
    _, _, face, *_ = solve(SOFTMAX, np.zeros((2, 40)), mask=mask)
    np.testing.assert_array_equal(face, np.broadcast_to(np.arange(40) < 32, (2, 40)))


def test_anchor_weights_and_budget_are_per_row_or_broadcast(rng: np.random.Generator) -> None:
    x, anchor, weights = rng.normal(size=(3, 9)), rng.normal(size=(3, 9)), rng.random((3, 9))
    plan = make_plan("coverage_dual", anchor="given")
    budget = np.array([1, 5, 9], dtype=np.uint32)
    _, probs, *_ = solve(plan, x, anchor=anchor, weights=weights, budget=budget)
    for i in range(3):
        one: dict[str, Any] = {"anchor": anchor[i : i + 1], "weights": weights[i : i + 1], "budget": budget[i : i + 1]}
        np.testing.assert_array_equal(solve(plan, x[i : i + 1], **one)[1][0], probs[i])
        shared: dict[str, Any] = {
            "anchor": anchor[i : i + 1],
            "weights": weights[i : i + 1],
            "budget": np.repeat(budget[i], 3),
        }
        np.testing.assert_array_equal(solve(plan, np.repeat(x[i : i + 1], 3, axis=0), **shared)[1], [probs[i]] * 3)
    assert len({tuple(row) for row in solve(plan, np.repeat(x[:1], 3, axis=0), anchor=anchor)[1]}) == 3


def test_plan_arrays_are_used() -> None:
    x = np.zeros((1, 4))
    allowed = make_plan(allowed=np.array([1, 3], dtype=np.uint32))
    np.testing.assert_array_equal(solve(allowed, x)[2], [[False, True, False, True]])
    values = np.array([0.0, 0.0, 1.0, 0.0])
    weighted = make_plan("coverage_waterfill", weights="array", weight_values=values)
    assert solve(weighted, x)[1][0].argmax() == 2
    supported = make_plan("coverage_waterfill", weights="support", weight_supports=[("top_k", 1, False)])
    assert solve(supported, x)[1][0].argmax() == 0


def test_rows_may_be_strided_and_inputs_are_not_written_to(rng: np.random.Generator) -> None:
    wide = rng.normal(size=(8, 50))
    before = wide.copy()
    wide.flags.writeable = False
    np.testing.assert_array_equal(solve(SOFTMAX, wide[::2, 5:45])[1], solve(SOFTMAX, wide[::2, 5:45].copy())[1])
    repeated = np.broadcast_to(wide[:1], (4, 50))
    np.testing.assert_array_equal(solve(SOFTMAX, repeated)[1], np.repeat(solve(SOFTMAX, wide[:1])[1], 4, axis=0))
    np.testing.assert_array_equal(solve(SOFTMAX, wide[:, :1])[1], np.ones((8, 1)))
    np.testing.assert_array_equal(wide, before)


def test_empty_and_thin_arrays_are_fine() -> None:
    assert solve(SOFTMAX, np.zeros((0, 5))[::-1])[1].shape == (0, 5)
    np.testing.assert_array_equal(solve(SOFTMAX, np.zeros((3, 1))[:, ::-1])[1], np.ones((3, 1)))
    np.testing.assert_array_equal(solve(SOFTMAX, np.zeros((1, 2))[::-1])[1], np.full((1, 2), 0.5))
    np.testing.assert_array_equal(solve(SOFTMAX, X, mask=np.zeros((2, 0), np.uint32))[-1], [INFEASIBLE] * 2)
    log_probs, *_, status = solve(SOFTMAX, np.zeros((0, 5)), threads=2)
    assert (log_probs.shape, status.shape) == ((0, 5), (0,))
    tokens, _, _ = sample([], np.zeros((0, 5)), n=3, threads=2)
    assert tokens.shape == (0, 3)


# ---------------------------------------------------------------- sample


def test_draws_do_not_depend_on_batch_place_or_threads(rng: np.random.Generator) -> None:
    rows, vocabulary = 24, 3000
    x = (3.0 * rng.normal(size=(rows, vocabulary))).astype(np.float32)
    seeds, positions = _core.row_seeds(9, rows), rng.integers(0, 2**63, rows).astype(np.uint64)
    plans = [make_plan(KINDS[i % len(KINDS)]) for i in range(rows)]
    whole = sample(plans, x, n=4, seeds=seeds, positions=positions)
    for threads in (2, 3, 0):
        again = sample(plans, x, n=4, seeds=seeds, positions=positions, threads=threads)
        for a, b in zip(whole, again, strict=True):
            np.testing.assert_array_equal(a, b)
    order = rng.permutation(rows)
    shuffled = sample(
        [plans[i] for i in order], x[order], n=4, seeds=seeds[order], positions=positions[order], threads=2
    )
    for a, b in zip(whole, shuffled, strict=True):
        np.testing.assert_array_equal(a[order], b)
    for i in range(rows):
        alone = sample([plans[i]], x[i : i + 1], n=4, seeds=seeds[i : i + 1], positions=positions[i : i + 1])
        for a, b in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(a[i : i + 1], b)


def test_solutions_do_not_depend_on_threads(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 2000))
    for kind in KINDS:
        plan = make_plan(kind)
        for a, b in zip(solve(plan, x, threads=1), solve(plan, x, threads=2), strict=True):
            np.testing.assert_array_equal(a, b)


def test_iid_draws_do_not_depend_on_n_and_differ_by_seed_and_position(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 1000))
    draws = {}
    for seed, position in [(1, 0), (2, 0), (1, 1)]:
        given: dict[str, Any] = {"seeds": np.array([seed], np.uint64), "positions": np.array([position], np.uint64)}
        draws[seed, position] = sample([SOFTMAX], x, n=50, **given)[0]
        np.testing.assert_array_equal(sample([SOFTMAX], x, n=7, **given)[0], draws[seed, position][:, :7])
    assert len({tuple(tokens[0]) for tokens in draws.values()}) == 3


def test_a_draw_is_the_documented_integer_inverse_cdf(rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 300))
    probs = solve(SOFTMAX, x)[1]
    seeds, positions = _core.row_seeds(77, 40), np.arange(40, dtype=np.uint64) << np.uint64(30)
    tokens, _, _ = sample([SOFTMAX], x, n=3, seeds=seeds, positions=positions)
    together, _, _ = sample([SOFTMAX], x, n=3, seeds=seeds, positions=positions, coupling="systematic")
    for row in range(40):
        masses = [int(np.rint(q * 2.0**62)) for q in probs[row]]
        cumulative = np.cumsum(np.array(masses, dtype=object))
        seed, position = int(seeds[row]), int(positions[row])
        key, counter = (seed & 0xFFFFFFFF, seed >> 32), (position & 0xFFFFFFFF, position >> 32)
        uniforms = []
        for i in range(3):
            low, high, _, _ = _core.philox4x32_10((*counter, i, 0), key)
            uniforms.append(low | high << 32)
        spread = [(uniforms[0] + (i << 64) // 3) % (1 << 64) for i in range(3)]
        for got, rs in ((tokens[row], uniforms), (together[row], spread)):
            expected = [next(i for i, c in enumerate(cumulative) if c > r * cumulative[-1] >> 64) for r in rs]
            assert got.tolist() == expected


def test_systematic_draws_have_the_counts_of_n_q() -> None:
    x = np.log([[0.125, 0.5, 0.375]])
    for seed in range(20):
        tokens, _, _ = sample([SOFTMAX], x, n=80, coupling="systematic", seeds=np.array([seed], np.uint64))
        # exp(log(q)) is off by an ulp, so that a boundary may fall to either side.
        assert np.abs(np.bincount(tokens[0], minlength=3) - [10, 40, 30]).max() <= 1


# ---------------------------------------------------------------- errors

X = np.zeros((2, 4))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"logits": np.zeros(4)}, ValueError, "2 dimensions"),
        ({"logits": np.zeros((2, 2, 2))}, ValueError, "2 dimensions"),
        ({"logits": np.zeros((2, 0))}, ValueError, "V"),
        ({"logits": [[0.0, 1.0]]}, TypeError, "NumPy array"),
        ({"logits": np.zeros((2, 4), np.float32)}, TypeError, "float64"),
        ({"logits": np.zeros((2, 4), np.int64)}, TypeError, "float64"),
        ({"logits": np.zeros((2, 4), np.dtype("f8").newbyteorder())}, TypeError, "native float64"),
        ({"logits": np.zeros((4, 2)).T}, TypeError, "ascontiguousarray"),
        ({"logits": np.zeros((2, 8))[:, ::2]}, TypeError, "ascontiguousarray"),
        ({"logits": np.zeros((2, 4))[:, ::-1]}, TypeError, "ascontiguousarray"),
        ({"logits": np.zeros((2, 4))[::-1]}, TypeError, "ascontiguousarray"),
        ({"logits": np.zeros(65, np.uint8)[1:].view(np.float64).reshape(2, 4)}, TypeError, "aligned"),
        (
            {"logits": np.ndarray((2, 4), np.float64, np.zeros(80, np.uint8).data, 0, (36, 8))},
            TypeError,
            "ascontiguousarray",
        ),
        ({"dtype": "f8"}, ValueError, "dtype"),
        ({"dtype": 64}, TypeError, "."),
        ({"mask": np.ones((2, 5), bool)}, ValueError, "mask"),
        ({"mask": np.ones((3, 4), bool)}, ValueError, "mask"),
        ({"mask": np.ones(4, bool)}, ValueError, "mask"),
        ({"mask": np.ones((3, 1), np.uint32)}, ValueError, "mask"),
        ({"mask": np.ones((2, 1), np.int32)}, TypeError, "mask"),
        ({"mask": "all"}, TypeError, "mask"),
        ({"anchor": np.zeros((2, 3))}, ValueError, "anchor"),
        ({"anchor": np.zeros((2, 4), np.float32)}, TypeError, "anchor"),
        ({"weights": np.zeros((3, 4))}, ValueError, "weights"),
        ({"budget": np.ones(3, np.uint32)}, ValueError, "budget"),
        ({"budget": np.array([1, 0], np.uint32)}, ValueError, "row 1"),
        ({"budget": np.ones(2, np.int64)}, TypeError, "budget"),
        ({"budget": np.ones(4, np.uint32)[::2]}, TypeError, "budget"),
        ({"threads": -1}, ValueError, "threads"),
        ({"threads": 1 << 70}, ValueError, "threads"),
        ({"threads": 1.5}, TypeError, "threads"),
        ({"plan": make_plan("anchored_softmax", anchor="given")}, ValueError, "anchor"),
        ({"plan": make_plan(allowed=np.array([4], np.uint32))}, ValueError, "token 4"),
        (
            {"plan": make_plan("coverage_waterfill", weights="array", weight_values=np.ones(3))},
            ValueError,
            "length 3",
        ),
        ({"plan": "softmax"}, TypeError, "."),
    ],
)
def test_solve_and_sample_reject_bad_arrays(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"plan": SOFTMAX, "logits": X, "dtype": "f64"} | changes
    with pytest.raises(error, match=words):
        solve(**given)
    plan = given.pop("plan")
    two = np.zeros(2, np.uint64)
    with pytest.raises(error, match=words):
        sample([plan], **given, seeds=two, positions=two)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"plans": []}, ValueError, "plans"),
        ({"plans": [SOFTMAX] * 3}, ValueError, "plans"),
        ({"plans": [SOFTMAX, make_plan(allowed=np.array([9], np.uint32))]}, ValueError, "row 1"),
        ({"plans": SOFTMAX}, TypeError, "."),
        ({"seeds": np.zeros(1, np.uint64)}, ValueError, "seeds"),
        ({"seeds": np.zeros((2, 1), np.uint64)}, ValueError, "seeds"),
        ({"seeds": np.zeros(2, np.int64)}, TypeError, "seeds"),
        ({"positions": np.zeros(4, np.uint64)[::2]}, TypeError, "positions"),
        ({"n": 0}, ValueError, "n must"),
        ({"n": 1 << 32}, ValueError, "n must"),
        ({"n": 2.0}, TypeError, "n must"),
        ({"coupling": "gumbel"}, ValueError, "coupling"),
    ],
)
def test_sample_rejects_bad_arguments(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"plans": [SOFTMAX], "logits": X} | changes
    with pytest.raises(error, match=words):
        sample(**given)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gumbel", {}),
        ("softmax", {"temperature": 0.0}),
        ("softmax", {"temperature": float("nan")}),
        ("softmax", {"score_weight": float("inf")}),
        ("softmax", {"lam": 0.0}),
        ("softmax", {"anchor": "p"}),
        ("anchored_softmax", {"anchor": "none"}),
        ("threshold_tsallis", {"alpha": 1.0}),
        ("coverage_dual", {"budget": 0}),
        ("coverage_dual", {"budget": -1}),
        ("coverage_dual", {"beta_bar": -0.1}),
        ("coverage_dual", {"weights": "p"}),
        ("coverage_dual", {"weights": "array"}),
        ("coverage_dual", {"weights": "array", "weight_values": np.array([0.5, -0.5])}),
        ("coverage_dual", {"weights": "support", "weight_supports": [("top_q", 1.0, False)]}),
        ("coverage_waterfill", {"lam": 0.1}),
        ("mirror", {"steps": 0}),
        ("mirror", {"eta": 0.0}),
        ("mirror", {"tolerance": 0.0}),
        ("mirror", {"tolerance": float("inf")}),
        ("mirror", {"tolerance": 1e-7, "lam": 0.0}),
        ("softmax", {"supports": [("top_k", 0, False)]}),
        ("softmax", {"supports": [("top_k", 2.5, False)]}),
        ("softmax", {"chains": [[("top_k", 2, False), ("top_p", 0.0, False)]]}),
        ("softmax", {"supports": [("top_p", 0.0, False)]}),
        ("softmax", {"supports": [("min_p", 1.5, False)]}),
        ("softmax", {"supports": [("top_n_sigma", -1.0, False)]}),
        ("softmax", {"supports": [("epsilon", float("nan"), False)]}),
        ("softmax", {"allowed": np.array([3, 1], np.uint32)}),
        ("softmax", {"allowed": np.array([1, 1], np.uint32)}),
    ],
)
def test_plans_reject_bad_parameters(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        make_plan(kind, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"lam": "1"},
        {"supports": [("top_k", 1)]},
        {"steps": 1.5},
        {"allowed": np.array([1])},
        {"allowed": np.arange(4, dtype=np.uint32)[::2]},
        {"allowed": [1]},
        {"weights": "array", "weight_values": np.ones(3, np.float32)},
        {"weights": "array", "weight_values": np.zeros(33, np.uint8)[1:].view(np.float64)},
    ],
)
def test_plans_reject_bad_types(changes: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_plan("mirror", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": np.zeros((1, 2), np.int64)}, "tokens must have 2 rows; got 1"),
        ({"tokens": np.zeros((2, 2), np.int32)}, "tokens must be a native int64 array"),
        ({"tokens": np.zeros((2, 4), np.int64)[:, ::2]}, "contiguous along the last axis"),
        ({"m": -1}, "m must be"),
        ({"plans": [make_plan()] * 3}, "plans must have length 1 or 2"),
        ({"plans": [make_plan("coverage_dual", anchor="given")]}, "anchor is None"),
    ],
)
def test_what_the_model_is_asked_wrongly(changes, message):
    arguments = {"plans": [make_plan()], "tokens": np.zeros((2, 1), np.int64), "m": 2} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        _core.model_log_probs(
            arguments["plans"], np.zeros((2, 5)), "f64", None, None, arguments["tokens"], arguments["m"], 1
        )


def test_the_model_of_no_rows_and_of_no_tokens():
    empty = _core.model_log_probs([], np.zeros((0, 5)), "f64", None, None, np.zeros((0, 3), np.int64), 2, 1)
    assert [array.shape for array in empty] == [(0, 3), (0, 2), (0, 2)]
    none = _core.model_log_probs([make_plan()], np.zeros((2, 5)), "f64", None, None, np.zeros((2, 0), np.int64), 0, 1)
    assert [array.shape for array in none] == [(2, 0), (2, 0), (2, 0)]
