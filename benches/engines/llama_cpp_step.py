"""What sampling a token takes in llama.cpp, on a CPU: its own chain, ours as its sampler, ours as its logits processor.

    python -m benches.engines.llama_cpp_step

needs the environment of the engines. `llama_sampler_sample` is timed on a context of a real model, random and as small
as may be with a real vocabulary; before each token its logits are overwritten by a prepared row, outside the time. In
each round every case draws a few tokens, in random order; figures are medians over rounds of medians over tokens.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

import optdecode as od
from benches.engines.table import save
from optdecode._bench import machine
from optdecode._bench.rows import make_rows
from optdecode.integrations.llama_cpp import (
    DecoderSampler,
    OptdecodeLogitsProcessor,
    from_llama_kwargs,
    neutral_kwargs,
)

# What is drawn from, by a name; in each group the first is the engine's own.
GROUPS = ("its default chain", "temperature 1", "top-p 0.95", "min-p 0.05", "greedy", "not in llama.cpp")
EMBEDDING, FORWARD = 32, 32


def tiny_model(folder, vocabulary):
    """Load a random Llama of one layer."""
    path = Path(folder) / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(vocabulary)
    writer.add_context_length(128)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FORWARD)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(EMBEDDING)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("none")
    random_ = np.random.default_rng(0)
    square = (EMBEDDING, EMBEDDING)
    shapes = {
        "token_embd": (vocabulary, EMBEDDING), "output": (vocabulary, EMBEDDING), "output_norm": (EMBEDDING,),
        "blk.0.attn_norm": (EMBEDDING,), "blk.0.ffn_norm": (EMBEDDING,), "blk.0.attn_q": square, "blk.0.attn_k": square,
        "blk.0.attn_v": square, "blk.0.attn_output": square, "blk.0.ffn_gate": (FORWARD, EMBEDDING),
        "blk.0.ffn_up": (FORWARD, EMBEDDING), "blk.0.ffn_down": (EMBEDDING, FORWARD),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random_.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return llama_cpp.Llama(str(path), n_ctx=128, n_batch=8, n_threads=1, n_threads_batch=1, verbose=False)


def cases(model):
    """Samplers by (group, name)."""
    neutral = neutral_kwargs("sample")

    def owned(decoder, bias=None):
        sampler = DecoderSampler(model.n_vocab())
        if bias:
            sampler.add_logit_bias(model.n_vocab(), bias)
        sampler.add_decoder(decoder, seed=1)
        return sampler

    def both(group, options, decoder):
        processor = OptdecodeLogitsProcessor(decoder).kwargs("sample")
        return {
            (group, "llama.cpp"): model._init_sampler(**options),
            (group, "`DecoderSampler`"): owned(decoder),
            (group, "`DecoderSampler` after a logit bias"): owned(decoder, {5: 1.0}),
            (group, "`OptdecodeLogitsProcessor`"): model._init_sampler(**processor),
        }

    found = {}
    found |= both(GROUPS[0], {}, from_llama_kwargs())
    found |= both(GROUPS[1], neutral, od.softmax())
    found |= both(GROUPS[2], neutral | {"top_p": 0.95}, od.top_p(0.95))
    found |= both(GROUPS[3], neutral | {"min_p": 0.05}, od.min_p(0.05))
    found |= both(GROUPS[4], neutral | {"temp": 0.0}, od.greedy())
    for name, decoder in {"entmax 1.5": od.entmax(1.5), "Best-of-K 8": od.best_of_k(8)}.items():
        found[GROUPS[5], f"`DecoderSampler`, {name}"] = owned(decoder)
    return found


def measure(model, kind, asked):
    """Microseconds a token of every case, by round."""
    rows = make_rows(kind, asked.vocabulary, max(2 * asked.tokens, -(-(32 << 20) // (4 * asked.vocabulary))))
    model.reset()
    model.eval([1])
    logits = np.ctypeslib.as_array(model._ctx.get_logits_ith(-1), (asked.vocabulary,))
    samplers = cases(model)
    taken = {name: [] for name in samplers}
    at = 0
    for round_ in range(asked.rounds + 1):
        for name, sampler in random.Random(round_).sample(
            sorted(samplers.items(), key=lambda item: item[0]), len(samplers)
        ):
            spent = []
            for _ in range(asked.tokens):
                logits[:] = rows[at % len(rows)]
                at += 1
                begin = time.perf_counter_ns()
                sampler.sample(model._ctx)
                spent.append(time.perf_counter_ns() - begin)
            if round_:  # the first warms up
                taken[name].append(np.median(spent) / 1e3)
    for sampler in samplers.values():
        sampler.close()
    return {name: np.array(times) for name, times in taken.items()}


def table(kinds, found):
    """Lines of Markdown: microseconds a token, and the median over rounds of llama.cpp's time over it."""
    lines = ["| | | " + " | ".join(f"{kind}: µs a token | times faster" for kind in kinds) + " |"]
    lines.append("|---|---|" + "---:|---:|" * len(kinds))
    for group, name in found[kinds[0]]:
        cells = []
        for kind in kinds:
            times = found[kind][group, name]
            low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
            base = found[kind].get((group, "llama.cpp"))
            cells += [
                f"{middle:.0f} ±{50 * (high - low) / middle:.0f} %",
                "" if base is None else f"{np.median(base / times):.2f}",
            ]
        lines.append(f"| {group} | {name} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(prog="python -m benches.engines.llama_cpp_step", description=__doc__)
    add = parser.add_argument
    add("--vocabulary", type=int, default=151_936, help="default %(default)s")
    add("--kinds", type=lambda text: text.split(","), default=["lm", "flat"], help="of rows; default lm,flat")
    add("--tokens", type=int, default=8, help="a round of a case; default %(default)s")
    add("--rounds", type=int, default=15, help="default %(default)s")
    add("--output", type=Path, default=Path(__file__).parents[1] / "results", metavar="DIR")
    asked = parser.parse_args()
    where = machine.describe(["llama-cpp-python"])
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(folder, asked.vocabulary)
        found = {kind: measure(model, kind, asked) for kind in asked.kinds}
        model.close()
    introduction = (
        "One call of the sampler by llama-cpp-python, from the logits of the context to a token; one thread. "
        f"{asked.tokens} tokens a round and their median, medians over {asked.rounds} interleaved rounds and half the "
        "interquartile range; rows as in `benches/README.md`. `DecoderSampler` fills llama.cpp's candidate array only "
        "where other links edit logits before it, as a logit bias does. With the processor llama.cpp draws from the q "
        "that it is given."
    )
    title = f"Sampling a token in llama.cpp on a CPU, V = {asked.vocabulary:,}"
    save(asked.output, "llama-cpp-step", title, introduction, table(asked.kinds, found), where)


if __name__ == "__main__":
    main()
