"""What happens between the networks of Emu Video (arXiv:2311.10709), as modules.

Frames are axis 0: latents [F, C, h, w], pictures u8 [F, H, W, 3]. What a network over frames is
given of a video is [F, C + 1, h, w]: latents of the frames that are given and zeros for the
others, then a mask of ones where a frame is given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .emu_unet import MOST_FRAMES, EmuUNet
from .sd_glue import unit_pictures
from .sd_vae import SDVAE, SDEncoder

__all__ = [
    "FEW",
    "MOST_FRAMES",
    "PAST",
    "AllGiven",
    "Animated",
    "Drawn",
    "Extended",
    "FirstGiven",
    "Joined",
    "PastLatents",
    "SomeGiven",
    "VideoLatents",
]

FEW = 8  # frames that interpolation makes MOST_FRAMES of
PAST = 16  # frames that a video is extended from, and by
_EVERY = 4  # in those MOST_FRAMES, given frame n is at 4 + 4 n


class Drawn(nn.Module):
    """The text-to-image network for a denoise graph."""

    def __init__(self, unet: EmuUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, *states: Tensor) -> Tensor:
        """The prediction for x [G, 1, C, h, w], states [G, L, D] of each encoder."""
        out: Tensor = self.unet(x, t, states)
        return out


class Animated(nn.Module):
    """A network over frames for a denoise graph, whose row 0 is not told what is given."""

    def __init__(self, unet: EmuUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, x: Tensor, t: Tensor, given: Tensor, index: Tensor, *states: Tensor
    ) -> Tensor:
        """The prediction for x [G, F, C, h, w].

        Args:
            x: F frames of each guidance row.
            t: f32 [G], training timesteps.
            given: f32 [F, C + 1, h, w].
            index: i64 [G], declared index of each guidance row.
            states: [G, L, D] of each text encoder.
        """
        rows = torch.where((index == 0)[:, None, None, None, None], 0.0, given)
        out: Tensor = self.unet(x, t, states, rows)
        return out


class VideoLatents(nn.Module):
    """Pictures to latents: the mode of the posterior, times the scaling factor."""

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.encode, self.scale = SDEncoder(vae), vae.config.scaling_factor

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [K, H, W, 3] -> f32 [K, C, h, w]."""
        latents: Tensor = self.encode(unit_pictures(frames)) * self.scale
        return latents


class PastLatents(VideoLatents):
    """The latents of the last frames of a video."""

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [F, H, W, 3] -> f32 [PAST, C, h, w]."""
        # floats are cut: TensorRT cuts no bytes
        latents: Tensor = self.encode(unit_pictures(frames)[-PAST:]) * self.scale
        return latents


class FirstGiven(nn.Module):
    """The first frame is given."""

    def forward(self, first: Tensor, like: Tensor) -> Tensor:
        """f32 [1, C, h, w] -> [F, C + 1, h, w] for `like` of F frames."""
        is_first = (torch.arange(like.shape[0]) == 0)[:, None, None, None]
        frame = torch.cat([first, torch.ones_like(first[:, :1])], 1)
        return torch.where(is_first, frame, 0.0)


class AllGiven(nn.Module):
    """Every frame is given: the one PAST frames before it."""

    def forward(self, past: Tensor) -> Tensor:
        """f32 [PAST, C, h, w] -> [PAST, C + 1, h, w]."""
        return torch.cat([past, torch.ones_like(past[:, :1])], 1)


class SomeGiven(nn.Module):
    """Of every MOST_FRAMES frames, FEW are given, each group of FEW frames on its own."""

    def forward(self, known: Tensor) -> Tensor:
        """f32 [FEW * N, C, h, w] -> [MOST_FRAMES * N, C + 1, h, w]."""
        place = torch.arange(known.shape[0] // FEW * MOST_FRAMES)
        group, place = place // MOST_FRAMES, place % MOST_FRAMES
        number = place // _EVERY - 1
        given = (place % _EVERY == 0) & (number >= 0) & (number < FEW)
        source = group * FEW + number.clamp(0, FEW - 1)
        frames = torch.cat([known, torch.ones_like(known[:, :1])], 1)[source]
        return torch.where(given[:, None, None, None], frames, 0.0)


class Joined(nn.Module):
    """Interpolated groups of MOST_FRAMES frames as one video.

    Group n begins 32 frames after group n - 1, so two share five frames. As published, all five and
    the three new ones before them are left out; `seamless` leaves none out.

    Args:
        seamless: 32 N + 5 frames of N groups instead of 28 N + 9.
    """

    def __init__(self, *, seamless: bool) -> None:
        super().__init__()
        self.seamless = seamless

    def forward(self, x: Tensor) -> Tensor:
        """f32 [MOST_FRAMES * N, C, h, w] -> [frames, C, h, w]."""
        groups = x.shape[0] // MOST_FRAMES
        # Of a group, the first `lead` frames are dropped, but of the first; then `kept` are taken,
        # and of the last group all.
        lead, kept = _EVERY, MOST_FRAMES - _EVERY - (1 if self.seamless else 5)
        place = torch.arange(groups * kept + MOST_FRAMES - kept)
        group = ((place - lead) // kept).clamp(min=0)
        group = torch.minimum(group, torch.full_like(group, groups - 1))
        return x[group * MOST_FRAMES + place - group * kept]


class Extended(nn.Module):
    """A video and what follows it."""

    def forward(self, video: Tensor, more: Tensor) -> Tensor:
        """u8 [F, H, W, 3] and u8 [PAST, H, W, 3] -> u8 [F + PAST, H, W, 3]."""
        return torch.cat([video.float(), more.float()]).to(torch.uint8)
