"""One decoding step, logits to token, on vocabulary-sized rows: every preset beside a floor and torch, in one run.

`make bench` runs it. Rows rotate, so that a row is not in a near cache when it comes again. The floor reads the row
once (`np.max`); torch's softmax and multinomial are what a plain sampling loop pays.
"""

from itertools import cycle

import numpy as np
import pytest
import torch

import optdecode as od

V = 151_936
DECODERS = {
    "greedy": od.greedy(),
    "softmax": od.softmax(),
    "top_k_50": od.top_k(50),
    "top_p_95": od.top_p(0.95),
    "min_p_05": od.min_p(0.05),
    "sparsemax": od.sparsemax(),
    "entmax_15": od.entmax(1.5),
    "entmax_13": od.entmax(1.3),
    "best_of_8": od.best_of_k(8),
    "best_of_8_uniform": od.best_of_k(8, weights="uniform"),
    "best_of_8_mirror": od.best_of_k(8, solver=od.MirrorAscent()),
}


@pytest.fixture(scope="module")
def rows():
    """48 MB of float32 rows shaped like next-token logits: a Zipf-like bulk and a few candidates."""
    rng = np.random.default_rng(0)
    bulk = 14.0 - 1.1 * np.log1p(np.arange(V)) + 0.5 * rng.standard_normal((80, V))
    return rng.permuted(bulk, axis=1).astype(np.float32)


def test_floor_row_max(benchmark, rows):
    following = cycle(rows)
    benchmark(lambda: next(following).max())


def test_torch_softmax_multinomial(benchmark, rows):
    following = cycle(torch.from_numpy(rows))
    benchmark(lambda: torch.multinomial(torch.softmax(next(following), dim=-1), 1))


@pytest.mark.parametrize("name", DECODERS)
def test_sample(benchmark, rows, name):
    decoder, following = DECODERS[name], cycle(rows)
    benchmark(lambda: decoder.sample(next(following), seed=1, threads=1))


def test_call_overhead(benchmark):
    decoder, row = od.top_k(5), np.zeros(128, dtype=np.float32)
    benchmark(lambda: decoder.sample(row, seed=1, threads=1))
