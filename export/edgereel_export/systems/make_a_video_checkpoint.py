"""Checkpoints of Make-A-Video with stages of one's own.

One is a folder with `cascade.json` (a Profile) and one folder per stage, each with a config.json
and weights: text_encoder, prior, text_proj, decoder, interpolation, interpolation_text_proj,
super_res_low, super_res_high, and tokenizer/tokenizer.json; and perhaps image_encoder, a CLIP
vision model that sees levels of -1..1, for modes that begin with pictures. Something else may take
the place of super_res_high: make_a_video_x4.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from edgereel.errors import InputError
from edgereel_export.checkpoints import fill, read_config, read_weights
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.modules.prior import Prior, PriorConfig
from edgereel_export.modules.text_proj import TextProj, TextProjConfig
from edgereel_export.modules.unet import UNet, UNetConfig

from .make_a_video_high import High, Network
from .make_a_video_profile import Profile
from .make_a_video_sizes import drawn
from .make_a_video_x4 import read_high

__all__ = ["ENCODER", "Stages", "drawn_stages", "read_stages"]

Stages = tuple[Profile, dict[str, nn.Module], Tokens, High]
"""What the cascade says as a whole, networks by stage without the last, prompts, the last stage."""


def read_stages(checkpoint: Path, given: str | None = None) -> Stages:
    """The stages of a folder with a cascade.json, and the last one if another is given.

    Raises:
        InputError: a file is missing, damaged, or does not belong to this system.
    """
    path = checkpoint / "cascade.json"
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise InputError(
            f"checkpoint: {path} cannot be read ({error.strerror}); expected the top folder of a "
            f"Make-A-Video checkpoint, or of Karlo's with model_index.json. Correct --checkpoint."
        ) from None
    except msgspec.MsgspecError as error:
        raise InputError(f"checkpoint: {path}: {error}. Correct the file.") from None
    place = checkpoint / "tokenizer" / "tokenizer.json"
    if not place.is_file():
        raise InputError(f"checkpoint: {place} is missing. Copy the checkpoint again.")
    low = profile.size * profile.scale_low
    high = read_high(given, low, profile.scale_high) if given else None
    names = [n for n in _KINDS if n != _HIGH and (n != ENCODER or (checkpoint / n).is_dir())]
    networks = {name: _network(checkpoint / name, name) for name in names}
    pad = read_config(checkpoint / "text_encoder").get("pad_token_id", 0)
    text = place.read_text(encoding="utf-8")
    prior = networks["prior"]
    assert isinstance(prior, Prior)
    high = high or _own_high(_network(checkpoint / _HIGH, _HIGH), profile)
    return profile, networks, Tokens(text, prior.config.tokens, int(pad)), high


def drawn_stages(file: Path) -> Stages:
    """Stages of the sizes in a file, without values: see make_a_video_sizes.py."""
    profile, networks, tokens = drawn(file, _KINDS.keys() - {ENCODER}, _made)
    return profile, networks, tokens, _own_high(networks.pop(_HIGH), profile)


def _own_high(unet: nn.Module, profile: Profile) -> Network:
    """The checkpoint's own last stage."""
    assert isinstance(unet, UNet)
    return Network(
        profile.size * profile.scale_low,
        profile.scale_high,
        profile.chunk,
        unet=unet,
        prediction=profile.prediction,
        steps=profile.steps[_HIGH],
    )


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    model: nn.Module = CLIPTextModelWithProjection(CLIPTextConfig(**known))
    return model


def _image_encoder(config: dict[str, Any]) -> nn.Module:
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    model: nn.Module = CLIPVisionModelWithProjection(CLIPVisionConfig(**known))
    return model


ENCODER = "image_encoder"  # may be absent
_HIGH = "super_res_high"
_UNETS = ("decoder", "interpolation", "super_res_low", _HIGH)
_KINDS: dict[str, Any] = {
    "text_encoder": _text_encoder,
    ENCODER: _image_encoder,
    "prior": lambda config: Prior(PriorConfig(**config)),
    "text_proj": lambda config: TextProj(TextProjConfig(**config)),
    "interpolation_text_proj": lambda config: TextProj(TextProjConfig(**config)),
    **dict.fromkeys(_UNETS, lambda config: UNet(UNetConfig.from_json(config))),
}


def _network(folder: Path, name: str) -> nn.Module:
    """One stage, its weights loaded."""
    module = _made(name, read_config(folder), folder / "config.json")
    fill(module, read_weights(folder), folder)
    return module


def _made(name: str, config: dict[str, Any], place: Path) -> nn.Module:
    """One stage of the sizes that a file says."""
    try:
        module = _KINDS[name](config)
    except Exception as error:  # torch and transformers raise many kinds for impossible sizes
        raise InputError(
            f"checkpoint: {place} does not describe a {name} "
            f"({' '.join(str(error).split()):.200}); expected the sizes of its weights. Check that "
            f"it belongs to this system."
        ) from None
    assert isinstance(module, nn.Module)
    return module
