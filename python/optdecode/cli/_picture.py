"""The demonstration's picture: verified rates of every decoder, cool and hot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optdecode.cli._measure import Measured


def save_picture(results: list[Measured], samples: int, folder: Path) -> Path:
    """Draw one panel a temperature and return the path of the PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    labels = list(dict.fromkeys(result.label for result in results))
    figure, axes = plt.subplots(1, len(labels), figsize=(6.2 * len(labels), 4.6), sharey=True, squeeze=False)
    for axis, label in zip(axes[0], labels, strict=True):
        _panel(axis, [result for result in results if result.label == label], samples)
    axes[0][0].invert_yaxis()  # shared: the first decoder on top
    axes[0][0].legend(loc="upper center", bbox_to_anchor=(len(labels) / 2, -0.12), ncols=3, frameon=False)
    figure.suptitle("Verified derivations on held-out problems (bars: 95 % intervals)")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.png"
    figure.savefig(path, dpi=140, bbox_inches="tight")
    plt.close(figure)
    return path


def _panel(axis: Any, results: list[Measured], samples: int) -> None:
    # Markers differ in shape and fill, so the picture reads in black and white.
    series = (
        ("pass@1", "o", "white", [result.pass_1 for result in results]),
        (f"majority@{samples}", "s", "0.6", [result.majority for result in results]),
        (f"pass@{samples}", "^", "black", [result.pass_k for result in results]),
    )
    rows = range(len(results))
    for offset, (name, marker, fill, estimates) in zip((-0.22, 0.0, 0.22), series, strict=True):
        means = [estimate.mean for estimate in estimates]
        errors = [
            [estimate.mean - estimate.low for estimate in estimates],
            [estimate.high - estimate.mean for estimate in estimates],
        ]
        style = {"fmt": marker, "color": "black", "markerfacecolor": fill, "elinewidth": 1, "markersize": 6}
        axis.errorbar(means, [row + offset for row in rows], xerr=errors, label=name, **style)
    axis.set_yticks(list(rows), [result.name for result in results])
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("fraction of problems")
    axis.set_title(f"{results[0].label}: T = {results[0].temperature:g}")
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
