"""What pictures are drawn from: a row of logits as NumPy arrays, decoders by name, solutions as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import presets
from optdecode._decoder import Decoder
from optdecode._problem import Problem
from optdecode._solution import Solution
from optdecode.errors import ProblemError, ShapeError
from optdecode.plot._style import clipped, count
from optdecode.regularizers import KL, Coverage, NegEntropy, Quadratic, Tsallis, Weights
from optdecode.supports import Allowed, MinP, Support, TopK, TopP

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LABEL_WIDTH = 16
_SPACE = "·"  # at the ends of a text, where a space is not seen


def numbers(value: Any) -> NDArray[Any]:
    """Return an array or a tensor, of any float type and on any device, as float64."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value).astype(np.float64)


def flags(value: Any) -> NDArray[np.bool_]:
    """Return a bool array or tensor as an array."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value).astype(bool)


def one_row(owner: str, logits: Any) -> Any:
    """Return the logits as they are, or refuse what is not one row."""
    if not hasattr(logits, "shape"):
        logits = np.asarray(logits)
    shape = tuple(logits.shape)
    if len(shape) != 1 or shape[0] < 1:
        hint = f": pass one of its rows, such as logits[{', '.join('0' * (len(shape) - 1))}]" if len(shape) > 1 else ""
        raise ShapeError(f"{owner}: logits must be one row (V,) with V >= 1; got shape {shape}{hint}")
    return logits


def anchor_of(decoder: Decoder, anchor: Any) -> dict[str, Any]:
    """Return the call argument that a decoder with a given anchor needs, if it is one."""
    regularizer = decoder.problem.regularizer
    given = regularizer is not None and any(getattr(term, "anchor", None) == "given" for _, term in regularizer.terms())
    return {"anchor": anchor} if given else {}


@dataclass(frozen=True)
class Row:
    """One row of logits and the model's view of it.

    Attributes
    ----------
    logits : ndarray of float64, shape (V,)
        As given.
    allowed : ndarray of bool, shape (V,)
        Tokens that no mask, `Allowed`, anchor or −inf forbids.
    order : ndarray of int64
        The allowed ids by (logit descending, id ascending).
    p, log_p : ndarray of float64, shape (V,)
        The model distribution at `temperature`.
    temperature : float
        T of p.
    """

    logits: NDArray[Any]
    allowed: NDArray[np.bool_]
    order: NDArray[np.int64]
    p: NDArray[Any]
    log_p: NDArray[Any]
    temperature: float

    @property
    def vocabulary(self) -> int:
        """V."""
        return int(self.logits.size)

    def describe(self) -> str:
        """The row in words."""
        allowed, total = self.order.size, self.vocabulary
        of = count(total) if allowed == total else f"{allowed:,} allowed of {total:,} tokens"
        return f"one row of {of};  {self.formula()}"

    def formula(self) -> str:
        """P in symbols."""
        return "p = softmax(x), x the logits" if self.temperature == 1 else f"p = softmax(x / {self.temperature:g})"


def read_row(decoder: Decoder, logits: Any, mask: Any, anchor: Any, temperature: float | None = None) -> Row:
    """Measure the model distribution that a decoder sees: p at its temperature, on the tokens it may use."""
    support = decoder.problem.support
    only = [member for member in support.members() if isinstance(member, Allowed)] if support is not None else []
    allowed = flags(presets.softmax().subject_to(*only)(logits, mask=mask).support)
    if anchor_of(decoder, anchor):
        if anchor is None:
            raise ProblemError("this decoder's anchor is 'given': pass anchor= log-probabilities")
        allowed = allowed & (numbers(anchor) > -np.inf)
    temperature = decoder.problem.temperature if temperature is None else temperature
    model = presets.softmax(temperature)(logits, mask=allowed)
    values = numbers(logits)
    order = np.argsort(-np.where(allowed, values, -np.inf), kind="stable")[: int(allowed.sum())]
    return Row(values, allowed, order, numbers(model.probs), numbers(model.log_probs), temperature)


@dataclass(frozen=True)
class Solved:
    """A solution of one row as NumPy arrays; `solution` has the numbers about it."""

    decoder: Decoder
    solution: Solution
    q: NDArray[Any]
    log_q: NDArray[Any]
    support: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Tokens kept."""
        return int(self.support.sum())


