"""What became of a row."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome of one row; the numbers are stable and equal to those of the Rust core.

    ``BAD_REGULARIZER`` is of Python alone, where the caller's own code runs.

    Examples
    --------
    >>> Status(2).name, Status.INFEASIBLE.is_solved
    ('INFEASIBLE', False)
    """

    OK = 0
    REDUCED_ACCURACY = 1
    INFEASIBLE = 2
    NAN_SCORES = 3
    INF_SCORES = 4
    BAD_ANCHOR = 5
    BAD_WEIGHTS = 6
    TOO_FEW_TOKENS = 7
    BAD_REGULARIZER = 8

    @property
    def is_solved(self) -> bool:
        """Whether the row has a distribution (possibly of reduced accuracy)."""
        return self <= Status.REDUCED_ACCURACY

    @property
    def meaning(self) -> str:
        """One clause that says what happened."""
        return _MEANINGS[self]


#: The members by their number; `Status(code)` finds them more slowly.
STATUSES = tuple(Status)

_MEANINGS = {
    Status.OK: "solved to float precision",
    Status.REDUCED_ACCURACY: "solved, with a residual larger than float precision explains",
    Status.INFEASIBLE: "no token is allowed, or no distribution on those that are respects supports, cap and target",
    Status.NAN_SCORES: "an allowed token has a NaN logit",
    Status.INF_SCORES: "an allowed token has a +inf logit",
    Status.BAD_ANCHOR: "the anchor has a NaN or +inf log-probability on an allowed token",
    Status.BAD_WEIGHTS: "a weight of an allowed token is NaN, negative or infinite",
    Status.TOO_FEW_TOKENS: "fewer tokens have probability than distinct ones were asked for",
    Status.BAD_REGULARIZER: "the decoder's own regularizer or support failed, or contradicts itself",
}
