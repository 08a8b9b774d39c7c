"""A Make-A-Video checkpoint in the real layout, very small, with random weights, for tests."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from edgereel_export.modules.prior import Prior, PriorConfig
from edgereel_export.modules.text_proj import TextProj, TextProjConfig
from edgereel_export.modules.unet import UNet, UNetConfig

__all__ = ["write_checkpoint"]

_DIM, _CROSS, _LENGTH = 16, 24, 12
_PROFILE = {
    "name": "make-a-video-tiny",
    "description": "random weights, for tests",
    "size": 8,
    "frames": 4,
    "skip": 2,
    "scale_low": 2,
    "scale_high": 2,
    "prediction": "v",
    "fps": 8.0,
    "chunk": 3,
    "steps": {
        "prior": 3,
        "decoder": 3,
        "interpolation": 2,
        "super_res_low": 2,
        "super_res_high": 2,
    },
    "guidance": {"prior": 2.0, "decoder": 3.0},
}


def write_checkpoint(folder: Path) -> None:
    """Write cascade.json, the tokenizer and every stage, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module, config in _stages():
            for parameter in module.parameters():  # no zero layers: every input must matter
                parameter.data += 0.03 * torch.randn_like(parameter)
            stage = folder / name
            stage.mkdir(parents=True, exist_ok=True)
            (stage / "config.json").write_text(json.dumps(config))
            state = {key: value.contiguous() for key, value in module.state_dict().items()}
            save_file(state, stage / "model.safetensors")
    (folder / "cascade.json").write_text(json.dumps(_PROFILE))
    _write_tokenizer(folder / "tokenizer" / "tokenizer.json")


def _stages() -> list[tuple[str, nn.Module, dict[str, Any]]]:
    text = CLIPTextConfig(
        vocab_size=259,
        hidden_size=_DIM,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=_DIM,
        max_position_embeddings=_LENGTH,
        bos_token_id=258,
        eos_token_id=257,
        pad_token_id=256,
    )
    pictures = CLIPVisionConfig(
        hidden_size=_DIM,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=_DIM,
        image_size=16,
        patch_size=8,
    )
    unet: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "groups": 4,
        "head_dim": 8,
    }
    told: dict[str, Any] = {
        "attention": (False, True),
        "cross_dim": _CROSS,
        "fps": True,
        "out_channels": 3,
        **unet,
    }
    sr: dict[str, Any] = {"in_channels": 6, "out_channels": 3, "scale_shift": False, **unet}
    prior, proj = PriorConfig(2, 8, 1, _DIM, _LENGTH), TextProjConfig(_DIM, _DIM, 32, _CROSS, 2)
    unets = {
        "decoder": UNetConfig(in_channels=3, **told),
        "interpolation": UNetConfig(in_channels=7, **told),
        "super_res_low": UNetConfig(**sr),
        "super_res_high": UNetConfig(temporal=False, **sr),
    }
    stages: list[tuple[str, nn.Module, dict[str, Any]]] = [
        ("text_encoder", CLIPTextModelWithProjection(text), text.to_diff_dict()),
        ("image_encoder", CLIPVisionModelWithProjection(pictures), pictures.to_diff_dict()),
        ("prior", Prior(prior), asdict(prior)),
    ]
    stages += [
        (name, TextProj(proj), asdict(proj)) for name in ("text_proj", "interpolation_text_proj")
    ]
    return stages + [(name, UNet(config), asdict(config)) for name, config in unets.items()]


def _write_tokenizer(path: Path) -> None:
    """A tokenizer of single bytes with start and end tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    vocabulary |= {"<pad>": 256, "<end>": 257, "<start>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 258), ("<end>", 257)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
