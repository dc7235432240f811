"""The decoders people know, each a `Problem` in one line."""

from __future__ import annotations

from typing import Any

from optdecode._decoder import Decoder
from optdecode._problem import MirrorAscent, Problem
from optdecode._spec import finite, in_range, one_of
from optdecode.errors import ProblemError
from optdecode.regularizers import KL, Coverage, NegEntropy, Quadratic, Tsallis
from optdecode.supports import MinP, TopK, TopP

#: Paper's beta that `best_of_k` uses when neither beta nor beta_bar is given.
DEFAULT_BETA = 0.02


def greedy() -> Decoder:
    """Return the decoder that always takes the most probable token (lowest id on ties).

    Returns
    -------
    Decoder
        Linear objective, no regularizer.
    """
    return Decoder(Problem())


def softmax(temperature: float = 1.0) -> Decoder:
    """Return plain temperature sampling.

    Parameters
    ----------
    temperature : float
        At least 0; 0 is greedy.

    Returns
    -------
    Decoder
        Shannon-entropy regularizer on the whole simplex.

    Examples
    --------
    >>> softmax(0.7)
    Decoder(problem=Problem(regularizer=NegEntropy(), temperature=0.7))
    """
    return Decoder(Problem(NegEntropy(), temperature=temperature))


def top_k(k: int, temperature: float = 1.0) -> Decoder:
    """Return softmax on exactly the k best tokens (score descending, index ascending).

    Parameters
    ----------
    k : int
        At least 1.
    temperature : float
        At least 0.

    Returns
    -------
    Decoder
        Shannon-entropy regularizer, support `TopK`.
    """
    return Decoder(Problem(NegEntropy(), support=TopK(k), temperature=temperature))


def top_p(p: float, temperature: float = 1.0) -> Decoder:
    """Return softmax on the nucleus: the smallest prefix of the order with model mass >= p.

    Parameters
    ----------
    p : float
        In (0, 1].
    temperature : float
        At least 0.

    Returns
    -------
    Decoder
        Shannon-entropy regularizer, support `TopP`.
    """
    return Decoder(Problem(NegEntropy(), support=TopP(p), temperature=temperature))


def min_p(p: float, temperature: float = 1.0) -> Decoder:
    """Return softmax on the tokens with at least p times the best token's probability.

    Parameters
    ----------
    p : float
        In [0, 1].
    temperature : float
        At least 0.

    Returns
    -------
    Decoder
        Shannon-entropy regularizer, support `MinP`.
    """
    return Decoder(Problem(NegEntropy(), support=MinP(p), temperature=temperature))


def sparsemax(temperature: float = 1.0) -> Decoder:
    """Return sparsemax, the Euclidean projection of the scores onto the simplex (arXiv:1602.02068).

    Parameters
    ----------
    temperature : float
        At least 0; the multiplier of the quadratic regularizer.

    Returns
    -------
    Decoder
        Quadratic regularizer on the whole simplex.
    """
    return Decoder(Problem(Quadratic(), temperature=temperature))


def entmax(alpha: float = 1.5, temperature: float = 1.0) -> Decoder:
    """Return alpha-entmax (arXiv:1905.05702): softmax at alpha 1, sparsemax at 2, sparse above 1.

    Parameters
    ----------
    alpha : float
        At least 1.
    temperature : float
        At least 0.

    Returns
    -------
    Decoder
        Tsallis regularizer on the whole simplex.
    """
    return Decoder(Problem(Tsallis(alpha), temperature=temperature))


def best_of_k(
    budget: int = 8,
    beta: float | None = None,
    beta_bar: float | None = None,
    lam: float = 0.2,
    weights: Any = "model",
    score_weight: float = 1.0,
    temperature: float = 1.0,
    *,
    anchor: str = "model",
    scores: str = "tempered",
    solver: MirrorAscent | None = None,
) -> Decoder:
    r"""Return Best-of-K: scores, a KL anchor, and the coverage of K draws (arXiv:2602.18292), solved exactly.

    .. math:: \max_q\; w_s\langle q, s\rangle - \lambda\,\mathrm{KL}(q\|r) + \bar\beta \sum_i w_i (1 - (1-q_i)^K)

    Parameters
    ----------
    budget : int
        K, the number of draws whose coverage counts.
    beta, beta_bar : float, optional
        The coverage weight, as the paper's beta (beta_bar = lam * beta) or as beta_bar itself; give at most one.
        Neither: beta = 0.02.
    lam : float
        Weight of the KL anchor, at least 0; 0 needs ``beta_bar``.
    weights : {"model", "uniform", "rank"} or Support or array_like of shape (V,)
        Token weights w, see `Coverage`.
    score_weight : float
        :math:`w_s`; 0 leaves the pure coverage tilt of the anchor.
    temperature : float
        T of scores and model distribution.
    anchor : {"model", "given"}
        r, see `KL`.
    scores : {"tempered", "raw"}
        Scores are logits / T, or the logits themselves.
    solver : MirrorAscent, optional
        Algorithm 1 of the paper instead of the exact solver; `paper_best_of_k` is it at the paper's settings.

    Returns
    -------
    Decoder
        ``.twin()`` is the same decoder without coverage.

    Examples
    --------
    >>> best_of_k(budget=8, beta_bar=0.5, lam=1.0).problem.regularizer
    1.0 * KL() - 0.5 * Coverage(budget=8)
    """
    lam = in_range("best_of_k", "lam", lam, 0.0)
    if beta is not None and beta_bar is not None:
        raise ProblemError(f"best_of_k: give beta or beta_bar, not both; got beta={beta!r}, beta_bar={beta_bar!r}")
    if beta_bar is None:
        if lam == 0.0:
            raise ProblemError("best_of_k: beta_bar = lam * beta vanishes at lam=0; give beta_bar instead of beta")
        beta_bar = lam * in_range("best_of_k", "beta", DEFAULT_BETA if beta is None else beta, 0.0)
    beta_bar = in_range("best_of_k", "beta_bar", beta_bar, 0.0)
    if lam == 0.0 and anchor != "model":
        raise ProblemError("best_of_k: lam=0 leaves no KL term, so there is no anchor to give")
    regularizer = lam * KL(anchor) - beta_bar * Coverage(budget, weights)
    problem = Problem(regularizer, score_weight=score_weight, temperature=temperature, scores=scores)
    return Decoder(problem, solver=solver)


