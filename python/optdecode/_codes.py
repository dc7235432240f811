"""Arithmetic codes: whole sequences of one prompt, coupled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import _core, backends
from optdecode._inputs import fresh_seed
from optdecode._plan import Plan
from optdecode._spec import positive_int
from optdecode._tensor_inputs import AnyRows
from optdecode.errors import DTypeError, ProblemError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optdecode.backends import Drawn

_SEED_BOUND = 1 << 64


class ArithmeticCodes:
    """The state of n sequences of one prompt that arithmetic sampling (arXiv:2210.15458) couples.

    ``decoder.sample(logits, coupling=codes)`` with logits (n, V), row i being those of sequence i, draws one token of
    each sequence and moves the codes on. Each sequence alone has the law that independent draws give it, exactly;
    together they are spread over the sequences: one of probability P appears with probability min(1, n P), as
    ``"systematic"`` does for tokens.

    Parameters
    ----------
    n : int
        Sequences.
    seed : int, optional
        In [0, 2**64). None takes fresh entropy, which `seed` then holds.

    Attributes
    ----------
    n : int
        Sequences, those that `take` left out included.
    seed : int
        The seed.
    sequences : int64 array, shape (m,)
        Which of the n sequences these are; each call of `sample` needs a row of logits for each of them, in this order.
    codes : uint64 array, shape (m,)
        Their codes: the uniforms of their next tokens. Copies; only draws change the state.
    steps : int64 array, shape (m,)
        Tokens drawn of each.

    Raises
    ------
    ProblemError
        ``n`` or ``seed`` is out of range.

    Notes
    -----
    Sequence i starts at the code ``frac(u + i / n)``, u being the uniform of seed at position 0, so that the first
    tokens are those of ``coupling="systematic"`` there. A token owns an interval of codes, in token-index order; the
    next code is the place inside it, expanded to 64 bits, with fresh low bits of Philox4x32-10 (key = seed,
    counter = (step lo, step hi, sequence, 3)). So the code is uniform given all tokens so far, and does not run out of
    bits however long a sequence gets. A row without a distribution draws −1 and leaves its code and its step as they
    were; a call that raises leaves all.

    The sequences depend on one another: estimators over independent samples, such as pass@k and the share of a majority
    vote for k < n, are biased within them. One such group is one replicate: make several, with seeds of their own.

    An object belongs to one loop; calls on it from several threads at once need a lock.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> codes = od.ArithmeticCodes(4, seed=1)
    >>> logits = np.zeros((4, 8))
    >>> od.softmax().sample(logits, coupling=codes).tokens.ravel()  # 8 equal tokens: every second one
    array([7, 1, 3, 5])
    >>> od.softmax().sample(logits[:2], coupling=codes.take([0, 3])).tokens.shape  # sequences 1 and 2 have ended
    (2, 1)
    >>> codes.steps
    array([2, 1, 1, 2])
    """

    def __init__(self, n: int, seed: int | None = None) -> None:
        count = positive_int("ArithmeticCodes", "n", n)
        self._seed = fresh_seed() if seed is None else _seed(seed)
        self._codes: NDArray[Any] = _core.first_codes(self._seed, count)
        self._steps: NDArray[Any] = np.zeros(count, dtype=np.uint64)
        self._sequences: NDArray[Any] = np.arange(count, dtype=np.uint32)

    @property
    def n(self) -> int:
        """Sequences, those that `take` left out included."""
        return self._codes.size

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    @property
    def sequences(self) -> NDArray[Any]:
        """Which of the n sequences these are, int64, shape (m,)."""
        return self._sequences.astype(np.int64)

    @property
    def codes(self) -> NDArray[Any]:
        """The uniforms of their next tokens, uint64, shape (m,); a copy."""
        return np.asarray(self._codes[self._sequences])

    @property
    def steps(self) -> NDArray[Any]:
        """Tokens drawn of each, int64, shape (m,); a copy."""
        return np.asarray(self._steps[self._sequences], dtype=np.int64)

    def take(self, places: Any) -> ArithmeticCodes:
        """Return some of these sequences as a view: what is drawn with it moves this object on, too.

        Parameters
        ----------
        places : integer array, shape (k,), or bool array, shape (m,)
            Which, as `numpy.take` or as a flag for each; none twice.

        Returns
        -------
        ArithmeticCodes
            On the same state.

        Raises
        ------
        ProblemError, DTypeError, ShapeError
            ``places`` are not such.

        Examples
        --------
        >>> import optdecode as od
        >>> od.ArithmeticCodes(4, seed=1).take([True, False, False, True])
        ArithmeticCodes(4, seed=1).take([0, 3])
        """
        chosen = _places(places, self._sequences.size)
        part = object.__new__(ArithmeticCodes)
        part._seed, part._codes, part._steps = self._seed, self._codes, self._steps
        part._sequences = self._sequences[chosen]
        return part

    def copy(self) -> ArithmeticCodes:
        """Return these sequences with a state of their own, as it is now.

        Returns
        -------
        ArithmeticCodes
            Draws what this object would draw next.
        """
        twin = self.take(np.arange(self._sequences.size))
        twin._codes, twin._steps = self._codes.copy(), self._steps.copy()
        return twin

    __copy__ = copy

    def __len__(self) -> int:
        """Sequences that a call draws for, m."""
        return self._sequences.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArithmeticCodes):
            return NotImplemented
        mine, others = ((codes.sequences, codes.codes, codes.steps) for codes in (self, other))
        return (self.n, self.seed) == (other.n, other.seed) and all(map(np.array_equal, mine, others))

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        part = "" if len(self) == self.n else f".take({self._sequences.tolist()})"
        made = f"ArithmeticCodes({self.n}, seed={self._seed}){part}"
        steps = self.steps
        if not steps.any():
            return made
        return f"<{made} after {steps.min()}..{steps.max()} tokens>"


def draw_codes(
    codes: ArithmeticCodes, plans: list[Plan], rows: AnyRows, backend: str, threads: int
) -> tuple[str, Drawn, Callable[[], None]]:
    """Draw one token of each sequence.

    Returns
    -------
    tuple
        The backend's name, what it drew, and what moves the codes on behind it: to be called if nothing raises.
    """
    sequences = codes._sequences
    if rows.shape != (sequences.size,):
        got = (*rows.shape, rows.vocabulary)
        raise ShapeError(
            f"sample: logits must be (n, V), a row for each of the n = {sequences.size} sequences of the "
            f"ArithmeticCodes; got {got}. codes.take(places) draws for some of them"
        )
    state = (codes._codes[sequences], codes._steps[sequences])
    name, drawn, *after = backends.sample_codes(plans, rows, codes._seed, sequences, *state, backend, threads)

    def move_on() -> None:
        codes._codes[sequences], codes._steps[sequences] = after

    return name, drawn, move_on


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ProblemError(f"ArithmeticCodes: seed must be an integer in [0, 2**64) or None; got {seed!r}")
    number = int(seed.__index__())
    if not 0 <= number < _SEED_BOUND:
        raise ProblemError(f"ArithmeticCodes: seed must be in [0, 2**64); got {seed!r}")
    return number


def _places(places: Any, count: int) -> NDArray[Any]:
    """Return which of `count` sequences are meant, as integers."""
    array = np.asarray(places)
    if array.ndim != 1:
        raise ShapeError(f"take: places must be one-dimensional; got shape {array.shape}")
    if array.dtype == np.bool_:
        if array.size != count:
            raise ShapeError(f"take: flags must be one for each of the {count} sequences; got {array.size}")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu" and array.size:
        raise DTypeError(f"take: places must be integers or flags; got {array.dtype}")
    bad = [place for place in array.tolist() if not 0 <= place < count]
    if bad:
        raise ProblemError(f"take: places must be in [0, {count}); got {bad[0]:g}")
    if np.unique(array).size < array.size:
        raise ProblemError("take: no place may come twice: a sequence has one code")
    return array.astype(np.int64)
