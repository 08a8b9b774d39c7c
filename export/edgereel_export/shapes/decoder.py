"""The training of D^t of the `shapes` cascade: stills, clips, and then all that it can be told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conditions import SHIFTED, Encoders, conditions
from .data import Data
from .losses import Component, denoise_loss, frozen, trained
from .networks import build
from .world import FRAMES, draw

__all__ = ["decoder_component", "told_component"]

_NAMES = ("decoder", "text_proj")
_KNOWN = torch.arange(0, FRAMES, 5).float()  # frames of the 76 that D^t draws


def decoder_component() -> Component:
    """D^t: stills first, then 16-frame clips at a frame rate told to the network."""
    modules = nn.ModuleDict({name: build(name) for name in _NAMES})
    encoders: Encoders = frozen("text_encoder"), frozen("image_encoder")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count = 8 if clips else 64
        batch = data.scenes(count, data.fps(count, progress) if clips else None)
        frames = _KNOWN if clips else data.uniform(count, 1) * (FRAMES - 1)
        told = conditions(data, modules, encoders, batch, _NAMES)
        return _loss(data, modules, draw(batch[0], frames, 16, 4), told, 0.6 if clips else 1.0)

    return Component(modules, loss)


def told_component() -> Component:
    """D^t once more, at all frame rates alike; a share of the rows is told no text.

    Half of the batches are told the mean image embedding of many frames, as of a given video.
    """
    modules = nn.ModuleDict({name: trained(name) for name in _NAMES})
    encoders: Encoders = frozen("text_encoder"), frozen("image_encoder")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        batch = data.scenes(8)
        seen = _looked_at(data) if data.rng.random() < 0.5 else None
        told = conditions(data, modules, encoders, batch, _NAMES, silent=0.3, seen=seen)
        return _loss(data, modules, draw(batch[0], _KNOWN, 16, 4), told, 0.6)

    return Component(modules, loss, 5e-4)


def _loss(
    data: Data, modules: nn.ModuleDict, x0: Tensor, told: dict[str, Tensor], power: float
) -> Tensor:
    unet = modules["decoder"]
    return denoise_loss(data, x0, lambda x, t: unet(x, t, **told), power, SHIFTED)


def _looked_at(data: Data) -> Tensor:
    """f32 [16]: frames of a given video that mode `variation` looks at, evenly apart."""
    stride = int(data.rng.integers(1, 6))
    return data.integers(FRAMES - 15 * stride, 1) + stride * torch.arange(16.0)
