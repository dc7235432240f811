"""Regularizers and supports of a user's own: from definition to draw, and what happens when they are wrong."""

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

import optdecode as od
from optdecode import PlanKind, Status
from optdecode._batch import log_probs_in_place
from optdecode.errors import ConvergenceError, ProblemError
from rows import make_row
from user_terms import (
    Above,
    Broken,
    BrokenInverse,
    DualEntropy,
    DualQuadratic,
    Even,
    GroupBalance,
    Linear,
    OwnCoverage,
    OwnEntropy,
    OwnKL,
    OwnQuadratic,
    TorchAbove,
    TorchEntropy,
    TorchQuadratic,
)

ROWS = np.stack([make_row("gaussian", 40, seed=seed) for seed in range(5)])
BALANCE = GroupBalance((0.2, 0.3, 0.5))


def decoder(regularizer, solver=None, **problem):
    return od.Decoder(od.Problem(regularizer, **problem), solver)


# ------------------------------------------------------------------------------------------------------ spec and plan


def test_a_user_regularizer_is_a_spec_like_any():
    dec = decoder(2.0 * BALANCE + 0.1 * od.NegEntropy(), support=od.TopK(9) & Even(), temperature=0.7)
    assert dec.plan.kind is PlanKind.USER
    assert not dec.plan.kind.is_exact
    assert {term: c for c, term in dec.plan.user} == {BALANCE: 2.0, od.NegEntropy(): 0.1}
    assert dec.plan.keeps == (Even(),)
    again = od.Decoder.from_dict(json.loads(json.dumps(dec.to_dict())))
    assert again == dec
    assert hash(again) == hash(dec)
    assert pickle.loads(pickle.dumps(dec)) == dec
    assert pickle.loads(pickle.dumps(dec.plan)) == dec.plan
    assert dec != decoder(2.0 * GroupBalance((0.2, 0.2, 0.6)) + 0.1 * od.NegEntropy())


def test_a_subclass_of_a_built_in_regularizer_is_the_users():
    @dataclass(frozen=True)
    class Doubled(od.Quadratic):
        def value(self, q, ctx):
            return 2.0 * super().value(q, ctx)

        def gradient(self, q, ctx):
            return 2.0 * super().gradient(q, ctx)

    np.testing.assert_allclose(decoder(Doubled())(ROWS).probs, od.sparsemax(2.0)(ROWS).probs, atol=1e-7)


def test_names_are_not_taken_over():
    with pytest.raises(ProblemError, match=r"the name KL belongs to optdecode.regularizers.divergences.KL.*rename"):

        class KL(od.Regularizer):
            pass

    assert od.Decoder.from_dict(decoder(od.KL()).to_dict()).plan.kind is PlanKind.ANCHORED_SOFTMAX

    def define():
        @dataclass(frozen=True)
        class DefinedTwice(OwnQuadratic):
            """As a notebook's cell that is run again."""

        return DefinedTwice

    assert define() is not define()


@dataclass
class Thawed(od.Regularizer):
    pass


class Plain(od.Regularizer):
    def value(self, q, ctx):
        return q.sum(axis=-1)

    def gradient(self, q, ctx):
        return np.ones(q.shape)


@dataclass(frozen=True)
class Valueless(od.Regularizer):
    pass


@dataclass(frozen=True)
class Slopeless(od.Regularizer):
    def value(self, q, ctx):
        return q.sum(axis=-1)


