"""torch, on one thread: what a plain sampling loop is made of."""

import torch

from optdecode.presets import DEFAULT_BETA

from . import Inputs, Peer

K, LAM = 8, 0.2
BETA_BAR = LAM * DEFAULT_BETA


def build(inputs: Inputs) -> list[Peer]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    runs = {
        "torch max": lambda x: x.max(dim=-1),
        "torch softmax": softmax,
        "torch softmax + multinomial": lambda x: torch.multinomial(softmax(x), 1),
        "torch softmax + exponential race": race,
        "torch top-k 50 + multinomial": top_k,
        "torch sort + top-p .95 + multinomial": top_p,
        "torch 5 mirror steps": mirror,
        "torch 5 mirror steps + multinomial": lambda x: torch.multinomial(mirror(x), 1),
    }
    return [Peer(name, run, inputs.torch) for name, run in runs.items()]


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1, dtype=torch.float32)


def race(x: torch.Tensor) -> torch.Tensor:
    p = softmax(x)
    return p.div_(torch.empty_like(p).exponential_()).argmax(dim=-1)


def top_k(x: torch.Tensor) -> torch.Tensor:
    values, ids = x.topk(50, dim=-1)
    return ids.gather(-1, torch.multinomial(softmax(values), 1))


def top_p(x: torch.Tensor) -> torch.Tensor:
    values, ids = x.sort(dim=-1, descending=True)
    p = softmax(values)
    p[p.cumsum(dim=-1) - p >= 0.95] = 0.0
    return ids.gather(-1, torch.multinomial(p, 1))


def mirror(x: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of arXiv:2602.18292 for Best-of-K, step size 1, weights p."""
    s = x.float()
    log_p = torch.log_softmax(s, dim=-1)
    gain = BETA_BAR * K * log_p.exp()
    log_q = log_p
    for _ in range(5):
        gradient = s + gain * (1.0 - log_q.exp()).pow(K - 1) - LAM * (log_q - log_p)
        log_q = torch.log_softmax(log_q + gradient, dim=-1)
    return log_q.exp()
