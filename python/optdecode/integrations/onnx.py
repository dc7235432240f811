"""ONNX Runtime: a generation loop over any session, and the draw inside an ONNX Runtime GenAI `Generator`.

NumPy alone: sessions and generators are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode._decoder import Decoder
from optdecode._spec import positive_int
from optdecode.errors import ProblemError
from optdecode.integrations._onnx_genai import genai_generate
from optdecode.integrations._onnx_model import Cache, OnnxModel
from optdecode.integrations._rows import Int64, Mask, RowDraws, token_list

__all__ = ["Cache", "OnnxModel", "Sequences", "genai_generate", "generate"]


@dataclass(frozen=True)
class Sequences:
    """What was generated: row ``prompt * samples + sample`` of every array is one sequence.

    Attributes
    ----------
    tokens
        (N, T) ids, the one that ended it included; −1 after it, and where a row has no distribution.
    log_probs
        (N, T) log-probability of each token under q; 0 after the end.
    lengths
        (N,) number of tokens.
    finished
        (N,) whether the sequence ended with an end token.
    status
        (N,) a `Status`: why a sequence without a distribution ended.
    """

    tokens: Int64
    log_probs: npt.NDArray[np.float64]
    lengths: Int64
    finished: npt.NDArray[np.bool_]
    status: Int64


def generate(
    model: OnnxModel,
    prompts: Sequence[Sequence[int]],
    decoder: Decoder | Sequence[Decoder],
    *,
    eos_token_id: int | Sequence[int],
    samples: int = 1,
    seed: Any = None,
    coupling: Any = "iid",
    max_new_tokens: int = 40,
    mask: Mask | None = None,
    prefix_budget: bool = True,
    on_failure: str = "raise",
) -> Sequences:
    """Generate with an ONNX Runtime session: logits of the last token, a draw, the token fed back.

    Parameters
    ----------
    model : OnnxModel
        Around the session.
    prompts : sequence of sequences of int
        Token ids, of any lengths; not empty.
    decoder : Decoder or sequence of Decoder
        One, or one a prompt.
    eos_token_id : int or sequence of int
        Tokens that end a sequence.
    samples : int
        Sequences a prompt.
    seed : int or integer array, optional
        One integer, from which `optdecode.row_seeds` derives one seed a sequence; or an array, one a sequence. With
        a coupling: one a prompt. None draws fresh entropy.
    coupling : {"iid", "systematic"}, or ArithmeticCodes of `samples` sequences, one a prompt
        How the samples of a prompt are drawn: ``"systematic"`` spreads them over q at each step, `ArithmeticCodes`,
        which bring their seeds, over whole sequences.
    max_new_tokens : int
        Where a sequence is cut.
    mask : callable, optional
        ``mask(tokens, live)`` with (N, T) generated so far and the rows that still grow returns what may come next: a
        mask as in `Decoder.__call__`, (N, ...) or one for all rows, or None.
    prefix_budget : bool
        With several samples, the budget K of `best_of_k` is, at each step, the number of a prompt's samples that have
        the same tokens so far; False keeps the decoder's.
    on_failure : {"raise", "mark"}
        A row without a distribution raises; or it ends there, with a status and a warning that names it.

    Returns
    -------
    Sequences
        Tokens and their log-probabilities.

    Raises
    ------
    ProblemError
        An argument does not fit.
    ConvergenceError
        A row has no distribution.
    """
    positive_int("generate", "samples", samples)
    positive_int("generate", "max_new_tokens", max_new_tokens)
    if not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ProblemError("generate: prompts must be non-empty sequences of token ids")
    owners = np.repeat(np.arange(len(prompts)), samples)
    ends = token_list("eos_token_id", eos_token_id)
    rows = RowDraws(
        decoder, len(owners), samples,
        seed=seed, coupling=coupling, prefix_budget=prefix_budget, mask=mask, on_failure=on_failure,
    )  # fmt: skip
    tokens = np.full((len(owners), max_new_tokens), -1, dtype=np.int64)
    log_probs = np.zeros(tokens.shape)
    status = np.zeros(len(owners), dtype=np.int64)
    loop = model.sequences(prompts, owners, ends, max_new_tokens)
    live, logits = next(loop)
    for position in range(max_new_tokens):
        step = rows.draw(logits, live, tokens[:, :position])
        tokens[live, position], log_probs[live, position] = step.tokens, np.where(step.tokens < 0, 0, step.log_probs)
        status = np.maximum(status, step.status)
        try:
            live, logits = loop.send(step.tokens)
        except StopIteration:
            break
    lengths = (tokens >= 0).sum(axis=1)
    longest = int(lengths.max())
    finished = np.asarray(np.isin(tokens, ends).any(axis=1))
    return Sequences(tokens[:, :longest], log_probs[:, :longest], lengths, finished, status)
