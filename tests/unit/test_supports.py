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
SUPPORTS = st.one_of(
    st.builds(od.TopK, st.integers(1, 50)),
    st.builds(od.TopP, st.floats(0.01, 1.0)),
    st.builds(od.MinP, st.floats(0.0, 1.0), st.sampled_from(["tempered", "raw"])),
    st.builds(od.TopNSigma, st.floats(0.0, 3.0)),
    st.builds(od.PLess),
    st.builds(od.Epsilon, st.floats(0.0, 1.0)),
    st.builds(od.Eta, st.floats(0.0, 1.0)),
)
CHAINS = st.lists(SUPPORTS, min_size=1, max_size=4)


def kept(support, row, temperature=1.0, backend="rust"):
    return np.asarray(od.softmax(temperature).subject_to(support)(row, backend=backend).support)


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
    one, other = od.softmax().subject_to(*supports)(row), od.softmax().subject_to(*shuffled)(row)
    np.testing.assert_array_equal(one.probs, other.probs)
    faces = [kept(support, row) for support in supports]
    np.testing.assert_array_equal(np.asarray(one.support), np.logical_and.reduce(faces))


@pytest.mark.parametrize("backend", BACKENDS)
@given(row=ROWS, support=SUPPORTS, temperature=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_best_token_always_stays(backend, row, support, temperature):
    assert kept(support, row, temperature, backend)[order(row)[0]]


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
    # Only what depends on the rest needs an order.
    plan = od.softmax().subject_to(od.Chain(od.TopP(0.9), od.TopK(50), od.MinP(0.1))).plan
    assert plan == od.softmax().subject_to(od.TopP(0.9), od.TopK(50), od.MinP(0.1)).plan


@pytest.mark.parametrize("members", [(), (50,), (od.Allowed([1]),), (od.TopK(5) & od.MinP(0.1),)], ids=repr)
def test_chains_of_anything_else_are_refused(members):
    with pytest.raises(od.ProblemError, match="Chain: "):
        od.Chain(*members)


def test_weights_cannot_be_an_ordered_chain():
    with pytest.raises(od.ProblemError, match="weights cannot be an ordered chain"):
        od.best_of_k(weights=od.Chain(od.TopK(5), od.TopP(0.9)))
