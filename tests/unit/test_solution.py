"""What a Solution says about itself, against sums written out."""

import numpy as np
import pytest

import optdecode as od

DECODERS = [
    od.greedy(),
    od.softmax(0.7),
    od.top_k(9, temperature=0.7),
    od.sparsemax(2.0),
    od.entmax(1.3, temperature=2.0),
    od.entmax(2.5, temperature=2.0),
    od.best_of_k(8, beta=0.5, lam=0.5, temperature=0.8),
    od.best_of_k(8, beta_bar=1.5, lam=0.0, weights="uniform"),
    od.best_of_k(4, beta_bar=0.4, lam=0.5, weights="rank", score_weight=0.5, scores="raw", temperature=0.6),
    od.best_of_k(8, beta=0.5, lam=0.5, solver=od.MirrorAscent(3, 0.7)),
]


def omega(decoder, q, p, row):
    """The regularizer of a decoder at q, from its definition."""
    total = 0.0
    log_q = np.log(np.where(q > 0, q, 1.0))
    regularizer = decoder.problem.regularizer
    for coefficient, term in () if regularizer is None else regularizer.terms():
        match term:
            case od.NegEntropy():
                value = (q * log_q).sum()
            case od.Quadratic():
                value = (q**2).sum() / 2
            case od.Tsallis(alpha=alpha):
                value = (q**alpha - q).sum() / (alpha * (alpha - 1))
            case od.KL():
                value = (q * (log_q - np.log(p))).sum()
            case od.Coverage(budget=budget, weights=weights):
                ranks = np.empty(row.size)
                ranks[np.argsort(-row, kind="stable")] = np.arange(1, row.size + 1)
                w = {"model": p, "uniform": np.ones(row.size), "rank": 1 / ranks}[weights]
                value = (w * (1 - (1 - q) ** budget)).sum()
        total += coefficient * value
    return total


@pytest.mark.parametrize("backend", ["rust", "reference"])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_reported_numbers(decoder, backend):
    rows = np.random.default_rng(2).normal(size=(4, 60)) * 2
    solution = decoder(rows, backend=backend)
    assert solution.backend == backend
    temperature = decoder.problem.temperature
    for index, row in enumerate(rows):
        p = np.exp(row / temperature) / np.exp(row / temperature).sum()
        q = solution.probs[index]
        assert q.sum() == pytest.approx(1.0, abs=1e-12)
        scores = row if decoder.problem.scores == "raw" else row / temperature
        objective = decoder.problem.score_weight * (q * scores).sum() - omega(decoder, q, p, row)
        assert solution.objective[index] == pytest.approx(objective, rel=1e-10, abs=1e-10)
        positive = q > 0
        entropy = -(q[positive] * np.log(q[positive])).sum()
        assert solution.entropy[index] == pytest.approx(entropy, abs=1e-10)
        kl = (q[positive] * np.log(q[positive] / p[positive])).sum()
        assert solution.kl[index] == pytest.approx(kl, abs=1e-9)
        assert solution.kept_mass[index] == pytest.approx(p[solution.support[index]].sum(), abs=1e-12)
        assert solution.support_size[index] == solution.support[index].sum()
    np.testing.assert_allclose(np.exp(solution.log_probs), solution.probs, atol=1e-14)


@pytest.mark.parametrize("decoder", [d for d in DECODERS if d.plan.kind.is_exact], ids=repr)
def test_threshold_is_the_common_dual_value(decoder):
    row = np.random.default_rng(2).normal(size=60) * 2
    solution = decoder(row)
    certificate = solution.certificate()
    assert float(certificate.max_active_residual) < 1e-9
    assert float(certificate.max_inactive_violation) < 1e-9
    assert float(certificate.gap) < 1e-9
    assert certificate.scope == ("global" if decoder.problem.support is None else "optimal on the selected face")


def test_types_and_shapes():
    rows = np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float16)
    solution = od.entmax()(rows)
    assert solution.probs.dtype == np.float32
    assert solution.probs.shape == (2, 3, 50)
    assert np.asarray(solution.status).shape == (2, 3)
    assert solution.threshold.dtype == np.float64
    single = od.entmax()(rows[0, 0].astype(np.float64))
    assert single.probs.dtype == np.float64
    assert single.status is od.Status.OK
    assert isinstance(float(single.entropy), float)
    assert "THRESHOLD_TSALLIS" in repr(solution)


def test_call_time_budget_weights_and_anchor():
    rng = np.random.default_rng(4)
    rows, weights = rng.normal(size=(3, 40)), rng.random((3, 40))
    decoder = od.best_of_k(8, beta_bar=3.0, lam=1.0, weights="uniform")
    together = decoder(rows, budget=[1, 2, 64], weights=weights).probs
    for index, budget in enumerate([1, 2, 64]):
        alone = od.best_of_k(budget, beta_bar=3.0, lam=1.0, weights=weights[index])(rows[index])
        np.testing.assert_allclose(together[index], alone.probs, atol=1e-14)
    given = od.best_of_k(8, beta_bar=3.0, lam=1.0, weights="uniform", anchor="given")
    model = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(given(rows, anchor=model + 3.0).probs, decoder(rows).probs, atol=1e-13)
    forbids = np.where(np.arange(40) < 5, model, -np.inf)
    assert not given(rows, anchor=forbids).probs[:, 5:].any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_inputs_are_widened_exactly(dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = (np.random.default_rng(0).normal(size=(3, 500)) * 5).astype(kind)
    rows[0, :3] = np.array([6e-8, -np.inf, 0.0]).astype(kind)
    for decoder in DECODERS:
        narrow, wide = decoder(rows), decoder(rows.astype(np.float64))
        np.testing.assert_allclose(narrow.probs, wide.probs, rtol=3e-6, atol=1e-12)
        np.testing.assert_array_equal(
            decoder.sample(rows, seed=1, n=4).tokens, decoder.sample(rows.astype(np.float64), seed=1, n=4).tokens
        )
