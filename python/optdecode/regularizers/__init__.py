r"""Regularizers: the convex :math:`\Omega` of :math:`\max_q \langle q, s\rangle - \Omega(q)`.

Each class names one function of a distribution q, with its formula, value and gradient; scalar multiples, sums and
differences build the rest. What a decoder can solve is decided where a problem is lowered to a plan
(`optdecode._plan`), not here.
"""

from optdecode.regularizers.base import Combination as Combination
from optdecode.regularizers.base import Context as Context
from optdecode.regularizers.base import Regularizer as Regularizer
from optdecode.regularizers.base import Terms as Terms
from optdecode.regularizers.base import combine as combine
from optdecode.regularizers.coverage import Coverage as Coverage
from optdecode.regularizers.coverage import LogCoverage as LogCoverage
from optdecode.regularizers.coverage import Weights as Weights
from optdecode.regularizers.divergences import KL as KL
from optdecode.regularizers.divergences import AlphaDivergence as AlphaDivergence
from optdecode.regularizers.divergences import ChiSquare as ChiSquare
from optdecode.regularizers.divergences import ReverseKL as ReverseKL
from optdecode.regularizers.entropies import NegEntropy as NegEntropy
from optdecode.regularizers.entropies import Quadratic as Quadratic
from optdecode.regularizers.entropies import Tsallis as Tsallis
from optdecode.regularizers.sparsity import L0 as L0

_BUILT_IN = (
    *(NegEntropy, Quadratic, Tsallis, KL, ChiSquare, ReverseKL, AlphaDivergence, Coverage, LogCoverage, L0),
    Combination,
)


def is_own(regularizer: Regularizer) -> bool:
    """Whether a regularizer is of the caller's own; a subclass of a built-in one is, as it may change anything."""
    return type(regularizer) not in _BUILT_IN
