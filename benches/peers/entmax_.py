"""The package entmax: distributions, without a draw."""

import torch
from entmax import entmax15, entmax_bisect, sparsemax

from . import Inputs, Peer


def build(inputs: Inputs) -> list[Peer]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    runs = {
        "entmax sparsemax, exact": lambda x: sparsemax(x, dim=-1),
        "entmax sparsemax, k = 512": lambda x: sparsemax(x, dim=-1, k=512),
        "entmax entmax15, exact": lambda x: entmax15(x, dim=-1),
        "entmax entmax15, k = 512": lambda x: entmax15(x, dim=-1, k=512),
        "entmax bisect 1.5": lambda x: entmax_bisect(x, alpha=1.5, dim=-1),
        "entmax bisect 1.3": lambda x: entmax_bisect(x, alpha=1.3, dim=-1),
    }
    return [Peer(name, run, inputs.fresh) for name, run in runs.items()]
