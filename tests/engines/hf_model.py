"""The embedded checkpoint in transformers, and what tests compare in it."""

from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from optdecode.models import dagmod, runtime

FOLDER = str(Path(runtime.__file__).parent / "data")
PROMPTS = [problem.prompt for problem in dagmod.generate(12, seed=0, split="test")]
EOS = 2


@cache
def model():
    torch.set_num_threads(1)  # the model is too small to share
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@cache
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(FOLDER, padding_side="left")


def inputs(prompts=PROMPTS):
    encoded = tokenizer()(list(prompts), return_tensors="pt", padding=True)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def generated(output, given):
    """The new tokens alone."""
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    return sequences[:, given["input_ids"].shape[1] :].numpy()


def total_variation(p, q):
    """Largest over rows."""
    p, q = torch.as_tensor(p, dtype=torch.float64), torch.as_tensor(q, dtype=torch.float64)
    return float((p - q).abs().sum(-1).max() / 2)
