"""The embedded model: a small Llama trained on `dagmod`, for demos, tests and experiments without downloads.

>>> from optdecode.models import dagmod
>>> dagmod.Problem.from_prompt("a = 7 ; b = a + a ; ? b").answer
4
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import dagmod
    from .runtime import EmbeddedModel, Generation

__all__ = ["EmbeddedModel", "Generation", "dagmod"]


def __getattr__(name: str) -> Any:
    if name == "dagmod":
        return import_module(".dagmod", __name__)
    if name in ("EmbeddedModel", "Generation"):
        return getattr(import_module(".runtime", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
