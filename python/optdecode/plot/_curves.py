"""Curves over ranks: which points they go through, and names where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode.plot._style import INK, MUTED, SMALL, halo, inches, measured, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_CURVE_POINTS = 400


def places_of(n: int, kept: NDArray[Any]) -> NDArray[Any]:
    """Return the places in the order that a curve goes through: all of few, and even on a logarithmic axis of many."""
    if n <= _CURVE_POINTS:
        return np.arange(n)
    even = np.round(np.geomspace(1, n, _CURVE_POINTS)).astype(np.int64) - 1
    ends = kept[[0, -1]] if kept.size else kept
    some = kept if kept.size <= _CURVE_POINTS else kept[even[even < kept.size]]
    return np.unique(np.concatenate([np.arange(40), even, ends, some]))


def kept_curve(places: NDArray[Any], support: NDArray[np.bool_], q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ranks and probabilities of the kept ones of some places, with a break where tokens between are dropped."""
    inside = places[support[places]]
    passed = np.cumsum(support)[inside]  # kept tokens up to each place
    broken = np.flatnonzero(np.diff(passed) != np.diff(inside)) + 1
    rank = np.insert((inside + 1).astype(np.float64), broken, np.nan)
    return rank, np.insert(q[inside].astype(np.float64), broken, np.nan)


def name_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write names to the right of where curves end, apart from each other."""
    gap = 11.0 / (72.0 * inches(axes)[1])
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    for (x, _, text, ink), height in zip(ends, spread(heights, gap, 0.03, 0.97), strict=True):
        axes.annotate(
            text, (x, height), xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points",
            va="center", color=ink, fontsize=SMALL, fontweight="normal" if ink == MUTED else "bold",
            path_effects=halo(), parse_math=False,
        )  # fmt: skip


def mark_cut(axes: Axes, x: float, text: str) -> None:
    """Draw a dotted line at x and write what it is beside its upper end, on the side with more room."""
    axes.axvline(x, color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)))
    place = float((axes.transData + axes.transAxes.inverted()).transform((x, axes.get_ylim()[0]))[0])
    wide = max(measured(line, SMALL) for line in text.split("\n")) + 0.1
    left = (1 - place) * inches(axes)[0] > wide or place < 0.5
    axes.annotate(
        text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(4 if left else -4, -2), va="top",
        textcoords="offset points", ha="left" if left else "right", fontsize=SMALL, path_effects=halo(),
    )  # fmt: skip
