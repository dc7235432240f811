"""What a request to a serving engine asks of its decoder: the arguments that adapters share, read and checked.

A request carries scalars and strings beside its prompt: ``optdecode`` (a decoder string, or the dictionary of
`Decoder.to_dict`, which may be a JSON string too) and, where the draw is to be ours, ``optdecode_seed``,
``optdecode_coupling``, ``optdecode_index`` and ``optdecode_n``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from optdecode._decoder import Decoder
from optdecode._parse import parse_decoder
from optdecode._spec import one_of, positive_int
from optdecode.errors import ProblemError

KEY = "optdecode"
SEED, COUPLING, INDEX, N = (f"{KEY}_{name}" for name in ("seed", "coupling", "index", "n"))
#: Couplings of which each draw alone has law q, so that sequences may part and stay right.
COUPLINGS = ("iid", "systematic")
#: Most draws of one row that requests may share; vLLM's own bound on n.
MOST_DRAWS = 16384


@dataclass(frozen=True)
class Request:
    """What one request asks for.

    Attributes
    ----------
    decoder : Decoder
        Its decoder.
    seed : int, optional
        None: the engine draws from q. Otherwise the token is `Decoder.sample`'s of this seed, and of the number of
        tokens that the request has so far as its position.
    coupling : str
        How the draws of requests that share a seed are coupled.
    index : int, optional
        Which of these draws; None where the request did not say.
    n : int, optional
        How many they are; None where it did not say.
    """

    decoder: Decoder
    seed: int | None = None
    coupling: str = "iid"
    index: int | None = None
    n: int | None = None


def read_request(arguments: Mapping[str, Any] | None) -> Request | None:
    """Read the arguments of a request.

    Parameters
    ----------
    arguments : mapping, optional
        All that the engine carries for a request; keys that do not begin with ``optdecode`` are others'.

    Returns
    -------
    Request or None
        None where no decoder is asked for.

    Raises
    ------
    ProblemError
        Naming the key, what it holds and what is allowed.

    Examples
    --------
    >>> read_request({"optdecode": "top_k(50)", "optdecode_seed": 7, "session": "a"}).seed
    7
    >>> read_request({"session": "a"}) is None
    True
    """
    own = {key: value for key, value in (arguments or {}).items() if isinstance(key, str) and key.startswith(KEY)}
    if not own:
        return None
    known = (KEY, SEED, COUPLING, INDEX, N)
    if unknown := sorted(set(own) - set(known)):
        raise ProblemError(f"{unknown[0]} is no argument of a request; known are {', '.join(known)}")
    if own.get(KEY) is None:
        raise ProblemError(f"{sorted(own)[0]} needs {KEY}: a decoder such as 'top_p(0.95)'; got {own}")
    decoder = read_decoder(own[KEY])
    if own.get(SEED) is not None:
        return Request(decoder, *_draw(own))
    if rest := sorted(key for key in own if key != KEY and own[key] is not None):
        raise ProblemError(f"{rest[0]} is for draws that optdecode makes: give {SEED} too")
    return Request(decoder)


def _draw(own: Mapping[str, Any]) -> tuple[int, str, int | None, int | None]:
    """Check seed, coupling, index and n."""
    seed, index, n = own[SEED], own.get(INDEX), own.get(N)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ProblemError(f"{SEED} must be an integer in [0, 2**64); got {seed!r}")
    coupling = "iid" if own.get(COUPLING) is None else one_of(KEY, COUPLING, own[COUPLING], COUPLINGS)
    n = None if n is None else positive_int(KEY, N, n, high=MOST_DRAWS)
    most = MOST_DRAWS if n is None else n
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < most):
        raise ProblemError(f"{INDEX} must be an integer in [0, {most}); got {index!r}")
    if coupling != "iid" and n is None:
        raise ProblemError(f"{COUPLING}={coupling!r} needs {N}, the number of coupled draws")
    return seed, coupling, index, n


def read_decoder(value: Any) -> Decoder:
    """Build the decoder of a request from a string or a dictionary; equal ones are one object.

    Parameters
    ----------
    value : str or dict
        As in the module's introduction.

    Returns
    -------
    Decoder
        One that needs nothing further from a call.

    Raises
    ------
    ProblemError
        It is no decoder, or one that cannot be checked before the logits are there.

    Examples
    --------
    >>> read_decoder("top_k(50)") == read_decoder(read_decoder("top_k(50)").to_dict())
    True
    """
    if isinstance(value, dict):
        try:
            value = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise ProblemError(f"{KEY}: the dictionary of a decoder must be JSON: {error}") from None
    if not isinstance(value, str):
        raise ProblemError(f"{KEY} must be a decoder string or the dictionary of Decoder.to_dict(); got {value!r}")
    return _decoder(value)


@lru_cache(maxsize=512)
def _decoder(text: str) -> Decoder:
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProblemError(f"{KEY}: a decoder that begins with {{ must be JSON: {error}") from None
        decoder = Decoder.from_dict(data)
    else:
        decoder = parse_decoder(text)
    if decoder.plan.anchor == "given":
        raise ProblemError(f'{KEY}: a request has no anchor to give; use anchor="model"')
    # Of another length than the vocabulary they would fail inside the engine, and every other request with them.
    if decoder.plan.weights == "array" or decoder.plan.allowed is not None:
        raise ProblemError(
            f"{KEY}: weights by token and Allowed(...) cannot be checked against the vocabulary when a request comes; "
            "use the engine's own list of allowed tokens, and weights 'model', 'uniform', 'rank' or a support"
        )
    return decoder
