"""The diffusion prior: text to CLIP image embedding (DALL-E 2 section 2.2, Karlo's keys)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import TimestepEmbedding

__all__ = ["Prior", "PriorConfig"]


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of a prior; `tokens` counts the text states, four more are appended."""

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 20
    embedding_dim: int = 768
    tokens: int = 77


class _Gelu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class _FeedForward(nn.Module):
    """GELU MLP under the key names `net.0.proj` and `net.2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Gelu(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class _Attention(nn.Module):
    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        out: Tensor = self.to_out[0](h.transpose(1, 2).flatten(2))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = _Attention(width, head_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        x = x + self.ff(self.norm3(x))
        return x


class Prior(nn.Module):
    """Causal transformer over [text states, text embedding, time, noisy image embedding, query]."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_attention_heads * config.attention_head_dim
        length, dim = config.tokens + 4, config.embedding_dim
        self.time_embedding = TimestepEmbedding(width, width)
        self.proj_in = nn.Linear(dim, width)
        self.embedding_proj = nn.Linear(dim, width)
        self.encoder_hidden_states_proj = nn.Linear(dim, width)
        self.positional_embedding = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.prd_embedding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.transformer_blocks = nn.ModuleList(
            _Block(width, config.attention_head_dim) for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_clip_embeddings = nn.Linear(width, dim)
        self.clip_mean = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.clip_std = nn.Parameter(torch.ones(1, dim), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, embeds: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Predicted clean, normalised image embedding [B, D].

        Args:
            x: [B, D], noisy image embedding, normalised by clip_mean and clip_std.
            t: f32 [B], training timestep.
            embeds: [B, D], projected text embedding.
            states: [B, L, D], text encoder states.
            mask: [B, L], 1 on real tokens.
        """
        h = torch.cat(
            [
                self.encoder_hidden_states_proj(states),
                self.embedding_proj(embeds)[:, None],
                self.time_embedding(t)[:, None],
                self.proj_in(x)[:, None],
                self.prd_embedding.to(x.dtype).expand(x.shape[0], -1, -1),
            ],
            dim=1,
        )
        length = self.config.tokens + 4
        causal = torch.full((length, length), -10000.0, device=x.device).triu(1)
        bias = F.pad((1 - mask.float()) * -10000.0, (0, 4))[:, None, None] + causal
        h = h + self.positional_embedding.to(h.dtype)
        for block in self.transformer_blocks:
            h = block(h, bias)
        out: Tensor = self.proj_to_clip_embeddings(self.norm_out(h[:, -1]))
        return out
