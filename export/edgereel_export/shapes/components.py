"""The trainable parts of the `shapes` cascade: which networks, on which batches, by which loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .captions import plain
from .conditions import encoded
from .data import Data
from .decoder import decoder_component, told_component
from .emu import emu_image_component, emu_interpolation_component, emu_video_component
from .interpolation import given_component, interpolation_component
from .latent import unet_component, vae_component
from .lavie import base_component
from .lavie import interpolation_component as lavie_interpolation_component
from .losses import COSINE, Component, denoise_loss, frozen, trained
from .networks import LENGTH, build
from .upscaling import upscaler_vae_component, vsr_component
from .world import COLOURS, FRAMES, MOTIONS, SHAPES, Scenes, draw, sample_scenes

__all__ = ["COMPONENTS", "Component"]


def _bicubic(x: Tensor, scale: int) -> Tensor:
    """[..., H, W] -> [..., scale*H, scale*W], antialiased bicubic as in Karlo."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    size = [side * scale for side in x.shape[-2:]]
    up = F.interpolate(flat, size=size, mode="bicubic", antialias=True)
    return up.reshape(*x.shape[:-2], *size)


def _plain(scenes: Scenes) -> list[str]:
    """The plainest caption of every scene."""
    colours, motions = list(COLOURS), list(MOTIONS)
    rows = zip(scenes.colour.tolist(), scenes.shape.tolist(), scenes.motion.tolist(), strict=True)
    return [plain(colours[c], SHAPES[s], motions[m]) for c, s, m in rows]


