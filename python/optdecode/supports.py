r"""Supports: rules that select a face of the simplex from the scores.

Every rule is measured on the same model distribution :math:`p = \mathrm{softmax}(\mathrm{logits} / T)` over the allowed
tokens (``measured_on="raw"``: on :math:`\mathrm{softmax}(\mathrm{logits})`), and rules intersect, so their order cannot
matter. "Order" below is (score descending, token id ascending). Every rule keeps a first part of the order, hence the
best token, except `Typical` (and `Allowed`, which is a mask): it keeps a band of scores, which may lie below the best
token. Where it and another rule have no token in common the row has no distribution: its status is ``INFEASIBLE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optdecode._spec import Spec, check_usable, in_range, one_of, positive_int
from optdecode.errors import ProblemError

#: (rule, parameter, measured on raw logits): what plans and backends see of a support.
Rule = tuple[str, float, bool]

_MEASURED_ON = ("tempered", "raw")


class Support(Spec):
    """Base of the rules; ``a & b`` keeps the tokens that both keep.

    A frozen dataclass with a `keep` of its own is a rule of the caller's, which joins the built-in ones by ``&``.

    Attributes
    ----------
    framework : {"numpy", "torch"}
        What `keep` is written in, as for `Regularizer`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, optdecode as od
    >>> @dataclass(frozen=True)
    ... class EvenTokens(od.Support):
    ...     def keep(self, ctx):
    ...         return np.broadcast_to(np.arange(ctx.log_p.shape[-1]) % 2 == 0, ctx.log_p.shape)
    >>> od.softmax().subject_to(EvenTokens(), od.TopK(3))(np.array([1.0, 4.0, 1.0, 0.0])).probs
    array([0.5, 0. , 0.5, 0. ])
    """

    framework: ClassVar[str] = "numpy"

    def keep(self, ctx: Any) -> Any:
        """Return the tokens that may have probability, for a rule of the caller's own.

        Parameters
        ----------
        ctx : Context
            The rows' scores and model distributions; ``ctx.allowed`` are the tokens that no mask forbids. Other
            supports are measured on the same tokens, so that their order cannot matter.

        Returns
        -------
        bool array, shape (B, V)
            A row where no allowed token is left is ``INFEASIBLE``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no keep(ctx)")

    @property
    def is_own(self) -> bool:
        """Whether the rule is code of the caller's."""
        return type(self).keep is not Support.keep

    def members(self) -> tuple[Support, ...]:
        """The rules this support intersects, in canonical order."""
        return (self,)

    def rules(self) -> tuple[Rule, ...]:
        """What plans and backends see."""
        if self.is_own:
            return ()
        raise ProblemError(f"{type(self).__name__} selects no tokens: a support of your own defines keep(self, ctx)")

    def chains(self) -> tuple[tuple[Rule, ...], ...]:
        """Rules that are measured one on what another leaves, in order."""
        return ()

    def formula(self) -> str:
        """The condition on a token, in words and symbols."""
        return f"{type(self).__name__}.keep"

    def __and__(self, other: object) -> Support:
        if not isinstance(other, Support):
            return NotImplemented
        return intersect(*self.members(), *other.members())


class _Rule(Support):
    """A support with at most one numeric parameter, its first field, in the range that the class names."""

    rule: ClassVar[str]
    #: Whether it matters which other tokens there are beside those that pass and the best one.
    measures: ClassVar[bool] = True
    #: Whether what it keeps is always a first part of the order.
    keeps_best: ClassVar[bool] = True
    high: ClassVar[float] = 1.0
    open_low: ClassVar[bool] = False

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name, value in list(vars(self).items()):
            if name == "measured_on":
                one_of(owner, name, value, _MEASURED_ON)
            else:
                number = in_range(owner, name, value, 0.0, self.high, open_low=self.open_low)
                object.__setattr__(self, name, number)

    def rules(self) -> tuple[Rule, ...]:
        values = [value for value in vars(self).values() if not isinstance(value, str)]
        raw = getattr(self, "measured_on", "tempered") == "raw"
        return ((self.rule, float(values[0]) if values else 0.0, raw),)

    def _measure(self) -> str:
        return "p" if getattr(self, "measured_on", "tempered") == "tempered" else "p_raw"


