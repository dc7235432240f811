"""What one decoder does on the embedded model: verified rates with intervals, diversity, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode.models import dagmod
from optdecode.multisample import bootstrap_ci, pass_at_k, vote

if TYPE_CHECKING:
    from optdecode._decoder import Decoder
    from optdecode.models.runtime import EmbeddedModel


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> Estimate:
        """Estimate the mean of one value a problem."""
        return cls(float(np.mean(values)), *bootstrap_ci(values))

    def shown(self) -> str:
        """Mean and interval as the table prints them."""
        mean, low, high = (f"{value:.2f}".removeprefix("0") for value in (self.mean, self.low, self.high))
        return f"{mean} ({low}-{high})"


@dataclass(frozen=True)
class Measured:
    """One row of the demonstration's table."""

    name: str
    label: str
    temperature: float
    pass_1: Estimate
    pass_k: Estimate
    majority: Estimate
    distinct: float
    entropy: float
    microseconds: float
    share: float


def measure(
    model: EmbeddedModel,
    name: str,
    label: str,
    temperature: float,
    decoder: Decoder,
    problems: Sequence[dagmod.Problem],
    samples: int,
    seed: int,
) -> Measured:
    """Draw the samples of every problem, verify them, and sum up."""
    generation = model.generate(problems, decoder, samples=samples, seed=seed, entropy=True)
    log_probs = generation.total_log_probs.reshape(len(problems), samples)
    right = np.zeros((len(problems), samples), dtype=bool)
    majority, distinct = np.zeros(len(problems)), np.zeros(len(problems))
    for index, problem in enumerate(problems):
        verdicts = [dagmod.verify(problem, tokens) for tokens in generation.of(index)]
        right[index] = [verdict.correct for verdict in verdicts]
        chosen = vote([verdict.answer for verdict in verdicts], log_probs[index])
        majority[index] = chosen.index >= 0 and right[index, chosen.index]
        distinct[index] = len(chosen.counts)
    count, drawn = right.sum(axis=1), int(generation.lengths.sum())
    decode_seconds = float(generation.decode_seconds.sum())
    model_seconds = generation.prefill_seconds + float(generation.model_seconds.sum())
    entropies = np.zeros(1) if generation.entropies is None else generation.entropies
    return Measured(
        name=name,
        label=label,
        temperature=temperature,
        pass_1=Estimate.of(pass_at_k(samples, count, 1)),
        pass_k=Estimate.of(pass_at_k(samples, count, samples)),
        majority=Estimate.of(majority),
        distinct=float(distinct.mean()),
        entropy=float(entropies.sum()) / drawn,
        microseconds=1e6 * decode_seconds / drawn,
        share=decode_seconds / (decode_seconds + model_seconds),
    )
