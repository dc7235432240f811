"""A decoder as a logits processor of llama-cpp-python."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from optdecode._batch import log_probs_in_place
from optdecode._decoder import Decoder
from optdecode._spec import one_of
from optdecode._status import STATUSES
from optdecode.errors import OptdecodeError, ProblemError
from optdecode.integrations._llama_kwargs import NEUTRAL

if TYPE_CHECKING:
    from typing_extensions import Self

_CALLS = ("create_completion", "create_chat_completion", "generate", "sample")


def neutral_kwargs(call: str = "create_completion") -> dict[str, Any]:
    """Return the sampling parameters with which llama-cpp-python draws from softmax(logits) as it is.

    Parameters
    ----------
    call : {"create_completion", "create_chat_completion", "generate", "sample"}
        The method of `llama_cpp.Llama` they are for.

    Returns
    -------
    dict
        ``top_k=0, top_p=1.0, ...``, under the names of that method.

    Raises
    ------
    ProblemError
        `call` is none of these.

    Examples
    --------
    >>> neutral_kwargs("sample")["temp"], neutral_kwargs()["temperature"]
    (1.0, 1.0)
    """
    one_of("neutral_kwargs", "call", call, _CALLS)
    parameters = inspect.signature(getattr(llama_cpp.Llama, call)).parameters
    return {name: value for name, value in NEUTRAL.items() if name in parameters}


class OptdecodeLogitsProcessor:
    """A decoder as a logits processor: the logits become log q, and llama.cpp draws from q with its own generator.

    ``model.create_completion(prompt, **processor.kwargs())`` turns off llama.cpp's own truncation and raises what goes
    wrong here at the token. Elsewhere use it as a context, which raises at its end::

        with OptdecodeLogitsProcessor(decoder) as processor:
            model.create_chat_completion(messages, **processor.kwargs("create_chat_completion"))

    llama-cpp-python applies penalties, a grammar and ``logit_bias`` after its processors, to log q, and drops both
    the processors and the bias where both are given. For these use `drawing` or `generate`.

    Parameters
    ----------
    decoder : Decoder
        What makes q of the logits.

    Attributes
    ----------
    calls : int
        Rows seen so far.

    Raises
    ------
    ProblemError
        `decoder` is no Decoder.
    """

    def __init__(self, decoder: Decoder) -> None:
        if not isinstance(decoder, Decoder):
            raise ProblemError(f"OptdecodeLogitsProcessor: a Decoder is needed; got {decoder!r}")
        self.decoder = decoder
        self.calls = 0
        self._calls_before = 0
        self._error: BaseException | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return log q of a row of any strides; a row without a distribution as it is, with a warning."""
        self.calls += 1
        try:
            rows = np.array(scores, dtype=np.float32, ndmin=2)  # a copy: the candidates are 12 bytes apart
            status = STATUSES[log_probs_in_place([self.decoder], rows)[0]]
            if not status.is_solved:
                warnings.warn(
                    f"token {len(input_ids)} of a llama.cpp sequence: {status.name} ({status.meaning}); its logits "
                    "are left as they were",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return rows[0]
        except BaseException as error:
            self._error = error
            raise

    def kwargs(self, call: str = "create_completion") -> dict[str, Any]:
        """Return what to pass to a method of `llama_cpp.Llama`: this processor, and `neutral_kwargs`.

        Parameters
        ----------
        call : str
            As in `neutral_kwargs`.

        Returns
        -------
        dict
            With a stopping criterion that raises what went wrong in this processor, where the method takes one.
        """
        accepted = inspect.signature(getattr(llama_cpp.Llama, call)).parameters if call in _CALLS else {}
        found = neutral_kwargs(call) | {
            "logits_processor": llama_cpp.LogitsProcessorList([self]),
            "stopping_criteria": llama_cpp.StoppingCriteriaList([self.check]),
            # Given here so that a caller who gives them too, which would edit log q, is told so by Python.
            "grammar": None,
            "logit_bias": None,
        }
        return {name: value for name, value in found.items() if name in accepted}

    def check(self, input_ids: Any = None, logits: Any = None) -> bool:
        """Raise what went wrong in this processor since it was last asked; else return False: do not stop."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return False

    def __enter__(self) -> Self:
        self._calls_before = self.calls
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        self.check()
        if self.calls == self._calls_before:
            raise OptdecodeError(
                "llama-cpp-python never called the processor: pass logits_processor=LogitsProcessorList([processor]) "
                "and no logit_bias, with which llama-cpp-python drops its processors"
            )
