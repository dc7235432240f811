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
        Step size, > 0. ``"auto"`` is 1 / L with the relative smoothness L, which ascends monotonically.
    """

    steps: int = 5
    eta: float | str = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", positive_int("MirrorAscent", "steps", self.steps, high=10**6))
        if isinstance(self.eta, str):
            one_of("MirrorAscent", "eta (as a string)", self.eta, ("auto",))
        else:
            object.__setattr__(self, "eta", in_range("MirrorAscent", "eta", self.eta, 0.0, open_low=True))
