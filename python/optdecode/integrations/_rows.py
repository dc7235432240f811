"""Draws for the rows of a batch whose token choice is ours: decoders, seeds, couplings, masks and budgets of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optdecode._batch import sample_batch
from optdecode._decoder import Decoder
from optdecode._inputs import read_seeds
from optdecode._solution import Draw, raise_on_failure
from optdecode._spec import one_of, positive_int
from optdecode._status import Status
from optdecode._system import row_seeds
from optdecode.errors import ProblemError, ShapeError
from optdecode.integrations._row_codes import of_rows, row_codes
from optdecode.multisample import prefix_groups

Int64 = npt.NDArray[np.int64]
#: ``mask(tokens, live)``: (B, T) tokens generated so far, (L,) rows still growing -> a mask, (B, ...) or for all rows.
Mask = Callable[[Int64, Int64], Any]


def decoder_list(decoder: Decoder | Sequence[Decoder]) -> list[Decoder]:
    """Return one decoder, or one a prompt, as a list."""
    decoders = [decoder] if isinstance(decoder, Decoder) else list(decoder)
    for index, item in enumerate(decoders):
        if not isinstance(item, Decoder):
            raise ProblemError(f"decoder must be a Decoder or a list of them; item {index} is {item!r}")
    if not decoders:
        raise ProblemError("decoder must be a Decoder or a list of them; got an empty list")
    return decoders


def one_per_row(decoders: list[Decoder], rows: int) -> list[Decoder]:
    """Repeat decoders, one a prompt, for the sequences of each prompt, which are neighbours."""
    each, rest = divmod(rows, len(decoders))
    if rest or not each:
        raise ShapeError(f"decoders must be one, or one a prompt; got {len(decoders)} for {rows} rows")
    return [decoder for decoder in decoders for _ in range(each)]


def token_list(name: str, tokens: int | Sequence[int]) -> list[int]:
    """Return one token id, or several, as a list."""
    found = np.atleast_1d(tokens)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or found.min() < 0:
        raise ProblemError(f"{name} must be a token id or several; got {tokens!r}")
    return [int(token) for token in found]


def warn_of_failures(status: Any, what: str) -> None:
    """Say which rows have no distribution and why, in one warning."""
    bad = np.flatnonzero(np.asarray(status) > Status.REDUCED_ACCURACY)
    if bad.size:
        rows = "; ".join(f"row {row}: {Status(int(status[row])).name}" for row in bad[:5])
        more = f"; and {bad.size - 5} more" if bad.size > 5 else ""
        warnings.warn(f"{what} ({rows}{more})", RuntimeWarning, stacklevel=3)


class Step(NamedTuple):
    """One token of each live row, (L,): −1 and NaN where a row has no distribution."""

    tokens: Int64
    log_probs: npt.NDArray[Any]
    #: A `Status` for each of the B rows.
    status: Int64
    #: (L, V) where asked for; a row without a distribution keeps its logits.
    log_q: Any


class RowDraws:
    """The draws of `rows` sequences, `siblings` of each prompt being neighbours.

    Parameters
    ----------
    decoder : Decoder or sequence of Decoder
        One, or one a prompt (or a sequence).
    rows, siblings : int
        Sequences, and how many of each prompt.
    seed : int or integer array, optional
        A scalar stands for `row_seeds`; an array has one seed a sequence, or, coupled, one a prompt.
    coupling : {"iid", "systematic"}, or ArithmeticCodes, one a prompt
        ``"systematic"``: sibling i of n uses ``frac(u + i / n)`` at each position.
    prefix_budget : bool
        With several siblings, K of a coverage term is the number of live siblings with the same tokens so far.
    mask : callable, optional
        ``mask(tokens, live)``, what is allowed next.
    on_failure : {"raise", "mark"}
        A row without a distribution raises, or draws −1 and is named in a warning.
    """

    def __init__(
        self,
        decoder: Decoder | Sequence[Decoder],
        rows: int,
        siblings: int = 1,
        *,
        seed: Any = None,
        coupling: Any = "iid",
        prefix_budget: bool = True,
        mask: Mask | None = None,
        on_failure: str = "raise",
    ) -> None:
        self._decoders = one_per_row(decoder_list(decoder), rows)
        self._siblings = positive_int("generate", "siblings", siblings)
        prompts, rest = divmod(rows, siblings)
        if rest:
            raise ShapeError(f"{rows} rows are no whole number of groups of {siblings}")
        self._prompt, self._sibling = np.divmod(np.arange(rows), siblings)
        self._codes = row_codes(coupling, prompts, siblings, seed)
        coupling = "iid" if self._codes else one_of("generate", "coupling", coupling, ("iid", "systematic"))
        self._systematic = coupling == "systematic"
        self._mark = one_of("generate", "on_failure", on_failure, ("raise", "mark")) == "mark"
        if mask is not None and not callable(mask):
            raise ProblemError(f"mask must be a callable, mask(tokens, live); got {type(mask).__name__}")
        self._mask = mask
        if self._systematic:
            self._seeds = read_seeds(seed, (prompts,), row_seeds)[self._prompt]
        else:
            self._seeds = read_seeds(seed, (prompts, siblings), row_seeds)
        coverage = any(one.plan.has_coverage for one in self._decoders)
        self._prefix_budget = prefix_budget and siblings > 1 and coverage

    def draw(self, logits: Any, live: Int64, tokens: Int64, log_q: bool = False) -> Step:
        """Draw the next token of the rows `live`.

        Parameters
        ----------
        logits : array or CPU tensor, shape (L, V)
            Of the rows `live` alone.
        live : int64 array, shape (L,)
            Rows that still grow, ascending.
        tokens : int64 array, shape (B, T)
            What all rows generated so far; the draw's position is T.
        log_q : bool
            Also solve for the whole distributions.

        Returns
        -------
        Step
            The tokens and what goes with them.
        """
        given = self._arguments(live, tokens)
        decoders = [self._decoders[row] for row in live]
        drawn = self._draw(decoders, logits, live, tokens.shape[1], given)
        own = np.arange(len(live)), self._sibling[live] if self._systematic else 0
        status = np.zeros(tokens.shape[0], dtype=np.int64)
        status[live] = np.asarray(drawn.status)
        if not self._mark:
            raise_on_failure(status, drawn)
        warn_of_failures(status, f"position {tokens.shape[1]}: rows without a distribution end here")
        return Step(
            np.asarray(drawn.tokens)[own],
            np.asarray(drawn.log_probs)[own],
            status,
            _log_q(decoders, logits, given) if log_q else None,
        )

    def _draw(self, decoders: list[Decoder], logits: Any, live: Int64, position: int, given: dict[str, Any]) -> Draw:
        if self._codes is not None:

            def of_prompt(places: Int64, codes: Any) -> Draw:
                own, part = [decoders[place] for place in places], of_rows(given, places)
                return sample_batch(own, logits[places], coupling=codes, threads=1, **part)

            return self._codes.draw(live, of_prompt)
        count, coupling = (self._siblings, "systematic") if self._systematic else (1, "iid")
        seeds = self._seeds[live]
        return sample_batch(decoders, logits, seeds, position, n=count, coupling=coupling, threads=1, **given)

    def _arguments(self, live: Int64, tokens: Int64) -> dict[str, Any]:
        """What this step adds to the logits: the mask and the budgets of the rows `live`."""
        arguments: dict[str, Any] = {}
        if self._mask is not None:
            mask = self._mask(tokens, live)
            if mask is not None:
                arguments["mask"] = mask if mask.ndim < 2 else mask[live]
        if self._prefix_budget:
            alive = np.zeros(len(tokens), dtype=bool)
            alive[live] = True
            prefixes = np.column_stack([self._prompt, tokens])
            arguments["budget"] = prefix_groups(prefixes, prefixes.shape[1], alive)[live]
        return arguments


def _log_q(decoders: list[Decoder], logits: Any, given: dict[str, Any]) -> Any:
    """Return log q of every row, (L, V), from what its draw was made of."""
    result = logits.clone() if hasattr(logits, "clone") else np.array(logits)
    for index, decoder in enumerate(decoders):
        own = of_rows(given, index)
        if not decoder.plan.has_coverage:
            own.pop("budget", None)
        solution = decoder(logits[index], threads=1, on_failure="mark", **own)
        if solution.status.is_solved:
            result[index] = solution.log_probs
    return result
