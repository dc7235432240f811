"""How a distribution on three tokens moves in the simplex as one parameter moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._decoder import Decoder
from optdecode._solution import raise_on_failure
from optdecode.errors import ProblemError, ShapeError
from optdecode.plot._curves import name_ends
from optdecode.plot._objective import objective
from optdecode.plot._parameters import SYMBOLS, default_values, setter
from optdecode.plot._read import Row, anchor_of, named_decoders, numbers, one_row, read_row, shown, solve, token_texts
from optdecode.plot._style import (
    BASE,
    HEADLINE,
    INK,
    LEFT,
    MUTED,
    SERIES,
    SMALL,
    WIDTH,
    Page,
    fitted,
    halo,
    inches,
    log_axis,
    measured,
    number,
    style,
    tidy,
)
from optdecode.supports import Allowed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_OWNER = "plot.path"
_MOST = 6
#: Where the corners are: the best token lower left, the second lower right, the third on top.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


@dataclass(frozen=True)
class _Path:
    """One decoder's distributions on the three tokens, one a value; NaN where it has no solution."""

    name: str
    q: NDArray[Any]
    entropy: NDArray[Any]
    first: Decoder
    last: Decoder


def path(
    dec: Any,
    logits: Any,
    *,
    over: Any = "temperature",
    values: Any = None,
    labels: Any = None,
    names: Any = None,
    symbol: str | None = None,
    mask: Any = None,
    anchor: Any = None,
    title: str | None = None,
    figure: Any = None,
) -> Figure:
    """Draw the path of q in the simplex of three tokens as one parameter moves.

    Of logits with more than three tokens, the three best are drawn and the rest masked. Beside the triangle are, of
    one decoder, the three probabilities by value; of several, their entropies. Thin lines in the triangle of one
    decoder are contours of its objective at the last value, where they are known.

    Parameters
    ----------
    dec : Decoder, sequence or mapping of name to Decoder, or None
        At most 6; None where `over` is a function.
    logits : array_like, shape (V,), V >= 3
        One row, as `Decoder.__call__` takes it: NumPy or torch.
    over : str or callable
        What moves. ``"temperature"`` and ``"score_weight"``; ``"lam"``, the coefficient of the regularizer, and
        ``"beta_bar"``, that of its coverage term, other coefficients staying as they are; any numeric field of a
        regularizer, a support or the solver, such as ``"alpha"``, ``"budget"``, ``"p"``, ``"k"`` and ``"steps"``; or a
        function from a value to a Decoder.
    values : array_like, shape (n,), n >= 2, optional
        The values, in the order of the path. There are defaults for the parameters of the problem and the
        regularizers.
    labels : sequence of V str, mapping or callable, optional
        Texts of the tokens, as in `optdecode.plot.decoder`.
    names : sequence of str, optional
        Names of the decoders; by default the keys of the mapping, or the decoders, spelled.
    symbol : str, optional
        How to write what moves; by default T, λ and so on.
    mask, anchor : array_like, optional
        As in `Decoder.__call__`.
    title : str, optional
        In place of what moves.
    figure : Figure or SubFigure of matplotlib, optional
        Empty, to draw in; by default a new one, 8 inches wide.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot; save it with its ``savefig``. A path has a break where there is no solution.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        An argument does not fit; the message names it.
    ConvergenceError
        A decoder has no solution at any value.
    BackendUnavailableError
        matplotlib is missing.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> row = np.array([1.0, 0.5, -2.0])
    >>> figure = od.plot.path([od.softmax(), od.sparsemax()], row, over="temperature", labels=["yes", "no", "maybe"])
    >>> figure = od.plot.path(None, row, over=lambda k: od.top_k(k), values=[3, 2, 1], symbol="k")
    """
    logits = one_row(_OWNER, logits)
    moving, builders = _movers(dec, over, names)
    moving = moving if symbol is None else shown(symbol)
    points = _read_values(over, values)
    first = _built(builders[0][1], points[0])
    given = anchor if any(anchor_of(_built(build, points[0]), anchor) for _, build in builders) else None
    row, ids = _three(first, logits, mask, given)
    texts = token_texts(_OWNER, labels, ids, row.vocabulary) or [f"token {i}" for i in ids]
    paths = [_walk(name, build, points, logits, row.allowed, anchor, ids) for name, build in builders]
    subject = paths[0].name if len(paths) == 1 else f"{len(paths)} decoders"
    heading = f"{subject} as {moving} moves" if title is None else shown(title)
    with style():
        return _draw(paths, points, row, ids, texts, moving, heading, figure)


