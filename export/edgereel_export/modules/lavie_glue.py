"""What happens between the networks of LaVie (arXiv:2309.15103), as modules.

Frames are axis 0: latents [F, 4, h, w], pictures u8 [F, H, W, 3].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .sd_glue import unit_pictures
from .sd_vae import SDVAE, SDEncoder

__all__ = ["CopiedFrames", "Posterior", "UnitPictures"]


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
