"""The torch backend against the float64 reference and the Rust core's statuses, every plan on every kind of row."""

import numpy as np
import pytest
import torch

import optdecode as od
from decoders import all_decoders, coverage_decoders, softmax_decoders, threshold_decoders
from optdecode import PlanKind
from optdecode.backends.torch import KINDS
from optdecode.backends.torch._parameters import refusal
from reference_faces import solve_reference
from rows import ROW_KINDS, make_row, make_rows

DTYPES = ("float64", "float32", "bfloat16", "float16")
TV = {"float64": 1e-6, "float32": 1e-5, "bfloat16": 1e-5, "float16": 1e-5}
SCALAR = {"float64": 1e-8, "float32": 1e-5, "bfloat16": 1e-5, "float16": 1e-5}
SCALARS = ("threshold", "objective", "entropy", "kl", "kept_mass", "multiplier")
#: Plans that the backend refuses, by name.
REFUSED = {PlanKind.SEPARABLE_DUAL, PlanKind.GREEDY_FILL, PlanKind.ADAPTIVE_K, PlanKind.USER}
DECODERS = [decoder for decoder in all_decoders() if refusal(decoder.plan) is None]
OTHERS = [decoder for decoder in all_decoders() if refusal(decoder.plan) is not None]


def solvable(decoders):
    return [decoder for decoder in decoders if refusal(decoder.plan) is None]


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor_rows(size, dtype, seed):
    """Rows of every kind in a type, as a tensor."""
    made = make_rows(size, "float32" if dtype == "bfloat16" else dtype, seed)
    return torch.from_numpy(made).to(getattr(torch, dtype))


def assert_parity(decoder, rows):
    dtype = str(rows.dtype).removeprefix("torch.")
    solution = decoder(rows, backend="torch")
    assert solution.backend == "torch"
    assert solution.probs.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    codes = decoder(rows, threads=1, on_failure="mark").status
    assert solution.status.tolist() == codes.tolist(), (decoder, dict(zip(ROW_KINDS, solution.status, strict=False)))
    wide = rows.double().numpy()
    (expected, _), probs = solve_reference(decoder, wide, solution), solution.probs.double().numpy()
    distance = 0.5 * np.abs(probs - expected).sum(axis=-1)
    assert distance.max() <= TV[dtype], (decoder, dict(zip(ROW_KINDS, distance, strict=False)))
    reference = decoder(wide, backend="reference")
    same = (solution.support.numpy() == reference.support).all(axis=-1)
    for name in SCALARS:
        found, wanted = getattr(solution, name).numpy()[same], getattr(reference, name)[same]
        scale = np.maximum(max(1.0, decoder.plan.lam), np.abs(wanted))
        assert (np.abs(found - wanted) <= SCALAR[dtype] * scale).all(), (decoder, name, found, wanted)
    other = solution.support.numpy() != (expected > 0.0)
    # Where log q is an ordinary number and q has underflowed, a token of the support looks like one that is not.
    assert (np.maximum(probs, expected)[other] <= 1e-9).all(), decoder
    certificate = solution.certificate()
    if decoder.plan.kind.is_exact:
        assert np.max(certificate.relative_gap) <= TV[dtype], (decoder, certificate.relative_gap)


def test_every_plan_is_solved_or_refused():
    solved = {decoder.plan.kind for decoder in DECODERS}
    assert solved == set(KINDS)
    assert solved | REFUSED == set(PlanKind)
    assert not solved & REFUSED


@pytest.mark.parametrize("decoder", OTHERS, ids=repr)
def test_others_are_refused(decoder):
    """By name, and never solved as something else."""
    with pytest.raises(od.BackendUnavailableError, match="the torch backend has no solver for"):
        decoder(torch.zeros(2, 40), backend="torch")
    with pytest.raises(od.BackendUnavailableError, match="the torch backend has no solver for"):
        decoder.sample(torch.zeros(2, 40), backend="torch")
    assert decoder(torch.zeros(2, 40, requires_grad=True), on_failure="mark").backend.startswith("rust")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_every_plan_on_every_row(decoder, dtype):
    assert_parity(decoder, tensor_rows(33, dtype, seed=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("decoder", DECODERS[::3], ids=repr)
def test_halves(decoder, dtype):
    assert_parity(decoder, tensor_rows(20, dtype, seed=1))


@pytest.mark.parametrize("decoder", DECODERS[::4], ids=repr)
def test_short_rows(decoder):
    for size in (1, 2, 3):
        assert_parity(decoder, tensor_rows(size, "float64", seed=1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "decoder", solvable(softmax_decoders()[::3] + threshold_decoders()[::4] + coverage_decoders()[::9]), ids=repr
)
def test_longer_rows(decoder, dtype):
    assert_parity(decoder, tensor_rows(1000, dtype, seed=2))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_every_plan_on_longer_rows(decoder, dtype):
    for size in (1, 2, 3, 8, 64, 257, 1000):
        assert_parity(decoder, tensor_rows(size, dtype, seed=3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize(
    "decoder",
    [
        od.greedy(), od.softmax(), od.top_k(50, 0.8), od.top_p(0.95), od.min_p(0.05), od.sparsemax(), od.entmax(1.5),
        od.entmax(1.3, 10.0), od.best_of_k(), od.best_of_k(lam=0.0, beta_bar=1.0),
        od.best_of_k(solver=od.MirrorAscent()),
    ],
    ids=repr,
)  # fmt: skip
def test_the_largest_vocabulary(decoder, kind):
    assert_parity(decoder, torch.from_numpy(make_row(kind, 262_144, "float32", seed=4)[None]))


@pytest.mark.parametrize("alpha", [5.0, 50.0])
def test_steep_tsallis_by_gap(alpha):
    for lam in (0.01, 1.0, 100.0):
        solution = od.entmax(alpha, lam)(tensor_rows(33, "float64", seed=2), backend="torch")
        assert (solution.status == 0).all()
        assert solution.certificate().relative_gap.max() <= 1e-6