# -------------------------------------------------------------------------------------------------------------- solving

_Builders = list[tuple[str, Callable[[Any], Any]]]


def _movers(dec: Any, over: Any, names: Any) -> tuple[str, _Builders]:
    """Return what moves, in words, and the named functions from a value to a decoder."""
    if callable(over):
        if dec is not None:
            raise ProblemError(f"{_OWNER}: dec must be None where over is a function; got {dec!r}")
        name = shown(names[0]) if names is not None and len(names) == 1 else "q"
        return "the value", [(name, over)]
    if not isinstance(over, str):
        raise ProblemError(f"{_OWNER}: over must name a parameter or be a function of a value; got {over!r}")
    named = named_decoders(_OWNER, dec, names, _MOST)
    return SYMBOLS.get(over, over), [(name, setter(_OWNER, one, over)) for name, one in named]


def _read_values(over: Any, values: Any) -> list[Any]:
    if values is None:
        if not isinstance(over, str):
            raise ProblemError(f"{_OWNER}: values= is needed where over is a function")
        values = default_values(_OWNER, over)
    array = numbers(values)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ProblemError(f"{_OWNER}: values must be at least 2 finite numbers; got {values!r}")
    whole = np.asarray(values).dtype.kind in "iu"
    return [int(value) if whole else float(value) for value in array]


def _built(build: Callable[[Any], Any], value: Any) -> Decoder:
    made = build(value)
    if not isinstance(made, Decoder):
        raise ProblemError(f"{_OWNER}: over must return a Decoder; for {value!r} it returned {made!r}")
    return made


def _three(decoder: Decoder, logits: Any, mask: Any, anchor: Any) -> tuple[Row, NDArray[Any]]:
    """Return the row with nothing but its three best tokens allowed, and their ids in rank order."""
    row = read_row(decoder, logits, mask, anchor)
    if row.order.size < 3:
        raise ShapeError(f"{_OWNER}: the simplex of three tokens needs 3 that are allowed; got {row.order.size}")
    ids = row.order[:3]
    only = np.zeros(row.vocabulary, dtype=bool)
    only[ids] = True
    return read_row(decoder, logits, only, anchor), ids


def _walk(
    name: str, build: Callable[[Any], Any], points: list[Any], logits: Any, allowed: NDArray[Any], anchor: Any,
    ids: NDArray[Any],
) -> _Path:  # fmt: skip
    decoders = [_built(build, value) for value in points]
    solved = [solve(one, logits, allowed, anchor, on_failure="mark") for one in decoders]
    codes = np.array([int(one.solution.status) for one in solved])
    q = np.array([one.q[ids] for one in solved])
    if np.isnan(q).all():
        raise_on_failure(codes, [one.solution for one in solved])
    return _Path(name, q, np.array([float(one.solution.entropy) for one in solved]), decoders[0], decoders[-1])


# -------------------------------------------------------------------------------------------------------------- drawing


def _draw(
    paths: list[_Path], points: list[Any], row: Row, ids: NDArray[Any], texts: list[str], moving: str, title: str,
    figure: Any,
) -> Figure:  # fmt: skip
    alone = len(paths) == 1
    side, room = (3.5, 0.95) if alone else (3.0, 1.75)
    tall = side * float(CORNERS[2, 1])
    page = Page(_OWNER, figure, HEADLINE + tall + 1.1)
    of = "three tokens" if row.vocabulary == 3 else f"the three best of {row.vocabulary:,} tokens, the rest masked"
    page.headline(title, f"{of};  {moving} from {number(points[0])} to {number(points[-1])}")
    triangle = page.axes(LEFT, HEADLINE + 0.42, side, tall)
    _triangle(triangle, texts)
    note = "open mark: first value; filled mark: last"
    if alone:
        note = _contours(triangle, paths[0].last, row, ids, f"{moving} = {number(points[-1])}") or note
        _mark_model(triangle, paths[0], row, ids)
    for place, one in enumerate(paths):
        _path_line(triangle, one, place, points, moving, alone)
    triangle.annotate(
        note, (0.5, 0.0), xytext=(0, -27), textcoords="offset points", ha="center", va="top", fontsize=SMALL,
        color=MUTED, annotation_clip=False,
    )  # fmt: skip
    left = LEFT + side + 0.75
    panel = page.axes(left, HEADLINE + 0.42, WIDTH - left - room, tall)
    _beside(panel, paths, points, texts, moving, room - 0.15)
    return page.whole


