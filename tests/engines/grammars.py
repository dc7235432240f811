"""Real grammar engines over the embedded vocabulary, whose tokens are words without spaces between them."""

import llguidance
import llguidance.numpy
import xgrammar
from llguidance.numpy import allocate_token_bitmask

from optdecode.models import dagmod

WORDS = list(dagmod.vocabulary())
SIZE = len(WORDS)
EOS = 2
#: What both engines are asked for: two assignments of a digit, or of a sum of two letters.
EXPRESSION = r"[a-c]=([0-9]|[a-c]\+[a-c]);[a-c]=[0-9]"
EBNF = 'root ::= [a-c] "=" ([0-9] | [a-c] "+" [a-c]) ";" [a-c] "=" [0-9]'


class XGrammar:
    """Bitmasks of xgrammar for a vocabulary that may be smaller than the logits are wide."""

    def __init__(self, rows, size=SIZE):
        info = xgrammar.TokenizerInfo(
            [word.encode() for word in WORDS[:size]],
            vocab_type=xgrammar.VocabType.RAW,
            vocab_size=size,
            stop_token_ids=[EOS],
        )
        compiled = xgrammar.GrammarCompiler(info).compile_grammar(EBNF)
        self.matchers = [xgrammar.GrammarMatcher(compiled) for _ in range(rows)]
        self.bitmask = xgrammar.allocate_token_bitmask(rows, size)

    def accept(self, row, token):
        assert self.matchers[row].accept_token(int(token)), f"row {row} must not draw {WORDS[token]}"

    def fill(self, row):
        self.matchers[row].fill_next_token_bitmask(self.bitmask, row)


class LLGuidance:
    """Bitmasks of llguidance, in NumPy."""

    eos_token_id, bos_token_id, special_token_ids = EOS, 1, [0, 1, 2, 3]

    def __init__(self, rows, size=SIZE):
        self.tokens = [word.encode() for word in WORDS[:size]]
        tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self))
        grammar = llguidance.LLMatcher.grammar_from_regex(EXPRESSION)
        self.matchers = [llguidance.LLMatcher(tokenizer, grammar) for _ in range(rows)]
        self.bitmask = allocate_token_bitmask(rows, size)

    def __call__(self, text):
        return [WORDS.index(character) for character in (text.decode() if isinstance(text, bytes) else text)]

    def accept(self, row, token):
        assert self.matchers[row].consume_token(int(token)), f"row {row} must not draw {WORDS[token]}"

    def fill(self, row):
        llguidance.numpy.fill_next_token_bitmask(self.matchers[row], self.bitmask, row)


ENGINES = {"xgrammar": XGrammar, "llguidance": LLGuidance}


def driver(engine):
    """The `mask` argument of the generation loops: feeds what was drawn, returns what may come next."""

    def mask(tokens, live):
        for row in live:
            if tokens.shape[1]:
                engine.accept(row, tokens[row, -1])
            engine.fill(row)
        return engine.bitmask

    return mask
