"""The tokens of DAG-mod: text to tokens to ids and back. Use them through `optdecode.models.dagmod`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

VOCABULARY_SIZE = 1024
PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
LETTERS = "abcdefghijklmnopqrstuvwxyz"

_MARKS = ("=", "+", "-", "*", "?", "#", ";")
_TOKEN = re.compile(r"<[a-z0-9]+>|\S")


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """All tokens by id: specials, marks, digits, letters, then junk tokens that mean nothing.

    The junk is the tail a sampler must cope with: training puts it into 1 % of the response tokens.
    """
    words = (PAD, BOS, EOS, UNKNOWN, *_MARKS, *"0123456789", *LETTERS)
    return (*words, *(f"<x{i:03d}>" for i in range(VOCABULARY_SIZE - len(words))))


def first_junk_id() -> int:
    """The smallest id of a junk token; all larger ids are junk too."""
    return vocabulary().index("<x000>")


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {token: i for i, token in enumerate(vocabulary())}


def tokenize(text: str) -> list[str]:
    """Split text into tokens: ``<...>`` names and single characters, white space dropped."""
    return _TOKEN.findall(text)


def encode(tokens: Sequence[str]) -> list[int]:
    """Ids of tokens; unknown ones become ``<unk>``."""
    ids = _ids()
    return [ids.get(token, ids[UNKNOWN]) for token in tokens]


def decode(ids: Sequence[int]) -> list[str]:
    """Tokens of ids; ids outside the vocabulary (such as the −1 of a row without a draw) become ``<unk>``."""
    words = vocabulary()
    return [words[i] if 0 <= i < len(words) else UNKNOWN for i in map(int, ids)]
