"""Calling code of the caller's own: regularizers and supports, in NumPy or torch, with every answer looked at.

A batch whose call fails is called again row by row, so that one row's failure stays with that row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode.errors import BackendUnavailableError
from optdecode.regularizers.base import Context, Regularizer, Terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optdecode.supports import Support


@dataclass(frozen=True, eq=False)
class Failure:
    """Why a row has no solution: a clause that says so, and the exception that the caller's code raised, if it did."""

    reason: str
    cause: BaseException | None = None


#: Failures by their row in the batch of the call.
Failures = dict[int, Failure]


class _BadAnswerError(Exception):
    """The answer has the wrong type or shape."""


@dataclass(eq=False)
class Evaluation:
    """Values (B,) and gradients (B, V) of a sum of terms; NaN on rows that are in `failures`."""

    value: NDArray[Any]
    gradient: NDArray[Any]


def evaluate(terms: Terms, q: NDArray[Any], ctx: Context, failures: Failures) -> Evaluation:
    """Return value and gradient of a sum of terms.

    Parameters
    ----------
    terms : tuple of (float, Regularizer)
        Coefficients and terms.
    q : float64 array, shape (B, V)
        Distributions; the callees cannot write to it.
    ctx : Context
        Its ``rows`` name the rows in messages and in `failures`.
    failures : dict
        Gets the rows whose answers are NaN, of a wrong type or shape, or exceptions. Infinities pass.

    Returns
    -------
    Evaluation
        The gradient is 0 on tokens that are not allowed.
    """
    value, gradient = np.zeros(q.shape[0]), np.zeros(q.shape)
    for coefficient, term in terms:
        with np.errstate(all="ignore"):
            value += coefficient * call(term, "value", q, ctx, failures)
            slope = call(term, "gradient", q, ctx, failures)
            gradient += np.where(ctx.allowed, coefficient * slope, 0.0)
    return Evaluation(value, gradient)


def call(term: Any, method: str, q: NDArray[Any] | None, ctx: Context, failures: Failures) -> NDArray[Any]:
    """Call one method of a term or of a support on a batch.

    Parameters
    ----------
    term : Regularizer or Support
        Whose method it is.
    method : {"value", "gradient", "gradient_inverse", "keep"}
        Which.
    q : float64 array, shape (B, V), optional
        The first argument; None where there is none but the context.
    ctx : Context
        The last argument.
    failures : dict
        As in `evaluate`.

    Returns
    -------
    array, shape (B,) for ``"value"``, else (B, V)
        float64, or bool for ``"keep"``. NaN, or False, on rows that failed.
    """
    try:
        answer = _answer(term, method, q, ctx)
    except BackendUnavailableError:
        raise
    except Exception as error:  # whatever the caller's code raises
        answer = _row_by_row(term, method, q, ctx, failures, error)
    if method == "keep":
        return answer
    bad = np.isnan(answer) if method == "value" else np.isnan(answer) & ctx.allowed
    for b in np.flatnonzero(bad if method == "value" else bad.any(axis=1)):
        row = int(ctx.rows[b])
        if row not in failures:
            where = ""
            if method != "value" and q is not None:
                token = int(np.argmax(bad[b]))
                where = f" for token {token}, where its argument is {q[b, token]:g}"
            failures[row] = Failure(f"{term!r}.{method} returned NaN{where}")
    return answer


def _row_by_row(
    term: Any, method: str, q: NDArray[Any] | None, ctx: Context, failures: Failures, error: Exception
) -> NDArray[Any]:
    count, size = ctx.log_p.shape
    blank = np.zeros((count, size), dtype=bool) if method == "keep" else np.full((count, size), np.nan)
    answer = blank[:, 0].copy() if method == "value" else blank
    for b in range(count):
        try:
            if count == 1:
                raise error
            answer[b] = _answer(term, method, None if q is None else q[b : b + 1], ctx.take(np.array([b])))[0]
        except _BadAnswerError as wrong:
            failures.setdefault(int(ctx.rows[b]), Failure(str(wrong)))
        except Exception as raised:
            reason = f"{term!r}.{method} raised {type(raised).__name__}: {raised}"
            failures.setdefault(int(ctx.rows[b]), Failure(reason, raised))
    return answer


def _answer(term: Any, method: str, q: NDArray[Any] | None, ctx: Context) -> NDArray[Any]:
    run = _in_torch if term.framework == "torch" else _in_numpy
    answer = run(term, method, q, ctx)
    kind = "bool" if method == "keep" else "float64"
    shape = ctx.log_p.shape[:1] if method == "value" else ctx.log_p.shape
    if answer.dtype != kind or answer.shape != shape:
        raise _BadAnswerError(
            f"{term!r}.{method} must return {kind} of shape {shape}, for q of shape {ctx.log_p.shape}; "
            f"got {answer.dtype} of shape {answer.shape}"
        )
    return answer


def _in_numpy(term: Any, method: str, q: NDArray[Any] | None, ctx: Context) -> NDArray[Any]:
    context = ctx.each(_read_only)
    function: Callable[..., Any] = getattr(term, method)
    with np.errstate(all="ignore"):  # infinities and NaN are looked at afterwards
        return np.asarray(function(context) if q is None else function(_read_only(q), context))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _in_torch(term: Any, method: str, q: NDArray[Any] | None, ctx: Context) -> NDArray[Any]:
    try:
        import torch  # here: only a term that is written in torch needs it
    except ImportError as error:
        raise BackendUnavailableError(f"{type(term).__name__} is written in torch, which is not installed") from error
    context = ctx.each(torch.from_numpy)
    if q is None:
        return np.asarray(getattr(term, method)(context).detach().cpu().numpy())
    point = torch.from_numpy(np.array(q))
    if method == "gradient" and type(term).gradient is Regularizer.gradient:
        point.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(term.value(point, context).sum(), point)
        return np.asarray(slope.numpy())
    answer = getattr(term, method)(point, context)
    if not isinstance(answer, torch.Tensor):
        raise _BadAnswerError(f"{term!r}.{method} must return a tensor, its framework is torch; got {type(answer)}")
    return np.asarray(answer.detach().cpu().numpy())


def kept(supports: tuple[Support, ...], ctx: Context, failures: Failures) -> NDArray[Any]:
    """Return the tokens, bool (B, V), that are allowed and that every support of the caller's own keeps."""
    keep = np.array(ctx.allowed)
    for support in supports:
        keep &= call(support, "keep", None, ctx, failures)
    return keep
