"""How LoRA files name the layers of Stable Diffusion: three conventions, read into one.

    kohya's scripts     lora_unet_down_blocks_0_attentions_0_…_attn1_to_q.lora_down.weight, .alpha
                        lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight
    PEFT, diffusers     unet.down_blocks.0.attentions.0.….attn1.to_q.lora_A.weight (or lora.down)
                        text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight
                        base_model.model.down_blocks.0.….attn1.to_q.lora_A.weight
    diffusers of 2023   unet.down_blocks.0.….attn1.processor.to_q_lora.down.weight
                        text_encoder.text_model.….q_proj.lora_linear_layer.up.weight

Underscores for dots lose which is which, so names are compared with underscores throughout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError

__all__ = ["Layer", "base_model", "layers", "listed", "underscored"]

Array = NDArray[np.float32]

_MATRIX = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](down|up|A|B)(?:\.\w+)?\.weight")
_ALPHA = re.compile(r"(.+?)(?:[._]lora(?:_linear_layer)?)?\.(alpha)")
_PARTS = {"A": "down", "B": "up"}
_NETWORKS = {  # start of a name: the network it is of
    "lora_unet_": "unet",
    "unet.": "unet",
    "lora_te_": "text_encoder",
    "text_encoder.": "text_encoder",
}
_OTHER_KINDS = {  # in a key that is not of a plain LoRA: what the file is
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w": "a LoHa",
    "lokr_w": "a LoKr",
    "lora_mid": "a LoCon of Tucker form",
    "string_to_param": "a textual inversion",
}
_TRANSFORMERS = ("transformer.", "lora_transformer_", "diffusion_model.", "lora_unet_double_blocks")


@dataclass(frozen=True)
class Layer:
    """One layer of a LoRA.

    key: name in the file. network: "unet", "text_encoder", or "" where the file does not say.
    name: of the module, with underscores. down: [rank, in, …]. up: [out, rank, …]. alpha: one
    number, or None where the layer has none of its own.
    """

    key: str
    network: str
    name: str
    down: Array
    up: Array
    alpha: Array | None

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return len(self.down)

    def misfit(self, shape: Sequence[int]) -> str:
        """Why the layer cannot be added to a weight [out, in, …] of this shape, or ''."""
        down, up = self.down, self.up
        shapes = f"is {list(up.shape)} @ {list(down.shape)}, expected {list(shape)}"
        if down.ndim < 2 or up.ndim < 2 or down.size == 0 or up.shape[0] != shape[0]:
            return shapes
        if up[0].size != self.rank or down[0].size != prod(shape[1:]):
            return shapes
        if self.alpha is not None and self.alpha.size != 1:
            return f"has an alpha of shape {list(self.alpha.shape)}, expected one number"
        values = [value for value in (down, up, self.alpha) if value is not None]
        return "" if all(np.isfinite(value).all() for value in values) else "is not finite"


def layers(path: Path, tensors: Mapping[str, Array]) -> list[Layer]:
    """The layers of a LoRA file, in its order.

    Raises:
        InputError: a key is not of a plain LoRA, or a pair of matrices is incomplete.
    """
    found: dict[tuple[str, str], dict[str, tuple[str, Array]]] = {}
    strange = []
    for key, value in tensors.items():
        match = _MATRIX.fullmatch(key) or _ALPHA.fullmatch(key)
        if match is None:
            strange.append(key)
            continue
        layer, part = match.groups()
        parts = found.setdefault(_module(layer), {})
        if parts.setdefault(_PARTS.get(part, part), (layer, value))[1] is not value:
            strange.append(f"{key} (twice)")
    incomplete = [
        f"{next(iter(parts.values()))[0]} without {part}"
        for parts in found.values()
        for part in ("down", "up")
        if part not in parts
    ]
    if strange or incomplete or not found:
        kinds = (what for part, what in _OTHER_KINDS.items() if any(part in k for k in strange))
        raise InputError(
            f"LoRA: {path} is {next(kinds, 'no plain LoRA')}: it holds "
            f"{listed(strange + incomplete) or 'nothing'}; expected a down and an up matrix per "
            f"layer. Merge it into the checkpoint with the tool that made it, or choose another."
        )
    return [_layer(network, name, parts) for (network, name), parts in found.items()]


def base_model(found: Iterable[Layer]) -> str:
    """What else than Stable Diffusion 1.x a LoRA was made for, as far as one can tell, or ''."""
    found = list(found)
    widths = {layer.down[0].size for layer in found if layer.name.endswith("attn2_to_k")}
    second = ("lora_te1_", "lora_te2_", "text_encoder_2.")
    if 2048 in widths or any(layer.key.startswith(second) for layer in found):
        return "Stable Diffusion XL"
    if any(layer.key.startswith(_TRANSFORMERS) for layer in found):
        return "a transformer, such as FLUX or Stable Diffusion 3"
    return "Stable Diffusion 2.x" if 1024 in widths else ""


def underscored(name: str) -> str:
    """The name of a module as it is compared; text_model. is left out, as transformers 5 does."""
    return name.replace(".", "_").removeprefix("text_model_")


def listed(items: list[str]) -> str:
    """Up to five of the items in words."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more


def _module(layer: str) -> tuple[str, str]:
    """(network, name of the module with underscores) that a name in a file means."""
    layer = layer.removeprefix("base_model.model.")
    start = next((start for start in _NETWORKS if layer.startswith(start)), "")
    name = underscored(layer.removeprefix(start).replace(".processor", ""))
    # Attention processors had names of their own for the projections, in both networks.
    name = re.sub(r"(attn\d)_to_out$", r"\1_to_out_0", name)
    name = re.sub(r"self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj", name)
    return _NETWORKS.get(start, ""), name


def _layer(network: str, name: str, parts: dict[str, tuple[str, Array]]) -> Layer:
    key, down = parts["down"]
    alpha = parts["alpha"][1] if "alpha" in parts else None
    return Layer(key, network, name, down, parts["up"][1], alpha)
