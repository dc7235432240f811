"""The float64 reference on the face that another backend chose, where a sum may decide either way."""

from __future__ import annotations

import numpy as np

import optdecode as od

SUM_RULES = {"top_p", "p_less", "epsilon", "eta", "top_n_sigma"}


def solve_reference(decoder, rows, other):
    """Solve by the reference; where a sum put a boundary token elsewhere, on the face that `other` returned."""
    solution = decoder(rows, backend="reference")
    rules = {rule for chain in (decoder.plan.supports, *decoder.plan.chains) for rule, *_ in chain}
    if not SUM_RULES & rules or decoder.plan.kind is not od.PlanKind.FACE_SOFTMAX:
        return np.asarray(solution.probs)
    probs = np.array(solution.probs)
    support = np.asarray(other.support)
    for row in np.flatnonzero((solution.support != support).any(axis=-1)):
        differing = np.asarray(solution.support[row] != support[row])
        assert_near_boundary(decoder, rows[row], differing)
        unsupported = od.Decoder(od.Problem(decoder.problem.regularizer, temperature=decoder.problem.temperature))
        probs[row] = unsupported(rows[row], mask=support[row], backend="reference").probs
    return probs


def assert_near_boundary(decoder, row, differing):
    """The tokens on which the faces differ all lie within 1e-6 of one another, at the threshold."""
    x = row[differing].astype(np.float64)
    assert np.ptp(x) <= 1e-6 * max(1.0, np.abs(x).max()), (decoder, x)
