"""What a step of transformers' `generate` takes, on a CPU: its own top-p, ours, and no warper at all.

    python -m benches.engines.transformers_step

needs the environment of the engines. The model is a random Llama as small as may be with a real vocabulary, so that a
step is little more than its sampling; its logits are replaced by LM-like rows, in every case alike. In each round
every case generates once, in random order; figures are medians over rounds.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

import optdecode as od
from benches.engines.table import save
from optdecode._bench import machine
from optdecode._bench.rows import make_rows
from optdecode.integrations.transformers import (
    OptdecodeLogitsProcessor,
    neutral_generation_kwargs,
    optdecode_generate,
)

P = 0.95
BASE = "its own top-p"


class Replayed(LogitsProcessor):
    """Replace the logits of a step by prepared rows."""

    def __init__(self, rows):
        self.rows, self.step = rows, 0

    def __call__(self, input_ids, scores):
        places = (torch.arange(len(scores)) + self.step * len(scores)) % len(self.rows)
        self.step += 1
        return self.rows[places]


def cases():
    """Arguments of `generate` by name: what `Replayed` is followed by, and the rest."""
    neutral = neutral_generation_kwargs()
    best = od.best_of_k(8, beta_bar=0.5, lam=1.0)

    def owned(decoder):
        return [], {"custom_generate": optdecode_generate, "decoder": decoder, "seed": 1}

    return {
        "greedy, no warper": ([], {"do_sample": False}),
        "sampling, no warper": ([], neutral),
        BASE: ([], neutral | {"top_p": P}),
        "its own top-k 50 and top-p": ([], neutral | {"top_k": 50, "top_p": P}),
        "OptdecodeLogitsProcessor(top_p)": ([OptdecodeLogitsProcessor(od.top_p(P))], neutral),
        "OptdecodeLogitsProcessor(sparsemax)": ([OptdecodeLogitsProcessor(od.sparsemax())], neutral),
        "OptdecodeLogitsProcessor(best_of_k)": ([OptdecodeLogitsProcessor(best)], neutral),
        "optdecode_generate, top_p": owned(od.top_p(P)),
        "optdecode_generate, best_of_k": owned(best),
    }


def tiny_model(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def measure(model, batch, asked):
    """Milliseconds a step of every case, one row a round."""
    rows = torch.from_numpy(make_rows("lm", asked.vocabulary, max(32, 2 * batch)))
    prompt = torch.ones(batch, 4, dtype=torch.long)
    taken = {name: [] for name in cases()}
    for round_ in range(asked.rounds + 1):
        for name, (processors, arguments) in random.Random(round_).sample(sorted(cases().items()), len(taken)):
            torch.manual_seed(round_)
            begin = time.perf_counter()
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=asked.steps,
                logits_processor=LogitsProcessorList([Replayed(rows), *processors]), **arguments,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            assert output.shape[1] == prompt.shape[1] + asked.steps
            if round_:  # the first warms up
                taken[name].append(1e3 * seconds / asked.steps)
    return {name: np.array(times) for name, times in taken.items()}


def table(batches, found):
    """Lines of Markdown: milliseconds a step, and the median over rounds of the ratio to the engine's own top-p."""
    lines = ["| | " + " | ".join(f"B = {batch}: ms a step | of its own top-p" for batch in batches) + " |"]
    lines.append("|---|" + "---:|---:|" * len(batches))
    for name in cases():
        cells = []
        for batch in batches:
            times = found[batch][name]
            low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
            ratio = np.median(times / found[batch][BASE])
            cells += [f"{middle:.2f} ±{50 * (high - low) / middle:.0f} %", f"{ratio:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(prog="python -m benches.engines.transformers_step", description=__doc__)
    add = parser.add_argument
    add("--vocabulary", type=int, default=151_936, help="default %(default)s")
    add("--batch", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8], help="default 1,8")
    add("--steps", type=int, default=24, help="tokens a call; default %(default)s")
    add("--rounds", type=int, default=9, help="default %(default)s")
    add("--threads", type=int, default=torch.get_num_threads(), help="torch's; default %(default)s, its own choice")
    add("--output", type=Path, default=Path(__file__).parents[1] / "results", metavar="DIR")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    where = machine.describe(["torch", "transformers"]) | {"torch threads": str(asked.threads)}
    model = tiny_model(asked.vocabulary)
    found = {batch: measure(model, batch, asked) for batch in asked.batch}
    introduction = (
        f"Top-p {P}; a random Llama of one layer and width 64, LM-like logits, {asked.steps} tokens a call, medians "
        f"over {asked.rounds} interleaved rounds and half the interquartile range. A step is the model's forward, the "
        "replacement of its logits (the same in all cases) and the sampling; ours runs in one thread."
    )
    title = f"A step of transformers' `generate` on a CPU, V = {asked.vocabulary:,}"
    save(asked.output, "transformers-step", title, introduction, table(asked.batch, found), where)


if __name__ == "__main__":
    main()
