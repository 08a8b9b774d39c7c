"""Loads the parts of a diffusers folder that several systems have: autoencoder, text model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgereel_export import diffusers_folder
from edgereel_export.checkpoints import fill
from edgereel_export.modules.sd_config import SDVAEConfig
from edgereel_export.modules.sd_vae import SDVAE, modern_vae_keys

__all__ = ["read_text_encoder", "read_vae"]


def read_vae(folder: Path, *, scaling: float = 0.18215, channels: int = 4) -> SDVAE:
    """The autoencoder of a folder.

    Args:
        folder: of the whole pipeline.
        scaling: factor of the latents, for a config.json that does not say it.
        channels: that latents must have.

    Raises:
        InputError: it is missing, damaged or another one.
    """
    config, weights = diffusers_folder.component(folder, "vae")
    vae = SDVAE(SDVAEConfig.from_json({"scaling_factor": scaling, **config}, channels=channels))
    fill(vae, modern_vae_keys(weights), folder / "vae")
    return vae


def read_text_encoder(folder: Path) -> nn.Module:
    """CLIP's text model of a folder.

    Raises:
        InputError: it is missing, damaged or another one.
    """
    place = folder / "text_encoder"
    config, weights = diffusers_folder.component(folder, "text_encoder")
    model = diffusers_folder.clip_text_model(config, place)
    fill(model, weights, place)
    return model
