"""What is timed: decoders of the core, and the floor under them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optdecode import _core, presets
from optdecode._bench.rounds import Case
from optdecode._decoder import Decoder
from optdecode._problem import MirrorAscent, Problem
from optdecode.backends.rust import compiled
from optdecode.regularizers import NegEntropy
from optdecode.supports import Chain, Epsilon, Eta, PLess, TopH, TopK, TopNSigma, TopP, Typical

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Entry:
    """One decoder of the tables.

    Attributes
    ----------
    name : str
        As the tables print it.
    decoder : Decoder
        What is timed.
    whole : bool
        All probabilities are written, instead of a token drawn.
    short : bool
        Part of ``optdecode bench`` too.
    """

    name: str
    decoder: Decoder
    whole: bool = False
    short: bool = False


def _supported(support: Any) -> Decoder:
    return Decoder(Problem(NegEntropy(), support=support))


#: Everything that is timed, in the order of the tables.
ENTRIES = (
    Entry("greedy", presets.greedy(), short=True),
    Entry("softmax draw", presets.softmax(), short=True),
    Entry("top-k 50", presets.top_k(50), short=True),
    Entry("T .8 + k 50 + p .95", presets.top_k(50, temperature=0.8).subject_to(TopP(0.95)), short=True),
    Entry("T .8, k 50, then p .95", presets.softmax(0.8).subject_to(Chain(TopK(50), TopP(0.95))), short=True),
    Entry("top-p .9", presets.top_p(0.9)),
    Entry("top-p .95", presets.top_p(0.95), short=True),
    Entry("min-p .05", presets.min_p(0.05), short=True),
    Entry("sparsemax", presets.sparsemax(), short=True),
    Entry("entmax 1.5", presets.entmax(1.5), short=True),
    Entry("entmax 1.3", presets.entmax(1.3), short=True),
    Entry("best of 4", presets.best_of_k(4)),
    Entry("best of 8", presets.best_of_k(8), short=True),
    Entry("best of 64", presets.best_of_k(64)),
    Entry("best of 4, uniform", presets.best_of_k(4, weights="uniform")),
    Entry("best of 8, uniform", presets.best_of_k(8, weights="uniform"), short=True),
    Entry("best of 64, uniform", presets.best_of_k(64, weights="uniform")),
    Entry("best of 8, lam 1, beta_bar .5", presets.best_of_k(8, lam=1.0, beta_bar=0.5)),
    Entry("best of 8, 5 mirror steps", presets.best_of_k(8, solver=MirrorAscent(steps=5)), short=True),
    Entry("top-n-sigma 1", _supported(TopNSigma(1.0))),
    Entry("p-less", _supported(PLess())),
    Entry("epsilon 3e-4", _supported(Epsilon(3e-4))),
    Entry("eta 3e-4", _supported(Eta(3e-4))),
    Entry("typical .2", _supported(Typical(0.2))),
    Entry("typical .95", _supported(Typical(0.95))),
    Entry("top-h .4", _supported(TopH(0.4))),
    Entry("top-h .9", _supported(TopH(0.9))),
    Entry("full softmax", presets.softmax(), whole=True, short=True),
    Entry("full best of 8", presets.best_of_k(8), whole=True),
)


def floor(rows: NDArray[Any], dtype: str, batch: int, threads: int = 1, level: str | None = None) -> Case:
    """Return the case of the row maximum.

    Parameters
    ----------
    rows : ndarray, shape (R, V)
        What to rotate over, as the core takes it.
    dtype : str
        What the rows hold.
    batch, threads : int
        Rows of a reading, and threads that share them.
    level : str, optional
        An instruction set to force.

    Returns
    -------
    Case
        Named ``"F1"``.
    """

    def time(start: int, count: int) -> NDArray[Any]:
        with forced(level):
            return _core.time_row_max(rows, dtype, start, count, batch, threads)

    return Case("F1", time)


def case(entry: Entry, rows: NDArray[Any], dtype: str, batch: int, threads: int = 1, level: str | None = None) -> Case:
    """Return the case of one decoder; parameters are those of `floor`."""
    timer = _core.time_solve if entry.whole else _core.time_draws
    plan = compiled(entry.decoder.plan)

    def time(start: int, count: int) -> NDArray[Any]:
        with forced(level):
            return timer(plan, rows, dtype, start, count, batch, threads)

    return Case(entry.name, time)


@contextmanager
def forced(level: str | None) -> Iterator[None]:
    """Force an instruction set; None leaves it as it is."""
    if level is None:
        yield
        return
    before = os.environ.get("OPTDECODE_FORCE_LEVEL")
    os.environ["OPTDECODE_FORCE_LEVEL"] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ["OPTDECODE_FORCE_LEVEL"]
        else:
            os.environ["OPTDECODE_FORCE_LEVEL"] = before
