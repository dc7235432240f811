"""What the model itself says of a row: the log-probabilities of given tokens, and its best tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from optdecode.backends.torch._numeric import WIDE, first_true, largest
from optdecode.backends.torch._problem import Problem


def ask(problem: Problem, tokens: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p of tokens (B, n), the m best tokens (B, m) in the order of the scores, and log p of these.

    Negative tokens have log-probability NaN. Past the number of allowed tokens there is −1 and −inf. Rows without a
    distribution have NaN and −1.
    """
    log_p = torch.where(problem.keep, problem.log_p, -torch.inf).to(WIDE)
    size = log_p.shape[-1]
    inside = log_p.gather(-1, tokens.clamp(0, size - 1))
    log_probs = torch.where(tokens < size, inside, -torch.inf)
    log_probs = torch.where((tokens < 0) | problem.bad, torch.nan, log_probs)
    places = torch.arange(size, device=log_p.device)
    left, best = problem.keep, []
    for _ in range(m):
        token = first_true(left & (problem.x == largest(problem.x, left)))
        left = left & (places != token)
        best.append(token)
    top = torch.cat(best, dim=-1) if best else tokens[:, :0]
    missing = top >= size
    top_log_probs = torch.where(missing, -torch.inf, log_p.gather(-1, top.clamp(max=size - 1)))
    top = torch.where(missing | problem.bad, -1, top)
    return log_probs, top, torch.where(problem.bad, torch.nan, top_log_probs)