@dataclass(frozen=True)
class Keepless(od.Support):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: od.Problem(Plain()), r"Plain must be a frozen dataclass.*@dataclass\(frozen=True\)"),
        (lambda: Plain() + od.KL(), "Plain must be a frozen dataclass"),
        (lambda: od.Problem(Thawed()), "Thawed must be a frozen dataclass"),
        (lambda: od.Problem(GroupBalance([0.5, 0.5])), "GroupBalance must be hashable, so tuples"),
        (lambda: decoder(Valueless()), r"Valueless needs a method value\(self, q, ctx\)"),
        (lambda: decoder(Slopeless()), r"Slopeless needs a method gradient.*framework = 'torch'"),
        (lambda: od.softmax().subject_to(Keepless()), r"Keepless.*keep\(self, ctx\)"),
        (lambda: decoder(BALANCE + 0.1 * od.L0()), r"L0\(\) is not solved beside code of your own; got GroupBalance"),
        (lambda: decoder(BALANCE, support=od.Entropy(1.0)), r"Entropy\(target=1.0\) is not solved with code of your"),
        (lambda: decoder(BALANCE, support=od.Divergence(1.0)), r"Divergence.*got GroupBalance"),
        (lambda: decoder(BALANCE - 0.1 * od.Quadratic()), "not convex"),
        (lambda: decoder(BALANCE + od.Coverage(4)), "coverage is concave"),
        (lambda: od.softmax(0.0).subject_to(Even()), r"temperature 0 with Even\(\)"),
        (lambda: decoder(od.KL() - od.Coverage(4, weights=Even())), "weights cannot be a support of your own"),
        (lambda: od.Chain(od.TopK(4), Even()), "Chain: expected rules"),
    ],
)  # fmt: skip
def test_what_cannot_be_solved_is_refused_by_name(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


def test_temperature_zero_is_greedy_whatever_the_regularizer():
    assert decoder(BALANCE, temperature=0.0).plan == od.greedy().plan


def test_the_explanation_names_the_plan(capsys):
    decoder(BALANCE, support=Even()).explain()
    printed = capsys.readouterr().out
    assert "Omega(q) = GroupBalance(q)" in printed
    assert "Even(): Even.keep" in printed
    assert "USER: code of your own" in printed


# ------------------------------------------------------------------------------------------------------------ solutions


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_come_back_as_the_logits_came(dtype):
    rows = ROWS.astype(dtype).reshape(5, 1, 40)
    solution = decoder(od.NegEntropy() + 20.0 * BALANCE)(rows)
    assert solution.probs.dtype == ("float64" if dtype == "float64" else "float32")
    assert solution.probs.shape == rows.shape
    assert solution.backend == "rust+user"
    assert (solution.status == Status.OK).all()
    assert solution.certificate().scope == "concavity assumed"
    assert solution.certificate().relative_gap.max() <= (1e-11 if dtype == "float64" else 1e-5)


def test_torch_logits_and_torch_terms():
    torch = pytest.importorskip("torch")
    solution = decoder(TorchEntropy() + TorchQuadratic())(torch.from_numpy(ROWS))
    assert isinstance(solution.probs, torch.Tensor)
    expected = decoder(od.NegEntropy() + OwnQuadratic())(ROWS)
    np.testing.assert_allclose(solution.probs.numpy(), expected.probs, atol=1e-10)


def test_scalars_agree_with_those_of_the_built_in_form():
    mask = np.arange(40) % 5 != 0
    for own, built_in in ((OwnEntropy(), od.NegEntropy()), (OwnKL() + OwnQuadratic(), od.KL() + OwnQuadratic())):
        one = decoder(own, temperature=0.8, score_weight=0.9)(ROWS, mask=mask)
        two = decoder(built_in, temperature=0.8, score_weight=0.9)(ROWS, mask=mask)
        for name in ("threshold", "objective", "entropy", "kl", "kept_mass", "multiplier"):
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-9, err_msg=name)
        assert (one.support == two.support).all()


@pytest.mark.parametrize("backend", ["rust", "reference"])
def test_supports_of_ones_own_commute_with_the_built_in_ones(backend):
    built_in = od.softmax(0.8).subject_to(od.TopP(0.9), od.Epsilon(0.02))
    one = od.softmax(0.8).subject_to(od.TopP(0.9), Above(0.02))(ROWS, backend=backend)
    two = od.softmax(0.8).subject_to(TorchAbove(0.02), od.TopP(0.9))(ROWS, backend=backend)
    np.testing.assert_allclose(one.probs, built_in(ROWS).probs, atol=1e-12)
    np.testing.assert_allclose(two.probs, one.probs, atol=1e-12)
    assert one.backend == f"{backend}+user"
    # Measured on all allowed tokens, not on what another support leaves:
    half = od.softmax().subject_to(Even(), od.TopK(6))(ROWS)
    best = np.argsort(-ROWS, axis=1, kind="stable")[:, :6]
    for row in range(5):
        assert set(np.flatnonzero(half.support[row])) == {token for token in best[row] if token % 2 == 0}
    assert half.certificate().scope == "optimal on the selected face"


