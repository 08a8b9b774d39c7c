"""Sizes of Stable Diffusion 1.x networks, read from the config.json files that diffusers writes.

Fields keep diffusers' names. A field that changes nothing (dropout) is ignored; one that makes
another network is refused, with the model family it points to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from edgereel.errors import InputError

__all__ = [
    "BLOCKS",
    "SDBlocksConfig",
    "SDControlNetConfig",
    "SDUNetConfig",
    "SDVAEConfig",
    "check_fixed",
    "to_json",
]

Size = Annotated[int, Meta(ge=1)]
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1)]
DownBlockType = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpBlockType = Literal["CrossAttnUpBlock2D", "UpBlock2D"]
Config = TypeVar("Config", "SDUNetConfig", "SDControlNetConfig", "SDVAEConfig")
_MODEL = "a Stable Diffusion 1.x model"


class _Fixed(NamedTuple):
    """A field's possible values in Stable Diffusion 1.x, and what any other value points to."""

    allowed: tuple[object, ...]
    looks: str = ""


BLOCKS = {  # the order matters: the first that differs is named
    "addition_embed_type": _Fixed((None,), "Stable Diffusion XL"),
    "transformer_layers_per_block": _Fixed((1,), "Stable Diffusion XL"),
    "num_class_embeds": _Fixed((None,), "the Stable Diffusion x4 upscaler"),
    "only_cross_attention": _Fixed((False,), "the Stable Diffusion x4 upscaler"),
    "use_linear_projection": _Fixed((False,), "Stable Diffusion 2"),
    "time_cond_proj_dim": _Fixed((None,), "a latent consistency model"),
    "attention_type": _Fixed(("default",), "GLIGEN"),
    "encoder_hid_dim_type": _Fixed((None,), "Kandinsky or DeepFloyd IF"),
    "class_embed_type": _Fixed((None,), "unCLIP"),
    "resnet_time_scale_shift": _Fixed(("default",), "unCLIP"),
    "mid_block_type": _Fixed(("UNetMidBlock2DCrossAttn",)),
    "dual_cross_attention": _Fixed((False,)),
    "cross_attention_norm": _Fixed((None,)),
    "center_input_sample": _Fixed((False,)),
    "time_embedding_type": _Fixed(("positional",)),
    "time_embedding_dim": _Fixed((None,)),
    "time_embedding_act_fn": _Fixed((None,)),
    "timestep_post_act": _Fixed((None,)),
    "flip_sin_to_cos": _Fixed((True,)),
    "freq_shift": _Fixed((0,)),
    "resnet_skip_time_act": _Fixed((False,)),
    "resnet_out_scale_factor": _Fixed((1,)),
    "mid_block_scale_factor": _Fixed((1,)),
    "downsample_padding": _Fixed((1,)),
    "conv_in_kernel": _Fixed((3,)),
    "conv_out_kernel": _Fixed((3,)),
    "act_fn": _Fixed(("silu",)),
    "norm_eps": _Fixed((1e-5,)),
}
_UNET = {
    "_class_name": _Fixed(("UNet2DConditionModel",)),
    **BLOCKS,
    "in_channels": _Fixed((4, 8), "an inpainting model"),
    "out_channels": _Fixed((4,)),
}
_CONTROLNET = {
    "_class_name": _Fixed(("ControlNetModel",)),
    **BLOCKS,
    "in_channels": _Fixed((4,)),
    "conditioning_channels": _Fixed((3,)),
    "controlnet_conditioning_channel_order": _Fixed(("rgb",)),
    "global_pool_conditions": _Fixed((False,), "the ControlNet of shuffled pictures"),
}
_VAE = {
    "_class_name": _Fixed(("AutoencoderKL",)),
    "latent_channels": _Fixed((4,), "Stable Diffusion 3 or Flux"),
    "shift_factor": _Fixed((None,), "Stable Diffusion 3 or Flux"),
    "use_quant_conv": _Fixed((True,), "Stable Diffusion 3 or Flux"),
    "use_post_quant_conv": _Fixed((True,), "Stable Diffusion 3 or Flux"),
    "latents_mean": _Fixed((None,)),
    "latents_std": _Fixed((None,)),
    "mid_block_add_attention": _Fixed((True,)),
    "down_block_types": _Fixed(("DownEncoderBlock2D",)),
    "up_block_types": _Fixed(("UpDecoderBlock2D",)),
    "in_channels": _Fixed((3,)),
    "out_channels": _Fixed((3,)),
    "act_fn": _Fixed(("silu",)),
}


@dataclass(frozen=True, kw_only=True)
class SDBlocksConfig:
    """Sizes of what a UNet and its ControlNets have in common: input, down blocks, middle.

    `attention_head_dim` is the number of heads; the name is a mistake that diffusers kept.
    """

    in_channels: Size = 4
    block_out_channels: Sizes
    layers_per_block: Size
    down_block_types: tuple[DownBlockType, ...]
    cross_attention_dim: Size
    attention_head_dim: Size = 8
    norm_num_groups: Size = 32

    @property
    def down_attention(self) -> tuple[bool, ...]:
        """Whether resnets are followed by attention, per down block, full resolution first."""
        return tuple(kind == "CrossAttnDownBlock2D" for kind in self.down_block_types)


