"""llama.cpp's sampler chain by its C interface, with the filling of the candidate array within the time and without.

NumPy fills the array from a template of the ids, which costs no more than llama.cpp's own loop. No model is needed.
"""

import ctypes

import llama_cpp
import numpy as np

from . import Inputs, Peer

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def build(inputs: Inputs) -> list[Peer]:
    if inputs.dtype != "f32":
        raise RuntimeError("its candidates are float32")
    low = llama_cpp
    chains = {
        "greedy": (low.llama_sampler_init_greedy(),),
        "dist": (),
        "top-k 50 + dist": (low.llama_sampler_init_top_k(50),),
        "default chain": (
            low.llama_sampler_init_top_k(40),
            low.llama_sampler_init_top_p(0.95, 1),
            low.llama_sampler_init_min_p(0.05, 1),
            low.llama_sampler_init_temp(0.8),
        ),
        "top-p .95 + dist": (low.llama_sampler_init_top_p(0.95, 1),),
        "min-p .05 + dist": (low.llama_sampler_init_min_p(0.05, 1),),
        "top-n-sigma 1 + dist": (low.llama_sampler_init_top_n_sigma(1.0),),
    }
    filler = Filler(inputs)
    peers = []
    for name, samplers in chains.items():
        last = () if name == "greedy" else (low.llama_sampler_init_dist(1),)
        chain = Chain((*samplers, *last))
        peers.append(
            Peer(f"llama.cpp {name}, filling", lambda rows, chain=chain: filled(filler, chain, rows), inputs.numpy)
        )
        peers.append(
            Peer(
                f"llama.cpp {name}",
                lambda batch, chain=chain: [chain(candidates) for candidates in batch],
                lambda start: [filler.fresh(row) for row in inputs.numpy(start)],
            )
        )
    return peers


def filled(filler: "Filler", chain: "Chain", rows: np.ndarray) -> list[int]:
    return [chain(filler.fill(row)) for row in rows]


class Filler:
    """Candidate arrays: one that is filled again and again, as an engine does, or fresh ones."""

    def __init__(self, inputs: Inputs) -> None:
        self.template = np.zeros(inputs.rows.shape[1], dtype=CANDIDATE)
        self.template["id"] = np.arange(len(self.template))
        self.kept = self.template.copy()
        # As bytes, since NumPy copies structures field by field, thirty times slower than memory allows.
        self.template_bytes, self.kept_bytes = self.template.view(np.uint8), self.kept.view(np.uint8)

    def fill(self, row: np.ndarray) -> np.ndarray:
        self.kept_bytes[:] = self.template_bytes
        self.kept["logit"] = row
        return self.kept

    def fresh(self, row: np.ndarray) -> np.ndarray:
        candidates = self.template_bytes.copy().view(CANDIDATE)
        candidates["logit"] = row
        return candidates


class Chain:
    """A sampler chain, which owns its samplers and is freed with the process."""

    def __init__(self, samplers) -> None:
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def __call__(self, candidates: np.ndarray) -> int:
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise RuntimeError("the chain selected nothing")
        return int(array.data[array.selected].id)
