"""The Rust core against the float64 reference, every plan on every kind of row, and the certificates of both."""

import numpy as np
import pytest

import optdecode as od
from decoders import all_decoders, coverage_decoders, family_decoders, softmax_decoders, threshold_decoders
from optdecode import PlanKind
from optdecode.backends import reference
from reference_faces import solve_reference
from rows import ROW_KINDS, make_row, make_rows

SIZES = (1, 2, 3, 8, 31, 257, 1000)
LARGE = (4097, 32_000)
HUGE = 262_144
TV = {"float64": 1e-6, "float32": 1e-5}
GAP = {"float64": 1e-6, "float32": 1e-5}
FAMILY = set(family_decoders())
FAMILY_SIZES = {"float64": (1, 2, 3, 31, 257), "float32": (33,)}  # the reference takes its time


def solve_in_rust(decoder, rows, **arguments):
    """Solve in Rust while the reference cannot be called; rows without a distribution are marked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "solve", None)
        solution = decoder(rows, on_failure="mark", **arguments)
    assert solution.backend == ("rust+user" if decoder.plan.kind is PlanKind.USER else "rust")
    return solution


def assert_parity(decoder, rows, **arguments):
    """Equal statuses, equal distributions, no gap; a cap or a target may have no distribution."""
    dtype, constrained = rows.dtype.name, decoder.plan.cap < 1.0 or decoder.plan.target is not None
    solution = solve_in_rust(decoder, rows, **arguments)
    status = np.asarray(solution.status)
    solved = status == od.Status.OK
    assert constrained or solved.all(), (decoder, solution)
    if decoder.plan.alpha <= 3.0:
        expected, expected_status = solve_reference(decoder, rows, solution, **arguments)
        np.testing.assert_array_equal(status, expected_status, repr(decoder))
        distance = 0.5 * np.abs(np.asarray(solution.probs, dtype=np.float64) - expected).sum(axis=-1)[solved]
        assert distance.max(initial=0.0) <= TV[dtype], (decoder, dict(zip(ROW_KINDS, distance, strict=False)))
    certificate = solution.certificate()
    assert np.isfinite(certificate.gap[solved]).all()
    if decoder.plan.kind.is_exact:
        relative = np.atleast_1d(certificate.relative_gap)[solved]
        assert relative.max(initial=0.0) <= GAP[dtype], (decoder, dict(zip(ROW_KINDS, relative, strict=False)))
        assert certificate.target_error[solved].max(initial=0.0) <= GAP[dtype]


def test_every_plan_is_covered():
    assert {decoder.plan.kind for decoder in all_decoders()} == set(PlanKind)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("decoder", all_decoders(), ids=repr)
def test_every_plan_on_every_row(decoder, dtype):
    sizes = SIZES if decoder not in FAMILY else FAMILY_SIZES[dtype]
    for size in sizes if decoder.plan.target is None else sizes[:4]:
        assert_parity(decoder, make_rows(size, dtype, seed=1))


ANCHORED = [
    od.KL("given") - 0.3 * od.KL(),
    od.ReverseKL("given") + 0.1 * od.NegEntropy(),
    0.5 * od.AlphaDivergence(3.0, "given") + 0.5 * od.AlphaDivergence(-2.0),
    od.ChiSquare("given") - 0.2 * od.Coverage(8),
]


@pytest.mark.parametrize("constraint", [None, od.Cap(0.3), od.TopK(5)], ids=repr)
@pytest.mark.parametrize("regularizer", ANCHORED, ids=repr)
def test_given_anchors(regularizer, constraint):
    rows = np.stack([make_row(kind, 40, seed=6) for kind in ("gaussian", "tied", "minus_inf")])
    anchor = np.random.default_rng(7).standard_normal((3, 40)) * 3
    anchor[:, 3], anchor[1, 5] = -np.inf, -300.0
    assert_parity(od.Decoder(od.Problem(regularizer, support=constraint)), rows, anchor=anchor)


@pytest.mark.parametrize("alpha", [5.0, 50.0, 1e4])
def test_steep_tsallis_by_gap(alpha):
    for size in SIZES:
        for lam in (0.01, 1.0, 100.0):
            assert_parity(od.entmax(alpha, lam), make_rows(size, seed=2))


@pytest.mark.parametrize("kind", ["gaussian", "lm", "cauchy", "tied", "huge"])
@pytest.mark.parametrize("size", LARGE)
def test_larger_vocabularies(size, kind):
    row = make_row(kind, size, "float32", seed=3)[None]
    for decoder in softmax_decoders()[::3] + threshold_decoders()[::4] + coverage_decoders()[::6]:
        assert_parity(decoder, row)


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
    assert_parity(decoder, make_row(kind, HUGE, "float32", seed=4)[None])


@pytest.mark.slow
@pytest.mark.timeout(600)  # the reference bisects every token of 262,144 for every value of the multiplier
@pytest.mark.parametrize("decoder", coverage_decoders()[::2] + threshold_decoders()[::3], ids=repr)
def test_the_largest_vocabulary_with_every_parameter(decoder):
    for kind in ("lm", "minus_inf"):
        assert_parity(decoder, make_row(kind, HUGE, seed=5)[None])


def test_a_root_at_the_inflection_is_solved_to_the_end():
    """An inner Newton that starts at the inflection, next to its root: the second derivative says nothing there."""
    row = np.array([0.0, 0.2, 2.2, 20.6826601436191, 5.0, 29.064125541316002, 25.502857034043423])
    weights = [0.75, 0.07, 0.64, 0.784112781372549, 1.6, 0.83822833128493, 0.28555878402594953]
    lam, ratio = 10**0.9175894744171501, 10**-2.63319354432419
    decoder = od.best_of_k(59, beta_bar=lam * ratio, lam=lam, weights=weights)
    rust, reference_ = decoder(row), decoder(row, backend="reference")
    assert rust.status is od.Status.OK
    assert rust.threshold == pytest.approx(reference_.threshold, abs=1e-11)


EXACT = [
    decoder
    for decoder in all_decoders()
    if decoder.plan.kind.is_exact and decoder.plan.lam > 0 and decoder.plan.kind is not PlanKind.ARGMAX
    if decoder.plan.target is None  # of which the vertex is one
]


@pytest.mark.parametrize("decoder", EXACT, ids=repr)
def test_moving_mass_raises_the_gap(decoder):
    """1e-3 of mass moved between tokens of the face is seen by the certificate."""
    rows = np.stack([make_row(kind, 40, seed=6) for kind in ("gaussian", "tied", "lm")])
    solution = decoder(rows)
    before = solution.certificate().gap.copy()
    face = solution._solved.face
    for row in range(len(rows)):
        if face[row].sum() < 2:
            continue
        probs = np.exp(solution._solved.log_probs[row])
        source = int(np.argmax(probs))
        target = next(token for token in np.flatnonzero(face[row]) if token != source)
        probs[source] -= 1e-3
        probs[target] += 1e-3
        with np.errstate(divide="ignore"):
            solution._solved.log_probs[row] = np.log(probs)
        assert solution.certificate().gap[row] > before[row]


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_mirror_ascent_is_algorithm_1_step_by_step(eta):
    """Written out in probabilities, as printed in arXiv:2602.18292, from q0 = p."""
    row, budget, beta, lam = make_row("lm", 50, seed=7) / 3, 8, 0.5, 0.5
    p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    q = p.copy()
    for steps in range(1, 13):
        gradient = row - lam * (np.log(q / p) + 1) + beta * lam * p * budget * (1 - q) ** (budget - 1)
        q = q * np.exp(eta * gradient - (eta * gradient).max())
        q /= q.sum()
        solution = od.best_of_k(budget, beta=beta, lam=lam, solver=od.MirrorAscent(steps, eta))(row)
        np.testing.assert_allclose(solution.probs, q, atol=1e-12)
        assert solution.iterations == steps


def test_automatic_step_converges_to_the_exact_optimum():
    row = make_row("gaussian", 200, seed=8)
    exact = od.best_of_k(8, beta=0.5, lam=0.5)(row)
    gaps = []
    for steps in (1, 2, 5, 20):
        mirror = od.best_of_k(8, beta=0.5, lam=0.5, solver=od.MirrorAscent(steps, "auto"))(row)
        gaps.append(float(mirror.certificate().gap))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-9
    np.testing.assert_allclose(mirror.probs, exact.probs, atol=1e-9)
