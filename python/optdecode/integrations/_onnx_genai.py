"""The draw inside an ONNX Runtime GenAI `Generator`; NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optdecode._decoder import Decoder
from optdecode.errors import OptdecodeError
from optdecode.integrations._rows import Int64, Mask, RowDraws, token_list


def genai_generate(
    generator: Any,
    decoder: Decoder | Sequence[Decoder],
    *,
    eos_token_id: int | Sequence[int],
    samples: int = 1,
    seed: Any = None,
    coupling: Any = "iid",
    mask: Mask | None = None,
    prefix_budget: bool = True,
    on_failure: str = "raise",
) -> Int64:
    """Run an ONNX Runtime GenAI generator to its end with tokens drawn by a decoder.

    The drawn token is handed over as a row of −inf with a 0 (``set_logits``, then ``generate_next_token``):
    ``append_tokens`` takes one sequence only and does not end it. So the generator must not edit logits itself;
    one that does not take the token it was handed is refused.

    Parameters
    ----------
    generator : onnxruntime_genai.Generator
        With the prompts appended; its search options: ``do_sample=False``, no penalties, no ``min_length``, one beam.
    decoder, eos_token_id, samples, seed, coupling, mask, prefix_budget
        As in `generate`; `eos_token_id` as in ``genai_config.json``; several samples of a prompt are equal rows side
        by side.
    on_failure : {"raise", "mark"}
        A row without a distribution raises; or it ends with an end token, and a warning that names it.

    Returns
    -------
    int64 array, shape (B, T)
        What was drawn; −1 after the end of a sequence. ``generator.get_sequence(row)`` has prompt and tokens.

    Raises
    ------
    OptdecodeError
        The generator took another token than it was given.
    ConvergenceError
        A row has no distribution.
    """
    ends = token_list("eos_token_id", eos_token_id)
    rows: RowDraws | None = None
    tokens = np.zeros((0, 0), dtype=np.int64)
    while not generator.is_done():
        logits = np.asarray(generator.get_logits())[:, -1]
        if rows is None:
            tokens = np.zeros((len(logits), 0), dtype=np.int64)
            rows = RowDraws(
                decoder, len(logits), samples,
                seed=seed, coupling=coupling, prefix_budget=prefix_budget, mask=mask, on_failure=on_failure,
            )  # fmt: skip
        live = np.flatnonzero(~np.isin(tokens, [-1, *ends]).any(axis=1))
        drawn = np.full(len(logits), -1, dtype=np.int64)
        drawn[live] = rows.draw(logits[live], live, tokens).tokens
        handed = np.where(drawn < 0, ends[0], drawn)
        one_hot = np.full((len(logits), 1, logits.shape[1]), -np.inf, dtype=np.float32)
        one_hot[np.arange(len(logits)), 0, handed] = 0.0
        generator.set_logits(one_hot)
        generator.generate_next_token()
        taken = np.asarray(generator.get_next_tokens())
        if len(taken) != len(handed) or (taken != handed)[live].any():
            raise OptdecodeError(
                f"the generator was handed {handed[live]} for rows {live} and took {taken[live]}: set do_sample=False "
                "and leave out penalties, min_length and beams in its search options"
            )
        tokens = np.column_stack([tokens, drawn])
    return tokens
