"""What K draws of one step cover: of the model's mass, and of a weight."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import presets
from optdecode._decoder import Decoder
from optdecode._spec import positive_int
from optdecode.errors import ProblemError, ShapeError
from optdecode.plot._curves import mark_cut, name_ends
from optdecode.plot._read import Row, check_decoder, numbers, one_row, read_row, shown, solve, spelled
from optdecode.plot._style import (
    HEADLINE,
    LEFT,
    MUTED,
    Q_INK,
    RIGHT,
    SMALL,
    WIDTH,
    Page,
    fitted,
    halo,
    number,
    percent,
    style,
    tidy,
    write,
)
from optdecode.regularizers import Coverage, Weights
from optdecode.supports import Support

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_OWNER = "plot.coverage"
_PANEL, _NAMES = 2.3, 0.95  # inches: height of a panel, room for names beside it
_LINE = 0.235
#: Name, ink, line style, marker, face of the marker.
_STYLES = {
    "systematic": (Q_INK, (0, (5, 2)), "^", "white"),
    "i.i.d.": (Q_INK, "-", "o", Q_INK),
    "twin, i.i.d.": ("#6e6e6e", (0, (1.2, 1.4)), "s", "white"),
    "p, i.i.d.": ("#6e6e6e", (0, (1.2, 1.4)), "s", "white"),
}


def coverage(
    dec: Any,
    logits: Any,
    *,
    budgets: Any = None,
    weights: Any = None,
    mask: Any = None,
    anchor: Any = None,
    title: str | None = None,
    figure: Any = None,
) -> Figure:
    r"""Draw what K draws of one step cover, against K.

    Two panels: the expected model mass :math:`\sum_i p_i \pi_i(K)` of the tokens drawn at least once, and their
    expected weight :math:`\sum_i w_i \pi_i(K)`, with :math:`\pi = 1 - (1 - q)^K` for i.i.d. draws and
    :math:`\min(1, Kq)` for systematic ones; both for the decoder, and the first for its twin without coverage
    (arXiv:2602.18292) or, if it has no coverage term, for the model. Under them the numbers at the decoder's budget.

    Parameters
    ----------
    dec : Decoder
        What is drawn from.
    logits : array_like, shape (V,)
        One row, as `Decoder.__call__` takes it: NumPy or torch.
    budgets : sequence of int, optional
        The K, at least 1, increasing; by default from 1 to 256.
    weights : {"model", "uniform", "rank"} or Support or array_like of shape (V,), optional
        w of the second panel, as in `Coverage`. By default those of the decoder's coverage term; 1 for all tokens
        where these are the model's, or there are none: the expected number of distinct tokens.
    mask, anchor : array_like, optional
        As in `Decoder.__call__`.
    title : str, optional
        In place of the decoder, spelled.
    figure : Figure or SubFigure of matplotlib, optional
        Empty, to draw in; by default a new one, 8 inches wide.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot; save it with its ``savefig``.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        An argument does not fit; the message names it.
    ConvergenceError
        The row has no solution.
    BackendUnavailableError
        matplotlib is missing.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> dec = od.best_of_k(budget=4, beta_bar=1.0, lam=0.5)
    >>> figure = od.plot.coverage(dec, np.array([1.0, 0.5, -2.0]), budgets=[1, 2, 4, 8])
    >>> [line.get_label() for line in figure.axes[1].lines[:3]]
    ['systematic', 'i.i.d.', 'twin, i.i.d.']
    """
    dec, logits = check_decoder(_OWNER, dec), one_row(_OWNER, logits)
    counts = _read_budgets(budgets)
    row = read_row(dec, logits, mask, anchor)
    term = _coverage_term(dec)
    if weights is None:
        weights = "uniform" if term is None or term.weights == "model" else term.weights
    weight, unit = _read_weights(weights, row, logits)
    laws = _laws(dec, term, logits, mask, anchor, row)
    drawn = {name: _covered(q, kind, counts, row.p, weight) for name, (q, kind) in laws.items()}
    best = [row.p[laws["i.i.d."][0] > 0].sum(), weight[laws["i.i.d."][0] > 0].sum()]
    at = _marked(term, counts)
    with style():
        return _draw(drawn, counts, at, term, best, unit, row, spelled(dec) if title is None else shown(title), figure)


# -------------------------------------------------------------------------------------------------------------- numbers


def _coverage_term(dec: Decoder) -> Any:
    """Return the term that rewards coverage, which is the one with a budget; None if there is none."""
    terms = () if dec.problem.regularizer is None else dec.problem.regularizer.terms()
    return next((term for _, term in terms if hasattr(term, "budget")), None)


def _read_budgets(budgets: Any) -> list[int]:
    if budgets is None:
        return sorted({round(2 ** (step / 4)) for step in range(33)})
    if isinstance(budgets, (str, bytes)) or not hasattr(budgets, "__iter__"):
        raise ProblemError(f"{_OWNER}: budgets must be a sequence of integers; got {budgets!r}")
    counts = [positive_int(_OWNER, "budgets", k) for k in budgets]
    if len(counts) < 2 or any(a >= b for a, b in pairwise(counts)):
        raise ProblemError(f"{_OWNER}: budgets must be at least 2 integers that increase; got {counts}")
    return counts


def _read_weights(weights: Any, row: Row, logits: Any) -> tuple[NDArray[Any], str]:
    """Return w, 0 on forbidden tokens, and the unit of its sum."""
    made = Coverage(1, weights).weights  # read as a decoder's are
    values = np.zeros(row.vocabulary)
    if made == "model":
        return row.p, "model mass"
    if made == "uniform":
        values[row.order] = 1.0
        return values, "distinct tokens"
    if made == "rank":
        values[row.order] = 1.0 / np.arange(1, row.order.size + 1)
        return values, "weight, w = 1 / rank"
    if isinstance(made, Support):
        chosen = presets.softmax(row.temperature).subject_to(made)(logits, mask=row.allowed)
        return (numbers(chosen.log_probs) > -np.inf).astype(np.float64), f"distinct tokens of {made!r}"
    array = made.array() if isinstance(made, Weights) else numbers(made)
    if array.size != row.vocabulary:
        raise ShapeError(f"{_OWNER}: weights have length {array.size}, the logits V = {row.vocabulary}")
    values[row.order] = array[row.order]
    return values, "weight"


def _laws(
    dec: Decoder, term: Any, logits: Any, mask: Any, anchor: Any, row: Row
) -> dict[str, tuple[NDArray[Any], str]]:
    """Return what is drawn from, and how, by name."""
    q = solve(dec, logits, mask, anchor).q
    laws = {"systematic": (q, "systematic"), "i.i.d.": (q, "iid")}
    if term is None:
        return laws | {"p, i.i.d.": (row.p, "iid")}
    try:
        twin = dec.twin()
    except ProblemError:  # mirror ascent without a KL term has none
        return laws
    return laws | {"twin, i.i.d.": (solve(twin, logits, mask, anchor).q, "iid")}


def _covered(q: NDArray[Any], kind: str, counts: list[int], p: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return the expected mass and weight covered by K draws, shape (2, number of K)."""
    some = np.flatnonzero(q > 0)
    q, worth = np.minimum(q[some], 1.0), np.stack([p[some], weight[some]])
    with np.errstate(divide="ignore"):  # log 0, of a token that is sure to be drawn
        miss = np.log1p(-q)
    columns = [worth @ (np.minimum(k * q, 1.0) if kind == "systematic" else -np.expm1(k * miss)) for k in counts]
    return np.array(columns).T


