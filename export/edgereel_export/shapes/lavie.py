"""LaVie's networks on the `shapes` world: time added to the latent text-to-image model (latent.py).

As in the paper (arXiv:2309.15103) the base network starts from the image model and sees clips and
single pictures; pictures pass by the attention over frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_linear
from edgereel_export.modules.lavie_glue import CopiedFrames
from edgereel_export.modules.sd_vae import SDEncoder

from .captions import all_captions
from .data import Data
from .latent import ClipLatents
from .losses import Component, denoise_loss, from_image_model, frozen, text_states
from .world import draw, sample_scenes

__all__ = ["base_component", "interpolation_component"]

_PIXELS = 64
_FPS = 16.0  # of the frames after interpolation; a clip of 61 lasts 3.8 seconds
_EVERY = 4  # of these, the base network makes every fourth
_FRAMES = 16
_CLIPS = 2048
_BATCH = 160  # frames of a step of interpolation, about
_ALPHAS = torch.from_numpy(alphas_cumprod_linear(1e-4, 0.02)).float()
_STILLS = 64  # pictures of a step
_HINT = 300  # most noise, as a timestep, of the frame that is a hint


class _Phase(NamedTuple):
    """Pixels of a side, clips of a step, share of steps on clips, of clips with a hint.

    At first two clips in three have a timestep of `settled`, where their motion is; none at the
    end, when details are left to learn.
    """

    pixels: int
    clips: int
    moving: float
    hinted: float
    settled: tuple[int, int]


# Small pictures first: the same number of operations shows three times as many clips.
_PHASES = _Phase(32, 16, 1.0, 0.75, (250, 800)), _Phase(_PIXELS, 8, 0.8, 0.25, (350, 880))


def base_component() -> Component:
    """The base network: v-prediction, a tenth of the captions empty, clips and single pictures.

    Its attention over frames is told distances only, and the text matters where a frame is hardly
    seen, so which way a motion goes was not learned from noisy clips (19,000). It was from clips
    of which one frame is a hint, with little noise: the others follow from it and the text.
    """
    unet, blocks = _from_image_model("lavie_base")
    for block in blocks:
        _look_both_ways(block.attn_temp)
    text: Any = frozen("text_encoder")
    scenes = sample_scenes(_CLIPS, Data(3).rng, np.full(_CLIPS, _FPS))
    latents = ClipLatents(scenes, torch.arange(0.0, _FRAMES * _EVERY, _EVERY))

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        phase = _PHASES[clips]
        moving = data.rng.random() < phase.moving
        rows = data.integers(_CLIPS, phase.clips if moving else _STILLS)
        x0 = latents.of(phase.pixels)[rows].float()  # [B, F, 4, h, w]
        if not moving:
            x0 = x0[torch.arange(len(rows)), data.integers(_FRAMES, len(rows)), None]
        told = all_captions(len(rows), scenes.rows(rows), data.rng)
        told = [t if data.rng.random() > 0.1 else "" for t in told]
        states = text_states(data, text, told)
        for block in blocks:
            block.temporal = moving
        power = 0.6 + 1.4 * progress  # corners of shapes are a matter of little noise
        t = (data.uniform(len(rows)) ** power * 1000).long().clamp(max=999)
        levels = t[:, None]
        if moving:
            t, levels = _clip_levels(data, t, phase, progress)
        alphas = _ALPHAS[levels].view(*levels.shape, 1, 1, 1)
        noise = torch.randn_like(x0)
        x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
        target = alphas.sqrt() * noise - (1 - alphas).sqrt() * x0
        out = unet(x, t.float(), states)
        wanted = levels == t[:, None]  # a hint is not to be predicted
        error: Tensor = (out.float() - target).square()[wanted]
        return error.mean()

    return Component(nn.ModuleDict({"lavie_base": unet}), loss, rate=1e-3)


def _clip_levels(data: Data, t: Tensor, phase: _Phase, progress: float) -> tuple[Tensor, Tensor]:
    """Timesteps of clips i64 [B], drawn anew for most, and of their frames i64 [B, F]."""
    count = len(t)
    low, high = phase.settled
    settled = low + (data.uniform(count) * (high - low)).long()
    t = torch.where(data.uniform(count) < 2 / 3 * (1 - progress), settled, t)
    hinted = data.uniform(count) < phase.hinted
    t = torch.where(hinted, 500 + data.integers(500, count), t)
    levels = t[:, None].repeat(1, _FRAMES)
    frames = data.integers(_FRAMES, count)
    levels[hinted, frames[hinted]] = data.integers(_HINT, count)[hinted]
    return t, levels


def _look_both_ways(attention: Any) -> None:
    """Every other head of an attention over frames begins with looking back, the others ahead."""
    bias = attention.time_rel_pos_bias.relative_attention_bias.weight  # [32, heads]
    with torch.no_grad():
        ahead = torch.arange(bias.shape[1]) % 2 == 1
        turn = torch.where(ahead, 2.0, -2.0)
        bias[1:16] -= turn  # buckets of frames before
        bias[17:] += turn  # and after


def _from_image_model(name: str) -> tuple[Any, list[Any]]:
    """A network with the image model's weights, and those of its blocks that look along frames.

    At the start every frame is drawn on its own.
    """
    unet = from_image_model(name)
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
            out: Tensor = unet.walk(torch.cat([x, copied], 2), unet.time_embedding(t), states)
            return out

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
