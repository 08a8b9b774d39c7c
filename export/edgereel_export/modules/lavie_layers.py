"""Layers that the three networks of LaVie (arXiv:2309.15103) add to Stable Diffusion's.

Images are [G*F, C, h, w]: G guidance rows of the F frames of one video, all frames of row 0 first.
As tokens they are [G, F, S, C], S = h*w. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frame_attention import Turns, attend_frames
from .sd_layers import Batch, Projections, Resnet

__all__ = [
    "FrameAttention",
    "JointResnet",
    "RelativeFrameAttention",
    "Rotary",
    "SparseCausalAttention",
    "by_image",
    "by_row",
    "self_attention",
]

_TURNED = 32  # channels of a head that tell the frame, where a head has as many
_BUCKETS = 32
_FAR = (8, 10, 12, 14, 16, 20, 23, 27)  # distances that begin the buckets after the exact ones
_EXACT = _FAR[0]


def by_row(x: Tensor, batch: Batch) -> Tensor:
    """Images [G*F, C, h, w] as [G, C, F, h*w], the layout of what looks along the frames."""
    return batch.split(x.flatten(2)).transpose(1, 2)


def by_image(x: Tensor, like: Tensor) -> Tensor:
    """What `by_row` gave, [G, C, F, h*w], in the shape of the images `like` again."""
    return x.transpose(1, 2).reshape(like.shape)


class JointResnet(Resnet):
    """A resnet whose group norms take all frames of a row together."""

    def forward(self, x: Tensor, temb: Tensor | None = None, batch: Batch | None = None) -> Tensor:
        """x [G*F, C, h, w], temb [G, E] -> [G*F, C', h, w]; both must be given."""
        assert temb is not None and batch is not None and self.time_emb_proj is not None
        h = self.conv1(by_image(F.silu(self.norm1(by_row(x, batch))), x))
        moved = by_row(h, batch) + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(by_image(F.silu(self.norm2(moved)), h))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        out: Tensor = x + h
        return out


def self_attention(attention: nn.Module, x: Tensor) -> Tensor:
    """`attention` of each frame to itself alone: x [G, F, S, C] -> as x."""
    frames = x.flatten(0, 1)
    out: Tensor = attention(frames[:, None], frames)
    return out.reshape(x.shape)


class SparseCausalAttention(Projections):
    """Each frame attends to the first frame and to the one before it; the first one to itself."""

    def forward(self, x: Tensor) -> Tensor:
        """x [G, F, S, C] -> as x."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (
                self.to_q(x).flatten(0, 1),
                self._seen(self.to_k(x)),
                self._seen(self.to_v(x)),
            )
        )
        h = F.scaled_dot_product_attention(q, k, v)  # [G*F, heads, S, C/heads]
        out: Tensor = self.to_out[0](h.transpose(1, 2).reshape(x.shape))
        return out

    @staticmethod
    def _seen(x: Tensor) -> Tensor:
        """[G*F, 2*S, C]: the first frame and the one before, for each frame of x [G, F, S, C]."""
        first = x[:, :1]
        before = torch.cat([first, x[:, :-1]], 1)
        return torch.cat([first.expand_as(x), before], 2).flatten(0, 1)


class FrameAttention(Projections):
    """Every pixel attends to itself in all frames of its row.

    Args:
        channels: C, width of the tokens.
        heads: number of heads; C is a multiple of it.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        """x [G, F, S, C] -> as x."""
        weights = torch.cat([layer.weight for layer in (self.to_q, self.to_k, self.to_v)])
        h = attend_frames(F.linear(x, weights), self.heads, *self.told(*x.shape[1::2]))
        out: Tensor = self.to_out[0](h)
        return out

    def told(self, frames: int, channels: int) -> tuple[Turns | None, Tensor | None]:
        """What tells frames apart: turns of queries and keys, and what scores get."""
        return None, None


class Rotary(nn.Module):
    """Turns pairs of channels by angles in proportion to the frame's number (arXiv:2104.09864).

    `freqs` f32 [16] are radians per frame. The pairs are channels (2i, 2i + 1) of the first 32 of a
    head; a smaller head is turned as a whole, by as many of the frequencies as it has pairs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.freqs = nn.Parameter(10000.0 ** (-torch.arange(0, _TURNED, 2) / _TURNED))

    def forward(self, frames: int, width: int) -> Turns:
        """The turns of so many frames, of heads of `width` channels."""
        number = torch.arange(frames, dtype=torch.float32, device=self.freqs.device)
        angle = number[:, None] * self.freqs.float()[: min(_TURNED, width) // 2]
        return Turns(angle.cos(), angle.sin(), interleaved=True)


def _bucket(distance: int) -> int:
    """Bucket of key frame minus query frame: T5's rule (arXiv:1910.10683) up to distance 32.

    The logarithm of that rule is written out as the distances at which it reaches the next bucket.
    """
    length = abs(distance)
    bucket = length if length < _EXACT else _EXACT - 1 + sum(length >= far for far in _FAR)
    return bucket + (_BUCKETS // 2 if distance > 0 else 0)


class _RelativeBias(nn.Module):
    """What a score gets for the distance in frames: [heads, F, F], query frames first."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(_BUCKETS, heads)

    def forward(self, frames: int) -> Tensor:
        device = self.relative_attention_bias.weight.device
        furthest = _FAR[-1]  # where the last bucket begins
        table = torch.tensor([_bucket(d) for d in range(-furthest, furthest + 1)], device=device)
        number = torch.arange(frames, device=device)
        distance = (number[None, :] - number[:, None]).clamp(-furthest, furthest)
        bias: Tensor = self.relative_attention_bias(table[distance + furthest])
        return bias.permute(2, 0, 1)


class RelativeFrameAttention(FrameAttention):
    """Attention over frames that is told how far apart they are, twice.

    Queries and keys are turned by `rotary_emb`, which a network has once for all its attentions,
    and scores get a learned bias per distance. The paper has the first only, the weights have both.
    """

    def __init__(self, channels: int, heads: int, rotary: Rotary) -> None:
        super().__init__(channels, heads)
        self.time_rel_pos_bias = _RelativeBias(heads)
        self.rotary_emb = rotary

    def told(self, frames: int, channels: int) -> tuple[Turns, Tensor]:
        """Turns, and a bias f32 [heads, F, F]."""
        turns: Turns = self.rotary_emb(frames, channels // self.heads)
        return turns, self.time_rel_pos_bias(frames)
