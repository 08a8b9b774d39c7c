"""A small Karlo checkpoint with random weights, saved by diffusers' own pipeline, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from edgereel.levels import alphas_cumprod_cosine
from edgereel_export.modules.unet import UNet
from edgereel_export.systems.text2video_zero_tiny import write_tokenizer

__all__ = ["pipeline", "save_temporal", "see", "shaken"]

DIM, CROSS, LENGTH, CHANNELS, SIDE, SCALE = 16, 24, 12, (8, 16), 8, 4


def shaken(module: Any, scale: float) -> Any:
    """The module with noise on every parameter, so that nothing is zero or the identity."""
    for parameter in module.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return module.eval()


def pipeline(folder: Path) -> Any:
    """diffusers' UnCLIPPipeline of random parts, always the same, saved as `folder`/karlo."""
    write_tokenizer(folder / "words", pad="!")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = _parts()
        prior = parts["prior"]
        prior.clip_mean.data = torch.randn(1, DIM)
        prior.clip_std.data = torch.rand(1, DIM) + 0.5
    pipe = diffusers.UnCLIPPipeline(tokenizer=tokenizer, **parts, **_schedulers())
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "karlo")
    _widen(pipe)
    return pipe


def see(karlo: Path) -> tuple[Any, Any]:
    """Save an image encoder of pictures of 32 pixels, and its processor, beside the other parts."""
    config = CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=DIM,
        image_size=SIDE * SCALE,
        patch_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = shaken(CLIPVisionModelWithProjection(config), 0.1)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    encoder.save_pretrained(karlo / "image_encoder")
    processor.save_pretrained(karlo / "feature_extractor")
    return encoder, processor


def _widen(pipe: Any) -> None:
    """Give the schedulers their tables in float64.

    In float32, 1 - alphas_cumprod[0] is wrong by 5e-4 of itself, and random networks make much of
    a little.
    """
    table = alphas_cumprod_cosine()
    for name in _schedulers():
        scheduler = getattr(pipe, name)
        assert np.abs(scheduler.alphas_cumprod.numpy() - table).max() < 1e-6
        scheduler.alphas_cumprod = torch.from_numpy(table)
        scheduler.alphas = torch.from_numpy(np.append(table[:1], table[1:] / table[:-1]))
        scheduler.betas = 1 - scheduler.alphas


def _parts() -> dict[str, Any]:
    text = CLIPTextConfig(
        vocab_size=514,
        hidden_size=DIM,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=DIM,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=2,  # as published: transformers then takes the largest id for the end
        pad_token_id=1,
    )
    blocks = {"block_out_channels": CHANNELS, "layers_per_block": 1, "norm_num_groups": 4}
    prior = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=DIM,
        num_embeddings=LENGTH,
    )
    proj = UnCLIPTextProjModel(
        clip_embeddings_dim=DIM,
        time_embed_dim=4 * CHANNELS[0],
        cross_attention_dim=CROSS,
        clip_extra_context_tokens=3,
    )
    decoder = diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=CROSS,
        attention_head_dim=8,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        **blocks,
    )
    first, last = (
        diffusers.UNet2DModel(
            sample_size=SIDE * SCALE,
            in_channels=6,
            out_channels=3,
            down_block_types=("ResnetDownsampleBlock2D",) * 2,
            up_block_types=("ResnetUpsampleBlock2D",) * 2,
            add_attention=False,
            **blocks,
        )
        for _ in range(2)
    )
    return {
        "text_encoder": shaken(CLIPTextModelWithProjection(text), 0.1),
        "prior": shaken(prior, 0.05),
        "text_proj": shaken(proj, 0.1),
        "decoder": shaken(decoder, 0.05),
        "super_res_first": shaken(first, 0.05),
        "super_res_last": shaken(last, 0.05),
    }


def _schedulers() -> dict[str, Any]:
    """Those of the published checkpoint."""
    make = diffusers.UnCLIPScheduler
    return {
        "prior_scheduler": make(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        "decoder_scheduler": make(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": make(variance_type="fixed_small_log", prediction_type="epsilon"),
    }


def save_temporal(path: Path, unets: Any, networks: Any, *, frames: int, shake: float) -> None:
    """Save layers over frames for some networks; without a `shake` they change nothing."""
    tensors = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name in networks:
            more = name == "interpolation"
            base = unets["decoder" if more else name]
            changes = {"in_channels": 7} if more else {}
            config = replace(base.config, temporal=True, fps=more or name == "decoder", **changes)
            for key, value in shaken(UNet(config), shake).state_dict().items():
                if key == "conv_in.weight" and more:  # as the decoder's, blind to what is known
                    value = torch.cat([base.conv_in.weight, torch.zeros(CHANNELS[0], 4, 3, 3)], 1)
                    value += shake * torch.randn_like(value)
                elif key == "conv_in.bias" and more:
                    value = base.conv_in.bias
                elif "_time." not in key and not key.startswith("fps_embedding."):
                    continue
                tensors[f"{name}.{key}"] = value.clone().contiguous()
    save_file(tensors, path, {"frames": str(frames)})