@dataclass(frozen=True, repr=False)
class TopK(_Rule):
    """Keep exactly the first ``k`` tokens in order (all, if fewer are allowed).

    Parameters
    ----------
    k : int
        At least 1.

    Examples
    --------
    >>> TopK(50) & MinP(0.02)
    MinP(p=0.02) & TopK(k=50)
    """

    k: int
    rule = "top_k"
    measures = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", positive_int("TopK", "k", self.k))

    def formula(self) -> str:
        return f"the {self.k} best tokens"


@dataclass(frozen=True, repr=False)
class TopP(_Rule):
    """Keep the smallest prefix of the order whose model mass reaches ``p``; the token that crosses p is in.

    Parameters
    ----------
    p : float
        In (0, 1]; 1 keeps everything.
    measured_on : {"tempered", "raw"}
        Which softmax the mass is measured on.
    """

    p: float
    measured_on: str = "tempered"
    rule = "top_p"
    open_low = True

    def formula(self) -> str:
        return f"smallest set of best tokens with {self._measure()}-mass >= {self.p:g}"


@dataclass(frozen=True, repr=False)
class MinP(_Rule):
    """Keep the tokens with at least ``p`` times the probability of the best one (arXiv:2407.01082).

    Decided on the input values as ``x >= max x + T log p`` in float64.

    Parameters
    ----------
    p : float
        In [0, 1]; 0 keeps everything.
    measured_on : {"tempered", "raw"}
        ``"raw"`` uses T = 1.
    """

    p: float
    measured_on: str = "tempered"
    rule = "min_p"
    measures = False

    def formula(self) -> str:
        return f"{self._measure()}_v >= {self.p:g} * max {self._measure()}"


@dataclass(frozen=True, repr=False)
class TopNSigma(_Rule):
    """Keep the logits within ``n`` standard deviations (ddof = 0, allowed tokens) of the largest (arXiv:2411.07641).

    Parameters
    ----------
    n : float
        At least 0.
    """

    n: float
    rule = "top_n_sigma"
    high = math.inf

    def formula(self) -> str:
        return f"s_v >= max s - {self.n:g} std(s)"


@dataclass(frozen=True, repr=False)
class PLess(_Rule):
    """Keep the tokens at least as probable as the expected probability of a draw, sum p^2 (arXiv:2509.23234).

    Parameters
    ----------
    measured_on : {"tempered", "raw"}
        Which softmax p is.
    """

    measured_on: str = "tempered"
    rule = "p_less"

    def formula(self) -> str:
        return f"{self._measure()}_v >= (1 - 1e-6) sum {self._measure()}^2"


@dataclass(frozen=True, repr=False)
class Epsilon(_Rule):
    """Keep the tokens of probability at least ``epsilon``, and the best token.

    Parameters
    ----------
    epsilon : float
        In [0, 1].
    measured_on : {"tempered", "raw"}
        Which softmax p is.
    """

    epsilon: float
    measured_on: str = "tempered"
    rule = "epsilon"

    def formula(self) -> str:
        return f"{self._measure()}_v >= {self.epsilon:g}"


@dataclass(frozen=True, repr=False)
class Eta(_Rule):
    """Keep the tokens with p >= min(epsilon, sqrt(epsilon) exp(-H(p))), and the best token (arXiv:2210.15191).

    Parameters
    ----------
    epsilon : float
        In [0, 1].
    measured_on : {"tempered", "raw"}
        Which softmax p is.
    """

    epsilon: float
    measured_on: str = "tempered"
    rule = "eta"

    def formula(self) -> str:
        return f"{self._measure()}_v >= min({self.epsilon:g}, sqrt({self.epsilon:g}) exp(-H({self._measure()})))"


