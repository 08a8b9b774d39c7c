"""Emu Video's networks in sizes that a file gives, with drawn weights: to measure what they cost.

A JSON file takes the place of a checkpoint. It holds what emu_checkpoint.py's layout has in
config.json and scheduler_config.json files, by folder, and lists the networks over frames:

    {"unet": {...}, "vae": {...}, "text_encoder": {...}, "text_encoder_2": {...},
     "scheduler": {...}, "video_scheduler": {...}, "networks": ["video", "interpolation"]}

Texts become tokens as in the `shapes` cascade; to such networks they mean nothing anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgereel.errors import InputError
from edgereel_export import drawn_weights
from edgereel_export.checkpoints import read_json
from edgereel_export.diffusers_folder import SchedulerConfig, Tokens, clip_text_model
from edgereel_export.emu_checkpoint import (
    LENGTH,
    Encoded,
    Network,
    Parts,
    check_widths,
    t5_encoder,
)
from edgereel_export.modules.emu_config import EmuConfig, from_json
from edgereel_export.modules.emu_unet import EmuUNet, is_own
from edgereel_export.modules.sd_config import SDVAEConfig
from edgereel_export.modules.sd_vae import SDVAE
from edgereel_export.shapes.networks import CHECKPOINT

__all__ = ["Sizes", "make", "read_sizes"]

_TOKENIZER = CHECKPOINT / "tokenizer" / "tokenizer.json"


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says; see above."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    text_encoder_2: dict[str, Any] | None = None
    scheduler: SchedulerConfig
    video_scheduler: SchedulerConfig
    networks: tuple[Network, ...]


def read_sizes(path: Path) -> Sizes:
    """The sizes in a file.

    Raises:
        InputError: it is no such file.
    """
    try:
        return msgspec.convert(read_json(path), Sizes)
    except msgspec.ValidationError as error:
        raise InputError(
            f"checkpoint: {path} does not say the sizes of Emu Video ({error}); expected JSON like "
            f"that of --size published. Copy that file and change it, or give a checkpoint folder."
        ) from None


def make(path: Path, wanted: Collection[Network]) -> Parts:
    """The parts that a file of sizes describes; equal files give equal weights.

    Args:
        path: of the file.
        wanted: networks over frames.

    Raises:
        InputError: it describes none, or parts that do not fit each other.
    """
    sizes = read_sizes(path)
    config = from_json(sizes.unet)
    unets: dict[Network, EmuUNet] = {"image": _drawn(config, "image")}
    unets |= {name: _drawn(config, name) for name in wanted}
    with torch.random.fork_rng(devices=[]):  # these are small, and have buffers with values
        torch.manual_seed(0)
        vae = SDVAE(SDVAEConfig.from_json(sizes.vae, channels=config.latent_channels))
        encoders = {"": _encoded(clip_text_model(sizes.text_encoder, path))}
    if len(config.cross_attention_dims) == 2:
        with torch.device("meta"):
            t5 = t5_encoder(sizes.text_encoder_2 or {}, path)
        drawn_weights.name_weights(t5, "text_encoder_2.{}".format)
        encoders["_2"] = _encoded(t5)
    check_widths(encoders, config, path)
    return Parts(
        config=config,
        unets=unets,
        vae=vae.eval().requires_grad_(False),
        encoders=encoders,
        image=sizes.scheduler,
        video=sizes.video_scheduler,
    )


def _drawn(config: EmuConfig, name: Network) -> EmuUNet:
    """A network; its spatial layers are those of the image network."""
    with torch.device("meta"):
        unet = EmuUNet(config, temporal=name != "image").eval().requires_grad_(False)
    drawn_weights.name_weights(unet, lambda key: f"{name if is_own(key) else 'image'}.{key}")
    return unet


def _encoded(model: nn.Module) -> Encoded:
    """A text encoder with the tokenizer of the `shapes` cascade."""
    config: Any = model.config
    width = getattr(config, "d_model", None) or config.hidden_size
    tokens = Tokens(_TOKENIZER.read_text("utf-8"), LENGTH, 0)
    return Encoded(model=model.eval().requires_grad_(False), tokens=tokens, width=int(width))
