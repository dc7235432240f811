"""vLLM's `SamplingParams`: what may stand beside a decoder, and the decoder that they describe themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optdecode import presets
from optdecode._decoder import Decoder
from optdecode.errors import ProblemError
from optdecode.integrations._requests import INDEX, KEY, SEED, N, Request, read_request
from optdecode.supports import Allowed, Chain, MinP, Support, TopK, TopP

#: The fields that `from_sampling_params` turns into a decoder.
READ = {"temperature", "min_p", "top_k", "top_p", "allowed_token_ids", "extra_args"}
#: Those that change what comes of a draw, or of which draws there are, and not the distribution of a token.
WITHOUT_EFFECT = {
    "n", "seed", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "logprobs", "prompt_logprobs",
    "prompt_logprob_token_ids", "prompt_logprob_start", "logprob_token_ids", "flat_logprobs", "detokenize",
    "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "output_kind",
    "stream_interval", "skip_clone", "output_text_buffer_length", "_eos_token_id", "_all_stop_token_ids",
    "_watermarking_skipped", "skip_reading_prefix_cache", "repetition_detection", "routed_experts_prompt_start",
}  # fmt: skip
#: Those that make the distribution depend on more than the logits: the engine's business, with the values they have
#: when they do nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0.0,), "frequency_penalty": (0.0,), "repetition_penalty": (1.0,), "min_tokens": (0,),
    "watermarking": (None, False), "structured_outputs": (None,), "logit_bias": (None, {}), "bad_words": (None, []),
    "_bad_words_token_ids": (None, []), "thinking_token_budget": (None,), "trace_decode_token_ids": (None,),
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,), "watermarking": (None, False),
}  # fmt: skip
_GREEDY_BELOW = 1e-5  # the engine's own bound


def request_of(params: Any) -> Request | None:
    """Read what a request that the engine runs asks for; its index among the children of a parent too.

    Parameters
    ----------
    params : SamplingParams
        Of one request, or of one of the n children that the engine makes of one.

    Returns
    -------
    Request or None
        None where no decoder is asked for.
    """
    request = read_request(params.extra_args)
    if request is None or request.seed is None or request.index is not None:
        return request
    # The engine gives child i the seed `seed + i` and nothing else of its own; `check_params` made seed ours.
    return replace(request, index=0 if params.seed is None else params.seed - request.seed)


def check_params(params: Any) -> None:
    """Raise a ValueError that says what is wrong with the parameters of a request, if anything is.

    Parameters
    ----------
    params : SamplingParams
        As the request came in: with its n.
    """
    request = read_request(params.extra_args)
    if request is None:
        return
    if params.temperature < _GREEDY_BELOW:
        raise ProblemError(
            f"temperature=0 is the engine's own greedy decoding, which skips {KEY}: leave temperature at 1 and ask "
            f"for {KEY}='greedy()', or leave {KEY} out"
        )
    for name, neutral in _NEUTRAL.items():
        if (value := getattr(params, name, neutral[0])) not in neutral:
            raise ProblemError(
                f"{name} must be {neutral[0]} beside {KEY}; got {value!r}. Say it in the decoder, as in "
                f"'top_p(0.9, temperature=0.7)'. A value that the request did not set is the model's default: set "
                f"{name}={neutral[0]}, or serve with --generation-config vllm"
            )
    if request.seed is not None:
        _check_draws(params, request)


def _check_draws(params: Any, request: Request) -> None:
    """Refuse what would leave the engine's children of a request without draws of their own."""
    if params.seed is not None and params.seed != request.seed:
        raise ProblemError(f"seed must be left out or equal {SEED}={request.seed}; got {params.seed}")
    if params.n == 1:
        if request.coupling != "iid" and request.index is None:
            raise ProblemError(f"{request.coupling} draws need {INDEX}, in [0, {request.n}), or n={request.n}")
        return
    if params.seed is None or request.index is not None:
        raise ProblemError(
            f"n={params.n} with {SEED} needs seed={request.seed} too, by which the engine tells the n apart, and no "
            f"{INDEX}; got seed={params.seed}, {INDEX}={request.index}"
        )
    if request.n is not None and request.n != params.n:
        raise ProblemError(f"{N} must equal n={params.n} or be left out; got {request.n}")


def from_sampling_params(params: Any) -> Decoder:
    """Return the decoder that does what vLLM's sampling parameters say.

    Parameters
    ----------
    params : SamplingParams
        Temperature, then min-p, then top-k, then top-p, each measured on the renormalised rest of the one before, as
        the engine does; allowed token ids; a decoder of ours in ``extra_args``. Two conventions differ: of tokens
        that tie for the last place top-k keeps the first here and all of them there, and decisions within float32
        rounding of a threshold may differ.

    Returns
    -------
    Decoder
        For instance to compute offline what a server draws from.

    Raises
    ------
    ProblemError
        A field makes the distribution depend on more than the logits (penalties, bias, bad words, ...), or is not
        known to this version. Its name is in the message.

    Examples
    --------
    >>> from vllm import SamplingParams
    >>> from_sampling_params(SamplingParams(temperature=0.7, top_k=50)).problem
    Problem(regularizer=NegEntropy(), support=TopK(k=50), temperature=0.7)
    """
    defaults = type(params)()
    for name in params.__struct_fields__:
        if name in READ or name in WITHOUT_EFFECT:
            continue
        neutral = REFUSED.get(name, (getattr(defaults, name),))
        if (value := getattr(params, name)) not in neutral:
            raise ProblemError(f"{name}={value!r} is no property of a decoder: only {neutral[0]!r} can be translated")
    if others := sorted(key for key in params.extra_args or {} if not str(key).startswith(KEY)):
        raise ProblemError(f"extra_args has {others[0]!r}, of which it is not known what the engine makes")
    check_params(params)
    request = read_request(params.extra_args)
    decoder = _truncated(params) if request is None else request.decoder
    return decoder if params.allowed_token_ids is None else decoder.subject_to(Allowed(params.allowed_token_ids))


def _truncated(params: Any) -> Decoder:
    if params.temperature < _GREEDY_BELOW:
        return presets.greedy()
    rules: list[Support] = []
    if params.min_p > 0.0:
        rules.append(MinP(params.min_p))
    if params.top_k > 0:
        rules.append(TopK(params.top_k))
    if params.top_p < 1.0:
        rules.append(TopP(params.top_p))
    decoder = presets.softmax(params.temperature)
    return decoder.subject_to(*rules) if len(rules) < 2 else decoder.subject_to(Chain(*rules))
