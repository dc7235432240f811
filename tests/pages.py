"""Reading a picture as a reader does: which texts there are, where, and what tells lines apart without colour.

Import as ``from pages import check_readable`` (the ``tests`` directory is on the path).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def words(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return the texts that are drawn, with the boxes they fill on the page."""
    figure.draw_without_rendering()
    skipped: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not axes.axison:
                skipped |= {id(text) for text in axis.findobj(Text)}
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    skipped |= {id(tick.label1), id(tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if id(text) not in skipped]


def says(figure: Figure) -> str:
    """Return all that a picture says."""
    return "\n".join(text for text, _ in words(figure))


def check_readable(figure: Figure) -> None:
    """No text overlaps another, none leaves the page, none is smaller than 7 points."""
    page, boxes = figure.bbox, words(figure)
    assert len(boxes) > 5
    for text, box in boxes:
        inside = page.x0 <= box.x0 <= box.x1 <= page.x1 and page.y0 <= box.y0 <= box.y1 <= page.y1
        assert inside, f"{text!r} leaves the page: {box} of {page}"
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert width < 1.0 or height < 1.0, f"{a!r} and {b!r} overlap by {width:.1f} x {height:.1f} pixels"
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()) >= 7.0


def line(axes: Axes, label: str) -> tuple[Any, Any]:
    """Return the data of the one line with this label."""
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xdata(), dtype=float), np.asarray(found.get_ydata(), dtype=float)


def points(axes: Axes, label: str) -> tuple[Any, Any]:
    """Return the data of the one line with this label, without its breaks."""
    x, y = line(axes, label)
    return x[~np.isnan(x)], y[~np.isnan(x)]


def looks(lines: list[Line2D]) -> list[tuple[Any, ...]]:
    """Return what is left of lines in black and white: dashes, marker, and whether the marker is hollow."""
    return [
        (str(one._unscaled_dash_pattern), str(one.get_marker()), one.get_markerfacecolor() in ("white", "none"))
        for one in lines
    ]


def luminance(ink: Any) -> float:
    """Return how bright an ink is printed in grey, 0 for black and 1 for white."""
    return float(np.dot(to_rgb(ink), (0.299, 0.587, 0.114)))
