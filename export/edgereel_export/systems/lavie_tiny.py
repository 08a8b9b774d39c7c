"""LaVie's checkpoint as it is published, very small, with random weights, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from edgereel_export.checkpoints import read_config
from edgereel_export.lavie_companions import STABLE_DIFFUSION, UPSCALER, unet_config
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet
from edgereel_export.modules.lavie_vsr import VSRConfig, VSRUNet
from edgereel_export.modules.sd_config import SDUNetConfig, SDVAEConfig, to_json
from edgereel_export.modules.sd_vae import SDVAE

from . import text2video_zero_tiny as stable_diffusion
from .text2video_zero_tiny import write_json, write_part, write_tokenizer

__all__ = ["write_checkpoint"]

_CROSS = 24  # not Stable Diffusion's, so that one text encoder cannot stand for the other
_PLAIN: dict[str, Any] = {  # attention in the middle only, as every one makes an export longer
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
_VSR = VSRConfig(
    block_out_channels=(32, 64),
    cross_attention_dim=_CROSS,
    only_cross_attention=(True, False),
    **_PLAIN,
)
_BETAS = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
_SCHEDULERS = {
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **_BETAS,
    },
    "low_res_scheduler": {"_class_name": "DDPMScheduler", "clip_sample": True, **_BETAS},
}
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "low_res_scheduler": ("diffusers", "DDPMScheduler"),
}


def write_checkpoint(folder: Path) -> None:
    """Write all stages, SEINE's and the two companions, the same at every call."""
    stable_diffusion.write_checkpoint(folder / STABLE_DIFFUSION)
    unet = folder / STABLE_DIFFUSION / "unet"
    sizes = replace(SDUNetConfig.from_json(read_config(unet)), **_PLAIN)
    (unet / "diffusion_pytorch_model.safetensors").unlink()  # LaVie's own takes its place
    write_json(unet / "config.json", to_json(sizes))
    config = unet_config(folder, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        _write_upscaler(folder / UPSCALER)
        _write_stage(folder / "lavie_base.pt", LaVieUNet(config))
        _write_stage(
            folder / "lavie_interpolation.pt", InterpolationUNet(replace(config, in_channels=8))
        )
        _write_stage(folder / "lavie_vsr.pt", VSRUNet(_VSR))
        _write_stage(folder / "seine.pt", LaVieUNet(replace(config, in_channels=9)))


def _write_stage(path: Path, unet: nn.Module) -> None:
    for parameter in unet.parameters():  # no zero layers: every input must matter
        parameter.data += 0.03 * torch.randn_like(parameter)
    torch.save({"ema": unet.state_dict()}, path)


def _write_upscaler(folder: Path) -> None:
    """The x4 upscaler without its UNet, whose place super-resolution takes."""
    vae = SDVAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
    text = CLIPTextConfig(
        vocab_size=514,
        hidden_size=_CROSS,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        hidden_act="gelu",
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=0,
    )
    written = to_json(vae)
    del written["scaling_factor"]  # as published: diffusers did not write it down then
    write_part(folder / "vae", SDVAE(vae), written)
    write_part(folder / "text_encoder", CLIPTextModel(text), text.to_diff_dict())
    write_tokenizer(folder / "tokenizer", pad="!")
    for name, values in _SCHEDULERS.items():
        write_json(folder / name / "scheduler_config.json", values)
    index = {"_class_name": "StableDiffusionUpscalePipeline", "max_noise_level": 350}
    write_json(folder / "model_index.json", index | _CLASSES)
