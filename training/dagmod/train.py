"""Train the embedded DAG-mod model on a CPU.

    python training/dagmod/train.py --steps 4500 --seed 0 --out runs/dagmod

writes DIR/checkpoint-STEP.pt (final and intermediate), DIR/metrics.jsonl and DIR/train.log.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from model import Config, Llama
from optdecode.models import dagmod

NOISE = 0.01  # share of response tokens replaced by junk
IGNORE = -100  # cross-entropy's mark for positions without loss
DIGITS = dagmod.encode(list("0123456789"))


class Batch(NamedTuple):
    """Right-padded sequences and the next token at each response position (IGNORE elsewhere)."""

    ids: torch.Tensor
    targets: torch.Tensor


def batches(size: int, seed: int, noise: float = NOISE) -> Iterator[Batch]:
    """Training batches without end. Lengths are sorted within 8 batches, which spares a third of the padding."""
    problems = dagmod.stream(seed=2 * seed)
    below = dagmod.Draws(2 * seed + 1).below
    rng = np.random.default_rng(seed)
    while True:
        examples = []
        for problem in islice(problems, 8 * size):
            prompt = dagmod.encode((dagmod.BOS, *problem.prompt_tokens))
            examples.append((prompt, dagmod.encode(problem.derivation(below))))
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        for i in rng.permutation(8):
            yield _collate(examples[i * size : (i + 1) * size], rng, noise)


def _collate(examples: list[tuple[list[int], list[int]]], rng: np.random.Generator, noise: float) -> Batch:
    length = max(len(prompt) + len(response) for prompt, response in examples)
    pad, eos = dagmod.encode((dagmod.PAD, dagmod.EOS))
    ids = np.full((len(examples), length), pad, dtype=np.int64)
    is_response = np.zeros(ids.shape, dtype=bool)
    for row, (prompt, response) in enumerate(examples):
        ids[row, : len(prompt) + len(response)] = prompt + response
        is_response[row, len(prompt) : len(prompt) + len(response)] = True
    # Junk may stand for any token but <eos>: after it the trace goes on from the true value.
    junk = is_response & (ids != eos) & (rng.random(ids.shape) < noise)
    ids[junk] = rng.integers(dagmod.first_junk_id(), dagmod.VOCABULARY_SIZE, size=int(junk.sum()))
    targets = np.where(is_response, ids, IGNORE)[:, 1:]
    return Batch(torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets.copy()))


def loss_and_digits(model: Llama, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss on response tokens, and the share of digits predicted right (teacher forcing)."""
    positions = torch.arange(batch.ids.shape[1])[None]
    hidden, _ = model.model(batch.ids, positions)
    scored = batch.targets != IGNORE
    targets = batch.targets[scored]
    logits = model.lm_head(hidden[scored])  # only where there is loss: the head is an eighth of the model
    is_digit = (targets >= DIGITS[0]) & (targets <= DIGITS[-1])
    right = (logits.detach().argmax(-1) == targets)[is_digit].float().mean()
    return F.cross_entropy(logits, targets), right


def optimiser(model: Llama, learning_rate: float) -> torch.optim.AdamW:
    """AdamW without weight decay on embeddings and norms."""
    plain = [p for name, p in model.named_parameters() if "embed_tokens" in name or "norm" in name]
    decayed = [p for name, p in model.named_parameters() if "embed_tokens" not in name and "norm" not in name]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def schedule(step: int, steps: int, warm_up: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine down to `floor`; a factor on the learning rate."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def sample(
    model: Llama, problems: list[dagmod.Problem], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 40
) -> list[list[int]]:
    """One response per problem, left-padded batch with a KV cache; temperature 0 is greedy."""
    prompts = [dagmod.encode((dagmod.BOS, *problem.prompt_tokens)) for problem in problems]
    longest = max(map(len, prompts))
    pad, eos = dagmod.encode((dagmod.PAD, dagmod.EOS))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    generator = torch.Generator().manual_seed(seed)
    cache, drawn = None, []
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits, cache = model(ids, mask, cache)
        last = logits[:, -1]
        if temperature == 0:
            ids = last.argmax(-1, keepdim=True)
        else:
            ids = torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)
        drawn.append(ids)
        mask = torch.cat((mask, torch.ones_like(ids)), dim=1)
        finished |= ids[:, 0] == eos
        if finished.all():
            break
    return torch.cat(drawn, dim=1).tolist()


def verified(model: Llama, problems: list[dagmod.Problem], **options: Any) -> np.ndarray:
    """Whether each problem's response is a verified derivation."""
    model.eval()
    responses = sample(model, problems, **options)
    model.train()
    return np.array([dagmod.verify(p, r).correct for p, r in zip(problems, responses, strict=True)])


class Log:
    """metrics.jsonl for programs, train.log for people, a progress bar on a terminal."""

    def __init__(self, out: Path, steps: int) -> None:
        self.out, self.steps = out, steps
        self.start = time.perf_counter()
        self.bar: Any = None
        if sys.stderr.isatty():
            from rich.progress import Progress

            self.bar = Progress()
            self.task = self.bar.add_task("training", total=steps)

    def context(self) -> AbstractContextManager[Any]:
        return self.bar if self.bar is not None else nullcontext()

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.advance(self.task)

    def write(self, **metrics: float) -> None:
        metrics = {"minutes": round((time.perf_counter() - self.start) / 60, 3), **metrics}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        line = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        with (self.out / "train.log").open("a") as file:
            file.write(line + "\n")
        if self.bar is not None:
            self.bar.console.print(line)
        else:
            print(line, flush=True)


def train(args: argparse.Namespace) -> Llama:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = Llama(Config())
    adam = optimiser(model, args.learning_rate)
    data = batches(args.batch_size, args.seed, args.noise)
    held_out = dagmod.generate(500, seed=0, split="test")
    log = Log(args.out, args.steps)
    losses, rights = [], []
    with log.context():
        for step in range(1, args.steps + 1):
            for group in adam.param_groups:
                group["lr"] = args.learning_rate * schedule(step - 1, args.steps)
            loss, right = loss_and_digits(model, next(data))
            adam.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            log.advance()
            losses.append(loss.item())
            rights.append(right.item())
            if step % 100 == 0 or step == args.steps:
                log.write(step=step, loss=float(np.mean(losses)), digits=float(np.mean(rights)))
                losses, rights = [], []
            if step % args.checkpoint_every == 0 or step == args.steps:
                torch.save(
                    {"config": asdict(model.config), "step": step, "seed": args.seed, "state": model.state_dict()},
                    args.out / f"checkpoint-{step}.pt",
                )
                log.write(step=step, greedy_verified=float(verified(model, held_out).mean()))
    return model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=NOISE, help="share of response tokens replaced by junk")
    parser.add_argument("--checkpoint-every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
