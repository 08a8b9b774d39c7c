"""Frames that are given to ↑F of Make-A-Video, as modules: where they are put, and what they show.

What ↑F is told of F frames is f32 [1, 4, F, H, W]: the given ones and zeros for the others, then a
mask, 1 where a frame is to be made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .glue import DecoderCondition

__all__ = [
    "BothPictures",
    "ClipRate",
    "EndsKnown",
    "EveryKnown",
    "FirstKnown",
    "InterpolationCondition",
    "KeepKnown",
    "LastKnown",
    "PictureEmbedding",
    "SmallFrames",
]


class InterpolationCondition(nn.Module):
    """What ↑F is told beside frames: the text and image of the last row, and the frame rate."""

    def __init__(self, decoder: DecoderCondition) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, image: Tensor, embeds: Tensor, states: Tensor, mask: Tensor, fps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [1, M, C], bias [1, M] and added vector [1, E]; arguments of DecoderCondition."""
        row = torch.ones(1, dtype=torch.int64)
        told: tuple[Tensor, Tensor, Tensor] = self.decoder(
            image, embeds[-1:], states[-1:], mask[-1:], row, fps
        )
        return told


def _placed(clip: Tensor, source: Tensor, given: Tensor) -> Tensor:
    """f32 [1, 4, F, H, W]: frame f is frame source[f] of clip [1, 3, N, H, W] where given[f]."""
    given = given[None, None, :, None, None]
    frames = torch.where(given, clip.clamp(-1, 1)[:, :, source], 0.0)
    hidden = torch.where(given, 0.0, 1.0)
    return torch.cat([frames, hidden.expand(-1, -1, -1, *clip.shape[3:])], 1)


class EveryKnown(nn.Module):
    """Every skip-th frame is given."""

    def forward(self, clip: Tensor, like: Tensor, skip: Tensor) -> Tensor:
        """f32 [1, 4, F, H, W].

        Args:
            clip: f32 [1, 3, N, H, W], put at 0, skip, 2 skip, ...
            like: f32 [1, 3, F, H, W] with F = (N - 1) skip + 1.
            skip: i64 [1].
        """
        place = torch.arange(like.shape[2])
        return _placed(clip, place // skip, place % skip == 0)


class FirstKnown(nn.Module):
    """The first frames are given."""

    def forward(self, clip: Tensor, like: Tensor) -> Tensor:
        """f32 [1, 4, F, H, W] for clip f32 [1, 3, N, H, W], like f32 [1, 3, F, H, W]."""
        place, last = torch.arange(like.shape[2]), clip.shape[2] - 1
        return _placed(clip, place.clamp(max=last), place <= last)


class LastKnown(nn.Module):
    """The last frames are given."""

    def forward(self, clip: Tensor, like: Tensor) -> Tensor:
        """f32 [1, 4, F, H, W] for clip f32 [1, 3, N, H, W], like f32 [1, 3, F, H, W]."""
        place = torch.arange(like.shape[2]) - (like.shape[2] - clip.shape[2])
        return _placed(clip, place.clamp(min=0), place >= 0)


class EndsKnown(nn.Module):
    """The first and the last frame are given."""

    def forward(self, clip: Tensor, like: Tensor) -> Tensor:
        """f32 [1, 4, F, H, W] for clip f32 [1, 3, 2, H, W], like f32 [1, 3, F, H, W]."""
        place = torch.arange(like.shape[2])
        is_last = place == like.shape[2] - 1
        return _placed(clip, is_last.long(), is_last | (place == 0))


class KeepKnown(nn.Module):
    """The video that ↑F made, with the given frames put back."""

    def forward(self, video: Tensor, known: Tensor, keep: Tensor) -> Tensor:
        """f32 [1, 3, F, H, W] in -1..1.

        Args:
            video: f32 [1, 3, F, H, W].
            known: f32 [1, 4, F, H, W], what ↑F was told.
            keep: f32 [1], 0 leaves the video as it is.
        """
        given = (known[:, 3:] < 0.5) & (keep > 0)
        return torch.where(given, known[:, :3], video).clamp(-1, 1)


class ClipRate(nn.Module):
    """The frame rate that D^t is told, which it knows as that of a video with `skip` as trained."""

    def __init__(self, skip: int, most: float) -> None:
        super().__init__()
        self.skip, self.most = skip, most

    def forward(self, fps: Tensor, skip: Tensor) -> Tensor:
        """f32 [1], at most `most`, for fps f32 [1] of a video with skip i64 [1]."""
        return (fps * self.skip / skip).clamp(max=self.most)


class SmallFrames(nn.Module):
    """Pictures as ↑F sees them, each pixel the mean of its area.

    Args:
        factor: pixels of a picture on a side of that area.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [N, H, W, 3] -> f32 [1, 3, N, h, w] in -1..1."""
        return _smaller(frames, self.factor).transpose(0, 1)[None] / 127.5 - 1


class BothPictures(nn.Module):
    """Two pictures as frames."""

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """u8 [1, H, W, 3] each -> u8 [2, H, W, 3]."""
        # floats are joined: TensorRT joins no bytes
        return torch.cat([first.float(), last.float()]).to(torch.uint8)


class PictureEmbedding(nn.Module):
    """The mean of pictures' CLIP embeddings, normalised as the prior's output is.

    Args:
        model: a transformers CLIP vision model with projection.
        factor: pixels of a picture on a side of the area that becomes one of the model's.
        levels: mean and deviation of each channel in 0..1, as the model knows them.
        statistics: mean and deviation of embeddings, f32 [1, D] each.
    """

    def __init__(
        self,
        model: nn.Module,
        factor: int,
        levels: tuple[Sequence[float], Sequence[float]],
        statistics: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        shift, scale = (torch.tensor(part).view(1, 3, 1, 1) for part in levels)
        self.shift, self.scale = nn.Buffer(shift), nn.Buffer(scale)
        self.mean, self.std = (nn.Buffer(part) for part in statistics)

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [N, H, W, 3] -> f32 [1, D]."""
        x = (_smaller(frames, self.factor) / 255 - self.shift) / self.scale
        embeds: Tensor = self.model(pixel_values=x).image_embeds
        return (embeds.mean(0, keepdim=True) - self.mean) / self.std


def _smaller(frames: Tensor, factor: int) -> Tensor:
    """u8 [N, H, W, 3] -> f32 [N, 3, h, w] in 0..255."""
    levels = frames.float().permute(0, 3, 1, 2)  # a float first: TensorRT needs it of bytes
    return F.avg_pool2d(levels, factor) if factor > 1 else levels
