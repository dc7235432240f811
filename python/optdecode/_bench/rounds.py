"""Interleaved rounds: every case a few readings a round, each time right after the floor, in an order of its own.

Drift of the machine then hits a case and its floor alike, and the ratio of the two, taken round by round, does not see
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes
    ----------
    name : str
        Unique within a cell.
    time : callable
        ``time(start, count)`` returns the nanoseconds of ``count`` batches, which go round through the rows from row
        ``start`` on.
    source : str
        Whose it is.
    """

    name: str
    time: Callable[[int, int], NDArray[Any]]
    source: str = "optdecode"


@dataclass(frozen=True)
class Cell:
    """One combination of what a table goes over."""

    kind: str
    dtype: str
    vocabulary: int
    batch: int
    threads: int = 1


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of the figures of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> Quartiles:
        """Take them from values."""
        low, median, high = (float(value) for value in np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75)))
        return cls(median, low, high)

    @property
    def spread(self) -> float:
        """The interquartile range relative to the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Timing:
    """What became of one case in one cell.

    Attributes
    ----------
    name, source
        Those of the case.
    cell : Cell
        Where.
    microseconds : Quartiles, optional
        A row.
    ratio : Quartiles, optional
        To the floor of the same round.
    rounds : int
        How many rounds these come from.
    reason : str
        Why it was not run, where it was not.
    """

    name: str
    source: str
    cell: Cell
    microseconds: Quartiles | None = None
    ratio: Quartiles | None = None
    rounds: int = 0
    reason: str = ""


#: How many times longer than asked a slow case may take to get its least rounds.
PATIENCE = 20


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes
    ----------
    rounds : int
        At most so many rounds.
    seconds : float
        What a case may take in a cell.
    least_rounds : int
        At least so many rounds of one reading, unless they take `PATIENCE` times ``seconds``; one in any case.
    readings : int
        At most so many readings of a case a round.
    """

    rounds: int = 9
    seconds: float = 0.15
    least_rounds: int = 3
    readings: int = 16


@dataclass
class _Progress:
    """What is known of one case so far, in nanoseconds."""

    case: Case
    count: int = 1
    spent: float = 0.0
    figures: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    reason: str = ""

    def is_done(self, rounds: int, effort: Effort) -> bool:
        allowed = effort.seconds * 1e9
        return self.spent > allowed and (rounds >= effort.least_rounds or self.spent > PATIENCE * allowed)


def measure(cell: Cell, rows: int, floor: Case, cases: Sequence[Case], effort: Effort, seed: int = 0) -> list[Timing]:
    """Time cases in interleaved rounds.

    Parameters
    ----------
    cell : Cell
        What the timings are said to be of; ``batch`` is the rows of a reading.
    rows : int
        How many rows there are to go round.
    floor : Case
        What ratios are to.
    cases : sequence of Case
        In the order of the result. One that raises is not run, and its reason is the error.
    effort : Effort
        How much to measure.
    seed : int
        Of the order of the cases in each round.

    Returns
    -------
    list of Timing
        The floor's, then one a case.
    """
    rng = np.random.default_rng(seed)
    cursor = _Cursor(rows, cell.batch)
    base = _Progress(floor)
    states = [_Progress(case) for case in cases]
    _warm_up(base, _read, cursor, effort)
    for state in states:
        _warm_up(state, _succeeds, cursor, effort)
    for number in range(effort.rounds):
        for index in rng.permutation(len(states)):
            state = states[index]
            if state.reason or state.is_done(number, effort):
                continue
            _read(base, cursor)
            if _succeeds(state, cursor):
                state.floors.append(base.figures[-1])
    return [_timing(cell, state) for state in (base, *states)]


class _Cursor:
    """Goes round the rows, batch after batch, whoever reads."""

    def __init__(self, rows: int, batch: int) -> None:
        self._rows, self._batch, self._next = rows, batch, 0

    def advance(self, count: int) -> int:
        start = self._next
        self._next = (start + count * self._batch) % self._rows
        return start


def _warm_up(state: _Progress, read: Callable[[_Progress, _Cursor], bool], cursor: _Cursor, effort: Effort) -> None:
    # The second reading is the estimate, as the first pays for what is set up once; a long one stands for itself.
    if read(state, cursor) and (state.spent > effort.seconds * 1e9 or read(state, cursor)):
        affordable = effort.seconds * 1e9 / effort.rounds / max(state.figures[-1], 1.0)
        state.count = int(np.clip(affordable, 1, effort.readings))
    state.figures.clear()
    state.spent = 0.0


def _read(state: _Progress, cursor: _Cursor) -> bool:
    times = state.case.time(cursor.advance(state.count), state.count)
    state.spent += float(times.sum())
    state.figures.append(float(np.median(times)))
    return True


def _succeeds(state: _Progress, cursor: _Cursor) -> bool:
    try:
        return _read(state, cursor)
    except Exception as error:  # whatever a case raises is the reason why there is no figure
        state.reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return False


def _timing(cell: Cell, state: _Progress) -> Timing:
    case = state.case
    if state.reason or not state.figures:
        return Timing(case.name, case.source, cell, reason=state.reason or "no reading")
    figures = np.array(state.figures) / cell.batch
    ratios = figures / (np.array(state.floors) / cell.batch) if state.floors else np.ones(1)
    return Timing(
        case.name, case.source, cell, Quartiles.of(figures / 1000.0), Quartiles.of(ratios), rounds=len(figures)
    )
