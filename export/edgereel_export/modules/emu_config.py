"""Sizes of Emu Video's network (arXiv:2311.10709), read from the config.json of its image part.

That file is diffusers' for a UNet2DConditionModel, whose numbers may be lists with an entry per
level. `cross_attention_dim` may be one too: the widths of two text encoders' states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgereel.errors import InputError

from .sd_config import BLOCKS, check_fixed

__all__ = ["EmuConfig", "from_json", "to_json"]

_WHAT = "the UNet's config.json"
_WITH, _WITHOUT = "CrossAttnDownBlock2D", "DownBlock2D"
_Size = Annotated[int, Meta(ge=1)]
_Sizes = Annotated[tuple[_Size, ...], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class EmuConfig:
    """Sizes of the network; tuples have an entry per level, the full resolution first.

    Args:
        latent_channels: C, of latents in and out.
        block_out_channels: widths.
        layers: resnets on the way down; one more on the way up.
        attention: whether resnets are followed by transformers.
        heads: of transformers.
        cross_attention_dims: widths of the text states, one per text encoder.
        norm_num_groups: of group norms.
        sample_size: height and width of the latents of the training.
    """

    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: tuple[int, ...]
    cross_attention_dims: tuple[int, ...]
    norm_num_groups: int = 32
    sample_size: int = 64


class _UNet(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of config.json that make a difference; defaults are diffusers'."""

    in_channels: _Size = 4
    out_channels: _Size = 4
    block_out_channels: _Sizes = (320, 640, 1280, 1280)
    layers_per_block: _Size | _Sizes = 2
    attention_head_dim: _Size | _Sizes = 8  # number of heads; diffusers kept the wrong name
    cross_attention_dim: _Size | _Sizes = 1280
    down_block_types: tuple[Literal["CrossAttnDownBlock2D", "DownBlock2D"], ...]
    norm_num_groups: _Size = 32
    sample_size: _Size | None = None


def from_json(values: Mapping[str, Any]) -> EmuConfig:
    """The sizes that a config.json says.

    Raises:
        InputError: it is no UNet that layers over frames can be added to; says what is wrong.
    """
    dims = values.get("cross_attention_dim")
    texts = len(dims) if isinstance(dims, list) else 1
    fixed = {k: v for k, v in BLOCKS.items() if k != "transformer_layers_per_block"}
    check_fixed(_WHAT, values, fixed)
    try:
        found = msgspec.convert(values, _UNet)
    except msgspec.ValidationError as error:
        raise _wrong(str(error), "the fields that diffusers writes") from None
    levels = len(found.block_out_channels)
    if found.in_channels != found.out_channels:
        problem = f"has {found.in_channels} input and {found.out_channels} output channels"
        raise _wrong(problem, "as many, those of a text-to-image model")
    if values.get("transformer_layers_per_block", texts) != texts:
        problem = f"has transformer_layers_per_block {values['transformer_layers_per_block']}"
        raise _wrong(problem, f"{texts}, one for each entry of cross_attention_dim")
    layers = _per_level(found.layers_per_block, levels)
    heads = _per_level(found.attention_head_dim, levels)
    for name, entries in (
        ("layers_per_block", layers),
        ("attention_head_dim", heads),
        ("down_block_types", found.down_block_types),
    ):
        if len(entries) != levels:
            expected = f"{levels}, one per entry of block_out_channels"
            raise _wrong(f"has {len(entries)} entries of {name}", expected)
    for width, count in zip(found.block_out_channels, heads, strict=True):
        if width % count or width % found.norm_num_groups:
            parts = f"{count} heads and {found.norm_num_groups} groups"
            raise _wrong(f"has a width of {width}", f"a multiple of its {parts}")
    return EmuConfig(
        latent_channels=found.in_channels,
        block_out_channels=found.block_out_channels,
        layers=layers,
        attention=tuple(kind == _WITH for kind in found.down_block_types),
        heads=heads,
        cross_attention_dims=_per_level(found.cross_attention_dim, 1),
        norm_num_groups=found.norm_num_groups,
        sample_size=found.sample_size or 64,
    )


def to_json(config: EmuConfig) -> dict[str, Any]:
    """The config.json of these sizes."""
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "block_out_channels": list(config.block_out_channels),
        "layers_per_block": list(config.layers),
        "attention_head_dim": list(config.heads),
        "cross_attention_dim": list(config.cross_attention_dims),
        "transformer_layers_per_block": len(config.cross_attention_dims),
        "down_block_types": [_WITH if has else _WITHOUT for has in config.attention],
        "up_block_types": [
            ("CrossAttnUpBlock2D" if has else "UpBlock2D") for has in reversed(config.attention)
        ],
        "norm_num_groups": config.norm_num_groups,
        "sample_size": config.sample_size,
    }


def _per_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else value


def _wrong(problem: str, expected: str) -> InputError:
    return InputError(
        f"checkpoint: {_WHAT} {problem}; expected {expected}. Give a text-to-image model in "
        f"diffusers' layout."
    )
