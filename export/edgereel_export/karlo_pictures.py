"""Reads what lets Karlo begin with pictures, as diffusers' UnCLIPImageVariationPipeline writes it.

    checkpoint/
      image_encoder/        CLIP's vision model with projection
      feature_extractor/    preprocessor_config.json: the size and the levels that it sees

Both come with kakaobrain/karlo-v1-alpha-image-variations; beside the folders of karlo_checkpoint.py
they give it modes that begin with pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from edgereel.errors import InputError
from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import fill, read_config, read_json, read_weights

__all__ = ["Sees", "read_sees"]

_Three = tuple[float, float, float]


@dataclass(frozen=True)
class Sees:
    """An image encoder: its model, the side of its pictures, mean and deviation of levels 0..1."""

    model: nn.Module
    size: int
    levels: tuple[_Three, _Three]


class _Extractor(msgspec.Struct):
    """The part of preprocessor_config.json that matters here; the defaults are transformers'."""

    image_mean: _Three = (0.48145466, 0.4578275, 0.40821073)
    image_std: _Three = (0.26862954, 0.26130258, 0.27577711)


def read_sees(checkpoint: Path, width: int) -> Sees | None:
    """The image encoder of a checkpoint, if it has one.

    Args:
        checkpoint: the top folder.
        width: of the image embeddings that the other networks know.

    Raises:
        InputError: a file is missing or damaged, or embeddings have another width.
    """
    folder = checkpoint / "image_encoder"
    if not folder.is_dir():
        return None
    config = read_config(folder)
    model: Any = diffusers_folder.described(
        lambda known: CLIPVisionModelWithProjection(CLIPVisionConfig(**known)),
        config,
        folder,
        "CLIP's vision model with projection",
    )
    if model.config.projection_dim != width:
        raise InputError(
            f"checkpoint: {folder} makes embeddings of {model.config.projection_dim} numbers; "
            f"expected {width}, which the decoder knows. Take both from one checkpoint."
        )
    place = checkpoint / "feature_extractor" / "preprocessor_config.json"
    try:
        seen = msgspec.convert(read_json(place), _Extractor)
    except msgspec.ValidationError as error:
        raise InputError(
            f"checkpoint: {place}: {error}; expected image_mean and image_std of three numbers. "
            f"Copy the checkpoint again."
        ) from None
    fill(model, read_weights(folder), folder)
    return Sees(model, int(model.config.image_size), (seen.image_mean, seen.image_std))
