"""Decoders in llama-cpp-python: as the sampler that owns the draw, or as a logits processor. NumPy alone, no torch.

`drawing` makes the calls people know (`create_chat_completion`, ...) draw with a decoder; `generate` is the loop for
several sequences of one prompt; `DecoderSampler` is the sampler under both; `OptdecodeLogitsProcessor` leaves the draw
to llama.cpp. llama-cpp-python prints and forgets exceptions of its callbacks, and goes on with the logits as they were;
here such an exception is kept, and raised where the caller sees it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optdecode._decoder import Decoder
from optdecode._inputs import fresh_seed
from optdecode.integrations._llama_generate import Generation, generate, sampler_of
from optdecode.integrations._llama_kwargs import check_replaced, from_llama_kwargs
from optdecode.integrations._llama_processor import OptdecodeLogitsProcessor, neutral_kwargs
from optdecode.integrations._llama_sampler import DecoderSampler

__all__ = [
    "DecoderSampler",
    "Generation",
    "OptdecodeLogitsProcessor",
    "drawing",
    "from_llama_kwargs",
    "generate",
    "neutral_kwargs",
]


@contextmanager
def drawing(model: Any, decoder: Decoder, seed: int | None = None) -> Iterator[None]:
    """Let a decoder draw every token of what is called on the model inside the block.

    Completions, chat completions and `model.generate` work as ever, with stop strings, grammars, penalties, logits
    processors and logit bias, all applied before the decoder; what goes wrong is raised at the token. Token i of a
    completion is drawn at position i, so that a completion repeats under the same seed. Read streams to their end
    inside the block.

    Parameters
    ----------
    model : llama_cpp.Llama
        The model.
    decoder : Decoder
        Takes the place of temperature, top_k, top_p, min_p, typical_p and Mirostat: a call that sets one of them to
        other than its default or neutral value raises.
    seed : int, optional
        Of every completion inside; None is a fresh one. The ``seed`` of llama-cpp-python's calls has no effect.

    Raises
    ------
    ProblemError
        A call inside sets what the decoder replaces.
    ConvergenceError
        A row has no distribution.
    """
    defaults = {name: p.default for name, p in inspect.signature(type(model)._init_sampler).parameters.items()}
    fixed = fresh_seed() if seed is None else seed
    made: list[DecoderSampler] = []

    def init_sampler(logits_processor: Any = None, grammar: Any = None, **options: Any) -> DecoderSampler:
        check_replaced(options, defaults)
        penalties = {name: options[name] for name in options if name.endswith("_penalty")}
        made.append(sampler_of(model, decoder, fixed, grammar=grammar, **penalties))
        for processor in logits_processor or ():
            made[-1].edits.append(_with_ids(processor, model))
        return made[-1]

    before, sampler_before = vars(model).get("_init_sampler"), model._sampler
    model._init_sampler = init_sampler
    model._sampler = init_sampler()  # for `model.sample` alone, which would make one a token, each at position 0
    try:
        yield
    finally:
        del model._init_sampler
        if before is not None:
            model._init_sampler = before
        model._sampler = sampler_before
        for sampler in made:
            sampler.close()


def _with_ids(processor: Any, model: Any) -> Callable[[Any], Any]:
    return lambda row: processor(model._input_ids, row)
