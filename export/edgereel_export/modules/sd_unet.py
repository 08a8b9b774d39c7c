"""The Stable Diffusion 1.x UNet, with the cross-frame attention of Text2Video-Zero built in.

Parameter names are those of diffusers' UNet2DConditionModel. Given one image per guidance row it
is that network; given more, they also see the row's first image (see sd_layers).

Other networks that have this one's blocks at this one's places are a UNet made of other Parts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import TimestepEmbedding
from .sd_config import SDBlocksConfig, SDUNetConfig
from .sd_layers import Batch, Downsample, Resnet, Transformer, TransformerBlock, Upsample

__all__ = ["EPS", "DownHalf", "Parts", "SDUNet", "UNet"]

EPS = 1e-5  # of every group norm outside transformers


class Parts:
    """Makes the resnets and transformers of a network; these are Stable Diffusion's.

    Args:
        config: of the network.
    """

    def __init__(self, config: SDBlocksConfig) -> None:
        self.config = config
        self.temb = 4 * config.block_out_channels[0]

    def resnet(self, widths: tuple[int, int]) -> nn.Module:
        """Called as Resnet is; `widths` are the channels into and out of it."""
        return Resnet(widths, self.temb, self.config.norm_num_groups, EPS)

    def transformer(self, channels: int, level: int) -> nn.Module:
        """Called as Transformer is; level 0 is the full resolution."""
        config = self.config
        heads, cross = config.attention_head_dim, config.cross_attention_dim
        block = TransformerBlock(channels, heads, cross)
        return Transformer(channels, config.norm_num_groups, block)


class _Block(nn.Module):
    """Resnets at one resolution, each followed by a transformer where there is attention.

    Args:
        parts: what they are made of.
        widths: channels into and out of each resnet.
        level: of the resolution where transformers follow; None: none do.
    """

    def __init__(self, parts: Parts, widths: list[tuple[int, int]], level: int | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(parts.resnet(pair) for pair in widths)
        self.attentions = nn.ModuleList(
            parts.transformer(out, level) for _, out in widths if level is not None
        )

    def layer(self, index: int, x: Tensor, temb: Tensor, states: Tensor, batch: Batch) -> Tensor:
        """x [G*N, C, h, w] after resnet and transformer number `index`."""
        x = self.resnets[index](x, temb, batch)
        return self.attentions[index](x, states, batch) if self.attentions else x


class DownBlock(_Block):
    """One level on the way down; the lowest one has no downsampler."""

    def __init__(
        self, parts: Parts, widths: list[tuple[int, int]], level: int | None, last: bool
    ) -> None:
        super().__init__(parts, widths, level)
        out = widths[-1][1]
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])

    def forward(self, x: Tensor, temb: Tensor, states: Tensor, batch: Batch) -> list[Tensor]:
        """What the way up will need of this level; the last entry is the block's output."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, temb, states, batch)
            outputs.append(x)
        for sampler in self.downsamplers:
            x = sampler(x)
            outputs.append(x)
        return outputs


class MidBlock(_Block):
    """The lowest level: resnet, transformer, resnet."""

    def __init__(self, parts: Parts) -> None:
        channels = parts.config.block_out_channels
        width = (channels[-1], channels[-1])
        super().__init__(parts, [width], len(channels) - 1)
        self.resnets.append(parts.resnet(width))

    def forward(self, x: Tensor, temb: Tensor, states: Tensor, batch: Batch) -> Tensor:
        """[G*N, C, h, w] -> the same shape."""
        out: Tensor = self.resnets[1](self.layer(0, x, temb, states, batch), temb, batch)
        return out


class UpBlock(_Block):
    """One level on the way up; the full resolution has no upsampler."""

    def __init__(
        self, parts: Parts, widths: list[tuple[int, int]], level: int | None, last: bool
    ) -> None:
        super().__init__(parts, widths, level)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(widths[-1][1])])

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        temb: Tensor,
        states: Tensor,
        batch: Batch,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """x joined with one of `skips` before each resnet, the last one first.

        The output has the height and width `size`; None: twice the input's.
        """
        for index, skip in enumerate(reversed(skips)):
            x = self.layer(index, torch.cat([x, skip], 1), temb, states, batch)
        for sampler in self.upsamplers:
            x = sampler(x, size)
        return x


