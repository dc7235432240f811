"""The verifier of DAG-mod. Use it through `optdecode.models.dagmod`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optdecode.models._vocabulary import EOS, decode, tokenize

if TYPE_CHECKING:
    from optdecode.models.dagmod import Problem


class Verdict(NamedTuple):
    """What `verify` found.

    Attributes
    ----------
    correct
        The whole derivation and the answer are right.
    answer
        The digit after the first ``#``, right or wrong; None where there is none. Voting needs it for wrong
        derivations too.
    reason
        ``"correct"``, or the first fault.
    """

    correct: bool
    answer: int | None
    reason: str


def verify(problem: Problem, response: str | Sequence[str] | Sequence[int] | npt.NDArray[np.int64]) -> Verdict:
    """Check a whole response: each step defined, ready, with the right operands and result, then the answer.

    Steps for variables the query does not need are allowed if they are right; deriving a variable twice is not, and
    operands must stand in the order of the equation. What follows ``<eos>`` is ignored.

    Parameters
    ----------
    problem
        The problem answered.
    response
        Text, tokens or ids, without the prompt.
    """
    tokens: list[Any] = tokenize(response) if isinstance(response, str) else list(response)
    words = [token if isinstance(token, str) else decode([token])[0] for token in tokens]
    if EOS in words:
        words = words[: words.index(EOS)]
    fault = _fault(problem, words)
    return Verdict(fault is None, _stated_answer(words), fault or "correct")


def _stated_answer(words: Sequence[str]) -> int | None:
    for mark, digit in pairwise(words):
        if mark == "#":
            return int(digit) if digit in "0123456789" else None
    return None


def _fault(problem: Problem, words: Sequence[str]) -> str | None:
    """The first fault of a response that stops before ``<eos>``."""
    done: set[str] = set()
    at = 0
    while at < len(words) and words[at] != "#":
        name = words[at]
        if name not in problem.by_name:
            return f"step {len(done) + 1}: {name!r} is not a variable of the problem"
        if name in done:
            return f"step {len(done) + 1}: {name!r} was already derived"
        if not problem.is_ready(name, done):
            return f"step {len(done) + 1}: {name!r} is not ready, an operand was not derived yet"
        right = problem.step(name)
        got = tuple(words[at : at + len(right)])
        if got[:-1] != right[:-1]:
            return f"step {len(done) + 1}: wrong operands {' '.join(got)!r}, right is {' '.join(right)!r}"
        if got != right:
            return f"step {len(done) + 1}: wrong result {' '.join(got)!r}, right is {' '.join(right)!r}"
        done.add(name)
        at += len(right)
    if at >= len(words):
        return "the response ends without an answer"
    if problem.query not in done:
        return f"the answer comes before {problem.query!r} was derived"
    if tuple(words[at + 1 :]) != (str(problem.answer),):
        return f"wrong answer {' '.join(words[at:])!r}, right is '# {problem.answer}'"
    return None
