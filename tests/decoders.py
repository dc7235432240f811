"""Decoders that cover every plan and the range of its parameters; shared by the parity and certificate tests."""

from __future__ import annotations

import optdecode as od
from user_terms import Above, DualQuadratic, GroupBalance

LAMBDAS = (1e-3, 0.1, 1.0, 30.0, 1e3)


def softmax_decoders() -> list[od.Decoder]:
    """Closed forms: argmax, softmax, faces, anchors."""
    plain = [
        od.greedy(),
        od.Decoder(od.Problem(support=od.Typical(0.35), temperature=2.0)),
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
        od.Typical(0.2),
        od.Typical(0.92),
        od.Typical(0.5, measured_on="raw"),
        od.TopH(),
        od.TopH(0.9),
        od.TopH(0.7, measured_on="raw") & od.TopK(40),
    )
    chains = (
        od.Chain(od.TopK(20), od.TopP(0.8)),
        od.Chain(od.TopP(0.9), od.TopP(0.9, measured_on="raw"), od.MinP(0.05)),
        od.Chain(od.MinP(0.01), od.Epsilon(0.02)) & od.TopK(9),
        od.Chain(od.TopK(30), od.Eta(0.1), od.TopNSigma(1.0), od.PLess()),
        od.Chain(od.TopK(40), od.Typical(0.7), od.TopP(0.85)),
        od.Chain(od.Typical(0.85), od.TopK(9), od.TopH(0.6)),
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
        od.sparsemax(5.0).subject_to(od.Typical(0.35)),
    ]
    return plain + faces


def coverage_decoders() -> list[od.Decoder]:
    """Best-of-K: budgets, weights, anchors' strengths, the limits lam = 0 and beta = 0."""
    budgets = [od.best_of_k(k, beta=2.0, lam=0.5, weights="uniform") for k in (1, 2, 3, 4, 8, 64, 1000, 4096)]
    weights = [od.best_of_k(8, beta=1.0, weights=w) for w in ("model", "uniform", "rank", od.TopK(3), od.MinP(0.3))]
    weights.append(od.best_of_k(8, beta=1.0, weights=od.Typical(0.35)))
    strengths = [od.best_of_k(16, beta=beta, lam=lam, weights="uniform") for lam in LAMBDAS for beta in (0.02, 5.0)]
    heavy = [od.best_of_k(k, beta_bar=30.0, lam=1e-2, weights="uniform") for k in (2, 8, 4096)]
    others = [
        od.best_of_k(8, beta=0.0),
        od.best_of_k(8, beta=1.0, score_weight=0.0),
        od.best_of_k(8, beta=1.0, score_weight=-1.0, temperature=2.0, scores="raw"),
        od.best_of_k(8, beta_bar=2.0, lam=1.0).subject_to(od.TopK(4)),
        od.best_of_k(8, beta_bar=2.0, lam=1.0).subject_to(od.Typical(0.35)),
    ]
    water = [
        od.best_of_k(k, beta_bar=3.0, lam=0.0, weights=w) for k in (1, 2, 3, 8, 4096) for w in ("model", "uniform")
    ]
    water.append(od.best_of_k(8, beta_bar=3.0, lam=0.0, weights=od.TopK(2)))
    return budgets + weights + strengths + heavy + others + water


def mirror_decoders() -> list[od.Decoder]:
    """Algorithm 1 with its own and with the guaranteed step size, without a KL term, at the paper's settings."""
    runs = [(steps, eta) for steps in (1, 5, 20) for eta in (0.1, 1.0, "auto")]
    plain = [od.best_of_k(8, beta=0.5, lam=0.5, solver=od.MirrorAscent(steps, eta)) for steps, eta in runs]
    plain.append(od.best_of_k(8, beta=0.5, lam=0.5, solver=od.MirrorAscent(10_000, "auto", tolerance=1e-7)))
    linear = [
        od.best_of_k(64, beta_bar=1.0, lam=0.0, weights="uniform", solver=od.MirrorAscent(5, 0.3)),
        od.best_of_k(lam=0.0, beta_bar=1.0, solver=od.MirrorAscent(5, 0.3)).twin(),
    ]
    paper = [od.paper_best_of_k(0.05, 0.5, 0.9), od.paper_best_of_k(scores="tempered", model="raw", weights="rank")]
    return [*plain, *linear, *paper]


def _decoder(regularizer: od.Regularizer | None, *constraints: od.Support, **problem: object) -> od.Decoder:
    return od.Decoder(od.Problem(regularizer, **problem)).subject_to(*constraints)


