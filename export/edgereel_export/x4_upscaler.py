"""Reads Stable Diffusion's x4 upscaler, stabilityai/stable-diffusion-x4-upscaler for diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import fill
from edgereel_export.lavie_companions import Upscaler, read_around
from edgereel_export.modules.sd_upscaler import UpscalerConfig, UpscalerUNet

__all__ = ["X4Upscaler", "read_x4_upscaler"]


class X4Upscaler(NamedTuple):
    """The network, and what surrounds it."""

    unet: UpscalerUNet
    around: Upscaler


def read_x4_upscaler(folder: Path) -> X4Upscaler:
    """The upscaler in a folder of diffusers.

    Raises:
        InputError: it is something else, named in the message, or a part is missing or damaged.
    """
    diffusers_folder.check_upscaler(folder)
    config, weights = diffusers_folder.component(folder, "unet")
    unet = UpscalerUNet(UpscalerConfig.from_json(config))
    fill(unet, weights, folder / "unet")
    return X4Upscaler(unet, read_around(folder))
