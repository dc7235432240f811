"""DAG-mod: a small reasoning task with an exact verifier, for trying decoders on.

A problem is a set of equations modulo 10 in shuffled order and a question::

    c = a * b ; a = 7 ; d = b - a ; b = 4 ; ? c

An answer derives every variable it needs, each after its operands, with the operands' *values* written out
(``name digit`` for a leaf, ``name value op value result`` for a node), and then states the result::

    b 4 a 7 c 7 * 4 8 # 8 <eos>

A problem has one answer but many valid derivations, so sampling has something to spread over, and `verify` checks the
whole derivation, not the last digit. Everything here is a pure function of its seed and needs only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from optdecode.models._verify import Verdict, verify
from optdecode.models._vocabulary import (
    BOS,
    EOS,
    LETTERS,
    PAD,
    UNKNOWN,
    VOCABULARY_SIZE,
    decode,
    encode,
    first_junk_id,
    tokenize,
    vocabulary,
)

__all__ = [
    "BOS",
    "EOS",
    "MODULUS",
    "PAD",
    "UNKNOWN",
    "VOCABULARY_SIZE",
    "Draws",
    "Leaf",
    "Node",
    "Problem",
    "Verdict",
    "decode",
    "encode",
    "first_junk_id",
    "generate",
    "stream",
    "tokenize",
    "verify",
    "vocabulary",
]

MODULUS = 10

_OPERATIONS = "+-*"
_HELD_OUT_EVERY = 16  # one problem in 16 belongs to the test split
_MASK64 = (1 << 64) - 1

Split = Literal["train", "test"]


class Leaf(NamedTuple):
    """The equation ``name = value``."""

    name: str
    value: int


class Node(NamedTuple):
    """The equation ``name = left op right``, modulo 10."""

    name: str
    left: str
    op: str
    right: str


class Draws:
    """A stream of small random integers: PCG64's raw words, whose stream NumPy guarantees not to change.

    Parameters
    ----------
    seed
        Any non-negative integer.

    Examples
    --------
    >>> draws = Draws(0)
    >>> [draws.below(10) for _ in range(5)]
    [4, 2, 0, 3, 5]
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """Draw from 0, ..., n − 1, uniformly up to n·2⁻³²."""
        if not self._words:
            # A block at a time: one call into NumPy per draw would dominate the generator.
            raw = np.asarray(self._bits.random_raw(2048))
            self._words = (raw >> np.uint64(32)).tolist()
        return (self._words.pop() * n) >> 32


def _apply(op: str, left: int, right: int) -> int:
    if op == "+":
        return (left + right) % MODULUS
    if op == "-":
        return (left - right) % MODULUS
    return (left * right) % MODULUS


