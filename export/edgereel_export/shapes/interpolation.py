"""The training of ↑F of the `shapes` cascade: which frames it is given, and what it is told.

It is fine-tuned from D^t to fill in between every fifth frame, and then once more, for all that it
can be asked for: other distances, what comes before or after some frames, a picture, two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from .conditions import SHIFTED, Encoders, conditions
from .data import Data
from .losses import Component, denoise_loss, frozen, trained
from .networks import CHECKPOINT, build
from .world import FRAMES, draw

__all__ = ["given_component", "interpolation_component"]

_NAMES = ("interpolation", "interpolation_text_proj")
_PAST = 16  # frames that a video is extended from


def _mostly_between(data: Data) -> Tensor:
    """bool [F]: which frames a clip is given (1 = given); most are every fifth of all."""
    kind, skip = data.rng.random(), int(data.rng.integers(2, 6))
    frames = FRAMES if kind < 0.6 else 15 * skip + 1
    known = torch.zeros(frames, dtype=torch.bool)
    if kind < 0.8:
        known[:: 5 if kind < 0.6 else skip] = True
    elif kind < 0.9:
        count = int(data.rng.integers(1, frames // 2))
        known[:count] = True
        known = known.flip(0) if data.rng.random() < 0.5 else known
    else:
        known[0] = known[-1] = True
    return known


def _varied(data: Data) -> Tensor:
    """bool [F]: which frames a clip is given: some between, first or last ones, one, two."""
    kind, skip = data.rng.random(), int(data.rng.integers(2, 6))
    longer = max(skip, int(data.rng.integers(3, 6)))  # what is far from the given is the hardest
    frames = 15 * (5 if kind < 0.1 else skip if kind < 0.18 else longer) + 1
    known = torch.zeros(frames, dtype=torch.bool)
    if kind < 0.18:
        known[:: 5 if kind < 0.1 else skip] = True
    elif kind < 0.58:
        known[:_PAST] = True
        known = known.flip(0) if kind < 0.38 else known
    elif kind < 0.93:
        known[0] = True
    else:
        known[0] = known[-1] = True
    return known


def _component(
    modules: nn.ModuleDict,
    mask: Callable[[Data], Tensor],
    rate: float,
    silent: float = 0.0,
    given_seen: float = 0.0,
) -> Component:
    """The component that is given the frames of `mask`, a little noisy, as generated ones are.

    Args:
        modules: ↑F and its projection.
        mask: draws which frames are given.
        rate: of learning.
        silent: share of rows that are told no text.
        given_seen: share of batches that are told the image embedding of the given frames, as the
            modes do. That of another frame shows where a shape goes.
    """
    encoders: Encoders = frozen("text_encoder"), frozen("image_encoder")
    unet: Any = modules["interpolation"]

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        known = mask(data)
        count = 2 * FRAMES // len(known)
        batch = data.scenes(count, data.fps(count, progress))
        x0 = draw(batch[0], torch.arange(len(known)).float(), 16, 4)
        given = known.float().view(1, 1, -1, 1, 1).expand(count, 1, -1, *x0.shape[3:])
        blur = data.uniform(count, 1, 1, 1, 1) * 0.05
        masked = (x0 + blur * torch.randn_like(x0)).clamp(-1, 1) * given
        extra = torch.cat([masked, 1 - given], 1)
        seen = known.nonzero()[:, 0].float() if data.rng.random() < given_seen else None
        told = conditions(data, modules, encoders, batch, _NAMES, silent, seen)
        return denoise_loss(
            data, x0, lambda x, t: unet(torch.cat([x, extra], 1), t, **told), 0.6, SHIFTED
        )

    return Component(modules, loss, rate)


def interpolation_component() -> Component:
    """↑F, fine-tuned from D^t: masked frames and mask as four more input channels."""
    modules = nn.ModuleDict({name: build(name) for name in _NAMES})
    state = load_file(CHECKPOINT / "decoder" / "model.safetensors")
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, 4))
    modules["interpolation"].load_state_dict(state)
    modules["interpolation_text_proj"].load_state_dict(
        load_file(CHECKPOINT / "text_proj" / "model.safetensors")
    )
    return _component(modules, _mostly_between, 5e-4)


def given_component() -> Component:
    """↑F once more, given frames of every kind; half of the rows are told no text."""
    modules = nn.ModuleDict({name: trained(name) for name in _NAMES})
    return _component(modules, _varied, 5e-4, silent=0.5, given_seen=0.8)
