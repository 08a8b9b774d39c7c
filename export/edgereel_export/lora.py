"""LoRA files, merged into the weights of a Stable Diffusion checkpoint before it is exported.

What a file adds to them is worked out by the runtime's lora.py, which adds it to engines too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from edgereel.errors import InputError
from edgereel.lora import NOTHING, delta, lora_file, told
from edgereel.lora_names import Layer, base_model, layers, listed, underscored
from edgereel_export.checkpoints import read_tensors

__all__ = ["merge"]

State: TypeAlias = Mapping[str, Tensor]


def merge(
    path: Path, unet: State, text_encoder: State, scale: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states of a UNet and of a text encoder with a LoRA merged in; the given ones stay.

    Untouched tensors are shared with the given states. Sums are formed in float32.

    Args:
        path: a LoRA file, or a folder with one as diffusers and PEFT write it.
        unet: weights by the keys of diffusers' UNet2DConditionModel.
        text_encoder: weights by the keys of transformers' CLIPTextModel, of any version.
        scale: how much of the LoRA; 1 is as it was trained, negative takes it away.

    Raises:
        InputError: the file is missing, damaged or no LoRA, or any of its layers does not fit.
    """
    path = lora_file(path)
    tensors = {key: value.float().numpy() for key, value in read_tensors(path).items()}
    found = layers(path, tensors)
    factors = told(path, found)
    merged = {"unet": dict(unet), "text_encoder": dict(text_encoder)}
    for network, key, layer in _matched(path, found, merged):
        weight = merged[network][key]
        factor = scale * factors.get(network, NOTHING).factor(layer, key)
        added = torch.from_numpy(delta(layer, factor)).reshape(weight.shape)
        merged[network][key] = (weight + added).to(weight.dtype)
    return merged["unet"], merged["text_encoder"]


def _matched(
    path: Path, found: list[Layer], states: Mapping[str, State]
) -> list[tuple[str, str, Layer]]:
    """Each layer with the network and key of its weight; all of them fit, or InputError."""
    places = {network: _places(state) for network, state in states.items()}
    matched = [(*_place(layer, places), layer) for layer in found]
    problems = [
        (layer.key, layer.misfit(tuple(states[network][key].shape)) if key else "is not there")
        for network, key, layer in matched
    ]
    misfits = [f"{key} {problem}" for key, problem in problems if problem]
    if misfits:
        other = base_model(found)
        instead = f", not for {other}" if other else ""
        raise InputError(
            f"LoRA: {path} does not fit the checkpoint in {len(misfits)} of its {len(found)} "
            f"layers ({listed(misfits)}); expected one for Stable Diffusion 1.x{instead}. "
            f"Choose a LoRA that was trained for this model."
        )
    return matched


def _places(state: State) -> dict[str, str]:
    """The key of each weight by the name of its module, with underscores."""
    keys = (key for key in state if key.endswith(".weight"))
    return {underscored(key.removesuffix(".weight")): key for key in keys}


def _place(layer: Layer, places: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """(network, key) of the weight that a layer belongs to; the key is '' if there is none."""
    for network in [layer.network] if layer.network else places:
        if layer.name in places[network]:
            return network, places[network][layer.name]
    return "", ""