def test_a_support_of_ones_own_with_no_regularizer_takes_the_best_token_left():
    solution = od.greedy().subject_to(Even())(ROWS)
    assert (solution.probs.argmax(axis=1) == 2 * ROWS[:, ::2].argmax(axis=1)).all()
    assert (solution.support_size == 1).all()
    assert solution.certificate().gap.max() == 0.0
    np.testing.assert_allclose(solution.threshold, ROWS[:, ::2].max(axis=1))
    capped = decoder(None, support=Even() & od.Cap(0.4))(ROWS)
    np.testing.assert_allclose(np.sort(capped.probs, axis=1)[:, -3:], np.tile([0.2, 0.4, 0.4], (5, 1)), atol=1e-15)
    assert capped.certificate().gap.max() <= 1e-15


def test_rows_that_a_support_leaves_empty_are_infeasible():
    rows = np.stack([ROWS[0], np.zeros(40)])
    solution = od.softmax().subject_to(Above(0.03))(rows, on_failure="mark")
    assert list(solution.status) == [Status.OK, Status.INFEASIBLE]
    assert np.isnan(solution.probs[1]).all()
    capped = decoder(OwnQuadratic(), support=od.TopK(3) & od.Cap(0.3))(ROWS[:2], on_failure="mark")
    assert (capped.status == Status.INFEASIBLE).all()


def test_rows_without_sound_inputs_never_reach_the_code():
    rows = ROWS.copy()
    rows[1, 3], rows[3] = np.nan, -np.inf
    solution = decoder(od.NegEntropy() + BALANCE)(rows, on_failure="mark")
    assert list(solution.status) == [Status.OK, Status.NAN_SCORES, Status.OK, Status.INFEASIBLE, Status.OK]
    np.testing.assert_array_equal(solution.probs[[0, 2, 4]], decoder(od.NegEntropy() + BALANCE)(ROWS[[0, 2, 4]]).probs)


def test_the_reference_backend_needs_no_core(monkeypatch):
    from optdecode.backends import rust

    monkeypatch.setattr(rust, "solve", None)
    monkeypatch.setattr(rust, "sample", None)
    dec = decoder(od.NegEntropy() + BALANCE, support=od.TopK(7))
    solution = dec(ROWS, backend="reference")
    assert solution.backend == "reference+user"
    tokens = dec.sample(ROWS, seed=2, n=3, backend="reference", model_log_probs=True).tokens
    np.testing.assert_array_equal(solution.sample(seed=2, n=3).tokens, tokens)


@dataclass(frozen=True)
class Spying(OwnQuadratic):
    def gradient(self, q, ctx):
        _SEEN.append((q.copy(), ctx))
        return super().gradient(q, ctx)


_SEEN: list = []


def test_what_the_code_is_given():
    _SEEN.clear()
    mask = np.ones(40, dtype=bool)
    mask[7] = False
    anchor = np.where(np.arange(40) == 9, -np.inf, 0.0)
    weights = np.arange(40.0)
    decoder(Spying(), support=od.TopK(30), temperature=2.0)(ROWS, mask=mask, anchor=anchor, budget=4, weights=weights)
    sizes = {q.shape[0] for q, _ in _SEEN}
    assert 5 in sizes
    assert min(sizes) < 5  # rows that are finished are left out
    for q, ctx in _SEEN:
        allowed = ctx.scores > -np.inf
        assert not allowed[:, [7, 9]].any()
        np.testing.assert_allclose(ctx.scores[allowed], (ROWS[ctx.rows] / 2.0)[allowed])
        np.testing.assert_allclose(np.exp(ctx.log_p).sum(axis=1), 1.0)
        np.testing.assert_allclose(np.exp(ctx.log_anchor), np.where(allowed, 1 / 38, 0.0), atol=1e-15)
        assert (ctx.allowed.sum(axis=1) == 30).all()
        assert not q[~ctx.allowed].any()
        np.testing.assert_allclose(q.sum(axis=1), 1.0)
        assert (ctx.weights == weights).all()
        assert (ctx.budget == 4).all()