class DownHalf(nn.Module):
    """Input convolution, time embedding, down blocks and middle: the part a ControlNet copies."""

    def __init__(self, config: SDBlocksConfig, parts: Parts | None = None) -> None:
        super().__init__()
        parts = parts or Parts(config)
        channels, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.down_blocks = nn.ModuleList()
        self.skip_channels = [channels[0]]
        inside = channels[0]
        for level, out in enumerate(channels):
            widths = [(inside, out)] + [(out, out)] * (layers - 1)
            last = level == len(channels) - 1
            attention = level if config.down_attention[level] else None
            self.down_blocks.append(DownBlock(parts, widths, attention, last))
            self.skip_channels += [out] * (layers + (not last))
            inside = out
        self.mid_block = MidBlock(parts)

    def descend(
        self, x: Tensor, temb: Tensor, states: Tensor, batch: Batch
    ) -> tuple[list[Tensor], Tensor]:
        """The skips, `x` first, of widths `skip_channels`, and the middle's output.

        Args:
            x: [G*N, C0, h, w], after the input convolution.
            temb: [G, 4*C0], embedded timesteps.
            states: [G, L, D], text.
            batch: G and N.
        """
        skips = [x]
        for level, block in enumerate(self.down_blocks):
            outputs = block(x, temb, states, batch)
            skips += outputs
            x = self.between("down", level, outputs[-1], temb, batch)
        x = self.mid_block(x, temb, states, batch)
        return skips, self.between("mid", 0, x, temb, batch)

    def between(
        self,
        half: Literal["down", "mid", "up"],
        index: int,
        x: Tensor,
        temb: Tensor,
        batch: Batch,
    ) -> Tensor:
        """What the next block gets for x, the output of block `index`; here x itself."""
        return x


class UNet(DownHalf):
    """Both halves, the upper one with the skips of the lower one, and the output convolution.

    `any_size` says that h and w need not be multiples of 2^(levels - 1).
    """

    any_size = False

    def __init__(self, config: SDUNetConfig, parts: Parts | None = None) -> None:
        parts = parts or Parts(config)
        super().__init__(config, parts)
        self.config = config
        channels, layers = config.block_out_channels, config.layers_per_block
        skips, inside = list(self.skip_channels), channels[-1]
        self.up_blocks = nn.ModuleList()
        for level, out in enumerate(reversed(channels)):
            widths = []
            for _ in range(layers + 1):
                widths.append((inside + skips.pop(), out))
                inside = out
            below = len(channels) - 1 - level
            attention = below if config.up_attention[level] else None
            self.up_blocks.append(UpBlock(parts, widths, attention, below == 0))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], eps=EPS)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def normed_out(self, h: Tensor, batch: Batch) -> Tensor:
        """h [G*N, C0, h, w] after the last group norm."""
        out: Tensor = self.conv_norm_out(h)
        return out

    def walk(
        self,
        x: Tensor,
        temb: Tensor,
        states: Tensor,
        down: tuple[Tensor, ...] = (),
        mid: Tensor | None = None,
    ) -> Tensor:
        """The prediction [G, N, out_channels, h, w] at embedded timesteps temb; see SDUNet."""
        batch = Batch(*x.shape[:2])
        skips, h = self.descend(self.conv_in(x.flatten(0, 1)), temb, states, batch)
        if down:
            skips = [skip + more for skip, more in zip(skips, down, strict=True)]
        if mid is not None:
            h = h + mid
        for index, block in enumerate(self.up_blocks):
            split = len(skips) - self.config.layers_per_block - 1
            used, skips = skips[split:], skips[:split]
            size = skips[-1].shape[2:] if self.any_size and skips else None
            h = block(h, used, temb, states, batch, size)
            h = self.between("up", index, h, temb, batch)
        return batch.split(self.conv_out(F.silu(self.normed_out(h, batch))))


class SDUNet(UNet):
    """The UNet: noisy latents to its prediction, [G, N, C, h, w] -> [G, N, 4, h, w]."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        states: Tensor,
        down: tuple[Tensor, ...] = (),
        mid: Tensor | None = None,
    ) -> Tensor:
        """The prediction, [G, N, out_channels, h, w].

        Args:
            x: [G, N, C, h, w], N images of each guidance row; h and w multiples of 2^(levels - 1).
            t: f32 [G], training timesteps.
            states: [G, L, D], text encoder states.
            down: added to the skips, [G*N, ...] in their order; a ControlNet's, scaled.
            mid: added to the middle's output.
        """
        return self.walk(x, self.time_embedding(t), states, down, mid)
