"""Reads what surrounds LaVie's UNets: two diffusers folders beside its own files.

checkpoint/
  stable-diffusion-v1-4/          of base, interpolation and SEINE
    vae/  text_encoder/  tokenizer/  scheduler/
    unet/config.json              sizes; LaVie's own weights take the place of these
  stable-diffusion-x4-upscaler/   of super-resolution
    vae/  text_encoder/  tokenizer/  scheduler/  low_res_scheduler/
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from torch import nn

from edgereel.errors import InputError
from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import read_config
from edgereel_export.diffusers_folder import SchedulerConfig, Tokens
from edgereel_export.diffusers_parts import read_text_encoder, read_vae
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.modules.sd_vae import SDVAE

__all__ = [
    "STABLE_DIFFUSION",
    "UPSCALER",
    "Companion",
    "Upscaler",
    "read_around",
    "read_stable_diffusion",
    "read_upscaler",
    "unet_config",
]

STABLE_DIFFUSION = "stable-diffusion-v1-4"
UPSCALER = "stable-diffusion-x4-upscaler"
_UPSCALER_SCALING = 0.08333  # for a config.json from before diffusers wrote it down


@dataclass(frozen=True, kw_only=True)
class Companion:
    """The parts around a UNet; `scheduler` has the betas that LaVie was trained with."""

    vae: SDVAE
    text_encoder: nn.Module
    tokens: Tokens
    scheduler: SchedulerConfig


@dataclass(frozen=True, kw_only=True)
class Upscaler(Companion):
    """The same, and the noise that is added to low-resolution pictures."""

    low_res_scheduler: SchedulerConfig


def unet_config(checkpoint: Path, channels: int) -> SDUNetConfig:
    """The sizes of the base (4 input channels), interpolation (8) or SEINE (9) UNet.

    All others are Stable Diffusion's.

    Raises:
        InputError: config.json is missing or not Stable Diffusion 1.x's.
    """
    config = SDUNetConfig.from_json(read_config(checkpoint / STABLE_DIFFUSION / "unet"))
    return replace(config, in_channels=channels)


def read_stable_diffusion(checkpoint: Path) -> Companion:
    """What base, interpolation and SEINE have around their UNets.

    Raises:
        InputError: the folder is missing, damaged or no Stable Diffusion 1.x for text to image.
    """
    folder = checkpoint / STABLE_DIFFUSION
    kind = diffusers_folder.check_kind(folder)
    if kind != "text-to-image":
        raise InputError(
            f"checkpoint: {folder} is an {kind} model; expected Stable Diffusion 1.4, which LaVie "
            f"was trained from. Download https://huggingface.co/CompVis/{STABLE_DIFFUSION}."
        )
    return Companion(
        vae=read_vae(folder),
        text_encoder=read_text_encoder(folder),
        tokens=diffusers_folder.tokenizer(folder),
        scheduler=_linear(diffusers_folder.scheduler(folder)),
    )


def read_upscaler(checkpoint: Path, width: int) -> Upscaler:
    """What super-resolution has around its UNet, which was made for text states of `width`.

    Raises:
        InputError: the folder is missing, damaged or not of the x4 upscaler.
    """
    folder = checkpoint / UPSCALER
    diffusers_folder.check_upscaler(folder, width)
    found = read_around(folder)
    return replace(found, scheduler=_linear(found.scheduler))


def read_around(folder: Path) -> Upscaler:
    """What is around the UNet in the folder of the x4 upscaler, all as it says itself.

    Raises:
        InputError: a part is missing or damaged.
    """
    return Upscaler(
        vae=read_vae(folder, scaling=_UPSCALER_SCALING),
        text_encoder=read_text_encoder(folder),
        tokens=diffusers_folder.tokenizer(folder),
        scheduler=diffusers_folder.scheduler(folder),
        low_res_scheduler=diffusers_folder.scheduler(folder, "low_res_scheduler"),
    )


def _linear(scheduler: SchedulerConfig) -> SchedulerConfig:
    """The scheduler with linear betas: of a checkpoint LaVie keeps everything else only."""
    return msgspec.structs.replace(
        scheduler, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