def test_row_numbers_are_those_of_the_call():
    """In a batch of many decoders too, where the code sees some rows only."""
    _SEEN.clear()
    decoders = [od.greedy(), decoder(Spying()), od.softmax(), decoder(Spying()), decoder(OwnQuadratic())]
    od.sample_batch(decoders, ROWS, seeds=1)
    assert {int(row) for _, ctx in _SEEN for row in ctx.rows} == {1, 3}


# ---------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("coupling", ["iid", "systematic"])
def test_draws_are_pure_functions_of_row_seed_and_position(dtype, coupling):
    rows, seeds, positions = ROWS.astype(dtype), np.arange(5), np.arange(5) + 7
    dec = decoder(od.NegEntropy() + 20.0 * BALANCE)
    draw = dec.sample(
        rows, seed=seeds, position=positions, n=6, coupling=coupling, model_log_probs=True, top_log_probs=2
    )
    solution = dec(rows)
    again = solution.sample(seed=seeds, position=positions, n=6, coupling=coupling)
    np.testing.assert_array_equal(draw.tokens, again.tokens)
    np.testing.assert_allclose(draw.log_probs, np.take_along_axis(solution.log_probs, draw.tokens, 1), rtol=1e-6)
    for row in range(5):
        alone = dec.sample(rows[row], seed=row, position=row + 7, n=6, coupling=coupling)
        np.testing.assert_array_equal(alone.tokens, draw.tokens[row])
    model = od.softmax().sample(rows, seed=seeds, model_log_probs=True, top_log_probs=2)
    np.testing.assert_array_equal(draw.top_tokens, model.top_tokens)
    shuffled = od.sample_batch([dec] * 5, rows[::-1], seeds[::-1], positions[::-1], n=6, coupling=coupling)
    np.testing.assert_array_equal(shuffled.tokens[::-1], draw.tokens)


def test_mixed_batches_draw_what_each_decoder_draws_alone():
    decoders = [od.greedy(), decoder(OwnQuadratic()), od.top_p(0.9), decoder(od.KL() + BALANCE), decoder(OwnEntropy())]
    mask = np.arange(40) % 7 != 3
    draw = od.sample_batch(decoders, ROWS, seeds=np.arange(5), positions=3, mask=mask, n=4, top_log_probs=1)
    for row, dec in enumerate(decoders):
        alone = dec.sample(ROWS[row], seed=row, position=3, n=4, mask=mask)
        np.testing.assert_array_equal(draw.tokens[row], alone.tokens)
        np.testing.assert_allclose(draw.log_probs[row], alone.log_probs)
    assert draw.backend == "rust+user"


def test_engines_get_log_probs_in_place():
    decoders = [
        od.greedy(),
        decoder(OwnQuadratic()),
        decoder(Broken("gradient")),
        od.softmax(),
        decoder(od.KL(), support=Above(0.9)),
    ]
    rows = ROWS.astype(np.float32)
    status = log_probs_in_place(decoders, rows)
    assert list(status) == [Status.OK, Status.OK, Status.BAD_REGULARIZER, Status.OK, Status.INFEASIBLE]
    np.testing.assert_array_equal(rows[[2, 4]], ROWS.astype(np.float32)[[2, 4]])
    for row in (0, 1, 3):
        np.testing.assert_array_equal(rows[row], decoders[row](ROWS[row].astype(np.float32)).log_probs)


def test_the_law_of_the_draws():
    dec, n = decoder(0.5 * od.NegEntropy() + 20.0 * BALANCE), 20_000
    tokens = dec.sample(ROWS[0], seed=5, n=n).tokens
    expected = n * dec(ROWS[0]).probs
    counts = np.bincount(tokens, minlength=40)
    common = expected >= 5
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert chi2 < common.sum() + 5.0 * np.sqrt(2.0 * common.sum())  # a fixed seed; beyond 5 sigma of the law's own


# -------------------------------------------------------------------------------------------------------------- solvers


#: L / mu = 1e4: a group penalty of unlike targets over an entropy, and over a quadratic, sparse, with 1e3.
ILL_CONDITIONED = {
    "entropy": od.NegEntropy() + 1e4 * GroupBalance((0.11, 0.03, 0.57, 0.04, 0.01, 0.19, 0.05)),
    "sparse": OwnQuadratic() + 1e3 * BALANCE,
    "weak entropy": 0.01 * od.NegEntropy() + GroupBalance((0.11, 0.03, 0.57, 0.04, 0.01, 0.19, 0.05)),
}
LONG_ROW = 2.0 * make_row("gaussian", 60, seed=1)


