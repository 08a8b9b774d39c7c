"""Emu Video's networks on the `shapes` world: layers over frames for the latent image model.

As in the paper (arXiv:2311.10709, section 3.2) the image model's layers stay as they are; the
layers over frames and the input convolution learn, with the noise schedule that ends in noise
alone. A tenth of the clips come without what is given, a tenth without text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_scaled_linear, rescale_zero_terminal_snr
from edgereel_export.modules.emu_glue import FEW, SomeGiven
from edgereel_export.modules.emu_unet import MOST_FRAMES, is_own

from .captions import all_captions
from .data import Data
from .latent import BETAS, ClipLatents, Noise, scaled_latents, stills_component
from .losses import Component, denoise_loss, from_image_model, frozen, text_states
from .networks import weights_file
from .world import Scenes, sample_scenes

__all__ = ["emu_image_component", "emu_interpolation_component", "emu_video_component"]

_SMALL, _PIXELS = 64, 128
_FPS = 16.0  # of interpolated frames
_EVERY = 4  # of these, the network makes every fourth, and interpolation is given the same
_STILLS, _CLIPS = 4096, 1024
_LATEST = 16  # frame at which a clip may begin, so that its motion has room
_SETTLED = 0.6  # share of the steps on large clips after which all timesteps are seen
_FRAMES = 61  # in which a shape stays in the picture
_LEVELS = 251  # timesteps of the noise on what interpolation is given
_ALPHAS = torch.from_numpy(rescale_zero_terminal_snr(alphas_cumprod_scaled_linear(*BETAS))).float()


def emu_image_component() -> Component:
    """The image model, tuned to pictures that a video can begin with: with room for the motion.

    The one it begins with draws any moment of a clip, such as the last. Even its most noise shows
    where a shape is, so it never had to learn that from a text; with noise alone it has to. Low
    noise, from which outlines are learned, comes last.
    """
    own = Data(6)
    scenes = sample_scenes(_STILLS, own.rng, np.full(_STILLS, _FPS))
    first = own.uniform(_STILLS, 1) * _LATEST
    unet = from_image_model("emu_image")
    return stills_component("emu_image", unet, scenes, first, Noise((0.3, 0.7), _ALPHAS, 5e-4))


def emu_video_component() -> Component:
    """F: eight frames from the first one and a text, v-prediction.

    Which way a text moves things is learned from small clips, of which a step sees four times as
    many: from large ones alone it was not. It is decided where noise is high, so low noise comes
    last.
    """
    unet = _from_image_model("emu_video")
    text = frozen("text_encoder")
    own = Data(4)
    scenes = sample_scenes(_CLIPS, own.rng, np.full(_CLIPS, _FPS))
    first = own.uniform(_CLIPS, 1) * _LATEST
    latents = ClipLatents(scenes, first + torch.arange(FEW) * _EVERY)

    def loss(data: Data, progress: float, large: bool) -> Tensor:
        rows = data.integers(_CLIPS, 4 if large else 16)
        x0 = latents.of(_PIXELS if large else _SMALL)[rows].float()
        given = torch.zeros(*x0.shape[:2], x0.shape[2] + 1, *x0.shape[3:])
        given[:, 0] = torch.cat([x0[:, 0], torch.ones_like(x0[:, 0, :1])], 1)
        lowest = 500 if progress < _SETTLED else 0
        return _loss(data, unet, text, scenes.rows(rows), x0, given, lowest)

    return Component(nn.ModuleDict({"emu_video": unet}), loss)


def emu_interpolation_component() -> Component:
    """I: 37 frames from eight with some noise, v-prediction. It begins with what F has learned."""
    unet = _from_image_model("emu_interpolation")
    unet.load_state_dict(load_file(weights_file("emu_video")), strict=False)
    text, vae = frozen("text_encoder"), frozen("vae")
    some_given = SomeGiven()

    def loss(data: Data, progress: float, large: bool) -> Tensor:
        scenes = sample_scenes(1, data.rng, np.full(1, _FPS))
        place = torch.arange(MOST_FRAMES) + float(data.rng.integers(_FRAMES - MOST_FRAMES + 1))
        x0 = scaled_latents(vae, scenes, place, _PIXELS)
        known = x0[0, _EVERY : _EVERY * FEW + 1 : _EVERY]
        alpha = _ALPHAS[int(data.rng.integers(_LEVELS))]
        known = alpha.sqrt() * known + (1 - alpha).sqrt() * torch.randn_like(known)
        return _loss(data, unet, text, scenes, x0, some_given(known)[None])

    return Component(nn.ModuleDict({"emu_interpolation": unet}), loss, rate=6e-4)


def _from_image_model(name: str) -> Any:
    """A network with the image model's weights, of which only conv_in is left to learn.

    At the start every frame is drawn on its own.
    """
    unet = from_image_model(name, "emu_image")
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_(is_own(key))
    return unet


def _loss(
    data: Data,
    unet: Any,
    text: nn.Module,
    scenes: Scenes,
    x0: Tensor,
    given: Tensor,
    lowest: int = 0,
) -> Tensor:
    """The squared error for clips [B, F, C, h, w] and what is given of them [B, F, C + 1, h, w]."""
    count = len(x0)
    told = all_captions(count, scenes, data.rng)
    states = text_states(data, text, [t if data.rng.random() > 0.1 else "" for t in told])
    known = (data.uniform(count) > 0.1).float().view(-1, 1, 1, 1, 1) * given
    return denoise_loss(data, x0, lambda x, t: unet(x, t, (states,), known), 0.6, _ALPHAS, lowest)
