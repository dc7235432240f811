"""What is asked of the figures: V = 151,936, float32, one row at a time, one thread, a machine with AVX-512."""

from collections.abc import Iterable, Mapping

from optdecode._bench.report import number
from optdecode._bench.rounds import Cell, Timing

#: Where.
BARS_CELL = Cell("lm", "f32", 151_936, 1)

#: Decoder: at most so many F1 on LM-like rows, and on flat ones.
RATIOS = {
    "greedy": (1.1, 1.1),
    "softmax draw": (1.15, 1.15),
    "top-k 50": (1.3, 1.3),
    "T .8 + k 50 + p .95": (1.3, 1.3),
    "T .8, k 50, then p .95": (1.3, 1.3),
    "min-p .05": (1.25, 2.2),
    "sparsemax": (1.25, 1.35),
    "entmax 1.5": (1.25, 1.5),
    "top-p .95": (1.8, 4.5),
    "best of 8": (1.35, 2.6),
    "best of 8, uniform": (1.6, 2.6),
    "full softmax": (2.8, 2.8),
    "full best of 8": (3.5, 4.5),
}

#: (decoder, peer): on LM-like rows the decoder takes at most 1 / so much of the peer's time.
SPEEDUPS = {
    ("greedy", "llama.cpp greedy, filling"): 8,
    ("greedy", "vLLM CPU greedy"): None,
    ("greedy", "torch max"): None,
    ("softmax draw", "llama.cpp dist"): 40,
    ("softmax draw", "vLLM CPU draw"): 40,
    ("softmax draw", "torch softmax + multinomial"): 100,
    ("softmax draw", "torch softmax + exponential race"): None,
    ("top-k 50", "llama.cpp top-k 50 + dist, filling"): None,
    ("top-k 50", "vLLM CPU top-k 50"): 20,
    ("top-k 50", "transformers top-k 50"): 100,
    ("top-k 50", "torch top-k 50 + multinomial"): None,
    # These measure p on what k leaves.
    ("T .8, k 50, then p .95", "llama.cpp default chain, filling"): 6,
    ("T .8, k 50, then p .95", "vLLM CPU T .8 + k 50 + p .95"): 20,
    ("T .8, k 50, then p .95", "transformers T .8 + k 50 + p .95"): 100,
    ("min-p .05", "llama.cpp min-p .05 + dist, filling"): 10,
    ("min-p .05", "vLLM CPU min-p .05"): None,
    ("min-p .05", "transformers min-p .05"): 100,
    ("sparsemax", "entmax sparsemax, k = 512"): 20,
    ("sparsemax", "entmax sparsemax, exact"): 500,
    ("entmax 1.5", "entmax entmax15, k = 512"): 20,
    ("entmax 1.5", "entmax entmax15, exact"): 500,
    ("entmax 1.5", "entmax bisect 1.5"): None,
    ("entmax 1.3", "entmax bisect 1.3"): None,
    ("top-p .95", "llama.cpp top-p .95 + dist"): 200,
    ("top-p .95", "vLLM CPU top-p .95"): 200,
    ("top-p .95", "transformers top-p .95"): 200,
    ("top-p .95", "torch sort + top-p .95 + multinomial"): None,
    ("best of 8", "torch 5 mirror steps"): 150,
    ("best of 8", "torch 5 mirror steps + multinomial"): None,
    ("top-n-sigma 1", "llama.cpp top-n-sigma 1 + dist, filling"): None,
    ("full softmax", "torch softmax"): 1,
}


def speedup_lines(timings: Iterable[Timing], judged: bool) -> list[str]:
    """Lay out how many times faster each decoder is than each peer, in one cell; bars only where they are judged."""
    found = {timing.name: timing for timing in timings}
    missing = {timing.source: timing.reason for timing in found.values() if timing.reason}
    lines = ["| decoder | peer | peer, µs | times faster | bar | met |", "|---|---|---:|---:|---:|---|"]
    for (name, peer), wanted in SPEEDUPS.items():
        if name not in found:
            continue
        bar = wanted if judged else None
        ours, theirs = found[name].microseconds, found[peer].microseconds if peer in found else None
        asked = "–" if bar is None else str(bar)
        if ours is None or theirs is None:
            reason = found[peer].reason if peer in found else _reason(peer, missing)
            lines.append(f"| {name} | {peer} | not run: {reason} | – | {asked} | – |")
            continue
        faster = theirs.median / ours.median
        met = "–" if bar is None else "yes" if faster >= bar else "no"
        lines.append(f"| {name} | {peer} | {number(theirs.median)} | {number(faster)} | {asked} | {met} |")
    return lines


def _reason(peer: str, missing: Mapping[str, str]) -> str:
    family = peer.partition(" ")[0].lower().replace(".", "").replace("-", "")
    for source, reason in missing.items():
        if source.lower().replace("-", "").startswith(family):
            return reason
    return "left out"


def bar(name: str, kind: str) -> float | None:
    """Return the bar of a decoder's ratio on a kind of rows, if there is one."""
    if name not in RATIOS or kind not in ("lm", "flat"):
        return None
    return RATIOS[name][kind == "flat"]