def paper_best_of_k(
    beta: float = 0.02,
    lam: float = 0.2,
    temperature: float = 0.7,
    steps: int = 5,
    *,
    budget: int = 8,
    weights: Any = "model",
    eta: float | str = 1.0,
    scores: str = "raw",
    score_weight: float = 1.0,
    model: str = "tempered",
    beta_is: str = "beta",
) -> Decoder:
    r"""Return Algorithm 1 of arXiv:2602.18292 as printed, with every choice that the paper leaves open as a keyword.

    The paper states the objective, the start q = p, J = 5 steps, the settings (beta, lam) in {(0.01, 0.1), (0.02, 0.2),
    (0.05, 0.5)} and the temperatures 0.1, 0.25, 0.5, 0.7, 0.9: the positional parameters. It does not state what the
    keywords say. **Their defaults are ours**, so no number made with them is the paper's.

    Parameters
    ----------
    beta, lam : float
        The paper's setting; at least 0.
    temperature : float
        The temperature of the tables, above 0. Default: that of the paper's study of J.
    steps : int
        J.
    budget : int
        K. The 50 in the tables is that of the Top-K baseline. Ours: 8, a group of samples that people draw.
    weights : {"model", "uniform", "rank"} or Support or array_like of shape (V,)
        w, to the paper "a monotone function of s", with examples. Ours: w = p, which is one, and has no parameter.
    eta : float or "auto"
        The step size. Ours: 1, at which sharpening alone is nearest to the paper's tables: of 0.1 to 1.5, each
        predicting the 90 Best-of-K cells from the Base rows at the twin's temperature, 1 has the smallest error (1.9
        points RMSE).
    scores : {"raw", "tempered"}
        s is the logits, or the logits over the temperature. (Whether s are logits or log-probabilities changes
        nothing: they differ by a constant.) Ours: "raw"; the paper introduces s before any temperature, and the fit
        above is a little nearer (1.9 against 2.1 points).
    score_weight : float
        The scale of s, on which lam and beta depend. Ours: 1, the logits as they are.
    model : {"tempered", "raw"}
        Whether the anchor p, which is also the start, is softmax(logits / temperature) or softmax(logits). Ours:
        "tempered", as only then the Base rows are the decoder at J = 0. With "raw" the temperature is left to
        ``scores="tempered"``, and where both are raw there is none: it must be 1.
    beta_is : {"beta", "beta_bar"}
        Whether the tables list beta, so that coverage has the weight lam * beta, or that weight itself. Ours: the
        symbol they print.

    Returns
    -------
    Decoder
        A `best_of_k` problem with ``MirrorAscent(steps, eta)``. All tokens take part: if V is cut before solving the
        paper does not say (ours: no; add ``.subject_to(TopK(50))`` for it).

    Raises
    ------
    ProblemError
        A parameter is out of range, or no temperature is left to act.

    Notes
    -----
    J steps are early-stopped sharpening, a hidden temperature: with scores "raw" and p tempered the same decoder at
    beta = 0 is softmax at :math:`1 / (1/T + (1 - (1 - \eta\lambda)^J) / \lambda)`, which
    `Decoder.effective_temperature` returns. At the defaults that is 0.21, for a nominal 0.7. Compare with
    `Decoder.twin`, or with that temperature, not with the nominal one. Early stopping also stops coverage short:
    `best_of_k` without a solver is the optimum.

    Examples
    --------
    >>> decoder = paper_best_of_k(beta=0.01, lam=0.1, temperature=0.9)
    >>> decoder.problem
    Problem(regularizer=0.1 * KL() - 0.001 * Coverage(budget=8), temperature=0.9, scores='raw')
    >>> decoder.solver.steps, decoder.solver.eta, round(decoder.effective_temperature(), 3)
    (5, 1.0, 0.192)
    """
    owner = "paper_best_of_k"
    temperature = in_range(owner, "temperature", temperature, 0.0, open_low=True)
    one_of(owner, "scores", scores, ("raw", "tempered"))
    if one_of(owner, "model", model, ("tempered", "raw")) == "raw":
        if scores == "raw" and temperature != 1.0:
            raise ProblemError(
                f"{owner}: with scores='raw' and model='raw' a temperature has no effect; it must be 1, "
                f"got {temperature:g}"
            )
        # Scores over the temperature beside an untempered p: the temperature is a weight of the scores.
        score_weight = finite(owner, "score_weight", score_weight) / temperature
        temperature, scores = 1.0, "tempered"
    coverage: dict[str, Any] = {one_of(owner, "beta_is", beta_is, ("beta", "beta_bar")): beta}
    return best_of_k(
        budget,
        lam=lam,
        weights=weights,
        score_weight=score_weight,
        temperature=temperature,
        scores=scores,
        solver=MirrorAscent(steps, eta),
        **coverage,
    )
