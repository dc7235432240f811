"""What tests of decoders need: checks of a regularizer of one's own, and assertions about solutions.

Nothing here is imported by ``import optdecode``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import _checks as checks
from optdecode._lowering import check_own
from optdecode._solution import Solution
from optdecode._spec import check_usable, positive_int
from optdecode.errors import BackendUnavailableError, ConvergenceError, ProblemError
from optdecode.regularizers import Context, Regularizer, Terms, is_own
from optdecode.regularizers.calls import Evaluation, Failures, call, evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Report", "assert_on_simplex", "assert_optimal", "check_regularizer", "rows"]

#: Dirichlet concentrations of the points: nearly vertices, uniform over the simplex, nearly uniform distributions.
_CONCENTRATIONS = (0.05, 0.3, 1.0, 10.0)
_SAME = 1e-9


@dataclass(frozen=True)
class Report:
    """What `check_regularizer` looked at without finding a mistake.

    Attributes
    ----------
    regularizer : Regularizer
        What was checked.
    points : int
        Distributions at which value and gradient were compared.
    pairs : int
        Pairs of distributions between which convexity was tested.
    vocabulary, rows : int
        Shape of the batches.
    """

    regularizer: Regularizer
    points: int
    pairs: int
    vocabulary: int
    rows: int


def check_regularizer(regularizer: Regularizer, *, vocabulary: int = 50, rows: int = 8, seed: int = 0) -> Report:
    """Look for the usual mistakes in a regularizer: what the solver checks, on random points, and more.

    Types and shapes of what is returned, NaN and infinities inside the simplex, the gradient against differences of
    the value, convexity between random points, and that every row is treated for itself, whatever the batch. With a
    `gradient_inverse`, that it inverts the gradient.

    Parameters
    ----------
    regularizer : Regularizer
        Of one's own or built in; sums too, which need only be convex as a whole.
    vocabulary : int
        V, at least 2. Pass that of the model if the regularizer has parameters of that length.
    rows : int
        B.
    seed : int
        Of the random points.

    Returns
    -------
    Report
        How much was looked at.

    Raises
    ------
    ConvergenceError
        Something is wrong; the message says what, where, and both numbers where two were compared.
    ProblemError
        It is no regularizer, no frozen dataclass, or lacks a method.

    Examples
    --------
    >>> import optdecode as od
    >>> from optdecode.testing import check_regularizer
    >>> check_regularizer(od.KL() - 0.1 * od.Coverage(4)).points
    32
    >>> check_regularizer(-1.0 * od.Quadratic())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    optdecode.errors.ConvergenceError: row 0: -1.0 * Quadratic() is not convex: on the way from tokens ...
    """
    if not isinstance(regularizer, Regularizer):
        raise ProblemError(f"check_regularizer: expected a Regularizer; got {regularizer!r}")
    vocabulary = positive_int("check_regularizer", "vocabulary", vocabulary)
    rows = positive_int("check_regularizer", "rows", rows)
    if vocabulary < 2:
        raise ProblemError("check_regularizer: vocabulary must be >= 2; a single token has one distribution")
    for _, term in regularizer.terms():
        check_usable(term)
        if is_own(term):
            check_own(term)
    rng = np.random.default_rng(seed)
    ctx = _random_context(rng, rows, vocabulary)
    terms, batches = regularizer.terms(), [_random_points(rng, ctx.allowed, a) for a in _CONCENTRATIONS]
    found = [_evaluated(terms, q, ctx) for q in batches]
    for q, point in zip(batches, found, strict=True):
        _check_rows_alone(terms, q, ctx, point)
        failures: Failures = {}
        targets = (checks.uniform_on(ctx.allowed), checks.scattered_on(ctx.allowed), np.roll(batches, 1, axis=0)[0])
        checks.around(terms, q, ctx, targets, failures)
        _raise_first(failures)
    batches += [checks.near(q) for q in batches]
    found += [_evaluated(terms, q, ctx) for q in batches[len(found) :]]
    pairs = [(i, j) for i in range(len(batches)) for j in range(i)]
    for i, j in pairs:
        failures = {}
        values, slopes = (found[i].value, found[j].value), (found[i].gradient, found[j].gradient)
        checks.between(values, slopes, batches[j] - batches[i], ctx.rows, failures, repr(regularizer))
        _raise_first(failures)
    for _, term in terms:
        if hasattr(term, "gradient_inverse"):
            _check_inverse(term, batches[2], ctx)
    return Report(regularizer, len(_CONCENTRATIONS) * rows, len(pairs) * rows, vocabulary, rows)


def _random_context(rng: np.random.Generator, count: int, size: int) -> Context:
    allowed = rng.random((count, size)) < 0.8
    allowed[:, :2] = True
    scores = np.where(allowed, rng.normal(size=(count, size)) * rng.choice([0.5, 2.0, 5.0], (count, 1)), -np.inf)
    log_p, log_anchor = (
        values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        for values in (scores, np.where(allowed, rng.normal(size=(count, size)), -np.inf))
    )
    return Context(scores, log_p, log_anchor, allowed, np.arange(count))


def _random_points(rng: np.random.Generator, allowed: NDArray[np.bool_], concentration: float) -> NDArray[np.float64]:
    weights = np.where(allowed, rng.gamma(concentration, size=allowed.shape) + 1e-12, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _evaluated(terms: Terms, q: NDArray[np.float64], ctx: Context) -> Evaluation:
    failures: Failures = {}
    found = evaluate(terms, q, ctx, failures)
    _raise_first(failures)
    for b in np.flatnonzero(~(np.isfinite(found.value) & np.isfinite(found.gradient).all(axis=1))):
        raise ConvergenceError(
            f"row {b}: value and gradient must be finite where all allowed tokens have probability; the value is "
            f"{found.value[b]:g}, the gradient {found.gradient[b].min():g} to {found.gradient[b].max():g}"
        )
    return found


def _check_rows_alone(terms: Terms, q: NDArray[np.float64], ctx: Context, batched: Evaluation) -> None:
    for b in range(q.shape[0]):
        index = np.array([b])
        alone = _evaluated(terms, q[index], ctx.take(index))
        for name, one, all_rows in (
            ("value", alone.value[0], batched.value[b]),
            ("gradient", alone.gradient[0], batched.gradient[b]),
        ):
            difference = float(np.abs(one - all_rows).max())
            if difference > _SAME * max(1.0, float(np.abs(all_rows).max())):
                raise ConvergenceError(
                    f"row {b}: the {name} depends on the other rows of the batch: alone it differs by {difference:g}"
                )


def _check_inverse(term: Regularizer, q: NDArray[np.float64], ctx: Context) -> None:
    failures: Failures = {}
    slope = call(term, "gradient", q, ctx, failures)
    back = call(term, "gradient_inverse", slope, ctx, failures)
    _raise_first(failures)
    wrong = np.argwhere(ctx.allowed & (np.abs(np.clip(back, 0.0, 1.0) - q) > 1e-6 * q + 1e-9))
    for b, token in wrong:
        raise ConvergenceError(
            f"row {b}: {term!r}.gradient_inverse does not invert its gradient: {slope[b, token]:.9g} on token {token} "
            f"comes from {q[b, token]:.9g}, and leads to {back[b, token]:.9g}"
        )


def _raise_first(failures: Failures) -> None:
    for row, failure in sorted(failures.items()):
        raise ConvergenceError(f"row {row}: {failure.reason}") from failure.cause


def assert_on_simplex(probs: Any, atol: float = 1e-6) -> None:
    """Assert that every row is a distribution.

    Parameters
    ----------
    probs : Solution, or array of shape (..., V)
        A solution's probabilities, or probabilities.
    atol : float
        How far a sum may be from 1.

    Raises
    ------
    AssertionError
        Naming the first row that is none.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> assert_on_simplex(od.top_p(0.9)(np.array([[1.0, 2.0, 3.0]])))
    """
    array = np.asarray(probs.probs if isinstance(probs, Solution) else probs, dtype=np.float64)
    for row, q in enumerate(array.reshape(-1, array.shape[-1])):
        assert np.isfinite(q).all(), f"row {row} has NaN or infinite probabilities"
        assert q.min() >= 0.0, f"row {row}: token {int(q.argmin())} has probability {q.min():g}"
        assert abs(q.sum() - 1.0) <= atol, f"row {row} sums to {q.sum():.9g}"


def assert_optimal(solution: Solution, tol: float = 1e-6) -> None:
    """Assert that every row is solved, and its certified gap at most tol times its scale.

    Parameters
    ----------
    solution : Solution
        Of any decoder.
    tol : float
        Largest gap over the scale of the certificate.

    Raises
    ------
    AssertionError
        Naming the first row that is not.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> assert_optimal(od.sparsemax()(np.array([1.0, 0.5, -2.0])))
    """
    certificate = solution.certificate()
    columns = (solution.status, certificate.relative_gap, certificate.simplex_error)
    for row, (status, gap, error) in enumerate(zip(*(np.ravel(np.asarray(c)) for c in columns), strict=True)):
        assert status <= 1, f"row {row} has status {int(status)}"
        assert gap <= tol, f"row {row} has a relative gap of {gap:g}, more than {tol:g}"
        assert error <= max(tol, 1e-5), f"row {row} is off the simplex by {error:g}"


def rows(min_vocabulary: int = 1, max_vocabulary: int = 64) -> Any:
    """Return a hypothesis strategy of rows of logits that break naive solvers.

    Parameters
    ----------
    min_vocabulary, max_vocabulary : int
        Bounds of V.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        float64 arrays of shape (V,): spread, tied, one-hot, forbidden (−inf) and huge logits, at least one finite.

    Raises
    ------
    BackendUnavailableError
        hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError as error:
        raise BackendUnavailableError("optdecode.testing.rows needs hypothesis: pip install hypothesis") from error

    def finite(values: list[float]) -> NDArray[np.float64]:
        row = np.array(values)
        if not np.isfinite(row).any():
            row[0] = 0.0
        return row

    spread = st.floats(-30.0, 30.0)
    tied = st.integers(-2, 2).map(float)
    elements = [spread, tied, st.one_of(tied, st.just(60.0)), st.one_of(spread, st.just(-np.inf)),
                st.sampled_from([1e30, -1e30, 0.0])]  # fmt: skip
    return st.one_of(
        *(st.lists(element, min_size=min_vocabulary, max_size=max_vocabulary).map(finite) for element in elements)
    )
