"""transformers (5.16 or later): q as a logits processor, and `generate` with the draw done here.

Rows are solved on the CPU with one thread: logits on another device are copied there and back at each step. ::

    model.generate(
        **inputs, **neutral_generation_kwargs(), custom_generate=optdecode_generate, decoder=od.top_p(0.95), seed=7
    )
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from optdecode._batch import log_probs_in_place
from optdecode._decoder import Decoder
from optdecode._status import Status
from optdecode.errors import ProblemError
from optdecode.integrations._generation_config import (
    active_warpers,
    check_generation_config,
    from_generation_config,
    neutral_generation_kwargs,
)
from optdecode.integrations._rows import Mask, RowDraws, decoder_list, one_per_row, warn_of_failures

__all__ = [
    "OptdecodeLogitsProcessor",
    "check_generation_config",
    "from_generation_config",
    "neutral_generation_kwargs",
    "optdecode_generate",
]


class OptdecodeLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Return log q, −inf off its support, so that `generate` draws from q.

    Pass ``**neutral_generation_kwargs()`` with it: `generate` appends its own warpers after this processor, and would
    keep the 50 best tokens of q unless told otherwise. A row without a distribution is left as it was, with a warning.

    Parameters
    ----------
    decoder : Decoder or sequence of Decoder
        One, or one a prompt; a prompt's `num_return_sequences` rows share it.

    Raises
    ------
    ProblemError
        `decoder` is something else.
    """

    #: Continuous batching captures the step in a graph, where code that runs on the CPU has no place.
    supports_continuous_batching = False

    def __init__(self, decoder: Decoder | Sequence[Decoder]) -> None:
        self.decoders = decoder_list(decoder)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        # A copy, whatever the device: `generate` returns the tensor it passes as output_logits.
        log_q = scores.detach().to("cpu", torch.float32, copy=True)
        status = log_probs_in_place(one_per_row(self.decoders, len(log_q)), log_q, threads=1)
        warn_of_failures(status, "rows without a distribution keep their logits")
        return log_q.to(scores.device, scores.dtype)


def optdecode_generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    *,
    decoder: Decoder | Sequence[Decoder],
    seed: Any = None,
    coupling: Any = "iid",
    mask: Mask | None = None,
    prefix_budget: bool = True,
    on_failure: str = "raise",
    token_streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """Generate with tokens drawn by a decoder: ``model.generate(..., custom_generate=optdecode_generate)``.

    Several sequences a prompt (`num_return_sequences`) also need ``**neutral_generation_kwargs()``. A draw depends on
    seed, position and logits alone, never on the rest of the batch. Everything else is `generate`'s own: its loop,
    cache, stopping criteria, and its processors (penalties, bans, ...), which act before the decoder.

    Parameters
    ----------
    model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
        What `generate` hands over.
    decoder : Decoder or sequence of Decoder
        One, or one a prompt.
    seed : int or integer array, optional
        One integer, from which `optdecode.row_seeds` derives one seed a sequence; or an array, one a sequence. With
        a coupling: one a prompt. None draws fresh entropy.
    coupling : {"iid", "systematic"}, or `ArithmeticCodes`, one a prompt, which bring their seeds
        How the `num_return_sequences` sequences of a prompt are drawn: spread over q, or over whole sequences.
    mask : callable, optional
        ``mask(tokens, live)`` with (B, T) generated so far and the rows that still grow (NumPy) returns what may come
        next: a mask as in `Decoder.__call__`, (B, ...) or one for all rows, or None. Rows that ended are not read.
    prefix_budget : bool
        With `num_return_sequences` > 1, the budget K of `best_of_k` is, at each step, the number of a prompt's
        sequences that have the same tokens so far; False keeps the decoder's.
    on_failure : {"raise", "mark"}
        A row without a distribution raises; or it ends there, padded, with a warning that names it.
    token_streamer : BaseStreamer, optional
        What `streamer` is elsewhere, which `generate` does not pass on to a `custom_generate`.

    Returns
    -------
    LongTensor or ModelOutput
        As `generate` returns it; `scores` are log q.

    Raises
    ------
    ProblemError
        The configuration would cut the logits before the decoder does, or asks for beams.
    ConvergenceError
        A row has no distribution.
    """
    if warpers := generation_config.do_sample and active_warpers(generation_config):
        raise ProblemError(
            f"generation_config has {warpers}, which would act before the decoder: pass **neutral_generation_kwargs(); "
            "from_generation_config(config) is the decoder that does what it says"
        )
    if generation_config.num_beams not in (None, 1):
        raise ProblemError(f"num_beams={generation_config.num_beams}: beam search draws nothing")
    siblings = generation_config.num_return_sequences or 1
    rows = RowDraws(
        decoder, len(input_ids), siblings,
        seed=seed, coupling=coupling, prefix_budget=prefix_budget, mask=mask, on_failure=on_failure,
    )  # fmt: skip
    config = copy.copy(generation_config)
    config.do_sample = False  # what we drew is the largest score
    pad = generation_config._pad_token_tensor
    criteria = _WatchedCriteria(stopping_criteria)
    draws = _DrawnToken(
        rows, criteria, input_ids.shape[1], 0 if pad is None else int(pad),
        [] if config.return_dict_in_generate and config.output_scores else None,
    )  # fmt: skip
    if token_streamer is not None:
        token_streamer.put(input_ids.cpu())
    result = model._sample(
        input_ids,
        logits_processor=LogitsProcessorList([*logits_processor, draws]),
        stopping_criteria=criteria,
        generation_config=config,
        streamer=token_streamer,
        **model_kwargs,
    )
    if draws.log_q is not None:
        result.scores = tuple(draws.log_q[: len(result.scores)])
    return result


class _WatchedCriteria(StoppingCriteriaList):  # type: ignore[misc]
    """Stopping criteria that remember which rows are done, those that failed among them."""

    done: Any = False
    failed: Any = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.done = super().__call__(input_ids, scores, **kwargs) | self.failed | self.done
        return self.done


class _DrawnToken(LogitsProcessor):  # type: ignore[misc]
    """The last processor: draw, and leave a row of −inf with a 0 at what was drawn."""

    def __init__(
        self, rows: RowDraws, criteria: _WatchedCriteria, start: int, pad: int, log_q: list[torch.Tensor] | None
    ) -> None:
        self.rows, self.criteria, self.start, self.pad, self.log_q = rows, criteria, start, pad, log_q

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        done = self.criteria.done
        live = np.arange(len(scores)) if done is False else (~done).nonzero().reshape(-1).cpu().numpy()
        logits = scores.detach().to("cpu", torch.float32)
        generated = input_ids[:, self.start :].cpu().numpy()
        chosen = np.full(len(scores), self.pad, dtype=np.int64)
        log_q = logits if self.log_q is None else logits.clone()
        if len(live):
            own = logits if len(live) == len(logits) else logits[live]
            step = self.rows.draw(own, live, generated, log_q=self.log_q is not None)
            chosen[live] = np.where(step.tokens < 0, self.pad, step.tokens)
            self.criteria.failed = torch.from_numpy(step.status > Status.REDUCED_ACCURACY).to(scores.device)
            if self.log_q is not None:
                log_q[live] = step.log_q
        if self.log_q is not None:
            self.log_q.append(log_q.to(scores.device))
        one_hot = torch.full_like(scores, -torch.inf)
        return one_hot.scatter_(1, torch.from_numpy(chosen).to(scores.device)[:, None], 0.0)
