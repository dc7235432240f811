"""The torch backend: every plan on the device of the logits, in plain torch operations.

Nothing here waits for the device, looks at a value to decide what runs next, makes a shape depend on the data, or
sorts: a call with ``on_failure="mark"`` can be captured in a CUDA graph, and `torch.compile` traces it whole. What
varies from row to row, parameters included, is a tensor; rows whose plans differ in more than numbers are solved in
groups.

float64 logits are computed in float64. For narrower ones exponentials are float32 where that has the optimum to 1e-5
in total variation; thresholds, coverage with large gains and anchors that are given take float64
(`_parameters.Structure`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optdecode._plan import Plan
from optdecode.backends.torch._autograd import attach
from optdecode.backends.torch._draw import draw
from optdecode.backends.torch._model import ask
from optdecode.backends.torch._parameters import KINDS, Structure, numbers, structure
from optdecode.backends.torch._problem import Inputs, Problem, prepare, work_type
from optdecode.backends.torch._solve import find, scalars
from optdecode.errors import BackendUnavailableError

__all__ = ["KINDS", "model_log_probs", "sample", "sample_codes", "solve"]

#: Of the couplings of draws, those that this backend has.
COUPLINGS = ("iid", "systematic")


def solve(
    plan: Plan, logits: Tensor, dtype: str, mask: Any, anchor: Any, weights: Any, budget: Any, threads: int = 0
) -> tuple[Tensor, ...]:
    """Solve every row of a batch.

    Parameters
    ----------
    plan : Plan
        One for all rows.
    logits : Tensor, shape (B, V)
        Of any float type.
    dtype : str
        ``"f64"`` for float64.
    mask : Tensor of bool, shape (B or 1, V), optional
        Allowed tokens.
    anchor, weights : Tensor of float64, shape (B or 1, V), optional
        Log-probabilities of the reference; coverage weights in place of the plan's.
    budget : Tensor of int64, shape (B,), optional
        K in place of the plan's.
    threads : int
        Ignored.

    Returns
    -------
    tuple of Tensor
        The fields of `optdecode.backends.Solved`.

    Raises
    ------
    BackendUnavailableError
        This backend has no solver for the plan.
    """
    inputs = Inputs(logits, mask, anchor, weights, budget)
    problem = _problem([plan], structure(plan, measured_by_call=_measured(inputs)), inputs)
    found, status = find(problem)
    floats = torch.float64 if dtype == "f64" else torch.float32
    log_q, q = attach(problem, found, logits)
    log_probs = torch.where(problem.bad, torch.nan, log_q).to(floats)
    probs = torch.where(problem.bad, torch.nan, q).to(floats)
    columns = scalars(problem, found)
    multiplier = torch.where(problem.bad, torch.nan, torch.ones_like(columns.entropy))
    iterations = torch.where(problem.bad, 0, found.iterations)
    return (
        log_probs,
        probs,
        problem.on & ~problem.bad,
        *(column[:, 0] for column in (*columns, multiplier, iterations, status)),
    )


def _measured(inputs: Inputs) -> bool:
    return inputs.weights is not None or inputs.budget is not None


def _problem(plans: Sequence[Plan], form: Structure, inputs: Inputs) -> Problem:
    width = work_type(form, inputs.logits)
    return prepare(form, numbers(plans, width, inputs.logits.device), inputs)


def sample(
    plans: list[Plan],
    logits: Tensor,
    dtype: str,
    mask: Any,
    anchor: Any,
    weights: Any,
    budget: Any,
    seeds: Tensor,
    positions: Tensor,
    n: int,
    coupling: str,
    threads: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw n tokens from the optimum of every row.

    Parameters
    ----------
    plans : list of Plan
        One for all rows, or one a row.
    logits, dtype, mask, anchor, weights, budget, threads
        As in `solve`.
    seeds, positions : Tensor of int64, shape (B,)
        Key and counter of the random numbers, by their 64 bits.
    n : int
        Draws a row.
    coupling : {"iid", "systematic"}
        How the draws of a row depend on each other.

    Returns
    -------
    tuple of Tensor
        tokens (B, n), −1 on rows without a distribution; log_probs (B, n), NaN there; status (B,).

    Raises
    ------
    BackendUnavailableError
        This backend has no solver for one of the plans.
    """
    if coupling not in COUPLINGS:
        raise BackendUnavailableError(
            f"the torch backend has no coupling {coupling!r}; on the CPU backend='rust' has it"
        )

    def drawn(problem: Problem, rows: Tensor | None) -> tuple[Tensor, ...]:
        found, status = find(problem)
        own = (seeds, positions) if rows is None else (seeds.index_select(0, rows), positions.index_select(0, rows))
        tokens, log_probs = draw(found.q, found.log_q, *own, n, coupling)
        log_probs = torch.where(problem.bad, torch.nan, log_probs).to(torch.float64)
        return torch.where(problem.bad, -1, tokens), log_probs, status

    tokens, log_probs, status = _in_groups(plans, Inputs(logits, mask, anchor, weights, budget), drawn)
    return tokens, log_probs, status[:, 0]


def sample_codes(*arguments: Any) -> tuple[Tensor, ...]:
    """Refuse arithmetic codes, whose state is arrays in CPU memory.

    Raises
    ------
    BackendUnavailableError
        Always.
    """
    raise BackendUnavailableError("the torch backend has no ArithmeticCodes; on the CPU backend='rust' has them")


def model_log_probs(
    plans: list[Plan], logits: Tensor, dtype: str, mask: Any, anchor: Any, tokens: Tensor, m: int, threads: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the model says of tokens, and its best ones.

    Parameters
    ----------
    plans : list of Plan
        One for all rows, or one a row; their temperature is that of the model distribution.
    logits, dtype, mask, anchor, threads
        As in `solve`.
    tokens : Tensor of int64, shape (B, n)
        Negative ones have log-probability NaN.
    m : int
        How many of the best.

    Returns
    -------
    tuple of Tensor
        log p (B, n); the best tokens (B, m), −1 past the allowed ones, and log p of these. NaN and −1 on bad rows.
    """

    def said(problem: Problem, rows: Tensor | None) -> tuple[Tensor, ...]:
        return ask(problem, tokens if rows is None else tokens.index_select(0, rows), m)

    log_probs, best, best_log_probs = _in_groups(plans, Inputs(logits, mask, anchor), said)
    return log_probs, best, best_log_probs


def _in_groups(
    plans: Sequence[Plan], inputs: Inputs, each: Callable[[Problem, Tensor | None], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Apply a function to the rows of every structure, and put its results, (B, ...), in the order of the rows."""
    count = inputs.logits.shape[0]
    groups: dict[Structure, list[int]] = {}
    for row, plan in enumerate(plans):
        groups.setdefault(structure(plan, measured_by_call=_measured(inputs)), []).append(row)
    if len(groups) == 1:
        (form,) = groups
        return each(_problem(plans, form, inputs), None)
    device = inputs.logits.device
    results = []
    for form, members in groups.items():
        rows = torch.tensor(members, dtype=torch.int64, device=device)
        results.append(each(_problem([plans[row] for row in members], form, inputs.at(rows)), rows))
    order = [row for members in groups.values() for row in members]
    back = sorted(range(count), key=order.__getitem__)
    places = torch.tensor(back, dtype=torch.int64, device=device)
    return tuple(torch.cat(parts).index_select(0, places) for parts in zip(*results, strict=True))
