"""Plans: the closed set of ways in which distributions are computed, and what backends need to know of a problem.

`optdecode._lowering` makes them. A new plan is a member of `PlanKind`, a lowering and a solver in each backend; tests
are parametrised over `PlanKind`, so a plan without a solver fails them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from optdecode.regularizers import Terms, Weights
from optdecode.supports import Rule, Support

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PlanKind(Enum):
    """Which solver runs; values are the names that backends know."""

    ARGMAX = "argmax"
    SOFTMAX = "softmax"
    FACE_SOFTMAX = "face_softmax"
    ANCHORED_SOFTMAX = "anchored_softmax"
    THRESHOLD_QUADRATIC = "threshold_quadratic"
    THRESHOLD_TSALLIS = "threshold_tsallis"
    COVERAGE_DUAL = "coverage_dual"
    COVERAGE_WATERFILL = "coverage_waterfill"
    MIRROR = "mirror"
    SEPARABLE_DUAL = "separable_dual"
    GREEDY_FILL = "greedy_fill"
    ADAPTIVE_K = "adaptive_k"
    USER = "user"

    @property
    def method(self) -> str:
        """How the plan computes its distribution."""
        return _METHODS[self]

    @property
    def is_exact(self) -> bool:
        """Whether the result is the optimum to float precision."""
        return self not in (PlanKind.MIRROR, PlanKind.USER)


_METHODS = {
    PlanKind.ARGMAX: "vertex at the largest score, lowest token id on ties",
    PlanKind.SOFTMAX: "softmax in closed form",
    PlanKind.FACE_SOFTMAX: "softmax in closed form on the face that the supports select",
    PlanKind.ANCHORED_SOFTMAX: "r exp(s / lam), normalised, in closed form",
    PlanKind.THRESHOLD_QUADRATIC: "[s - eta]+ / lam with an exact finite threshold search",
    PlanKind.THRESHOLD_TSALLIS: "entmax threshold: finite search for alpha 1.5 and 2, safeguarded Newton otherwise",
    PlanKind.COVERAGE_DUAL: "exact scalar dual: Newton on the normaliser, one monotone root a token",
    PlanKind.COVERAGE_WATERFILL: "exact waterfilling (lam = 0): one monotone root, sparse",
    PlanKind.MIRROR: "mirror ascent from the anchor (Algorithm 1 of arXiv:2602.18292)",
    PlanKind.SEPARABLE_DUAL: "exact scalar dual: one safeguarded root for the normaliser, one a token",
    PlanKind.GREEDY_FILL: "the best tokens in order, each filled up to the cap",
    PlanKind.ADAPTIVE_K: "the exact optimum on the k best tokens, k by a search over a concave value",
    PlanKind.USER: "code of your own: mirror ascent until the gap is closed, or a scalar dual where it separates",
}


class Term(NamedTuple):
    """One term of a regularizer that is a sum, ``coefficient * term``.

    Attributes
    ----------
    kind : str
        ``"entropy"``, ``"quadratic"``, ``"tsallis"``, ``"kl"``, ``"divergence"``, ``"coverage"`` or ``"log_coverage"``.
    coefficient : float
        Positive for the last two although they are subtracted: ``- coefficient * sum w (...)``.
    alpha : float
        Of ``"tsallis"`` and ``"divergence"``; 1 elsewhere.
    anchor : str
        Of ``"kl"`` and ``"divergence"``: ``"model"`` or ``"given"``; ``"none"`` elsewhere.
    """

    kind: str
    coefficient: float
    alpha: float = 1.0
    anchor: str = "none"


@dataclass(frozen=True)
class Plan:
    """A problem in the form that backends solve; see `rust/core/src/plan.rs`, its mirror image.

    Attributes
    ----------
    kind : PlanKind
        Which solver runs.
    temperature, score_weight, raw_scores
        As in `Problem`; temperature is positive.
    lam : float
        Coefficient of the main regularizer.
    alpha : float
        Tsallis exponent (1 where there is none).
    beta_bar, budget, weights, weight_values, weight_supports
        The coverage term; ``weights`` is ``"model"``, ``"uniform"``, ``"rank"``, ``"support"`` or ``"array"``.
    anchor : str
        ``"none"``, ``"model"`` or ``"given"``.
    steps, eta, tolerance
        Mirror ascent; eta None is 1 / L; tolerance, in lam, None for exactly `steps` steps.
    terms : tuple of Term
        The regularizer of ``SEPARABLE_DUAL``, whose numbers are not in the fields above, except for the budget and the
        weights of a coverage term; the one term of ``ADAPTIVE_K``.
    price : float
        ``ADAPTIVE_K``: what a token costs.
    cap : float
        Largest probability of a token; 1 is no constraint.
    target : tuple of (str, float), optional
        ``("entropy", h)`` or ``("divergence", eps)``: the smallest multiplier of the whole regularizer with H(q) >= h,
        or KL(q || r) <= eps, is found row by row.
    user : tuple of (float, Regularizer)
        ``USER``: the whole regularizer, built-in terms included. Backends are not given such a plan:
        `optdecode.backends.user` solves it.
    keeps : tuple of Support
        ``USER``: the supports that are code of the caller's own.
    supports : tuple of Rule
        (rule, parameter, measured on raw logits).
    chains : tuple of tuple of Rule
        Ordered rules, each measured on the renormalised rest of the one before it.
    allowed : tuple of int, optional
        Sorted token ids, None for all.
    """

    kind: PlanKind
    temperature: float = 1.0
    score_weight: float = 1.0
    raw_scores: bool = False
    lam: float = 0.0
    alpha: float = 1.0
    beta_bar: float = 0.0
    budget: int = 1
    weights: str = "model"
    weight_values: Weights | None = None
    weight_supports: tuple[Rule, ...] = ()
    anchor: str = "none"
    steps: int = 0
    eta: float | None = None
    tolerance: float | None = None
    terms: tuple[Term, ...] = ()
    price: float = 0.0
    cap: float = 1.0
    target: tuple[str, float] | None = None
    user: Terms = ()
    keeps: tuple[Support, ...] = ()
    supports: tuple[Rule, ...] = ()
    chains: tuple[tuple[Rule, ...], ...] = ()
    allowed: tuple[int, ...] | None = None

    def weight_array(self) -> NDArray[Any] | None:
        """The weights given as an array, shape (V,), float64; None where they are not."""
        return None if self.weight_values is None else self.weight_values.array()

    def __getstate__(self) -> dict[str, Any]:
        # A backend may hang its compiled form on the plan (`_native`); it is derived, so it does not travel.
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_native")}

    @cached_property
    def fits_any_call(self) -> bool:
        """Whether the plan solves logits of any V with nothing beside them."""
        return self.anchor != "given" and self.weight_values is None and not self.allowed

    @property
    def selects(self) -> bool:
        """Whether the scores choose a face."""
        return bool(self.supports or self.chains or self.keeps)

    @property
    def takes_anchor(self) -> bool:
        """Whether ``anchor=`` means anything to this plan."""
        return self.anchor == "given" or self.kind is PlanKind.USER

    @property
    def has_coverage(self) -> bool:
        """Whether budget and weights mean anything to this plan."""
        whole = (PlanKind.COVERAGE_DUAL, PlanKind.COVERAGE_WATERFILL, PlanKind.MIRROR, PlanKind.USER)
        return self.kind in whole or any(term.kind in ("coverage", "log_coverage") for term in self.terms)
