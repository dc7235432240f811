"""The sampling parameters of llama-cpp-python as a decoder; imports no engine."""

from __future__ import annotations

from typing import Any

from optdecode._decoder import Decoder
from optdecode._problem import Problem
from optdecode._spec import finite
from optdecode.errors import ProblemError
from optdecode.regularizers import NegEntropy
from optdecode.supports import Chain, MinP, Support, TopK, TopP, Typical

#: What leaves a distribution as it is, by the parameter's name; ``temp`` is what `Llama.generate` calls temperature.
NEUTRAL: dict[str, Any] = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "temperature": 1.0,
    "temp": 1.0,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "tfs_z": 1.0,
    "mirostat_mode": 0,
}
#: Read by llama.cpp under Mirostat alone, or by nothing any more.
INERT = ("mirostat_tau", "mirostat_eta", "penalize_nl")

_PENALTIES = "edits logits before the decoder: give it to `generate` or `drawing`, or use optdecode.scores"
_REFUSED = {
    "repeat_penalty": _PENALTIES,
    "frequency_penalty": _PENALTIES,
    "presence_penalty": _PENALTIES,
    "tfs_z": "has no effect in llama.cpp, which removed tail-free sampling; leave it at 1.0",
    "mirostat_mode": "is a feedback loop over tokens, no distribution of one row; leave it at 0",
}


def from_llama_kwargs(
    *,
    top_k: int = 40,
    top_p: float = 0.95,
    min_p: float = 0.05,
    typical_p: float = 1.0,
    temperature: float | None = None,
    temp: float | None = None,
    **others: Any,
) -> Decoder:
    """Return the decoder that equals llama-cpp-python's own sampler chain with these parameters.

    The chain is top-k, typical, top-p, min-p, temperature, in this order, so each cut is measured at temperature 1 on
    what the one before left, and the temperature comes last. Defaults are those of `llama_cpp.Llama.create_completion`.

    Parameters
    ----------
    top_k : int
        At most 0 keeps all.
    top_p : float
        At least 1 keeps all.
    min_p : float
        At most 0 keeps all.
    typical_p : float
        At least 1 keeps all.
    temperature, temp : float, optional
        One of the two names; 0.8 by default. 0 is greedy; below 0, llama-cpp-python draws from the untruncated softmax.
    **others
        Every other sampling parameter of llama-cpp-python, at the value that turns it off.

    Returns
    -------
    Decoder
        Where tokens tie at a boundary, the lower ids; llama.cpp leaves that to its sort.

    Raises
    ------
    ProblemError
        A parameter that the decoder cannot express is turned on, or is unknown.

    Examples
    --------
    >>> from_llama_kwargs(top_p=1.0, min_p=0.0, temp=0.7)
    Decoder(problem=Problem(regularizer=NegEntropy(), support=TopK(k=40), temperature=0.7))
    """
    for name, value in others.items():
        if name in INERT:
            continue
        if name not in _REFUSED:
            known = sorted([*NEUTRAL, *INERT])
            raise ProblemError(f"from_llama_kwargs: {name}={value!r} is nothing it can express; it takes {known}")
        if value != NEUTRAL[name]:
            raise ProblemError(f"from_llama_kwargs: {name}={value!r} {_REFUSED[name]}")
    if temperature is not None and temp is not None:
        raise ProblemError(f"from_llama_kwargs: give temperature or temp; got {temperature!r} and {temp!r}")
    degree = finite("from_llama_kwargs", "temperature", next((t for t in (temperature, temp) if t is not None), 0.8))
    if degree == 0.0:
        return Decoder(Problem())
    if degree < 0.0:
        return Decoder(Problem(NegEntropy()))
    return Decoder(Problem(NegEntropy(), support=_cuts(top_k, typical_p, top_p, min_p), temperature=degree))


def check_replaced(options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse a truncation or temperature that a caller set, since the decoder takes their place.

    Parameters
    ----------
    options : dict
        What the engine would sample with.
    defaults : dict
        Its own defaults, which nobody set.
    """
    for name in ("top_k", "top_p", "min_p", "typical_p", "temp", "tfs_z", "mirostat_mode"):
        unset = [defaults[name], NEUTRAL[name], *([0.2] if name == "temp" else [])]  # 0.2: create_chat_completion's
        if name in options and options[name] not in unset:
            raise ProblemError(
                f"{name}={options[name]!r} would not be read: the decoder draws in place of llama.cpp's chain. Leave "
                "it out, and put it into the decoder: from_llama_kwargs makes one of these parameters"
            )


def _cuts(top_k: Any, typical_p: Any, top_p: Any, min_p: Any) -> Support | None:
    cuts: list[Support] = []
    if finite("from_llama_kwargs", "top_k", top_k) > 0:
        cuts.append(TopK(top_k))
    if finite("from_llama_kwargs", "typical_p", typical_p) < 1:
        cuts.append(Typical(typical_p, measured_on="raw"))
    if finite("from_llama_kwargs", "top_p", top_p) < 1:
        cuts.append(TopP(top_p, measured_on="raw"))
    if finite("from_llama_kwargs", "min_p", min_p) > 0:
        cuts.append(MinP(min_p, measured_on="raw"))
    if len(cuts) < 2:
        return cuts[0] if cuts else None
    return Chain(*cuts)
