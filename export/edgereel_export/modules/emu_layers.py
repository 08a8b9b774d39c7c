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

from .lavie_layers import FrameAttention, self_attention
from .layers import TemporalConv
from .sd_layers import Downsample, Resnet, Transformer, TransformerBlock, Upsample

__all__ = ["TimedDownsample", "TimedResnet", "TimedTransformer", "TimedUpsample", "conv_time"]


def conv_time(channels: int, *, temporal: bool) -> TemporalConv | None:
    """The convolution over frames that follows a spatial one."""
    return TemporalConv(channels) if temporal else None


def _timed(x: Tensor, conv: TemporalConv | None, rows: int) -> Tensor:
    """x [G*F, C, h, w] after the convolution over frames, if there is one."""
    if conv is None:
        return x
    out: Tensor = conv(x, x.shape[0] // rows)
    return out


class TimedResnet(Resnet):
    """A resnet with a convolution over frames after each of its own, the 1x1 shortcut included.

    The embedded timestep is given once per row, and says by its length how many rows there are.

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
        self.conv1_time = conv_time(out, temporal=temporal)
        self.conv2_time = conv_time(out, temporal=temporal)
        shortcut = temporal and self.conv_shortcut is not None
        self.conv_shortcut_time = conv_time(out, temporal=shortcut)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x [G*F, C, h, w], temb [G, E] -> [G*F, C', h, w]."""
        assert temb is not None and self.time_emb_proj is not None
        rows = temb.shape[0]
        h = _timed(self.conv1(F.silu(self.norm1(x))), self.conv1_time, rows)
        moved = self.time_emb_proj(F.silu(temb)).repeat_interleave(x.shape[0] // rows, 0)
        h = self.conv2(F.silu(self.norm2(h + moved[:, :, None, None])))
        h = _timed(h, self.conv2_time, rows)
        if self.conv_shortcut is not None:
            x = _timed(self.conv_shortcut(x), self.conv_shortcut_time, rows)
        return x + h


class TimedDownsample(Downsample):
    """Half the height and width, then a convolution over frames."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__(channels)
        self.conv_time = conv_time(channels, temporal=temporal)

    def timed(self, x: Tensor, rows: int) -> Tensor:
        """[G*F, C, h, w] -> [G*F, C, h/2, w/2] for G `rows`."""
        return _timed(self(x), self.conv_time, rows)


class TimedUpsample(Upsample):
    """Twice the height and width, then a convolution over frames."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__(channels)
        self.conv_time = conv_time(channels, temporal=temporal)

    def timed(self, x: Tensor, rows: int) -> Tensor:
        """[G*F, C, h, w] -> [G*F, C, 2h, 2w] for G `rows`."""
        return _timed(self(x), self.conv_time, rows)


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

    def attend(self, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        """x [G*F, C, h, w], states [G, L, D] of each text encoder -> as x."""
        h = self._tokens(self.proj_in(self.norm(x)), states)
        for block, text in zip(self.transformer_blocks, states, strict=True):
            h = block(h, text)
        x = x + self.proj_out(h.transpose(2, 3).reshape(x.shape))
        if not self.time_blocks:
            return x
        h = self._tokens(x, states)
        for block, text in zip(self.time_blocks, states, strict=True):
            h = block(h, text)
        return h.transpose(2, 3).reshape(x.shape)

    @staticmethod
    def _tokens(x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        """[G, F, S, C] of images [G*F, C, h, w]."""
        h = x.flatten(2).transpose(1, 2)
        return h.reshape(states[0].shape[0], -1, *h.shape[1:])
