"""The processor under test, writing down what it saw and what it made of it; an engine loads it by its name."""

import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optdecode import Decoder
from optdecode.integrations.vllm import OptdecodeLogitsProcessor


class Row(NamedTuple):
    """One row of logits: for whom, before and after."""

    decoder: Decoder
    seed: int | None
    coupling: str
    index: int | None
    n: int | None
    position: int
    before: np.ndarray
    after: np.ndarray
    beside: int  # how many rows were rewritten in the same call


class Recorder(OptdecodeLogitsProcessor):
    """Keeps rows in `rows`, or in a file a process in the folder that OPTDECODE_RECORD names."""

    rows: list[Row] = []  # noqa: RUF012  # in-process engines: the test reads it

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        held = [(row, *self._requests[row]) for row in sorted(self._requests)]
        before = logits.clone()
        after = super().apply(logits, ctx)
        new = [
            Row(
                r.decoder, r.seed, r.coupling, r.index, r.n, len(output),
                before[row].numpy(), after[row].clone().numpy(), len(held),
            )
            for row, r, output in held
        ]  # fmt: skip
        folder = os.environ.get("OPTDECODE_RECORD")
        if folder is None:
            self.rows.extend(new)
        else:
            with (Path(folder) / f"{os.getpid()}.pickle").open("ab") as file:
                for row in new:
                    pickle.dump(tuple(row), file)
        return after


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Return what each process of an engine wrote."""
    found: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("*.pickle")):
        rows = found.setdefault(path.stem, [])
        with path.open("rb") as file:
            while True:
                try:
                    rows.append(Row(*pickle.load(file)))
                except EOFError:
                    break
    return found
