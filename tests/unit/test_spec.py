"""The spec layer: frozen values with a constructor-call repr, a pickle and a JSON round trip, and clear refusals."""

import io
import json
import pickle

import numpy as np
import pytest

import optdecode as od
from optdecode import regularizers, supports
from optdecode._lowering import lower
from optdecode._parse import parse_decoder
from optdecode._plan import PlanKind

DECODERS = [
    od.greedy(),
    od.softmax(),
    od.softmax(0.0),
    od.softmax(0.7),
    od.top_k(50, temperature=0.7),
    od.top_p(0.95),
    od.min_p(0.05, temperature=1.5),
    od.sparsemax(2.0),
    od.entmax(1.3),
    od.entmax(1.5, temperature=0.7).subject_to(od.TopK(50), od.MinP(0.02)),
    od.best_of_k(),
    od.best_of_k(budget=64, beta=0.05, lam=0.5, weights="rank", score_weight=0.0),
    od.best_of_k(beta_bar=2.0, lam=0.0, weights="uniform"),
    od.best_of_k(weights=[0.0, 1.0, 0.5], anchor="given"),
    od.best_of_k(weights=od.MinP(0.2) & od.TopK(5), scores="raw"),
    od.best_of_k(solver=od.MirrorAscent(steps=5, eta=1.0)),
    od.best_of_k(solver=od.MirrorAscent(eta="auto")),
    od.best_of_k(solver=od.MirrorAscent(10_000, "auto", tolerance=1e-7)),
    od.best_of_k(lam=0.0, beta_bar=1.0, solver=od.MirrorAscent()).twin(),
    od.Decoder(od.Problem(0.5 * od.KL("given"), support=od.Allowed([3, 1, 1]) & od.PLess() & od.Eta(0.01))),
    od.Decoder(od.Problem(2.0 * od.Tsallis(3.0), od.TopNSigma(1.5) & od.Epsilon(1e-3, measured_on="raw"))),
]


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
class TestRoundTrips:
    def test_repr_is_a_constructor_call(self, decoder):
        assert eval(repr(decoder), vars(od).copy()) == decoder
        assert parse_decoder(repr(decoder)) == decoder

    def test_json(self, decoder):
        assert od.Decoder.from_dict(json.loads(json.dumps(decoder.to_dict()))) == decoder

    def test_pickle_and_hash(self, decoder):
        copy = pickle.loads(pickle.dumps(decoder))
        assert copy == decoder
        assert hash(copy) == hash(decoder)
        assert copy.plan == decoder.plan

    def test_frozen(self, decoder):
        with pytest.raises(AttributeError):
            decoder.problem = None

    def test_explain_names_the_plan(self, decoder, capsys):
        decoder.explain()
        assert decoder.plan.kind.name in capsys.readouterr().out


def test_compiled_plans_do_not_travel():
    decoder = od.top_k(3)
    decoder(np.array([1.0, 2.0]))
    assert "_native" in vars(decoder.plan)
    assert "_native" not in vars(pickle.loads(pickle.dumps(decoder.plan)))


def test_presets_are_problems():
    assert od.softmax(0.7) == od.Decoder(od.Problem(od.NegEntropy(), temperature=0.7))
    assert od.best_of_k(8, beta=0.1, lam=0.5) == od.best_of_k(8, beta_bar=0.05, lam=0.5)


def test_regularizer_algebra_is_canonical():
    a, b = od.KL(), od.Coverage(8)
    assert 0.5 * a - 0.1 * b == -0.1 * b + a * 0.5
    assert a + a == 2.0 * a
    assert a - a + od.NegEntropy() == od.NegEntropy()
    assert repr(0.5 * a - b) == "0.5 * KL() - Coverage(budget=8)"
    assert od.Decoder(od.Problem(0.0 * a)) == od.greedy()
    assert -1.0 * -a == a
    with pytest.raises(TypeError):
        a * b
    with pytest.raises(TypeError):
        a + 1


def test_supports_commute_and_merge():
    assert od.TopK(5) & od.MinP(0.1) == od.MinP(0.1) & od.TopK(5) == od.MinP(0.1) & od.TopK(5) & od.TopK(5)
    assert od.softmax().subject_to(od.TopK(5), od.TopP(0.5)) == od.softmax().subject_to(od.TopP(0.5)).subject_to(
        od.TopK(5)
    )
    assert supports.allowed_ids(od.Allowed([1, 2]) & od.Allowed([2, 3])) == (2,)


