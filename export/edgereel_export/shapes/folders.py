"""What stands beside trained networks in the folders of published layouts: text, schedules, index.

`stable_diffusion` is a folder of diffusers. `lavie_checkpoint` has two of these beside LaVie's own
files: the image model, of whose UNet only the sizes are read, and an x4 upscaler without a UNet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from edgereel_export.lavie_companions import STABLE_DIFFUSION, UPSCALER
from edgereel_export.modules.sd_config import to_json

from .latent import BETAS
from .networks import CHECKPOINT, CONFIGS, EMU, LATENT, LAVIE, LENGTH, weights_file

__all__ = ["write_emu", "write_latent", "write_lavie"]

_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}
_TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": LENGTH,
    "bos_token": "<start>",
    "eos_token": "<end>",
    "unk_token": "<end>",
    "pad_token": "<pad>",
}
_NOISE_ALONE = {  # a schedule that ends in noise alone
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
_UPSCALER_BETAS = (1e-4, 0.02)


def write_latent(folder: Path = LATENT, *, half: bool = False) -> None:
    """Writes what diffusers' layout needs beside `unet` and `vae`; `half` is for its weights."""
    _write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **_CLASSES})
    _write(folder / "scheduler" / "scheduler_config.json", _ddim(*BETAS))
    _write_text(folder, half=half)


def write_emu(folder: Path = EMU) -> None:
    """Writes what our layout needs beside trained layers over frames, in half precision."""
    write_latent(folder, half=True)
    for name in ("scheduler", "video_scheduler"):
        _write(folder / name / "scheduler_config.json", {**_ddim(*BETAS), **_NOISE_ALONE})
    _write(folder / "vae" / "config.json", to_json(CONFIGS["vae"]))
    target = folder / "vae" / "diffusion_pytorch_model.safetensors"
    _copy(weights_file("vae"), target, half=True)


def write_lavie(folder: Path = LAVIE) -> None:
    """Writes what the layout of LaVie's authors needs beside trained networks, in half precision.

    These are the three files of LaVie and the upscaler's `vae`.
    """
    image = folder / STABLE_DIFFUSION
    write_latent(image, half=True)
    _write(image / "unet" / "config.json", to_json(CONFIGS["unet"]))
    _write(image / "vae" / "config.json", to_json(CONFIGS["vae"]))
    _copy(weights_file("vae"), image / "vae" / "diffusion_pytorch_model.safetensors", half=True)
    upscaler = folder / UPSCALER
    low = {**_scaled_linear(*_UPSCALER_BETAS), "_class_name": "DDPMScheduler", "clip_sample": True}
    _write(upscaler / "scheduler" / "scheduler_config.json", _ddim(*_UPSCALER_BETAS))
    _write(upscaler / "low_res_scheduler" / "scheduler_config.json", low)
    _write_text(upscaler, half=True)
    index = {"_class_name": "StableDiffusionUpscalePipeline", "max_noise_level": 350}
    classes = _CLASSES | {"low_res_scheduler": ("diffusers", "DDPMScheduler")}
    _write(upscaler / "model_index.json", {**index, **classes})


def _scaled_linear(start: float, end: float) -> dict[str, Any]:
    """A noise schedule whose betas are the squares of evenly spaced numbers."""
    return {
        "beta_schedule": "scaled_linear",
        "beta_start": start,
        "beta_end": end,
        "num_train_timesteps": 1000,
    }


def _ddim(start: float, end: float) -> dict[str, Any]:
    """The scheduler of a network that was trained for v-prediction."""
    return {
        **_scaled_linear(start, end),
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def _write_text(folder: Path, *, half: bool) -> None:
    """The cascade's text encoder without its projection, and its tokenizer."""
    text, source = folder / "text_encoder", CHECKPOINT / "text_encoder"
    config = json.loads((source / "config.json").read_text())
    _write(text / "config.json", config | {"architectures": ["CLIPTextModel"]})
    _copy(source / "model.safetensors", text / "model.safetensors", half=half)
    tokenizer = json.loads((CHECKPOINT / "tokenizer" / "tokenizer.json").read_text())
    _write(folder / "tokenizer" / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer" / "tokenizer_config.json", _TOKENIZER)


def _copy(source: Path, target: Path, *, half: bool) -> None:
    """Writes the weights of a file to another one, but for those of a projection."""
    state = {k: v for k, v in load_file(source).items() if "projection" not in k}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() if half else v for k, v in state.items()}, target)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
