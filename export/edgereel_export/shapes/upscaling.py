"""LaVie's super-resolution of the `shapes` world, 64 pixels to 256, and its autoencoder.

The published network was trained on pieces of pictures. A piece of these drawings has another share
of background than the whole, and group norms see that: the autoencoder is 5 to 15 decibels worse on
pieces. So both learn from whole drawings, some of them smaller, whose outlines are as sharp. Small
pictures come from the image model's autoencoder, whose faults are to be mended.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_linear, alphas_cumprod_scaled_linear
from edgereel_export.modules.sd_glue import unit_pictures
from edgereel_export.modules.sd_vae import SDDecoder, SDEncoder

from .captions import all_captions
from .data import Data
from .latent import reconstruction_loss
from .losses import Component, denoise_loss, frozen, text_states
from .networks import build, weights_file
from .world import Scenes, draw, sample_scenes

__all__ = ["upscaler_vae_component", "vsr_component"]

_SCALE = 4
_FPS = 16.0
_NEGATIVE = "blur, worst quality"  # the published negative prompt
_MOST_LEVEL = 350  # of the noise on small pictures
_ALPHAS = torch.from_numpy(alphas_cumprod_linear(1e-4, 0.02)).float()
_LOW_ALPHAS = torch.from_numpy(alphas_cumprod_scaled_linear(1e-4, 0.02)).float()
_BATCHES = np.array([(48, 1, 8), (64, 1, 4), (64, 4, 1)])  # pixels of a side, scenes, frames
_CHANCES = (0.4, 0.3, 0.3)
_COUNTS = {32: 8, 48: 4, 64: 2}  # of pictures for the autoencoder, by pixels of a side


def upscaler_vae_component() -> Component:
    """The autoencoder of large pictures, fine-tuned from that of small ones."""
    vae: Any = build("upscaler_vae")
    vae.load_state_dict(load_file(weights_file("vae")))

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        side = int(data.rng.choice(list(_COUNTS)))
        count = _COUNTS[side]
        pictures = _large(sample_scenes(count, data.rng), data.uniform(count, 1) * 60, side)
        return reconstruction_loss(vae, pictures[:, 0])

    return Component(nn.ModuleDict({"upscaler_vae": vae}), loss, rate=4e-4)


def vsr_component() -> Component:
    """The super-resolution network: v-prediction, a tenth of the captions empty or the negative."""
    unet: Any = build("lavie_vsr")
    text, vae, large_vae = frozen("text_encoder"), frozen("vae"), frozen("upscaler_vae")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        side, count, frames = _BATCHES[data.rng.choice(len(_BATCHES), p=_CHANCES)].tolist()
        scenes = sample_scenes(count, data.rng, np.full(count, _FPS))
        every = 4 if data.rng.random() < 0.5 else 1  # of base or interpolation
        last = (frames - 1) * every
        place = data.uniform(count, 1) * (60 - last) + torch.arange(0, last + 1, every)
        low, level = _noisy(data, _small(vae, scenes, place, side))
        x0 = _encoded(large_vae, _large(scenes, place, side))
        told = [_told(data, caption) for caption in all_captions(count, scenes, data.rng)]
        states = text_states(data, text, told)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            temb = unet.time_embedding(t) + unet.class_embedding(level)
            out: Tensor = unet.walk(torch.cat([x, low], 2), temb, states)
            return out

        # what the small picture does not say, the outline's details, is a matter of little noise
        return denoise_loss(data, x0, predict, 0.8 + progress, _ALPHAS)

    return Component(nn.ModuleDict({"lavie_vsr": unet}), loss)


def _noisy(data: Data, low: Tensor) -> tuple[Tensor, Tensor]:
    """Small pictures [B, ...] with noise, and its levels i64 [B], of which low ones are usual."""
    level = (data.uniform(len(low)).square() * (_MOST_LEVEL + 1)).long().clamp(max=_MOST_LEVEL)
    alphas = _LOW_ALPHAS[level].view(-1, *[1] * (low.ndim - 1))
    return alphas.sqrt() * low + (1 - alphas).sqrt() * torch.randn_like(low), level


def _told(data: Data, caption: str) -> str:
    chance = data.rng.random()
    return caption if chance > 0.1 else _NEGATIVE if chance > 0.05 else ""


def _large(scenes: Scenes, frames: Tensor, side: int) -> Tensor:
    """f32 [B, F, 3, 4*side, 4*side]: the frames [B, F] as they should be."""
    return draw(scenes, frames, _SCALE * side, oversample=1).transpose(1, 2)


def _small(vae: Any, scenes: Scenes, frames: Tensor, side: int) -> Tensor:
    """f32 [B, F, 3, side, side]: the frames [B, F] as they come from the networks before."""
    x = draw(scenes, frames, side).transpose(1, 2)
    with torch.no_grad():
        made: Tensor = SDDecoder(vae)(SDEncoder(vae)(x.flatten(0, 1))).float()
    levels = ((made.clamp(-1, 1) + 1) * 127.5).round().byte()
    return unit_pictures(levels.permute(0, 2, 3, 1)).view(x.shape)


def _encoded(vae: Any, pictures: Tensor) -> Tensor:
    """Scaled latents [B, F, 4, h, w] of pictures [B, F, 3, H, W], the modes."""
    with torch.no_grad():
        latents: Tensor = SDEncoder(vae)(pictures.flatten(0, 1)).float() * vae.config.scaling_factor
    return latents.view(*pictures.shape[:2], *latents.shape[1:])
