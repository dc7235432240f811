"""transformers' logits processors and the draw of its `generate`, which works in float32."""

import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from . import Inputs, Peer


def build(inputs: Inputs) -> list[Peer]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chains = {
        "transformers multinomial": (),
        "transformers top-k 50": (TopKLogitsWarper(50),),
        "transformers T .8 + k 50 + p .95": (
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(50),
            TopPLogitsWarper(0.95),
        ),
        "transformers top-p .9": (TopPLogitsWarper(0.9),),
        "transformers top-p .95": (TopPLogitsWarper(0.95),),
        "transformers min-p .05": (MinPLogitsWarper(0.05),),
    }
    return [Peer(name, sampler(chain), inputs.fresh) for name, chain in chains.items()]


def sampler(chain):
    def run(scores):
        for processor in chain:
            scores = processor(None, scores)
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)

    return run
