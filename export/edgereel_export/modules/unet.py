"""The pixel networks of a Make-A-Video cascade: decoder, interpolation and super-resolution.

One class covers all three in the block structure of the public Karlo networks (DALL-E 2 type),
made pseudo-3D. Without `temporal` it is the plain 2-D network with the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import AddedKVAttention, Resnet, TemporalAttention, TemporalConv, TimestepEmbedding

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet, as in the config.json beside its weights.

    `attention` says per level whether its resnets are followed by attention; `cross_dim` is the
    width of the condition tokens (0: no attention anywhere, as in the SR networks).
    """

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int = 3
    attention: tuple[bool, ...] = ()
    cross_dim: int = 0
    head_dim: int = 64
    groups: int = 32
    scale_shift: bool = True
    temporal: bool = True
    fps: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> UNetConfig:
        """The config of a JSON object; lists become tuples."""
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**known)


class _Block(nn.Module):
    """One level: resnets with optional attention, then a resampling resnet."""

    def __init__(
        self, config: UNetConfig, channels: list[tuple[int, int]], attention: bool, sampler: str
    ) -> None:
        super().__init__()
        temb = config.block_out_channels[0] * 4
        out = channels[-1][1]

        def resnet(pair: tuple[int, int], kind: Any = None) -> Resnet:
            return Resnet(
                pair,
                temb,
                groups=config.groups,
                scale_shift=config.scale_shift,
                sampler=kind,
                temporal=config.temporal,
            )

        self.resnets = nn.ModuleList([resnet(pair) for pair in channels])
        if attention:
            sites = range(len(channels))
            self.attentions = nn.ModuleList(
                AddedKVAttention(out, config.head_dim, config.cross_dim, config.groups)
                for _ in sites
            )
            if config.temporal:
                self.attentions_time = nn.ModuleList(
                    TemporalAttention(out, config.head_dim, config.groups) for _ in sites
                )
        if sampler:
            name = f"{sampler}samplers"
            self.add_module(name, nn.ModuleList([resnet((out, out), sampler)]))
        self.has_attention, self.temporal = attention, config.temporal

    def attend(
        self, index: int, x: Tensor, tokens: Tensor | None, bias: Tensor | None, f: int
    ) -> Tensor:
        """Spatial attention number `index`, then its temporal twin."""
        if not self.has_attention:
            return x
        assert tokens is not None and bias is not None
        x = self.attentions[index](x, tokens, bias, f)
        x = self.attentions_time[index](x, f) if self.temporal else x
        return x


class _Middle(_Block):
    """The lowest level: resnet, attention, resnet."""

    def __init__(self, config: UNetConfig) -> None:
        width = config.block_out_channels[-1]
        super().__init__(config, [(width, width)], config.cross_dim > 0, "")
        extra = _Block(config, [(width, width)], False, "")
        self.resnets.append(extra.resnets[0])


class UNet(nn.Module):
    """A pseudo-3D UNet: x f32 [B, C, F, H, W] -> [B, C', F, H, W]."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        ch, layers = config.block_out_channels, config.layers_per_block
        attention = config.attention or (False,) * len(ch)
        temb = ch[0] * 4
        self.conv_in = nn.Conv2d(config.in_channels, ch[0], 3, padding=1)
        self.conv_in_time = TemporalConv(ch[0]) if config.temporal else None
        self.time_embedding = TimestepEmbedding(ch[0], temb)
        self.fps_embedding = TimestepEmbedding(ch[0], temb, zero=True) if config.fps else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [ch[0]]
        for i, out in enumerate(ch):
            first = ch[max(i - 1, 0)]
            pairs = [(first if j == 0 else out, out) for j in range(layers)]
            last = i == len(ch) - 1
            self.down_blocks.append(_Block(config, pairs, attention[i], "" if last else "down"))
            skips += [out] * (layers + (not last))
        self.mid_block = _Middle(config)
        inside = ch[-1]
        for i, out in reversed(list(enumerate(ch))):
            pairs = []
            for _ in range(layers + 1):
                pairs.append((inside + skips.pop(), out))
                inside = out
            self.up_blocks.append(_Block(config, pairs, attention[i], "up" if i else ""))
        self.conv_norm_out = nn.GroupNorm(config.groups, ch[0], eps=1e-5)
        self.conv_out = nn.Conv2d(ch[0], config.out_channels, 3, padding=1)
        self.conv_out_time = TemporalConv(config.out_channels) if config.temporal else None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | None = None,
        bias: Tensor | None = None,
        emb: Tensor | None = None,
    ) -> Tensor:
        """The network's prediction.

        Args:
            x: [B, C, F, H, W], conditions concatenated on C by the caller.
            t: f32 [B], training timestep.
            tokens: [B, M, cross_dim], condition tokens, where the network has attention.
            bias: [B, M], added to the attention scores of the tokens (0 or -10000).
            emb: [B, 4*C0], added to the timestep embedding (CLIP projections, frame rate).
        """
        frames = x.shape[2]
        temb = self.time_embedding(t)
        temb = temb if emb is None else temb + emb
        h = x.transpose(1, 2).flatten(0, 1)  # [B*F, C, H, W]
        h = self.conv_in(h)
        h = h if self.conv_in_time is None else self.conv_in_time(h, frames)
        skips = [h]
        for block in cast("Iterable[_Block]", self.down_blocks):
            for i, resnet in enumerate(block.resnets):
                h = block.attend(i, resnet(h, temb, frames), tokens, bias, frames)
                skips.append(h)
            for sampler in getattr(block, "downsamplers", ()):
                h = sampler(h, temb, frames)
                skips.append(h)
        mid = self.mid_block
        h = mid.attend(0, mid.resnets[0](h, temb, frames), tokens, bias, frames)
        h = mid.resnets[1](h, temb, frames)
        for block in cast("Iterable[_Block]", self.up_blocks):
            for i, resnet in enumerate(block.resnets):
                h = resnet(torch.cat([h, skips.pop()], 1), temb, frames)
                h = block.attend(i, h, tokens, bias, frames)
            for sampler in getattr(block, "upsamplers", ()):
                h = sampler(h, temb, frames)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        if self.conv_out_time is not None:
            out = self.conv_out_time(out, frames)
        out = out.reshape(-1, frames, *out.shape[1:])
        return out.transpose(1, 2)
