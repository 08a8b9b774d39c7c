"""The Stable Diffusion 1.x UNet, with the cross-frame attention of Text2Video-Zero built in.

Parameter names are those of diffusers' UNet2DConditionModel. Given one image per guidance row it
is that network; given more, they also see the row's first image (see sd_layers).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import TimestepEmbedding
from .sd_config import SDBlocksConfig, SDUNetConfig
from .sd_layers import Downsample, Resnet, Transformer, Upsample

__all__ = ["DownHalf", "SDUNet"]

_EPS = 1e-5


class _Block(nn.Module):
    """Resnets at one resolution, each followed by a transformer where there is attention.

    Args:
        config: of the network.
        widths: channels into and out of each resnet.
        attention: whether transformers follow.
    """

    def __init__(
        self, config: SDBlocksConfig, widths: list[tuple[int, int]], attention: bool
    ) -> None:
        super().__init__()
        temb = 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            Resnet(pair, temb, config.norm_num_groups, _EPS) for pair in widths
        )
        self.attentions = nn.ModuleList(
            Transformer(
                out, config.attention_head_dim, config.cross_attention_dim, config.norm_num_groups
            )
            for _, out in widths
            if attention
        )

    def layer(self, index: int, x: Tensor, temb: Tensor, states: Tensor) -> Tensor:
        """x [G*N, C, h, w] after resnet and transformer number `index`."""
        x = self.resnets[index](x, temb)
        return self.attentions[index](x, states) if self.attentions else x


class DownBlock(_Block):
    """One level on the way down; the lowest one has no downsampler."""

    def __init__(
        self, config: SDBlocksConfig, widths: list[tuple[int, int]], attention: bool, last: bool
    ) -> None:
        super().__init__(config, widths, attention)
        out = widths[-1][1]
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])

    def forward(self, x: Tensor, temb: Tensor, states: Tensor) -> list[Tensor]:
        """What the way up will need of this level; the last entry is the block's output."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, temb, states)
            outputs.append(x)
        for sampler in self.downsamplers:
            x = sampler(x)
            outputs.append(x)
        return outputs


class MidBlock(_Block):
    """The lowest level: resnet, transformer, resnet."""

    def __init__(self, config: SDBlocksConfig) -> None:
        width = config.block_out_channels[-1]
        super().__init__(config, [(width, width)], True)
        self.resnets.append(
            Resnet((width, width), 4 * config.block_out_channels[0], config.norm_num_groups, _EPS)
        )

    def forward(self, x: Tensor, temb: Tensor, states: Tensor) -> Tensor:
        """[G*N, C, h, w] -> the same shape."""
        out: Tensor = self.resnets[1](self.layer(0, x, temb, states), temb)
        return out


class UpBlock(_Block):
    """One level on the way up; the full resolution has no upsampler."""

    def __init__(
        self, config: SDBlocksConfig, widths: list[tuple[int, int]], attention: bool, last: bool
    ) -> None:
        super().__init__(config, widths, attention)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(widths[-1][1])])

    def forward(self, x: Tensor, skips: list[Tensor], temb: Tensor, states: Tensor) -> Tensor:
        """x joined with one of `skips` before each resnet, the last one first."""
        for index, skip in enumerate(reversed(skips)):
            x = self.layer(index, torch.cat([x, skip], 1), temb, states)
        for sampler in self.upsamplers:
            x = sampler(x)
        return x


class DownHalf(nn.Module):
    """Input convolution, time embedding, down blocks and middle: the part a ControlNet copies."""

    def __init__(self, config: SDBlocksConfig) -> None:
        super().__init__()
        channels, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.down_blocks = nn.ModuleList()
        self.skip_channels = [channels[0]]
        inside = channels[0]
        for level, out in enumerate(channels):
            widths = [(inside, out)] + [(out, out)] * (layers - 1)
            last = level == len(channels) - 1
            self.down_blocks.append(DownBlock(config, widths, config.down_attention[level], last))
            self.skip_channels += [out] * (layers + (not last))
            inside = out
        self.mid_block = MidBlock(config)

    def descend(self, x: Tensor, temb: Tensor, states: Tensor) -> tuple[list[Tensor], Tensor]:
        """The skips, `x` first, of widths `skip_channels`, and the middle's output.

        Args:
            x: [G*N, C0, h, w], after the input convolution.
            temb: [G*N, 4*C0], embedded timesteps.
            states: [G, L, D], text.
        """
        skips = [x]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, states)
        return skips, self.mid_block(skips[-1], temb, states)


class SDUNet(DownHalf):
    """The UNet: noisy latents to its prediction, [G*N, C, h, w] -> [G*N, 4, h, w]."""

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__(config)
        self.config = config
        channels, layers = config.block_out_channels, config.layers_per_block
        skips, inside = list(self.skip_channels), channels[-1]
        self.up_blocks = nn.ModuleList()
        for level, out in enumerate(reversed(channels)):
            widths = []
            for _ in range(layers + 1):
                widths.append((inside + skips.pop(), out))
                inside = out
            last = level == len(channels) - 1
            self.up_blocks.append(UpBlock(config, widths, config.up_attention[level], last))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], eps=_EPS)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        states: Tensor,
        down: tuple[Tensor, ...] = (),
        mid: Tensor | None = None,
    ) -> Tensor:
        """The prediction, [G*N, out_channels, h, w].

        Args:
            x: [G*N, C, h, w], all images of guidance row 0 first; h and w multiples of
                2^(levels - 1).
            t: f32 [G*N], training timesteps.
            states: [G, L, D], text encoder states, once per row.
            down: added to the skips, in their order and shapes; a ControlNet's, scaled.
            mid: added to the middle's output.
        """
        temb = self.time_embedding(t)
        skips, h = self.descend(self.conv_in(x), temb, states)
        if down:
            skips = [skip + more for skip, more in zip(skips, down, strict=True)]
        if mid is not None:
            h = h + mid
        for block in self.up_blocks:
            split = len(skips) - self.config.layers_per_block - 1
            h = block(h, skips[split:], temb, states)
            skips = skips[:split]
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out
