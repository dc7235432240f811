"""The decoders people know, each a `Problem` in one line."""

from __future__ import annotations

from typing import Any

from optdecode._decoder import Decoder
from optdecode._problem import MirrorAscent, Problem
from optdecode._spec import in_range
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
        Algorithm 1 of the paper instead of the exact solver.

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