@dataclass(frozen=True, kw_only=True)
class SDUNetConfig(SDBlocksConfig):
    """Sizes of a UNet; it was trained on latents of height and width `sample_size`."""

    out_channels: Size = 4
    up_block_types: tuple[UpBlockType, ...]
    sample_size: Size = 64

    @property
    def up_attention(self) -> tuple[bool, ...]:
        """Whether resnets are followed by attention, per up block, lowest resolution first."""
        return tuple(kind == "CrossAttnUpBlock2D" for kind in self.up_block_types)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SDUNetConfig:
        """The config of a UNet's config.json; 8 input channels are InstructPix2Pix's.

        Raises:
            InputError: it is no Stable Diffusion 1.x UNet; says what it looks like.
        """
        what = "the UNet's config.json"
        if values.get("sample_size") is None:  # diffusers writes null where nobody said it
            values = {**values, "sample_size": cls.sample_size}
        config = _read(what, values, cls, _UNET)
        _check_blocks(what, config, config.down_block_types, config.up_block_types)
        return config


@dataclass(frozen=True, kw_only=True)
class SDControlNetConfig(SDBlocksConfig):
    """Sizes of a ControlNet; `conditioning_embedding_out_channels` are its picture encoder's."""

    conditioning_embedding_out_channels: Sizes = (16, 32, 96, 256)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SDControlNetConfig:
        """The config of a ControlNet's config.json.

        Raises:
            InputError: it is no Stable Diffusion 1.x ControlNet; says what it looks like.
        """
        what = "the ControlNet's config.json"
        config = _read(what, values, cls, _CONTROLNET)
        _check_blocks(what, config, config.down_block_types)
        return config


@dataclass(frozen=True, kw_only=True)
class SDVAEConfig:
    """Sizes of an autoencoder; the UNet works on its latents times `scaling_factor`."""

    block_out_channels: Sizes
    layers_per_block: Size
    latent_channels: Size = 4
    norm_num_groups: Size = 32
    scaling_factor: Annotated[float, Meta(gt=0)] = 0.18215

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        return 1 << len(self.block_out_channels) - 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, channels: int = 4) -> SDVAEConfig:
        """The config of an autoencoder's config.json, for latents of so many `channels`.

        Raises:
            InputError: it is no Stable Diffusion 1.x autoencoder; says what it looks like.
        """
        what = "the VAE's config.json"
        looks = _VAE["latent_channels"].looks if channels == 4 else ""
        config = _read(what, values, cls, {**_VAE, "latent_channels": _Fixed((channels,), looks)})
        _check_multiples(what, config.block_out_channels, "norm_num_groups", config.norm_num_groups)
        return config


def to_json(config: SDUNetConfig | SDControlNetConfig | SDVAEConfig) -> dict[str, Any]:
    """The config.json of these sizes, as diffusers reads it."""
    values = asdict(config)
    if isinstance(config, SDVAEConfig):
        levels = len(config.block_out_channels)
        blocks = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}
        values |= {f"{way}_block_types": [name] * levels for way, name in blocks.items()}
    kinds = {SDUNetConfig: _UNET, SDControlNetConfig: _CONTROLNET, SDVAEConfig: _VAE}
    return values | {"_class_name": kinds[type(config)]["_class_name"].allowed[0]}


def _read(
    what: str, values: Mapping[str, Any], kind: type[Config], fixed: Mapping[str, _Fixed]
) -> Config:
    """The fields of `kind`, after every other field was found to be as in Stable Diffusion 1.x."""
    check_fixed(what, values, fixed)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InputError(
            f"checkpoint: {what} cannot be used ({error}); expected the fields that diffusers "
            f"writes for Stable Diffusion 1.x. Copy the checkpoint again."
        ) from None


def check_fixed(
    what: str, values: Mapping[str, Any], fixed: Mapping[str, _Fixed], model: str = _MODEL
) -> None:
    """Nothing; every field was found to have one of its possible values.

    Args:
        what: the file.
        values: what it says.
        fixed: by field.
        model: what to give instead.

    Raises:
        InputError: one has another value; says what that points to.
    """
    for field, (allowed, looks) in fixed.items():
        value = values.get(field, allowed[0])
        if not all(item in allowed for item in (value if isinstance(value, list) else [value])):
            expected = " or ".join(str(item) for item in allowed)
            raise _wrong(what, f"has {field} {value}", looks, f"{field} {expected}", model)


def _check_blocks(
    what: str, config: SDUNetConfig | SDControlNetConfig, *kinds: tuple[str, ...]
) -> None:
    """Refuses the text width of Stable Diffusion 2, and sizes that do not belong together."""
    if config.cross_attention_dim == 1024:
        raise _wrong(
            what, "has cross_attention_dim 1024", "Stable Diffusion 2", "cross_attention_dim 768"
        )
    levels = len(config.block_out_channels)
    for kind in kinds:
        if len(kind) != levels:
            expected = f"{levels}, one per entry of block_out_channels"
            raise _wrong(what, f"has {len(kind)} block types ({', '.join(kind)})", "", expected)
    for field in ("norm_num_groups", "attention_head_dim"):
        _check_multiples(what, config.block_out_channels, field, getattr(config, field))


def _check_multiples(what: str, channels: tuple[int, ...], field: str, divisor: int) -> None:
    if any(width % divisor for width in channels):
        raise _wrong(
            what, f"has block_out_channels {list(channels)}", "", f"multiples of {field} {divisor}"
        )


def _wrong(what: str, problem: str, looks: str, expected: str, model: str = _MODEL) -> InputError:
    pointing = f", which looks like {looks}" if looks else ""
    return InputError(
        f"checkpoint: {what} {problem}{pointing}; expected {expected}. Give {model} or one trained "
        f"further from it."
    )
