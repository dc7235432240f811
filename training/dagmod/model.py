"""A Llama in plain PyTorch, with the parameter names and conventions of transformers' `LlamaForCausalLM`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values, (batch, heads, time, head dimension)


@dataclass(frozen=True)
class Config:
    """The sizes, named as in transformers' `LlamaConfig`."""

    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 344
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def rotary(positions: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (batch, 1, time, head dimension), in transformers' half-and-half layout."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = positions[:, None, :, None].float() * config.rope_theta**-exponent
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        size = config.hidden_size
        self.q_proj, self.k_proj = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.v_proj, self.o_proj = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, time, size = x.shape
        q, k, v = (
            proj(x).view(batch, time, self.heads, self.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, size)), (k, v)


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, present = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Backbone(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        x = self.embed_tokens(ids)
        cos, sin = rotary(positions, self.config)
        presents: Cache = []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, cos, sin, mask, cache[i] if cache is not None else None)
            presents.append(present)
        return self.norm(x), presents


class Llama(nn.Module):
    """The language model; `model` and `lm_head` are transformers' names."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        # Embeddings of the usual .02 let the first attention output drown the token's identity, and training stalls.
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            std = 1.0 if "embed_tokens" in name else 0.02 if "lm_head" in name else 0.05
            nn.init.normal_(parameter, std=std)

    def forward(self, ids: Tensor, attention_mask: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Logits of left-padded rows and the new cache.

        `attention_mask` (batch, past + time) is 1 on tokens, 0 on padding, as in transformers; positions count tokens.
        """
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        hidden, cache = self.model(ids, positions, attention_bias(attention_mask, ids.shape[1]), cache)
        return self.lm_head(hidden), cache


def attention_bias(attention_mask: Tensor, time: int) -> Tensor:
    """0 where a query may look and a large negative number elsewhere: (batch, 1, time, past + time).

    Finite rather than −inf, so that a padding row, which sees nothing, yields numbers nobody reads instead of NaN.
    """
    total = attention_mask.shape[1]
    causal = torch.arange(total)[None, :] <= torch.arange(total - time, total)[:, None]
    allowed = causal[None, None] & attention_mask[:, None, None, :].bool()
    return torch.where(allowed, 0.0, -math.sqrt(torch.finfo(torch.float32).max))
