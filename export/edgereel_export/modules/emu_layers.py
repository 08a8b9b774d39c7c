"""Layers that Emu Video (arXiv:2311.10709, section 3.2) adds to a text-to-image network.

Every spatial convolution is followed by one over frames, every spatial transformer by transformer
blocks over frames. All begin as the identity: a freshly inflated network draws F independent
pictures. Images are [G*F, C, h, w]: G guidance rows of the F frames of one video, all frames of
row 0 first. As tokens they are [G, F, S, C], S = h*w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lavie_layers import FrameAttention, by_image, by_row, self_attention
from .layers import TemporalConv
from .sd_layers import Batch, Downsample, Resnet, Transformer, TransformerBlock, Upsample

__all__ = [
    "ConvTime",
    "TimedDownsample",
    "TimedResnet",
    "TimedTransformer",
    "TimedUpsample",
    "timed",
]


class ConvTime(TemporalConv):
    """A convolution over frames."""

    def timed(self, x: Tensor, batch: Batch) -> Tensor:
        """[G*F, C, h, w] -> the same shape."""
        y = by_row(x, batch)  # [G, C, F, h*w]
        y = F.conv2d(y, self.weight.unsqueeze(-1), self.bias, padding=(1, 0))
        return by_image(y, x)


def timed(conv: nn.Module | None, x: Tensor, batch: Batch) -> Tensor:
    """x after the convolution over frames, if there is one."""
    return conv.timed(x, batch) if isinstance(conv, ConvTime) else x


class TimedResnet(Resnet):
    """A resnet with a convolution over frames after each of its own, the 1x1 shortcut included.

    Args:
        channels: into and out of it.
        temb: width of the timestep embedding.
        groups: of both group norms.
        temporal: False leaves out the convolutions over frames.
    """

    def __init__(
        self, channels: tuple[int, int], temb: int, groups: int, *, temporal: bool
    ) -> None:
        super().__init__(channels, temb, groups, 1e-5)
        out = channels[1]
        self.conv1_time = ConvTime(out) if temporal else None
        self.conv2_time = ConvTime(out) if temporal else None
        shortcut = temporal and self.conv_shortcut is not None
        self.conv_shortcut_time = ConvTime(out) if shortcut else None

    def timed(self, x: Tensor, temb: Tensor, batch: Batch) -> Tensor:
        """x [G*F, C, h, w], temb [G, E] -> [G*F, C', h, w]."""
        assert self.time_emb_proj is not None
        h = timed(self.conv1_time, self.conv1(F.silu(self.norm1(x))), batch)
        h = h + batch.each(self.time_emb_proj(F.silu(temb)))[:, :, None, None]
        h = timed(self.conv2_time, self.conv2(F.silu(self.norm2(h))), batch)
        if self.conv_shortcut is not None:
            x = timed(self.conv_shortcut_time, self.conv_shortcut(x), batch)
        return x + h


class TimedDownsample(Downsample):
    """Half the height and width, then a convolution over frames."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__(channels)
        self.conv_time = ConvTime(channels) if temporal else None

    def timed(self, x: Tensor, batch: Batch) -> Tensor:
        """[G*F, C, h, w] -> [G*F, C, h/2, w/2]."""
        return timed(self.conv_time, self(x), batch)


class TimedUpsample(Upsample):
    """Twice the height and width, then a convolution over frames."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__(channels)
        self.conv_time = ConvTime(channels) if temporal else None

    def timed(self, x: Tensor, batch: Batch) -> Tensor:
        """[G*F, C, h, w] -> [G*F, C, 2h, 2w]."""
        return timed(self.conv_time, self(x), batch)


class _PictureBlock(TransformerBlock):
    """Attention within a picture, to one text, MLP; diffusers' BasicTransformerBlock."""

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, F, S, C], states [G, L, D] -> as x."""
        x = x + self_attention(self.attn1, self.norm1(x))
        x = x + self.attn2(self.norm2(x), states)
        x = x + self.ff(self.norm3(x))
        return x


class _FrameBlock(TransformerBlock):
    """Attention of each pixel over frames, to one text, MLP.

    Which frame is which is told to the first attention by a learned vector per frame. The last
    layer of every branch begins at zero.

    Args:
        channels: C.
        heads: number of heads.
        cross: width of the text states.
        most: frames that it can tell apart.
    """

    def __init__(self, channels: int, heads: int, cross: int, most: int) -> None:
        super().__init__(channels, heads, cross)
        self.attn1 = FrameAttention(channels, heads)
        self.position = nn.Parameter(torch.zeros(most, channels))
        for last in (self.attn1.to_out[0], self.attn2.to_out[0], self.ff.net[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, F, S, C], states [G, L, D] -> as x."""
        x = x + self.attn1(self.norm1(x) + self.position[: x.shape[1], None])
        x = x + self.attn2(self.norm2(x), states)
        x = x + self.ff(self.norm3(x))
        return x


class TimedTransformer(Transformer):
    """Transformer blocks on the pixels of images, then blocks over frames; one per text encoder.

    Args:
        channels: C, of the images.
        groups: of the group norm.
        heads: of every attention.
        cross: widths of the text states; the n-th blocks attend to the n-th text encoder's.
        most: frames that the blocks over frames can tell apart; 0: there are none.
    """

    def __init__(
        self, channels: int, groups: int, heads: int, cross: tuple[int, ...], most: int
    ) -> None:
        super().__init__(channels, groups, _PictureBlock(channels, heads, cross[0]))
        more = (_PictureBlock(channels, heads, width) for width in cross[1:])
        self.transformer_blocks.extend(more)
        self.time_blocks = nn.ModuleList(
            _FrameBlock(channels, heads, width, most) for width in cross if most
        )

    def timed(self, x: Tensor, states: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """x [G*F, C, h, w], states [G, L, D] of each text encoder -> as x."""
        h = _tokens(self.proj_in(self.norm(x)), batch)
        for block, text in zip(self.transformer_blocks, states, strict=True):
            h = block(h, text)
        x = x + self.proj_out(h.transpose(2, 3).reshape(x.shape))
        if not self.time_blocks:
            return x
        h = _tokens(x, batch)
        for block, text in zip(self.time_blocks, states, strict=True):
            h = block(h, text)
        return h.transpose(2, 3).reshape(x.shape)


def _tokens(x: Tensor, batch: Batch) -> Tensor:
    """[G, F, S, C] of images [G*F, C, h, w]."""
    return batch.split(x.flatten(2).transpose(1, 2))
