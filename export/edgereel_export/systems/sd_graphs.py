"""Graphs that systems over Stable Diffusion share, with example inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgereel_export.graph import Graph
from edgereel_export.modules.sd_glue import LatentPictures, TextStates
from edgereel_export.modules.sd_vae import SDVAE
from edgereel_export.step import Prediction, StepConfig, step_graph

from .examples import ids, randn

__all__ = ["EXAMPLE", "IMAGE", "PICTURE", "decode_graph", "sd_step", "text_graph"]

EXAMPLE = 3, 16, 24  # frames, latent height and width of the example inputs
IMAGE = {2: "h", 3: "w"}  # free axes of latents
PICTURE = {0: "K", 1: "H", 2: "W"}


def text_graph(model: nn.Module, length: int) -> Graph:
    """A text encoder: ids to states."""
    free = {"ids": {0: "G"}, "states": {0: "G"}}
    return Graph(TextStates(model), {"ids": ids(2, length)}, ("states",), free)


def decode_graph(
    vae: SDVAE,
    *,
    rounded: bool = False,
    sides: Mapping[int, str] = IMAGE,
    large: Mapping[int, str] = PICTURE,
) -> Graph:
    """Latents to pictures.

    Args:
        vae: the autoencoder.
        rounded: see LatentPictures.
        sides: names of the latents' height and width.
        large: names of the pictures' axes.
    """
    free = {"x": {0: "K", **sides}, "frames": large}
    example = {"x": randn(2, vae.config.latent_channels, *EXAMPLE[1:])}
    return Graph(LatentPictures(vae, rounded=rounded), example, ("frames",), free)


def sd_step(
    network: nn.Module,
    prediction: Prediction,
    conditions: Mapping[str, Tensor],
    free: Mapping[str, Mapping[int, str]],
) -> Graph:
    """The denoise graph of a network on latents, which are never clipped; states are per row."""
    shape = (EXAMPLE[0], 4, *EXAMPLE[1:])
    free = {"states": {0: "G"}, **free}
    return step_graph(network, StepConfig(prediction), shape, conditions, free)
