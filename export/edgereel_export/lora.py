"""LoRA files, merged into the weights of a Stable Diffusion checkpoint before it is exported.

A layer's weight W becomes W + scale * alpha / rank * up @ down (Hu et al. 2021, arXiv:2106.09685;
rsLoRA, arXiv:2312.03732, divides by the root of the rank). alpha is the layer's own `.alpha`, or
what PEFT or diffusers wrote about all layers; without either it is the rank, as diffusers and
kohya's scripts read it. lora_names.py knows how files name the layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from safetensors import safe_open
from torch import Tensor

from edgereel.errors import InputError
from edgereel_export.checkpoints import read_json, read_tensors
from edgereel_export.lora_names import Layer, base_model, layers, listed, underscored

__all__ = ["merge"]

State: TypeAlias = Mapping[str, Tensor]

_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)


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
    path = _file(path)
    found = layers(path, read_tensors(path))
    told = _told(path, found)
    merged = {"unet": dict(unet), "text_encoder": dict(text_encoder)}
    for network, key, layer in _matched(path, found, merged):
        weight = merged[network][key]
        delta = layer.up.float().flatten(1) @ layer.down.float().flatten(1)
        factor = scale * told.get(network, _NOTHING).factor(layer, key)
        merged[network][key] = (weight + factor * delta.reshape(weight.shape)).to(weight.dtype)
    return merged["unet"], merged["text_encoder"]


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is written about all layers of a network; the fields are those of PEFT's LoraConfig."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        if self.use_dora:
            raise ValueError("use_dora is true, and a DoRA is no plain LoRA; expected false")
        for pattern in self.alpha_pattern:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"alpha_pattern {pattern!r} is no pattern ({error})") from None

    def factor(self, layer: Layer, key: str) -> float:
        """What up @ down is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
        root = layer.rank**0.5 if self.use_rslora else layer.rank
        if layer.alpha is not None:
            return float(layer.alpha) / root
        name = key.removeprefix("text_model.").removesuffix(".weight")
        for pattern, alpha in self.alpha_pattern.items():
            whole = re.compile(rf"(.*\.)?({pattern})")  # as PEFT: any end that starts after a dot
            if whole.fullmatch(name) or whole.fullmatch(f"text_model.{name}"):
                return alpha / root
        return 1.0 if self.lora_alpha is None else self.lora_alpha / root


_NOTHING = _Told()


def _file(path: Path) -> Path:
    """The LoRA file at a path, which may be a folder."""
    places = [path, *(path / name for name in _NAMES)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"LoRA: {path} is no file, nor a folder with one; expected a .safetensors file, or a "
        f"folder with one of {', '.join(_NAMES)}. Correct the path."
    )


def _told(path: Path, found: list[Layer]) -> dict[str, _Told]:
    """What is written about the layers, by network: beside PEFT's files, inside diffusers'."""
    beside = path.parent / "adapter_config.json"
    try:
        if any(layer.key.startswith("base_model.") for layer in found):
            if beside.is_file():
                fields = read_json(beside)
                return msgspec.convert({"unet": fields, "text_encoder": fields}, dict[str, _Told])
            if any(layer.alpha is None for layer in found):
                raise InputError(
                    f"LoRA: {beside} is missing; expected it beside the file of an adapter of "
                    f"PEFT, because it tells the strength. Copy both."
                )
        if path.suffix != ".safetensors":
            return {}
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
        return msgspec.convert(_by_network(header), dict[str, _Told])
    except msgspec.DecodeError as error:
        raise InputError(
            f"LoRA: what is written about the layers of {path} cannot be used ({error}); expected "
            f"the settings of a plain LoRA as PEFT writes them. Merge it into the checkpoint with "
            f"the tool that made it, or choose another."
        ) from None


def _by_network(header: str) -> dict[str, dict[str, Any]]:
    """The fields in diffusers' header, whose keys are `unet.lora_alpha` and so on, by network."""
    values: dict[str, dict[str, Any]] = {}
    for key, value in msgspec.json.decode(header, type=dict[str, Any]).items():
        network, _, field = key.partition(".")
        values.setdefault(network, {})[field] = value
    return values


def _matched(
    path: Path, found: list[Layer], states: Mapping[str, State]
) -> list[tuple[str, str, Layer]]:
    """Each layer with the network and key of its weight; all of them fit, or InputError."""
    places = {network: _places(state) for network, state in states.items()}
    matched = [(*_place(layer, places), layer) for layer in found]
    problems = [
        (layer.key, layer.misfit(states[network][key]) if key else "is not there")
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
