"""The float64 reference on the face that another backend chose, where a sum may decide either way."""

import numpy as np

import optdecode as od

SUM_RULES = {"top_p", "p_less", "epsilon", "eta", "top_n_sigma", "top_h", "typical"}


def solve_reference(decoder, rows, other, **arguments):
    """Solve by the reference; where a sum put a boundary token elsewhere, on the face that `other` returned."""
    solution = decoder(rows, backend="reference", on_failure="mark", **arguments)
    rules = {rule for chain in (decoder.plan.supports, *decoder.plan.chains) for rule, *_ in chain}
    if not SUM_RULES & rules or decoder.plan.kind is not od.PlanKind.FACE_SOFTMAX:
        return np.asarray(solution.probs), np.asarray(solution.status)
    probs = np.array(solution.probs)
    for row in np.flatnonzero((solution.support != np.asarray(other.support)).any(axis=-1)):
        differing = np.asarray(solution.support[row] != np.asarray(other.support)[row])
        assert_near_boundary(decoder, rows[row], differing)
        unsupported = od.Decoder(od.Problem(decoder.problem.regularizer, temperature=decoder.problem.temperature))
        probs[row] = unsupported(rows[row], mask=np.asarray(other.support[row]), backend="reference").probs
    return probs, np.asarray(solution.status)


def assert_near_boundary(decoder, row, differing):
    """The tokens on which the faces differ all lie within 1e-6 of one another, at the threshold.

    That of a typical set is a distance from the mean score, on either side of it.
    """
    x = row[differing].astype(np.float64)
    scale = max(1.0, np.abs(x).max())
    for name, _, raw in decoder.plan.supports:
        if name == "typical":
            x = np.abs(x - mean_score(row[row > -np.inf].astype(np.float64), 1.0 if raw else decoder.plan.temperature))
    assert np.ptp(x) <= 1e-6 * scale, (decoder, x)


def mean_score(x, temperature):
    p = np.exp((x - x.max()) / temperature)
    return x.max() + (p / p.sum())[p > 0] @ (x - x.max())[p > 0]
