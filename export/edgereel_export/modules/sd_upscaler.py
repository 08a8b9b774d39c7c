"""The UNet of Stable Diffusion's x4 upscaler, under the parameter names of diffusers.

Every image is worked on alone; images of a guidance row share its text and timestep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.errors import InputError

from .lavie_layers import self_attention
from .sd_config import (
    BLOCKS,
    DownBlockType,
    SDBlocksConfig,
    SDUNetConfig,
    Size,
    Sizes,
    UpBlockType,
    check_fixed,
)
from .sd_layers import Attention, Transformer, TransformerBlock
from .sd_unet import Parts, UNet

__all__ = ["PixelTransformer", "UpscalerBlock", "UpscalerConfig", "UpscalerUNet"]

_OWN = {"num_class_embeds", "only_cross_attention", "use_linear_projection"}  # not as in 1.x


@dataclass(frozen=True, kw_only=True)
class UpscalerConfig(SDUNetConfig):
    """Sizes of the network; the defaults are the published ones.

    `only_cross_attention` says per level, full resolution first, that `attn1` is a second attention
    to the text. Input channels are the latents' and three of a picture.
    """

    in_channels: Size = 7
    block_out_channels: Sizes = (256, 512, 512, 1024)
    layers_per_block: Size = 2
    down_block_types: tuple[DownBlockType, ...] = ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3)
    up_block_types: tuple[UpBlockType, ...] = (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D")
    cross_attention_dim: Size = 1024
    only_cross_attention: tuple[bool, ...] = (True, True, True, False)
    num_class_embeds: Size = 1000
    sample_size: Size = 128

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UpscalerConfig:
        """The config of the UNet's config.json.

        Raises:
            InputError: it is not the x4 upscaler's UNet.
        """
        what = "the UNet's config.json"
        fixed = {name: values_of for name, values_of in BLOCKS.items() if name not in _OWN}
        check_fixed(what, values, fixed, "stabilityai/stable-diffusion-x4-upscaler")
        try:
            config = msgspec.convert(values, cls)
            config.check()
        except (msgspec.ValidationError, ValueError) as error:
            raise InputError(
                f"checkpoint: {what} cannot be used ({error}); expected the fields of "
                f"stable-diffusion-x4-upscaler. Give that, or one trained further from it."
            ) from None
        return config

    def check(self) -> None:
        """Nothing; raises ValueError for sizes that do not belong together."""
        told, levels = self.only_cross_attention, len(self.block_out_channels)
        for kinds in (self.down_block_types, self.up_block_types, told):
            if len(kinds) != levels:
                raise ValueError(f"{len(kinds)} entries for {levels} levels: {list(kinds)}")
        if (self.in_channels, self.out_channels) != (7, 4):
            raise ValueError(f"channels {self.in_channels} and {self.out_channels}, not 7 and 4")
        if told[-1]:  # diffusers' middle block, of that level, never is
            raise ValueError(f"only_cross_attention {list(told)}, not false at the last level")


class _PixelLinear(nn.Linear):
    """A linear layer over the channels of images, [N, C, h, w] -> [N, C', h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class PixelTransformer(Transformer):
    """A transformer between linear layers instead of convolutions, which compute the same."""

    def __init__(self, channels: int, groups: int, block: nn.Module) -> None:
        super().__init__(channels, groups, block)
        self.proj_in = _PixelLinear(channels, channels)
        self.proj_out = _PixelLinear(channels, channels)


class UpscalerBlock(TransformerBlock):
    """Attention within an image or to the text, to the text, MLP.

    Args:
        channels: C.
        config: of the network.
        told: the first attention is to the text too.
    """

    def __init__(self, channels: int, config: SDBlocksConfig, told: bool) -> None:
        heads, cross = config.attention_head_dim, config.cross_attention_dim
        super().__init__(channels, heads, cross)
        if told:
            self.attn1 = Attention(channels, cross, heads)
        self.told = told

    def attended(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, N, S, C] after both attentions, states [G, L, D]."""
        h = self.norm1(x)
        x = x + (self.attn1(h, states) if self.told else self_attention(self.attn1, h))
        x = x + self.attn2(self.norm2(x), states)
        return x

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, N, S, C], states [G, L, D] -> as x."""
        x = self.attended(x, states)
        x = x + self.ff(self.norm3(x))
        return x


class _Parts(Parts):
    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__(config)
        self.told = config.only_cross_attention

    def transformer(self, channels: int, level: int) -> nn.Module:
        block = UpscalerBlock(channels, self.config, self.told[level])
        return PixelTransformer(channels, self.config.norm_num_groups, block)


class UpscalerUNet(UNet):
    """The network: noisy latents and a small picture to its prediction, of any height and width."""

    any_size = True

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__(config, _Parts(config))
        self.class_embedding = nn.Embedding(
            config.num_class_embeds, 4 * config.block_out_channels[0]
        )

    def forward(self, x: Tensor, t: Tensor, states: Tensor, low: Tensor, level: Tensor) -> Tensor:
        """The prediction, [G, N, out_channels, h, w].

        Args:
            x: [G, N, 4, h, w], N images of each guidance row.
            t: f32 [G], training timesteps.
            states: [G, L, D], text encoder states.
            low: [N, 3, h, w], the pictures to enlarge, with noise of `level` added.
            level: [1], i64 or a whole f32 below `num_class_embeds`: timestep of that noise.
        """
        temb = self.time_embedding(t) + self.class_embedding(level.long())
        beside = torch.cat([x, low.expand(x.shape[0], *low.shape)], 2)
        return self.walk(beside, temb, states)
