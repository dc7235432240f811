"""The decoders of this library in vLLM, one a request, beside plain requests in the same batch.

A server, and a request to it::

    vllm serve MODEL --logits-processors optdecode.integrations.vllm:OptdecodeLogitsProcessor
    curl localhost:8000/v1/completions -H 'Content-Type: application/json' -d '{"model": "MODEL", "prompt": "a = 7",
        "temperature": 1, "vllm_xargs": {"optdecode": "entmax(1.5).subject_to(TopK(50))"}}'

The OpenAI client sends the same as ``extra_body={"vllm_xargs": {...}}``, a program as
``SamplingParams(extra_args={...})``. Whatever vLLM spreads over machines (tensor and pipeline parallel, Ray) decodes
by the same arguments: it is the way on where one machine is too small.

``optdecode``
    A decoder string, the dictionary of `Decoder.to_dict`, or that dictionary as a JSON string (REST takes no nested
    dictionaries). Without more the row becomes log q and **the engine draws** from it: ``seed`` is the engine's, and
    ``logprobs_mode=processed_logprobs`` reports log q.
``optdecode_seed``
    **We draw**: the row becomes 0 at the token that ``decoder.sample(logits, seed=optdecode_seed, position=t)`` draws
    outside, t being the number of tokens that the request has so far, and −inf elsewhere (inputs that are streamed into
    a running request make its tokens prompt: t begins again). Log-probabilities of q must then be asked for elsewhere:
    the processed ones say 0 for the token, the raw ones are the model's.
``optdecode_coupling, optdecode_n, optdecode_index``
    The request makes draw ``index`` of ``n`` coupled ones, ``decoder.sample(..., n=n, coupling=...).tokens[index]``:
    send n requests with one seed. Or send one with the engine's ``n`` and ``seed`` equal to ``optdecode_seed``: the
    engine gives child i the seed ``seed + i``, all that tells it from its siblings, and it makes draw i.

A bad request (no such decoder, or temperature, top_p, top_k or min_p set beside one) is a ValueError, HTTP 400, of that
request alone. Temperature 0 is the engine's own greedy, which skips processors of this kind: it is refused beside a
decoder; ask for ``greedy()``. Beam search carries no such arguments and does not see them. Grammars, allowed tokens,
bad words, biases and penalties come before, and a token they forbid stays forbidden. A row without a distribution (NaN
logits, nothing allowed) is left to the engine, and warned of.

The class has both of the engine's contracts: V1 (CPU, and where Triton is missing) and Model Runner V2 (GPUs). Rows are
solved on the CPU, those of a batch in one call on one thread: on a GPU the rows of such requests, and no others, travel
to the host and back. There is no entry point: an installed one would be loaded into every engine of the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optdecode.errors import BackendUnavailableError
from optdecode.integrations._request_rows import rewrite_rows
from optdecode.integrations._requests import Request
from optdecode.integrations._vllm_params import check_params, request_of
from optdecode.integrations._vllm_params import from_sampling_params as from_sampling_params

try:
    from vllm.v1.sample.logits_processor.interface import LogitsProcessor as _V1
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as _V2
except ImportError as error:
    raise BackendUnavailableError(f"optdecode.integrations.vllm needs vLLM 0.32 or newer: {error}") from error

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext


class OptdecodeLogitsProcessor(_V1, _V2):  # type: ignore[misc]
    """What ``--logits-processors`` names; the engine builds it.

    Parameters
    ----------
    vllm_config : VllmConfig
        Of the engine.
    *runner
        V1: device and whether memory is pinned; V2: a `LogitsProcRequestState`.

    Examples
    --------
    >>> from vllm import SamplingParams
    >>> asked = SamplingParams(extra_args={"optdecode": "top_p(0.9)"}, top_k=5)
    >>> try:
    ...     OptdecodeLogitsProcessor.validate_params(asked)
    ... except ValueError as error:
    ...     print(str(error).partition(";")[0])
    top_k must be 0 beside optdecode
    """

    def __init__(self, vllm_config: Any, *runner: Any) -> None:
        if getattr(vllm_config, "watermark_config", None) is not None:
            raise ValueError("optdecode cannot run in an engine that watermarks: its draws would not have the law q")
        self._prompt_lengths: Any = getattr(runner[0], "prompt_len", None)
        #: By row (V1) or slot (V2): what is asked for, and under V1 the tokens so far, a list that the engine extends.
        self._requests: dict[int, tuple[Request, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def _set(self, index: int, params: SamplingParams, output: list[int]) -> bool:
        """Overwrite what a row or slot holds, and return whether its logits will be rewritten."""
        self._requests.pop(index, None)
        request = request_of(params)
        if request is not None:
            self._requests[index] = (request, output)
        return request is not None

    # ---- V1: rows are requests, and the engine tells of every change to the batch ----

    def is_argmax_invariant(self) -> bool:
        """Ask for the place after penalties and temperature, just before the draw; greedy requests never get there."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._set(index, params, output)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._requests.pop(source, None), self._requests.pop(target, None)
            if moved is not None:
                self._requests[target] = moved
            if displaced is not None and direction is MoveDirectionality.SWAP:
                self._requests[source] = displaced

    def apply(self, logits: Any, ctx: LogitsContext | None = None) -> Any:
        if ctx is not None:
            return self._apply_v2(logits, ctx)
        rows = sorted(self._requests)
        held = [self._requests[row] for row in rows]
        rewrite_rows(logits, rows, [request for request, _ in held], [len(output) for _, output in held])
        return logits

    # ---- V2: rows belong to slots, which are taken again without a word ----

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return self._set(req_idx, sampling_params, [])

    def _apply_v2(self, logits: Any, ctx: LogitsContext) -> Any:
        if not any(int(slot) in self._requests for slot in ctx.idx_mapping_np):
            return logits  # before anything waits for the device
        slots, last = ctx.expanded_idx_mapping.tolist(), ctx.pos.tolist()
        rows = [row for row, slot in enumerate(slots) if slot in self._requests]
        # A row is at its last token: the one it is drawn for has that many before it, the prompt's among them.
        so_far = [last[row] + 1 - int(self._prompt_lengths.np[slots[row]]) for row in rows]
        rewrite_rows(logits, rows, [self._requests[slots[row]][0] for row in rows], so_far)
        return logits
