"""Shared behaviour of everything a decoder is made of: a constructor-call `repr` and a JSON round trip."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from optdecode.errors import ProblemError

if TYPE_CHECKING:
    from typing_extensions import Self

_CLASSES: dict[str, type[Spec]] = {}  # filled as the classes are defined


class Spec:
    """Base of the frozen dataclasses that describe a decoding problem.

    A spec holds parameters only (no arrays that change, no state), so it is hashable, picklable and safe to share
    between threads and processes.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taken = _CLASSES.get(cls.__name__)
        # The same definition run again (a notebook's cell, `dataclass(slots=True)`) is the same class in a new version.
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ProblemError(
                f"the name {cls.__name__} belongs to {taken.__module__}.{taken.__qualname__}, and dictionaries and "
                f"strings find classes by name: rename {cls.__module__}.{cls.__qualname__}"
            )
        _CLASSES[cls.__name__] = cls

    def _shown_fields(self) -> dict[str, Any]:
        """Field values that differ from their defaults, in order."""
        shown = {}
        for field in fields(self):  # type: ignore[arg-type]  # every concrete spec is a dataclass
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                shown[field.name] = value
        return shown

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._shown_fields().items())
        return f"{type(self).__name__}({arguments})"

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        # Rebuilding through the constructor leaves cached, unpicklable derivations (compiled plans) behind.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    @classmethod
    def _from_fields(cls, **values: Any) -> Spec:
        """Construct from the values of the fields by name."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary that `from_dict` turns back into an equal object.

        Returns
        -------
        dict
            ``{"type": class name, field: value, ...}``; nested specs become nested dictionaries.
        """
        return {"type": type(self).__name__} | {name: _encode(value) for name, value in self._shown_fields().items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` described.

        Parameters
        ----------
        data : dict
            A dictionary made by `to_dict`, possibly through JSON.

        Returns
        -------
        Spec
            An instance of this class (or of a subclass).

        Raises
        ------
        ProblemError
            The dictionary names an unknown type or field, or a value is not allowed.
        """
        spec = _decode(data)
        if not isinstance(spec, cls):
            raise ProblemError(f"expected the dictionary of a {cls.__name__}; got {data!r}")
        return spec


def check_usable(spec: Spec) -> None:
    """Raise a ProblemError unless the object can be part of a decoder: a frozen dataclass that can be hashed."""
    cls = type(spec)
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise ProblemError(
            f"{cls.__name__} must be a frozen dataclass, as decoders are compared, hashed and sent as JSON: write "
            f"@dataclass(frozen=True) above the class, and its parameters as fields"
        )
    try:
        hash(spec)
    except TypeError as error:
        raise ProblemError(
            f"{cls.__name__} must be hashable, so tuples instead of lists and arrays: {error}"
        ) from error


def spec_classes() -> dict[str, type[Spec]]:
    """Return the concrete specs by name: what `from_dict` and the string parser may build."""
    return {name: cls for name, cls in _CLASSES.items() if is_dataclass(cls)}


def _encode(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_decode(item) for item in data)
    if not isinstance(data, dict):
        return data
    arguments = dict(data)
    name = arguments.pop("type", None)
    known_classes = spec_classes()
    if name not in known_classes:
        raise ProblemError(f"unknown type {name!r} in a decoder dictionary; known: {', '.join(sorted(known_classes))}")
    cls = known_classes[name]
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := set(arguments) - known:
        raise ProblemError(f"{name} has no field {sorted(unknown)[0]!r}; it has {sorted(known)}")
    try:
        return cls._from_fields(**{key: _decode(value) for key, value in arguments.items()})
    except TypeError as error:
        raise ProblemError(f"{name}: {error}") from error


def finite(owner: str, name: str, value: object) -> float:
    """Return `value` as a float, or raise a ProblemError that names the parameter."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise ProblemError(f"{owner}: {name} must be a real number; got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProblemError(f"{owner}: {name} must be a real number; got {value!r}") from error
    if not math.isfinite(number):
        raise ProblemError(f"{owner}: {name} must be finite; got {value!r}")
    return number


def in_range(
    owner: str, name: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return `value` as a float in [low, high] (``open_low``: (low, high]), or raise a ProblemError."""
    number = finite(owner, name, value)
    if number < low or number > high or (open_low and number == low):
        bracket = "(" if open_low else "["
        allowed = f"> {low:g}" if open_low else f">= {low:g}"
        allowed = allowed if math.isinf(high) else f"in {bracket}{low:g}, {high:g}]"
        raise ProblemError(f"{owner}: {name} must be {allowed}; got {value!r}")
    return number


def positive_int(owner: str, name: str, value: object, high: int = 2**31 - 1) -> int:
    """Return `value` as an int in [1, high], or raise a ProblemError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ProblemError(f"{owner}: {name} must be an integer >= 1; got {value!r}")
    number = value.__index__()
    if not 1 <= number <= high:
        raise ProblemError(f"{owner}: {name} must be an integer in [1, {high}]; got {value!r}")
    return int(number)


def one_of(owner: str, name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is one of the allowed strings, or raise a ProblemError."""
    if not isinstance(value, str) or value not in allowed:
        raise ProblemError(f"{owner}: {name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value
