"""What happens between the networks of LaVie (arXiv:2309.15103) and SEINE, as modules.

Frames are axis 0: latents [F, 4, h, w], pictures u8 [F, H, W, 3].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .sd_glue import unit_pictures
from .sd_vae import SDVAE, SDEncoder

__all__ = ["CopiedFrames", "GivenFrames", "GreyLatents", "Posterior", "UnitPictures"]


class UnitPictures(nn.Module):
    """Pictures as networks that see pixels take them."""

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [K, H, W, 3] -> f32 [K, 3, H, W] in -1..1."""
        return unit_pictures(frames)


class Posterior(nn.Module):
    """Mean and deviation of the latents of pictures, both times the scaling factor."""

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.encode, self.scale = SDEncoder(vae), vae.config.scaling_factor

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """u8 [K, H, W, 3] -> two of f32 [K, 4, h, w]."""
        mean, deviation = self.encode.moments(unit_pictures(frames))
        return mean * self.scale, deviation * self.scale


class CopiedFrames(nn.Module):
    """For each of 4F - 3 frames the latents of the nearest given one, as ↑F's UNet was trained.

    Frame j copies given frame (j + 1) // 4: the first is there three times, the last twice.
    """

    def forward(self, mean: Tensor, deviation: Tensor, z: Tensor) -> Tensor:
        """f32 [4F - 3, 4, h, w] from three of [F, 4, h, w]; z is normal noise."""
        source = (torch.arange(4 * z.shape[0] - 3) + 1) // 4
        return (mean + deviation * z)[source]


class GreyLatents(nn.Module):
    """Mean and deviation of the latents of a grey picture, which SEINE sees where nothing is given.

    No level of 0..255 is that grey; it is the 0 of pictures in -1..1.
    """

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.encode, self.scale = SDEncoder(vae), vae.config.scaling_factor

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Two of f32 [1, 4, h, w], for pictures of the size of u8 [K, H, W, 3]."""
        mean, deviation = self.encode.moments(torch.zeros_like(unit_pictures(frames)[:1]))
        return mean * self.scale, deviation * self.scale


class GivenFrames(nn.Module):
    """What SEINE's network (arXiv:2310.20700) sees beside the noisy latents.

    For every frame a 1 if it is to be made, else 0, and the latents of what is given: those of the
    first and perhaps the last frame, else those of grey.
    """

    def forward(
        self, z: Tensor, grey_mean: Tensor, grey_deviation: Tensor, *known: Tensor
    ) -> Tensor:
        """f32 [F, 5, h, w].

        Args:
            z: f32 [F, 4, h, w], normal noise; F of 2 at least.
            grey_mean, grey_deviation: f32 [1, 4, h, w].
            known: mean and deviation f32 [1, 4, h, w] of the first frame, and perhaps of the last.
        """
        mean = torch.cat([grey_mean, *known[::2]])
        deviation = torch.cat([grey_deviation, *known[1::2]])
        place = torch.arange(z.shape[0])
        source = (place == 0).long()
        if len(known) > 2:
            source = torch.where(place == z.shape[0] - 1, 2, source)
        made = (source == 0).to(z.dtype)[:, None, None, None].expand(-1, 1, *z.shape[2:])
        return torch.cat([made, mean[source] + deviation[source] * z], 1)
