"""One decoder on one row: q against p, the scores it keeps, and what the solution says of itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._problem import Problem
from optdecode._spec import positive_int
from optdecode.plot._curves import kept_curve, mark_cut, name_ends, places_of
from optdecode.plot._read import Row, Solved, check_decoder, one_row, read_row, shown, solve, spelled, token_texts
from optdecode.plot._style import (
    BASE,
    DROPPED_HATCH,
    HEADLINE,
    LEFT,
    MUTED,
    P_EDGE,
    P_INK,
    Q_INK,
    RIGHT,
    SMALL,
    TINY,
    WIDTH,
    Page,
    are_upright,
    count,
    fitted,
    halo,
    log_axis,
    measured,
    number,
    percent,
    style,
    tidy,
    write,
)
from optdecode.regularizers import Quadratic, Tsallis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_OWNER = "plot.decoder"
_BARS, _PANELS = 1.75, 2.1  # heights in inches
_MOST_TEXTS = 56  # so many fit under the bars
_FEW = 30  # so many tokens are drawn on a linear axis of ranks, each with a mark
_SMALLEST = 1e-16  # probabilities below this share of the largest are off the logarithmic panel


def decoder(
    dec: Any,
    logits: Any,
    *,
    labels: Any = None,
    top: int = 40,
    mask: Any = None,
    anchor: Any = None,
    title: str | None = None,
    figure: Any = None,
) -> Figure:
    """Draw what a decoder makes of one row of logits.

    Three panels and a few words: q and p of the best tokens (dropped ones hatched); q and p of all tokens by rank, on
    logarithmic axes; q against the score, with the dual threshold eta where the scores below it are the ones dropped;
    support, entropy, KL and certificate.

    Parameters
    ----------
    dec : Decoder
        What to draw.
    logits : array_like, shape (V,)
        One row, as `Decoder.__call__` takes it: NumPy or torch.
    labels : sequence of V str, mapping or callable, optional
        Texts of the tokens: all of them, by token id, or a function of the id such as ``tokenizer.decode``.
    top : int
        At most so many tokens in the panels of the best ones; fewer where few are kept.
    mask : array_like, optional
        As in `Decoder.__call__`.
    anchor : array_like, shape (V,), optional
        Log-probabilities, for a decoder with ``anchor="given"``.
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
    >>> figure = od.plot.decoder(od.sparsemax(), np.array([1.0, 0.5, -2.0]))
    >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    ['All 3 tokens: 100 % of q, 100 % of p', 'All tokens, by rank', 'From score to probability']
    """
    top = positive_int(_OWNER, "top", top, high=200)
    dec, logits = check_decoder(_OWNER, dec), one_row(_OWNER, logits)
    solved = solve(dec, logits, mask, anchor)
    row = read_row(dec, logits, mask, anchor)
    best = row.order[: _shown_count(row, solved, top)]
    texts = token_texts(_OWNER, labels, best, row.vocabulary)
    with style():
        return _draw(row, solved, best, texts, spelled(dec) if title is None else shown(title), figure)


def _draw(row: Row, solved: Solved, best: NDArray[Any], texts: list[str] | None, title: str, figure: Any) -> Figure:
    upright = texts is not None and are_upright(texts, WIDTH - LEFT - RIGHT)
    under_bars = 0.42 if texts is None else 0.14 + max(measured(text, TINY) for text in texts) if upright else 0.24
    second = HEADLINE + 0.34 + _BARS + under_bars + 0.42
    words = second + _PANELS + 0.56
    page = Page(_OWNER, figure, words + 1.02)
    page.headline(title, row.describe())
    _bars(page.axes(LEFT, HEADLINE + 0.34, WIDTH - LEFT - RIGHT, _BARS), row, solved, best, texts)
    half = (WIDTH - LEFT - RIGHT - 0.72) / 2
    _curves(page.axes(LEFT, second, half, _PANELS), row, solved)
    _link(page.axes(LEFT + half + 0.72, second, half, _PANELS), row, solved, best)
    _words(page.sheet(words, 1.0), row, solved)
    return page.whole


def _shown_count(row: Row, solved: Solved, top: int) -> int:
    """Return how many of the best tokens to draw: those that can be seen, and where the support ends if it is near."""
    p, q = row.p[row.order], solved.q[row.order]
    seen = np.flatnonzero(np.maximum(p, q) >= 0.006 * max(float(p.max()), float(q.max())))
    kept = np.flatnonzero(solved.support[row.order])
    last = int(kept[-1]) + 1 if kept.size else 1
    wanted = max(8, int(seen[-1]) + 3, last + 4 if last <= 24 else 0)
    return min(top, row.order.size, wanted)


# -------------------------------------------------------------------------------------------------------------- panels


def _bars(axes: Axes, row: Row, solved: Solved, best: NDArray[Any], texts: list[str] | None) -> None:
    """Draw bars of p, and in them narrower ones of q; p of dropped tokens is hatched."""
    rank = np.arange(1, best.size + 1)
    kept = solved.support[best]
    p, q = row.p[best], solved.q[best]
    wide = 0.78 * min(1.0, (best.size + 2) / 8)
    edge: dict[str, Any] = {"edgecolor": P_EDGE, "linewidth": 0.6, "width": wide}
    axes.bar(rank[kept], p[kept], color=P_INK, label="p, the model", **edge)
    axes.bar(rank[~kept], p[~kept], color="white", hatch=DROPPED_HATCH, label="p, dropped", **edge)
    axes.bar(rank[kept], q[kept], width=0.46 * wide, color=Q_INK, label="q, the decoder")
    tidy(axes, "y")
    axes.set(xlim=(0.4, best.size + 0.6), ylim=(0, 1.04 * max(float(p.max()), float(q.max()))), ylabel="probability")
    axes.locator_params(axis="y", nbins=5)
    few = f"All {best.size} tokens" if best.size == row.order.size else f"The {best.size} best tokens"
    which = few if best.size > 1 else "The best token"
    axes.set_title(f"{which}: {percent(float(q.sum()))} of q, {percent(float(p.sum()))} of p")
    _token_ticks(axes, best.size, texts)
    axes.tick_params(axis="x", length=0)
    handles, names = axes.get_legend_handles_labels()
    order = [2, 0, 1] if (~kept).any() else [2, 0]
    axes.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="lower right", bbox_to_anchor=(1.0, 1.0),
        ncols=3, frameon=False, borderaxespad=0.15, borderpad=0.2, handlelength=1.3, columnspacing=1.4,
    )  # fmt: skip


def _token_ticks(axes: Axes, size: int, texts: list[str] | None) -> None:
    if texts is None:
        step = 1 if size <= 24 else 2 if size <= 48 else 5 if size <= 120 else 10
        ranks = [r for r in range(1, size + 1) if r % step == 0 or (r == 1 and step > 2)]
        axes.set_xticks(ranks, [str(r) for r in ranks])
        axes.set_xlabel("rank of the token by p")
        return
    step = -(-size // _MOST_TEXTS)
    upright = are_upright(texts, WIDTH - LEFT - RIGHT)
    axes.set_xticks(range(1, size + 1, step), texts[::step], rotation=90 if upright else 0, parse_math=False)


def _curves(axes: Axes, row: Row, solved: Solved) -> None:
    """Draw p and q of all tokens by rank: both axes logarithmic, or the second alone where there are few tokens."""
    n, few = row.order.size, row.order.size <= _FEW
    p = row.p[row.order]
    kept = np.flatnonzero(solved.support[row.order])
    peak = max(float(p.max()), float(solved.q.max()))
    places = places_of(n, kept)
    q = np.where(solved.support, solved.q, np.nan)[row.order]
    visible = np.concatenate([p[p > _SMALLEST * peak], q[q > _SMALLEST * peak]])
    low = min(0.7 * float(visible.min()), peak / 12)
    marks: dict[str, Any] = {"markersize": 4.5 if few else 3.5}
    ranks = places + 1
    axes.plot(ranks, p[places], color=P_EDGE, linestyle=(0, (4, 2)), linewidth=1.4, marker="o" if few else "",
              markerfacecolor="white", label="p", **marks)  # fmt: skip
    rank, values = kept_curve(places, solved.support[row.order], q)
    dots = "o" if kept.size <= 40 else "." if np.isnan(rank).any() else ""
    axes.plot(rank, values, color=Q_INK, linewidth=1.6, marker=dots, label="q", **marks)
    tidy(axes)
    if few:
        axes.set_xlim(0.6, n + 0.4 + 0.06 * n)
        axes.set_xticks(range(1, n + 1, 1 + n // 11))
    else:
        log_axis(axes.xaxis, 0.9, 2.2 * n)
    log_axis(axes.yaxis, low, peak * (peak / low) ** 0.22, last_tick=1.0)  # room for a name above the curves
    axes.set(xlabel="rank of the token by p" + ("" if few else " (log scale)"), ylabel="probability (log scale)")
    axes.set_title("All tokens, by rank")
    _curve_names(axes, n, p, q, kept)


def _curve_names(axes: Axes, n: int, p: NDArray[Any], q: NDArray[Any], kept: NDArray[Any]) -> None:
    """Name the curves where they are, and say how many tokens are kept."""
    floor = axes.get_ylim()[0]
    if np.allclose(np.nan_to_num(q), p, rtol=1e-5, atol=1e-300):
        seen = np.flatnonzero(p >= floor)
        at = int(seen[seen.size // 2] if n <= _FEW else min(seen[-1], int(n**0.5)))
        _name_beside(axes, at + 1, float(p[at]), "q = p", True)
        return
    seen = kept[q[kept] >= floor]
    tail = int(np.flatnonzero(p >= floor)[-1])
    if int(seen[-1]) == tail:
        name_ends(axes, [(tail + 1, float(p[tail]), "p", MUTED), (tail + 1, float(q[tail]), "q", Q_INK)])
    else:  # where the curves are furthest apart, but not at the lower edge, there is room for a name
        name_ends(axes, [(tail + 1, float(p[tail]), "p", MUTED)])
        inside = seen[q[seen] >= floor**0.85 * float(p.max()) ** 0.15]
        inside = inside if inside.size else seen
        at = int(inside[int(np.argmax(np.abs(np.log(q[inside] / p[inside]))))])
        _name_beside(axes, at + 1, float(q[at]), "q", bool(q[at] > p[at]))
    last = int(kept[-1])
    if kept.size < n and kept.size == last + 1:
        mark_cut(axes, last + 1.5 if n <= _FEW else math.sqrt((last + 1) * (last + 2)), f"{kept.size:,} kept")


def _name_beside(axes: Axes, x: float, y: float, text: str, above: bool) -> None:
    axes.annotate(
        text, (x, y), xytext=(5, 4) if above else (-5, -4), textcoords="offset points", color=Q_INK,
        ha="left" if above else "right", va="bottom" if above else "top", fontsize=SMALL, fontweight="bold",
        path_effects=halo(),
    )  # fmt: skip


def _link(axes: Axes, row: Row, solved: Solved, best: NDArray[Any]) -> None:
    """Draw q and p against the score, and where the kept scores begin."""
    problem = solved.decoder.problem
    score, name = scores_of(problem, row)
    kept = solved.support[best]
    x, q = score[best], solved.q[best]
    axes.plot(x, row.p[best], color=P_EDGE, linestyle=(0, (4, 2)), linewidth=1.2, marker="o", markersize=4,
              markerfacecolor="white", label="p")  # fmt: skip
    axes.plot(x[kept], q[kept], color=Q_INK, linewidth=1.2, marker="o", markersize=4.5, label="q")
    axes.plot(x[~kept], q[~kept], color=Q_INK, linestyle="", marker="x", markersize=4.5, label="dropped",
              clip_on=False, zorder=4)  # fmt: skip
    tidy(axes)
    same = math.isclose(float(q[0]), float(row.p[best[0]]), rel_tol=1e-5)
    width = float(np.ptp(x)) or 1.0
    axes.set_xlim(float(x.min()) - 0.06 * width, float(x.max()) + (0.2 if same else 0.12) * width)
    axes.set_ylim(0, 1.3 * max(float(row.p[best].max()), float(q.max())))
    axes.locator_params(axis="x", nbins=6)
    axes.set(xlabel=name, ylabel="probability")
    axes.set_title("From score to probability")
    ends = [(float(x[0]), float(row.p[best[0]]), "p", MUTED), (float(x[0]), float(q[0]), "q", Q_INK)]
    name_ends(axes, [(*ends[1][:2], "q = p", Q_INK)] if same else ends)
    _cut(axes, problem, solved, score, row)


def scores_of(problem: Problem, row: Row) -> tuple[NDArray[Any], str]:
    """Return the weighted scores of all tokens, in the units of the threshold, and what they are."""
    raw = problem.scores == "raw" or problem.temperature in (0.0, 1.0)
    score = row.logits if raw else row.logits / problem.temperature
    name = "score s = x, the logit (nats)" if raw else f"score s = x / {problem.temperature:g} (nats)"
    if problem.score_weight != 1:
        return problem.score_weight * score, name.replace("score s =", f"score {problem.score_weight:g} s, s =")
    return score, name


def threshold_score(problem: Problem, solved: Solved, score: NDArray[Any], row: Row) -> float | None:
    """Return the score at which q reaches 0, if it is the dual threshold that drops tokens and not a rule.

    That is eta + dOmega/dq at q = 0, where this is the same finite number for all tokens; believed only where the
    solution keeps the scores above it and drops those below.
    """
    terms = () if problem.regularizer is None else problem.regularizer.terms()
    slope = 0.0
    for scale, term in terms:
        if isinstance(term, Tsallis) and term.alpha > 1:
            slope -= scale / (term.alpha * (term.alpha - 1.0))
        elif not isinstance(term, Quadratic):
            return None
    if not terms:
        return None
    cut = float(solved.solution.threshold) + slope
    kept, dropped = score[solved.support], score[row.allowed & ~solved.support]
    slack = 1e-5 * max(1.0, abs(cut))
    below = float(dropped.max()) if dropped.size else -math.inf
    return cut if below - slack <= cut <= float(kept.min()) + slack else None


def _cut(axes: Axes, problem: Problem, solved: Solved, score: NDArray[Any], row: Row) -> None:
    cut = threshold_score(problem, solved, score, row)
    low, high = axes.get_xlim()
    if cut is not None:
        eta = float(solved.solution.threshold)
        shift = "" if cut == eta else f" {'−' if cut < eta else '+'} {number(abs(cut - eta), 3)}"
        text = f"kept above\nη{shift} = {number(cut)}"
    else:
        kept, dropped = score[solved.support], score[row.allowed & ~solved.support]
        if not dropped.size or float(dropped.max()) > float(kept.min()):
            return
        cut = 0.5 * (float(kept.min()) + float(dropped.max()))
        text = "kept →" if kept.min() > dropped.max() else "some of a tie are kept"
    if low < cut < high:
        mark_cut(axes, cut, text)


# --------------------------------------------------------------------------------------------------------------- words


def _words(sheet: Axes, row: Row, solved: Solved) -> None:
    columns = (("Support", support_words(row, solved)), ("Spread", _spread_words(row, solved)),
               ("Certificate", certificate_words(solved)))  # fmt: skip
    for (left, right), (heading, lines) in zip(((0.0, 2.2), (2.32, 4.4), (4.52, 7.08)), columns, strict=True):
        sheet.plot([left, right], [0.0, 0.0], color=P_EDGE, linewidth=0.7, clip_on=False)
        write(sheet, left, 0.21, heading, fontsize=BASE, fontweight="bold")
        for line, text in enumerate(lines):
            write(sheet, left, 0.43 + 0.2 * line, fitted(text, right - left, SMALL))


def support_words(row: Row, solved: Solved) -> list[str]:
    """Return which tokens are kept, their model mass, and what chose them."""
    allowed = row.order.size
    kept = f"{solved.size:,} of {count(allowed)} kept" if solved.size < allowed else f"all {allowed:,} tokens kept"
    if allowed == 1:
        kept = "the only token, kept"
    return [kept, f"{percent(float(solved.solution.kept_mass))} of the model's mass", _why(row, solved)]


def _why(row: Row, solved: Solved) -> str:
    """Return what chose the support."""
    problem = solved.decoder.problem
    if solved.size == row.order.size:
        return "none is dropped"
    if problem.regularizer is None:
        return "the best score takes all"
    if threshold_score(problem, solved, scores_of(problem, row)[0], row) is not None:
        return "the threshold η decides"
    rules = () if problem.support is None else problem.support.members()
    return "chosen by rule, from the scores" if any(rules) else "the optimum itself is sparse"


def _spread_words(row: Row, solved: Solved) -> list[str]:
    p, log_p = row.p[row.allowed], row.log_p[row.allowed]
    model = 0.0 - float(np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0).sum())
    entropy, kl = float(solved.solution.entropy), float(solved.solution.kl)
    given = solved.decoder.problem.regularizer is not None and any(
        getattr(term, "anchor", None) == "given" for _, term in solved.decoder.problem.regularizer.terms()
    )
    return [
        f"entropy {number(entropy)} nats (p: {number(model)})",
        f"as wide as {number(math.exp(entropy), 3)} equal tokens" if entropy > 0.005 else "as wide as 1 token",
        f"KL(q‖{'anchor' if given else 'p'}) {number(kl)} nats",
    ]


def certificate_words(solved: Solved) -> list[str]:
    """Return how far from optimal q can be, on what, and the dual value."""
    certificate = solved.solution.certificate()
    return [
        f"gap {number(float(certificate.gap), 2)}: no q gains more",
        f"scope: {certificate.scope}",
        f"threshold η = {number(float(solved.solution.threshold))}",
    ]
