"""SGLang's sampler with draws of ours: what `optdecode.integrations.sglang.register` registers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optdecode.errors import BackendUnavailableError, ProblemError
from optdecode.integrations._request_rows import rewrite_rows
from optdecode.integrations._requests import Request, read_request

Params = Mapping[str, Any]
_LIVE = "__req__"  # where SGLang puts the request itself, and so its prompt
_drawing = False  # whether our sampler is running; a scheduler process has one thread that samples


def register(backend: str = "optdecode") -> None:
    """Make ``--sampling-backend optdecode`` known to SGLang in this process.

    Parameters
    ----------
    backend : str
        Another name for it.

    Raises
    ------
    BackendUnavailableError
        SGLang is not installed.
    """
    try:
        from sglang.srt.layers.sampler import register_sampler_backend
    except ImportError as error:
        raise BackendUnavailableError(f"register needs SGLang: {error}") from error
    register_sampler_backend(backend, create_sampler)


def create_sampler() -> Any:
    """Return SGLang's sampler, with rows of requests that have a seed drawn by us.

    Returns
    -------
    Sampler
        A subclass of SGLang's: logprobs, synchronisation and all other requests are as they were.
    """
    from sglang.srt.layers.sampler import Sampler

    class OptdecodeSampler(Sampler):  # type: ignore[misc]
        def forward(
            self, logits_output: Any, sampling_info: Any, return_logprob: Any, top_logprobs_nums: Any,
            token_ids_logprobs: Any, positions: Any,
        ) -> Any:  # fmt: skip
            global _drawing
            _drawing = True
            try:
                _draw(logits_output.next_token_logits, getattr(sampling_info, "custom_params", None) or [], positions)
                return super().forward(
                    logits_output, sampling_info, return_logprob, top_logprobs_nums, token_ids_logprobs, positions
                )
            finally:
                _drawing = False

    return OptdecodeSampler()


def _draw(logits: Any, custom_params: Sequence[Params | None], positions: Any) -> None:
    """Leave 0 at the token drawn and −inf elsewhere: whatever the engine does with such a row, it takes that token."""
    rows: list[int] = []
    requests: list[Request] = []
    prompts: list[int] = []
    for row, params in enumerate(custom_params):
        request = read_or_warn(params)
        if params is not None and request is not None and is_drawn(request, params):
            rows.append(row)
            requests.append(request)
            prompts.append(len(params[_LIVE].origin_input_ids))
    if rows:  # the positions wait for the device
        last = positions.tolist()
        # A row is at its last token, which is a position before the one it is drawn for.
        rewrite_rows(
            logits, rows, requests, [last[row] + 1 - length for row, length in zip(rows, prompts, strict=True)]
        )


def is_drawn(request: Request, params: Params) -> bool:
    """Whether our sampler, running now, draws for a request: it knows the prompt by what SGLang puts beside."""
    return _drawing and request.seed is not None and _LIVE in params


def read_or_warn(params: Params | None) -> Request | None:
    """Read the parameters of a request; bad ones are warned of and as good as none."""
    try:
        return read_request(params)
    except ProblemError as error:
        warn(f"{error}; the row is left to the engine")
        return None


def warn(message: str) -> None:
    """Warn once of a message."""
    warnings.warn(f"optdecode: {message}", RuntimeWarning, stacklevel=3)
