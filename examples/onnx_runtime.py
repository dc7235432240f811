"""ONNX Runtime: generate with any exported causal language model, without torch.

python examples/onnx_runtime.py    # pip install optdecode onnxruntime tokenizers
"""

from pathlib import Path

import onnxruntime
from tokenizers import Tokenizer

import optdecode as od
from optdecode import models
from optdecode.integrations.onnx import OnnxModel, generate

# The model that ships with optdecode; a folder that Optimum exported does as well.
FOLDER = Path(models.__file__).parent / "data"


def main() -> None:
    """Print what was generated."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    model = OnnxModel(onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"]))
    prompts = [
        tokenizer.encode(text).ids
        for text in ("a = 7 ; b = a + a ; ? b", "c = 3 ; d = c - 9 ; e = c * d ; f = e + d ; ? f")
    ]
    decoder = od.best_of_k(budget=4, beta_bar=0.5, lam=1.0, temperature=1.3)
    found = generate(model, prompts, decoder, eos_token_id=tokenizer.token_to_id("<eos>"), samples=4, seed=7)
    for row, (tokens, length) in enumerate(zip(found.tokens, found.lengths, strict=True)):
        total = found.log_probs[row].sum()
        print(f"prompt {row // 4}, sample {row % 4}, log q {total:6.2f}: {tokenizer.decode(tokens[:length].tolist())}")


if __name__ == "__main__":
    main()
