"""Layers of pseudo-3D networks: each spatial layer may be followed by its temporal twin.

Spatial layers work on [B*F, C, H, W] with row b*F + f. Temporal layers start as the identity, so a
freshly inflated network draws F independent pictures (Make-A-Video, arXiv:2209.14792, section 3.2).
Parameter names follow the public Karlo checkpoints; a temporal twin appends `_time`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frame_attention import Turns, attend_frames

__all__ = [
    "AddedKVAttention",
    "Resnet",
    "TemporalAttention",
    "TemporalConv",
    "TimestepEmbedding",
    "rotary",
    "sinusoid",
]


def sinusoid(t: Tensor, width: int) -> Tensor:
    """f32 [N, width]: cosines then sines of t f32 [N] at frequencies 10000^(-i/half)."""
    half = width // 2
    step = -math.log(10000.0) / half
    frequency = torch.exp(step * torch.arange(half, dtype=torch.float32, device=t.device))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Linear, SiLU, Linear over a sinusoid of width `width`: f32 [N] -> [N, out]."""

    def __init__(self, width: int, out: int, *, zero: bool = False) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)
        if zero:
            nn.init.zeros_(self.linear_2.weight)
            nn.init.zeros_(self.linear_2.bias)

    def forward(self, t: Tensor) -> Tensor:
        """[N, out] for t f32 [N]."""
        x = sinusoid(t, self.width).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class TemporalConv(nn.Module):
    """Conv1d over frames, kernel 3, identity at the start (systems: Conv_P3D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        weight = torch.zeros(channels, channels, 3)
        weight[:, :, 1] = torch.eye(channels)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """[B*F, C, H, W] -> the same shape."""
        _, c, h, w = x.shape
        x = x.reshape(-1, frames, c, h * w).transpose(1, 2)  # [B, C, F, HW]
        x = F.conv2d(x, self.weight.unsqueeze(-1), self.bias, padding=(1, 0))
        return x.transpose(1, 2).reshape(-1, c, h, w)


class Resnet(nn.Module):
    """Residual block of the Karlo networks, optionally resampling, optionally with time.

    `temb` enters by scale and shift after norm2 (decoder) or by addition before it (SR).
    """

    def __init__(
        self,
        channels: tuple[int, int],
        temb: int,
        *,
        groups: int,
        scale_shift: bool,
        sampler: Literal["up", "down"] | None = None,
        temporal: bool = False,
    ) -> None:
        super().__init__()
        inside, out = channels
        self.scale_shift, self.sampler = scale_shift, sampler
        self.norm1 = nn.GroupNorm(groups, inside, eps=1e-5)
        self.conv1 = nn.Conv2d(inside, out, 3, padding=1)
        self.conv1_time = TemporalConv(out) if temporal else None
        self.time_emb_proj = nn.Linear(temb, 2 * out if scale_shift else out)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-5)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv2_time = TemporalConv(out) if temporal else None
        self.conv_shortcut = nn.Conv2d(inside, out, 1) if inside != out else None

    def _resample(self, x: Tensor) -> Tensor:
        if self.sampler == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.sampler == "down" else x

    def forward(self, x: Tensor, temb: Tensor, frames: int) -> Tensor:
        """x [B*F, C, H, W], temb [B, E] -> [B*F, C', H', W']."""
        h = self._resample(F.silu(self.norm1(x)))
        h = self.conv1(h)
        if self.conv1_time is not None:
            h = self.conv1_time(h, frames)
        emb = self.time_emb_proj(F.silu(temb)).repeat_interleave(frames, 0)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = self.conv2(F.silu(h))
        if self.conv2_time is not None:
            h = self.conv2_time(h, frames)
        x = self._resample(x)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        out: Tensor = h + x
        return out


def _heads(x: Tensor, head_dim: int) -> Tensor:
    """[N, L, C] -> [N, heads, L, head_dim]."""
    return x.reshape(*x.shape[:-1], -1, head_dim).transpose(1, 2)


class AddedKVAttention(nn.Module):
    """Spatial self-attention whose keys and values are preceded by condition tokens (DALL-E 2)."""

    def __init__(self, channels: int, head_dim: int, cross: int, groups: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-5)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(cross, channels)
        self.add_v_proj = nn.Linear(cross, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, tokens: Tensor, bias: Tensor, frames: int) -> Tensor:
        """x [B*F, C, H, W], tokens [B, M, E], bias [B, M] added to their scores -> as x."""
        shape = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # [B*F, HW, C]
        added_k = self.add_k_proj(tokens).repeat_interleave(frames, 0)
        added_v = self.add_v_proj(tokens).repeat_interleave(frames, 0)
        k = _heads(torch.cat([added_k, self.to_k(h)], 1), self.head_dim)
        v = _heads(torch.cat([added_v, self.to_v(h)], 1), self.head_dim)
        mask = F.pad(bias, (0, h.shape[1])).repeat_interleave(frames, 0)[:, None, None]
        mask = mask.to(x.dtype).expand(-1, -1, h.shape[1], -1)  # ONNX Runtime broadcasts no mask
        h = F.scaled_dot_product_attention(
            _heads(self.to_q(h), self.head_dim), k, v, attn_mask=mask
        )
        out: Tensor = self.to_out[0](h.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(shape)


def rotary(frames: int, width: int) -> Turns:
    """Of the channel pairs (i, i + width/2): angle = frame * 10000^(-2i/width)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(frames, dtype=torch.float32)[:, None] * frequency
    return Turns(angle.cos(), angle.sin(), interleaved=False)


class TemporalAttention(nn.Module):
    """Self-attention over frames at every pixel; zero output projection at the start."""

    def __init__(self, channels: int, head_dim: int, groups: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-5)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        out = nn.Linear(channels, channels)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.to_out = nn.ModuleList([out])

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """[B*F, C, H, W] -> the same shape."""
        _, c, h, w = x.shape
        y = self.group_norm(x).reshape(-1, frames, c, h * w).transpose(2, 3)  # [B, F, HW, C]
        parts = self.to_q, self.to_k, self.to_v
        weight, bias = (torch.cat([getattr(p, n) for p in parts]) for n in ("weight", "bias"))
        turns = rotary(frames, self.head_dim)
        y = attend_frames(F.linear(y, weight, bias), c // self.head_dim, turns)
        out: Tensor = self.to_out[0](y).transpose(2, 3).reshape(x.shape)
        return x + out