def solve(decoder: Decoder, logits: Any, mask: Any, anchor: Any, on_failure: str = "raise") -> Solved:
    """Solve one row."""
    solution = decoder(logits, mask=mask, on_failure=on_failure, **anchor_of(decoder, anchor))
    return Solved(decoder, solution, numbers(solution.probs), numbers(solution.log_probs), flags(solution.support))


def check_decoder(owner: str, value: Any) -> Decoder:
    """Return a decoder, or say what was given instead."""
    if not isinstance(value, Decoder):
        raise ProblemError(f"{owner}: expected a Decoder such as od.top_p(0.95); got {value!r}")
    return value


def named_decoders(owner: str, decoders: Any, names: Any, most: int) -> list[tuple[str, Decoder]]:
    """Return decoders with their names: given ones, keys of a mapping, or how each would be written."""
    if isinstance(decoders, Decoder):
        decoders = [decoders]
    if isinstance(decoders, Mapping):
        names = list(decoders) if names is None else names
        decoders = list(decoders.values())
    if isinstance(decoders, (str, bytes)) or not isinstance(decoders, Sequence) or not decoders:
        raise ProblemError(f"{owner}: expected decoders, a list or a mapping of names to them; got {decoders!r}")
    found = [check_decoder(owner, value) for value in decoders]
    if len(found) > most:
        raise ProblemError(f"{owner}: at most {most} decoders can be told apart in one picture; got {len(found)}")
    if names is None:
        return [(spelled(one), one) for one in found]
    if isinstance(names, (str, bytes)) or len(names) != len(found):
        raise ProblemError(f"{owner}: one name a decoder is needed, {len(found)} in all; got {names!r}")
    return [(shown(name), one) for name, one in zip(names, found, strict=True)]


# ------------------------------------------------------------------------------------------------------------- tokens


def shown(text: Any) -> str:
    """Return a text on one line, its white space visible where it would not be."""
    plain = str(text).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    body = plain.strip(" ")
    if not body:
        return _SPACE * len(plain) or "(empty)"
    lead = len(plain) - len(plain.lstrip(" "))
    return _SPACE * lead + body + _SPACE * (len(plain) - lead - len(body))


def token_texts(owner: str, labels: Any, ids: NDArray[Any], vocabulary: int) -> list[str] | None:
    """Return the texts of some tokens, or None where there are no labels.

    `labels` is a sequence of V texts, a mapping from token id to text, or a function of the token id, such as a
    tokenizer's ``decode``.
    """
    if labels is None:
        return None
    if callable(labels):
        texts = [labels(int(i)) for i in ids]
    elif isinstance(labels, Mapping):
        texts = [labels.get(int(i), f"#{i}") for i in ids]
    elif isinstance(labels, (str, bytes)) or not hasattr(labels, "__len__") or len(labels) != vocabulary:
        given = f"{len(labels)} of them" if hasattr(labels, "__len__") else repr(labels)
        raise ShapeError(
            f"{owner}: labels must be V = {vocabulary} texts, a mapping from token id to text, or a function of the "
            f"token id; got {given}"
        )
    else:
        texts = [labels[int(i)] for i in ids]
    return [clipped(shown(text), _LABEL_WIDTH) for text in texts]


# ------------------------------------------------------------------------------------------------------------- names


def spelled(decoder: Decoder) -> str:
    """Return the shortest call that makes the decoder; where no preset does, its problem in short."""
    for function, arguments, rest in _spellings(decoder.problem):
        extra = {} if decoder.solver is None else {"solver": decoder.solver}
        try:
            made = function(**arguments, **extra).subject_to(*rest)
        except (ProblemError, TypeError):
            continue
        if made == decoder:
            return f"{function.__name__}({_arguments(function, arguments | extra)})" + (
                f".subject_to({', '.join(map(_short, rest))})" if rest else ""
            )
    return _general(decoder)


_Spelling = tuple[Callable[..., Decoder], dict[str, Any], tuple[Support, ...]]


