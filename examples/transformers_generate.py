"""transformers: draw with a decoder of optdecode inside `model.generate`.

python examples/transformers_generate.py    # pip install optdecode "transformers>=5.16" torch
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList, PreTrainedTokenizerFast

import optdecode as od
from optdecode import models
from optdecode.integrations.transformers import (
    OptdecodeLogitsProcessor,
    from_generation_config,
    neutral_generation_kwargs,
    optdecode_generate,
)

# The model that ships with optdecode; a name on the Hub does as well.
CHECKPOINT = Path(models.__file__).parent / "data"


def main() -> None:
    """Print what was generated."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT, padding_side="left")
    prompts = ["a = 7 ; b = a + a ; ? b", "c = 3 ; d = c - 9 ; e = c * d ; f = e + d ; ? f"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)

    # 1. The draw is ours: a seed a sequence, siblings that share a budget, the same tokens in any batch.
    decoder = od.best_of_k(budget=4, beta_bar=0.5, lam=1.0, temperature=1.3)
    output = model.generate(
        **inputs, **neutral_generation_kwargs(), custom_generate=optdecode_generate, decoder=decoder, seed=7,
        num_return_sequences=4, max_new_tokens=40,
    )  # fmt: skip
    for row, text in enumerate(tokenizer.batch_decode(output, skip_special_tokens=True)):
        print(f"prompt {row // 4}, sample {row % 4}: {text}")

    # 2. The draw is transformers', from our q.
    processors = LogitsProcessorList([OptdecodeLogitsProcessor(od.sparsemax())])
    torch.manual_seed(7)
    output = model.generate(**inputs, **neutral_generation_kwargs(), logits_processor=processors, max_new_tokens=40)
    print("sparsemax:", tokenizer.batch_decode(output, skip_special_tokens=True))

    # 3. What a checkpoint's own sampling parameters come to.
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=20, top_p=0.8)
    print(from_generation_config(model.generation_config))


if __name__ == "__main__":
    main()
