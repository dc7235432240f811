"""The decoders of this library in SGLang, one a request.

A server, and a request to it::

    python -m sglang.launch_server --model-path MODEL --enable-custom-logit-processor
    requests.post(f"{url}/generate", json={"text": "a = 7", **request_fields("entmax(1.5)")})

Rows of such requests become log q, and **the engine draws**. For draws that are **ours**, the tokens of
``decoder.sample(logits, seed=seed, position=t)`` outside with t the number of tokens so far, give a seed and run the
server with our sampler. Every scheduler process must register it before arguments are read, so by a script::

    from optdecode.integrations.sglang import register

    register()  # at the top: processes that are spawned read this file again
    if __name__ == "__main__":
        import sys
        from sglang.launch_server import run_server
        from sglang.srt.server_args import prepare_server_args

        run_server(prepare_server_args(sys.argv[1:]))

with ``--enable-custom-logit-processor --sampling-backend optdecode``. Where that sampler does not draw (another
backend, verification of speculative decoding) a request with a seed gets log q, the right law by the engine's own
numbers, and a warning.

SGLang checks no arguments of processors when a request comes in: `request_fields` does, where the request is written. A
server that is sent bad ones leaves the row to the engine, with a warning, as it does a row without a distribution; it
never raises, which would stop every other request. Temperature and truncation run after a processor: `request_fields`
neutralises them. Penalties, biases and grammars come before. Rows are solved on the CPU, those of a batch in one call
on one thread: on a GPU they travel to the host and back, which waits for the device at every step.

This follows SGLang's published interface; it has not been run in SGLang, which needs a GPU.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from optdecode._decoder import Decoder
from optdecode.errors import ProblemError
from optdecode.integrations._request_rows import rewrite_rows
from optdecode.integrations._requests import COUPLING, INDEX, KEY, SEED, N, Request, read_request
from optdecode.integrations._sglang_sampler import is_drawn, read_or_warn, warn
from optdecode.integrations._sglang_sampler import register as register

try:
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor as _Base
except ImportError:
    _Base = object  # who writes requests needs no SGLang


class OptdecodeLogitProcessor(_Base):  # type: ignore[misc]
    """What ``custom_logit_processor`` of a request names; the server builds it.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.0, 5.0, 1.0], [4.0, 0.0, 0.0]])
    >>> OptdecodeLogitProcessor()(logits, [{"optdecode": "top_k(1)"}, {"other": 1}])
    tensor([[-inf, 0., -inf],
            [4., 0., 0.]])
    """

    def __call__(self, logits: Any, custom_param_list: Sequence[Mapping[str, Any] | None] | None = None) -> Any:
        if not custom_param_list:
            return logits
        each = logits.shape[0] // len(custom_param_list)  # speculative decoding has several rows a request
        rows: list[int] = []
        requests: list[Request] = []
        for at, params in enumerate(custom_param_list):
            request = read_or_warn(params)
            if params is None or request is None or is_drawn(request, params):
                continue
            if request.seed is not None:
                warn(f"{SEED} needs --sampling-backend optdecode: the engine draws from q by its own numbers")
            rows += range(at * each, at * each + each)
            requests += [Request(request.decoder)] * each
        rewrite_rows(logits, rows, requests, [0] * len(rows))
        return logits

    @classmethod
    def to_str(cls) -> str:
        """Return the string that a request sends: the class by reference, as SGLang's own method writes it.

        Returns
        -------
        str
            JSON.
        """
        return json.dumps({"callable": pickle.dumps(cls).hex()})


def request_fields(
    decoder: Decoder | str,
    seed: int | None = None,
    coupling: str = "iid",
    index: int | None = None,
    n: int | None = None,
) -> dict[str, Any]:
    """Return the fields of a ``/generate`` request that asks for a decoder, checked.

    Parameters
    ----------
    decoder : Decoder or str
        Or a decoder string.
    seed : int, optional
        For draws that are ours, as in `Decoder.sample`.
    coupling, index, n
        This request makes draw ``index`` of ``n``.

    Returns
    -------
    dict
        ``custom_logit_processor`` and ``sampling_params``.

    Raises
    ------
    ProblemError
        As `Decoder.sample` would, or the decoder cannot be sent.

    Examples
    --------
    >>> request_fields("top_k(50)")["sampling_params"]
    {'temperature': 1.0, 'top_p': 1.0, 'top_k': -1, 'min_p': 0.0, 'custom_params': {'optdecode': 'top_k(50)'}}
    """
    # A string even for an object: the parameters of a request are flat.
    text = json.dumps(decoder.to_dict()) if isinstance(decoder, Decoder) else decoder
    drawn = {SEED: seed, COUPLING: None if coupling == "iid" else coupling, INDEX: index, N: n}
    params = {KEY: text} | {key: value for key, value in drawn.items() if value is not None}
    request = read_request(params)
    if request is not None and request.coupling != "iid" and request.index is None:
        raise ProblemError(f"{coupling} draws need index, in [0, {n})")
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    return {
        "custom_logit_processor": OptdecodeLogitProcessor.to_str(),
        "sampling_params": {**neutral, "custom_params": params},
    }
