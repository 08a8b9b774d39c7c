"""Reads a checkpoint of Emu Video, for which nobody has published a layout; this is ours.

    checkpoint/
      model_index.json     as diffusers writes it for a text-to-image model, with
      unet/  vae/  text_encoder/  tokenizer/  scheduler/
      text_encoder_2/      T5's encoder, and tokenizer_2/tokenizer.json, where the config.json of
      tokenizer_2/         the UNet has two entries of cross_attention_dim
      video_scheduler/     scheduler_config.json of the networks over frames
      video/               these three: the layers over frames and conv_in, in a file
      interpolation/       diffusion_pytorch_model.safetensors, with the names of emu_unet.py
      extension/

Each of the last three may be missing. Their spatial layers are the text-to-image model's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from edgereel.errors import InputError
from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import fill, read_config, read_weights
from edgereel_export.diffusers_folder import SchedulerConfig, Tokens
from edgereel_export.diffusers_parts import read_text_encoder, read_vae
from edgereel_export.modules.emu_config import EmuConfig, from_json
from edgereel_export.modules.emu_unet import EmuUNet, is_own
from edgereel_export.modules.sd_vae import SDVAE

__all__ = [
    "LENGTH",
    "NETWORKS",
    "Encoded",
    "Network",
    "Parts",
    "check_widths",
    "networks",
    "read",
    "t5_encoder",
]

Network = Literal["image", "video", "interpolation", "extension"]
NETWORKS: tuple[Network, ...] = ("video", "interpolation", "extension")
LENGTH = 77  # tokens of a text for T5, which the paper does not say


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A text encoder, ids to states, and its tokenizer."""

    model: nn.Module
    tokens: Tokens
    width: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a checkpoint holds; `unets` by network, "image" among them."""

    config: EmuConfig
    unets: Mapping[Network, EmuUNet]
    vae: SDVAE
    encoders: Mapping[str, Encoded]  # by the end of its names: "" and perhaps "_2"
    image: SchedulerConfig
    video: SchedulerConfig | None


def networks(checkpoint: Path) -> tuple[Network, ...]:
    """The networks over frames that a checkpoint has."""
    return tuple(name for name in NETWORKS if (checkpoint / name).is_dir())


def read(checkpoint: Path, wanted: Collection[Network]) -> Parts:
    """The parts of a checkpoint, of its networks over frames those that are wanted.

    Raises:
        InputError: one is missing, damaged, or does not fit the others.
    """
    diffusers_folder.check_text_to_image(checkpoint)
    sizes, spatial = diffusers_folder.component(checkpoint, "unet")
    config = from_json(sizes)
    unets: dict[Network, EmuUNet] = {"image": EmuUNet(config, temporal=False)}
    fill(unets["image"], spatial, checkpoint / "unet")
    kept = {key: value for key, value in spatial.items() if not is_own(key)}
    for name in sorted(wanted):
        unets[name] = EmuUNet(config)
        fill(unets[name], kept | _own(checkpoint / name), checkpoint / name)
    encoders = {"": _clip(checkpoint)}
    if len(config.cross_attention_dims) == 2:
        encoders["_2"] = _t5(checkpoint)
    check_widths(encoders, config, checkpoint)
    return Parts(
        config=config,
        unets=unets,
        vae=read_vae(checkpoint, channels=config.latent_channels),
        encoders=encoders,
        image=diffusers_folder.scheduler(checkpoint),
        video=diffusers_folder.scheduler(checkpoint, "video_scheduler") if wanted else None,
    )


def check_widths(encoders: Mapping[str, Encoded], config: EmuConfig, source: Path) -> None:
    """Checks that the text encoders read from `source` give what the networks take.

    Raises:
        InputError: one does not.
    """
    for (end, encoder), width in zip(encoders.items(), config.cross_attention_dims, strict=True):
        if encoder.width != width:
            raise InputError(
                f"checkpoint: text_encoder{end} of {source} gives states of width {encoder.width}; "
                f"expected {width}, as the UNet's cross_attention_dim says. Take both from one "
                f"source."
            )


def _own(folder: Path) -> dict[str, Tensor]:
    """The layers over frames in a folder, and conv_in, in float32."""
    weights = read_weights(folder)
    surplus = [key for key in weights if not is_own(key)]
    if surplus:
        raise InputError(
            f"checkpoint: {folder} has {surplus[0]}, which the UNet has already; expected conv_in "
            f"and the layers over frames only, as the others stay those of the text-to-image "
            f"model. Save those alone."
        )
    return {key: value.float() for key, value in weights.items()}


def _clip(checkpoint: Path) -> Encoded:
    width = int(read_config(checkpoint / "text_encoder").get("hidden_size", 512))
    model, tokens = read_text_encoder(checkpoint), diffusers_folder.tokenizer(checkpoint)
    return Encoded(model=model, tokens=tokens, width=width)


def _t5(checkpoint: Path) -> Encoded:
    """T5's encoder, whose tokenizer ends a text with a token of its own."""
    place = checkpoint / "text_encoder_2"
    config, weights = diffusers_folder.component(checkpoint, "text_encoder_2")
    model = t5_encoder(config, place)
    shared = weights.get("shared.weight", weights.get("encoder.embed_tokens.weight"))
    if shared is not None:  # one table under two names, of which files have either
        weights |= {"shared.weight": shared, "encoder.embed_tokens.weight": shared}
    weights = {k: v for k, v in weights.items() if not k.startswith(("decoder.", "lm_head."))}
    fill(model, weights, place)
    path = checkpoint / "tokenizer_2" / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"checkpoint: {path} is missing; expected T5's tokenizer, as `tokenizers` saves it. "
            f"Write it with transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained."
        )
    pad_id = model.config.pad_token_id or 0
    tokens = Tokens(path.read_text("utf-8"), LENGTH, pad_id)
    return Encoded(model=model, tokens=tokens, width=int(model.config.d_model))


def t5_encoder(config: Mapping[str, Any], place: Path) -> T5EncoderModel:
    """T5's encoder of a config.json that was read from `place`, without weights.

    Raises:
        InputError: no such model can be made.
    """
    return diffusers_folder.described(
        lambda known: T5EncoderModel(T5Config(**known)), config, place, "a T5 encoder"
    )
