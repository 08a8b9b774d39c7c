"""Make-A-Video's networks in sizes that a file gives, with drawn weights: what they cost.

A JSON file takes the place of a checkpoint: {"cascade": {...}, "prior": {...}, "decoder": {...}}
holds its cascade.json and, by stage, what the config.json files have. Texts become tokens as in the
`shapes` cascade; to such networks they mean nothing anyway.

make_a_video_published.json has 9.53 B parameters in five networks; the published cascade has 9.6 B.
Its layers are unpublished, those of DALL-E 2, whose kind they are, are in Table 3 of
arXiv:2204.06125: from there are the prior, the decoder's widths and attention, both
super-resolutions and the steps. Chosen: that interpolation is as large as the decoder, and four
residual blocks per level in both in place of three, which gives 3.59 B instead of 2.92 B. Of the
3.5 B of DALL-E 2's decoder about 1.2 B are GLIDE's transformer for texts (arXiv:2112.10741);
Make-A-Video's is told no text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgereel.errors import InputError
from edgereel_export import drawn_weights
from edgereel_export.checkpoints import read_json
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.modules.layers import TimestepEmbedding
from edgereel_export.modules.prior import Prior
from edgereel_export.modules.unet import UNet
from edgereel_export.shapes.networks import CHECKPOINT

from .make_a_video_profile import Profile

__all__ = ["drawn"]

_SMALL = ("text_encoder", "text_proj", "interpolation_text_proj")  # these have values at once

Make = Callable[[str, dict[str, Any], Path], nn.Module]


def drawn(
    path: Path, names: Collection[str], make: Make
) -> tuple[Profile, dict[str, nn.Module], Tokens]:
    """What a checkpoint would have been read as; equal files give equal weights.

    Args:
        path: of the file.
        names: of the stages that it must describe.
        make: a stage of its name, its config, and the file to name where they do not fit.

    Raises:
        InputError: it is no such file.
    """
    fields = [("cascade", Profile), *((name, dict[str, Any]) for name in names)]
    kind = msgspec.defstruct("Sizes", fields, forbid_unknown_fields=True)
    try:
        sizes: Any = msgspec.convert(read_json(path), kind)
    except msgspec.ValidationError as error:
        raise InputError(
            f"checkpoint: {path} does not say the sizes of Make-A-Video ({error}); expected JSON "
            f"like that of --size published. Copy that file and change it, or give a checkpoint "
            f"folder."
        ) from None
    configs = {name: getattr(sizes, name) for name in names}
    networks = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, config in configs.items():
            with torch.device("cpu" if name in _SMALL else "meta"):
                networks[name] = make(name, config, path).eval().requires_grad_(False)
            if name not in _SMALL:
                drawn_weights.name_weights(networks[name], f"{name}.{{}}".format)
                _fill_told(networks[name])
    text = (CHECKPOINT / "tokenizer" / "tokenizer.json").read_text("utf-8")
    pad = int(configs["text_encoder"].get("pad_token_id", 0))
    return sizes.cascade, networks, Tokens(text, int(configs["prior"].get("tokens", 77)), pad)


def _fill_told(module: nn.Module) -> None:
    """Gives values to the few parameters that graphs of conditions take from a large network."""
    if isinstance(module, Prior):
        dim = module.config.embedding_dim
        module.clip_mean = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        module.clip_std = nn.Parameter(torch.ones(1, dim), requires_grad=False)
    if isinstance(module, UNet) and module.fps_embedding is not None:
        told = module.fps_embedding
        module.fps_embedding = TimestepEmbedding(told.width, told.linear_1.out_features)
