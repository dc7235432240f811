"""Decoder strings: the constructor calls that `repr` prints and users type, parsed and never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from optdecode import presets
from optdecode._decoder import Decoder
from optdecode._spec import spec_classes
from optdecode.errors import ProblemError
from optdecode.regularizers import Regularizer
from optdecode.supports import Support

_PRESETS: dict[str, Callable[..., Decoder]] = {
    function.__name__: function
    for function in (
        presets.greedy, presets.softmax, presets.top_k, presets.top_p, presets.min_p, presets.sparsemax,
        presets.entmax, presets.best_of_k, presets.paper_best_of_k,
    )
}  # fmt: skip
_MAX_LENGTH = 1 << 20
_MAX_DEPTH = 60


def parse_decoder(text: str) -> Decoder:
    """Build the decoder that a string describes.

    Parameters
    ----------
    text : str
        A preset call such as ``"top_k(50, temperature=0.7)"``, optionally followed by ``.subject_to(MinP(0.02))`` or
        ``.twin()``, or the ``repr`` of a decoder.

    Returns
    -------
    Decoder
        As if the expression had been written in Python after ``from optdecode import *``.

    Raises
    ------
    ProblemError
        The text is no such expression; the message points at the part that is not understood.

    Examples
    --------
    >>> parse_decoder("entmax(1.5).subject_to(TopK(50))").problem.support
    TopK(k=50)
    """
    if len(text) > _MAX_LENGTH:
        raise ProblemError(f"decoder string: at most {_MAX_LENGTH} characters; got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ProblemError(f"decoder string {_shown(text)} is not an expression: {error}") from None
    value = _build(tree, text, 0)
    if callable(value) and value in _PRESETS.values():
        name = value.__name__
        raise ProblemError(f"decoder string {_shown(text)} names {name} without calling it: write {name}(...)")
    if not isinstance(value, Decoder):
        raise ProblemError(f"decoder string {_shown(text)} describes a {type(value).__name__}, not a decoder")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _build(node: ast.expr, text: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ProblemError(f"decoder string {_shown(text)} is nested more than {_MAX_DEPTH} deep")
    builder = _BUILDERS.get(type(node))
    if builder is None:
        raise _refused(node, text, "only constructor calls, numbers, strings, lists and * + - & are understood")
    return builder(node, text, depth + 1)


def _refused(node: ast.expr, text: str, why: str) -> ProblemError:
    part = ast.get_source_segment(text.strip(), node) or text
    return ProblemError(f"decoder string {_shown(text)}, at {_shown(part)} (column {node.col_offset + 1}): {why}")


def _constant(node: ast.Constant, text: str, depth: int) -> Any:
    if node.value is None or isinstance(node.value, (int, float, str)):
        return node.value
    raise _refused(node, text, "a number or a string is expected")


def _name(node: ast.Name, text: str, depth: int) -> Any:
    if node.id == "od":
        raise _refused(node, text, "write a call such as od.top_k(50)")
    if node.id in _PRESETS:
        return _PRESETS[node.id]
    classes = spec_classes()
    if node.id in classes:
        return classes[node.id]
    known = ", ".join([*_PRESETS, *sorted(classes)])
    raise _refused(node, text, f"unknown name; known are {known}")


def _call(node: ast.Call, text: str, depth: int) -> Any:
    function = _callee(node.func, text, depth)
    if any(keyword.arg is None for keyword in node.keywords):
        raise _refused(node, text, "** is not understood")
    positional = [_build(argument, text, depth) for argument in node.args]
    named = {keyword.arg: _build(keyword.value, text, depth) for keyword in node.keywords if keyword.arg}
    try:
        return function(*positional, **named)
    except ProblemError as error:
        raise _refused(node, text, str(error)) from error
    except TypeError as error:
        raise _refused(
            node, text, str(error).replace("__init__()", getattr(function, "__name__", "it") + "()")
        ) from error


def _callee(node: ast.expr, text: str, depth: int) -> Callable[..., Any]:
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id in ("od", "optdecode"):
            return _callee(ast.copy_location(ast.Name(node.attr, ast.Load()), node), text, depth)
        owner = _build(node.value, text, depth)
        if isinstance(owner, Decoder) and node.attr in ("subject_to", "twin"):
            method: Callable[..., Any] = getattr(owner, node.attr)
            return method
        raise _refused(node, text, "only .subject_to(...) and .twin() can be called on a decoder")
    if isinstance(node, ast.Name):
        function: Callable[..., Any] = _name(node, text, depth)
        return function
    raise _refused(node, text, "a preset or a class name is expected before (")


def _sequence(node: ast.List | ast.Tuple, text: str, depth: int) -> Any:
    return tuple(_build(element, text, depth) for element in node.elts)


def _unary(node: ast.UnaryOp, text: str, depth: int) -> Any:
    value = _build(node.operand, text, depth)
    if isinstance(node.op, ast.USub) and isinstance(value, (int, float, Regularizer)):
        return -value
    raise _refused(node, text, "only a minus sign before a number or a regularizer is understood")


def _binary(node: ast.BinOp, text: str, depth: int) -> Any:
    left, right = _build(node.left, text, depth), _build(node.right, text, depth)
    numbers = tuple(isinstance(side, (int, float)) for side in (left, right))
    regularizers = tuple(isinstance(side, Regularizer) for side in (left, right))
    supports = tuple(isinstance(side, Support) for side in (left, right))
    if isinstance(node.op, ast.Mult) and any(numbers) and any(regularizers):
        return left * right
    if isinstance(node.op, ast.Add) and all(regularizers):
        return left + right
    if isinstance(node.op, ast.Sub) and all(regularizers):
        return left - right
    if isinstance(node.op, ast.BitAnd) and all(supports):
        return left & right
    raise _refused(node, text, "operators are number * regularizer, regularizer +/- regularizer, support & support")


_BUILDERS: dict[type[ast.expr], Callable[[Any, str, int], Any]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Call: _call,
    ast.List: _sequence,
    ast.Tuple: _sequence,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
}
