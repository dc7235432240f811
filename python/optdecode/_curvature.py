"""Whether a difference of entropies is convex: the sign of a sum of powers, by interval arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

#: Intervals looked at before a sum that comes close to zero counts as negative.
_EFFORT = 20_000


def is_convex(powers: Sequence[tuple[float, float]]) -> bool:
    """Return whether ``sum c x^e`` is non-negative on all of (0, 1].

    Parameters
    ----------
    powers : sequence of (float, float)
        (c, e): coefficients and exponents of second derivatives.

    Returns
    -------
    bool
        True only where it is proved; a sum that touches zero between the ends counts as negative.
    """
    if not powers:
        return True
    least = min(exponent for _, exponent in powers)
    # Divided by x^least all exponents are >= 0, so each power is monotone and bounded by its values at the ends.
    shifted = [(coefficient, exponent - least) for coefficient, exponent in powers]
    intervals = [(0.0, 1.0)]
    for _ in range(_EFFORT):
        if not intervals:
            return True
        low, high = intervals.pop()
        if _lower_bound(shifted, low, high) >= 0.0:
            continue
        middle = 0.5 * (low + high)
        if _lower_bound(shifted, middle, middle) < 0.0:
            return False
        intervals += [(low, middle), (middle, high)]
    return False


def _lower_bound(powers: Sequence[tuple[float, float]], low: float, high: float) -> float:
    return float(sum(c * (low if c > 0.0 else high) ** e for c, e in powers))
