"""The decoder: a problem that can be called on logits."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from optdecode import backends
from optdecode._codes import ArithmeticCodes, draw_codes
from optdecode._explain import describe
from optdecode._inputs import (
    as_tensors,
    fresh_seed,
    plain_tensor,
)
from optdecode._lowering import lower
from optdecode._plan import Plan, PlanKind
from optdecode._problem import MirrorAscent, Problem
from optdecode._solution import Draw, Solution, make_draw, raise_on_failure, with_model
from optdecode._spec import Spec, one_of, positive_int
from optdecode._status import STATUSES
from optdecode._system import row_seeds
from optdecode._tensor_inputs import AnyRows, read_call
from optdecode.constraints import Cap, Constraint
from optdecode.errors import ProblemError
from optdecode.regularizers import KL, AlphaDivergence, Coverage, LogCoverage, NegEntropy, Regularizer, Tsallis, combine
from optdecode.supports import Support, intersect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ON_FAILURE = ("raise", "mark")
_COUPLINGS = ("iid", "systematic", "gumbel_topk")


@dataclass(frozen=True, repr=False)
class Decoder(Spec):
    """A decoding rule: frozen, hashable, picklable, stateless, so one object serves any number of threads and requests.

    Parameters
    ----------
    problem : Problem
        What to solve at each token.
    solver : MirrorAscent, optional
        None solves exactly.

    Raises
    ------
    ProblemError
        The problem is not concave, or no plan solves it.

    Examples
    --------
    >>> import numpy as np, optdecode as od
    >>> solution = od.sparsemax()(np.array([1.0, 0.5, -2.0]))
    >>> solution.probs
    array([0.75, 0.25, 0.  ])
    >>> od.top_k(2).sample(np.array([[0.0, 9.0, 1.0]]), seed=1).tokens
    array([[1]])
    """

    problem: Problem
    solver: MirrorAscent | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise ProblemError(f"Decoder: problem must be a Problem; got {self.problem!r}")
        if self.solver is not None and not isinstance(self.solver, MirrorAscent):
            raise ProblemError(f"Decoder: solver must be None (exact) or a MirrorAscent; got {self.solver!r}")
        _ = self.plan  # a problem that no plan solves is refused here, not at the first call

    @cached_property
    def plan(self) -> Plan:
        """What the problem lowers to."""
        return lower(self.problem, self.solver)

    def __call__(
        self,
        logits: Any,
        mask: Any = None,
        anchor: Any = None,
        budget: Any = None,
        weights: Any = None,
        threads: int | None = None,
        backend: str = "auto",
        on_failure: str = "raise",
        out: Any = None,
    ) -> Solution:
        """Solve for the optimal distribution of every row.

        Parameters
        ----------
        logits : array_like, shape (V,) or (..., V)
            NumPy float16/32/64, `ml_dtypes.bfloat16`, or torch f16/bf16/f32/f64; any strides (a strided last axis
            is copied once); never written to.
        mask : array_like, optional
            bool (..., V), or a packed int32/uint32 bitmask (..., ceil(V / 32)), least significant bit first,
            1 = allowed; tokens past a packed mask are forbidden.
        anchor : array_like, shape (..., V), optional
            Log-probabilities of the anchor, for ``anchor="given"``.
        budget : int or array of shape (...), optional
            K of the coverage term, per row.
        weights : array_like, shape (V,) or (..., V), optional
            Weights of the coverage term, in place of the decoder's.
        threads : int, optional
            Threads for this call.
        backend : {"auto", "rust", "reference", "torch"}
            Where to compute. ``"auto"`` is the Rust core for what is in CPU memory, and torch for tensors on other
            devices and for those that require gradients, which `Solution.probs` and `Solution.log_probs` then carry.
        on_failure : {"raise", "mark"}
            ``"raise"`` raises if any row has no solution; ``"mark"`` gives such rows NaN and a status.
        out : array or CPU tensor, shape of logits, optional
            Receives log q, in the precision of the result; may be `logits` itself. Untouched if the call raises.

        Returns
        -------
        Solution
            Distributions, duals and a certificate.

        Raises
        ------
        ShapeError, DTypeError, ProblemError
            An argument does not fit; the message says what is allowed.
        ConvergenceError
            Some rows have no solution (NaN or +inf logits, nothing allowed); ``.result`` is the whole Solution.
        """
        one_of("Decoder", "on_failure", on_failure, _ON_FAILURE)
        rows = read_call(logits, [self.plan], backend, mask=mask, anchor=anchor, budget=budget, weights=weights)
        written = None if out is None else rows.read_out(out)
        rows = rows.owned()  # the certificate and later draws need the logits of now, whatever the caller writes next
        name, solved = backends.solve(self.plan, rows, backend, thread_count(threads))

        def draw(seed: Any, position: Any, n: int, coupling: Any, model: bool, best: int) -> Draw:
            wanted = ModelWanted(model, best)
            return draw_rows([self.plan], rows, seed, position, n, coupling, backend, threads, "mark", wanted, solved)

        solution = Solution(self.plan, rows, solved, name, draw)
        if on_failure == "raise":
            raise_on_failure(rows.host(solved.status), solution, solved.failures)
        if written is not None:
            rows.write(written, solved.log_probs)
        return solution

    def sample(
        self,
        logits: Any,
        seed: Any = None,
        position: Any = 0,
        n: int = 1,
        coupling: str | ArithmeticCodes = "iid",
        mask: Any = None,
        anchor: Any = None,
        budget: Any = None,
        weights: Any = None,
        threads: int | None = None,
        backend: str = "auto",
        on_failure: str = "raise",
        model_log_probs: bool = False,
        top_log_probs: int = 0,
    ) -> Draw:
        """Draw tokens from the optimal distribution of every row, from logits to tokens in one pass.

        The draw is a pure function of (row of logits, mask, anchor, decoder, seed, position, draw index): the same
        token whatever the batch, the row's place in it and the thread count.

        Parameters
        ----------
        logits, mask, anchor, budget, weights, threads, backend, on_failure
            As in `__call__`.
        seed : int or integer array of shape (...), optional
            In [0, 2**64). A scalar on several rows stands for `row_seeds`; None draws fresh entropy.
        position : int or integer array of shape (...)
            Position of the token in its sequence; each (seed, position) has its own random numbers.
        n : int
            Draws a row.
        coupling : {"iid", "systematic", "gumbel_topk"} or ArithmeticCodes
            How the draws of a row hang together. ``"systematic"``: draw i uses ``frac(u + i / n)``; each draw alone has
            law q, and token v appears with probability min(1, n q_v). ``"gumbel_topk"``: n distinct tokens, drawn
            without replacement, in descending order of log q perturbed by Gumbel noise (arXiv:1903.06059), with
            ``log_inclusion``; draw 0 is that of ``"iid"``. `ArithmeticCodes`: each row is a sequence of one prompt, and
            draws one token.
        model_log_probs : bool
            Also return log p of the tokens, p the model distribution.
        top_log_probs : int
            Also return so many of the best tokens, and log p of these.

        Returns
        -------
        Draw
            ``tokens`` (..., n) and their ``log_probs``; what else was asked for.

        Raises
        ------
        ShapeError, DTypeError, ProblemError, ConvergenceError
            As in `__call__`; and a row has fewer than n tokens with probability (in float64) to draw without
            replacement. Marked, such a row has status `Status.TOO_FEW_TOKENS`, its tokens, and −1 and NaN in the places
            that are left.

        Notes
        -----
        Coupled draws depend on one another: estimators over independent samples, such as pass@k and the share of a
        majority vote for k < n, are biased within one coupled group. A group is one replicate; draw several.

        Examples
        --------
        >>> import numpy as np, optdecode as od
        >>> draw = od.softmax().sample(np.array([0.0, 1.0, 2.0, 3.0]), seed=5, n=3, coupling="gumbel_topk")
        >>> draw.tokens
        array([1, 3, 2])
        >>> np.exp(draw.log_inclusion).round(2)
        array([0.93, 1.  , 1.  ])
        """
        if mask is anchor is budget is weights is None and not model_log_probs and not top_log_probs:
            draw = draw_plain(self.plan, logits, seed, position, n, coupling, backend, threads, on_failure)
            if draw is not None:
                return draw
        rows = read_call(logits, [self.plan], backend, mask=mask, anchor=anchor, budget=budget, weights=weights)
        model = ModelWanted(model_log_probs, top_log_probs)
        return draw_rows([self.plan], rows, seed, position, n, coupling, backend, threads, on_failure, model)

    def subject_to(self, *supports: Support) -> Decoder:
        """Return this decoder with further supports; all of them intersect, so their order cannot matter.

        Parameters
        ----------
        *supports : Support
            Such as ``TopK(50), MinP(0.02)``.

        Returns
        -------
        Decoder
            A new decoder.
        """
        if not supports:
            return self
        old = () if self.problem.support is None else (self.problem.support,)
        return replace(self, problem=replace(self.problem, support=intersect(*old, *supports)))

    def explain(self, file: TextIO | None = None) -> None:
        """Print the objective, the constraint set and the plan that will run.

        Parameters
        ----------
        file : text stream, optional
            Where to print; standard output by default.
        """
        print(describe(self.problem, self.plan), file=file if file is not None else sys.stdout)

    def twin(self) -> Decoder:
        """Return the same decoder without coverage terms (beta = 0): of Best-of-K, the re-tempering of the anchor.

        Returns
        -------
        Decoder
            The comparison that isolates the coverage term: same scores, anchor, lam and solver. Mirror ascent takes
            as many steps of the same size (``eta="auto"`` those of its own 1 / L = 1 / lam, of which one is enough).

        Examples
        --------
        >>> import optdecode as od
        >>> od.best_of_k(8, lam=0.2, solver=od.MirrorAscent(steps=5, eta=1.0)).twin()
        Decoder(problem=Problem(regularizer=0.2 * KL()), solver=MirrorAscent())
        """
        terms = () if self.problem.regularizer is None else self.problem.regularizer.terms()
        rest = tuple((a, term) for a, term in terms if not isinstance(term, (Coverage, LogCoverage)))
        return replace(self, problem=replace(self.problem, regularizer=combine(rest) if rest else None))

    def effective_temperature(self) -> float:
        r"""Return the temperature at which plain softmax equals this decoder's twin.

        Returns
        -------
        float
            In units of the logits; 0 where the twin is greedy.

        Notes
        -----
        The twin is :math:`q \propto p \, e^{a w_s s}` with :math:`a = 1 / \lambda` at the optimum and
        :math:`a_J = (1 - (1 - \eta\lambda)^J) / \lambda` after J steps of mirror ascent (:math:`\eta J` at
        :math:`\lambda = 0`), so with :math:`p = \mathrm{softmax}(x / T)` the temperature is
        :math:`1 / (1/T + a w_s)` for scores x and :math:`T / (1 + a w_s)` for scores x / T. With a tolerance it is the
        one after all steps; a row that stops before is within the tolerance of it.

        Raises
        ------
        ProblemError
            The twin is no softmax of the logits (given anchor, sparse regularizer, cap, target, price a token), or it
            is uniform; the message names what makes it none.

        Examples
        --------
        >>> import optdecode as od
        >>> round(od.best_of_k(lam=0.1, temperature=0.9).effective_temperature(), 6)  # 0.9 / 11
        0.081818
        >>> od.Decoder(od.Problem(0.5 * od.KL() + 0.5 * od.NegEntropy(), temperature=0.9)).effective_temperature()
        0.6
        """
        twin = self.twin()
        plan, terms = twin.plan, () if twin.problem.regularizer is None else twin.problem.regularizer.terms()
        if plan.kind is PlanKind.ARGMAX:
            return 0.0
        supports = () if twin.problem.support is None else twin.problem.support.members()
        constraints = [member for member in supports if isinstance(member, Constraint) and member != Cap(1.0)]
        strangers = [term for _, term in terms if not (_is_entropy(term) or _is_model_kl(term))]
        strength = sum(coefficient for coefficient, _ in terms)
        if constraints or strangers or (strength <= 0.0 and plan.kind is not PlanKind.MIRROR):
            culprit = [*constraints, *strangers, twin][0]
            raise ProblemError(f"effective_temperature: with {culprit!r} the twin is no softmax of the logits")
        if plan.kind is PlanKind.MIRROR:
            factor, anchored = _factor_of_ascent(plan), 1.0
        else:
            # q ~ exp((w_s s + kl log p) / strength), and log p = x / T + const.
            factor = 1.0 / strength
            anchored = sum(coefficient for coefficient, term in terms if _is_model_kl(term)) / strength
        score = plan.score_weight * factor * (1.0 if plan.raw_scores else 1.0 / plan.temperature)
        inverse = score + anchored / plan.temperature
        if inverse == 0.0:
            raise ProblemError("effective_temperature: the twin is the uniform distribution (infinite temperature)")
        return 1.0 / inverse


def _is_entropy(term: Regularizer) -> bool:
    return term in (NegEntropy(), Tsallis(1.0))


def _is_model_kl(term: Regularizer) -> bool:
    return term in (KL(), AlphaDivergence(1.0))


def _factor_of_ascent(plan: Plan) -> float:
    """Return a of the distribution q = p exp(a s) that mirror ascent without coverage makes of p."""
    if plan.lam == 0.0:  # eta None: 1 where L = 0
        return plan.steps * (1.0 if plan.eta is None else plan.eta)
    # (1 - (1 - eta lam)^J) / lam without the cancellation of a small eta lam; "auto" is there after one step.
    moved = 1.0 if plan.eta is None else plan.eta * plan.lam
    if moved < 1.0:
        return -math.expm1(plan.steps * math.log1p(-moved)) / plan.lam
    try:
        return (1.0 - (1.0 - moved) ** plan.steps) / plan.lam
    except OverflowError:
        raise ProblemError(
            f"effective_temperature: {plan.steps} mirror steps of eta={plan.eta:g} diverge at lam={plan.lam:g}; "
            "take eta < 2 / lam"
        ) from None


@dataclass(frozen=True)
class ModelWanted:
    """What a draw also says of the model: log p of the tokens, and of how many of the best."""

    log_probs: bool = False
    best: int = 0

    def __post_init__(self) -> None:
        if self.best != 0:
            positive_int("sample", "top_log_probs", self.best)

    def added_to(
        self, draw: Draw, tokens: NDArray[Any], plans: list[Plan], rows: AnyRows, backend: str, threads: int
    ) -> Draw:
        """Return the draw with what the backend says, if anything is wanted."""
        if not (self.log_probs or self.best):
            return draw
        asked = tokens if self.log_probs else tokens[:, :0]
        answer = backends.model_log_probs(plans, rows, asked, self.best, backend, threads)
        return with_model(draw, rows, answer, self.best)


def thread_count(threads: int | None) -> int:
    """Return the thread count that backends read: 0 is the default."""
    return 0 if threads is None else positive_int("Decoder", "threads", threads, high=4096)


def draw_plain(
    plans: Plan | list[Plan],
    logits: Any,
    seed: Any,
    position: Any,
    n: int,
    coupling: str | ArithmeticCodes,
    backend: str,
    threads: int | None,
    on_failure: str,
) -> Draw | None:
    """Draw n tokens from every row in one step, or return None where arguments must be read, or refused, one by one.

    The common call at B = 1 costs less than one of the checks that `read_rows` and `draw_rows` make with NumPy.
    """
    if backend not in backends.PLAIN:
        return None
    array = logits if isinstance(logits, np.ndarray) else plain_tensor(logits)
    if array is None:
        return None
    if not isinstance(on_failure, str) or on_failure not in _ON_FAILURE:
        return None
    if seed is None:
        seed = fresh_seed()
    name, sample_plain = backends.PLAIN[backend]
    drawn = sample_plain(plans, array, seed, position, n, coupling, threads)
    if drawn is None:
        return None
    tokens, log_probs, status, solved = drawn
    codes = status
    if array is not logits:
        tokens, log_probs, status = as_tensors(tokens, log_probs, status)
    draw = Draw(tokens, log_probs, STATUSES[status] if type(status) is int else status, name)
    if not solved and on_failure == "raise":
        raise_on_failure(np.atleast_1d(codes), draw)
    return draw


def draw_rows(
    plans: list[Plan],
    rows: AnyRows,
    seed: Any,
    position: Any,
    n: int,
    coupling: str | ArithmeticCodes,
    backend: str,
    threads: int | None,
    on_failure: str,
    model: ModelWanted | None = None,
    solved: backends.Solved | None = None,
) -> Draw:
    """Draw n tokens from every row; one plan for all rows, solved before or not, or one a row."""
    one_of("Decoder", "on_failure", on_failure, _ON_FAILURE)
    after = None
    if isinstance(coupling, ArithmeticCodes):
        _refuse_beside_codes(seed=(seed, None), position=(position, 0), n=(n, 1))
        name, drawn, after = draw_codes(coupling, plans, rows, backend, thread_count(threads))
    else:
        if not isinstance(coupling, str) or coupling not in _COUPLINGS:
            allowed = ", ".join(map(repr, _COUPLINGS))
            raise ProblemError(f"sample: coupling must be one of {allowed}, or an ArithmeticCodes; got {coupling!r}")
        n = positive_int("sample", "n", n)
        seeds = rows.seeds(seed, row_seeds)
        positions = rows.positions(position)
        arguments = (seeds, positions, n, coupling, backend, thread_count(threads))
        if solved is None:
            name, drawn = backends.sample(plans, rows, *arguments)
        else:
            name, drawn = backends.draw_from(plans[0], rows, solved, *arguments)
    draw = make_draw(rows, drawn, name)
    if model is not None:
        draw = model.added_to(draw, drawn.tokens, plans, rows, backend, thread_count(threads))
    if on_failure == "raise":
        raise_on_failure(rows.host(drawn.status), draw, drawn.failures)
    if after is not None:
        after()
    return draw


def _refuse_beside_codes(**given: tuple[Any, Any]) -> None:
    """Raise if an argument that the codes bring themselves has another value than its default."""
    for name, (value, default) in given.items():
        if type(value) is not type(default) or value != default:
            raise ProblemError(
                f"sample: {name}= cannot be given beside ArithmeticCodes, which have a seed, a position and one draw "
                f"for each of their sequences; got {name}={value!r}"
            )
