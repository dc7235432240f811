"""What transformers' `GenerationConfig` says about the next token's distribution; no engine is imported here."""

from __future__ import annotations

from typing import Any

from optdecode._decoder import Decoder
from optdecode._spec import in_range, one_of
from optdecode.errors import ProblemError
from optdecode.presets import greedy, softmax
from optdecode.supports import Chain, Epsilon, Eta, MinP, Support, TopK, TopP, Typical

#: What `generate` makes of a field that is None.
DEFAULTS: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
#: The warpers of `generate`, in its order, and the values that switch each off.
WARPERS: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_h": (None,), "top_k": (0,), "top_p": (1.0,), "min_p": (None, 0.0), "typical_p": (1.0,),
    "epsilon_cutoff": (0.0, 1.0), "eta_cutoff": (0.0, 1.0),
}  # fmt: skip
#: Fields that change the distribution in ways that no decoder has, and the values that do not. ``top_h`` is not `TopH`
#: of arXiv:2509.02510: it bounds a part of the entropy of the 100 best tokens, and does not renormalise.
REFUSED: dict[str, tuple[Any, ...]] = {
    "top_h": (None,), "num_beams": (None, 1), "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0), "penalty_alpha": (None, 0.0), "dola_layers": (None,), "constraints": (None,),
    "force_words_ids": (None,), "watermarking_config": (None,), "assistant_ensemble_weight": (None, 1.0),
}  # fmt: skip
#: Edits of logits that depend on the text so far, which `generate` makes before it calls processors.
EDITS: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0), "encoder_repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0), "bad_words_ids": (None,), "min_length": (None, 0),
    "min_new_tokens": (None, 0), "forced_bos_token_id": (None,), "forced_eos_token_id": (None,),
    "remove_invalid_values": (None, False), "exponential_decay_length_penalty": (None,), "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,), "sequence_bias": (None,), "guidance_scale": (None, 1.0),
}  # fmt: skip
#: Fields without a say in the next token's distribution: lengths, caches, outputs, speed, what beams alone read.
ELSEWHERE = frozenset({
    "max_length", "max_new_tokens", "early_stopping", "max_time", "stop_strings", "use_mtp", "use_cache",
    "cache_implementation", "cache_config", "max_cache_len", "length_penalty", "renormalize_logits", "token_healing",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "speculation_type", "compile_config", "disable_compile", "continuous_batching_config",
    "low_memory", "prefill_chunk_size", "transformers_version",
})  # fmt: skip


def neutral_generation_kwargs() -> dict[str, Any]:
    """Return the arguments of `generate` under which it draws from what a processor returned.

    `generate` appends its own warpers after every processor of the user, and ``top_k`` is 50 where nobody sets it.

    Returns
    -------
    dict
        Sampling on, every warper off.

    Examples
    --------
    >>> neutral_generation_kwargs()["top_k"]
    0
    """
    return {"do_sample": True} | {name: off[0] for name, off in WARPERS.items()}


def active_warpers(config: Any) -> dict[str, Any]:
    """Return the warpers that `generate` would append for this configuration, as field and value."""
    found = {name: _value(config, name) for name in WARPERS}
    return {name: value for name, value in found.items() if value not in WARPERS[name]}


def check_generation_config(config: Any) -> None:
    """Refuse a configuration under which `generate` would not draw from q as `OptdecodeLogitsProcessor` returns it.

    Parameters
    ----------
    config : transformers.GenerationConfig
        As `generate` will use it: a field that is None counts as its default there, which is 50 for ``top_k``.

    Raises
    ------
    ProblemError
        Naming every field that stands in the way.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check_generation_config(SimpleNamespace(do_sample=True, top_k=0))
    """
    found = [f"{name}={value!r} would cut or temper q again" for name, value in active_warpers(config).items()]
    if _value(config, "do_sample") is not True:
        found.append("do_sample is not True: the best token of q would be taken, not a draw")
    if getattr(config, "num_beams", None) not in REFUSED["num_beams"]:
        found.append(f"num_beams={config.num_beams!r}: beam search does not draw from q")
    if getattr(config, "watermarking_config", None) is not None:
        found.append("watermarking_config would change q")
    if found:
        raise ProblemError(f"{'; '.join(found)}. Pass **neutral_generation_kwargs() to generate")


def from_generation_config(config: Any, *, edits: str = "refuse") -> Decoder:
    """Return the decoder that draws what `generate` would draw under a configuration.

    Temperature first, then top-k, top-p, min-p, typical-p, epsilon and eta, each measured on the renormalised rest of
    the one before, as in `generate`. Two things differ: top-k keeps exactly k tokens where `generate` keeps every tie
    of the k-th (and typical-p no more ties than it needs), and sums decide in higher precision.

    Parameters
    ----------
    config : transformers.GenerationConfig
        A field that is None stands for what `generate` makes of it: no sampling (greedy), ``top_k=50``.
    edits : {"refuse", "engine"}
        Penalties, bans and other edits of logits by the text so far are no decoder's: refused, or left to the
        engine, where `generate` makes them before it calls the decoder.

    Returns
    -------
    Decoder
        Stateless; `OptdecodeLogitsProcessor` and `optdecode_generate` take it.

    Raises
    ------
    ProblemError
        Naming a field that no decoder does (``top_h``, beams, ...), or that is not known.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from_generation_config(SimpleNamespace(do_sample=True, temperature=0.5, top_k=0, top_p=0.9)).problem.support
    TopP(p=0.9)
    """
    one_of("from_generation_config", "edits", edits, ("refuse", "engine"))
    known = REFUSED.keys() | EDITS.keys() | DEFAULTS.keys() | ELSEWHERE
    for name in _fields(config) - known:
        if getattr(config, name) is not None:
            raise ProblemError(f"from_generation_config: {name}={getattr(config, name)!r} is not known here")
    for name, neutral in REFUSED.items() if edits == "engine" else (REFUSED | EDITS).items():
        value = getattr(config, name, None)
        if value not in neutral:
            advice = "; edits='engine' leaves it to generate" if name in EDITS else ""
            raise ProblemError(f"from_generation_config: no decoder does {name}={value!r}{advice}")
    if _value(config, "do_sample") is not True:
        return greedy()
    temperature = in_range("from_generation_config", "temperature", _value(config, "temperature"), 0.0, open_low=True)
    rules = [_rule(name, value) for name, value in active_warpers(config).items() if name != "temperature"]
    decoder = softmax(temperature)
    return decoder.subject_to(*rules) if len(rules) < 2 else decoder.subject_to(Chain(*rules))


def _rule(name: str, value: Any) -> Support:
    """Return the support that a warper is."""
    if name == "top_p" and value == 0:  # the best token is kept whatever top_p says
        return TopK(1)
    supports: dict[str, Any] = {
        "top_k": TopK, "top_p": TopP, "min_p": MinP, "typical_p": Typical, "epsilon_cutoff": Epsilon, "eta_cutoff": Eta,
    }  # fmt: skip
    rule: Support = supports[name](value)
    return rule


def _value(config: Any, name: str) -> Any:
    value = getattr(config, name, None)
    return DEFAULTS[name] if value is None else value


def _fields(config: Any) -> set[str]:
    """Return the fields of the configuration's class; entries that a model's file adds to them are not read."""
    try:
        fields = vars(type(config)()) or vars(config)
    except TypeError:
        fields = vars(config)
    return {name for name in fields if not name.startswith("_")}
