"""How every picture looks: sizes, inks, axes, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode.errors import BackendUnavailableError, ProblemError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

#: Width of a picture in inches: at the width of a page of documentation its text is as large as the page's.
WIDTH = 8.0
LEFT, RIGHT, HEADLINE = 0.70, 0.22, 0.62
INK, MUTED, GRID, FAINT = "#1a1a1a", "#5f5f5f", "#e4e4e4", "#c8c8c8"
#: q, the decoder's distribution, and the lighter p, the model's.
Q_INK, P_INK, P_EDGE = "#1f4e79", "#d9d9d9", "#8a8a8a"
DROPPED_HATCH = "//////"
BASE, SMALL, TINY = 9.5, 8.5, 8.0

#: Series of several decoders: ink, line style, marker. No two share a marker, nor a line style with a near ink.
SERIES: tuple[tuple[str, Any, str], ...] = (
    ("#111111", "-", "o"),
    ("#1f5a91", (0, (6, 2)), "s"),
    ("#b3541e", (0, (1.2, 1.2)), "^"),
    ("#3f7f4f", (0, (6, 1.5, 1.2, 1.5)), "D"),
    ("#7b3f94", (0, (3, 1.2)), "v"),
    ("#6e6e6e", (0, (9, 1.5)), "P"),
    ("#a8761a", (0, (3, 1, 1, 1, 1, 1)), "X"),
    ("#2b8c94", (0, (1, 2.4)), "*"),
    ("#333333", (0, (10, 2, 3, 2)), "<"),
    ("#5b8fc4", (0, (5, 1, 1, 1, 1, 1)), ">"),
    ("#c4743f", (0, (2, 3)), "h"),
    ("#5a9a6a", (0, (8, 3, 1, 3)), "p"),
)

_RC: dict[Any, Any] = {
    "axes.edgecolor": MUTED, "axes.facecolor": "white", "axes.labelcolor": INK, "axes.labelsize": SMALL,
    "axes.linewidth": 0.7, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlepad": 6.0,
    "axes.titlesize": BASE, "axes.titleweight": "bold", "axes.unicode_minus": True, "figure.facecolor": "white",
    "figure.edgecolor": "white", "font.size": BASE, "hatch.color": P_EDGE, "hatch.linewidth": 0.6,
    "legend.fontsize": SMALL, "text.color": INK, "text.usetex": False, "text.parse_math": True,
    "lines.solid_capstyle": "round", "path.simplify": True,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw with the settings of this module, whatever the caller's are, and leave those as they were.

    Raises
    ------
    BackendUnavailableError
        matplotlib is missing; the message names the extra.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise BackendUnavailableError(
            f"optdecode.plot needs the extra [plot]: pip install 'optdecode[plot]' ({error})"
        ) from error
    with mpl.rc_context(_RC):  # the families of fonts stay the caller's: tokens may need them
        yield


class Page:
    """A figure on which axes are placed in inches from its upper left corner, so that panels line up.

    Parameters
    ----------
    owner : str
        Who draws, for messages.
    figure : Figure or SubFigure, optional
        The caller's, which must be empty and is stretched over; a new one by default.
    height : float
        Of the page, in inches; it is `WIDTH` wide.
    """

    def __init__(self, owner: str, figure: Any, height: float) -> None:
        from matplotlib.figure import Figure, SubFigure

        if figure is None:
            figure = Figure(figsize=(WIDTH, height))
        elif not isinstance(figure, (Figure, SubFigure)):
            raise ProblemError(f"{owner}: figure must be a matplotlib Figure or SubFigure; got {figure!r}")
        elif figure.axes:
            raise ProblemError(f"{owner}: figure must be empty; it has {count(len(figure.axes), 'axes')}")
        self.figure: Any = figure
        self.height = height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes whose frame is `width` x `height` inches, its upper left corner at (left, top)."""
        place = (left / WIDTH, 1.0 - (top + height) / self.height, width / WIDTH, height / self.height)
        made: Axes = self.figure.add_axes(place)
        made.set_label(f"{len(self.figure.axes)}")
        return made

    def sheet(self, top: float, height: float, left: float = LEFT, width: float = WIDTH - LEFT - RIGHT) -> Axes:
        """Add axes to write on: coordinates are inches from their upper left corner."""
        made = self.axes(left, top, width, height)
        made.set(xlim=(0, width), ylim=(height, 0))
        made.set_axis_off()
        return made

    def headline(self, title: str, note: str) -> None:
        """Write the title, and under it, in grey, what was drawn."""
        sheet = self.sheet(0.0, HEADLINE)
        write(sheet, 0.0, 0.30, fitted(title, sheet.get_xlim()[1], 11.5, "bold"), fontsize=11.5, fontweight="bold")
        write(sheet, 0.0, 0.52, fitted(note, sheet.get_xlim()[1], SMALL), fontsize=SMALL, color=MUTED)

    @property
    def whole(self) -> Figure:
        """The figure that was drawn in, or that the caller's subfigure is part of."""
        root: Figure = self.figure
        while getattr(root, "figure", root) is not root:
            root = root.figure
        return root