def _marked(term: Any, counts: list[int]) -> int:
    """Return which K the numbers are given for: the decoder's own, or the one next to 8."""
    wanted = 8 if term is None else term.budget
    return min(range(len(counts)), key=lambda i: abs(np.log(counts[i] / wanted)))


# -------------------------------------------------------------------------------------------------------------- drawing


def _draw(
    drawn: dict[str, NDArray[Any]], counts: list[int], at: int, term: Any, best: list[Any], unit: str,
    row: Row, title: str, figure: Any,
) -> Figure:  # fmt: skip
    table = HEADLINE + 0.34 + _PANEL + 0.66
    height = len(drawn) * _LINE + 0.4
    page = Page(_OWNER, figure, table + height)
    page.headline(title, row.describe())
    half = (WIDTH - LEFT - RIGHT - 0.6) / 2
    for side in (0, 1):
        axes = page.axes(LEFT + side * (half + 0.6), HEADLINE + 0.34, half - _NAMES, _PANEL)
        share = side == 0 or unit == "model mass"
        _panel(axes, {key: value[side] for key, value in drawn.items()}, counts, float(best[side]), share)
        axes.set_title("Model mass covered" if share else f"Expected {fitted(unit, 2.2, SMALL)}")
        axes.set_ylabel("share of the model's mass" if share else "expected number" if "tokens" in unit else "weight")
        if term is not None and counts[0] < term.budget < counts[-1]:
            mark_cut(axes, term.budget, f"budget K = {term.budget}")
    _table(page.sheet(table, height), drawn, counts[at], at, unit)
    return page.whole


