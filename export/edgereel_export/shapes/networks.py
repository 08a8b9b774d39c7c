"""The networks of the `shapes` cascade: their sizes, and how they are made, saved and loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from edgereel_export.lavie_companions import UPSCALER
from edgereel_export.modules.emu_config import EmuConfig, from_json
from edgereel_export.modules.emu_unet import EmuUNet
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet
from edgereel_export.modules.lavie_vsr import VSRConfig, VSRUNet
from edgereel_export.modules.prior import Prior, PriorConfig
from edgereel_export.modules.sd_config import SDUNetConfig, SDVAEConfig, to_json
from edgereel_export.modules.sd_unet import SDUNet
from edgereel_export.modules.sd_vae import SDVAE
from edgereel_export.modules.text_proj import TextProj, TextProjConfig
from edgereel_export.modules.unet import UNet, UNetConfig

__all__ = [
    "CHECKPOINT",
    "EMU",
    "LATENT",
    "LAVIE",
    "LENGTH",
    "SHIFT",
    "build",
    "null_rows",
    "weights_file",
]

CHECKPOINT = Path(__file__).with_name("checkpoint")
LATENT = Path(__file__).with_name("stable_diffusion")  # the latent text-to-image model
LAVIE = Path(__file__).with_name("lavie_checkpoint")  # time added to that model
EMU = Path(__file__).with_name("emu_checkpoint")  # and so it is here, with its weights kept
LENGTH = 32  # tokens of a prompt
SHIFT = 5.0  # factor on the noise of the schedule of D^t and ↑F
_DIM = 96  # CLIP embedding width
_CROSS = 64
_PIXEL: dict[str, Any] = {"layers_per_block": 1, "groups": 8, "head_dim": 16}
_D: dict[str, Any] = {
    "out_channels": 3,
    "block_out_channels": (32, 48, 96),
    "attention": (False, True, True),
    "cross_dim": _CROSS,
    "fps": True,
    **_PIXEL,
}
_SR: dict[str, Any] = {"in_channels": 6, "out_channels": 3, "scale_shift": False, **_PIXEL}
_CLIP: dict[str, Any] = {
    "hidden_size": _DIM,
    "intermediate_size": 4 * _DIM,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": _DIM,
}
CONFIGS: dict[str, Any] = {
    "prior": PriorConfig(4, 32, 4, _DIM, LENGTH),
    "text_proj": TextProjConfig(_DIM, _DIM, 128, _CROSS),
    "decoder": UNetConfig(in_channels=3, **_D),
    "interpolation_text_proj": TextProjConfig(_DIM, _DIM, 128, _CROSS),
    "interpolation": UNetConfig(in_channels=7, **_D),
    "super_res_low": UNetConfig(block_out_channels=(16, 32, 64), **_SR),
    "super_res_high": UNetConfig(block_out_channels=(8, 16, 32), temporal=False, **_SR),
    "vae": SDVAEConfig(
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.83,  # latents of the trained one have a deviation of 1 / 0.83
    ),
    "unet": SDUNetConfig(
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_DIM,
        attention_head_dim=2,
        sample_size=32,
        norm_num_groups=8,
    ),
}
_KINDS: dict[type, Any] = {
    PriorConfig: Prior,
    TextProjConfig: TextProj,
    UNetConfig: UNet,
    SDVAEConfig: SDVAE,
    SDUNetConfig: SDUNet,
    EmuConfig: EmuUNet,
}
CONFIGS["lavie_base"] = CONFIGS["unet"]
CONFIGS["lavie_interpolation"] = replace(CONFIGS["unet"], in_channels=8)
CONFIGS["lavie_vsr"] = VSRConfig(
    block_out_channels=(32, 64, 96),
    layers_per_block=1,
    down_block_types=CONFIGS["unet"].down_block_types,
    up_block_types=CONFIGS["unet"].up_block_types,
    cross_attention_dim=_DIM,
    attention_head_dim=2,
    only_cross_attention=(True, True, False),
)
CONFIGS["upscaler_vae"] = CONFIGS["vae"]
CONFIGS["emu_image"] = CONFIGS["unet"]
CONFIGS["emu_video"] = CONFIGS["emu_interpolation"] = from_json(to_json(CONFIGS["unet"]))
_LAVIE: dict[str, Any] = {  # without config.json, in one folder
    "lavie_base": LaVieUNet,
    "lavie_interpolation": InterpolationUNet,
    "lavie_vsr": VSRUNet,
}


def weights_file(name: str) -> Path:
    """Where the weights of a network are kept; its config.json lies beside them."""
    if name in _LAVIE:
        return LAVIE / f"{name}.safetensors"
    if name == "emu_image":
        return EMU / "unet" / "diffusion_pytorch_model.safetensors"
    if name.startswith("emu_"):
        return EMU / name.removeprefix("emu_") / "diffusion_pytorch_model.safetensors"
    if name == "upscaler_vae":
        return LAVIE / UPSCALER / "vae" / "diffusion_pytorch_model.safetensors"
    if name in ("vae", "unet"):
        return LATENT / name / "diffusion_pytorch_model.safetensors"
    return CHECKPOINT / name / "model.safetensors"


def build(name: str, vocabulary: int = 512) -> nn.Module:
    """A freshly initialised network of the cascade by its folder name."""
    if name == "text_encoder":
        ids: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
        text = CLIPTextConfig(vocab_size=vocabulary, max_position_embeddings=LENGTH, **ids, **_CLIP)
        return CLIPTextModelWithProjection(text)
    if name == "image_encoder":
        return CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=32, patch_size=8, **_CLIP))
    config = CONFIGS[name]
    kind = _LAVIE[name] if name in _LAVIE else _KINDS[type(config)]
    module = kind(config)
    assert isinstance(module, nn.Module)
    return module


def null_rows(values: torch.Tensor, null: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """`values` [B, ...] with the rows of `drop` bool [B] replaced by `null` [...]."""
    return torch.where(drop.view(-1, *[1] * (values.ndim - 1)), null, values)