def test_weights_are_copied_and_hashed_by_bytes():
    values = np.array([0.5, 1.0])
    first = od.best_of_k(weights=values)
    values[0] = 9.0
    assert first == od.best_of_k(weights=[0.5, 1.0])
    assert hash(first) == hash(od.best_of_k(weights=np.array([0.5, 1.0], dtype=np.float32)))


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (od.greedy(), "ARGMAX"),
        (od.softmax(0.0), "ARGMAX"),
        (od.best_of_k(temperature=0.0), "ARGMAX"),
        (od.softmax(), "SOFTMAX"),
        (od.entmax(1.0), "SOFTMAX"),
        (od.top_k(3), "FACE_SOFTMAX"),
        (od.softmax().subject_to(od.Allowed([1])), "SOFTMAX"),
        (od.best_of_k().twin(), "ANCHORED_SOFTMAX"),
        (od.sparsemax(), "THRESHOLD_QUADRATIC"),
        (od.entmax(1.5), "THRESHOLD_TSALLIS"),
        (od.best_of_k(), "COVERAGE_DUAL"),
        (od.best_of_k(lam=0.0, beta_bar=1.0), "COVERAGE_WATERFILL"),
        (od.best_of_k(solver=od.MirrorAscent()), "MIRROR"),
        (od.best_of_k().subject_to(od.Cap(0.5)), "SEPARABLE_DUAL"),
        (od.best_of_k().subject_to(od.Cap(1.0)), "COVERAGE_DUAL"),
        (od.Decoder(od.Problem(od.NegEntropy() - 0.9 * od.Quadratic())), "SEPARABLE_DUAL"),
        (od.Decoder(od.Problem(od.ChiSquare())), "SEPARABLE_DUAL"),
        (od.Decoder(od.Problem(support=od.Cap(0.3))), "GREEDY_FILL"),
        (od.Decoder(od.Problem(od.KL() + 0.1 * od.L0())), "ADAPTIVE_K"),
        (od.softmax().subject_to(od.Entropy(1.0)), "SOFTMAX"),
    ],
)
def test_lowering(decoder, kind):
    assert decoder.plan.kind is PlanKind[kind]
    assert lower(decoder.problem, decoder.solver) == decoder.plan


def test_every_plan_kind_is_described():
    assert all(kind.method for kind in PlanKind)


