"""Several sequences of one prompt from a llama.cpp model, drawn by a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import llama_cpp

from optdecode._decoder import Decoder
from optdecode._inputs import read_seeds
from optdecode._spec import one_of, positive_int
from optdecode._status import Status
from optdecode._system import row_seeds
from optdecode.errors import ConvergenceError, ProblemError
from optdecode.integrations._llama_sampler import DecoderSampler


@dataclass(frozen=True)
class Generation:
    """One sequence.

    Attributes
    ----------
    tokens : list of int
        What was drawn, the token that ended the sequence included.
    log_probs : list of float
        Of each token, under the decoder.
    finished : bool
        Whether an end-of-generation token was drawn.
    status : Status
        Of the last row: where it has no distribution and ``on_failure="mark"``, the sequence ends before it.
    """

    tokens: list[int]
    log_probs: list[float]
    finished: bool
    status: Status


def generate(
    model: Any,
    prompt: str | Sequence[int],
    decoder: Decoder,
    seed: Any = None,
    n: int = 1,
    max_tokens: int = 64,
    *,
    grammar: Any = None,
    logit_bias: Mapping[int, float] | None = None,
    repeat_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    on_failure: str = "raise",
) -> list[Generation]:
    """Generate sequences of one prompt, one after another, each until an end-of-generation token.

    The prompt is run once. Token i of a sequence is drawn at position i: a sequence depends on its seed and its logits
    alone, not on the others.

    Parameters
    ----------
    model : llama_cpp.Llama
        The model.
    prompt : str or sequence of int
        Text, or ids as they are.
    decoder : Decoder
        What draws.
    seed : int or integer array of shape (n,), optional
        A scalar stands for ``row_seeds(seed, n)``.
    n : int
        How many sequences.
    max_tokens : int
        Where a sequence is cut.
    grammar : llama_cpp.LlamaGrammar, optional
        What it forbids is never weighed.
    logit_bias : mapping of int to float, optional
        Added to logits; -inf forbids.
    repeat_penalty, frequency_penalty, presence_penalty : float
        llama.cpp's, over the tokens generated.
    on_failure : {"raise", "mark"}
        Where a row has no distribution: raise, or end the sequence and say why in its ``status``.

    Returns
    -------
    list of Generation
        One a sequence.

    Raises
    ------
    ProblemError
        An argument is out of range, or the prompt leaves no room.
    ConvergenceError
        A row has no distribution.
    """
    one_of("generate", "on_failure", on_failure, ("raise", "mark"))
    ids = list(prompt) if not isinstance(prompt, str) else model.tokenize(prompt.encode("utf-8"), special=True)
    seeds = read_seeds(seed, (positive_int("generate", "n", n),), row_seeds)
    room = model.n_ctx() - len(ids)
    if not ids or room < positive_int("generate", "max_tokens", max_tokens):
        raise ProblemError(f"generate: a prompt of 1 to {model.n_ctx() - max_tokens} tokens is needed; got {len(ids)}")
    edits = dict(repeat_penalty=repeat_penalty, frequency_penalty=frequency_penalty, presence_penalty=presence_penalty)
    found = []
    for i, row_seed in enumerate(seeds):
        # The last token of the prompt is run for each sequence, in the same way, so that all start from equal logits.
        _rewind(model, ids, fresh=i == 0)
        with closing(sampler_of(model, decoder, int(row_seed), grammar, logit_bias, **edits)) as sampler:
            found.append(_sequence(model, sampler, max_tokens, on_failure))
    return found


def _rewind(model: Any, ids: list[int], fresh: bool) -> None:
    kept = len(ids) - 1
    if fresh or not model._ctx.kv_cache_seq_rm(-1, kept, -1):  # recurrent models cannot go back
        model.reset()
        model.eval(ids[:kept])
    model.n_tokens = kept
    model.eval(ids[kept:])


def _sequence(model: Any, sampler: DecoderSampler, max_tokens: int, on_failure: str) -> Generation:
    tokens: list[int] = []
    log_probs: list[float] = []
    while len(tokens) < max_tokens:
        try:
            token = sampler.sample(model._ctx)
        except ConvergenceError as error:
            if on_failure == "raise":
                raise
            return Generation(tokens, log_probs, False, error.result.status)
        tokens.append(token)
        log_probs.append(sampler.log_prob)
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):
            return Generation(tokens, log_probs, True, Status.OK)
        if len(tokens) < max_tokens:
            model.eval([token])
    return Generation(tokens, log_probs, False, Status.OK)


def sampler_of(
    model: Any,
    decoder: Decoder,
    seed: int,
    grammar: Any = None,
    logit_bias: Mapping[int, float] | None = None,
    repeat_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
) -> DecoderSampler:
    """Return llama-cpp-python's chain with the decoder in place of its truncation and draw."""
    size = model.n_vocab()
    sampler = DecoderSampler(size)
    if logit_bias:
        if outside := [token for token in logit_bias if not 0 <= token < size]:
            raise ProblemError(f"generate: logit_bias has token {outside[0]}; ids are in [0, {size})")
        sampler.add_logit_bias(size, dict(logit_bias))
    sampler.add_penalties(size, model.last_n_tokens_size, repeat_penalty, frequency_penalty, presence_penalty)
    if grammar is not None:
        sampler.add_grammar(model._model, grammar)
    sampler.add_decoder(decoder, seed)
    return sampler
