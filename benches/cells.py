"""The cells of the big table, and what is timed in each."""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace

from benches import peers
from benches.bars import BARS_CELL
from optdecode._bench.cases import ENTRIES, Entry, case, floor
from optdecode._bench.rounds import Case, Cell, Effort, Timing, measure
from optdecode._bench.rows import ADVERSARIAL, make_rows, narrowed, rotation

#: Those that bars are for come first, as a run may end before its last cells.
VOCABULARIES = (151_936, 32_000, 128_256, 262_144)
BATCHES = (1, 8, 64)
DTYPES = ("f32", "bf16")
KINDS = ("lm", "peaked", "flat", *ADVERSARIAL)


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """Go over what was asked for, the cells of one set of rows one after the other.

    Adversarial rows come one at a time: they are there to find slow paths, which batches do not change.
    """
    kinds = dict.fromkeys(
        itertools.chain.from_iterable(ADVERSARIAL if kind == "adversarial" else (kind,) for kind in asked.kinds)
    )
    for vocabulary, kind, dtype, batch in itertools.product(asked.vocabulary, kinds, asked.dtypes, asked.batch):
        if kind not in ADVERSARIAL or batch == min(asked.batch):
            yield Cell(kind, dtype, vocabulary, batch)


def with_peers(cell: Cell, asked: argparse.Namespace) -> bool:
    """Whether peers are timed in a cell.

    By default LM-like float32 rows one at a time, those of the bars' vocabulary in batches too, and flat rows there;
    ``--peers all`` times them everywhere, which takes hours.
    """
    if asked.peers != "some":
        return bool(asked.peers == "all")
    lm = cell.kind == "lm" and cell.dtype == "f32" and (cell.batch == 1 or cell.vocabulary == BARS_CELL.vocabulary)
    return lm or _at_bars(cell)


def _at_bars(cell: Cell) -> bool:
    """Whether something is asked of figures of this cell; they are measured with more care."""
    return cell.kind in ("lm", "flat") and cell == replace(BARS_CELL, kind=cell.kind)


def wanted(name: str, asked: argparse.Namespace) -> bool:
    """Whether ``--only`` lets a name through: parts of names, without regard to case and punctuation."""
    return not asked.only or any(_plain(part) in _plain(name) for part in asked.only)


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def measure_cell(cell: Cell, asked: argparse.Namespace) -> list[Timing]:
    """Time everything that was asked for in one cell."""
    itemsize = 4 if cell.dtype == "f32" else 2
    rows = make_rows(cell.kind, cell.vocabulary, rotation(cell.vocabulary, itemsize, cell.batch))
    rows = narrowed(rows, cell.dtype)
    found: list[Case] = [case(entry, rows, cell.dtype, cell.batch) for entry in _entries(asked)]
    if with_peers(cell, asked):
        inputs = peers.Inputs(rows, cell.dtype, cell.batch)
        found += [peer for peer in peers.cases(inputs) if wanted(peer.name, asked)]
    care = 6 if _at_bars(cell) else 1
    effort = Effort(
        rounds=asked.rounds + 2 * (care - 1), seconds=care * asked.seconds, least_rounds=min(care + 2, asked.rounds)
    )
    return measure(cell, len(rows), floor(rows, cell.dtype, cell.batch), found, effort)


def _entries(asked: argparse.Namespace) -> list[Entry]:
    return [entry for entry in ENTRIES if wanted(entry.name, asked)]
