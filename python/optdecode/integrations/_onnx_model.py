"""A causal language model in any ONNX Runtime session with the usual KV-cache names; NumPy alone."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode.errors import ProblemError

Int64 = npt.NDArray[np.int64]
_TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32,
}  # fmt: skip
_PAST, _PRESENT = "past_key_values", ("present", "present_key_values")
_TEXT = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far, and which of them are real (1) or padding (0).

    Attributes
    ----------
    past
        One array per input ``past_key_values.*`` of the ONNX file, each (batch, heads, time, head dimension).
    mask
        (batch, time), 1 on tokens and 0 on padding.
    """

    past: tuple[npt.NDArray[Any], ...]
    mask: Int64

    def take(self, rows: Int64) -> Cache:
        """The cache of some rows, in the order given; a row may be repeated."""
        return Cache(tuple(array[rows] for array in self.past), self.mask[rows])


class OnnxModel:
    """Logits and KV cache of a causal language model, as Optimum and the like export it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Inputs ``input_ids``, ``past_key_values.*`` and, where the model has them, ``attention_mask`` and
        ``position_ids``; outputs ``logits`` and ``present.*``.
    pad_token_id : int
        What prompts are padded with, on the left; no row sees it.

    Raises
    ------
    ProblemError
        The session has other inputs, or lacks one of these.
    """

    def __init__(self, session: Any, pad_token_id: int = 0) -> None:
        self._session, self._pad = session, pad_token_id
        inputs = {entry.name: entry for entry in session.get_inputs()}
        outputs = {entry.name for entry in session.get_outputs()}
        self._past_names = [name for name in inputs if name.startswith(_PAST)]
        present = [
            next((name for start in _PRESENT if (name := start + past.removeprefix(_PAST)) in outputs), None)
            for past in self._past_names
        ]
        unknown = [name for name in inputs if name not in (*_TEXT, *self._past_names)]
        if unknown or "input_ids" not in inputs or not present or None in present or "logits" not in outputs:
            raise ProblemError(
                "OnnxModel: needs the inputs input_ids, past_key_values.*, at most attention_mask and position_ids "
                f"beside them, and the outputs logits, present.*; got {list(inputs)} and {sorted(outputs)}"
            )
        self._text = {name: _TYPES[inputs[name].type] for name in _TEXT if name in inputs}
        self._outputs = ["logits", *present]
        self._empty = [(inputs[name].shape, _TYPES[inputs[name].type]) for name in self._past_names]

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[npt.NDArray[Any], Cache]:
        """Run prompts of any lengths, padded on the left, and return the logits after each and the cache.

        Returns
        -------
        logits
            (batch, V).
        cache
            For `step`.
        """
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        if "attention_mask" not in self._text and not mask.all():
            raise ProblemError("OnnxModel: prompts of different lengths need a model with the input attention_mask")
        past = tuple(np.zeros((len(prompts), heads, 0, width), dtype) for (_, heads, _, width), dtype in self._empty)
        return self._run(ids, mask, past)

    def step(self, tokens: Int64, cache: Cache) -> tuple[npt.NDArray[Any], Cache]:
        """Feed one token per row, (batch,), and return the logits after it, (batch, V), and the grown cache."""
        ids = np.asarray(tokens, dtype=np.int64).reshape(-1, 1)
        return self._run(ids, np.concatenate((cache.mask, np.ones_like(ids)), axis=1), cache.past)

    def _run(self, ids: Int64, mask: Int64, past: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], Cache]:
        # Positions count real tokens, so padding does not shift a row.
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, mask.shape[1] - ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feeds: dict[str, Any] = {name: given[name].astype(dtype, copy=False) for name, dtype in self._text.items()}
        feeds.update(zip(self._past_names, past, strict=True))
        logits, *present = self._session.run(self._outputs, feeds)
        return np.ascontiguousarray(logits[:, -1]), Cache(tuple(present), mask)

    def sequences(
        self,
        prompts: Sequence[Sequence[int]],
        owners: Int64,
        eos_token_id: Collection[int],
        max_new_tokens: int,
    ) -> Generator[tuple[Int64, npt.NDArray[Any]], Int64, None]:
        """Run sequences side by side: yields which of them still grow and their logits, and is sent their tokens.

        Parameters
        ----------
        prompts
            Token ids of each.
        owners
            (N,) the prompt of each sequence; those of one prompt share its prefill.
        eos_token_id
            Tokens that end a sequence, as −1 does.
        max_new_tokens
            Where the others are cut.

        Yields
        ------
        live : int64 array, shape (L,)
            Sequences that still grow, ascending.
        logits : array, shape (L, V)
            Their logits; ``send`` takes their tokens, (L,).
        """
        logits, cache = self.start(prompts)
        if not np.array_equal(owners, np.arange(len(prompts))):
            logits, cache = logits[owners], cache.take(owners)
        rows = np.arange(len(owners))  # the sequences in the batch, some of which may have ended: `live` have not
        live = rows
        for left in range(max_new_tokens - 1, -1, -1):
            tokens = np.asarray((yield rows[live], logits[live] if len(live) < len(logits) else logits))
            fed = np.full(len(rows), self._pad, dtype=np.int64)
            fed[live] = np.maximum(tokens, 0)
            live = live[~np.isin(tokens, [-1, *eos_token_id])]
            if not len(live) or not left:
                return
            # Compacting copies the cache, about as dear as a step: worth it once a quarter of the rows is done.
            if len(live) <= 0.75 * len(rows):
                rows, fed, cache = rows[live], fed[live], cache.take(live)
                live = np.arange(len(rows))
            logits, cache = self.step(fed, cache)
