"""Sizes of Karlo's networks, read from the config.json files that diffusers writes.

A field that changes nothing (dropout) is not looked at; one that makes another network is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgereel.errors import InputError
from edgereel.levels import F64, alphas_cumprod_cosine
from edgereel_export.checkpoints import read_config, read_json
from edgereel_export.modules.prior import PriorConfig
from edgereel_export.modules.text_proj import TextProjConfig
from edgereel_export.modules.unet import UNetConfig
from edgereel_export.step import StepConfig

__all__ = [
    "Scheduler",
    "prior_config",
    "read_scheduler",
    "text_encoder_config",
    "text_proj_config",
    "unet_config",
]

Size = Annotated[int, Meta(ge=1)]
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1)]
Made = TypeVar("Made")

_EITHER: dict[str, Any] = {  # the values of Karlo, for networks on pixels of both kinds
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "time_embedding_type": "positional",
}
_DECODER = {
    "_class_name": "UNet2DConditionModel",
    "class_embed_type": "identity",
    "resnet_time_scale_shift": "scale_shift",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "in_channels": 3,
    "out_channels": 6,
    "addition_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "encoder_hid_dim": None,
    "mid_block_only_cross_attention": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1,
    "resnet_skip_time_act": False,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "timestep_post_act": None,
    **_EITHER,
}
_SUPER_RES = {
    "_class_name": "UNet2DModel",
    "add_attention": False,
    "resnet_time_scale_shift": "default",
    "in_channels": 6,
    "out_channels": 3,
    "class_embed_type": None,
    **_EITHER,
}
_PRIOR = {
    "_class_name": "PriorTransformer",
    "added_emb_type": "prd",
    "additional_embeddings": 4,
    "clip_embed_dim": None,
    "embedding_proj_dim": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "norm_in_type": None,
    "time_embed_act_fn": "silu",
    "time_embed_dim": None,
}
_TEXT_PROJ = {"_class_name": "UnCLIPTextProjModel"}
_TEXT_ENCODER = {"architectures": ["CLIPTextModelWithProjection"]}
_ATTENTION = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")
_PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
_SCHEDULER = {"_class_name": "UnCLIPScheduler", "beta_schedule": "squaredcos_cap_v2"}


class Scheduler(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduler_config.json of UnCLIPScheduler; missing fields have that class's defaults."""

    num_train_timesteps: Annotated[int, Meta(ge=2)] = 1000
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: Annotated[float, Meta(gt=0)] = 1.0
    prediction_type: Literal["epsilon", "sample"] = "epsilon"

    def alphas_cumprod(self) -> F64:
        """The noise schedule, f64 [T]."""
        return alphas_cumprod_cosine(self.num_train_timesteps)

    @property
    def step(self) -> StepConfig:
        """What the network predicts."""
        return StepConfig(
            "x0" if self.prediction_type == "sample" else "epsilon",
            self.clip_sample_range if self.clip_sample else None,
            learned=self.variance_type == "learned_range",
        )


class _Blocks(msgspec.Struct, frozen=True, kw_only=True):
    block_out_channels: Sizes
    layers_per_block: Size
    sample_size: Size
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: Size = 0
    attention_head_dim: Size | None = None
    norm_num_groups: Size = 32

    @property
    def attention(self) -> tuple[bool, ...]:
        """Whether resnets are followed by attention, per down block, full resolution first."""
        return tuple(kind == _ATTENTION[0] for kind in self.down_block_types)


class _Prior(msgspec.Struct, frozen=True, kw_only=True):
    num_attention_heads: Size
    attention_head_dim: Size
    num_layers: Size
    embedding_dim: Size
    num_embeddings: Size


class _TextProj(msgspec.Struct, frozen=True, kw_only=True):
    clip_embeddings_dim: Size = 768
    time_embed_dim: Size
    cross_attention_dim: Size
    clip_extra_context_tokens: Size = 4