def _panel(axes: Axes, drawn: dict[str, NDArray[Any]], counts: list[int], best: float, share: bool) -> None:
    top = max(float(values.max()) for values in drawn.values())
    for name, values in drawn.items():
        ink, dashes, marker, face = _STYLES[name]
        axes.plot(
            counts, values, color=ink, linestyle=dashes, linewidth=1.7, marker=marker, markersize=5,
            markerfacecolor=face, markevery=max(1, len(counts) // 9), label=name,
        )  # fmt: skip
    tidy(axes)
    if 0.25 * top <= best <= 1.3 * top:  # all that draws of q can ever cover
        axes.axhline(best, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), label="kept")
        axes.annotate(
            f"kept: {percent(best) if share else number(best)}", (0.0, best), xycoords=("axes fraction", "data"),
            xytext=(4, -2), textcoords="offset points", va="top", fontsize=SMALL, color=MUTED, path_effects=halo(),
        )  # fmt: skip
        top = max(top, best)
    axes.set_ylim(0, 1.12 * top)
    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0], counts[-1])
    _doublings(axes, counts)
    axes.set_xlabel("K, draws of one step (log scale)")
    name_ends(axes, [(counts[-1], float(values[-1]), name, _STYLES[name][0]) for name, values in drawn.items()])


def _doublings(axes: Axes, counts: list[int]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    exponents = range((counts[0] - 1).bit_length(), counts[-1].bit_length())
    ticks = [2**e for e in exponents][:: 1 + len(exponents) // 9] or counts
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:,}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _table(sheet: Axes, drawn: dict[str, NDArray[Any]], k: int, at: int, unit: str) -> None:
    width = sheet.get_xlim()[1]
    columns = (("model mass covered", 4.6), (f"expected {fitted(unit, 1.6, SMALL)}", width))
    write(sheet, 0.0, 0.16, f"K = {k:,} draws", color=MUTED)
    for heading, right in columns:
        write(sheet, right, 0.16, heading, color=MUTED, ha="right")
    sheet.plot([0, width], [0.24, 0.24], color=MUTED, linewidth=0.8)
    for place, (name, values) in enumerate(drawn.items()):
        ink, dashes, marker, face = _STYLES[name]
        line = 0.24 + (place + 0.74) * _LINE
        sheet.plot(
            [0.0, 0.24, 0.48], [line - 0.045] * 3, color=ink, linestyle=dashes, marker=marker, markevery=[1],
            markerfacecolor=face, linewidth=1.6, markersize=5.5,
        )  # fmt: skip
        write(sheet, 0.58, line, name if name.startswith(("twin", "p,")) else f"q, {name}")
        write(sheet, 4.6, line, percent(float(values[0, at])), ha="right")
        shown_weight = percent(float(values[1, at])) if unit == "model mass" else number(float(values[1, at]))
        write(sheet, width, line, shown_weight, ha="right")
    end = 0.24 + (len(drawn) + 0.18) * _LINE
    sheet.plot([0, width], [end, end], color=MUTED, linewidth=0.8)
