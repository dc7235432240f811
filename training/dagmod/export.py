"""Write a checkpoint as model.safetensors, model.onnx, config.json and tokenizer.json.

    python training/dagmod/export.py runs/dagmod/checkpoint-4500.pt --out python/optdecode/models/data

The weights are rounded to float16 once; all files hold the same numbers. The ONNX file is checked against PyTorch.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import save
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from model import Config, Llama
from onnx_graph import build
from optdecode.models import dagmod

SPECIALS = {"pad_token": dagmod.PAD, "bos_token": dagmod.BOS, "eos_token": dagmod.EOS, "unk_token": dagmod.UNKNOWN}


def load(checkpoint: Path) -> Llama:
    """A checkpoint of train.py as a model, its weights rounded to float16."""
    saved = torch.load(checkpoint, weights_only=True)
    model = Llama(Config(**saved["config"]))
    model.load_state_dict({name: weight.half().float() for name, weight in saved["state"].items()})
    return model.eval()


def tokenizer() -> Tokenizer:
    """Word-level: `<...>` names and single characters are tokens, white space is dropped, decoding puts spaces."""
    words = dagmod.vocabulary()
    result = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=dagmod.UNKNOWN))
    # invert: the pattern names the tokens to keep, what lies between them (white space) is removed
    result.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[a-z0-9]+>|\S"), behavior="removed", invert=True)
    result.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS.values()])
    bos = (dagmod.BOS, words.index(dagmod.BOS))
    result.post_processor = processors.TemplateProcessing(single=f"{dagmod.BOS} $A", special_tokens=[bos])
    return result


def llama_config(config: Config) -> dict[str, Any]:
    """config.json as transformers' `LlamaConfig` reads it."""
    ids = {name.replace("token", "token_id"): dagmod.encode([word])[0] for name, word in SPECIALS.items()}
    ids.pop("unk_token_id")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(config),
        "head_dim": config.head_dim,
        "num_key_value_heads": config.num_attention_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": "float16",
        **ids,
    }


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json as transformers' `AutoTokenizer` reads it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIALS,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def largest_difference(model: Llama, path: Path) -> float:
    """Largest difference of logits between ONNX Runtime and PyTorch: a padded prompt, then one step with its cache."""
    problems = dagmod.generate(32, seed=1)
    prompts = [dagmod.encode((dagmod.BOS, *problem.prompt_tokens)) for problem in problems]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    empty = np.zeros((len(prompts), model.config.num_attention_heads, 0, model.config.head_dim), np.float32)
    past = {name.replace("present", "past_key_values"): empty for name in names[1:]}
    cache, worst = None, 0.0
    for _ in range(3):
        total, time = mask.shape[1], ids.shape[1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, total - time :]
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "position_ids": positions.numpy()}
        logits, *present = session.run(None, feeds | past)
        expected, cache = model(ids, mask, cache)
        real = mask[:, total - time :].bool().numpy()
        worst = max(worst, float(np.abs(logits - expected.numpy())[real].max()))
        past = {
            name.replace("present", "past_key_values"): value for name, value in zip(names[1:], present, strict=True)
        }
        ids = expected[:, -1:].argmax(-1)
        mask = torch.cat((mask, torch.ones_like(ids)), dim=1)
    return worst


def export(checkpoint: Path, out: Path) -> None:
    model = load(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    onnx_bytes = build({name: weight.numpy() for name, weight in weights.items()}, model.config).SerializeToString()
    (out / "model.onnx").write_bytes(onnx_bytes)
    write_json(out / "config.json", llama_config(model.config))
    write_json(out / "tokenizer_config.json", tokenizer_config())
    tokenizer().save(str(out / "tokenizer.json"))
    difference = largest_difference(model, out / "model.onnx")
    print(f"largest difference of logits, ONNX Runtime against PyTorch: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the ONNX file disagrees with PyTorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