class Reconstruction(nn.Module):
    """The plainest caption's tokens from the embedding of any caption of the same scene.

    Paraphrases come together, and words that a still cannot show (motion) survive in the embedding.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        config: Any = encoder.config
        self.embedding = nn.Linear(config.projection_dim, 256)
        self.position = nn.Parameter(torch.randn(LENGTH, 256) * 0.1)
        self.hidden = nn.Linear(256, 256)
        self.words = nn.Linear(256, config.vocab_size)

    def forward(self, embeds: Tensor) -> Tensor:
        """Logits [B, L, vocabulary] for embeds [B, D]."""
        h = F.gelu(self.embedding(embeds)[:, None] + self.position)
        out: Tensor = self.words(F.gelu(self.hidden(h)))
        return out


def clip_component() -> Component:
    """Text and image encoder: contrastive loss, language modelling, paraphrase.

    The last two keep motion words in the text states and in the projected embedding.
    """
    modules = nn.ModuleDict({name: build(name) for name in ("text_encoder", "image_encoder")})
    scale = nn.ParameterList([torch.tensor(math.log(10.0))])
    modules["scale"] = scale
    reconstruct = Reconstruction(modules["text_encoder"])
    modules["reconstruct"] = reconstruct

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        scenes, ids, mask = data.scenes(192)
        frame = data.uniform(len(ids), 1) * (FRAMES - 1)
        pictures = draw(scenes, frame, 32)[:, :, 0]
        encoder: Any = modules["text_encoder"]
        text = encoder(input_ids=ids, attention_mask=mask.long())
        image = modules["image_encoder"](pixel_values=pictures).image_embeds
        pair = F.normalize(text.text_embeds.float(), dim=-1), F.normalize(image.float(), dim=-1)
        logits = pair[0] @ pair[1].T * scale[0].exp().clamp(max=100)
        target = torch.arange(len(ids))
        contrast = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        table = encoder.get_input_embeddings().weight
        words = text.last_hidden_state[:, :-1].float() @ table.T
        language = F.cross_entropy(words.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        real = mask[:, 1:].flatten()
        told = reconstruct(text.text_embeds.float())
        plain_ids, plain_mask = data.tokens(_plain(scenes))
        again = F.cross_entropy(told.flatten(0, 1), plain_ids.flatten(), reduction="none")
        recalled = (again * plain_mask.flatten()).sum() / plain_mask.sum()
        return contrast / 2 + 0.3 * (language * real).sum() / real.sum() + recalled

    return Component(modules, loss)


def prior_component() -> Component:
    """The prior predicts the clean CLIP image embedding (x0-prediction)."""
    encoder, pictures = frozen("text_encoder"), frozen("image_encoder")
    prior: Any = build("prior")
    data = Data(1)
    with torch.no_grad():
        scenes, _, _ = data.scenes(1024)
        frame = data.uniform(1024, 1) * (FRAMES - 1)
        embeds = pictures(pixel_values=draw(scenes, frame, 32)[:, :, 0]).image_embeds
    prior.clip_mean.data, prior.clip_std.data = embeds.mean(0)[None], embeds.std(0)[None]

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        text, states, mask, image, _ = encoded(data, data.scenes(128), (encoder, pictures))
        x0 = (image - prior.clip_mean) / prior.clip_std
        t = data.integers(1000, len(x0))
        alphas = COSINE[t][:, None]
        x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * torch.randn_like(x0)
        return F.mse_loss(prior(x, t.float(), text, states, mask).float(), x0)

    return Component(nn.ModuleDict({"prior": prior}), loss)


def _degrade(data: Data, low: Tensor) -> Tensor:
    """A low-resolution condition with the small errors of a generated one."""
    level = data.uniform(len(low), 1, 1, 1, 1) * 0.08
    low = low * (1 + (data.uniform(len(low), 3, 1, 1, 1) - 0.5) * 0.04)
    return (low + level * torch.randn_like(low)).clamp(-1, 1)


def super_res_low_component() -> Component:
    """SR_l^t, 16 -> 64 pixels: stills first, then 8-frame clips."""
    unet = build("super_res_low")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count, length = (3, 8) if clips else (16, 1)
        scenes = sample_scenes(count, data.rng, data.fps(count, 0.7))
        first = data.uniform(count, 1) * (FRAMES - length)
        x0 = draw(scenes, first.floor() + torch.arange(length), 64)
        low = F.avg_pool3d(x0, (1, 4, 4))
        condition = _bicubic(_degrade(data, low), 4)
        return denoise_loss(data, x0, lambda x, t: unet(torch.cat([x, condition], 1), t), 0.7)

    return Component(nn.ModuleDict({"super_res_low": unet}), loss)


def super_res_high_component() -> Component:
    """SR_h, 64 -> 192 pixels per frame, on crops of 96."""
    return _super_res_high(build("super_res_high"), 0.7, 1e-3)


def few_steps_component() -> Component:
    """SR_h once more, mostly at the noise that its two steps begin with."""
    return _super_res_high(trained("super_res_high"), 0.4, 5e-4)


def _super_res_high(unet: nn.Module, power: float, rate: float) -> Component:
    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count, crop = 10, 96
        scenes = sample_scenes(count, data.rng)
        x0 = draw(scenes, data.uniform(count, 1) * (FRAMES - 1), 192)
        condition = _bicubic(_degrade(data, F.avg_pool3d(x0, (1, 3, 3))), 3)
        both = torch.cat([x0, condition], 1)
        y, x = (int(data.rng.integers(192 - crop + 1)) for _ in range(2))
        x0, condition = both[..., y : y + crop, x : x + crop].chunk(2, dim=1)
        return denoise_loss(data, x0, lambda x, t: unet(torch.cat([x, condition], 1), t), power)

    return Component(nn.ModuleDict({"super_res_high": unet}), loss, rate)


COMPONENTS: dict[str, Callable[[], Component]] = {
    "clip": clip_component,
    "prior": prior_component,
    "decoder": decoder_component,
    "interpolation": interpolation_component,
    "decoder_told": told_component,
    "interpolation_given": given_component,
    "super_res_low": super_res_low_component,
    "super_res_high": super_res_high_component,
    "super_res_high_few": few_steps_component,
    "vae": vae_component,
    "unet": unet_component,
    "lavie_base": base_component,
    "lavie_interpolation": lavie_interpolation_component,
    "upscaler_vae": upscaler_vae_component,
    "lavie_vsr": vsr_component,
    "emu_image": emu_image_component,
    "emu_video": emu_video_component,
    "emu_interpolation": emu_interpolation_component,
}