def _triangle(axes: Axes, texts: list[str]) -> None:
    axes.set(xlim=(0, 1), ylim=(0, float(CORNERS[2, 1])))
    axes.set_axis_off()
    for step in (0.25, 0.5, 0.75):
        for corner in range(3):
            ends = [np.roll([step, 1 - step, 0.0], corner), np.roll([step, 0.0, 1 - step], corner)]
            axes.plot(*(np.array(ends) @ CORNERS).T, color="#e9e9e9", linewidth=0.6, zorder=1, label="grid")
    outline = CORNERS[[0, 1, 2, 0]]
    axes.plot(*outline.T, color=MUTED, linewidth=0.9, clip_on=False, zorder=2, label="simplex")
    places = (((-4, -6), "left", "top"), ((4, -6), "right", "top"), ((0, 6), "center", "bottom"))
    for text, corner, (offset, ha, va) in zip(texts, CORNERS, places, strict=True):
        axes.annotate(
            text, corner, xytext=offset, textcoords="offset points", ha=ha, va=va, fontsize=BASE, fontweight="bold",
            parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _contours(axes: Axes, decoder: Decoder, row: Row, ids: NDArray[Any], where: str) -> str | None:
    """Draw contour lines of the objective; return what they are."""
    steps = 72
    i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    inside = i + j <= steps
    q = np.column_stack([i[inside], j[inside], steps - i[inside] - j[inside]]) / steps
    support = decoder.problem.support
    members = [] if support is None else [m for m in support.members() if not isinstance(m, Allowed)]
    if anchor_of(decoder, None) or not all(member.rules() or member.chains() for member in members):
        return None  # a constraint that is no rule bends the objective
    own = read_row(decoder, row.logits, row.allowed, None)  # its p, at the last temperature
    height = objective(decoder, own, ids, q)
    if height is None or not np.isfinite(height).all() or np.ptp(height) == 0:
        return None
    levels = height.max() - np.ptp(height) * np.array([0.8, 0.6, 0.42, 0.27, 0.15, 0.07, 0.025, 0.006])
    x, y = (q @ CORNERS).T
    thin: dict[str, Any] = {"colors": "#bdbdbd", "linewidths": 0.6, "linestyles": "solid", "zorder": 1.5}
    axes.tricontour(x, y, height, levels=levels.tolist(), **thin)
    face = " (whole simplex)" if members else ""
    return f"contours: the objective at {where}{face}"


def _mark_model(axes: Axes, one: _Path, row: Row, ids: NDArray[Any]) -> None:
    """Mark p, where it is the same at all values and not at an end of the path."""
    at, ends = row.p[ids] @ CORNERS, one.q[np.isfinite(one.q[:, 0])][[0, -1]] @ CORNERS
    if one.first.problem.temperature == one.last.problem.temperature and np.hypot(*(ends - at).T).min() > 0.08:
        axes.plot(*at, color=INK, linestyle="", marker="+", markersize=8, markeredgewidth=1.2, zorder=4, label="p")
        _name_spot(axes, "p", at, one.q[np.isfinite(one.q[:, 0])] @ CORNERS)


def _path_line(axes: Axes, one: _Path, place: int, points: list[Any], moving: str, alone: bool) -> None:
    ink, dashes, marker = SERIES[place]
    ink, dashes = (SERIES[1][0], "-") if alone else (ink, dashes)
    at = one.q @ CORNERS
    seen = np.flatnonzero(np.isfinite(at[:, 0]))
    axes.plot(*at.T, color=ink, linestyle=dashes, linewidth=1.8, clip_on=False, zorder=3, label=one.name)
    start, end = int(seen[0]), int(seen[-1])
    mark: dict[str, Any] = {
        "color": ink,
        "linestyle": "",
        "marker": "o" if alone else marker,
        "clip_on": False,
        "zorder": 4,
    }
    axes.plot(*at[start], markersize=8, markerfacecolor="white", markeredgewidth=1.5, label="start", **mark)
    axes.plot(*at[end], markersize=8, markeredgewidth=1.5, label="end", **mark)
    _arrow(axes, at[seen], ink)
    if not alone:
        return
    first, last = (number(points[which], 3) for which in (start, end))
    if np.hypot(*(at[end] - at[start])) < 0.2:
        _name_spot(axes, f"{moving} from {first} to {last}", at[end], at[seen])
        return
    _name_spot(axes, f"{moving} = {first}", at[start], at[seen])
    _name_spot(axes, f"{moving} = {last}", at[end], at[seen])


def _arrow(axes: Axes, at: NDArray[Any], ink: str) -> None:
    """Put an arrow head halfway along a path."""
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(at, axis=0).T))])
    if lengths[-1] < 0.05:
        return
    middle = np.interp([0.49, 0.53], lengths / lengths[-1], np.arange(len(at)))
    x, y = (np.interp(middle, np.arange(len(at)), at[:, axis]) for axis in (0, 1))
    head = {"arrowstyle": "-|>", "color": ink, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 15, "linewidth": 1.2}
    axes.annotate("", (float(x[1]), float(y[1])), xytext=(float(x[0]), float(y[0])), zorder=5, arrowprops=head)


