"""The trainable parts of the `shapes` cascade: which networks, on which batches, by which loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod

from .captions import plain
from .data import Data
from .emu import emu_image_component, emu_interpolation_component, emu_video_component
from .latent import unet_component, vae_component
from .lavie import base_component
from .lavie import interpolation_component as lavie_interpolation_component
from .losses import COSINE, Component, denoise_loss, frozen
from .networks import CHECKPOINT, LENGTH, SHIFT, build, null_rows
from .upscaling import upscaler_vae_component, vsr_component
from .world import COLOURS, FRAMES, MOTIONS, SHAPES, Scenes, draw, sample_scenes

__all__ = ["COMPONENTS", "Component"]

# D^t and ↑F see more noise: motion is settled while single pixels are still drowned in it.
_SHIFTED = torch.from_numpy(shift_alphas_cumprod(alphas_cumprod_cosine(), SHIFT)).float()
_Encoders = tuple[nn.Module, nn.Module]  # text, pictures
KNOWN = torch.arange(0, FRAMES, 5)  # frames of the 76 that the decoder draws


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


def _text(ids: Tensor, mask: Tensor, encoder: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = encoder(input_ids=ids, attention_mask=mask.long())
    return out.text_embeds.float(), out.last_hidden_state.float()


def _encoded(
    data: Data, batch: tuple[Scenes, Tensor, Tensor], encoders: _Encoders
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Text embedding, states and mask, the image embedding of a random frame, rows made null.

    A tenth of the rows gets the empty caption.
    """
    scenes, ids, mask = batch
    encoder, pictures = encoders
    null_ids, null_mask = data.tokens([""])
    drop = data.uniform(len(ids)) < 0.1
    ids, mask = null_rows(ids, null_ids[0], drop), null_rows(mask, null_mask[0], drop)
    text, states = _text(ids, mask, encoder)
    frame = data.uniform(len(ids), 1) * (FRAMES - 1)
    with torch.no_grad():
        image = pictures(pixel_values=draw(scenes, frame, 32)[:, :, 0]).image_embeds.float()
    return text, states, mask, image, drop


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
        text, states, mask, image, _ = _encoded(data, data.scenes(128), (encoder, pictures))
        x0 = (image - prior.clip_mean) / prior.clip_std
        t = data.integers(1000, len(x0))
        alphas = COSINE[t][:, None]
        x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * torch.randn_like(x0)
        return F.mse_loss(prior(x, t.float(), text, states, mask).float(), x0)

    return Component(nn.ModuleDict({"prior": prior}), loss)


def _conditions(
    data: Data,
    modules: nn.ModuleDict,
    encoders: _Encoders,
    batch: Any,
    names: Any,
) -> dict[str, Tensor]:
    """tokens, bias and emb of a batch; a tenth of the rows get the null condition."""
    unet, proj = (cast(Any, modules[name]) for name in names)
    text, states, mask, image, drop = _encoded(data, batch, encoders)
    image = null_rows(image, proj.learned_classifier_free_guidance_embeddings, drop)
    tokens, bias, emb = proj(image, text, states, mask)
    return {"tokens": tokens, "bias": bias, "emb": emb + unet.fps_embedding(batch[0].fps)}


def decoder_component() -> Component:
    """D^t: stills first, then 16-frame clips at a frame rate told to the network."""
    modules = nn.ModuleDict({name: build(name) for name in ("decoder", "text_proj")})
    encoders = frozen("text_encoder"), frozen("image_encoder")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count = 8 if clips else 64
        batch = data.scenes(count, data.fps(count, progress) if clips else None)
        frames = KNOWN.float() if clips else data.uniform(count, 1) * (FRAMES - 1)
        x0 = draw(batch[0], frames, 16, 4)
        given = _conditions(data, modules, encoders, batch, ("decoder", "text_proj"))
        unet = modules["decoder"]
        power = 0.6 if clips else 1.0
        return denoise_loss(data, x0, lambda x, t: unet(x, t, **given), power, _SHIFTED)

    return Component(modules, loss)


def _known_frames(data: Data) -> Tensor:
    """bool [F]: which frames a training clip of ↑F is given (1 = given)."""
    kind, skip = data.rng.random(), int(data.rng.integers(2, 6))
    frames = FRAMES if kind < 0.6 else 15 * skip + 1
    known = torch.zeros(frames, dtype=torch.bool)
    if kind < 0.8:
        known[:: 5 if kind < 0.6 else skip] = True
    elif kind < 0.9:
        count = int(data.rng.integers(1, frames // 2))
        known[:count] = True
        known = known.flip(0) if data.rng.random() < 0.5 else known
    else:
        known[0] = known[-1] = True
    return known


def interpolation_component() -> Component:
    """↑F, fine-tuned from D^t: masked frames and mask as four more input channels."""
    names = ("interpolation", "interpolation_text_proj")
    modules = nn.ModuleDict({name: build(name) for name in names})
    encoders = frozen("text_encoder"), frozen("image_encoder")
    state = load_file(CHECKPOINT / "decoder" / "model.safetensors")
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, 4))
    modules["interpolation"].load_state_dict(state)
    modules["interpolation_text_proj"].load_state_dict(
        load_file(CHECKPOINT / "text_proj" / "model.safetensors")
    )

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        known = _known_frames(data)
        batch = data.scenes(2, data.fps(2, progress))
        x0 = draw(batch[0], torch.arange(len(known)).float(), 16, 4)
        given = known.float().view(1, 1, -1, 1, 1).expand(2, 1, -1, *x0.shape[3:])
        blur = data.uniform(2, 1, 1, 1, 1) * 0.05
        masked = (x0 + blur * torch.randn_like(x0)).clamp(-1, 1) * given
        extra = torch.cat([masked, 1 - given], 1)
        conditions = _conditions(data, modules, encoders, batch, names)
        unet = modules["interpolation"]
        return denoise_loss(
            data, x0, lambda x, t: unet(torch.cat([x, extra], 1), t, **conditions), 0.6, _SHIFTED
        )

    return Component(modules, loss, rate=5e-4)


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
    unet = build("super_res_high")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count, crop = 10, 96
        scenes = sample_scenes(count, data.rng)
        x0 = draw(scenes, data.uniform(count, 1) * (FRAMES - 1), 192)
        condition = _bicubic(_degrade(data, F.avg_pool3d(x0, (1, 3, 3))), 3)
        both = torch.cat([x0, condition], 1)
        y, x = (int(data.rng.integers(192 - crop + 1)) for _ in range(2))
        x0, condition = both[..., y : y + crop, x : x + crop].chunk(2, dim=1)
        return denoise_loss(data, x0, lambda x, t: unet(torch.cat([x, condition], 1), t), 0.7)

    return Component(nn.ModuleDict({"super_res_high": unet}), loss)


COMPONENTS: dict[str, Callable[[], Component]] = {
    "clip": clip_component,
    "prior": prior_component,
    "decoder": decoder_component,
    "interpolation": interpolation_component,
    "super_res_low": super_res_low_component,
    "super_res_high": super_res_high_component,
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
