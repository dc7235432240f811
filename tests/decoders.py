"""Decoders that cover every plan and the range of its parameters; shared by the parity and certificate tests."""

from __future__ import annotations

import optdecode as od
from user_terms import Above, DualQuadratic, GroupBalance

LAMBDAS = (1e-3, 0.1, 1.0, 30.0, 1e3)


def softmax_decoders() -> list[od.Decoder]:
    """Closed forms: argmax, softmax, faces, anchors."""
    plain = [
        od.greedy(),
        *(od.softmax(lam) for lam in LAMBDAS),
        od.Decoder(od.Problem(0.5 * od.NegEntropy(), score_weight=-2.0)),
    ]
    ordered = [
        od.top_k(1),
        od.top_k(5, 0.7),
        od.top_k(1000),
        od.min_p(0.1, 2.0),
        od.top_p(0.9),
        od.top_p(0.3, 5.0),
        od.top_p(1.0),
    ]
    rules = (
        od.TopNSigma(1.0),
        od.PLess(),
        od.Epsilon(0.01),
        od.Eta(0.02),
        od.TopP(0.8, measured_on="raw") & od.TopK(7),
    )
    chains = (
        od.Chain(od.TopK(20), od.TopP(0.8)),
        od.Chain(od.TopP(0.9), od.TopP(0.9, measured_on="raw"), od.MinP(0.05)),
        od.Chain(od.MinP(0.01), od.Epsilon(0.02)) & od.TopK(9),
        od.Chain(od.TopK(30), od.Eta(0.1), od.TopNSigma(1.0), od.PLess()),
    )
    faces = [od.softmax(0.8).subject_to(rule) for rule in (*rules, *chains)]
    anchors = [
        od.Decoder(od.Problem(lam * od.KL(), score_weight=weight)) for lam in (1e-3, 1.0, 1e3) for weight in (0.0, 1.0)
    ]
    return plain + ordered + faces + anchors


def threshold_decoders() -> list[od.Decoder]:
    """Sparse decoders: sparsemax and entmax of every kind of alpha."""
    alphas = (1.0001, 1.1, 1.5, 1.7, 2.0, 2.5, 3.0)
    plain = [od.sparsemax(lam) for lam in LAMBDAS] + [
        od.entmax(alpha, lam) for alpha in alphas for lam in (0.01, 1.0, 300.0)
    ]
    faces = [
        od.sparsemax(30.0).subject_to(od.Chain(od.TopK(30), od.TopP(0.85))),  # no k of n equal tokens reach it exactly
        od.sparsemax(30.0).subject_to(od.TopK(3)),
        od.entmax(1.3, 5.0).subject_to(od.TopP(0.7), od.MinP(0.1)),
    ]
    return plain + faces


def coverage_decoders() -> list[od.Decoder]:
    """Best-of-K: budgets, weights, anchors' strengths, the limits lam = 0 and beta = 0."""
    budgets = [od.best_of_k(k, beta=2.0, lam=0.5, weights="uniform") for k in (1, 2, 3, 4, 8, 64, 1000, 4096)]
    weights = [od.best_of_k(8, beta=1.0, weights=w) for w in ("model", "uniform", "rank", od.TopK(3), od.MinP(0.3))]
    strengths = [od.best_of_k(16, beta=beta, lam=lam, weights="uniform") for lam in LAMBDAS for beta in (0.02, 5.0)]
    heavy = [od.best_of_k(k, beta_bar=30.0, lam=1e-2, weights="uniform") for k in (2, 8, 4096)]
    others = [
        od.best_of_k(8, beta=0.0),
        od.best_of_k(8, beta=1.0, score_weight=0.0),
        od.best_of_k(8, beta=1.0, score_weight=-1.0, temperature=2.0, scores="raw"),
        od.best_of_k(8, beta_bar=2.0, lam=1.0).subject_to(od.TopK(4)),
    ]
    water = [
        od.best_of_k(k, beta_bar=3.0, lam=0.0, weights=w) for k in (1, 2, 3, 8, 4096) for w in ("model", "uniform")
    ]
    water.append(od.best_of_k(8, beta_bar=3.0, lam=0.0, weights=od.TopK(2)))
    return budgets + weights + strengths + heavy + others + water


def mirror_decoders() -> list[od.Decoder]:
    """Algorithm 1 with its own and with the guaranteed step size."""
    runs = [(steps, eta) for steps in (1, 5, 20) for eta in (0.1, 1.0, "auto")]
    plain = [od.best_of_k(8, beta=0.5, lam=0.5, solver=od.MirrorAscent(steps, eta)) for steps, eta in runs]
    return [*plain, od.best_of_k(64, beta_bar=1.0, lam=0.0, weights="uniform", solver=od.MirrorAscent(5, 0.3))]


def user_decoders() -> list[od.Decoder]:
    """Code of a user's own: beside an entropy, with a support of its own, by its scalar dual."""
    return [
        od.Decoder(od.Problem(od.NegEntropy() + 5.0 * GroupBalance((0.2, 0.3, 0.5)), temperature=0.7)),
        od.softmax(0.8).subject_to(Above(1e-9), od.TopK(100)),
        od.Decoder(od.Problem(3.0 * DualQuadratic())),
    ]


def all_decoders() -> list[od.Decoder]:
    """Every decoder above."""
    return softmax_decoders() + threshold_decoders() + coverage_decoders() + mirror_decoders() + user_decoders()
