"""Reads Karlo (kakaobrain/karlo-v1-alpha) as diffusers' UnCLIPPipeline writes it.

    checkpoint/
      model_index.json                     the class of every part
      tokenizer/  text_encoder/            CLIP's text model with projection
      prior/                               config.json and weights, as of all that follow
      text_proj/  decoder/                 64 x 64 pixels
      super_res_first/  super_res_last/    all steps but the last, and the last
      prior_scheduler/  decoder_scheduler/  super_res_scheduler/

It draws pictures; karlo_temporal.py has what makes its networks draw videos, karlo_pictures.py
what lets them begin with pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from edgereel.errors import InputError
from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import fill, read_weights
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.karlo_config import (
    Scheduler,
    prior_config,
    read_scheduler,
    text_encoder_config,
    text_proj_config,
    unet_config,
)
from edgereel_export.karlo_pictures import Sees, read_sees
from edgereel_export.modules.prior import Prior
from edgereel_export.modules.text_proj import TextProj
from edgereel_export.modules.unet import UNet

__all__ = ["UNETS", "Karlo", "is_karlo", "read"]

UNETS = ("decoder", "super_res_first", "super_res_last")
_PARTS = {  # folder: start of the class that model_index.json gives for it
    "prior": "PriorTransformer",
    "decoder": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModelWithProjection",
    "tokenizer": "CLIPTokenizer",
    "text_proj": "UnCLIPTextProjModel",
    "super_res_first": "UNet2DModel",
    "super_res_last": "UNet2DModel",
    **dict.fromkeys(
        ("prior_scheduler", "decoder_scheduler", "super_res_scheduler"), "UnCLIPScheduler"
    ),
}
_EXPECTED = "expected a diffusers folder of Karlo (UnCLIPPipeline), with model_index.json"


@dataclass(frozen=True, kw_only=True)
class Karlo:
    """The parts of a checkpoint.

    unets: by name of UNETS, without layers over frames. size: side of the decoder's pictures in
    pixels. scale: of super-resolution. schedulers: of prior, decoder and super_res. sees: the image
    encoder, if there is one.
    """

    text_encoder: nn.Module
    tokens: Tokens
    prior: Prior
    text_proj: TextProj
    unets: Mapping[str, UNet]
    size: int
    scale: int
    schedulers: Mapping[str, Scheduler]
    sees: Sees | None


def is_karlo(checkpoint: Path) -> bool:
    """Whether a folder is to be read by this module: diffusers wrote it."""
    return (checkpoint / "model_index.json").is_file()


def read(checkpoint: Path) -> Karlo:
    """The parts of a checkpoint.

    Raises:
        InputError: one is missing, damaged, or does not fit the others.
    """
    diffusers_folder.check_parts(checkpoint, "UnCLIPPipeline", _PARTS, _EXPECTED)
    schedulers = {
        name: read_scheduler(checkpoint / f"{name}_scheduler")
        for name in ("prior", "decoder", "super_res")
    }
    _check_schedulers(schedulers, checkpoint)
    configs = {name: unet_config(checkpoint / name) for name in UNETS}
    size, large, other = (configs[name][1] for name in UNETS)
    if large % size or other != large:
        raise InputError(
            f"checkpoint: {checkpoint} has pictures of {size}, {large} and {other} pixels "
            f"(sample_size of {', '.join(UNETS)}); expected the last two equal, and a multiple of "
            f"the first. Take all folders from one checkpoint."
        )
    prior = Prior(prior_config(checkpoint / "prior"))
    tokens = diffusers_folder.tokenizer(checkpoint)
    if tokens.length != prior.config.tokens:
        raise InputError(
            f"checkpoint: texts in {checkpoint} have {tokens.length} tokens by the tokenizer and "
            f"{prior.config.tokens} by the prior's num_embeddings; expected one number. Take both "
            f"from one checkpoint."
        )
    modules: dict[str, nn.Module] = {
        "prior": prior,
        "text_proj": TextProj(text_proj_config(checkpoint / "text_proj")),
        "text_encoder": _text_encoder(checkpoint / "text_encoder"),
    }
    unets = {name: UNet(config) for name, (config, _) in configs.items()}
    for name, module in (modules | unets).items():
        fill(module, read_weights(checkpoint / name), checkpoint / name)
    proj = modules["text_proj"]
    assert isinstance(proj, TextProj)
    return Karlo(
        text_encoder=modules["text_encoder"],
        tokens=tokens,
        prior=prior,
        text_proj=proj,
        unets=unets,
        size=size,
        scale=large // size,
        schedulers=schedulers,
        sees=read_sees(checkpoint, proj.config.clip_embeddings_dim),
    )


def _text_encoder(folder: Path) -> nn.Module:
    model: nn.Module = diffusers_folder.described(
        lambda known: CLIPTextModelWithProjection(CLIPTextConfig(**known)),
        text_encoder_config(folder),
        folder,
        "CLIP's text model with projection",
    )
    return model


def _check_schedulers(schedulers: Mapping[str, Scheduler], checkpoint: Path) -> None:
    """Nothing; raises InputError for a variance that a network does not predict, or does."""
    for name, scheduler in schedulers.items():
        expected = "learned_range" if name == "decoder" else "fixed_small_log"
        if scheduler.variance_type != expected:
            raise InputError(
                f"checkpoint: {checkpoint / f'{name}_scheduler'} has variance_type "
                f"{scheduler.variance_type}; expected {expected}, which the network was trained "
                f"for. Take all folders from one checkpoint."
            )
