"""Draws by an inverse CDF in integers, as the Rust core draws: tokens are a function of q, the seed and the position.

A probability q becomes the mass ``round(q 2^62)``, M is the sum of the masses, a 64-bit uniform r hits the target
``floor(r M / 2^64)``, and the token is the first whose cumulative mass exceeds it. Integer sums do not depend on the
order in which they are formed, so equal q give equal tokens on every device.

Rounding bound. A token differs from another backend's where the uniform is that close to a boundary of the CDF: of
float64 rows where probabilities differ by rounding, 1e-12; of narrower rows by 3e-6, as exponentials in float32 have
relative errors of 2^-24 (1 + |s - max s|) here, and of 3e-6 in the Rust core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optdecode.backends.torch._philox import scaled, uniforms


def draw(q: Tensor, log_q: Tensor, seeds: Tensor, positions: Tensor, n: int, coupling: str) -> tuple[Tensor, Tensor]:
    """Draw n tokens a row.

    Parameters
    ----------
    q, log_q : Tensor, shape (B, V)
        float32 or float64.
    seeds, positions : Tensor of int64, shape (B,)
        By their 64 bits.
    n : int
        Draws a row.
    coupling : {"iid", "systematic"}
        How the draws of a row hang together.

    Returns
    -------
    tuple of Tensor
        Tokens (B, n), and log q of them.
    """
    cumulative = (q * 2.0**62).round().to(torch.int64).cumsum(-1)
    hit = scaled(uniforms(seeds, positions, n, coupling), cumulative[:, -1:])
    tokens = torch.searchsorted(cumulative, hit, right=True).clamp(max=q.shape[-1] - 1)
    return tokens, log_q.gather(-1, tokens)
