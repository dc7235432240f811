"""Several decoders on one row: their curves on common axes, and a table of what the solutions say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._solution import raise_on_failure
from optdecode._spec import positive_int
from optdecode._status import Status
from optdecode.plot._curves import kept_curve, places_of
from optdecode.plot._read import Row, Solved, named_decoders, one_row, read_row, shown, solve, token_texts
from optdecode.plot._style import (
    HEADLINE,
    LEFT,
    MUTED,
    P_EDGE,
    P_INK,
    RIGHT,
    SERIES,
    SMALL,
    TINY,
    WIDTH,
    Page,
    are_upright,
    fitted,
    log_axis,
    measured,
    number,
    percent,
    style,
    tidy,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_OWNER = "plot.compare"
_PANELS, _LINE = 2.5, 0.235  # inches
_HALF = (WIDTH - LEFT - RIGHT - 0.72) / 2
_SMALLEST = 1e-12
#: Heading of a column, and where it ends (inches from the left of the table).
_COLUMNS = (
    ("tokens kept", 4.3), ("model mass", 5.12), ("entropy", 5.73), ("KL(q‖p)", 6.33), ("gap", 7.08),
)  # fmt: skip


def compare(
    decoders: Any,
    logits: Any,
    *,
    labels: Any = None,
    token_labels: Any = None,
    top: int = 12,
    mask: Any = None,
    anchor: Any = None,
    title: str | None = None,
    figure: Any = None,
) -> Figure:
    """Draw what several decoders make of one row of logits, and a table of what they keep.

    Two panels: q of the best tokens, and q of all tokens by rank on logarithmic axes; p is grey in both. Under them a
    table, which is also the key: tokens kept, their model mass, entropy, KL and certified gap.

    Parameters
    ----------
    decoders : sequence of Decoder, or mapping of name to Decoder
        At most 12.
    logits : array_like, shape (V,)
        One row, as `Decoder.__call__` takes it: NumPy or torch.
    labels : sequence of str, optional
        Names of the decoders; by default the keys of the mapping, or the decoders, spelled.
    token_labels : sequence of V str, mapping or callable, optional
        Texts of the tokens, as `labels` of `optdecode.plot.decoder`.
    top : int
        How many of the best tokens are in the first panel.
    mask : array_like, optional
        As in `Decoder.__call__`.
    anchor : array_like, shape (V,), optional
        Log-probabilities, for those decoders that have ``anchor="given"``.
    title : str, optional
        In place of the number of decoders.
    figure : Figure or SubFigure of matplotlib, optional
        Empty, to draw in; by default a new one, 8 inches wide.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot; save it with its ``savefig``. A decoder that has no solution on this row has its
        status in the table and no curve.

    Raises
    ------
    ProblemError, ShapeError, DTypeError
        An argument does not fit; the message names it.
    ConvergenceError
        No decoder has a solution.
    BackendUnavailableError
        matplotlib is missing.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> figure = od.plot.compare({"nucleus": od.top_p(0.9), "sparse": od.sparsemax()}, np.array([1.0, 0.5, -2.0]))
    >>> [line.get_label() for line in figure.axes[1].lines]
    ['p', 'nucleus', 'sparse']
    """
    named = named_decoders(_OWNER, decoders, labels, len(SERIES))
    logits = one_row(_OWNER, logits)
    top = positive_int(_OWNER, "top", top, high=40)
    solved = [solve(one, logits, mask, anchor, on_failure="mark") for _, one in named]
    if not any(_is_solved(one) for one in solved):
        raise_on_failure(np.array([int(one.solution.status) for one in solved]), [one.solution for one in solved])
    temperatures = {one.problem.temperature for _, one in named}
    common = temperatures.pop() if len(temperatures) == 1 else 1.0
    row = read_row(next(one.decoder for one in solved if _is_solved(one)), logits, mask, anchor, common)
    best = row.order[: _shown_count(row, solved, top)]
    texts = token_texts(_OWNER, token_labels, best, row.vocabulary)
    heading = f"{len(named)} decoders on one row" if title is None else shown(title)
    with style():
        return _draw([name for name, _ in named], solved, row, best, texts, heading, figure)


def _shown_count(row: Row, solved: list[Solved], top: int) -> int:
    """Return how many of the best tokens can be seen in the first panel; at least 6, if there are."""
    highest = np.nanmax([row.p[row.order], *(one.q[row.order] for one in solved if _is_solved(one))], axis=0)
    seen = np.flatnonzero(highest >= 0.02 * highest.max())
    return min(top, row.order.size, max(6, int(seen[-1]) + 2))


def _is_solved(one: Solved) -> bool:
    return int(one.solution.status) <= int(Status.REDUCED_ACCURACY)


def _draw(
    names: list[str],
    solved: list[Solved],
    row: Row,
    best: NDArray[Any],
    texts: list[str] | None,
    title: str,
    figure: Any,
) -> Figure:
    upright = texts is not None and are_upright(texts, _HALF)
    under = 0.2 + max(measured(text, TINY) for text in texts) if upright and texts else 0.42
    panels = HEADLINE + 0.34
    table = panels + _PANELS + max(under, 0.42) + 0.22
    height = len(solved) * _LINE + 0.62
    page = Page(_OWNER, figure, table + height)
    page.headline(title, row.describe())
    _best(page.axes(LEFT, panels, _HALF, _PANELS), names, solved, row, best, texts)
    _all(page.axes(LEFT + _HALF + 0.72, panels, _HALF, _PANELS), names, solved, row)
    _table(page.sheet(table, height), names, solved, row)
    return page.whole


def _sizes(place: int, total: int) -> dict[str, Any]:
    """Return sizes that shrink from series to series, so that where curves coincide all of them are seen."""
    share = place / max(total - 1, 1)
    return {"linewidth": 2.0 - 1.0 * share, "markersize": 6.5 - 2.5 * share}


def _best(
    axes: Axes, names: list[str], solved: list[Solved], row: Row, best: NDArray[Any], texts: list[str] | None
) -> None:
    rank = np.arange(1, best.size + 1)
    axes.bar(rank, row.p[best], width=0.8, color=P_INK, edgecolor=P_EDGE, linewidth=0.5, label="p, the model")
    axes.plot([], [], label="p")  # the same lines in both panels, the first for p
    for place, (name, one) in enumerate(zip(names, solved, strict=True)):
        ink, _, marker = SERIES[place]
        beside = rank + 0.66 * ((place + 0.5) / len(solved) - 0.5)
        q = np.where(one.support[best], one.q[best], np.nan)
        axes.vlines(beside, 0, q, color=ink, linewidth=0.8)
        axes.plot(
            beside, q, color=ink, linestyle="", marker=marker, markersize=5.5 if len(solved) < 6 else 4.5,
            markerfacecolor="white" if place % 2 else ink, markeredgewidth=1.1, label=name, clip_on=False, zorder=3,
        )  # fmt: skip
    tidy(axes, "y")
    peak = max(float(np.nanmax(one.q[best])) if _is_solved(one) else 0.0 for one in solved)
    axes.set(xlim=(0.4, best.size + 0.6), ylim=(0, 1.05 * max(peak, float(row.p[best].max()))), ylabel="probability")
    axes.tick_params(axis="x", length=0, pad=4.5)
    axes.set_title(f"The {best.size} best tokens" if best.size > 1 else "The best token")
    if texts is None:
        axes.set_xticks(rank[:: 1 + best.size // 16])
        axes.set_xlabel("rank of the token by p")
    else:
        axes.set_xticks(rank, texts, rotation=90 if are_upright(texts, _HALF) else 0, parse_math=False)


def _all(axes: Axes, names: list[str], solved: list[Solved], row: Row) -> None:
    n = row.order.size
    p = row.p[row.order]
    few = n <= 30
    peak = max(float(p.max()), *(float(np.nanmax(one.q)) for one in solved if _is_solved(one)))
    lowest = float(p[p > _SMALLEST * peak].min())
    every = places_of(n, np.arange(0))
    axes.plot(every + 1, p[every], color=P_EDGE, linewidth=4.5, alpha=0.35, solid_capstyle="butt", label="p")
    for place, (name, one) in enumerate(zip(names, solved, strict=True)):
        ink, dashes, marker = SERIES[place]
        kept = np.flatnonzero(one.support[row.order])
        rank, q = kept_curve(places_of(n, kept), one.support[row.order], one.q[row.order])
        lowest = min([lowest, *q[q > _SMALLEST * peak].tolist()])
        sizes = _sizes(place, len(solved))
        if np.isnan(rank).any() and rank.size > 60:  # a mark at every token, as some stand alone
            sizes["markersize"] = 2.0
        axes.plot(
            rank, q, color=ink, linestyle=dashes, marker=marker, markerfacecolor="none" if place % 2 else ink,
            markeredgewidth=1.1, label=name, markevery=_marked(rank, place, len(solved), few),
            **sizes,
        )  # fmt: skip
    tidy(axes)
    low = min(0.7 * lowest, peak / 12)
    if few:
        axes.set_xlim(0.6, n + 0.4)
        axes.set_xticks(range(1, n + 1, 1 + n // 11))
    else:
        log_axis(axes.xaxis, 0.85, 1.4 * n)
    log_axis(axes.yaxis, low, peak * (peak / low) ** 0.05, last_tick=1.0)
    axes.set(xlabel="rank of the token by p" + ("" if few else " (log scale)"), ylabel="probability (log scale)")
    axes.set_title("All tokens, by rank")


def _marked(rank: NDArray[Any], place: int, total: int, few: bool) -> Any:
    """Return which points get a marker: the first and the last kept, and on the way some that no other series has."""
    if few or rank.size < 3 or np.isnan(rank).any():
        return None
    apart = np.geomspace(1.0, rank[-1], 5)[1:-1] * rank[-1] ** (0.2 * place / total)
    some = np.searchsorted(rank, np.minimum(apart, rank[-1]))
    return sorted({0, rank.size - 1, *some.tolist()})


def _table(sheet: Axes, names: list[str], solved: list[Solved], row: Row) -> None:
    width = sheet.get_xlim()[1]
    for heading, right in _COLUMNS:
        write(sheet, right, 0.16, heading, ha="right", color=MUTED)
    write(sheet, 0.0, 0.16, "decoder", color=MUTED)
    sheet.plot([0, width], [0.24, 0.24], color=MUTED, linewidth=0.8)
    for place, (name, one) in enumerate(zip(names, solved, strict=True)):
        line = 0.24 + (place + 0.74) * _LINE
        ink, dashes, marker = SERIES[place]
        sheet.plot(
            [0.0, 0.24, 0.48], [line - 0.045] * 3, color=ink, linestyle=dashes, marker=marker, markevery=[1],
            markerfacecolor="none" if place % 2 else ink, markeredgewidth=1.1, linewidth=1.5, markersize=5.5,
        )  # fmt: skip
        write(sheet, 0.58, line, fitted(name, 2.95, SMALL))
        for text, (_, right) in zip(_cells(one, row), _COLUMNS, strict=True):
            write(sheet, right, line, text, ha="right")
    end = 0.24 + (len(solved) + 0.18) * _LINE
    sheet.plot([0, width], [end, end], color=MUTED, linewidth=0.8)
    sheet.plot([0.0, 0.48], [end + 0.15] * 2, color=P_EDGE, linewidth=4.5, alpha=0.35, solid_capstyle="butt")
    own = len({one.decoder.problem.temperature for one in solved}) > 1
    note = "; mass and KL at the decoder's own T" if own else ""
    write(
        sheet,
        0.58,
        end + 0.19,
        f"p, the model; entropy, KL in nats; no q gains more than the gap{note}",
        color=MUTED,
    )


def _cells(one: Solved, row: Row) -> list[str]:
    if not _is_solved(one):
        return ["", "", "", "", one.solution.status.name.replace("_", " ").lower()]
    solution = one.solution
    return [
        f"{one.size:,}", percent(float(solution.kept_mass)), f"{float(solution.entropy):.3f}",
        f"{float(solution.kl):.3f}", number(float(solution.certificate().gap), 2),
    ]  # fmt: skip
