"""The UNets of LaVie's base and interpolation stages, under the key names of the checkpoints.

Stable Diffusion's UNet with an attention over frames in every transformer block, and with group
norms that take the frames of a row together (arXiv:2309.15103, section 3.2). The paper calls it
pseudo-3D; the convolutions are those of single images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .lavie_layers import (
    FrameAttention,
    JointResnet,
    RelativeFrameAttention,
    Rotary,
    SparseCausalAttention,
    by_image,
    by_row,
    self_attention,
)
from .sd_config import SDBlocksConfig, SDUNetConfig
from .sd_layers import Batch, Transformer, TransformerBlock
from .sd_unet import EPS, Parts, UNet

__all__ = ["InterpolationUNet", "JointParts", "JointUNet", "LaVieUNet"]


class _BaseBlock(TransformerBlock):
    """Attention within a frame, to the text, over frames, MLP; `temporal` False leaves out one."""

    def __init__(
        self, channels: int, config: SDBlocksConfig, rotary: Rotary, temporal: bool
    ) -> None:
        heads = config.attention_head_dim
        super().__init__(channels, heads, config.cross_attention_dim)
        self.norm_temp = nn.LayerNorm(channels)
        self.attn_temp = RelativeFrameAttention(channels, heads, rotary)
        self.temporal = temporal

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, F, S, C], states [G, L, D] -> as x."""
        x = x + self_attention(self.attn1, self.norm1(x))
        x = x + self.attn2(self.norm2(x), states)
        if self.temporal:
            x = x + self.attn_temp(self.norm_temp(x))
        x = x + self.ff(self.norm3(x))
        return x


class _InterpolationBlock(TransformerBlock):
    """Attention to the first frame and the one before, to the text, MLP, attention over frames."""

    def __init__(self, channels: int, config: SDBlocksConfig) -> None:
        heads = config.attention_head_dim
        super().__init__(channels, heads, config.cross_attention_dim)
        self.attn1 = SparseCausalAttention(channels, channels, heads)
        self.norm_temp = nn.LayerNorm(channels)
        self.attn_temp = FrameAttention(channels, heads)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, F, S, C], states [G, L, D] -> as x."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), states)
        x = x + self.ff(self.norm3(x))
        x = x + self.attn_temp(self.norm_temp(x))
        return x


class JointParts(Parts):
    """Resnets that take the frames of a row together."""

    def resnet(self, widths: tuple[int, int]) -> nn.Module:
        """Called with the embedded timestep of each row, [G, E]."""
        return JointResnet(widths, self.temb, self.config.norm_num_groups, EPS)


class _BaseParts(JointParts):
    def __init__(self, config: SDBlocksConfig, temporal: bool) -> None:
        super().__init__(config)
        self.rotary, self.temporal = Rotary(), temporal

    def transformer(self, channels: int, level: int) -> nn.Module:
        block = _BaseBlock(channels, self.config, self.rotary, self.temporal)
        return Transformer(channels, self.config.norm_num_groups, block)


class _InterpolationParts(JointParts):
    def transformer(self, channels: int, level: int) -> nn.Module:
        block = _InterpolationBlock(channels, self.config)
        return Transformer(channels, self.config.norm_num_groups, block)


class JointUNet(UNet):
    """A UNet whose group norms outside transformers take the frames of a row together."""

    def normed_out(self, h: Tensor, batch: Batch) -> Tensor:
        """h [G*F, C0, h, w] after the last group norm."""
        return by_image(self.conv_norm_out(by_row(h, batch)), h)

    def beside(self, x: Tensor, given: Tensor) -> Tensor:
        """x [G, F, C, h, w] with the channels of `given` [F, C', h, w] appended in every row."""
        return torch.cat([x, given.expand(x.shape[0], *given.shape)], 2)


class LaVieUNet(JointUNet):
    """The base network: noisy latents to its prediction, [G, F, 4, h, w] -> the same.

    Args:
        config: its sizes. 9 input channels make it SEINE's (arXiv:2310.20700).
        temporal: False leaves out the attention over frames, as training did for single images.
            The same weights then draw pictures, each a row of one frame.
    """

    def __init__(self, config: SDUNetConfig, *, temporal: bool = True) -> None:
        super().__init__(config, _BaseParts(config, temporal))

    def forward(self, x: Tensor, t: Tensor, states: Tensor, given: Tensor | None = None) -> Tensor:
        """The prediction, [G, F, out_channels, h, w].

        Args:
            x: [G, F, 4, h, w], F frames of each guidance row; h and w multiples of 2^(levels - 1).
            t: f32 [G], training timesteps.
            states: [G, L, D], text encoder states.
            given: [F, in_channels - 4, h, w], further input channels of each frame; SEINE's are
                one that is 1 where a frame is to be made, and the latents of what is given.
        """
        if given is not None:
            x = self.beside(x, given)
        return self.walk(x, self.time_embedding(t), states)


class InterpolationUNet(JointUNet):
    """The interpolation network: noisy and copied latents to its prediction.

    Its attention over frames knows no order; which frame is which shows in the latents copied from
    the shorter video and in `attn1`.
    """

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__(config, _InterpolationParts(config))

    def forward(self, x: Tensor, t: Tensor, states: Tensor, copied: Tensor) -> Tensor:
        """The prediction, [G, F, out_channels, h, w].

        Args:
            x, t, states: as the base network's.
            copied: [F, in_channels - 4, h, w], for each frame the latents of one that is given.
        """
        return self.walk(self.beside(x, copied), self.time_embedding(t), states)