@pytest.mark.parametrize("name", ILL_CONDITIONED)
def test_acceleration_pays(monkeypatch, name):
    """Evaluations, not seconds: a third of those of plain steps, which in so many do not arrive on the sparse one."""
    from optdecode.backends import _user_ascent as ascent

    dec = decoder(ILL_CONDITIONED[name])
    fast = dec(LONG_ROW)
    accelerated = ascent.ascend
    monkeypatch.setattr(ascent, "ascend", lambda *arguments: accelerated(*arguments, accelerate=False))
    monkeypatch.setattr(ascent, "ROUNDS", 3 * int(fast.iterations))
    slow = dec(LONG_ROW)
    assert fast.status is Status.OK
    assert fast.certificate().relative_gap <= 1e-9
    assert slow.iterations == 3 * fast.iterations
    if name == "sparse":
        assert slow.certificate().gap > 1e4 * fast.certificate().gap


def test_iteration_limits_mark_reduced_accuracy():
    regularizer = ILL_CONDITIONED["entropy"]
    solution = decoder(regularizer, od.MirrorAscent(steps=5, eta="auto"))(ROWS)
    assert (solution.status == Status.REDUCED_ACCURACY).all()
    assert (solution.iterations == 5).all()
    gap = solution.certificate().gap
    best = decoder(regularizer)(ROWS)
    assert (best.objective - solution.objective <= gap + 1e-12).all()
    assert gap.min() > 1e-6


def test_fixed_steps_are_algorithm_1():
    """Steps of a given size from the model distribution, as the built-in plan makes them."""
    for steps, eta in ((1, 0.5), (4, 0.3)):
        solver = od.MirrorAscent(steps, eta)
        own = decoder(0.5 * OwnKL() + 0.3 * OwnCoverage(8), solver)(ROWS)
        built_in = decoder(0.5 * od.KL() - 0.3 * od.Coverage(8), solver)(ROWS)
        np.testing.assert_allclose(own.probs, built_in.probs, atol=1e-12)
        assert (own.iterations == steps).all()
        assert (own.status == Status.OK).all()


def test_separable_terms_take_the_exact_dual():
    for own, exact in ((DualEntropy(), od.softmax(0.7)), (DualQuadratic(), od.sparsemax(0.7))):
        one, two = decoder(0.7 * own)(ROWS), exact(ROWS)
        np.testing.assert_allclose(one.probs, two.probs, atol=1e-12)
        assert np.abs(one.probs.sum(axis=1) - 1.0).max() <= 1e-12
        assert one.certificate().gap.max() <= 1e-11


def test_a_flat_derivative_is_filled_to_the_jump():
    tied = np.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(decoder(Linear())(tied).probs, [0.5, 0.5, 0.0])
    capped = decoder(Linear(), support=od.Cap(0.4))(tied)
    np.testing.assert_allclose(capped.probs, [0.4, 0.4, 0.2])
    assert capped.certificate().gap <= 1e-12


# ------------------------------------------------------------------------------------------------------------- mistakes

FAULTS = {
    "gradient": r"the gradient of Broken\(.*\) is not that of its value: on the way from tokens \[.*\] to tokens "
    r"\[.*\] the value has slope -?\d\S*, and the gradient says -?\d",
    "sign": "is not that of its value",
    "nan value": r"Broken\(.*\).value returned NaN",
    "nan gradient": r"Broken\(.*\).gradient returned NaN for token 3, where its argument is \d",
    "raises": r"Broken\(.*\).value raised KeyError: 'no such group'",
    "shape": r"Broken\(.*\).value must return float64 of shape \(1,\), for q of shape \(1, 40\); got float64",
    "dtype": r"must return float64 of shape \(1,\).*got float32",
    "concave": r"is not convex: on the way from tokens \[.*\] to tokens \[.*\] its slope falls from -?\d\S* to -?\d",
    "in place": r"Broken\(.*\).gradient raised ValueError: output array is read-only",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("beside", [None, 0.5 * od.NegEntropy()], ids=["alone", "beside an entropy"])
def test_mistakes_are_errors_that_name_the_row(fault, beside):
    own = Broken(fault, () if fault == "in place" else (1, 3))
    dec = decoder(own if beside is None else own + beside)
    first = 0 if fault == "in place" else 1
    with pytest.raises(ConvergenceError, match=rf"row {first}: BAD_REGULARIZER \(.*{FAULTS[fault]}") as raised:
        dec(ROWS)
    assert raised.value.result.status[first] == Status.BAD_REGULARIZER
    if fault == "raises":
        assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(ConvergenceError, match=FAULTS[fault]):
        dec.sample(ROWS, seed=1)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "in place"])
