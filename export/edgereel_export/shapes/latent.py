"""The latent text-to-image model of the `shapes` world, in diffusers' Stable Diffusion layout.

It is the base that text-to-video systems over Stable Diffusion start from: an autoencoder of 128
pixels to 32, a UNet on its latents, and the text encoder of the Make-A-Video cascade.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.levels import alphas_cumprod_scaled_linear
from edgereel_export.modules.sd_vae import SDVAE, SDDecoder, SDEncoder

from .captions import all_captions
from .data import Data
from .losses import Component, denoise_loss, frozen
from .networks import CHECKPOINT, LATENT, LENGTH, build
from .world import FRAMES, Scenes, draw, sample_scenes

__all__ = ["unet_component", "vae_component", "write_rest"]

_PIXELS = 128
_BETAS = (8.5e-4, 1.2e-2)  # of Stable Diffusion 1.x
_ALPHAS = torch.from_numpy(alphas_cumprod_scaled_linear(*_BETAS)).float()
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "DDIMScheduler",
}


def _pictures(data: Data, count: int) -> tuple[Any, Tensor]:
    """A batch of scenes with captions, and one picture of each, f32 [B, 3, _PIXELS, _PIXELS]."""
    batch = data.scenes(count)
    frame = data.uniform(count, 1) * (FRAMES - 1)
    return batch, draw(batch[0], frame, _PIXELS)[:, :, 0]


def vae_component() -> Component:
    """The autoencoder: absolute and squared error, and a little pull to a normal posterior."""
    vae = build("vae")
    assert isinstance(vae, SDVAE)
    decode = SDDecoder(vae)

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        _, x = _pictures(data, 8)
        mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        z = mean + (logvar / 2).exp() * torch.randn_like(mean)
        out: Tensor = decode(z).float()
        pull = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        error: Tensor = F.l1_loss(out, x) + F.mse_loss(out, x) + 1e-4 * pull
        return error

    return Component(nn.ModuleDict({"vae": vae}), loss)


def unet_component() -> Component:
    """The UNet on latents of stills, v-prediction, a tenth of the captions empty.

    Epsilon-prediction hardly learns the timesteps at which the place of a shape is decided.

    The latents of 4096 stills are made once; every step says them in other words.
    """
    unet: Any = build("unet")
    vae: Any = frozen("vae")
    text: Any = frozen("text_encoder")
    scenes, latents = _bank(Data(2), SDEncoder(vae), 4096)

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        rows = data.integers(len(latents), 32)
        texts = all_captions(len(rows), scenes.rows(rows), data.rng)
        told = [t if data.rng.random() > 0.1 else "" for t in texts]
        ids, _ = data.tokens(told)
        with torch.no_grad():
            states = text(input_ids=ids).last_hidden_state.float()  # padding is read, as in SD
        x0 = latents[rows] * vae.config.scaling_factor
        return denoise_loss(data, x0, lambda x, t: unet(x, t, states), 0.8, _ALPHAS)

    return Component(nn.ModuleDict({"unet": unet}), loss)


def _bank(data: Data, encode: nn.Module, count: int) -> tuple[Scenes, Tensor]:
    """Scenes, and the latents of one picture of each, f32 [count, 4, h, w]."""
    scenes = sample_scenes(count, data.rng)
    frame = data.uniform(count, 1) * (FRAMES - 1)
    latents = []
    for start in range(0, count, 16):
        rows = torch.arange(start, min(start + 16, count))
        pictures = draw(scenes.rows(rows), frame[rows], _PIXELS)[:, :, 0]
        with torch.no_grad():
            latents.append(encode(pictures).float())
    return scenes, torch.cat(latents)


def write_rest(folder: Path = LATENT) -> None:
    """Writes what diffusers' layout needs beside `unet` and `vae`: text, scheduler and index."""
    _write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"} | _index())
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": _BETAS[0],
        "beta_end": _BETAS[1],
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    text = folder / "text_encoder"
    config = json.loads((CHECKPOINT / "text_encoder" / "config.json").read_text())
    _write(text / "config.json", config | {"architectures": ["CLIPTextModel"]})
    state = load_file(CHECKPOINT / "text_encoder" / "model.safetensors")
    save_file({k: v for k, v in state.items() if "projection" not in k}, text / "model.safetensors")
    tokenizer = json.loads((CHECKPOINT / "tokenizer" / "tokenizer.json").read_text())
    _write(folder / "tokenizer" / "tokenizer.json", tokenizer)
    told = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": "<start>",
        "eos_token": "<end>",
        "unk_token": "<end>",
        "pad_token": "<pad>",
    }
    _write(folder / "tokenizer" / "tokenizer_config.json", told)


def _index() -> dict[str, list[str]]:
    ours = {"text_encoder": "transformers", "tokenizer": "transformers"}
    return {part: [ours.get(part, "diffusers"), name] for part, name in _CLASSES.items()}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