@pytest.mark.parametrize(
    "expression",
    [
        "od.top_k(0)",
        "od.top_k(2.5)",
        "od.top_k(True)",
        "od.top_p(0.0)",
        "od.top_p(1.5)",
        "od.top_p('0.9')",
        "od.min_p(-0.1)",
        "od.softmax(-1.0)",
        "od.softmax(float('nan'))",
        "od.softmax(float('inf'))",
        "od.entmax(0.5)",
        "od.TopP(0.5, measured_on='cooked')",
        "od.Allowed([])",
        "od.Allowed([-1])",
        "od.Allowed([0.5])",
        "od.Allowed('12')",
        "od.KL('prior')",
        "od.Coverage(0)",
        "od.Coverage(8, weights='softened')",
        "od.Coverage(8, weights=[1.0, -1.0])",
        "od.Coverage(8, weights=[[1.0]])",
        "od.best_of_k(beta=0.1, beta_bar=0.1)",
        "od.best_of_k(lam=0.0)",
        "od.best_of_k(lam=0.0, beta=0.1)",
        "od.best_of_k(lam=-1.0)",
        "od.best_of_k(weights=od.Allowed([1]))",
        "od.best_of_k(lam=0.0, beta_bar=1.0, anchor='given')",
        "od.MirrorAscent(steps=0)",
        "od.MirrorAscent(eta=0.0)",
        "od.MirrorAscent(eta='automatic')",
        "od.MirrorAscent(tolerance=0.0)",
        "od.MirrorAscent(tolerance='auto')",
        "od.MirrorAscent(tolerance=float('inf'))",
        "od.best_of_k(lam=0.0, beta_bar=1.0, solver=od.MirrorAscent(tolerance=1e-7))",
        "od.Decoder(od.Problem(-1.0 * od.NegEntropy()))",
        "od.Decoder(od.Problem(od.KL() + od.Coverage(8)))",
        "od.Decoder(od.Problem(0.5 * od.NegEntropy() - od.Quadratic()))",
        "od.Decoder(od.Problem(od.NegEntropy() + 0.1 * od.Coverage(8)))",
        "od.Decoder(od.Problem(od.Quadratic() - 0.1 * od.ChiSquare()))",
        "od.Decoder(od.Problem(od.Quadratic() - 0.1 * od.NegEntropy()))",
        "od.Decoder(od.Problem(od.KL() - od.Coverage(8) - od.Coverage(2)))",
        "od.Decoder(od.Problem(od.L0()))",
        "od.Decoder(od.Problem(od.L0() + od.ChiSquare()))",
        "od.Decoder(od.Problem(od.KL('given') + od.L0()))",
        "od.Decoder(od.Problem(od.NegEntropy() - 0.1 * od.L0()))",
        "od.Decoder(od.Problem(od.NegEntropy() + od.L0(), support=od.Cap(0.5)))",
        "od.Cap(0.0)",
        "od.Cap(1.5)",
        "od.Entropy(-1.0)",
        "od.Divergence(float('inf'))",
        "od.greedy().subject_to(od.Entropy(1.0))",
        "od.softmax().subject_to(od.Entropy(1.0), od.Divergence(0.1))",
        "od.softmax().subject_to(od.Divergence(0.1))",
        "od.Decoder(od.Problem(od.KL('given'), support=od.Entropy(1.0)))",
        "od.Decoder(od.Problem(od.NegEntropy() - 0.5 * od.KL(), support=od.Entropy(1.0)))",
        "od.Decoder(od.Problem(-1.0 * od.Coverage(8), support=od.Entropy(1.0)))",
        "od.Decoder(od.Problem(-1.0 * od.Coverage(8), support=od.Entropy(1.0) & od.Cap(0.5)))",
        "od.Decoder(od.Problem(od.KL(), support=od.Entropy(1.0), score_weight=0.0))",
        "od.softmax(0.0).subject_to(od.Cap(0.5))",
        "od.best_of_k(weights=od.Cap(0.5))",
        "od.Chain(od.TopK(5), od.Cap(0.5))",
        "od.AlphaDivergence(17.0)",
        "od.ChiSquare('uniform')",
        "od.Decoder(od.Problem(od.NegEntropy()), solver=od.MirrorAscent())",
        "od.Decoder(od.Problem(support=od.Cap(0.5)), solver=od.MirrorAscent())",
        "od.Decoder(od.Problem(score_weight=0.0))",
        "od.Decoder(od.Problem(od.NegEntropy(), temperature=0.0, scores='raw'))",
        "od.Decoder('softmax')",
        "od.Problem('softmax')",
        "od.Problem(support=50)",
        "od.softmax().subject_to(50)",
        "float('nan') * od.KL()",
        "od.Decoder.from_dict({'type': 'Nonsense'})",
        "od.Decoder.from_dict({'type': 'TopK', 'k': 3})",
        "od.Decoder.from_dict({'type': 'Decoder', 'nonsense': 3})",
        "od.Decoder.from_dict({'type': 'Decoder'})",
        "regularizers.Combination(((1.0, 'x'),))",
    ],
)
def test_bad_parameters_raise_at_construction(expression):
    with pytest.raises(od.ProblemError) as error:
        eval(expression, {"od": od, "regularizers": regularizers})
    assert isinstance(error.value, ValueError)
    assert len(str(error.value)) > 10


def test_messages_say_what_was_given_and_what_is_allowed():
    with pytest.raises(od.ProblemError, match=r"TopP: p must be in \(0, 1\]; got 1.5"):
        od.top_p(1.5)
    with pytest.raises(od.ProblemError, match=r"not convex on \[0, 1\]: Quadratic\(\) takes away more"):
        od.Decoder(od.Problem(0.5 * od.NegEntropy() - od.Quadratic()))


def test_twin_and_effective_temperature():
    decoder = od.best_of_k(lam=0.1, temperature=0.9)
    assert decoder.twin().problem.regularizer == 0.1 * od.KL()
    assert decoder.effective_temperature() == pytest.approx(0.9 * 0.1 / 1.1)
    assert od.best_of_k(lam=0.1, temperature=0.9, scores="raw").effective_temperature() == pytest.approx(
        1 / (1 / 0.9 + 10)
    )
    mirror = od.best_of_k(lam=0.1, temperature=0.9, solver=od.MirrorAscent(5, 1.0))
    assert mirror.effective_temperature() == pytest.approx(0.177, abs=5e-4)  # evaluation table, case B
    assert od.softmax(0.7).effective_temperature() == pytest.approx(0.7)
    with pytest.raises(od.ProblemError):
        od.best_of_k(anchor="given").effective_temperature()
    with pytest.raises(od.ProblemError):
        od.sparsemax().effective_temperature()


