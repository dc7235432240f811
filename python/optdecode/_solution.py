"""What a decoder returns: the distribution with its certificate, or the tokens drawn from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._status import Status
from optdecode._tensor_inputs import AnyRows
from optdecode.errors import ConvergenceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optdecode._certificate import Certificate
    from optdecode._codes import ArithmeticCodes
    from optdecode._plan import Plan
    from optdecode.backends import Drawn, Solved
    from optdecode.regularizers.calls import Failures

_ROWS_NAMED = 4
_LAST_SOLVED = int(Status.REDUCED_ACCURACY)  # an enumeration is slow to compare with an array


class Solution:
    """The distributions a decoder chose for a batch of rows.

    Arrays have the batch shape of the logits (``(...)``) or ``(..., V)`` and live where the logits lived. Rows whose
    `status` is not solved hold NaN.

    Attributes
    ----------
    probs, log_probs : array, shape (..., V)
        q and log q (nats; −inf off the support); float32, or float64 for float64 logits.
    support : bool array, shape (..., V)
        Tokens with q > 0, decided in log space (q may underflow there, log q does not).
    support_size : int64 array, shape (...)
        Number of such tokens.
    threshold : float64 array, shape (...)
        The dual value eta, common to ``s_i - dOmega/dq_i`` on the support.
    objective : float64 array, shape (...)
        Value of the problem at q.
    entropy, kl : float64 array, shape (...)
        Of q; of q against the anchor, else against the model distribution p. Nats.
    kept_mass : float64 array, shape (...)
        Model mass of the support.
    multiplier : float64 array, shape (...)
        What multiplies the whole regularizer: 1 unless an `Entropy` or a `Divergence` target chose it.
    iterations : int64 array, shape (...)
        Steps of the outer root find or of mirror ascent (as many as a row took); 0 for closed forms.
    status : Status, or int64 array of shape (...)
        What became of each row.
    backend : str
        Which backend ran.
    """

    def __init__(self, plan: Plan, rows: AnyRows, solved: Solved, backend: str, draw: Callable[..., Draw]) -> None:
        self._plan = plan
        self._rows = rows
        self._solved = solved
        self._draw = draw
        self.backend = backend

    @property
    def probs(self) -> Any:
        """q, shape (..., V)."""
        return self._rows.restore(self._solved.probs)

    @property
    def log_probs(self) -> Any:
        """Log q in nats, shape (..., V); −inf off the support."""
        return self._rows.restore(self._solved.log_probs)

    @property
    def support(self) -> Any:
        """Tokens with q > 0, bool, shape (..., V)."""
        return self._rows.restore(self._solved.log_probs > -np.inf)

    @property
    def support_size(self) -> Any:
        """Number of tokens with q > 0, shape (...)."""
        return self._rows.restore((self._solved.log_probs > -np.inf).sum(axis=1))

    @property
    def threshold(self) -> Any:
        """The dual value eta, shape (...)."""
        return self._rows.restore(self._solved.threshold)

    @property
    def objective(self) -> Any:
        """Value of the problem at q, shape (...)."""
        return self._rows.restore(self._solved.objective)

    @property
    def entropy(self) -> Any:
        """Entropy of q in nats, shape (...)."""
        return self._rows.restore(self._solved.entropy)

    @property
    def kl(self) -> Any:
        """KL(q || anchor), or KL(q || p) where there is no anchor; nats, shape (...)."""
        return self._rows.restore(self._solved.kl)

    @property
    def kept_mass(self) -> Any:
        """Model mass of the support, shape (...)."""
        return self._rows.restore(self._solved.kept_mass)

    @property
    def multiplier(self) -> Any:
        """What multiplies the whole regularizer, shape (...); 1 unless a target chose it."""
        return self._rows.restore(self._solved.multiplier)

    @property
    def iterations(self) -> Any:
        """Iterations of the solver, shape (...)."""
        return self._rows.restore(self._rows.integers(self._solved.iterations))

    @property
    def status(self) -> Any:
        """What became of each row: a `Status` for one row, int64 codes of shape (...) for a batch."""
        rows, codes = self._rows, self._solved.status
        return Status(int(codes[0])) if rows.shape == () else rows.restore(rows.integers(codes))

    def certificate(self) -> Certificate:
        """Recompute, in float64 and from the returned arrays alone, how far q can be from optimal.

        Returns
        -------
        Certificate
            ``gap`` bounds from above what any distribution of the feasible set could gain over q.
        """
        from optdecode._certificate import certify  # here: `import optdecode` should not pay for it

        rows, solved = self._rows, self._solved
        return certify(
            self._plan,
            rows.widened(),
            mask=rows.host(rows.mask),
            anchor=rows.host(rows.anchor),
            weights=rows.host(rows.weights),
            budget=rows.host(rows.budget),
            log_probs=rows.host(solved.log_probs),
            face=rows.host(solved.face),
            threshold=rows.host(solved.threshold),
            status=rows.host(solved.status),
            multiplier=rows.host(solved.multiplier),
            shape=rows.shape,
        )

    def sample(
        self,
        seed: Any = None,
        position: Any = 0,
        n: int = 1,
        coupling: str | ArithmeticCodes = "iid",
        model_log_probs: bool = False,
        top_log_probs: int = 0,
    ) -> Draw:
        """Draw from the solved distributions: the tokens that ``decoder.sample(logits, ...)`` draws.

        Parameters
        ----------
        seed, position, n, coupling, model_log_probs, top_log_probs
            As in `Decoder.sample`.

        Returns
        -------
        Draw
            Bad rows are marked with token −1.
        """
        return self._draw(seed, position, n, coupling, model_log_probs, top_log_probs)

    def __repr__(self) -> str:
        sizes = (self._rows.host(self._solved.log_probs) > -np.inf).sum(axis=1)
        codes, counts = np.unique(self._rows.host(self._solved.status), return_counts=True)
        statuses = ", ".join(f"{Status(int(code)).name} x {count}" for code, count in zip(codes, counts, strict=True))
        shape = (*self._rows.shape, self._rows.vocabulary)
        spread = f"{sizes.min()}..{sizes.max()}" if sizes.size else "none"
        kind = self._plan.kind.name
        return f"<Solution {kind} shape={shape} support={spread} status=[{statuses}] backend={self.backend}>"


@dataclass(frozen=True, init=False)
class Draw:
    """Tokens drawn from a batch of distributions.

    Attributes
    ----------
    tokens : int64 array, shape (..., n)
        Token ids; −1 on rows without a distribution, and where a row has fewer distinct tokens than were asked for.
    log_probs : float array, shape (..., n)
        Log q of the tokens in nats; float32, or float64 for float64 logits; NaN on such rows.
    status : Status, or int64 array of shape (...)
        What became of each row; of a single row on another device than the CPU its code, a tensor of shape ().
    backend : str
        Which backend ran.
    model_log_probs : float array, shape (..., n), optional
        Log p of the tokens, p the model distribution that supports are measured on (that of the tempered logits of the
        allowed tokens); None unless asked for.
    top_tokens : int64 array, shape (..., m), optional
        The m best tokens by (score descending, token id ascending), −1 past the number of allowed ones; None unless
        asked for.
    top_log_probs : float array, shape (..., m), optional
        Log p of these, −inf past the number of allowed ones; NaN on rows without a distribution.
    log_inclusion : float array, shape (..., n), optional
        With ``coupling="gumbel_topk"``: log of the probability that a token is among the n drawn, given the (n + 1)-th
        largest perturbed log-probability. The sum of f(v) q_v / inclusion_v over the tokens drawn is an unbiased
        estimate of the mean of f under q (arXiv:1903.06059).
    """

    tokens: Any
    log_probs: Any
    status: Any
    backend: str
    model_log_probs: Any = None
    top_tokens: Any = None
    top_log_probs: Any = None
    log_inclusion: Any = None

    def __init__(
        self,
        tokens: Any,
        log_probs: Any,
        status: Any,
        backend: str,
        model_log_probs: Any = None,
        top_tokens: Any = None,
        top_log_probs: Any = None,
        log_inclusion: Any = None,
    ) -> None:
        # The one that `dataclass` writes goes through `object.__setattr__`, which costs more than drawing a token.
        fields = self.__dict__
        fields["tokens"] = tokens
        fields["log_probs"] = log_probs
        fields["status"] = status
        fields["backend"] = backend
        if model_log_probs is not None:
            fields["model_log_probs"] = model_log_probs
        if top_tokens is not None:
            fields["top_tokens"], fields["top_log_probs"] = top_tokens, top_log_probs
        if log_inclusion is not None:
            fields["log_inclusion"] = log_inclusion


def make_draw(rows: AnyRows, drawn: Drawn, backend: str) -> Draw:
    """Give drawn arrays the caller's shape and type."""
    tokens, log_probs = rows.restore(drawn.tokens), rows.restore(rows.narrowed(drawn.log_probs))
    draw = Draw(tokens, log_probs, rows.status_now(drawn.status), backend)
    if drawn.log_inclusion is None:
        return draw
    return replace(draw, log_inclusion=rows.restore(rows.narrowed(drawn.log_inclusion)))


