"""The sampler of llama.cpp whose last link is a decoder."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._internals import LlamaSampler

from optdecode._decoder import Decoder
from optdecode._inputs import fresh_seed
from optdecode.errors import ProblemError, ShapeError

#: `llama_token_data` of llama.h.
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# Samplers of llama.cpp that edit logits and leave every candidate in its place.
_IN_PLACE = {b"logit-bias", b"penalties", b"grammar", b"dry"}


class DecoderSampler(LlamaSampler):  # type: ignore[misc]  # llama-cpp-python may be absent where types are checked
    """A sampler chain of llama.cpp in which a decoder draws the token.

    Add what edits logits first (`add_grammar`, `add_logit_bias`, `add_penalties`, ...), then `add_decoder`. The token
    is ``decoder.sample(row, seed, position)`` of the row that the links before leave; candidates at -inf are forbidden.
    Nothing is sorted.

    Parameters
    ----------
    n_vocab : int
        Tokens of the model, ``model.n_vocab()``.

    Attributes
    ----------
    position : int
        Tokens drawn so far: the position of the next draw.
    log_prob : float
        Log-probability, under the decoder, of the last token.
    edits : list of callable
        Each is given the row of logits (a float32 array) and returns an edited one, before the chain.

    Examples
    --------
    >>> import optdecode as od
    >>> sampler = DecoderSampler(n_vocab=3)
    >>> sampler.add_logit_bias(3, {1: float("-inf")})
    >>> sampler.add_decoder(od.top_k(2), seed=7)
    >>> sampler.draw(np.array([0.0, 9.0, 8.0], dtype=np.float32)), sampler.position
    (2, 1)
    """

    def __init__(self, n_vocab: int) -> None:
        super().__init__()
        self.position = self._first = 0
        self.log_prob = 0.0
        self.edits: list[Callable[[npt.NDArray[np.float32]], Any]] = []
        self._decoder: Decoder | None = None
        self._error: BaseException | None = None
        self._token = -1
        self._link, self._unedited, self._in_order = -1, True, True
        self._row = np.empty(n_vocab, dtype=np.float32)
        self._candidates = np.zeros(n_vocab, dtype=CANDIDATE)
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._candidates["id"] = self._ids

    def add_decoder(self, decoder: Decoder, seed: int | None = None, position: int = 0) -> None:
        """Add the decoder, as the last link.

        Parameters
        ----------
        decoder : Decoder
            What draws.
        seed : int, optional
            As in `Decoder.sample`; None is a fresh one.
        position : int
            Of the first draw; each draw adds one.

        Raises
        ------
        ProblemError
            `decoder` is no Decoder, or there is one already.
        """
        if not isinstance(decoder, Decoder) or self._decoder is not None:
            raise ProblemError(f"add_decoder: exactly one Decoder is needed; got {decoder!r} after {self._decoder!r}")
        self._link = int(llama_cpp.llama_sampler_chain_n(self.sampler))
        own = {i for i, _ in self.custom_samplers}  # have no name to ask for
        names = [b"custom" if i in own else self._name(i) for i in range(self._link)]
        # llama.cpp marks links that do nothing by ?, and by + and - where they may run.
        self._unedited = all(name.startswith(b"?") for name in names)
        self._in_order = all(name[:1] == b"?" or name.lstrip(b"+-") in _IN_PLACE for name in names)
        self._decoder = decoder
        self._seed = fresh_seed() if seed is None else seed
        self.position = self._first = position
        self.add_custom(self._apply)

    def sample(self, ctx: Any, idx: int = -1) -> int:
        """Draw the token after output `idx` of a context; what `llama_cpp.Llama` calls at each token.

        Parameters
        ----------
        ctx : llama_cpp._internals.LlamaContext
            Whose logits.
        idx : int
            As in llama.cpp; -1 is the last.

        Returns
        -------
        int
            The token, which the chain has accepted.

        Raises
        ------
        ConvergenceError
            The row has no distribution: NaN or +inf logits, or nothing is allowed.
        """
        return self.draw(np.ctypeslib.as_array(ctx.get_logits_ith(idx), (len(self._row),)))

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """Draw a token from a row of logits; raises as `sample` does.

        Parameters
        ----------
        logits : float32 array of shape (n_vocab,)
            Not written to.

        Returns
        -------
        int
            The token, which the chain has accepted.
        """
        for edit in self.edits:
            logits = np.asarray(edit(logits.copy()), dtype=np.float32)
        if logits.shape != self._row.shape:
            raise ShapeError(f"DecoderSampler: a row of {len(self._row)} logits is needed; got {logits.shape}")
        if self._unedited and llama_cpp.llama_sampler_chain_n(self.sampler) == self._link + 1:
            self._draw(logits)
        else:
            self._run_chain(logits)
        llama_cpp.llama_sampler_accept(self.sampler, self._token)
        return self._token

    def reset(self) -> None:
        """Start again, at the first position; penalties and grammars forget what was drawn."""
        super().reset()
        self.position = self._first

    def _draw(self, row: npt.NDArray[np.float32]) -> None:
        if self._decoder is None:
            raise ProblemError("DecoderSampler: call add_decoder before drawing")
        draw = self._decoder.sample(row, seed=self._seed, position=self.position, threads=1)
        self._token, self.log_prob = int(draw.tokens[0]), float(draw.log_probs[0])
        self.position += 1

    def _run_chain(self, logits: npt.NDArray[np.float32]) -> None:
        # Not by `llama_sampler_sample`: it would accept a token after a failure too, and a grammar that is given a
        # token it forbids ends the process.
        if not self._in_order:
            self._candidates["id"] = self._ids
        self._candidates["logit"] = logits
        data = ctypes.cast(self._candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=data, size=len(self._row), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.sampler, ctypes.byref(array))
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        token = int(array.data[array.selected].id) if 0 <= array.selected < array.size else -1
        if token != self._token:
            raise ProblemError(f"{self._token} was drawn, and a later link chose {token}: add links before add_decoder")

    def _apply(self, pointer: Any) -> None:
        """Select a candidate; nothing may escape, since ctypes would print it and forget it."""
        candidates = pointer.contents
        candidates.selected = 0  # llama_sampler_sample ends the process where nothing is selected
        try:
            candidates.selected = self._select(candidates)
        except BaseException as error:
            self._error = error

    def _select(self, candidates: Any) -> int:
        """Draw, and return where the token stands."""
        size = int(candidates.size)
        memory = (llama_cpp.llama_token_data * size).from_address(ctypes.addressof(candidates.data.contents))
        array = np.frombuffer(memory, dtype=CANDIDATE)
        in_order = self._in_order and size == len(self._row)
        if in_order:
            self._row[:] = array["logit"]
        else:  # by token id again: the draw is a function of the row, not of where links left the candidates
            self._row.fill(-np.inf)
            self._row[array["id"]] = array["logit"]
        self._draw(self._row)
        return self._token if in_order else int(np.flatnonzero(array["id"] == self._token)[0])

    def _name(self, link: int) -> bytes:
        return bytes(llama_cpp.llama_sampler_name(llama_cpp.llama_sampler_chain_get(self.sampler, link)))
