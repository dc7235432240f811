"""Decoder strings are parsed, never evaluated, and errors point at the part that is wrong."""

import pytest

import optdecode as od
from optdecode._parse import parse_decoder


@pytest.mark.parametrize(
    ("text", "decoder"),
    [
        ("greedy()", od.greedy()),
        (" top_k(50, temperature=0.7) ", od.top_k(50, temperature=0.7)),
        ("od.best_of_k(budget=8)", od.best_of_k(budget=8)),
        ("best_of_k(8, beta=None, beta_bar=.5, lam=1).twin()", od.best_of_k(8, beta_bar=0.5, lam=1).twin()),
        ("entmax(1.5).subject_to(TopK(50), MinP(0.02))", od.entmax(1.5).subject_to(od.TopK(50), od.MinP(0.02))),
        ("best_of_k(weights=TopK(5) & MinP(0.1))", od.best_of_k(weights=od.TopK(5) & od.MinP(0.1))),
        ("best_of_k(solver=MirrorAscent(5, eta='auto'))", od.best_of_k(solver=od.MirrorAscent(5, eta="auto"))),
        (
            "Decoder(Problem(0.5 * KL() - 0.1 * Coverage(8)))",
            od.Decoder(od.Problem(0.5 * od.KL() - 0.1 * od.Coverage(8))),
        ),
        ("softmax().subject_to(Allowed([1, 2]))", od.softmax().subject_to(od.Allowed([1, 2]))),
    ],
)
def test_understands(text, decoder):
    assert parse_decoder(text) == decoder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an expression"),
        ("top_k(50", "not an expression"),
        ("topk(50)", "unknown name.*top_k"),
        ("top_k", "without calling it"),
        ("top_k(0)", r"k must be an integer"),
        ("top_k()", "missing"),
        ("top_k(50, temprature=1)", "temprature"),
        ("TopK(5)", "not a decoder"),
        ("'top_k(5)'", "not a decoder"),
        ("__import__('os').system('true')", "only .subject_to|unknown name"),
        ("softmax().problem", "only constructor calls"),
        ("softmax().sample(1)", "only .subject_to"),
        ("softmax(**{})", r"\*\*"),
        ("softmax(2 ** 3)", "operators are"),
        ("softmax(1 + 1)", "operators are"),
        ("softmax(True and 1)", "only constructor calls"),
        ("[x for x in y]", "only constructor calls"),
        ("softmax(b'1')", "a number or a string"),
        ("softmax(lambda: 1)", "only constructor calls"),
        ("softmax(" + "-" * 200 + "1)", "nested"),
        ("softmax(" + "(" * 500 + ")" * 500 + ")", "not an expression|nested"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(od.ProblemError, match=message):
        parse_decoder(text)
