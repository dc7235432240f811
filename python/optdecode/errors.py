"""Every error optdecode raises on purpose, under one base class and the built-in class it specialises."""

from __future__ import annotations

from typing import Any


class OptdecodeError(Exception):
    """Base class of every error that optdecode raises on purpose."""


class ProblemError(OptdecodeError, ValueError):
    """A decoder, a regularizer, a support or a call argument has a value that is not allowed."""


class ShapeError(OptdecodeError, ValueError):
    """An array has a shape that does not fit the logits."""


class DTypeError(OptdecodeError, TypeError):
    """An array has an element type that is not supported."""


class BackendUnavailableError(OptdecodeError, ImportError):
    """A backend or an optional dependency is not available here."""


class ConvergenceError(OptdecodeError, RuntimeError):
    """Some rows have no solution; the message names the first of them.

    Parameters
    ----------
    message : str
        What failed, and where.
    result : object, optional
        The `Solution` or `Draw` of the whole batch, healthy rows included.

    Attributes
    ----------
    result : object
        As given.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