def _name_spot(axes: Axes, text: str, here: NDArray[Any], path: NDArray[Any]) -> None:
    """Write what a spot of the triangle is, on that side of it where the path is furthest."""
    inch = 1.0 / inches(axes)[0]
    half, tall = 0.5 * measured(text, SMALL) * inch, 0.07 * inch

    def place(side: tuple[float, float, float]) -> tuple[float, float]:
        across, up, far = side
        return float(here[0] + across * (far * inch + half)), float(here[1] + up * far * inch)

    def room(side: tuple[float, float, float]) -> float:
        """Return how far the text is from the path and within the page, less for being far from its spot."""
        x, y = place(side)
        aside = np.hypot(np.maximum(np.abs(path[:, 0] - x) - half, 0), np.maximum(np.abs(path[:, 1] - y) - tall, 0))
        outside = max(0.0, -0.17 - (x - half), x + half - 1.15, 0.03 - y)
        return min(float(aside.min()), 0.04) - 0.03 * side[2] - 10 * outside

    around = [(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (1, 0), (-1, 0), (0, -1)]
    best = max(((across, up, far) for far in (0.14, 0.19, 0.26) for across, up in around), key=room)
    x, y = place(best)
    axes.text(
        x, y, text, ha="center", va="center_baseline", fontsize=SMALL, color=INK, path_effects=halo(), parse_math=False,
        zorder=6,
    )  # fmt: skip


def _beside(axes: Axes, paths: list[_Path], points: list[Any], texts: list[str], moving: str, room: float) -> None:
    """Draw, of one path, the three probabilities by value; of several, their entropies."""
    x = np.array(points, dtype=np.float64)
    ends: list[tuple[float, float, str, str]] = []
    if len(paths) == 1:
        lines = [(texts[i], paths[0].q[:, i], ("-", (0, (5, 2)), (0, (1.2, 1.4)))[i], "osD"[i], INK) for i in range(3)]
        axes.set_ylim(0, 1.02)
        title, unit = "Probability of each token", "probability"
    else:
        lines = [
            (one.name, one.entropy, SERIES[place][1], SERIES[place][2], SERIES[place][0])
            for place, one in enumerate(paths)
        ]
        axes.set_ylim(0, 1.04 * np.log(3))
        title, unit = "Entropy", "entropy (nats)"
    every = max(1, len(x) // 6)
    for place, (name, y, dashes, marker, ink) in enumerate(lines):
        axes.plot(
            x, y, color=ink, linestyle=dashes, linewidth=1.6, marker=marker, markersize=4.5, label=name,
            markevery=(min(place * every // max(len(lines), 1), len(x) - 1), every), clip_on=False,
            markerfacecolor="white" if place % 2 else ink,
        )  # fmt: skip
        seen = np.flatnonzero(np.isfinite(y))
        right = int(seen[np.argmax(x[seen])])
        ends.append((float(x.max()), float(y[right]), fitted(name, room, SMALL, "bold"), ink))
    tidy(axes)
    if x.min() > 0 and x.max() / x.min() > 20:
        log_axis(axes.xaxis, float(x.min()), float(x.max()), most=5)
    else:
        axes.set_xlim(float(x.min()), float(x.max()))
        axes.locator_params(axis="x", nbins=5)
    scale = " (log scale)" if axes.get_xscale() == "log" else ""
    axes.set(xlabel=f"{moving}{scale}", ylabel=unit)
    axes.set_title(title)
    name_ends(axes, ends)