@dataclass(frozen=True, repr=False)
class Typical(_Rule):
    """Keep the tokens whose information is nearest to the entropy: locally typical sampling (arXiv:2202.00666).

    In ascending order of ``|-ln p_v - H(p)|`` (ties: score descending, token id ascending), the smallest set of mass at
    least ``p``; the token that crosses p is in. The best token is left out where its information is far below H(p).

    Parameters
    ----------
    p : float
        In (0, 1]; 1 keeps everything.
    measured_on : {"tempered", "raw"}
        Which softmax information, entropy and mass are of.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> logits = np.log([0.4, 0.2, 0.2, 0.1, 0.1])  # H = 1.47, and -ln p is 0.92, 1.61, 1.61, 2.30, 2.30
    >>> od.softmax().subject_to(od.Typical(0.3))(logits).support
    array([False,  True,  True, False, False])
    """

    p: float
    measured_on: str = "tempered"
    rule = "typical"
    keeps_best = False
    open_low = True

    def formula(self) -> str:
        p = self._measure()
        return f"smallest set of tokens of least |-ln {p}_v - H({p})| with {p}-mass >= {self.p:g}"


@dataclass(frozen=True, repr=False)
class TopH(_Rule):
    """Keep the longest first part S of the order with ``H(q_S) <= alpha H(p)``: top-H (arXiv:2509.02510).

    ``q_S`` is p renormalised on S. The best token is always in; beside it no token whose p is 0 in float64, as long as
    alpha is below 1.

    Parameters
    ----------
    alpha : float
        In [0, 1]; 1 keeps everything.
    measured_on : {"tempered", "raw"}
        Which softmax p is.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> logits = np.log([0.4, 0.2, 0.2, 0.1, 0.1])  # H = 1.47; of the first two 0.64, of the first three 1.04
    >>> od.softmax().subject_to(od.TopH(0.5))(logits).support
    array([ True,  True, False, False, False])
    """

    alpha: float = 0.4
    measured_on: str = "tempered"
    rule = "top_h"

    def formula(self) -> str:
        p = self._measure()
        return f"most best tokens S with H({p} on S) <= {self.alpha:g} H({p})"


@dataclass(frozen=True, repr=False, init=False)
class Chain(Support):
    """The ordered truncation of the engines: each rule is measured on the renormalised rest of the one before it.

    ``Chain(TopK(50), TopP(0.9))`` is what transformers and vLLM do with ``top_k=50, top_p=0.9``. In
    ``TopK(50) & TopP(0.9)`` both are measured on all tokens, so that their order cannot matter; it keeps the same
    tokens or some more. Inside a chain the order matters; as a whole it intersects with other supports like any of
    them.

    Parameters
    ----------
    *supports : Support
        At least one; single rules, or chains. `Allowed` is like a mask, so it goes beside a chain, not into it.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> logits = np.log([0.4, 0.2, 0.2, 0.1, 0.1])
    >>> od.softmax().subject_to(od.Chain(od.TopK(3), od.TopP(0.7)))(logits).support
    array([ True,  True, False, False, False])
    >>> od.softmax().subject_to(od.TopK(3), od.TopP(0.7))(logits).support
    array([ True,  True,  True, False, False])
    """

    supports: tuple[Support, ...]

    def __init__(self, *supports: Support) -> None:
        rules: list[Support] = []
        for support in supports:
            if not isinstance(support, (_Rule, Chain)):
                raise ProblemError(
                    f"Chain: expected rules such as TopK(50); got {support!r}"
                    + (", which goes beside the chain: Chain(...) & Allowed(...)" * isinstance(support, Allowed))
                )
            rules.extend(support.supports if isinstance(support, Chain) else (support,))
        if not rules:
            raise ProblemError("Chain: at least one rule is needed; got none")
        object.__setattr__(self, "supports", tuple(rules))

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        return type(self), self.supports

    @classmethod
    def _from_fields(cls, **values: Any) -> Chain:
        return cls(*values["supports"])

    def _is_ordered(self) -> bool:
        rules = [support for support in self.supports if isinstance(support, _Rule)]
        return any(rule.measures for rule in rules[1:]) or not all(rule.keeps_best for rule in rules[:-1])

    def rules(self) -> tuple[Rule, ...]:
        # Where only the first rule depends on the tokens there are, and the later ones find the same best token, all
        # may be measured on all tokens.
        return () if self._is_ordered() else self._all_rules()

    def chains(self) -> tuple[tuple[Rule, ...], ...]:
        return (self._all_rules(),) if self._is_ordered() else ()

    def _all_rules(self) -> tuple[Rule, ...]:
        return tuple(rule for support in self.supports for rule in support.rules())

    def formula(self) -> str:
        return "; then, p being that of what is left, ".join(support.formula() for support in self.supports)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.supports))})"