def test_marked_mistakes_leave_the_other_rows_alone(fault):
    dec, sound = decoder(Broken(fault, (1, 3))), decoder(OwnQuadratic())
    solution, expected = dec(ROWS, on_failure="mark"), sound(ROWS)
    bad = Status.BAD_REGULARIZER
    assert list(solution.status) == [Status.OK, bad, Status.OK, bad, Status.OK]
    np.testing.assert_array_equal(solution.probs[[0, 2, 4]], expected.probs[[0, 2, 4]])
    assert np.isnan(solution.probs[[1, 3]]).all()
    assert np.isnan(solution.certificate().gap[[1, 3]]).all()
    draw = dec.sample(ROWS, seed=4, n=2, on_failure="mark")
    assert (draw.tokens[[1, 3]] == -1).all()
    assert np.isnan(draw.log_probs[[1, 3]]).all()
    np.testing.assert_array_equal(draw.tokens[[0, 2, 4]], sound.sample(ROWS, seed=4, n=2).tokens[[0, 2, 4]])
    batch = od.sample_batch([sound, dec, od.greedy(), dec, sound], ROWS, seeds=4)
    assert list(batch.status) == [Status.OK, bad, Status.OK, bad, Status.OK]


def test_a_stationary_point_that_is_no_maximum_is_found():
    """Two equal tokens at (1/2, 1/2): the gap is closed from the start, at the minimum of a concave function."""
    with pytest.raises(ConvergenceError, match=r"row 0: BAD_REGULARIZER .*is not convex"):
        decoder(Broken("concave"))(np.zeros(2))


def test_a_wrong_inverse_is_named():
    with pytest.raises(ConvergenceError, match=r"row 0:.*gradient_inverse does not invert.*token \d+ it leads to"):
        decoder(BrokenInverse())(ROWS)


def test_a_support_that_fails_is_named():
    @dataclass(frozen=True)
    class Numbers(od.Support):
        def keep(self, ctx):
            return ctx.log_p

    with pytest.raises(ConvergenceError, match=r"Numbers\(\).keep must return bool of shape \(1, 40\).*got float64"):
        od.softmax().subject_to(Numbers())(ROWS)
    solution = od.softmax().subject_to(Numbers())(ROWS, on_failure="mark")
    assert (solution.status == Status.BAD_REGULARIZER).all()


def test_torch_is_not_imported_for_numpy_terms():
    import subprocess
    import sys

    program = (
        "import sys; sys.path.insert(0, 'tests'); import numpy as np, optdecode as od; from user_terms import *;"
        "od.Decoder(od.Problem(OwnQuadratic()))(np.zeros((2, 5))).certificate(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_certificate_sees_mass_that_was_moved():
    solution = decoder(od.NegEntropy() + 20.0 * BALANCE)(ROWS)
    before = solution.certificate().gap.copy()
    solution._solved = replace_log_probs(solution._solved)
    assert (solution.certificate().gap > before + 1e-6).all()


def replace_log_probs(solved):
    probs = solved.probs.copy()
    rows = np.arange(len(probs))
    probs[rows, probs.argmax(axis=1)] -= 1e-3
    probs[rows, 0] += 1e-3
    return solved._replace(log_probs=np.log(probs))


def test_many_rows_are_solved_in_parts(monkeypatch):
    from optdecode.backends import user

    dec = decoder(OwnQuadratic())
    whole = dec(ROWS).probs
    monkeypatch.setattr(user, "_ELEMENTS", 80)
    np.testing.assert_array_equal(dec(ROWS).probs, whole)
    assert replace(dec, solver=None) == dec
