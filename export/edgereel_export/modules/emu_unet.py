"""Emu Video's network (arXiv:2311.10709): a text-to-image UNet with layers over frames.

Spatial parameters have the names of diffusers' UNet2DConditionModel with one transformer block per
text encoder; those over frames are `<convolution>_time` and `time_blocks` beside
`transformer_blocks`. One structure serves the network that animates a first frame, the one that
goes on from a video and the interpolation network.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .emu_config import EmuConfig
from .emu_layers import (
    ConvTime,
    TimedDownsample,
    TimedResnet,
    TimedTransformer,
    TimedUpsample,
    timed,
)
from .layers import TimestepEmbedding
from .sd_layers import Batch

__all__ = ["MOST_FRAMES", "EmuUNet", "is_own", "is_spatial"]

States: TypeAlias = tuple[Tensor, ...]  # [G, L, D] of each text encoder

MOST_FRAMES = 37  # that interpolation makes of 8


def is_spatial(key: str) -> bool:
    """Whether a parameter of the network is also one of the text-to-image network's.

    The input convolution is, with further channels.
    """
    return "_time." not in key and ".time_blocks." not in key


def is_own(key: str) -> bool:
    """Whether a parameter is a network over frames' own: the input convolution is."""
    return key.startswith("conv_in.") or not is_spatial(key)


class _Maker:
    """Makes the parts of a network."""

    def __init__(self, config: EmuConfig, *, temporal: bool) -> None:
        self.config, self.temporal = config, temporal

    def resnets(self, widths: list[tuple[int, int]]) -> nn.ModuleList:
        temb, groups = 4 * self.config.block_out_channels[0], self.config.norm_num_groups
        return nn.ModuleList(
            TimedResnet(pair, temb, groups, temporal=self.temporal) for pair in widths
        )

    def transformers(self, count: int, level: int) -> nn.ModuleList:
        config, most = self.config, MOST_FRAMES if self.temporal else 0
        channels, heads = config.block_out_channels[level], config.heads[level]
        return nn.ModuleList(
            TimedTransformer(
                channels, config.norm_num_groups, heads, config.cross_attention_dims, most
            )
            for _ in range(count)
        )


class _Block(nn.Module):
    """Resnets of one level, each followed by a transformer where there is attention."""

    def __init__(self, make: _Maker, widths: list[tuple[int, int]], level: int) -> None:
        super().__init__()
        self.resnets = make.resnets(widths)
        attention = make.config.attention[level]
        self.attentions = make.transformers(len(widths) if attention else 0, level)
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def descend(self, x: Tensor, temb: Tensor, states: States, batch: Batch) -> list[Tensor]:
        """What the way up will need of this level; the last entry is the block's output."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self._layer(index, x, temb, states, batch)
            outputs.append(x)
        for sampler in self.downsamplers:
            assert isinstance(sampler, TimedDownsample)
            outputs.append(sampler.timed(x, batch))
        return outputs

    def ascend(
        self, x: Tensor, skips: list[Tensor], temb: Tensor, states: States, batch: Batch
    ) -> Tensor:
        """x [G*F, C, h, w] through the level, joined with the last of `skips`, which it takes."""
        for index in range(len(self.resnets)):
            x = self._layer(index, torch.cat([x, skips.pop()], 1), temb, states, batch)
        for sampler in self.upsamplers:
            assert isinstance(sampler, TimedUpsample)
            x = sampler.timed(x, batch)
        return x

    def _layer(self, index: int, x: Tensor, temb: Tensor, states: States, batch: Batch) -> Tensor:
        resnet = self.resnets[index]
        assert isinstance(resnet, TimedResnet)
        x = resnet.timed(x, temb, batch)
        if self.attentions:
            transformer = self.attentions[index]
            assert isinstance(transformer, TimedTransformer)
            x = transformer.timed(x, states, batch)
        return x


class _MidBlock(nn.Module):
    """The lowest level: resnet, transformer, resnet."""

    def __init__(self, make: _Maker) -> None:
        super().__init__()
        level = len(make.config.block_out_channels) - 1
        width = make.config.block_out_channels[level]
        self.resnets = make.resnets([(width, width)] * 2)
        self.attentions = make.transformers(1, level)

    def forward(self, x: Tensor, temb: Tensor, states: States, batch: Batch) -> Tensor:
        first, last = self.resnets
        transformer = self.attentions[0]
        assert isinstance(first, TimedResnet) and isinstance(last, TimedResnet)
        assert isinstance(transformer, TimedTransformer)
        x = transformer.timed(first.timed(x, temb, batch), states, batch)
        return last.timed(x, temb, batch)


class EmuUNet(nn.Module):
    """Noisy latents to its prediction: [G, F, C, h, w] -> [G, F, C, h, w].

    Args:
        config: its sizes.
        temporal: False leaves out the layers over frames and the input channels for given frames:
            the text-to-image network.
    """

    def __init__(self, config: EmuConfig, *, temporal: bool = True) -> None:
        super().__init__()
        self.config = config
        make = _Maker(config, temporal=temporal)
        channels, latents = config.block_out_channels, config.latent_channels
        inside = 2 * latents + 1 if temporal else latents
        self.conv_in = nn.Conv2d(inside, channels[0], 3, padding=1)
        self.conv_in_time = ConvTime(channels[0]) if temporal else None
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, x = [channels[0]], channels[0]
        for level, (out, count) in enumerate(zip(channels, config.layers, strict=True)):
            block = _Block(make, [(x, out)] + [(out, out)] * (count - 1), level)
            skips += [out] * count
            if level < len(channels) - 1:
                block.downsamplers.append(TimedDownsample(out, temporal=temporal))
                skips.append(out)
            self.down_blocks.append(block)
            x = out
        self.mid_block = _MidBlock(make)
        for level, out in reversed(list(enumerate(channels))):
            widths = [(x + skips.pop(), out)]
            widths += [(out + skips.pop(), out) for _ in range(config.layers[level])]
            block = _Block(make, widths, level)
            if level:
                block.upsamplers.append(TimedUpsample(out, temporal=temporal))
            self.up_blocks.append(block)
            x = out
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, x, eps=1e-5)
        self.conv_out = nn.Conv2d(x, latents, 3, padding=1)
        self.conv_out_time = ConvTime(latents) if temporal else None

    def forward(self, x: Tensor, t: Tensor, states: States, given: Tensor | None = None) -> Tensor:
        """The prediction, [G, F, C, h, w].

        Args:
            x: [G, F, C, h, w], frames of G guidance rows; h and w multiples of 2^(levels - 1).
            t: f32 [G], training timesteps.
            states: [G, L, D] of each text encoder.
            given: [G, F, C + 1, h, w]: latents of the frames that are given, zeros for the others,
                and a mask of ones where a frame is given. For a network over frames only.
        """
        batch = Batch(*x.shape[:2])
        temb = self.time_embedding(t)
        h = self.conv_in((x if given is None else torch.cat([x, given], 2)).flatten(0, 1))
        skips = [timed(self.conv_in_time, h, batch)]
        for block in self.down_blocks:
            assert isinstance(block, _Block)
            skips += block.descend(skips[-1], temb, states, batch)
        h = self.mid_block(skips[-1], temb, states, batch)
        for block in self.up_blocks:
            assert isinstance(block, _Block)
            h = block.ascend(h, skips, temb, states, batch)
        out = timed(self.conv_out_time, self.conv_out(F.silu(self.conv_norm_out(h))), batch)
        return batch.split(out)
