"""The torch backend through the public calls: what goes in, what comes back, draws, refusals."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch

import optdecode as od
from optdecode import backends
from optdecode._plan import Plan
from optdecode.backends import reference
from optdecode.backends.torch import _draw, _order, _philox
from rows import ROW_KINDS, make_row, make_rows

DECODERS = [
    od.greedy(),
    od.softmax(0.8),
    od.top_k(5),
    od.top_p(0.9),
    od.softmax().subject_to(od.Chain(od.TopK(50), od.TopP(0.9))),
    od.sparsemax(3.0),
    od.entmax(1.5, temperature=2.0),
    od.best_of_k(8, beta=1.0, lam=1.0),
    od.best_of_k(8, beta_bar=4.0, lam=0.0),
    od.best_of_k(solver=od.MirrorAscent()),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(3).normal(size=(6, 300)) * 2


# ---------------------------------------------------------------------------------------------------- random numbers


def test_philox_is_random123s():
    cases = [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        words = tuple(torch.tensor([word]) for word in counter)
        found = _philox.philox4x32_10(words, _philox.Words(*(torch.tensor([word]) for word in key)))
        assert tuple(int(word) for word in found) == expected


def bits(values):
    return torch.tensor([value - 2**64 if value >= 2**63 else value for value in values])


def test_uniforms_and_row_seeds_are_the_references():
    seeds, positions = [0, 1, 2**63 + 5, 2**64 - 1], [7, 2**40 + 3, 2**64 - 1, 0]
    for coupling in ("iid", "systematic"):
        for n in (1, 2, 3, 7, 1000):
            low, high = _philox.uniforms(bits(seeds), bits(positions), n, coupling)
            for row, (seed, position) in enumerate(zip(seeds, positions, strict=True)):
                found = [int(a) | int(b) << 32 for a, b in zip(low[row], high[row], strict=True)]
                assert found == uniforms(seed, position, n, coupling), (seed, position, n, coupling)
    for seed in seeds:
        derived = _philox.row_seeds(bits([seed]), 5).numpy().view(np.uint64)
        np.testing.assert_array_equal(derived, od.row_seeds(seed, 5))


def uniforms(seed, position, n, coupling):
    """The contract, in Python integers."""

    def one(draw):
        counter = (position & 0xFFFFFFFF, position >> 32, draw, 0)
        low, high, _, _ = reference.philox4x32_10(counter, (seed & 0xFFFFFFFF, seed >> 32))
        return low | high << 32

    if coupling == "iid":
        return [one(draw) for draw in range(n)]
    return [(one(0) + (i << 64) // n) % 2**64 for i in range(n)]


def test_targets_are_exact_products():
    rng = np.random.default_rng(0)
    numbers = [int(v) for v in rng.integers(0, 2**64, 200, dtype=np.uint64)] + [0, 1, 2**64 - 1]
    totals = [int(v) for v in rng.integers(0, 2**63, 200, dtype=np.int64)] + [2**62, 2**63 - 1, 2**62 + 12345]
    r = _philox.split(bits(numbers))
    found = _philox.scaled(r, torch.tensor(totals))
    assert found.tolist() == [r * total >> 64 for r, total in zip(numbers, totals, strict=True)]


# --------------------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prefixes_and_ranks_are_those_of_a_stable_sort(dtype):
    for kind in ROW_KINDS:
        name = str(dtype).removeprefix("torch.")
        x = torch.from_numpy(make_row(kind, 100, name, seed=9)[None])
        x[x == 0] = torch.tensor([0.0, -0.0], dtype=dtype).repeat(50)[: int((x == 0).sum())]
        key, width = _order.keys(x)
        order = torch.argsort(-x, stable=True)[0]
        ranks = torch.empty(100, dtype=torch.int64).scatter(0, order, torch.arange(1, 101))
        assert torch.equal(_order.ranks(key, width, torch.ones_like(x, dtype=torch.bool))[0], ranks), kind
        weight = torch.arange(100)[None] % 7
        before = weight[0][order].cumsum(0) - weight[0][order]
        for target in (1, 2, 50, 290, 10**6):
            kept = _order.prefix(key, width, weight, torch.tensor([[target]]))[0]
            assert torch.equal(kept[order] & (weight[0][order] > 0), (before < target) & (weight[0][order] > 0)), kind


# ------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("coupling", ["iid", "systematic"])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_tokens_of_float64_rows_are_rusts(decoder, coupling, logits):
    seeds, positions = np.arange(6, dtype=np.uint64) + 2**63, np.arange(6) * 2**33
    arguments = {"seed": seeds, "position": positions, "n": 200, "coupling": coupling}
    rust, drawn = decoder.sample(logits, **arguments), decoder.sample(logits, **arguments, backend="torch")
    assert (rust.backend, drawn.backend) == ("rust", "torch")
    np.testing.assert_array_equal(drawn.tokens, rust.tokens)
    np.testing.assert_allclose(drawn.log_probs, rust.log_probs, rtol=1e-9, atol=1e-10)
    assert drawn.log_probs.dtype == rust.log_probs.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_tokens_of_narrow_rows_are_rusts_away_from_boundaries(decoder, dtype, logits):
    rows = torch.from_numpy(logits).to(dtype)
    rust, drawn = decoder.sample(rows, seed=5, n=500), decoder.sample(rows, seed=5, n=500, backend="torch")
    q = decoder(rows.double().numpy(), backend="reference").probs
    ends = np.cumsum(q, axis=-1)
    seeds = od.row_seeds(5, 6)
    for row, draw in np.argwhere((rust.tokens != drawn.tokens).numpy()):
        u = uniforms(int(seeds[row]), 0, int(draw) + 1, "iid")[-1] / 2**64
        assert np.abs(ends[row] - u).min() < 1e-5, (decoder, row, draw)
    assert (rust.tokens != drawn.tokens).float().mean() < 2e-3


def test_draws_follow_seeds_wherever_they_are(logits):
    rows = torch.from_numpy(logits)
    whole = od.top_p(0.9).sample(rows, seed=torch.arange(6), position=9, n=3, backend="torch")
    assert isinstance(whole.tokens, torch.Tensor)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = od.top_p(0.9).sample(rows[order], seed=order, position=9, n=3, backend="torch")
    assert torch.equal(shuffled.tokens, whole.tokens[order])
    alone = od.top_p(0.9).sample(rows[2], seed=2, position=9, n=3, backend="torch")
    assert torch.equal(alone.tokens, whole.tokens[2])
    assert alone.status is od.Status.OK
    again = od.top_p(0.9)(rows, backend="torch").sample(seed=torch.arange(6), position=9, n=3)
    assert torch.equal(again.tokens, whole.tokens)


def test_mixed_batches_are_their_rows(logits):
    decoders = [od.softmax(0.7), od.top_k(3), od.softmax(0.9), od.top_k(5), od.best_of_k(4), od.min_p(0.0)]
    seeds = np.arange(6) + 10
    arguments = {"n": 4, "model_log_probs": True, "top_log_probs": 3}
    draw = od.sample_batch(decoders, logits, seeds, 3, backend="torch", **arguments)
    rust = od.sample_batch(decoders, logits, seeds, 3, **arguments)
    for name in ("tokens", "top_tokens", "status"):
        np.testing.assert_array_equal(getattr(draw, name), getattr(rust, name))
    for name in ("log_probs", "model_log_probs", "top_log_probs"):
        np.testing.assert_allclose(getattr(draw, name), getattr(rust, name), atol=1e-9)
    for row, decoder in enumerate(decoders):
        alone = decoder.sample(logits[row], seed=int(seeds[row]), position=3, n=4, backend="torch")
        np.testing.assert_array_equal(alone.tokens, draw.tokens[row])


# ------------------------------------------------------------------------------------------------ masks, anchors, rows


def packed(mask):
    pad = -mask.shape[-1] % 32
    return np.packbits(np.pad(mask, ((0, 0), (0, pad))), axis=1, bitorder="little").view(np.int32)


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_masks_flags_bits_and_allowed(decoder, logits):
    mask = np.random.default_rng(1).random((6, 300)) < 0.4
    mask[:, 270:] = False
    bits = packed(mask)[:, :9]  # shorter than V / 32: the rest is forbidden
    expected = decoder(logits, mask=mask, backend="reference")
    for given in (mask, bits, torch.from_numpy(mask), torch.from_numpy(bits)):
        found = decoder(logits, mask=given, backend="torch")
        np.testing.assert_allclose(found.probs, expected.probs, atol=1e-9)
        assert not found.probs[~mask].any()
    one = np.flatnonzero(mask[0])
    allowed = decoder.subject_to(od.Allowed(one))(logits, backend="torch")
    np.testing.assert_allclose(allowed.probs, decoder(logits, mask=mask[:1], backend="torch").probs, atol=1e-12)


def test_anchors_weights_and_budgets_of_rows(logits):
    rng = np.random.default_rng(2)
    anchor = rng.normal(size=(6, 300))
    anchor[0, :5] = -np.inf
    arguments = {"anchor": anchor, "weights": rng.random((6, 300)), "budget": np.array([1, 2, 3, 8, 100, 5000])}
    decoder = od.best_of_k(8, beta_bar=3.0, lam=0.5, anchor="given")
    for given in (arguments, {name: torch.from_numpy(value) for name, value in arguments.items()}):
        found = decoder(logits, **given, backend="torch")
        np.testing.assert_allclose(found.probs, decoder(logits, **arguments, backend="reference").probs, atol=1e-9)
        assert found.certificate().relative_gap.max() < 1e-9
    single = decoder(logits, anchor=anchor[1], weights=arguments["weights"][1], budget=4, backend="torch")
    expected = decoder(logits, anchor=anchor[1], weights=arguments["weights"][1], budget=4)
    np.testing.assert_allclose(single.probs, expected.probs, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decoder", [*DECODERS, od.best_of_k(anchor="given")], ids=repr)
def test_bad_rows_are_marked_and_harm_no_other(decoder, dtype):
    rows = np.random.default_rng(4).normal(size=(8, 40)).astype(dtype)
    bad = rows.copy()
    bad[1, 3], bad[2, 4], bad[3], bad[5, 0] = np.nan, np.inf, -np.inf, np.nan
    mask = np.ones((8, 40), dtype=bool)
    mask[5, 0], mask[6] = False, False
    anchor, weights = (np.zeros((8, 40)), np.ones((8, 40)))
    anchor[7, 7], weights[4, 9] = np.nan, -1.0
    arguments = {"mask": mask, "on_failure": "mark"}
    if decoder.plan.anchor == "given":
        arguments["anchor"] = anchor
    if decoder.plan.has_coverage:
        arguments["weights"] = weights
    found, rust = decoder(bad, **arguments, backend="torch"), decoder(bad, **arguments)
    np.testing.assert_array_equal(found.status, rust.status)
    failed = rust.status > 1
    assert failed.sum() >= 4
    assert np.isnan(found.probs[failed]).all()
    for name in ("threshold", "objective", "entropy", "kl", "kept_mass", "multiplier"):
        np.testing.assert_array_equal(np.isnan(getattr(found, name)), failed)
    arguments |= {"weights": np.ones((8, 40))} if "weights" in arguments else {}
    arguments |= {"anchor": np.zeros((8, 40))} if "anchor" in arguments else {}
    arguments["mask"] = mask | failed[:, None]
    good = decoder(np.where(failed[:, None], rows, np.where(mask, bad, 0)), **arguments, backend="torch")
    np.testing.assert_array_equal(found.probs[~failed], good.probs[~failed])
    draw = decoder.sample(bad, seed=1, n=2, backend="torch", **(arguments | {"mask": mask}))
    assert (draw.tokens[[1, 2, 3, 6]] == -1).all()
    assert np.isnan(draw.log_probs[[1, 2, 3, 6]]).all()
    assert (draw.tokens[0] >= 0).all()


def test_failures_raise_with_the_whole_result():
    rows = torch.zeros(3, 5)
    rows[1, 0] = torch.nan
    with pytest.raises(od.ConvergenceError, match="row 1: NAN_SCORES") as error:
        od.softmax()(rows, backend="torch")
    assert error.value.result.probs[0].sum() == pytest.approx(1.0)
    with pytest.raises(od.ConvergenceError, match="row 1"):
        od.softmax().sample(rows, backend="torch", seed=1)


# ------------------------------------------------------------------------------------------------- inputs and refusals


def test_what_comes_back_is_what_went_in():
    rows = make_rows(40, "float32", seed=1)[[0, 6]]
    for given, dtype in ((np.float32, np.float32), (np.float64, np.float64), (np.float16, np.float32)):
        solution = od.top_p(0.9)(rows.astype(given), backend="torch")
        assert type(solution.probs) is np.ndarray
        assert solution.probs.dtype == dtype
        assert solution.threshold.dtype == np.float64
        assert solution.status.tolist() == [0, 0]
    half = rows.astype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(
        od.softmax()(half, backend="torch").probs, od.softmax()(half.astype(np.float64)).probs, atol=1e-6
    )
    frozen = rows.copy()
    frozen.flags.writeable = False
    for view in (rows[::-1], rows[:, ::2], np.asfortranarray(rows), frozen):
        np.testing.assert_allclose(od.softmax()(view, backend="torch").probs, od.softmax()(view).probs, atol=1e-6)
    tensor = torch.from_numpy(rows).reshape(2, 1, 40)
    solution = od.softmax()(tensor, backend="torch")
    assert solution.probs.shape == (2, 1, 40)
    assert solution.entropy.shape == solution.support_size.shape == (2, 1)
    assert solution.iterations.dtype == torch.int64
    assert "support=40..40 status=[OK x 2] backend=torch" in repr(solution)
    single = od.softmax()(tensor[0, 0], backend="torch")
    assert single.status is od.Status.OK
    assert single.entropy.shape == ()


def test_out_receives_log_q():
    rows = torch.randn(3, 40)
    before = rows.clone()
    expected = od.top_k(5)(rows, backend="torch").log_probs
    solution = od.top_k(5)(rows, backend="torch", out=rows)
    assert torch.equal(rows, expected)
    assert solution.certificate().gap.max() < 1e-5  # of the logits as they were
    array = np.empty((3, 40), dtype=np.float32)
    od.top_k(5)(before, backend="torch", out=array)
    np.testing.assert_array_equal(array, expected.numpy())
    with pytest.raises(od.DTypeError, match="out must be float32"):
        od.softmax()(before, backend="torch", out=before.double())
    with pytest.raises(od.ShapeError, match="out must have the shape"):
        od.softmax()(before, backend="torch", out=torch.empty(3, 41))


def test_bad_arguments_are_refused():
    rows = torch.zeros(2, 40)
    cases = [
        (od.DTypeError, "int64", {"logits": torch.zeros(2, 40, dtype=torch.int64)}),
        (od.ShapeError, "V >= 1", {"logits": torch.zeros(2, 0)}),
        (od.ShapeError, "V = 40", {"mask": torch.ones(2, 39, dtype=torch.bool)}),
        (od.ShapeError, "W <= ceil", {"mask": torch.ones(2, 3, dtype=torch.int32)}),
        (od.DTypeError, "packed", {"mask": torch.ones(2, 40)}),
        (od.ShapeError, "broadcast", {"mask": torch.ones(3, 40, dtype=torch.bool)}),
        (od.ShapeError, "V = 40", {"weights": torch.ones(2, 39)}),
        (od.DTypeError, "float array", {"weights": torch.ones(2, 40, dtype=torch.bool)}),
        (od.ProblemError, r"in \[1, ", {"budget": torch.tensor([1, 0])}),
        (od.ProblemError, "anchor= needs", {"anchor": torch.ones(2, 40)}),
    ]
    for error, message, given in cases:
        with pytest.raises(error, match=message):
            od.best_of_k()(**({"logits": rows} | given), backend="torch")
    with pytest.raises(od.ProblemError, match="seed must be in"):
        od.softmax().sample(rows, seed=torch.tensor([1, -1]), backend="torch")
    with pytest.raises(od.ProblemError, match="'reference', 'torch'; got 'cuda'"):
        od.softmax()(rows, backend="cuda")


def test_plans_without_a_solver_are_refused_by_name():
    rows = torch.zeros(2, 40)
    problems = {
        "SEPARABLE_DUAL": od.Problem(od.NegEntropy() + od.Quadratic()),
        "ADAPTIVE_K": od.Problem(od.NegEntropy() + 0.1 * od.L0()),
        "GREEDY_FILL": od.Problem(support=od.Cap(0.5)),
        "SOFTMAX with a target of entropy": od.Problem(od.NegEntropy(), support=od.Entropy(1.0)),
        "the support typical": od.Problem(od.NegEntropy(), support=od.Typical(0.5)),
    }
    for name, problem in problems.items():
        with pytest.raises(od.BackendUnavailableError, match=f"no solver for {name}"):
            od.Decoder(problem)(rows, backend="torch")
        with pytest.raises(od.BackendUnavailableError, match="no solver"):
            od.Decoder(problem).sample(rows, backend="torch")


def test_other_couplings_are_refused_by_name():
    rows = torch.zeros(2, 40)
    with pytest.raises(od.BackendUnavailableError, match="no coupling 'gumbel_topk'"):
        od.softmax().sample(rows, coupling="gumbel_topk", n=2, backend="torch")
    with pytest.raises(od.BackendUnavailableError, match="no ArithmeticCodes"):
        od.softmax().sample(rows, coupling=od.ArithmeticCodes(2), backend="torch")


def test_what_has_no_mass_is_not_drawn_at_a_boundary(monkeypatch):
    """A target that is a cumulative mass belongs to the next token that has some."""
    q = torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64)
    for bits, token in ((0, 1), (2**63 - 1, 1), (-(2**63), 3), (-1, 3)):
        words = _philox.split(torch.tensor([[bits]]))
        monkeypatch.setattr(_draw, "uniforms", lambda *_, words=words: words)
        assert _draw.draw(q, q.log(), torch.zeros(1), torch.zeros(1), 1, "iid")[0].item() == token


def test_fields_of_plans_are_all_known():
    """A field that this backend does not know would be ignored in silence."""
    known = {
        "kind", "temperature", "score_weight", "raw_scores", "lam", "alpha", "beta_bar", "budget", "weights",
        "weight_values", "weight_supports", "anchor", "steps", "eta", "terms", "price", "cap", "target", "supports",
        "chains", "allowed", "tolerance", "user", "keeps",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(Plan)} == known


def test_torch_is_not_chosen_for_plain_tensors():
    assert od.softmax()(torch.zeros(3)).backend == "rust"
    assert backends.select("auto")[0] == "rust"
