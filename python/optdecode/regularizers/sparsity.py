"""Prices of tokens: regularizers that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optdecode.regularizers.base import Context, Regularizer


@dataclass(frozen=True, repr=False)
class L0(Regularizer):
    r"""Number of tokens with probability, :math:`\|q\|_0`: a price a token, which makes top-k choose its own k.

    Not convex, and yet solved exactly beside one of `NegEntropy`, ``KL("model")``, `Quadratic` or `Tsallis`: the tokens
    kept are the k best for some k, and the value is concave in k (arXiv:2505.19371). A certificate holds on the face
    that they span, and says nothing of the choice of k.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> od.Decoder(od.Problem(od.NegEntropy() + 0.1 * od.L0()))(np.array([2.0, 1.0, -3.0])).support
    array([ True,  True, False])
    """

    def formula(self) -> str:
        return "|q|_0"

    def value(self, q: Any, ctx: Context) -> Any:
        return (q > 0.0).sum(axis=-1).astype(float)

    def gradient(self, q: Any, ctx: Context) -> Any:
        raise NotImplementedError("L0 has no gradient")
