"""Stable Diffusion 1.x folders in diffusers' layout, very small, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from edgereel_export.modules.sd_config import SDControlNetConfig, SDUNetConfig, SDVAEConfig, to_json
from edgereel_export.modules.sd_controlnet import SDControlNet
from edgereel_export.modules.sd_unet import SDUNet
from edgereel_export.modules.sd_vae import SDVAE

__all__ = ["write_checkpoint", "write_controlnet", "write_json", "write_part", "write_tokenizer"]

_CROSS, _LENGTH = 16, 12
_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": _CROSS,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "PNDMScheduler"),
}


def write_checkpoint(folder: Path, channels: int = 4) -> None:
    """Write a whole pipeline, the same at every call; 8 channels make it InstructPix2Pix."""
    unet = SDUNetConfig(
        in_channels=channels,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        sample_size=8,
        **_BLOCKS,
    )
    vae = SDVAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
    text = CLIPTextConfig(
        vocab_size=514,
        hidden_size=_CROSS,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=_LENGTH,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_part(folder / "unet", SDUNet(unet), to_json(unet))
        write_part(folder / "vae", SDVAE(vae), to_json(vae))
        write_part(folder / "text_encoder", CLIPTextModel(text), text.to_diff_dict())
    pix2pix = "InstructPix2Pix" if channels == 8 else ""
    index = {"_class_name": f"StableDiffusion{pix2pix}Pipeline", **_CLASSES}
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    write_tokenizer(folder / "tokenizer")


def write_controlnet(folder: Path) -> None:
    """Write a ControlNet that fits the checkpoint, the same at every call."""
    config = SDControlNetConfig(conditioning_embedding_out_channels=(4, 8, 8), **_BLOCKS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        write_part(folder, SDControlNet(config), to_json(config))


def write_part(folder: Path, module: nn.Module, config: dict[str, Any]) -> None:
    """Write config.json and weights of a part, no layer left at zero."""
    for parameter in module.parameters():  # no zero layers: every input must matter
        parameter.data += 0.03 * torch.randn_like(parameter)
    write_json(folder / "config.json", config)
    state = {
        key: value.contiguous()
        for key, value in module.state_dict().items()
        if key != "encoder.embed_tokens.weight"  # T5's second name for shared.weight
    }
    name = "diffusion_pytorch_model" if "_class_name" in config else "model"
    save_file(state, folder / f"{name}.safetensors")


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """Write CLIP's tokenizer without merges: single bytes, `</w>` on the last of a word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    special = ("<|startoftext|>", "<|endoftext|>")
    write_json(folder / "vocab.json", {s: n for n, s in enumerate([*symbols, *special])})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    told = dict(zip(("bos_token", "eos_token", "pad_token"), (*special, pad), strict=True))
    write_json(folder / "tokenizer_config.json", {"model_max_length": _LENGTH, **told})


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2))