def unet_config(folder: Path) -> tuple[UNetConfig, int]:
    """Sizes of the decoder or a super-resolution network without time, and side of its pictures.

    Args:
        folder: `decoder` or another name.

    Raises:
        InputError: config.json is missing, damaged, or of another network.
    """
    decoder = folder.name == "decoder"
    sizes = _read(folder, _DECODER if decoder else _SUPER_RES, _Blocks)
    head = sizes.attention_head_dim or 8  # diffusers' default
    _check_blocks(folder / "config.json", sizes, head if decoder else 0)
    return UNetConfig(
        in_channels=3 if decoder else 6,
        out_channels=6 if decoder else 3,
        block_out_channels=sizes.block_out_channels,
        layers_per_block=sizes.layers_per_block,
        attention=sizes.attention,
        cross_dim=sizes.cross_attention_dim if decoder else 0,
        head_dim=head,
        groups=sizes.norm_num_groups,
        scale_shift=decoder,
        temporal=False,
    ), sizes.sample_size


def _check_blocks(place: Path, sizes: _Blocks, head: int) -> None:
    """Nothing; raises InputError for blocks that Karlo has not. No `head`: it has no attention."""
    kinds = [(_ATTENTION if there and head else _PLAIN) for there in sizes.attention]
    expected = [*(down for down, _ in kinds), *(up for _, up in reversed(kinds))]
    found = [*sizes.down_block_types, *sizes.up_block_types]
    if found != expected:
        raise _wrong(place, f"has the blocks {', '.join(found)}", ", ".join(expected))
    widths, divisors = sizes.block_out_channels, [sizes.norm_num_groups, head or 1]
    if len(widths) != len(kinds) or any(width % one for width in widths for one in divisors):
        problem = f"has block_out_channels {list(widths)}"
        raise _wrong(
            place,
            problem,
            f"{len(kinds)} multiples of norm_num_groups and attention_head_dim",
        )


def prior_config(folder: Path) -> PriorConfig:
    """Sizes of the prior.

    Raises:
        InputError: config.json is missing, damaged, or of another network.
    """
    sizes = _read(folder, _PRIOR, _Prior)
    return PriorConfig(
        sizes.num_attention_heads,
        sizes.attention_head_dim,
        sizes.num_layers,
        sizes.embedding_dim,
        sizes.num_embeddings,
    )


def text_proj_config(folder: Path) -> TextProjConfig:
    """Sizes of the projections in front of the decoder.

    Raises:
        InputError: config.json is missing, damaged, or of another network.
    """
    sizes = _read(folder, _TEXT_PROJ, _TextProj)
    dim = sizes.clip_embeddings_dim
    return TextProjConfig(
        dim, dim, sizes.time_embed_dim, sizes.cross_attention_dim, sizes.clip_extra_context_tokens
    )


def text_encoder_config(folder: Path) -> dict[str, Any]:
    """The config.json of a text encoder, which has a projection.

    Raises:
        InputError: it is missing, damaged, or of another network.
    """
    values = read_config(folder)
    _check(folder / "config.json", values, _TEXT_ENCODER)
    return values


def read_scheduler(folder: Path) -> Scheduler:
    """The scheduler_config.json of a folder.

    Raises:
        InputError: it is missing, damaged, or of another scheduler.
    """
    place = folder / "scheduler_config.json"
    values = read_json(place)
    _check(place, values, _SCHEDULER)
    return _converted(place, values, Scheduler)


def _read(folder: Path, fixed: Mapping[str, Any], kind: type[Made]) -> Made:
    """The sizes in a config.json whose other fields are `fixed`."""
    place, values = folder / "config.json", read_config(folder)
    _check(place, values, fixed)
    return _converted(place, values, kind)


def _check(place: Path, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Nothing; raises InputError for a field that is there with another value."""
    for field, expected in fixed.items():
        value = values.get(field, expected)
        if value != expected:
            raise _wrong(place, f"has {field} {value}", f"{field} {expected}")


def _converted(place: Path, values: Mapping[str, Any], kind: type[Made]) -> Made:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _wrong(
            place, f"cannot be used ({error})", "the fields that diffusers writes"
        ) from None


def _wrong(place: Path, problem: str, expected: str) -> InputError:
    return InputError(
        f"checkpoint: {place} {problem}; expected {expected}, as in karlo-v1-alpha. Check that "
        f"the folder is one that UnCLIPPipeline saved."
    )