def _spellings(problem: Problem) -> list[_Spelling]:
    """Return presets that may make the problem, with what `subject_to` must add; the reader checks them."""
    members = () if problem.support is None else problem.support.members()
    tempered = {} if problem.temperature == 1 else {"temperature": problem.temperature}
    terms = () if problem.regularizer is None else problem.regularizer.terms()
    kinds = {type(term): (scale, term) for scale, term in terms}
    if not terms:
        return [(presets.greedy, {}, members)]
    if set(kinds) == {NegEntropy}:
        found: list[_Spelling] = []
        for kind, name, preset in ((TopK, "k", presets.top_k), (TopP, "p", presets.top_p), (MinP, "p", presets.min_p)):
            for member in (m for m in members if isinstance(m, kind)):
                rest = tuple(m for m in members if m != member)
                found.append((preset, {name: getattr(member, name), **tempered}, rest))
        return [*found, (presets.softmax, tempered, members)]
    if set(kinds) == {Quadratic}:
        return [(presets.sparsemax, tempered, members)]
    if set(kinds) == {Tsallis}:
        return [(presets.entmax, {"alpha": kinds[Tsallis][1].alpha, **tempered}, members)]  # type: ignore[attr-defined]
    if Coverage in kinds and set(kinds) <= {Coverage, KL}:
        return [(presets.best_of_k, best | tempered, members) for best in _best_of_k(problem, kinds)]
    return []


def _best_of_k(problem: Problem, kinds: dict[Any, Any]) -> list[dict[str, Any]]:
    beta_bar, coverage = -kinds[Coverage][0], kinds[Coverage][1]
    lam, kl = kinds.get(KL, (0.0, KL()))
    common: dict[str, Any] = {"budget": coverage.budget}
    defaults = {"lam": 0.2, "weights": "model", "score_weight": 1.0, "anchor": "model", "scores": "tempered"}
    values = {
        "lam": lam, "weights": coverage.weights, "score_weight": problem.score_weight, "anchor": kl.anchor,
        "scores": problem.scores,
    }  # fmt: skip
    other = {name: value for name, value in values.items() if value != defaults[name]}
    betas: list[dict[str, Any]] = [{}, {"beta_bar": beta_bar}]
    if lam:  # beta as it was typed, where it was
        betas.insert(1, {"beta": float(f"{beta_bar / lam:.6g}")})
    return [common | beta | other for beta in betas]


def _arguments(function: Callable[..., Decoder], arguments: dict[str, Any]) -> str:
    bare = {"top_k": "k", "top_p": "p", "min_p": "p", "entmax": "alpha", "softmax": "temperature"}
    bare["sparsemax"] = "temperature"
    names = list(arguments)
    texts = [
        _short(arguments[name])
        if place == 0 and bare.get(function.__name__) == name
        else f"{name}={_short(arguments[name])}"
        for place, name in enumerate(names)
    ]
    return ", ".join(texts)


def _short(value: Any) -> str:
    """Return a value as it is typed; arrays of weights and long lists by their length."""
    if isinstance(value, Weights):
        return f"<{len(value.values)} weights>"
    if isinstance(value, Allowed) and len(value.token_ids) > 4:
        return f"Allowed(<{len(value.token_ids)} tokens>)"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}"
    return repr(value)


def _general(decoder: Decoder) -> str:
    """Return regularizer, supports and temperature of a decoder that no preset makes."""
    problem = decoder.problem
    weights = [
        term.weights
        for _, term in (problem.regularizer.terms() if problem.regularizer is not None else ())
        if isinstance(term, Coverage) and isinstance(term.weights, Weights)
    ]
    text = "no regularizer" if problem.regularizer is None else repr(problem.regularizer)
    for weight in weights:
        text = text.replace(repr(weight), _short(weight))
    if problem.support is not None:
        text += f" on {' & '.join(_short(member) for member in problem.support.members())}"
    for name, default in (("temperature", 1.0), ("score_weight", 1.0), ("scores", "tempered")):
        if getattr(problem, name) != default:
            text += f", {name}={_short(getattr(problem, name))}"
    return text if decoder.solver is None else f"{text}, solver={decoder.solver!r}"
