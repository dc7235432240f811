"""Constraints beside supports: caps, and targets of entropy and divergence. They join supports by ``&``."""

from __future__ import annotations

from dataclasses import dataclass

from optdecode._spec import in_range
from optdecode.supports import Rule, Support


class Constraint(Support):
    """Base of what limits q but selects no tokens."""

    def rules(self) -> tuple[Rule, ...]:
        return ()


@dataclass(frozen=True, repr=False)
class Cap(Constraint):
    """No token has more than probability ``c``.

    A row with fewer than 1 / c tokens to choose from has no such distribution: its status is ``INFEASIBLE``.

    Parameters
    ----------
    c : float
        In (0, 1]; 1 is no constraint.
    """

    c: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", in_range("Cap", "c", self.c, 0.0, 1.0, open_low=True))

    def formula(self) -> str:
        return f"q_v <= {self.c:g}"


@dataclass(frozen=True, repr=False)
class Entropy(Constraint):
    r"""Entropy of at least ``target`` nats, :math:`H(q) \ge h`: each row's scores are sharpened until it is reached.

    The smallest :math:`\lambda` that multiplies the whole regularizer and reaches the target is chosen, row by row;
    with `NegEntropy` that is the distribution of largest expected score among those of entropy h or more. A target that
    no :math:`\lambda` reaches is ``INFEASIBLE``; one that the greedy vertex reaches (the greedy fill, under a cap)
    gives that, with :math:`\lambda = 0`. Reached is to 1e-12, relative to max(1, h).

    Parameters
    ----------
    target : float
        h in nats, at least 0.
    """

    target: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", in_range("Entropy", "target", self.target, 0.0))

    def formula(self) -> str:
        return f"H(q) >= {self.target:g} nats, by the smallest m >= 0 that reaches it, row by row"


@dataclass(frozen=True, repr=False)
class Divergence(Constraint):
    r"""Divergence :math:`\mathrm{KL}(q \| r) \le \varepsilon` from the regularizer's anchor r.

    The smallest :math:`\lambda` that multiplies the whole regularizer and respects the bound is chosen, row by row;
    with `KL` that is the distribution of largest expected score within the bound. A bound that no :math:`\lambda`
    respects is ``INFEASIBLE``; one that the greedy vertex respects (the greedy fill, under a cap) gives that, with
    :math:`\lambda = 0`. Respected is to 1e-12, relative to max(1, eps).

    Parameters
    ----------
    max_kl : float
        The bound in nats, at least 0.
    """

    max_kl: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_kl", in_range("Divergence", "max_kl", self.max_kl, 0.0))

    def formula(self) -> str:
        return f"KL(q || r) <= {self.max_kl:g} nats, by the smallest m >= 0 that respects it, row by row"
