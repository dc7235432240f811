"""Bitmasks of real grammar engines, straight into ``mask=``."""

import re

import numpy as np
import pytest

import optdecode as od
from engines.grammars import ENGINES, EOS, EXPRESSION, WORDS

pytestmark = pytest.mark.engine

VOCABULARY = len(WORDS)
DECODERS = [
    od.softmax(3.0), od.top_k(2), od.top_p(0.9), od.min_p(0.1), od.sparsemax(), od.entmax(1.3), od.greedy(),
    od.best_of_k(4, beta_bar=0.5, lam=1.0), od.softmax().subject_to(od.Chain(od.TopK(20), od.TopP(0.9))),
]  # fmt: skip


def logits_of(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32) * 3


def bits(engine):
    """The bitmask as bool, read without us."""
    words = np.asarray(engine.bitmask).view(np.uint8)
    return np.unpackbits(words, axis=1, bitorder="little").astype(bool)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_sequences_match_the_grammar(name, decoder):
    rows = 8
    engine = ENGINES[name](rows)
    done = np.zeros(rows, dtype=bool)
    texts = [""] * rows
    for position in range(12):
        live = np.flatnonzero(~done)
        for row in live:
            engine.fill(row)
        logits = logits_of(rows, VOCABULARY, position)
        drawn = decoder.sample(logits[live], seed=od.row_seeds(3, rows)[live], position=position,
                               mask=engine.bitmask[live])  # fmt: skip
        for row, token in zip(live, drawn.tokens[:, 0], strict=True):
            assert bits(engine)[row, token]
            engine.accept(row, token)
            done[row] = token == EOS
            texts[row] += "" if done[row] else WORDS[token]
        if done.all():
            break
    assert done.all()
    assert all(re.fullmatch(EXPRESSION, text) for text in texts), texts


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_a_mask_is_a_smaller_vocabulary(name, decoder):
    engine = ENGINES[name](2)
    for row in range(2):
        engine.fill(row)
    allowed = np.flatnonzero(bits(engine)[0])
    assert [WORDS[token] for token in allowed] == ["a", "b", "c"]
    logits = logits_of(2, VOCABULARY)
    solution = decoder(logits, mask=engine.bitmask)
    alone = decoder(logits[:, allowed])
    np.testing.assert_allclose(solution.probs[:, allowed], alone.probs, rtol=1e-5, atol=1e-7)
    assert solution.probs.sum(axis=1) == pytest.approx(1, abs=1e-5)
    drawn = decoder.sample(logits, seed=1, n=500, mask=engine.bitmask).tokens
    assert np.isin(drawn, allowed).all()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("width", [VOCABULARY, VOCABULARY + 1, VOCABULARY + 64])
def test_logits_wider_than_the_mask_have_a_forbidden_tail(name, width):
    """Models pad their vocabulary; the engines' masks cover the tokenizer's alone."""
    size = VOCABULARY - 64
    engine = ENGINES[name](1, size)
    engine.fill(0)
    logits = logits_of(1, width)
    logits[:, size:] = 50.0  # far the best
    assert engine.bitmask.shape[1] * 32 < width
    for decoder in DECODERS:
        drawn = decoder.sample(logits, seed=2, n=200, mask=engine.bitmask)
        assert drawn.tokens.max() < size
        assert bits(engine)[0, drawn.tokens].all()
        assert decoder(logits, mask=engine.bitmask).probs[0, size:].sum() == 0


@pytest.mark.parametrize("name", ENGINES)
def test_one_row_that_allows_nothing_leaves_the_others(name):
    engine = ENGINES[name](3)
    for row in range(3):
        engine.fill(row)
    engine.bitmask[1] = 0
    logits = logits_of(3, VOCABULARY)
    with pytest.raises(od.ConvergenceError, match="row 1: INFEASIBLE"):
        od.top_p(0.9).sample(logits, seed=0, mask=engine.bitmask)
    marked = od.top_p(0.9).sample(logits, seed=0, mask=engine.bitmask, on_failure="mark")
    whole = od.top_p(0.9).sample(logits[[0, 2]], seed=od.row_seeds(0, 3)[[0, 2]], mask=engine.bitmask[[0, 2]])
    assert int(np.asarray(marked.tokens)[1, 0]) == -1
    np.testing.assert_array_equal(np.asarray(marked.tokens)[[0, 2]], whole.tokens)
