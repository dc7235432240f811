"""What each support keeps, on every backend, against definitions written out in one line."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optdecode as od
from optdecode._parse import parse_decoder

BACKENDS = ["rust", "reference"]
SCORES = st.one_of(st.floats(-30, 30), st.sampled_from([-np.inf, 0.0, 1.0, 1.0, -1e30, 1e30, 5e-324]))
ROWS = hnp.arrays(np.float64, st.integers(1, 40), elements=SCORES).filter(lambda x: (x > -np.inf).any())
KEEPS_BEST = st.one_of(
    st.builds(od.TopK, st.integers(1, 50)),
    st.builds(od.TopP, st.floats(0.01, 1.0)),
    st.builds(od.MinP, st.floats(0.0, 1.0), st.sampled_from(["tempered", "raw"])),
    st.builds(od.TopNSigma, st.floats(0.0, 3.0)),
    st.builds(od.PLess),
    st.builds(od.Epsilon, st.floats(0.0, 1.0)),
    st.builds(od.Eta, st.floats(0.0, 1.0)),
    st.builds(od.TopH, st.floats(0.0, 1.0), st.sampled_from(["tempered", "raw"])),
)
TYPICAL = st.builds(od.Typical, st.floats(0.01, 1.0), st.sampled_from(["tempered", "raw"]))
SUPPORTS = KEEPS_BEST | TYPICAL
CHAINS = st.lists(SUPPORTS, min_size=1, max_size=4)


def kept(support, row, temperature=1.0, backend="rust", on_failure="raise"):
    decoder = od.softmax(temperature).subject_to(support)
    return np.asarray(decoder(row, backend=backend, on_failure=on_failure).support)


def order(row):
    """Token ids by (score descending, id ascending)."""
    return np.lexsort((np.arange(row.size), -row))


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, k=st.integers(1, 50))
def test_top_k_keeps_exactly_the_first_k(backend, row, k):
    expected = np.zeros(row.size, dtype=bool)
    expected[order(row)[: min(k, (row > -np.inf).sum())]] = True
    np.testing.assert_array_equal(kept(od.TopK(k), row, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, p=st.floats(0.01, 1.0), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_top_p_is_a_minimal_prefix(backend, row, p, temperature):
    keep = kept(od.TopP(p), row, temperature, backend)
    ranks = order(row)
    size = keep.sum()
    assert keep[ranks[:size]].all()
    masses = np.exp((row - row.max()) / temperature)[ranks]
    masses /= masses.sum()
    if p < 1.0:
        assert masses[:size].sum() >= p * (1 - 1e-6)
        assert masses[: size - 1].sum() < p * (1 + 1e-6)
    else:
        assert size == (row > -np.inf).sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("measured_on", ["tempered", "raw"])
@given(row=ROWS, rho=st.floats(0.0, 1.0), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_min_p_is_decided_on_the_input(backend, measured_on, row, rho, temperature):
    with np.errstate(divide="ignore"):
        bar = row.max() + (temperature if measured_on == "tempered" else 1.0) * np.log(rho)
    expected = (row >= bar) & (row > -np.inf)
    np.testing.assert_array_equal(kept(od.MinP(rho, measured_on), row, temperature, backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_other_rules_on_a_written_out_row(backend):
    row = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.04, 0.01]))
    entropy = -(np.exp(row) * row).sum()
    eta = min(0.16, np.sqrt(0.16) * np.exp(-entropy))
    for support, bar in [
        (od.Epsilon(0.12), 0.12),
        (od.PLess(), (np.exp(row) ** 2).sum()),
        (od.Eta(0.16), eta),
        (od.TopNSigma(1.0), np.exp(row.max() - row.std())),
    ]:
        np.testing.assert_array_equal(kept(support, row, backend=backend), np.exp(row) >= bar)
    for support in (od.Epsilon(0.9), od.Eta(1.0), od.PLess(), od.TopNSigma(0.0)):
        assert kept(support, row, backend=backend)[0]
    # measured on the raw softmax, a temperature does not change the face
    raw, tempered = od.Epsilon(0.12, measured_on="raw"), od.Epsilon(0.12)
    assert kept(raw, row, 3.0, backend).sum() == 3
    assert kept(tempered, row, 3.0, backend).sum() == 6 - 1 * (np.exp(row / 3) / np.exp(row / 3).sum() < 0.12).sum()


@given(row=ROWS, supports=st.lists(SUPPORTS, min_size=2, max_size=4), data=st.data())
def test_supports_commute(row, supports, data):
    shuffled = data.draw(st.permutations(supports))
    one, other = (od.softmax().subject_to(*order)(row, on_failure="mark") for order in (supports, shuffled))
    np.testing.assert_array_equal(one.probs, other.probs)
    faces = [kept(support, row) for support in supports]
    np.testing.assert_array_equal(np.asarray(one.support), np.logical_and.reduce(faces))
    assert one.status is (od.Status.OK if one.support.any() else od.Status.INFEASIBLE)


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, support=KEEPS_BEST, temperature=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_best_token_always_stays(backend, row, support, temperature):
    assert kept(support, row, temperature, backend)[order(row)[0]]


def log_softmax(scores):
    shifted = scores - scores.max()
    return np.maximum(shifted - np.log(np.exp(shifted).sum()), -1e200)


def entropy(log_p):
    p = np.exp(log_p)
    return -(p[p > 0] * log_p[p > 0]).sum()


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, support=TYPICAL, temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_typical_keeps_the_fewest_tokens_of_information_near_the_entropy(backend, row, support, temperature):
    keep = kept(support, row, temperature, backend)
    allowed = row > -np.inf
    if support.p == 1.0:
        np.testing.assert_array_equal(keep, allowed)
        return
    scores, keep = row[allowed] / (temperature if support.measured_on == "tempered" else 1.0), keep[allowed]
    log_p = log_softmax(scores)
    distance = np.abs(-log_p - entropy(log_p))
    radius = distance[keep].max()
    near = 1e-6 + 1e-12 * np.abs(scores).max()
    assert keep[distance < radius - near].all()
    assert np.exp(log_p[keep]).sum() >= support.p * (1 - 1e-6)
    furthest = keep & (distance >= radius - near)
    assert np.exp(log_p[keep & ~furthest]).sum() < support.p * (1 + 1e-6), (
        "without the furthest there would be too little"
    )
    for score in row[allowed][furthest]:
        tied = keep[row[allowed] == score]
        assert tied[: tied.sum()].all(), "of equal tokens the first"


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, support=st.builds(od.TopH, st.floats(0.0, 1.0), st.sampled_from(["tempered", "raw"])))
def test_top_h_is_the_longest_prefix_of_so_little_entropy(backend, row, support):
    temperature = 0.5 if support.measured_on == "tempered" else 1.0
    keep = kept(support, row, 0.5, backend)
    allowed = row > -np.inf
    ranks, size = order(row), int(keep.sum())
    assert keep[ranks[:size]].all()
    if support.alpha == 1.0:
        np.testing.assert_array_equal(keep, allowed)
        return
    most = support.alpha * entropy(log_softmax(row[allowed] / temperature))
    # The greedy rule, one token after the other.
    found = [entropy(log_softmax(row[ranks[:k]] / temperature)) for k in range(1, allowed.sum() + 1)]
    greedy = next((k for k, h in enumerate(found) if h > most * (1 + 1e-6)), len(found))
    surely = next((k for k, h in enumerate(found) if h > most * (1 - 1e-6) - 1e-12), len(found))
    zero = np.exp(log_softmax(row[ranks[: len(found)]] / temperature)) == 0.0
    assert max(min(surely, (~zero).sum()), 1) <= size <= max(greedy, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_about_entropy_by_hand(backend):
    row = np.log([0.1, 0.4, 0.2, 0.2, 0.1])  # H = 1.47; -ln p = 2.30, 0.92, 1.61, 1.61, 2.30
    for p, expected in [
        (0.1, [2]),
        (0.19, [2]),
        (0.21, [2, 3]),
        (0.5, [1, 2, 3]),
        (0.85, [0, 1, 2, 3]),
        (1.0, range(5)),
    ]:
        np.testing.assert_array_equal(np.flatnonzero(kept(od.Typical(p), row, backend=backend)), expected, str(p))
    for alpha, expected in [
        (0.0, [1]),
        (0.4, [1]),
        (0.45, [1, 2]),
        (0.72, [1, 2, 3]),
        (0.9, [0, 1, 2, 3]),
        (1.0, range(5)),
    ]:
        np.testing.assert_array_equal(np.flatnonzero(kept(od.TopH(alpha), row, backend=backend)), expected, str(alpha))
    assert kept(od.Typical(1.0) & od.TopH(1.0), row, backend=backend).all()
    for n in (1, 2, 4, 9, 100):
        row = np.full(n, 0.3)
        for k in range(1, n + 1):
            assert kept(od.Typical((k - 0.5) / n), row, backend=backend).nonzero()[0].tolist() == list(range(k))
            alpha = np.log(k) / np.log(n) if n > 1 else 0.0
            assert kept(od.TopH(alpha), row, backend=backend).nonzero()[0].tolist() == list(range(k)), (n, k)
    # So hot that all are equally probable, and equally far from the mean: the better score first, then the lower id.
    for p, expected in [(0.2, [1]), (0.4, [1, 2]), (0.6, [0, 1, 2]), (0.9, [0, 1, 2, 3])]:
        found = kept(od.Typical(p), np.array([-1.0, 1.0, 1.0, -1.0]), 1e300, backend)
        np.testing.assert_array_equal(np.flatnonzero(found), expected, str(p))
    # One token has nearly everything, and the entropy is that of the others: as many as have half of it.
    assert kept(od.TopH(0.5), np.append(np.zeros(100), 60.0), backend=backend).sum() == 51
    assert kept(od.TopH(0.5), np.append(np.zeros(100), 1e30), backend=backend).sum() == 1


@pytest.mark.parametrize("backend", BACKENDS)
class TestWithoutTheBestToken:
    """`Typical` may leave it out, and then there may be nothing that other rules keep, too."""

    ROW = np.log([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])  # H = 1.50; -ln p = 0.69 and 2.30

    def test_what_is_left_is_softmax(self, backend):
        row = np.log([0.4, 0.2, 0.2, 0.1, 0.1])
        solution = od.softmax().subject_to(od.Typical(0.3))(row, backend=backend)
        np.testing.assert_allclose(solution.probs, [0.0, 0.5, 0.5, 0.0, 0.0])
        assert solution.kept_mass == pytest.approx(0.4)
        assert solution.certificate().gap <= 1e-12
        assert set(od.softmax().subject_to(od.Typical(0.3)).sample(row, seed=1, n=50, backend=backend).tokens) == {1, 2}

    @pytest.mark.parametrize("other", [od.TopK(1), od.TopP(0.2), od.MinP(0.9), od.TopH(0.1), od.Epsilon(0.3)], ids=repr)
    @pytest.mark.parametrize(
        "decoder", [od.softmax(), od.sparsemax(), od.best_of_k(4, beta=1.0), od.greedy()], ids=repr
    )
    def test_a_row_without_a_common_token_is_infeasible_alone(self, backend, decoder, other):
        decoder = decoder.subject_to(od.Typical(0.2), other)
        rows = np.log([[0.4, 0.2, 0.2, 0.1, 0.1], [0.97, 0.01, 0.01, 0.005, 0.005], [0.4, 0.2, 0.2, 0.1, 0.1]])
        with pytest.raises(od.ConvergenceError, match=r"row 0: INFEASIBLE .*; row 2: INFEASIBLE "):
            decoder(rows, backend=backend)
        marked = decoder(rows, backend=backend, on_failure="mark")
        assert [od.Status(code).name for code in marked.status] == ["INFEASIBLE", "OK", "INFEASIBLE"]
        assert np.isnan(marked.probs[[0, 2]]).all()
        np.testing.assert_array_equal(marked.probs[1], [1.0, 0.0, 0.0, 0.0, 0.0])
        draw = decoder.sample(rows, seed=3, n=2, backend=backend, on_failure="mark")
        np.testing.assert_array_equal(draw.tokens, [[-1, -1], [0, 0], [-1, -1]])

    def test_a_chain_is_never_without_tokens(self, backend):
        row = np.log([0.4, 0.2, 0.2, 0.1, 0.1])
        first = od.Chain(od.Typical(0.2), od.TopK(1))
        assert kept(first, row, backend=backend).tolist() == [False, True, False, False, False]
        later = od.Chain(od.TopK(1), od.Typical(0.2))
        assert kept(later, row, backend=backend).tolist() == [True, False, False, False, False]
        assert not kept(first & later, row, backend=backend, on_failure="mark").any()
        # After a band, k and the best probability are those of what it left.
        assert kept(od.Chain(od.Typical(0.3), od.MinP(0.9), od.TopK(5)), row, backend=backend).sum() == 2

    def test_weights_of_best_of_k_may_be_typical(self, backend):
        row = np.log([0.4, 0.2, 0.2, 0.1, 0.1])
        by_support = od.best_of_k(8, beta_bar=2.0, lam=1.0, weights=od.Typical(0.3))(row, backend=backend)
        by_values = od.best_of_k(8, beta_bar=2.0, lam=1.0, weights=[0.0, 1.0, 1.0, 0.0, 0.0])(row, backend=backend)
        np.testing.assert_allclose(by_support.probs, by_values.probs, atol=1e-12)
        assert by_support.certificate().gap <= 1e-9
        nowhere = od.best_of_k(8, beta_bar=2.0, lam=1.0, weights=od.Typical(0.3) & od.TopK(1))(row, backend=backend)
        np.testing.assert_allclose(nowhere.probs, od.best_of_k(8, beta=0.0, lam=1.0)(row, backend=backend).probs)

    def test_greedy_takes_the_best_that_is_left(self, backend):
        row = np.log([0.4, 0.2, 0.2, 0.1, 0.1])
        greedy = od.Decoder(od.Problem(support=od.Typical(0.2), temperature=1.0))
        assert greedy.plan.kind is od.PlanKind.ARGMAX
        np.testing.assert_array_equal(greedy(row, backend=backend).probs, [0, 1, 0, 0, 0])
        assert greedy.sample(row, seed=1, backend=backend).tokens.tolist() == [1]
        many = np.repeat(row, 200)
        assert greedy.sample(many.astype(np.float32), seed=1, backend=backend).tokens.tolist() == [200]


RAW = od.Typical(0.3, measured_on="raw")
ZERO = [
    od.Typical(0.3), od.Typical(0.3) & od.TopK(1), RAW, RAW & od.TopP(0.9), RAW & od.MinP(0.2),
    od.Typical(0.7, "raw") & od.MinP(0.3, "raw"), od.Typical(0.7, "raw") & od.TopP(1.0),
    od.Typical(0.4, "raw") & od.TopK(3), od.Typical(0.6, "raw") & od.TopNSigma(0.3),
    od.Chain(RAW, od.TopP(0.5)), od.Chain(od.TopK(3), RAW, od.TopH(0.5)), od.Chain(od.TopP(0.5), RAW),
    od.Chain(RAW, od.TopK(2)) & od.Typical(0.4, "raw") & od.Epsilon(0.0),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("support", ZERO, ids=repr)
@given(row=hnp.arrays(np.float64, st.integers(1, 12), elements=st.integers(-4, 4).map(lambda x: 0.5 * x)))
def test_temperature_zero_is_the_limit(backend, support, row):
    """At 1e-3 the best of these tokens has all the mass of those a step of 0.5 below: the limit, but for ties."""
    limit = od.softmax(0.0).subject_to(support)(row, backend=backend, on_failure="mark")
    near = od.softmax(1e-3).subject_to(support)(row, backend=backend, on_failure="mark")
    assert limit.status == near.status
    if limit.status is od.Status.OK:
        assert np.argmax(limit.probs) == np.argmax(near.probs)
        assert limit.probs.max() == 1.0


def test_supports_are_measured_on_what_the_mask_leaves():
    row = np.log(np.array([0.9, 0.05, 0.03, 0.02]))
    mask = np.array([False, True, True, True])
    keep = od.softmax().subject_to(od.TopP(0.45))(row, mask=mask).support
    np.testing.assert_array_equal(keep, [False, True, False, False])
    keep = od.softmax().subject_to(od.TopK(2))(row, mask=mask).support
    np.testing.assert_array_equal(keep, [False, True, True, False])


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, rules=CHAINS, temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_chain_measures_each_rule_on_what_the_one_before_it_left(backend, row, rules, temperature):
    left = np.full(row.shape, True)
    for rule in rules:  # a mask removes tokens before anything is measured
        left = np.asarray(od.softmax(temperature).subject_to(rule)(row, mask=left, backend=backend).support)
    np.testing.assert_array_equal(kept(od.Chain(*rules), row, temperature, backend), left)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chains_by_hand(backend):
    row = np.log([0.4, 0.2, 0.2, 0.1, 0.1])

    def size(support, temperature=1.0):
        return kept(support, row, temperature, backend).sum()

    # Of the first three, 0.5, 0.25, 0.25 is left: 0.7 is reached by two of them, of all tokens by three.
    assert size(od.Chain(od.TopK(3), od.TopP(0.7))) == 2
    assert size(od.TopK(3) & od.TopP(0.7)) == 3
    assert size(od.Chain(od.TopP(0.7), od.TopK(3))) == 3
    # At temperature 0.1 the first has nearly everything, and untempered no more than before.
    assert size(od.Chain(od.TopK(3), od.TopP(0.7)), 0.1) == 1
    assert size(od.Chain(od.TopK(3), od.TopP(0.7, measured_on="raw")), 0.1) == 2


def test_a_chain_is_a_spec_like_the_others():
    chain = od.Chain(od.TopK(50), od.Chain(od.TopP(0.9, measured_on="raw"), od.MinP(0.1)))
    assert chain == od.Chain(od.TopK(50), od.TopP(0.9, measured_on="raw"), od.MinP(0.1))
    assert chain != od.Chain(od.TopP(0.9, measured_on="raw"), od.TopK(50), od.MinP(0.1))
    assert eval(repr(chain), vars(od)) == chain == pickle.loads(pickle.dumps(chain))
    decoder = od.softmax(0.8).subject_to(chain, od.Allowed([1, 2]))
    assert od.Decoder.from_dict(json.loads(json.dumps(decoder.to_dict()))) == decoder
    assert parse_decoder("softmax(0.8).subject_to(Chain(TopK(5), TopP(0.9)))").problem.support.supports == (
        od.TopK(5),
        od.TopP(0.9),
    )
    # Only what depends on the rest needs an order, and what comes after a band.
    assert od.softmax().subject_to(od.Chain(od.Typical(0.9), od.TopK(50))).plan.chains
    assert not od.softmax().subject_to(od.Chain(od.TopK(50), od.MinP(0.1))).plan.chains
    plan = od.softmax().subject_to(od.Chain(od.TopP(0.9), od.TopK(50), od.MinP(0.1))).plan
    assert plan == od.softmax().subject_to(od.TopP(0.9), od.TopK(50), od.MinP(0.1)).plan


@pytest.mark.parametrize("members", [(), (50,), (od.Allowed([1]),), (od.TopK(5) & od.MinP(0.1),)], ids=repr)
def test_chains_of_anything_else_are_refused(members):
    with pytest.raises(od.ProblemError, match="Chain: "):
        od.Chain(*members)


def test_weights_cannot_be_an_ordered_chain():
    with pytest.raises(od.ProblemError, match="weights cannot be an ordered chain"):
        od.best_of_k(weights=od.Chain(od.TopK(5), od.TopP(0.9)))


@pytest.mark.parametrize("unit", [1e-43, 1e-30, 1e-15, 1e30])
def test_a_standard_deviation_whose_square_no_float32_holds(unit):
    row = (np.random.default_rng(3).normal(size=500) * unit).astype(np.float32)
    decoder = od.softmax().subject_to(od.TopNSigma(1.0))
    support = decoder(row).support
    np.testing.assert_array_equal(support, decoder(row, backend="reference").support)
    assert 1 < support.sum() < 300
    assert set(decoder.sample(row, seed=1, n=100).tokens) <= set(np.flatnonzero(support))
