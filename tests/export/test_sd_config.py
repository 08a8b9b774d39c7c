"""The configs of public Stable Diffusion files: the networks they make, and those refused.

Alone: pytest tests/export/test_sd_config.py
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgereel.errors import InputError  # noqa: E402
from edgereel_export.modules.sd_config import (  # noqa: E402
    SDControlNetConfig,
    SDUNetConfig,
    SDVAEConfig,
)
from edgereel_export.modules.sd_controlnet import SDControlNet  # noqa: E402
from edgereel_export.modules.sd_unet import SDUNet  # noqa: E402
from edgereel_export.modules.sd_vae import SDVAE  # noqa: E402

pytestmark = pytest.mark.torch

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
BLOCKS: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
}
UNET = BLOCKS | {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "center_input_sample": False,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP],
}
CONTROLNET = BLOCKS | {
    "_class_name": "ControlNetModel",
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


# The digests are of the key lists of the public files.


@pytest.mark.parametrize(
    ("kind", "config", "keys", "parameters", "digest"),
    [
        pytest.param(
            SDUNet, SDUNetConfig.from_json(UNET),
            686, 859_520_964, "06ab0a594a10b99f", id="unet",
        ),
        pytest.param(
            SDUNet, SDUNetConfig.from_json(UNET | {"in_channels": 8}),
            686, 859_532_484, "6d95078065c2debc", id="pix2pix",
        ),
        pytest.param(
            SDControlNet, SDControlNetConfig.from_json(CONTROLNET),
            340, 361_279_120, "78789a4f9eff0f09", id="controlnet",
        ),
        pytest.param(
            SDVAE, SDVAEConfig.from_json(VAE),
            248, 83_653_863, "a8eb7356226250e7", id="vae",
        ),
    ],
)  # fmt: skip
def test_published_sizes(kind: Any, config: Any, keys: int, parameters: int, digest: str) -> None:
    with torch.device("meta"):
        state = kind(config).state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    assert len(lines) == keys
    assert sum(value.numel() for value in state.values()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


def test_published_values() -> None:
    config = SDUNetConfig.from_json(UNET)
    assert config.attention_head_dim == 8
    assert config.down_attention == (True, True, True, False)
    assert config.up_attention == (False, True, True, True)
    assert config.sample_size == 64
    assert SDUNetConfig.from_json(UNET | {"sample_size": 96}).sample_size == 96
    assert SDUNetConfig.from_json(UNET | {"sample_size": None}).sample_size == 64
    assert SDVAEConfig.from_json(VAE).scaling_factor == 0.18215  # older files do not say it
    assert SDVAEConfig.from_json(VAE | {"scaling_factor": 0.25}).scaling_factor == 0.25


SD2 = {"use_linear_projection": True, "cross_attention_dim": 1024}


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (SDUNetConfig, UNET | SD2 | {"attention_head_dim": [5, 10, 20, 20]}, "Stable Diffusion 2"),
        (SDUNetConfig, UNET | {"cross_attention_dim": 1024}, "Stable Diffusion 2"),
        (SDControlNetConfig, CONTROLNET | SD2, "Stable Diffusion 2"),
        (SDUNetConfig, UNET | SD2 | {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        (SDUNetConfig, UNET | {"transformer_layers_per_block": [1, 2, 10]}, "XL"),
        (SDUNetConfig, UNET | {"in_channels": 9}, "an inpainting model"),
        (SDUNetConfig, UNET | SD2 | {"num_class_embeds": 1000, "in_channels": 7}, "x4 upscaler"),
        (SDUNetConfig, UNET | {"only_cross_attention": [True, True, True, False]}, "x4 upscaler"),
        (SDUNetConfig, UNET | {"time_cond_proj_dim": 256}, "latent consistency model"),
        (SDUNetConfig, UNET | {"mid_block_type": None}, "mid_block_type None"),
        (SDUNetConfig, UNET | {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        (SDUNetConfig, CONTROLNET, "ControlNetModel"),
        (SDControlNetConfig, UNET, "UNet2DConditionModel"),
        (SDControlNetConfig, CONTROLNET | {"global_pool_conditions": True}, "shuffled pictures"),
        (SDVAEConfig, VAE | {"latent_channels": 16, "use_quant_conv": False}, "Flux"),
        (SDVAEConfig, VAE | {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    ],
)
def test_other_models_are_named(kind: Any, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as raised:
        kind.from_json(values)
    assert "expected" in str(raised.value) and "Give a Stable Diffusion 1.x" in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (SDUNetConfig, {}, "down_block_types|block_out_channels"),
        (SDUNetConfig, {k: v for k, v in UNET.items() if k != "cross_attention_dim"}, "missing"),
        (SDUNetConfig, UNET | {"layers_per_block": "2"}, r"Expected `int`.*layers_per_block"),
        (SDUNetConfig, UNET | {"layers_per_block": [1, 2]}, r"Expected `int`.*layers_per_block"),
        (SDUNetConfig, UNET | {"block_out_channels": [0]}, "block_out_channels"),
        (SDUNetConfig, UNET | {"attention_head_dim": 0}, "attention_head_dim"),
        (SDUNetConfig, UNET | {"up_block_types": ["UpBlock2D"] * 3}, "3 block types"),
        (SDUNetConfig, UNET | {"up_block_types": ["Up"] * 4}, "'Up'"),
        (SDUNetConfig, UNET | {"norm_num_groups": 48}, "multiples of norm_num_groups 48"),
        (SDUNetConfig, UNET | {"attention_head_dim": 12}, "multiples of attention_head_dim 12"),
        (SDVAEConfig, VAE | {"block_out_channels": []}, "block_out_channels"),
        (SDVAEConfig, VAE | {"block_out_channels": [100]}, "multiples of norm_num_groups 32"),
        (SDVAEConfig, VAE | {"scaling_factor": 0}, "scaling_factor"),
    ],
)
def test_unusable_configs_are_one_sentence(kind: Any, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        kind.from_json(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_eps", 1e-6),
        ("act_fn", "gelu"),
        ("flip_sin_to_cos", False),
        ("freq_shift", 1),
        ("downsample_padding", 0),
        ("mid_block_scale_factor", 1.5),
        ("center_input_sample", True),
        ("conv_in_kernel", 5),
        ("resnet_time_scale_shift", "scale_shift"),
        ("attention_type", "gated"),
    ],
)
def test_fields_that_change_the_network_are_refused(field: str, value: object) -> None:
    for kind, values in ((SDUNetConfig, UNET), (SDControlNetConfig, CONTROLNET)):
        with pytest.raises(InputError, match=f"has {field} {value}"):
            kind.from_json(values | {field: value})


def test_fields_that_change_nothing_are_ignored() -> None:
    more = {"dropout": 0.1, "upcast_attention": True, "invented": 1}
    assert SDUNetConfig.from_json(UNET | more) == SDUNetConfig.from_json(UNET)