@pytest.mark.parametrize(
    ("regularizer", "temperature"),
    [
        (0.5 * od.KL() + 0.5 * od.NegEntropy(), 0.9 / 1.5),
        (0.2 * od.KL() + 0.6 * od.Tsallis(1.0), 0.9 * 0.8 / 1.2),
        (od.AlphaDivergence(1.0), 0.45),
        (od.KL() - 0.5 * od.NegEntropy(), 0.9 * 0.5 / 2.0),
        (0.3 * od.KL() + 0.3 * od.NegEntropy() - 2.0 * od.Coverage(8), 0.9 * 0.6 / 1.3),
        (od.NegEntropy() - 0.1 * od.LogCoverage(8), 0.9),
    ],
    ids=repr,
)
def test_effective_temperature_of_sums(regularizer, temperature):
    """The twin is a softmax at this temperature, as solved."""
    decoder = od.Decoder(od.Problem(regularizer, temperature=0.9))
    assert decoder.effective_temperature() == pytest.approx(temperature)
    rows = np.random.default_rng(3).standard_normal((2, 30)) * 3
    expected = od.softmax(temperature)(rows, backend="reference").probs
    np.testing.assert_allclose(decoder.twin()(rows, backend="reference").probs, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("decoder", "culprit"),
    [
        (od.softmax().subject_to(od.Cap(0.5)), r"Cap\(c=0.5\)"),
        (od.softmax().subject_to(od.Entropy(1.0), od.TopK(5)), r"Entropy\(target=1.0\)"),
        (od.Decoder(od.Problem(od.KL(), support=od.Divergence(1.0))), r"Divergence\(max_kl=1.0\)"),
        (od.Decoder(od.Problem(support=od.Cap(0.5))), r"Cap\(c=0.5\)"),
        (od.Decoder(od.Problem(od.NegEntropy() + 0.1 * od.L0())), r"L0\(\)"),
        (od.Decoder(od.Problem(od.NegEntropy() + od.Quadratic())), r"Quadratic\(\)"),
        (od.Decoder(od.Problem(od.NegEntropy() + od.KL("given"))), r"KL\(anchor='given'\)"),
        (od.Decoder(od.Problem(od.ChiSquare())), r"ChiSquare\(\)"),
    ],
)
def test_what_has_no_effective_temperature_is_named(decoder, culprit):
    with pytest.raises(od.ProblemError, match=rf"effective_temperature: with {culprit} the twin"):
        decoder.effective_temperature()


def test_twin_drops_every_coverage_term():
    decoder = od.Decoder(od.Problem(od.ChiSquare() - 0.1 * od.LogCoverage(8), support=od.Cap(0.5)))
    assert decoder.twin() == od.Decoder(od.Problem(od.ChiSquare(), support=od.Cap(0.5)))
    assert od.Decoder(od.Problem(-1.0 * od.LogCoverage(8))).twin() == od.greedy()


def explained(decoder):
    text = io.StringIO()
    decoder.explain(text)
    return text.getvalue().splitlines()


def test_explain_tells_faces_from_constraints():
    lines = explained(od.softmax().subject_to(od.TopK(5), od.Cap(0.3)))
    assert lines[2:6] == [
        "over        the probability simplex, on the face of:",
        "              TopK(k=5): the 5 best tokens",
        "subject to",
        "              Cap(c=0.3): q_v <= 0.3",
    ]
    lines = explained(od.softmax().subject_to(od.Entropy(1.0)))
    assert lines[0] == "objective   max over q of  <q, s> - m Omega(q),  Omega(q) = sum q log q"
    assert lines[2] == "over        the probability simplex"
    assert (
        lines[4]
        == "              Entropy(target=1.0): H(q) >= 1 nats, by the smallest m >= 0 that reaches it, row by row"
    )
    lines = explained(od.Decoder(od.Problem(od.Quadratic() + 0.1 * od.L0())))
    assert "tokens      the best ones, while the next one gains more than 0.1" in lines
    lines = explained(od.Decoder(od.Problem(od.NegEntropy() - 0.5 * od.Quadratic())))
    assert lines[0].endswith("Omega(q) = 1 [sum q log q] - 0.5 [(1/2) sum q^2]")
