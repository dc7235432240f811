"""Entropic mirror ascent for B rows at once, accelerated, with a certified gap as stopping rule.

A plain step is ``q <- q exp(-eta g)``, projected, g the gradient of the objective that is minimised; eta is halved
until the step obeys the Bregman inequality ``f(y) <= f(x) + <g(x), y - x> + KL(y || x) / eta``. Between plain steps two
extrapolations in log q are tried, each kept only if it does not raise the objective:

* the secant step: the combination of the last steps whose residual is least, in the metric of q (Anderson's mixing,
  doi:10.1145/321296.321305). It sees the curvature of a few groups of tokens after as many steps.
* momentum (Nesterov's), restarted when the objective rises (arXiv:1204.3982): where tokens die out, secants mislead.

Every row has a trial of its own in every round, and leaves when its gap is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from optdecode._checks import between
from optdecode.backends._user_problem import Point, Problem
from optdecode.backends._user_simplex import FLOOR, Array, Flags, project

#: Rounds without a setting of the caller's, and the gap, over the scale, that they aim for.
ROUNDS, TARGET = 10_000, 1e-12
#: A row whose gap has not halved in so many rounds stops where rounding explains it.
_PATIENCE, ACCEPTED = 300, 1e-9

_MEMORY = 8
_PROBE = 32  # momentum steps between two trials of a secant step
_LAPSES = 2  # secant steps that are refused one after the other before momentum has its turn
_PLAIN, _SECANT, _MOMENTUM = 0, 1, 2
_LEAST_STEP, _LARGEST_STEP = 1e-30, 1e30


class Ascent:
    """The state of the rows that are not finished; arrays have one row each."""

    def __init__(self, problem: Problem, start: Point, name: str, accelerate: bool = True) -> None:
        count, size = problem.linear.shape
        self.problem, self.point, self.name = problem, start, name
        self.accelerate = accelerate
        self.rows = np.arange(count)  # where each was in the problem at the start
        self.eta = np.ones(count)
        self.growth = np.full(count, 2.0)  # until a step is refused
        self.mode = np.full(count, _SECANT)
        self.run = np.zeros(count, dtype=np.int64)  # momentum steps since the last restart
        self.lapses = np.zeros(count, dtype=np.int64)  # refused secant steps since the last good one
        self.plain = np.ones(count, dtype=bool)  # the next trial is a plain step
        memory = _MEMORY if accelerate else 0
        self.old_log_q = np.zeros((count, memory, size))
        self.old_residual = np.zeros((count, memory, size))
        self.remembered = np.zeros(count, dtype=np.int64)
        self.best = start.take(np.arange(count))
        self.halved = np.zeros(count, dtype=np.int64)  # the round in which the best gap last halved
        self.mark = start.gap.copy()

    def keep(self, index: npt.NDArray[np.intp]) -> None:
        """Drop the rows that are not in the index."""
        self.problem = self.problem.take(index)
        self.point, self.best = self.point.take(index), self.best.take(index)
        for name in ("rows", "eta", "growth", "mode", "run", "lapses", "plain", "old_log_q", "old_residual",
                     "remembered", "halved", "mark"):  # fmt: skip
            setattr(self, name, getattr(self, name)[index])

    # ------------------------------------------------------------------------------------------------------- one round

    def advance(self, number: int) -> Flags:
        """Make one trial a row; returns which rows have come to a stop."""
        kind = self._kinds()
        residual = self._residual()
        step = -self.eta[:, None] * self.point.gradient
        for other, make in ((_SECANT, self._secant_step), (_MOMENTUM, self._momentum_step)):
            index = np.flatnonzero(kind == other)
            if index.size:
                step[index] = make(index, residual[index])
        astray = ~np.isfinite(step).all(axis=1)
        step[astray] = 0.0
        trial = self.problem.at(project(self.point.log_q + step, self.problem.open, self.problem.cap))
        accepted = self._judge(kind, trial) & trial.is_finite() & ~astray
        self._adapt(kind, accepted)
        index = np.flatnonzero(accepted)
        if index.size:
            self._check_step(index, trial)
            if self.accelerate:
                self._remember(index, residual[index])
            self.point.put(index, trial.take(index))
        return self._stopped(number)

    def leap(self, eta: float) -> None:
        """Make one plain step of size eta in every row, whatever it does."""
        trial = self.problem.at(
            project(self.point.log_q - eta * self.point.gradient, self.problem.open, self.problem.cap)
        )
        self._check_step(np.flatnonzero(trial.is_finite()), trial)
        self.point = self.best = trial

    def _kinds(self) -> npt.NDArray[np.int64]:
        if not self.accelerate:
            return np.full(self.rows.size, _PLAIN)
        probing = (self.mode == _MOMENTUM) & (self.run % _PROBE == _PROBE - 1)
        return np.where(self.plain | (self.remembered == 0), _PLAIN, np.where(probing, _SECANT, self.mode))

    def _residual(self) -> Array:
        """Return the direction of a plain step, which vanishes at the optimum: 0 on tokens that a bound holds."""
        point, face, cap = self.point, self.problem.open, self.problem.cap
        excess = point.dual(face, cap)[:, None] - point.gradient
        held = ((point.log_q <= FLOOR) & (excess < 0.0)) | (point.full(cap) & (excess > 0.0))
        return np.where(face & ~held, excess, 0.0)

    def _secant_step(self, index: npt.NDArray[np.intp], residual: Array) -> Array:
        known = np.arange(_MEMORY)[None, :] < self.remembered[index, None]
        moved = np.where(known[:, :, None], self.point.log_q[index][:, None, :] - self.old_log_q[index], 0.0)
        turned = np.where(known[:, :, None], residual[:, None, :] - self.old_residual[index], 0.0)
        root = np.sqrt(self.point.q[index])
        rows = turned * root[:, None, :]
        gram = rows @ rows.transpose(0, 2, 1)
        unit = 1.0 / np.sqrt(np.einsum("bii->bi", gram) + 1e-300)
        gram = gram * unit[:, :, None] * unit[:, None, :] + 1e-12 * np.eye(_MEMORY)
        right = (rows @ (root * residual)[:, :, None])[:, :, 0] * unit
        if not (np.isfinite(gram).all() and np.isfinite(right).all()):
            return np.full_like(residual, np.nan)
        weight = np.linalg.solve(gram, right[:, :, None])[:, :, 0] * unit
        eta = self.eta[index, None]
        return np.asarray(eta * residual - (weight[:, None, :] @ (moved + eta[:, :, None] * turned))[:, 0, :])

    def _momentum_step(self, index: npt.NDArray[np.intp], residual: Array) -> Array:
        last = (self.remembered[index] - 1) % _MEMORY
        eta, run = self.eta[index, None], self.run[index, None] + 1.0
        moved = self.point.log_q[index] - self.old_log_q[index, last]
        turned = residual - self.old_residual[index, last]
        return np.asarray(eta * residual + run / (run + 3.0) * (moved + eta * turned))

    def _judge(self, kind: npt.NDArray[np.int64], trial: Point) -> Flags:
        """Return which trials are good enough."""
        point = self.point
        with np.errstate(invalid="ignore", over="ignore"):
            move = trial.q - point.q
            slope = (point.gradient * move).sum(axis=1)
            turn = ((trial.gradient - point.gradient) * move).sum(axis=1)
            noise = 1e-15 * (np.abs(point.value) + np.abs(trial.value))
            rounding = 1e-15 * ((np.abs(point.gradient) + np.abs(trial.gradient)) * np.abs(move)).sum(axis=1)
            forward = (trial.q * (trial.log_q - point.log_q)).sum(axis=1)
            backward = (point.q * (point.log_q - trial.log_q)).sum(axis=1)
            # Where values differ by rounding alone, gradients still tell: the inequality, added up both ways.
            by_value = trial.value - point.value - slope <= forward / self.eta + noise
            by_slope = turn <= (forward + backward) / self.eta + rounding
            plain = np.where(forward / self.eta > 100.0 * noise, by_value, by_slope)
            falls = trial.value <= point.value + noise
            closer = (trial.gap < point.gap) | (trial.value < point.value - 1e-3 * point.gap)
        return np.asarray(np.where(kind == _PLAIN, plain, falls & ((kind == _MOMENTUM) | closer)))

    def _adapt(self, kind: npt.NDArray[np.int64], accepted: Flags) -> None:
        """Choose the step sizes and the kinds of the next trials."""
        plain = kind == _PLAIN
        self.growth[plain & ~accepted] = 1.3
        eta = self.eta * np.where(accepted, self.growth, 0.5)
        self.eta = np.where(plain, np.minimum(eta, _LARGEST_STEP), self.eta)
        probe = (kind == _SECANT) & (self.mode == _MOMENTUM)  # one that fails leaves the momentum as it was
        self.run[(kind == _MOMENTUM) & accepted | probe] += 1
        self.mode[probe & accepted] = _SECANT
        lost = ~plain & ~accepted & ~probe
        self.lapses[accepted & (kind == _SECANT)] = 0
        self.lapses[lost] += 1
        self.mode[lost] = np.where(self.lapses[lost] >= _LAPSES, _MOMENTUM, _SECANT)
        self.lapses[lost & (kind == _MOMENTUM)] = _LAPSES // 2
        self.mode[lost & (kind == _MOMENTUM)] = _SECANT
        self.run[lost] = 0
        self.plain = np.where(plain, ~accepted, lost)

    def _check_step(self, index: npt.NDArray[np.intp], trial: Point) -> None:
        here, there = self.point.take(index), trial.take(index)
        values, gradients = (here.value, there.value), (here.gradient, there.gradient)
        rows = self.problem.ctx.rows[index]
        between(values, gradients, there.q - here.q, rows, self.problem.failures, self.name)

    def _remember(self, index: npt.NDArray[np.intp], residual: Array) -> None:
        slot = self.remembered[index] % _MEMORY
        self.old_log_q[index, slot] = self.point.log_q[index]
        self.old_residual[index, slot] = residual
        self.remembered[index] += 1

    def _stopped(self, number: int) -> Flags:
        point, scale = self.point, self.problem.scale
        index = np.flatnonzero(point.gap < self.best.gap)
        self.best.put(index, point.take(index))
        halved = self.best.gap <= 0.5 * self.mark
        self.mark[halved], self.halved[halved] = self.best.gap[halved], number
        stuck = (number - self.halved > _PATIENCE) & (self.best.gap <= ACCEPTED * scale)
        return np.asarray(
            (self.best.gap <= TARGET * scale) | stuck | (self.eta < _LEAST_STEP) | self.problem.has_failed()
        )


def ascend(
    problem: Problem, start: Point, name: str, steps: int, eta: float | None, accelerate: bool = True
) -> tuple[Point, npt.NDArray[np.int64]]:
    """Return the best point of every row, and the rounds that it took.

    Parameters
    ----------
    problem : Problem
        Of B rows.
    start : Point
        Where they start; its arrays are overwritten.
    name : str
        What the objective is made of, for messages.
    steps : int
        Rounds at most; 0 is `ROUNDS`.
    eta : float, optional
        A fixed step size: exactly ``steps`` plain steps, without stopping. None searches for it.
    accelerate : bool
        False makes plain steps only.
    """
    state = Ascent(problem, start, name, accelerate and eta is None)
    rounds = np.zeros(problem.count, dtype=np.int64)
    result = start.take(np.arange(problem.count))
    stopped = problem.has_failed() | ((start.gap <= TARGET * problem.scale) if eta is None else False)

    def settle(done: Flags, number: int) -> None:
        where = state.rows[done]
        result.put(where, state.best.take(np.flatnonzero(done)))
        rounds[where] = number
        if done.any():
            state.keep(np.flatnonzero(~done))

    settle(stopped, 0)
    number, advance = 0, _stepper(state, eta)
    while state.rows.size and number < (steps or ROUNDS):
        number += 1
        settle(advance(number), number)
    settle(np.ones(state.rows.size, dtype=bool), number)
    return result, rounds


def _stepper(state: Ascent, eta: float | None) -> Callable[[int], Flags]:
    if eta is None:
        return state.advance
    size = eta

    def leap(number: int) -> Flags:
        state.leap(size)
        return state.problem.has_failed()

    return leap