@dataclass(frozen=True, repr=False)
class Allowed(Support):
    """Allow only these tokens: like a mask, the others are never weighed nor drawn, whatever they hold.

    Parameters
    ----------
    token_ids : iterable of int
        Not empty; duplicates are dropped.
    """

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        ids = self.token_ids
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise ProblemError(f"Allowed: token_ids must be a sequence of integers; got {ids!r}")
        values = np.asarray(tuple(ids))
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
            raise ProblemError(f"Allowed: token_ids must be a non-empty sequence of integers; got {ids!r}")
        if values.min() < 0 or values.max() > 2**31 - 1:
            raise ProblemError(
                f"Allowed: token ids must be in [0, 2**31); got {int(values.min())}..{int(values.max())}"
            )
        object.__setattr__(self, "token_ids", tuple(int(i) for i in np.unique(values)))

    def rules(self) -> tuple[Rule, ...]:
        return ()

    def formula(self) -> str:
        return f"one of {len(self.token_ids)} allowed tokens"


@dataclass(frozen=True, repr=False)
class Intersection(Support):
    """What ``a & b`` makes; equal whatever the order it was written in.

    Parameters
    ----------
    supports : tuple of Support
        The rules.
    """

    supports: tuple[Support, ...]

    def __post_init__(self) -> None:
        for support in self.supports:
            check_usable(support)
        members = {member for support in self.supports for member in support.members()}
        object.__setattr__(self, "supports", tuple(sorted(members, key=repr)))

    def members(self) -> tuple[Support, ...]:
        return self.supports

    def rules(self) -> tuple[Rule, ...]:
        return tuple(rule for support in self.supports for rule in support.rules())

    def chains(self) -> tuple[tuple[Rule, ...], ...]:
        return tuple(chain for support in self.supports for chain in support.chains())

    def formula(self) -> str:
        return "; ".join(support.formula() for support in self.supports)

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.supports))


def intersect(*supports: Support) -> Support:
    """Intersect any number of supports; a single one is returned as it is."""
    for support in supports:
        if not isinstance(support, Support):
            raise ProblemError(f"expected supports such as TopK(50); got {support!r}")
    both = Intersection(supports)
    return both.supports[0] if len(both.supports) == 1 else both


#: The parameter with which a rule keeps everything, by the rule's name.
_KEEPS_ALL = {"top_p": 1.0, "min_p": 0.0, "epsilon": 0.0, "eta": 0.0, "typical": 1.0, "top_h": 1.0}


def may_drop_best(rule: Rule) -> bool:
    """Return whether there are rows whose best token the rule does not keep."""
    return rule[0] == Typical.rule and rule[1] < 1.0


def at_zero_temperature(rule: Rule) -> Rule:
    """Return a rule that keeps what this one does in the limit T -> 0, as far as the best token kept is concerned.

    The tempered distribution becomes that of the best token and what ties with it. A rule that is measured on it keeps
    some of these, the best one among them; and so does every other rule, chain or band that keeps any of them.
    """
    name, value, raw = rule
    depends = not raw and name not in (TopK.rule, TopNSigma.rule) and _KEEPS_ALL.get(name) != value
    return (TopK.rule, 1.0, False) if depends else rule


def allowed_ids(support: Support | None) -> tuple[int, ...] | None:
    """Return the token ids that every `Allowed` in the support names, or None where there is no `Allowed`."""
    sets = [set(m.token_ids) for m in support.members() if isinstance(m, Allowed)] if support is not None else []
    if not sets:
        return None
    return tuple(sorted(set.intersection(*sets)))
