"""The decoding problem and the ways to solve it, as data."""

from __future__ import annotations

from dataclasses import dataclass

from optdecode._spec import Spec, check_usable, finite, in_range, one_of, positive_int
from optdecode.errors import ProblemError
from optdecode.regularizers import Regularizer
from optdecode.supports import Support


@dataclass(frozen=True, repr=False)
class Problem(Spec):
    r"""One decoding step as an optimisation problem over the probability simplex.

    .. math:: \max_{q \in \Delta(V) \cap C} \; w_s \langle q, s \rangle - \Omega(q), \qquad s = \mathrm{logits} / T

    Parameters
    ----------
    regularizer : Regularizer, optional
        :math:`\Omega`. None (or a zero multiple) leaves a linear objective: greedy decoding.
    support : Support, optional
        C, a face of the simplex selected from the scores; None is the whole simplex.
    score_weight : float
        :math:`w_s`.
    temperature : float
        T, at least 0. Dividing scores by T is multiplying the regularizer by T; 0 is the greedy limit.
    scores : {"tempered", "raw"}
        Which scores the linear term takes: logits / T, or the logits themselves (p stays tempered).

    Examples
    --------
    >>> from optdecode import NegEntropy, TopK
    >>> Problem(NegEntropy(), support=TopK(50), temperature=0.7)
    Problem(regularizer=NegEntropy(), support=TopK(k=50), temperature=0.7)
    """

    regularizer: Regularizer | None = None
    support: Support | None = None
    score_weight: float = 1.0
    temperature: float = 1.0
    scores: str = "tempered"

    def __post_init__(self) -> None:
        if self.regularizer is not None and not isinstance(self.regularizer, Regularizer):
            raise ProblemError(
                f"Problem: regularizer must be a Regularizer such as NegEntropy(); got {self.regularizer!r}"
            )
        for part in (self.regularizer, self.support):
            if isinstance(part, Spec):
                check_usable(part)
        if self.regularizer is not None and not self.regularizer.terms():
            object.__setattr__(self, "regularizer", None)
        if self.support is not None and not isinstance(self.support, Support):
            raise ProblemError(
                f"Problem: support must be a Support such as TopK(50) & MinP(0.02); got {self.support!r}"
            )
        object.__setattr__(self, "score_weight", finite("Problem", "score_weight", self.score_weight))
        object.__setattr__(self, "temperature", in_range("Problem", "temperature", self.temperature, 0.0))
        one_of("Problem", "scores", self.scores, ("tempered", "raw"))


@dataclass(frozen=True, repr=False)
class MirrorAscent(Spec):
    r"""Algorithm 1 of arXiv:2602.18292: entropic mirror ascent from the anchor, ``q <- q exp(eta g) / sum``.

    An early-stopped run is a different decoder from the optimum (its steps act as a hidden temperature); the
    certificate says how far apart they are.

    Parameters
    ----------
    steps : int
        J, at least 1.
    eta : float or "auto"
        Step size, > 0. ``"auto"`` is 1 / L with the relative smoothness L, which ascends monotonically (1 where L = 0:
        a linear objective).
    tolerance : float, optional
        Stop a row once its Frank-Wolfe gap is at most ``tolerance * lam``; total variation to the optimum is then at
        most `tolerance`. A row that is not there after `steps` steps has status ``REDUCED_ACCURACY``. Needs lam > 0.
        None, as in the paper: exactly `steps` steps.

    Notes
    -----
    With :math:`L = \lambda + \bar\beta w_{\max} K \left(\tfrac{K-2}{K-1}\right)^{K-2}` (K = 2:
    :math:`\lambda + 2 \bar\beta w_{\max}`; K = 1: :math:`\lambda`) steps of 1 / L converge at the rate
    :math:`1 - \lambda / L`, so a tolerance takes about :math:`(L / \lambda) \log(1 / \mathrm{tolerance})` of them. The
    gap is computed in float64: rounding keeps it above about 1e-16 times L and the largest score.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> to_the_end = od.MirrorAscent(steps=10_000, eta="auto", tolerance=1e-7)
    >>> solution = od.best_of_k(8, beta=1.0, lam=0.5, solver=to_the_end)(np.array([1.0, 0.5, -2.0]))
    >>> solution.status.name, int(solution.iterations)
    ('OK', 22)
    """

    steps: int = 5
    eta: float | str = 1.0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", positive_int("MirrorAscent", "steps", self.steps, high=10**6))
        if isinstance(self.eta, str):
            one_of("MirrorAscent", "eta (as a string)", self.eta, ("auto",))
        else:
            object.__setattr__(self, "eta", in_range("MirrorAscent", "eta", self.eta, 0.0, open_low=True))
        if self.tolerance is not None:
            tolerance = in_range("MirrorAscent", "tolerance", self.tolerance, 0.0, open_low=True)
            object.__setattr__(self, "tolerance", tolerance)
