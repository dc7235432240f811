"""Arithmetic codes in loops over sequences of several prompts: codes for each prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optdecode._codes import ArithmeticCodes
from optdecode._solution import Draw
from optdecode.errors import ProblemError, ShapeError

Int64 = npt.NDArray[np.int64]


class RowCodes:
    """The codes of rows ``prompt * siblings + sibling``.

    Parameters
    ----------
    codes : list of ArithmeticCodes
        One a prompt, each of `siblings` sequences.
    prompts, siblings : int
        Prompts, and sequences of each.
    seed : object
        What the caller was given beside them: None, as codes have seeds.

    Raises
    ------
    ProblemError, ShapeError
        The codes do not fit.
    """

    def __init__(self, codes: list[ArithmeticCodes], prompts: int, siblings: int, seed: Any) -> None:
        if seed is not None:
            raise ProblemError(f"seed= cannot be given beside ArithmeticCodes, which have seeds; got {seed!r}")
        sizes = [len(one) for one in codes]
        if sizes != [siblings] * prompts:
            raise ShapeError(
                f"coupling: one ArithmeticCodes for each of the {prompts} prompts, of {siblings} sequences; "
                f"got {len(codes)}, of {sizes}"
            )
        self._codes, self._siblings = codes, siblings

    def draw(self, rows: Int64, sample: Callable[[Int64, ArithmeticCodes], Draw]) -> Draw:
        """Draw one token of each of `rows`, prompt by prompt.

        Parameters
        ----------
        rows : int64 array, shape (L,)
            Which rows.
        sample : callable
            ``sample(places, codes)`` draws for the places in `rows` that belong to one prompt.

        Returns
        -------
        Draw
            ``tokens`` and ``log_probs`` (L, 1), ``status`` (L,), NumPy.
        """
        prompt, sibling = np.divmod(rows, self._siblings)
        tokens = np.full((len(rows), 1), -1, dtype=np.int64)
        log_probs, status, backend = np.full(tokens.shape, np.nan), np.zeros(len(rows), dtype=np.int64), ""
        for one in np.unique(prompt):
            places = np.flatnonzero(prompt == one)
            draw = sample(places, self._codes[one].take(sibling[places]))
            tokens[places], log_probs[places] = np.asarray(draw.tokens), np.asarray(draw.log_probs)
            status[places], backend = np.asarray(draw.status), draw.backend
        return Draw(tokens, log_probs, status, backend)


def row_codes(coupling: Any, prompts: int, siblings: int, seed: Any) -> RowCodes | None:
    """Return the codes that a loop's ``coupling=`` is, one or a sequence of them; None if it is a name."""
    codes = [coupling] if isinstance(coupling, ArithmeticCodes) else coupling
    if isinstance(codes, str) or not isinstance(codes, Sequence):
        return None
    for index, one in enumerate(codes):
        if not isinstance(one, ArithmeticCodes):
            raise ProblemError(f"coupling: a list must hold ArithmeticCodes, one a prompt; item {index} is {one!r}")
    return RowCodes(list(codes), prompts, siblings, seed)


def of_rows(given: dict[str, Any], rows: Any) -> dict[str, Any]:
    """Return what some rows, or one, have of the arguments of a batch; a mask may be one for all."""
    return {name: value if value.ndim < 2 and name == "mask" else value[rows] for name, value in given.items()}
