"""Calls of the compiled module with everything but the point of interest filled in; shared by its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np

from optdecode import _core

OK, INFEASIBLE, NAN_SCORES = 0, 2, 3
KINDS = (
    "argmax",
    "softmax",
    "face_softmax",
    "anchored_softmax",
    "threshold_quadratic",
    "threshold_tsallis",
    "coverage_dual",
    "coverage_waterfill",
    "mirror",
    "separable_dual",
    "greedy_fill",
    "adaptive_k",
)
TERMS = {
    "separable_dual": [
        ("kl", 0.5, 1.0, "model"),
        ("divergence", 0.3, 2.0, "model"),
        ("log_coverage", 0.1, 1.0, "none"),
    ],
    "adaptive_k": [("entropy", 0.5, 1.0, "none")],
}


def plan_settings(kind: str = "softmax", **changes: Any) -> dict[str, Any]:
    """Every keyword of a plan."""
    anchored = kind in ("anchored_softmax", "coverage_dual", "mirror", "separable_dual")
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "score_weight": 1.0,
        "raw_scores": False,
        "lam": 0.0 if kind in ("argmax", "coverage_waterfill") else 0.5,
        "alpha": 1.5,
        "beta_bar": 0.3,
        "budget": 4,
        "weights": "model",
        "weight_values": None,
        "weight_supports": [],
        "anchor": "model" if anchored else "none",
        "steps": 5,
        "eta": None,
        "tolerance": None,
        "terms": TERMS.get(kind, []),
        "price": 0.05,
        "cap": 0.4 if kind in ("separable_dual", "greedy_fill") else 1.0,
        "target": None,
        "supports": [("top_k", 3, False)] if kind == "face_softmax" else [],
        "chains": [],
        "allowed": None,
    }
    return settings | changes


def make_plan(kind: str = "softmax", **changes: Any) -> _core.Plan:
    return _core.Plan(kind, **plan_settings(kind, **changes))


SOFTMAX = make_plan(lam=1.0)


def solve(plan: _core.Plan, logits: np.ndarray, dtype: str | None = None, **given: Any) -> tuple[np.ndarray, ...]:
    tag = dtype or {"float64": "f64", "float32": "f32"}[logits.dtype.name]
    optional = [given.pop(name, None) for name in ("mask", "anchor", "weights", "budget")]
    threads = given.pop("threads", 1)
    assert not given
    return _core.solve(plan, logits, tag, *optional, threads)


def sample(
    plans: list[_core.Plan],
    logits: np.ndarray,
    dtype: str | None = None,
    n: int = 1,
    coupling: str = "iid",
    **given: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, log-probabilities and status."""
    tag = dtype or {"float64": "f64", "float32": "f32"}[logits.dtype.name]
    optional = [given.pop(name, None) for name in ("mask", "anchor", "weights", "budget")]
    rows = len(logits)
    seeds = given.pop("seeds", np.arange(rows, dtype=np.uint64))
    positions = given.pop("positions", np.zeros(rows, dtype=np.uint64))
    threads = given.pop("threads", 1)
    assert not given
    return _core.sample(plans, logits, tag, *optional, seeds, positions, n, coupling, threads)[:3]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """Truncate; the callers' values are exact in bfloat16."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def pack(mask: np.ndarray) -> np.ndarray:
    rows, vocabulary = mask.shape
    padded = np.zeros((rows, -(-vocabulary // 32) * 32), dtype=bool)
    padded[:, :vocabulary] = mask
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def run_script(
    script: str, environment: dict[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    env = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