def with_model(draw: Draw, rows: AnyRows, answer: tuple[NDArray[Any], ...], m: int) -> Draw:
    """Return a draw with what a backend said of the model: log p of the tokens and, if m > 0, the m best."""
    log_probs, top_tokens, top_log_probs = answer
    of_tokens = {"model_log_probs": rows.restore(rows.narrowed(log_probs))} if log_probs.shape[1] else {}
    of_best = {"top_tokens": rows.restore(top_tokens), "top_log_probs": rows.restore(rows.narrowed(top_log_probs))}
    return replace(draw, **of_tokens, **(of_best if m else {}))


def raise_on_failure(codes: NDArray[Any], result: Any, failures: Failures | None = None) -> None:
    """Raise a ConvergenceError that names the first bad rows, if there are any."""
    bad = np.flatnonzero(codes > _LAST_SOLVED)
    if not bad.size:
        return
    failures = failures or {}
    named = [_failure(int(row), int(codes[row]), failures) for row in bad[:_ROWS_NAMED]]
    more = f"; and {bad.size - _ROWS_NAMED} more" if bad.size > _ROWS_NAMED else ""
    raise ConvergenceError(
        f"{bad.size} of {codes.size} rows have no solution: {'; '.join(named)}{more}. "
        'Pass on_failure="mark" to keep the healthy rows.',
        result=result,
    ) from next((failure.cause for failure in failures.values() if failure.cause is not None), None)


def _failure(row: int, code: int, failures: Failures) -> str:
    reason = failures[row].reason if row in failures else Status(code).meaning
    return f"row {row}: {Status(code).name} ({reason})"
