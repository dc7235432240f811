"""One parameter of a decoder by name, and the decoder with another value of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._decoder import Decoder
from optdecode.errors import ProblemError
from optdecode.regularizers import Regularizer
from optdecode.supports import Support, intersect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Setter = Callable[[Any], Decoder]

#: How a parameter is written where it is named often.
SYMBOLS = {
    "temperature": "T", "score_weight": "score weight", "lam": "λ", "beta_bar": "β̄", "alpha": "α", "budget": "K",
    "eta": "η", "steps": "J",
}  # fmt: skip


def setter(owner: str, decoder: Decoder, name: str) -> _Setter:
    """Return the function that gives a decoder another value of the parameter with this name.

    ``"lam"`` and ``"beta_bar"`` are the coefficients of the regularizer and of its coverage term; other names are
    numeric fields of the problem, the solver, a term of the regularizer or a support.
    """
    known = _setters(decoder)
    found = known.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise ProblemError(f"{owner}: over={name!r} names {len(found)} parameters of {decoder!r}: pass a function")
    raise ProblemError(
        f"{owner}: over={name!r} names no parameter of {decoder!r}; it has {', '.join(sorted(known))}; or pass a "
        "function from a value to a Decoder"
    )


def _setters(decoder: Decoder) -> dict[str, list[_Setter]]:
    """Return, by name, the functions that change each parameter of a decoder."""
    problem, solver = decoder.problem, decoder.solver
    found: dict[str, list[_Setter]] = {}

    def put(part: Any, rebuilt: Callable[[Any], Decoder]) -> None:
        """Add the numeric fields of a part; `rebuilt` is the decoder with another part in its place."""
        for name in _numeric(part):
            found.setdefault(name, []).append(partial(_replaced, part, rebuilt, name))

    put(problem, lambda part: replace(decoder, problem=part))
    put(solver, lambda part: replace(decoder, solver=part))
    for place, (scale, term) in enumerate(() if problem.regularizer is None else problem.regularizer.terms()):
        name, sign = ("beta_bar", -1.0) if hasattr(term, "budget") else ("lam", 1.0)
        found.setdefault(name, []).append(partial(_scaled, decoder, place, sign))
        put(term, partial(_with_term, decoder, place, scale))
    members = () if problem.support is None else problem.support.members()
    for place, member in enumerate(members):
        put(member, partial(_with_support, decoder, members[:place] + members[place + 1 :]))
    return found


def _replaced(part: Any, rebuilt: Callable[[Any], Decoder], name: str, value: Any) -> Decoder:
    return rebuilt(replace(part, **{name: value}))


def _scaled(decoder: Decoder, place: int, sign: float, value: float) -> Decoder:
    assert decoder.problem.regularizer is not None
    return _with_term(decoder, place, sign * value, decoder.problem.regularizer.terms()[place][1])


def _with_support(decoder: Decoder, others: tuple[Support, ...], member: Support) -> Decoder:
    return replace(decoder, problem=replace(decoder.problem, support=intersect(*others, member)))


def _with_term(decoder: Decoder, place: int, scale: float, term: Regularizer) -> Decoder:
    assert decoder.problem.regularizer is not None
    terms = list(decoder.problem.regularizer.terms())
    terms[place] = (scale, term)
    total = reduce(lambda a, b: a + b, (coefficient * part for coefficient, part in terms))
    return replace(decoder, problem=replace(decoder.problem, regularizer=total))


def _numeric(part: Any) -> list[str]:
    """Return the names of the fields that hold a number."""
    if part is None or not is_dataclass(part):
        return []
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return [name for name, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]


def default_values(owner: str, name: str) -> NDArray[Any]:
    """Return the values that a parameter takes if none are given."""
    defaults: dict[str, NDArray[Any]] = {
        "temperature": np.geomspace(0.05, 20.0, 81),
        "score_weight": np.linspace(0.0, 4.0, 81),
        "lam": np.geomspace(0.02, 20.0, 81),
        "beta_bar": np.geomspace(0.01, 100.0, 81),
        "alpha": np.linspace(1.0, 4.0, 61),
        "budget": np.unique(np.round(np.geomspace(1, 256, 33)).astype(np.int64)),
    }
    if name not in defaults:
        raise ProblemError(f"{owner}: over={name!r} needs values=, in the order of the path")
    return defaults[name]
