"""What a LoRA adds to the weights of Stable Diffusion's layers.

A layer's weight W becomes W + scale * alpha / rank * up @ down (Hu et al. 2021, arXiv:2106.09685;
rsLoRA, arXiv:2312.03732, divides by the root of the rank). alpha is the layer's own `.alpha`, or
what PEFT or diffusers wrote about all layers; without either it is the rank, as diffusers and
kohya's scripts read it. lora_names.py knows how files name the layers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError
from edgereel.lora_names import Layer
from edgereel.tensor_files import read_metadata

__all__ = ["NOTHING", "Told", "delta", "lora_file", "told"]

_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)


def delta(layer: Layer, factor: float) -> NDArray[np.float32]:
    """f32 [out, in * …]: what is added to a weight, whose shape it may need."""
    up, down = (part.reshape(len(part), -1).astype(np.float32) for part in (layer.up, layer.down))
    product: NDArray[np.float32] = np.float32(factor) * (up @ down)
    return product


class Told(msgspec.Struct, frozen=True, kw_only=True):
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


NOTHING = Told()


def lora_file(path: Path) -> Path:
    """The LoRA file at a path, which may be a folder."""
    places = [path, *(path / name for name in _NAMES)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"LoRA: {path} is no file, nor a folder with one; expected a .safetensors file, or a "
        f"folder with one of {', '.join(_NAMES)}. Correct the path."
    )


def told(path: Path, found: list[Layer]) -> dict[str, Told]:
    """What is written about the layers, by network: beside PEFT's files, inside diffusers'."""
    beside = path.parent / "adapter_config.json"
    try:
        if any(layer.key.startswith("base_model.") for layer in found):
            if beside.is_file():
                fields = msgspec.json.decode(beside.read_bytes(), type=Told)
                return {"unet": fields, "text_encoder": fields}
            if any(layer.alpha is None for layer in found):
                raise InputError(
                    f"LoRA: {beside} is missing; expected it beside the file of an adapter of "
                    f"PEFT, because it tells the strength. Copy both."
                )
        if path.suffix != ".safetensors":
            return {}
        header = read_metadata(path).get("lora_adapter_metadata", "{}")
        return msgspec.convert(_by_network(header), dict[str, Told])
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
