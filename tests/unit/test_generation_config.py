"""from_generation_config and its checks on plain objects: no engine is needed to read attributes."""

from types import SimpleNamespace

import pytest

import optdecode as od
from optdecode.integrations._generation_config import (
    DEFAULTS,
    EDITS,
    ELSEWHERE,
    REFUSED,
    active_warpers,
    check_generation_config,
    from_generation_config,
    neutral_generation_kwargs,
)


def config(**settings):
    return SimpleNamespace(**neutral_generation_kwargs() | settings)


def test_nothing_set_is_what_generate_does():
    assert from_generation_config(SimpleNamespace()) == od.greedy()
    assert from_generation_config(SimpleNamespace(do_sample=True)) == od.top_k(50)
    assert from_generation_config(SimpleNamespace(do_sample=True, top_k=None)) == od.top_k(50)


@pytest.mark.parametrize(
    ("settings", "decoder"),
    [
        ({}, od.softmax()),
        ({"temperature": 0.3}, od.softmax(0.3)),
        ({"top_p": 0.5, "temperature": 2.0}, od.top_p(0.5, temperature=2.0)),
        ({"top_p": 0.0}, od.top_k(1)),
        ({"min_p": 0.2}, od.min_p(0.2)),
        ({"min_p": 0.0, "epsilon_cutoff": 1.0}, od.softmax()),
        ({"typical_p": 0.9, "temperature": 0.5}, od.softmax(0.5).subject_to(od.Typical(0.9))),
        ({"eta_cutoff": 0.1}, od.softmax().subject_to(od.Eta(0.1))),
        ({"epsilon_cutoff": 0.1, "top_k": 3}, od.softmax().subject_to(od.Chain(od.TopK(3), od.Epsilon(0.1)))),
    ],
)
def test_decoders(settings, decoder):
    assert from_generation_config(config(**settings)) == decoder


@pytest.mark.parametrize(("name", "neutral"), [*REFUSED.items(), *EDITS.items()])
def test_a_field_that_no_decoder_does_is_refused_by_name_unless_it_is_neutral(name, neutral):
    for value in neutral:
        from_generation_config(config(**{name: value}))
    with pytest.raises(od.ProblemError, match=f"no decoder does {name}=0.37"):
        from_generation_config(config(**{name: 0.37}))
    if name in EDITS:
        assert from_generation_config(config(**{name: 0.37}), edits="engine") == od.softmax()


def test_no_field_is_placed_twice():
    tables = [set(DEFAULTS) - set(REFUSED), set(REFUSED), set(EDITS), set(ELSEWHERE)]
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_elsewhere_changes_nothing():
    assert from_generation_config(config(**dict.fromkeys(ELSEWHERE, 3))) == od.softmax()


def test_an_unknown_field_is_refused_where_its_value_says_something():
    from_generation_config(config(top_q=None))
    with pytest.raises(od.ProblemError, match=r"top_q=0\.2 is not known"):
        from_generation_config(config(top_q=0.2))


def test_the_check():
    check_generation_config(config())
    assert active_warpers(config(top_k=7, min_p=0.1)) == {"top_k": 7, "min_p": 0.1}
    with pytest.raises(od.ProblemError, match=r"top_k=50 would.*do_sample is not True.*neutral_generation_kwargs"):
        check_generation_config(SimpleNamespace())


@pytest.mark.parametrize("edits", ["keep", None])
def test_bad_edits(edits):
    with pytest.raises(od.ProblemError, match="edits must be one of"):
        from_generation_config(config(), edits=edits)
