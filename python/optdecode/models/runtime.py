"""Run the embedded model with ONNX Runtime on a CPU and decode with any decoder of this library.

The loop is the one an engine runs: logits of the last token, one call of ``decoder.sample``, the token fed back. It
needs NumPy, onnxruntime and tokenizers, which are imported when a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optdecode.errors import BackendUnavailableError
from optdecode.integrations._onnx_model import OnnxModel
from optdecode.integrations._row_codes import RowCodes, row_codes
from optdecode.models.dagmod import BOS, EOS, PAD, Problem

__all__ = ["EmbeddedModel", "Generation"]

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

_DATA = Path(__file__).parent / "data"


class SupportsSample(Protocol):
    """What `EmbeddedModel.generate` needs of a decoder; `optdecode.Decoder` has it."""

    def sample(self, logits: Any, *, seed: Any = ..., position: Any = ..., coupling: Any = ...) -> Any:
        """Return a draw with ``tokens`` and ``log_probs`` of shape (B, 1); by seed and position, or a coupling."""

    def __call__(self, logits: Any) -> Any:
        """Return a solution with ``entropy`` of shape (B,); called only where entropies are asked for."""


@dataclass(frozen=True)
class Generation:
    """What was generated: row ``prompt * samples + sample`` of every array is one sequence.

    Attributes
    ----------
    tokens
        (N, T) ids, ``<eos>`` included, ``<pad>`` after it.
    log_probs
        (N, T) log-probability of each token under the decoder's q; 0 on padding.
    lengths
        (N,) number of tokens of each sequence, ``<eos>`` included.
    finished
        (N,) whether the sequence ended with ``<eos>``.
    text
        The sequences as text, without ``<eos>``.
    samples
        Sequences per prompt.
    entropies
        (N, T) entropy of q at each token, 0 on padding; None unless asked for.
    prefill_seconds
        Time the model took for the prompts.
    model_seconds, decode_seconds, rows
        (T,) per step: time in the model and its cache (the first step's is `prefill_seconds`, so 0 here), time in the
        decoder (entropies not counted) and the number of rows decoded.
    """

    tokens: Int64
    log_probs: Float32
    lengths: Int64
    finished: npt.NDArray[np.bool_]
    text: tuple[str, ...]
    samples: int
    entropies: Float32 | None
    prefill_seconds: float
    model_seconds: Float64
    decode_seconds: Float64
    rows: Int64

    def of(self, prompt: int) -> list[list[int]]:
        """The samples of one prompt as lists of ids, ``<eos>`` included, padding left out."""
        rows = range(prompt * self.samples, (prompt + 1) * self.samples)
        return [self.tokens[row, : self.lengths[row]].tolist() for row in rows]

    @property
    def total_log_probs(self) -> Float64:
        """(N,) log-probability of each sequence under the decoder."""
        return np.asarray(self.log_probs.sum(axis=1, dtype=np.float64))

    @property
    def mean_entropies(self) -> Float64:
        """(T,) mean entropy of q at each step, over the sequences still running."""
        if self.entropies is None:
            raise ValueError("Entropies were not collected; call generate(..., entropy=True).")
        running = np.arange(self.tokens.shape[1]) < self.lengths[:, None]
        return np.asarray(self.entropies.sum(axis=0, dtype=np.float64) / np.maximum(1, running.sum(axis=0)))


class EmbeddedModel(OnnxModel):
    """A causal language model in an ONNX file with a KV cache; by default the one that ships with optdecode.

    Parameters
    ----------
    path
        Folder with ``model.onnx``, ``tokenizer.json`` and ``config.json``.
    threads
        Threads of ONNX Runtime; by default its own choice.

    Attributes
    ----------
    tokenizer
        The `tokenizers.Tokenizer`.
    vocab_size
        Number of logits.
    context_length
        Most tokens, prompt and response together, that the model has positions for.

    Raises
    ------
    BackendUnavailableError
        If onnxruntime or tokenizers is not installed.

    Examples
    --------
    >>> import optdecode as od
    >>> model = EmbeddedModel()
    >>> model.generate(["a = 7 ; b = a + c ; c = 2 ; ? b"], od.greedy()).text
    ('a 7 c 2 b 7 + 2 9 # 9',)
    """

    def __init__(self, path: str | Path | None = None, *, threads: int | None = None) -> None:
        runtime, tokenizers = _require("onnxruntime"), _require("tokenizers")
        folder = Path(path) if path is not None else _DATA
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        session = runtime.InferenceSession(
            str(folder / "model.onnx"), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "config.json").read_text())
        self.vocab_size: int = config["vocab_size"]
        self.context_length: int = config["max_position_embeddings"]
        pad, self._bos, self._eos = (int(self.tokenizer.token_to_id(word)) for word in (PAD, BOS, EOS))
        super().__init__(session, pad)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, ``<bos>`` first."""
        return list(self.tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int] | Int64) -> str:
        """Text of ids, without ``<bos>``, ``<eos>`` and ``<pad>``."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def generate(
        self,
        prompts: Sequence[str | Problem],
        decoder: SupportsSample,
        *,
        samples: int = 1,
        seed: int | npt.ArrayLike | None = None,
        coupling: Any = "iid",
        max_new_tokens: int = 40,
        batch_size: int = 256,
        entropy: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Generation:
        """Generate until ``<eos>``, `samples` sequences per prompt.

        Parameters
        ----------
        prompts
            Texts, or problems of `optdecode.models.dagmod`.
        decoder
            For example ``optdecode.top_p(0.95)``.
        samples
            Sequences per prompt.
        seed
            One integer, from which `optdecode.row_seeds` derives one seed per sequence, or an array of one seed per
            sequence, (prompts, samples) or flat; None is 0. A sequence's draws depend on its seed and logits alone,
            whatever else is in the batch.
        coupling
            ``"iid"``, or `optdecode.ArithmeticCodes` of `samples` sequences, one a prompt: they spread the samples of a
            prompt over its sequences, and bring their seeds.
        max_new_tokens
            Where a sequence is cut if ``<eos>`` did not come.
        batch_size
            Sequences run together; prompts of similar length share a batch.
        entropy
            Also collect the entropy of q at each token; solves every step once more.
        progress
            Called with (sequences done, sequences in all) as they finish.

        Raises
        ------
        ValueError
            If an argument is out of range or a prompt leaves no room for `max_new_tokens`.
        """
        encoded = [self.encode(prompt.prompt if isinstance(prompt, Problem) else prompt) for prompt in prompts]
        self._check(encoded, samples, max_new_tokens, batch_size)
        codes = row_codes(coupling, len(encoded), samples, seed)
        if codes is None and coupling != "iid":
            raise ValueError(f"coupling must be 'iid', or ArithmeticCodes, one a prompt; got {coupling!r}.")
        seeds = _seeds(0 if seed is None else seed, len(encoded), samples)
        run = _Run(seeds, codes, max_new_tokens, self._pad, entropy, progress)
        for rows in _chunks([len(ids) for ids in encoded], samples, batch_size):
            self._generate_chunk(run, decoder, encoded, rows, samples)
        return run.result(samples, self.decode)

    def _check(self, encoded: list[list[int]], samples: int, max_new_tokens: int, batch_size: int) -> None:
        for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        room = self.context_length - max_new_tokens
        for i, ids in enumerate(encoded):
            if len(ids) > room:
                raise ValueError(
                    f"Prompt {i} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} at most {room} fit into "
                    f"the model's context of {self.context_length}. Shorten the prompt or lower max_new_tokens."
                )

    def _generate_chunk(
        self, run: _Run, decoder: SupportsSample, encoded: list[list[int]], rows: Int64, samples: int
    ) -> None:
        """Generate the sequences `rows`, which are sorted; `live` are the places of those that still grow."""
        unique, owners = np.unique(rows // samples, return_inverse=True)
        begin = perf_counter()
        loop = self.sequences([encoded[i] for i in unique], owners, (self._eos,), run.max_new_tokens)
        live, logits = next(loop)
        run.prefill_seconds += perf_counter() - begin
        for position in range(run.max_new_tokens):
            tokens = run.draw(decoder, logits, rows[live], position)
            last = position + 1 == run.max_new_tokens
            run.finish(rows[live], tokens == self._eos, last=last)
            begin = perf_counter()
            try:
                live, logits = loop.send(tokens)
            except StopIteration:
                return
            run.model_seconds[position + 1] += perf_counter() - begin


class _Run:
    """What one call of `generate` collects."""

    def __init__(
        self,
        seeds: UInt64,
        codes: RowCodes | None,
        max_new_tokens: int,
        pad: int,
        entropy: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        shape = (len(seeds), max_new_tokens)
        self.seeds, self.max_new_tokens, self._pad, self._progress = seeds, max_new_tokens, pad, progress
        self._codes = codes
        self._tokens = np.full(shape, pad, dtype=np.int64)
        self._log_probs = np.zeros(shape, dtype=np.float32)
        self._entropies = np.zeros(shape, dtype=np.float32) if entropy else None
        self._finished = np.zeros(len(seeds), dtype=bool)
        self._lengths = np.zeros(len(seeds), dtype=np.int64)
        self._done = 0
        self.prefill_seconds = 0.0
        self.model_seconds = np.zeros(max_new_tokens)
        self._decode_seconds = np.zeros(max_new_tokens)
        self._rows = np.zeros(max_new_tokens, dtype=np.int64)

    def draw(self, decoder: SupportsSample, logits: Float32, rows: Int64, position: int) -> Int64:
        """Draw one token for each sequence of `rows` and write it down."""
        begin = perf_counter()
        if self._codes is not None:
            draw = self._codes.draw(rows, lambda places, codes: decoder.sample(logits[places], coupling=codes))
        else:
            draw = decoder.sample(logits, seed=self.seeds[rows], position=position)
        self._decode_seconds[position] += perf_counter() - begin
        self._rows[position] += len(rows)
        tokens = np.asarray(draw.tokens, dtype=np.int64).reshape(len(rows))
        self._tokens[rows, position] = tokens
        self._log_probs[rows, position] = np.asarray(draw.log_probs).reshape(len(rows))
        self._lengths[rows] += 1
        if self._entropies is not None:
            self._entropies[rows, position] = np.asarray(decoder(logits).entropy).reshape(len(rows))
        return tokens

    def finish(self, rows: Int64, ended: npt.NDArray[np.bool_], *, last: bool) -> None:
        """Note the sequences that drew ``<eos>``; on the last step those cut short are done too."""
        self._finished[rows[ended]] = True
        self._done += len(rows) if last else int(ended.sum())
        if self._progress is not None:
            self._progress(self._done, len(self.seeds))

    def result(self, samples: int, decode: Callable[[Int64], str]) -> Generation:
        """Everything, cut to the longest sequence."""
        steps = int(self._lengths.max(initial=0))
        tokens = self._tokens[:, :steps]
        return Generation(
            tokens=tokens,
            log_probs=self._log_probs[:, :steps],
            lengths=self._lengths,
            finished=self._finished,
            text=tuple(decode(row[:length]) for row, length in zip(tokens, self._lengths, strict=True)),
            samples=samples,
            entropies=None if self._entropies is None else self._entropies[:, :steps],
            prefill_seconds=self.prefill_seconds,
            model_seconds=self.model_seconds[:steps],
            decode_seconds=self._decode_seconds[:steps],
            rows=self._rows[:steps],
        )


def _require(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"The embedded model needs {name}, which cannot be imported ({error}). pip install 'optdecode[demo]'"
        ) from error


def _seeds(seed: int | npt.ArrayLike, prompts: int, samples: int) -> UInt64:
    """One seed per sequence, flat."""
    if np.ndim(seed) == 0:
        from optdecode import row_seeds  # here, so that this module can be imported while the package is

        return np.asarray(row_seeds(int(np.asarray(seed).item()), prompts * samples), dtype=np.uint64)
    seeds = np.asarray(seed).reshape(-1)
    if seeds.size != prompts * samples or seeds.dtype.kind not in "ui":
        raise ValueError(
            f"seed must be an integer or {prompts} x {samples} integers, one per prompt and sample; got an array of "
            f"shape {np.shape(seed)} and type {seeds.dtype}."
        )
    return seeds.astype(np.uint64)


def _chunks(lengths: Sequence[int], samples: int, batch_size: int) -> Iterator[Int64]:
    """Split the sequences into batches of similar prompt lengths: little padding, and samples of a prompt together."""
    by_length = np.repeat(np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable"), samples) * samples
    rows = by_length + np.tile(np.arange(samples), len(lengths))
    for _, group in groupby(range(len(rows)), key=lambda i: i // batch_size):
        yield np.sort(rows[list(group)])
