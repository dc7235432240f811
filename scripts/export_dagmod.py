"""Write the embedded model for the engines: a transformers checkpoint folder and a GGUF file.

    python scripts/export_dagmod.py OUT

makes OUT/transformers (`AutoModelForCausalLM.from_pretrained`, `vllm.LLM`) and OUT/dagmod.gguf (llama.cpp); it needs
the packages gguf and safetensors. The weights are the embedded float16 numbers; the GGUF file holds them as float32,
since llama.cpp would round activations to float16 too where weights are.

llama.cpp has no word-level tokenizer. Its Unigram one stands in, with the words as pieces that begin with a space: ids
decode to words with spaces between, and texts whose words have spaces between, as all prompts of the task have, are
encoded as `tokenizers` does. Other texts are not ("c=a" is one unknown word): give ids for them.
"""

import argparse
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

DATA = Path(__file__).parent.parent / "python/optdecode/models/data"
CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

# What a name in the checkpoint is called in GGUF; {} is the layer.
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.{}.input_layernorm.weight": "blk.{}.attn_norm.weight",
    "model.layers.{}.post_attention_layernorm.weight": "blk.{}.ffn_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "blk.{}.attn_q.weight",
    "model.layers.{}.self_attn.k_proj.weight": "blk.{}.attn_k.weight",
    "model.layers.{}.self_attn.v_proj.weight": "blk.{}.attn_v.weight",
    "model.layers.{}.self_attn.o_proj.weight": "blk.{}.attn_output.weight",
    "model.layers.{}.mlp.gate_proj.weight": "blk.{}.ffn_gate.weight",
    "model.layers.{}.mlp.up_proj.weight": "blk.{}.ffn_up.weight",
    "model.layers.{}.mlp.down_proj.weight": "blk.{}.ffn_down.weight",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection: rope turns rows (i, i + d/2), in llama.cpp rows (2i, 2i + 1)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors(config: dict) -> dict[str, np.ndarray]:
    """Return the weights by their GGUF names."""
    weights = {name: value.astype(np.float32) for name, value in load_file(DATA / "model.safetensors").items()}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for layer in range(config["num_hidden_layers"]):
        for source, target in NAMES.items():
            name = source.format(layer)
            if name not in weights:
                continue  # one without a layer, taken before
            value = weights.pop(name)
            for projection, count in heads.items():
                value = interleaved(value, count) if projection in name else value
            found[target.format(layer)] = value
    if weights:
        raise ValueError(f"weights that GGUF has no name for: {sorted(weights)}")
    return found


def add_vocabulary(writer: gguf.GGUFWriter, config: dict) -> None:
    tokenizer = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    unknown = tokenizer["model"]["unk_token"]
    kinds = [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    kinds[words.index(unknown)] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("t5")
    writer.add_token_list([word if word in special else f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words])
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_unk_token_id(words.index(unknown))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)


def write_gguf(path: Path) -> None:
    """Write the model as llama.cpp reads it."""
    config = json.loads((DATA / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("optdecode dagmod")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_vocabulary(writer, config)
    for name, value in tensors(config).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(out: Path) -> tuple[Path, Path]:
    """Write both and return the checkpoint folder and the GGUF file."""
    folder, file = out / "transformers", out / "dagmod.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for name in CHECKPOINT:
        shutil.copyfile(DATA / name, folder / name)
    write_gguf(file)
    return folder, file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    for path in export(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
