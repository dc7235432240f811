"""llama-cpp-python's parameters as a decoder, without the engine."""

import pytest

import optdecode as od
from optdecode.errors import ProblemError
from optdecode.integrations._llama_kwargs import NEUTRAL, check_replaced, from_llama_kwargs


def test_the_default_chain() -> None:
    cuts = od.Chain(od.TopK(40), od.TopP(0.95, measured_on="raw"), od.MinP(0.05, measured_on="raw"))
    assert from_llama_kwargs() == od.softmax(0.8).subject_to(cuts)
    first, *others = cuts.supports
    cuts = od.Chain(first, od.Typical(0.9, measured_on="raw"), *others)
    assert from_llama_kwargs(typical_p=0.9) == od.softmax(0.8).subject_to(cuts)


def test_what_is_off_is_left_out() -> None:
    assert from_llama_kwargs(**{k: v for k, v in NEUTRAL.items() if k != "temp"}) == od.softmax()
    assert from_llama_kwargs(top_k=-1, top_p=1.5, min_p=-0.1, temp=2) == od.softmax(2.0)
    assert from_llama_kwargs(top_p=1, min_p=0, temperature=1) == od.top_k(40)
    assert from_llama_kwargs(temp=0) == od.greedy()
    assert from_llama_kwargs(temp=-3, top_k=1) == od.softmax()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"typical_p": 0.0}, "p must be in"),
        ({"mirostat_mode": 1}, "mirostat_mode=1"),
        ({"repeat_penalty": 1.1}, "repeat_penalty=1.1 edits logits before"),
        ({"frequency_penalty": 0.1}, "frequency_penalty=0.1"),
        ({"presence_penalty": 0.1}, "presence_penalty=0.1"),
        ({"tfs_z": 0.9}, "tfs_z=0.9 has no effect"),
        ({"xtc_probability": 0.5}, "xtc_probability=0.5 is nothing it can express; it takes"),
        ({"dry_multiplier": 1.0}, "dry_multiplier=1.0"),
        ({"temp": 0.5, "temperature": 0.5}, "temperature or temp"),
        ({"top_k": 2.5}, "k must be an integer"),
        ({"top_k": "many"}, "top_k must be a real number"),
        ({"top_p": 0.0}, "p must be in"),
        ({"top_p": float("nan")}, "top_p must be finite"),
        ({"min_p": 1.5}, "p must be in"),
        ({"temp": None, "temperature": "hot"}, "temperature must be a real number"),
    ],
)
def test_what_it_cannot_express_is_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        from_llama_kwargs(**arguments)


def test_what_a_decoder_replaces_must_be_unset() -> None:
    defaults = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0, "temp": 0.8, "tfs_z": 1.0}
    defaults["mirostat_mode"] = 0
    check_replaced({**defaults, "mirostat_tau": 1.0, "repeat_penalty": 2.0}, defaults)
    check_replaced({"temp": 0.2, "top_k": 0, "top_p": 1.0}, defaults)
    with pytest.raises(ProblemError, match=r"top_p=0\.5 would not be read"):
        check_replaced({**defaults, "top_p": 0.5}, defaults)