def sum_decoders() -> list[od.Decoder]:
    """The scalar dual: every term, alone where it has no solver of its own, in sums and differences, under caps."""
    a, b = od.NegEntropy(), od.Quadratic()
    divergences = [
        *(od.ChiSquare(), od.ReverseKL(), od.AlphaDivergence(1.0)),
        *(od.AlphaDivergence(alpha) for alpha in (-16.0, -1.5, 0.5, 1.001, 3.0, 16.0)),
    ]
    alone = [_decoder(lam * term) for term in divergences[:3] for lam in (1e-3, 1.0, 1e3)]
    alone += [_decoder(0.5 * term) for term in divergences[3:]]
    alone += [_decoder(-c * od.LogCoverage(k, w)) for c, k, w in [(0.1, 1, "uniform"), (2.0, 8, "model")]]
    sums = [
        0.5 * a + 0.5 * b,
        1e-3 * od.KL() + od.Tsallis(1.5),
        od.KL() + 0.2 * a - 0.5 * od.Coverage(8, "uniform"),
        od.ChiSquare() + 0.1 * od.ReverseKL() - 0.2 * od.LogCoverage(64),
        0.3 * od.Tsallis(3.0) + 0.1 * od.AlphaDivergence(0.5) - 3.0 * od.Coverage(4096, od.TopK(3)),
        b - od.Coverage(4, "rank"),
    ]
    differences = [a - 0.9 * b, a - 0.999 * b, od.KL() - 0.9 * a, od.Tsallis(1.5) - 0.5 * b, od.KL() - a]
    capped = [
        *(_decoder(lam * term, od.Cap(cap)) for term in (a, b, od.KL()) for lam, cap in [(0.1, 0.4), (30.0, 0.07)]),
        *(_decoder(term, od.Cap(0.3)) for term in (od.Tsallis(1.3), od.Tsallis(3.0), od.ChiSquare(), od.ReverseKL())),
        *(_decoder(lam * od.KL() - 3.0 * od.Coverage(8), od.Cap(0.2)) for lam in (1e-2, 1.0)),
        *(_decoder(-1.0 * od.Coverage(k, w), od.Cap(0.4)) for k, w in [(1, "model"), (2, "uniform"), (64, "model")]),
        _decoder(a - 0.9 * b, od.Cap(0.5), od.TopK(7)),
    ]
    faces = [
        _decoder(0.4 * a + 0.2 * od.ChiSquare(), od.TopK(9), od.MinP(0.01), score_weight=-0.5, temperature=2.0),
        _decoder(od.ReverseKL() - 0.1 * od.Coverage(3), od.TopK(4), scores="raw", temperature=0.7, score_weight=0.0),
    ]
    return [*alone, *map(_decoder, sums), *map(_decoder, differences), *capped, *faces]


def fill_decoders() -> list[od.Decoder]:
    """The greedy fill."""
    caps = [_decoder(None, od.Cap(cap)) for cap in (0.9, 0.5, 0.3, 1 / 3, 0.11, 1 / 31)]
    return [*caps, _decoder(None, od.Cap(0.4), od.TopK(3), score_weight=2.0, temperature=0.5)]


def price_decoders() -> list[od.Decoder]:
    """The number of tokens at a price."""
    bases = (0.7 * od.NegEntropy(), od.KL(), 3.0 * od.Quadratic(), od.Tsallis(1.3), 30.0 * od.Tsallis(2.5))
    plain = [_decoder(base + price * od.L0()) for base in bases for price in (1e-3, 0.037, 1.3)]
    return [*plain, _decoder(od.NegEntropy() + 0.0123 * od.L0(), od.TopK(6), temperature=1.5)]


def target_decoders() -> list[od.Decoder]:
    """Multipliers found for a target, around every kind of solver that may have one."""
    closed = [_decoder(term, od.Entropy(h)) for term in (od.NegEntropy(), 0.1 * od.KL()) for h in (0.0, 0.3, 1.0, 3.0)]
    closed += [_decoder(od.KL(), od.Divergence(eps)) for eps in (0.0, 0.01, 0.7, 5.0)]
    others = [
        _decoder(od.Quadratic(), od.Entropy(0.9)),
        _decoder(od.Tsallis(1.5), od.Entropy(1.5)),
        _decoder(od.NegEntropy(), od.Entropy(1.2), od.TopK(5), temperature=0.6),
        _decoder(0.5 * od.KL() - 0.1 * od.Coverage(8), od.Entropy(0.5)),
    ]
    duals = [
        _decoder(od.ChiSquare(), od.Divergence(0.3)),
        _decoder(od.NegEntropy(), od.Entropy(1.3), od.Cap(0.5)),
        _decoder(od.NegEntropy() + od.Quadratic(), od.Entropy(1.0)),
    ]
    return closed + others + duals


def family_decoders() -> list[od.Decoder]:
    """The general family: sums of terms, caps, prices and targets."""
    return sum_decoders() + fill_decoders() + price_decoders() + target_decoders()


def user_decoders() -> list[od.Decoder]:
    """Code of a user's own: beside an entropy, with a support of its own, by its scalar dual."""
    return [
        od.Decoder(od.Problem(od.NegEntropy() + 5.0 * GroupBalance((0.2, 0.3, 0.5)), temperature=0.7)),
        od.softmax(0.8).subject_to(Above(1e-9), od.TopK(100)),
        od.Decoder(od.Problem(3.0 * DualQuadratic())),
    ]


def all_decoders() -> list[od.Decoder]:
    """Every decoder above."""
    special = softmax_decoders() + threshold_decoders() + coverage_decoders() + mirror_decoders()
    return special + family_decoders() + user_decoders()