def write(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    """Write a line of plain text at (x, y) of the axes, on its base line."""
    axes.text(x, y, text, **{"va": "baseline", "parse_math": False, "fontsize": SMALL, **how})


def measured(text: str, size: float, weight: str = "normal") -> float:
    """Return how wide a text is, in inches."""
    from matplotlib.figure import Figure

    box = Figure(dpi=72).text(0, 0, text, fontsize=size, fontweight=weight, parse_math=False).get_window_extent()
    return 1.02 * float(box.width) / 72  # hinting differs with the resolution


def inches(axes: Axes) -> tuple[float, float]:
    """Return width and height of axes on the page."""
    return axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi


def are_upright(texts: Sequence[str], width: float) -> bool:
    """Whether texts under an axis of so many inches do not fit side by side."""
    return max(measured(text, TINY) for text in texts) > 0.9 * width / len(texts)


def fitted(text: str, width: float, size: float, weight: str = "normal") -> str:
    """Return a text that takes at most so many inches, its middle left out where it is longer."""
    room = len(text)
    while room > 4 and measured(clipped(text, room), size, weight) > width:
        room -= max(1, room // 20)
    return clipped(text, room)


def tidy(axes: Axes, grid: str = "both") -> None:
    """Give axes thin spines on two sides, a muted grid under the data and quiet ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(False)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type]
    axes.minorticks_off()
    # Ticks are made when a figure is drawn, with whatever settings there are then: these say it now.
    axes.tick_params(
        which="both",
        bottom=True,
        left=True,
        labelbottom=True,
        labelleft=True,
        color=MUTED,
        labelcolor=INK,
        labelsize=TINY,
        width=0.6,
        length=2.5,
        pad=2.5,
        direction="out",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(TINY)


def superscript(number: int) -> str:
    """Return an integer as an exponent: −12 as ⁻¹²."""
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def power(value: float) -> str:
    """Return a tick: 0.01, 1, 1,000, but 10⁻⁴ and 10⁵."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 < exponent < 4:
        return f"{value:,.0f}" if value >= 1 else f"{value:.{-exponent}f}"
    lead = round(value / 10.0**exponent)
    return ("" if lead == 1 else f"{lead}×") + f"10{superscript(exponent)}"


def log_axis(axis: Any, low: float, high: float, most: int = 6, last_tick: float = math.inf) -> None:
    """Make an axis logarithmic over [low, high], with few ticks: powers of ten, or 1-2-5 where there are not three."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    top = min(high, last_tick)
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(top) + 1e-9)
    if last - first >= 2:
        step = -(-(last - first) // (most - 1))
        ticks = [10.0**e for e in range(first, last + 1) if (last - e) % step == 0]
    else:
        series = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        ticks = [t for t in series if low * (1 - 1e-9) <= t <= top * (1 + 1e-9)] or [low]
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([power(t) for t in ticks]))
    axis.set_minor_locator(NullLocator())


def halo(width: float = 2.5) -> list[Any]:
    """Return the effect that keeps a label legible where it crosses lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> NDArray[Any]:
    """Move places apart until neighbours are `gap` apart within [low, high], as little as that takes."""
    wanted = np.asarray(places, dtype=np.float64)
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    # Least squares under order constraints on (place − its step): pool neighbours that are out of order.
    pools: list[tuple[float, int]] = []
    for value in wanted[order] - steps:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    moved = np.repeat([value for value, _ in pools], [count for _, count in pools])
    room = high - (steps[-1] if len(steps) else 0.0)
    result = np.empty_like(wanted)
    result[order] = np.clip(moved, low, max(low, room)) + steps
    return result


# ------------------------------------------------------------------------------------------------------------- words


def count(number: int, noun: str = "token") -> str:
    """Return ``1 token``, ``151,936 tokens``."""
    return f"{number:,} {noun}" + ("" if number == 1 or noun.endswith("s") else "s")


def percent(share: float) -> str:
    """Return a share of 1 as a percentage that is 100 only where it is 1."""
    if share >= 1.0 - 5e-8:
        return "100 %"
    if share > 0.9995:
        return f"{math.floor(share * 1e4) / 100:.2f} %"
    return f"{100 * share:.1f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, its minus sign and its power of ten as they are printed."""
    if not math.isfinite(value):
        return "−∞" if value == -math.inf else "∞" if value == math.inf else "undefined"
    text = f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa.replace("-", "−")
    return f"{mantissa}×10{superscript(int(exponent))}" if exponent else mantissa


def clipped(text: str, width: int) -> str:
    """Return a text of at most `width` characters, its middle left out where it is longer."""
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
