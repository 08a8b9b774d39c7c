"""LaVie's networks on the `shapes` world: time added to the latent text-to-image model (latent.py).

As in the paper (arXiv:2309.15103) the base network starts from the image model and sees clips and
single pictures; pictures pass by the attention over frames. Noise is LaVie's, up to almost nothing
but noise, where the direction of a motion is settled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.levels import alphas_cumprod_linear
from edgereel_export.modules.lavie_glue import CopiedFrames
from edgereel_export.modules.sd_vae import SDEncoder

from .captions import all_captions
from .data import Data
from .latent import scaled_latents
from .losses import Component, denoise_loss, frozen, text_states
from .networks import build, weights_file
from .world import draw, sample_scenes

__all__ = ["base_component", "interpolation_component"]

_PIXELS = 128
_FPS = 16.0  # of the frames after interpolation; a clip of 61 lasts 3.8 seconds
_EVERY = 4  # of these, the base network makes every fourth
_FRAMES = 16
_CLIPS = 768
_BATCH = 40  # frames of a step of interpolation, about
_ALPHAS = torch.from_numpy(alphas_cumprod_linear(1e-4, 0.02)).float()


def base_component() -> Component:
    """The base network: v-prediction, a tenth of the captions empty, two batches in three clips."""
    unet, blocks = _from_image_model("lavie_base")
    text: Any = frozen("text_encoder")
    scenes = sample_scenes(_CLIPS, Data(3).rng, np.full(_CLIPS, _FPS))
    place = torch.arange(_FRAMES, dtype=torch.float32) * _EVERY
    latents = scaled_latents(frozen("vae"), scenes, place, _PIXELS).half()

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        moving = data.rng.random() < 2 / 3
        rows = data.integers(_CLIPS, 2 if moving else 24)
        x0 = latents[rows].float()  # [B, F, 4, h, w]
        if not moving:
            x0 = x0[torch.arange(len(rows)), data.integers(_FRAMES, len(rows)), None]
        told = all_captions(len(rows), scenes.rows(rows), data.rng)
        told = [t if data.rng.random() > 0.1 else "" for t in told]
        states = text_states(data, text, told)
        for block in blocks:
            block.temporal = moving

        def predict(x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = unet(x.flatten(0, 1), t.repeat_interleave(x.shape[1]), states)
            return out.view(x.shape)

        return denoise_loss(data, x0, predict, 0.7, _ALPHAS)

    return Component(nn.ModuleDict({"lavie_base": unet}), loss, rate=6e-4)


def _from_image_model(name: str) -> tuple[Any, list[Any]]:
    """A network with the image model's weights, and those of its blocks that look along frames.

    At the start every frame is drawn on its own, and further input channels are not seen.
    """
    unet: Any = build(name)
    state = load_file(weights_file("unet"))
    more = unet.conv_in.in_channels - state["conv_in.weight"].shape[1]
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, more))
    unet.load_state_dict(state, strict=False)
    blocks: list[Any] = [block for block in unet.modules() if hasattr(block, "attn_temp")]
    for block in blocks:
        nn.init.zeros_(block.attn_temp.to_out[0].weight)
        nn.init.zeros_(block.attn_temp.to_out[0].bias)
    return unet, blocks


def interpolation_component() -> Component:
    """The interpolation network, on pieces of clips; its attention over frames takes any number.

    Texts are as the stage says them: best quality asked for, or the word that stands for no text.
    """
    unet, _ = _from_image_model("lavie_interpolation")
    text, vae = frozen("text_encoder"), frozen("vae")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        whole = data.rng.random() < 0.1
        given = _FRAMES if whole else int(data.rng.integers(4, 7))
        frames = _EVERY * (given - 1) + 1
        count = max(1, _BATCH // frames)
        scenes = sample_scenes(count, data.rng, np.full(count, _FPS))
        first = data.integers(_FRAMES - given + 1, count) * _EVERY
        x0, copied = _clips(vae, draw(scenes, first[:, None] + torch.arange(frames), _PIXELS))
        told = all_captions(count, scenes, data.rng)
        told = [t + ", 4k." if data.rng.random() > 0.1 else "None" for t in told]
        states = text_states(data, text, told)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([x, copied], 2).flatten(0, 1)
            out: Tensor = unet.walk(seen, unet.time_embedding(t), states)
            return out.view(x.shape)

        return denoise_loss(data, x0, predict, 0.8, _ALPHAS)

    return Component(nn.ModuleDict({"lavie_interpolation": unet}), loss, rate=6e-4)


def _clips(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of clips [B, 3, F, H, W], and those copied from every fourth frame with their noise.

    Both are f32 [B, F, 4, h, w] and times the scaling factor.
    """
    with torch.no_grad():
        moments = SDEncoder(vae).moments(pictures.transpose(1, 2).flatten(0, 1))
    count = len(pictures)
    mean, deviation = (
        m.float().view(count, -1, *m.shape[1:]) * vae.config.scaling_factor for m in moments
    )
    every = mean[:, ::_EVERY], deviation[:, ::_EVERY]
    copy = CopiedFrames()
    rows = zip(*every, torch.randn_like(every[0]), strict=True)
    return mean, torch.stack([copy(*row) for row in rows])
