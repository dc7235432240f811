"""The decoder: a problem that can be called on logits."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from optdecode import backends
from optdecode._explain import describe
from optdecode._inputs import as_tensors, fresh_seed, plain_tensor
from optdecode._lowering import lower
from optdecode._plan import Plan, PlanKind
from optdecode._problem import MirrorAscent, Problem
from optdecode._solution import Draw, Solution, make_draw, raise_on_failure, with_model
from optdecode._spec import Spec, one_of, positive_int
from optdecode._status import STATUSES
from optdecode._system import row_seeds
from optdecode._tensor_inputs import AnyRows, read_call
from optdecode.errors import ProblemError
from optdecode.regularizers import KL, Coverage, combine
from optdecode.supports import Support, intersect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ON_FAILURE = ("raise", "mark")
_COUPLINGS = ("iid", "systematic")


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
            NumPy float16/32/64, `ml_dtypes.bfloat16`, or CPU torch f16/bf16/f32/f64; any strides (a strided last axis
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
        backend : {"auto", "rust", "reference"}
            Where to compute.
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

        def draw(seed: Any, position: Any, n: int, coupling: str, model: bool, best: int) -> Draw:
            wanted = ModelWanted(model, best)
            return draw_rows([self.plan], rows, seed, position, n, coupling, backend, threads, "mark", wanted)

        solution = Solution(self.plan, rows, solved, name, draw)
        if on_failure == "raise":
            raise_on_failure(rows.host(solved.status), solution)
        if written is not None:
            rows.write(written, solved.log_probs)
        return solution

    def sample(
        self,
        logits: Any,
        seed: Any = None,
        position: Any = 0,
        n: int = 1,
        coupling: str = "iid",
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
        coupling : {"iid", "systematic"}
            ``"systematic"``: draw i uses ``frac(u + i / n)``; each draw alone has law q, and token v appears with
            probability min(1, n q_v).
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
            As in `__call__`.
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
        """Return the same decoder without coverage (beta = 0): what is left is re-tempering of the anchor.

        Returns
        -------
        Decoder
            The comparison that isolates the coverage term.
        """
        terms = () if self.problem.regularizer is None else self.problem.regularizer.terms()
        rest = tuple((a, term) for a, term in terms if not isinstance(term, Coverage))
        if self.solver is not None and not rest:
            raise ProblemError(
                "twin: mirror ascent at lam=0 has no exact twin; it is softmax with weight steps * eta on s"
            )
        return replace(self, problem=replace(self.problem, regularizer=combine(rest) if rest else None))

    def effective_temperature(self) -> float:
        """Return the temperature at which plain softmax equals this decoder's twin.

        Returns
        -------
        float
            In units of the logits; 0 where the twin is greedy.

        Raises
        ------
        ProblemError
            The twin is no softmax of the logits (given anchor, sparse regularizer).
        """
        twin = self.twin()
        plan = twin.plan
        if plan.kind is PlanKind.ARGMAX:
            return 0.0
        kl = twin.problem.regularizer is not None and isinstance(twin.problem.regularizer.terms()[0][1], KL)
        softmax_like = plan.kind in (
            PlanKind.SOFTMAX,
            PlanKind.FACE_SOFTMAX,
            PlanKind.ANCHORED_SOFTMAX,
            PlanKind.MIRROR,
        )
        if plan.anchor == "given" or not softmax_like:
            raise ProblemError(f"effective_temperature: {twin!r} is no softmax of the logits")
        factor = 1.0 / plan.lam
        if plan.kind is PlanKind.MIRROR and plan.eta is not None:
            factor = (1.0 - (1.0 - plan.eta * plan.lam) ** plan.steps) / plan.lam
        score = plan.score_weight * factor * (1.0 if plan.raw_scores else 1.0 / plan.temperature)
        inverse = score + (1.0 / plan.temperature if kl else 0.0)
        if inverse == 0.0:
            raise ProblemError("effective_temperature: the twin is the uniform distribution (infinite temperature)")
        return 1.0 / inverse


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
    coupling: str,
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
    coupling: str,
    backend: str,
    threads: int | None,
    on_failure: str,
    model: ModelWanted | None = None,
) -> Draw:
    """Draw n tokens from every row; one plan for all rows or one a row."""
    one_of("Decoder", "on_failure", on_failure, _ON_FAILURE)
    one_of("sample", "coupling", coupling, _COUPLINGS)
    n = positive_int("sample", "n", n)
    seeds = rows.seeds(seed, row_seeds)
    positions = rows.positions(position)
    name, drawn = backends.sample(plans, rows, seeds, positions, n, coupling, backend, thread_count(threads))
    draw = make_draw(rows, drawn, name)
    if model is not None:
        draw = model.added_to(draw, drawn.tokens, plans, rows, backend, thread_count(threads))
    if on_failure == "raise":
        raise_on_failure(rows.host(drawn.status), draw)
    return draw
