"""What the components of the `shapes` world share: frozen networks and the diffusion loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.levels import alphas_cumprod_cosine

from .data import Data
from .networks import build, weights_file

__all__ = [
    "COSINE",
    "Component",
    "denoise_loss",
    "from_image_model",
    "frozen",
    "text_states",
    "trained",
]


COSINE = torch.from_numpy(alphas_cumprod_cosine()).float()


def trained(name: str) -> nn.Module:
    """A network that was trained before, by its folder name."""
    module = build(name)
    module.load_state_dict(load_file(weights_file(name)))
    return module


def frozen(name: str) -> nn.Module:
    """The same, as it stays."""
    return trained(name).eval().requires_grad_(False)


def from_image_model(name: str, image: str = "unet") -> Any:
    """A network that begins with an image model's weights; further input channels are not seen."""
    network: Any = build(name)
    state = load_file(weights_file(image))
    more = network.conv_in.in_channels - state["conv_in.weight"].shape[1]
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, more))
    network.load_state_dict(state, strict=False)
    return network


def text_states(data: Data, encoder: Any, texts: list[str]) -> Tensor:
    """f32 [B, L, D]: the states of texts; those of padding are read too, as in Stable Diffusion."""
    ids, _ = data.tokens(texts)
    with torch.no_grad():
        states: Tensor = encoder(input_ids=ids).last_hidden_state.float()
    return states


@dataclass
class Component:
    """Networks trained together: their modules by folder name and the loss of one step.

    `loss(data, progress, clips)` takes the batches, the fraction done and whether on clips.
    """

    modules: nn.ModuleDict
    loss: Callable[[Data, float, bool], Tensor]
    rate: float = 1e-3


def denoise_loss(
    data: Data,
    x0: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    power: float,
    table: Tensor = COSINE,
    lowest: int = 0,
) -> Tensor:
    """Squared error of the v-prediction at timesteps t from `lowest` to 999, as u^power.

    Args:
        data: source of the timesteps.
        x0: clean samples, f32 [B, ...].
        predict: the network, of a noisy x and t f32 [B].
        power: below 1 leans to high noise.
        table: alphas_cumprod, f32 [1000].
        lowest: the timestep with the least noise.
    """
    t = lowest + (data.uniform(len(x0)) ** power * (1000 - lowest)).long()
    t = t.clamp(max=999)
    alphas = table[t].view(-1, *[1] * (x0.ndim - 1))
    noise = torch.randn_like(x0)
    x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
    target = alphas.sqrt() * noise - (1 - alphas).sqrt() * x0
    return F.mse_loss(predict(x, t.float()).float(), target)
