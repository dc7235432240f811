"""optdecode: language-model decoding solved as optimisation on the probability simplex.

``import optdecode as od`` needs NumPy alone; torch, engines, plots and the embedded model load only when they are used.
"""

from typing import TYPE_CHECKING, Any

from optdecode._batch import sample_batch as sample_batch
from optdecode._codes import ArithmeticCodes as ArithmeticCodes
from optdecode._decoder import Decoder as Decoder
from optdecode._plan import PlanKind as PlanKind
from optdecode._problem import MirrorAscent as MirrorAscent
from optdecode._problem import Problem as Problem
from optdecode._solution import Draw as Draw
from optdecode._solution import Solution as Solution
from optdecode._status import Status as Status
from optdecode._system import row_seeds as row_seeds
from optdecode._system import set_num_threads as set_num_threads
from optdecode._system import show_versions as show_versions
from optdecode._system import version as _version
from optdecode.constraints import Cap as Cap
from optdecode.constraints import Divergence as Divergence
from optdecode.constraints import Entropy as Entropy
from optdecode.errors import BackendUnavailableError as BackendUnavailableError
from optdecode.errors import ConvergenceError as ConvergenceError
from optdecode.errors import DTypeError as DTypeError
from optdecode.errors import OptdecodeError as OptdecodeError
from optdecode.errors import ProblemError as ProblemError
from optdecode.errors import ShapeError as ShapeError
from optdecode.presets import best_of_k as best_of_k
from optdecode.presets import entmax as entmax
from optdecode.presets import greedy as greedy
from optdecode.presets import min_p as min_p
from optdecode.presets import paper_best_of_k as paper_best_of_k
from optdecode.presets import softmax as softmax
from optdecode.presets import sparsemax as sparsemax
from optdecode.presets import top_k as top_k
from optdecode.presets import top_p as top_p
from optdecode.regularizers import KL as KL
from optdecode.regularizers import L0 as L0
from optdecode.regularizers import AlphaDivergence as AlphaDivergence
from optdecode.regularizers import ChiSquare as ChiSquare
from optdecode.regularizers import Coverage as Coverage
from optdecode.regularizers import LogCoverage as LogCoverage
from optdecode.regularizers import NegEntropy as NegEntropy
from optdecode.regularizers import Quadratic as Quadratic
from optdecode.regularizers import Regularizer as Regularizer
from optdecode.regularizers import ReverseKL as ReverseKL
from optdecode.regularizers import Tsallis as Tsallis
from optdecode.regularizers import Weights as Weights
from optdecode.supports import Allowed as Allowed
from optdecode.supports import Chain as Chain
from optdecode.supports import Epsilon as Epsilon
from optdecode.supports import Eta as Eta
from optdecode.supports import MinP as MinP
from optdecode.supports import PLess as PLess
from optdecode.supports import Support as Support
from optdecode.supports import TopH as TopH
from optdecode.supports import TopK as TopK
from optdecode.supports import TopNSigma as TopNSigma
from optdecode.supports import TopP as TopP
from optdecode.supports import Typical as Typical

if TYPE_CHECKING:
    from optdecode import plot as plot
    from optdecode._certificate import Certificate as Certificate
    from optdecode.multisample import prefix_groups as prefix_groups

__version__ = _version()


def __getattr__(name: str) -> Any:
    """Import on first use what few programs need (PEP 562)."""
    if name == "Certificate":
        from optdecode._certificate import Certificate

        return Certificate
    if name == "prefix_groups":
        from optdecode.multisample import prefix_groups

        return prefix_groups
    if name == "plot":
        from importlib import import_module

        return import_module("optdecode.plot")
    raise AttributeError(f"module 'optdecode' has no attribute {name!r}")