def _mix(x: int) -> int:
    """The finaliser of SplitMix64: fixed for ever, unlike Python's `hash`."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


@dataclass(frozen=True)
class Problem:
    """One problem: equations in the order they are printed in, and the variable asked for.

    Examples
    --------
    >>> problem = Problem.from_prompt("c = a * b ; a = 7 ; b = 4 ; ? c")
    >>> problem.answer
    8
    >>> " ".join(problem.derivation())
    'a 7 b 4 c 7 * 4 8 # 8 <eos>'
    >>> verify(problem, "b 4 a 7 c 7 * 4 8 # 8 <eos>")
    Verdict(correct=True, answer=8, reason='correct')
    """

    equations: tuple[Leaf | Node, ...]
    query: str

    @classmethod
    def from_prompt(cls, text: str) -> Problem:
        """Read a prompt such as ``"a = 7 ; b = a + c ; c = 2 ; ? b"``; spaces are optional.

        Raises
        ------
        ValueError
            If the text is malformed, uses an undefined variable or defines one through itself.
        """
        return _parse(text)

    @property
    def prompt(self) -> str:
        """The prompt as text; the tokenizer turns it into ``<bos>`` and `prompt_tokens`."""
        return " ".join(self.prompt_tokens)

    @property
    def prompt_tokens(self) -> tuple[str, ...]:
        """The prompt as tokens, without ``<bos>``."""
        tokens: list[str] = []
        for equation in self.equations:
            if isinstance(equation, Leaf):
                tokens += (equation.name, "=", str(equation.value), ";")
            else:
                tokens += (equation.name, "=", equation.left, equation.op, equation.right, ";")
        return (*tokens, "?", self.query)

    @cached_property
    def by_name(self) -> dict[str, Leaf | Node]:
        """The equation that defines each variable."""
        return {equation.name: equation for equation in self.equations}

    @cached_property
    def values(self) -> dict[str, int]:
        """The value of every variable."""
        values: dict[str, int] = {}
        for name in self._ordered:
            equation = self.by_name[name]
            if isinstance(equation, Leaf):
                values[name] = equation.value
            else:
                values[name] = _apply(equation.op, values[equation.left], values[equation.right])
        return values

    @property
    def answer(self) -> int:
        """The value asked for."""
        return self.values[self.query]

    @cached_property
    def needed(self) -> frozenset[str]:
        """The query and everything it depends on."""
        found: set[str] = set()
        waiting = [self.query]
        while waiting:
            name = waiting.pop()
            equation = self.by_name[name]
            if name not in found and isinstance(equation, Node):
                waiting += (equation.left, equation.right)
            found.add(name)
        return frozenset(found)

    @cached_property
    def key(self) -> int:
        """A 64-bit hash of graph and values that renaming variables and reordering equations leave alone."""
        keys: dict[str, int] = {}
        for name in self._ordered:
            equation = self.by_name[name]
            if isinstance(equation, Leaf):
                keys[name] = _mix(equation.value + 1)
            else:
                # Odd multipliers keep left, right and operation apart: a − b is not b − a.
                left, right = keys[equation.left] * 0x9E3779B97F4A7C15, keys[equation.right] * 0xD1B54A32D192ED03
                keys[name] = _mix((left + right + ord(equation.op)) & _MASK64)
        return _mix((sum(keys.values()) + 3 * keys[self.query]) & _MASK64)

    @property
    def held_out(self) -> bool:
        """Whether the problem belongs to the test split, which training never sees."""
        return self.key % _HELD_OUT_EVERY == 0

    def derivation(self, below: Callable[[int], int] | None = None) -> tuple[str, ...]:
        """A valid response, as tokens up to and including ``<eos>``.

        Parameters
        ----------
        below
            Chooses among n variables that are ready, as `Draws.below` does; by default the one printed first.
        """
        open_names = [equation.name for equation in self.equations if equation.name in self.needed]
        done: set[str] = set()
        tokens: list[str] = []
        while open_names:
            ready = [name for name in open_names if self.is_ready(name, done)]
            name = ready[below(len(ready)) if below is not None else 0]
            tokens += self.step(name)
            open_names.remove(name)
            done.add(name)
        return (*tokens, "#", str(self.answer), EOS)

    def step(self, name: str) -> tuple[str, ...]:
        """The tokens that derive one variable."""
        equation, values = self.by_name[name], self.values
        if isinstance(equation, Leaf):
            return (name, str(equation.value))
        return (name, str(values[equation.left]), equation.op, str(values[equation.right]), str(values[name]))

    def is_ready(self, name: str, done: Collection[str]) -> bool:
        """Whether a variable can be derived once those in `done` are."""
        equation = self.by_name[name]
        return isinstance(equation, Leaf) or (equation.left in done and equation.right in done)

    @cached_property
    def _ordered(self) -> tuple[str, ...]:
        """All names, operands first; stops short of a cycle, which `_parse` refuses."""
        done: dict[str, None] = {}
        waiting = [equation.name for equation in self.equations]
        progress = True
        while progress:
            later = []
            for name in waiting:
                if self.is_ready(name, done):
                    done[name] = None
                else:
                    later.append(name)
            progress = len(later) < len(waiting)
            waiting = later
        return tuple(done)


_FORM = (
    "Allowed: equations 'x = 7' or 'x = y + z' (op +, - or *; one-letter names a-z; one digit), "
    "each followed by ';', then '? x'. Example: 'a = 7 ; b = a + c ; c = 2 ; ? b'."
)


def _parse(text: str) -> Problem:
    *statements, question = [tokenize(part) for part in text.split(";")]
    if len(question) != 2 or question[0] != "?" or question[1] not in LETTERS:
        raise ValueError(f"The prompt must end with a question such as '? b'; got {' '.join(question)!r}. {_FORM}")
    problem = Problem(tuple(_parse_equation(statement) for statement in statements), question[1])
    if len(problem.by_name) < len(problem.equations):
        names = [equation.name for equation in problem.equations]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Variable {twice!r} is defined more than once; define each variable once. {_FORM}")
    used = [problem.query]
    for equation in problem.equations:
        if isinstance(equation, Node):
            used += (equation.left, equation.right)
    for name in used:
        if name not in problem.by_name:
            raise ValueError(f"Variable {name!r} is used but no equation defines it. {_FORM}")
    if len(problem._ordered) < len(problem.equations):
        stuck = sorted(set(problem.by_name) - set(problem._ordered))
        raise ValueError(f"Variables {', '.join(stuck)} depend on themselves; equations must not form a cycle. {_FORM}")
    return problem


def _parse_equation(tokens: list[str]) -> Leaf | Node:
    if len(tokens) >= 3 and tokens[0] in LETTERS and tokens[1] == "=":
        if len(tokens) == 3 and tokens[2] in "0123456789":
            return Leaf(tokens[0], int(tokens[2]))
        if len(tokens) == 5 and tokens[2] in LETTERS and tokens[3] in _OPERATIONS and tokens[4] in LETTERS:
            return Node(tokens[0], tokens[2], tokens[3], tokens[4])
    raise ValueError(f"Not an equation: {' '.join(tokens)!r}. {_FORM}")


def stream(*, seed: int = 0, split: Split = "train", variables: tuple[int, int] = (4, 7)) -> Iterator[Problem]:
    """Problems of one split, without end.

    Parameters
    ----------
    seed
        Same seed, same problems.
    split
        ``"train"`` or ``"test"``; see `Problem.held_out`.
    variables
        Smallest and largest number of variables, distractors included; 3 to 26.
    """
    fewest, most = variables
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}.")
    if not 3 <= fewest <= most <= len(LETTERS):
        raise ValueError(f"variables must be (fewest, most) with 3 <= fewest <= most <= 26; got {variables!r}.")
    return _stream(Draws(seed).below, split == "test", fewest, most)


def _stream(below: Callable[[int], int], held_out: bool, fewest: int, most: int) -> Iterator[Problem]:
    while True:
        problem = _random_problem(below, fewest + below(most - fewest + 1))
        if problem.held_out == held_out:
            yield problem


def _random_problem(below: Callable[[int], int], n: int) -> Problem:
    letters = list(LETTERS)
    names = [letters.pop(below(len(letters))) for _ in range(n)]
    equations: list[Leaf | Node] = []
    for i, name in enumerate(names):
        # Two leaves to start from, the query last; one in five of the others is a leaf too.
        if i < 2 or (i < n - 1 and below(5) == 0):
            equations.append(Leaf(name, below(MODULUS)))
        else:
            left, right = below(i), below(i - 1)
            right += right >= left
            equations.append(Node(name, names[left], _OPERATIONS[below(3)], names[right]))
    for i in range(n - 1, 0, -1):
        j = below(i + 1)
        equations[i], equations[j] = equations[j], equations[i]
    return Problem(tuple(equations), names[-1])


def generate(count: int, *, seed: int = 0, split: Split = "test", variables: tuple[int, int] = (4, 7)) -> list[Problem]:
    """The first `count` problems of `stream`.

    Examples
    --------
    >>> problems = generate(2, seed=1)
    >>> all(problem.held_out for problem in problems)
    True
    """
    return list(islice(stream(seed=seed, split=split, variables=variables), count))
