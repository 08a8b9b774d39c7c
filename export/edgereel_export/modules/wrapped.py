"""Networks as DenoiseStep calls them: guidance rows and batch in front, conditions behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .unet import UNet

__all__ = ["Concatenated", "PerFrame", "Picture", "Rows"]


class Rows(nn.Module):
    """A network on one thing per guidance row."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, *told: Tensor) -> Tensor:
        """The network's prediction for x [G, 1, ...]."""
        out: Tensor = self.network(x[:, 0], t, *told)
        return out[:, None]


class Picture(Rows):
    """A UNet on one picture per guidance row."""

    def forward(self, x: Tensor, t: Tensor, *told: Tensor) -> Tensor:
        """The network's prediction for x [G, 1, C, H, W]."""
        return super().forward(x.unsqueeze(3), t, *told)[:, :, :, 0]


class Concatenated(nn.Module):
    """A UNet whose condition is joined to its input on the channels."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, low: Tensor, *told: Tensor) -> Tensor:
        """The UNet's prediction for x [B, 1, C, ...] with condition low [B, C', ...]."""
        out: Tensor = self.unet(torch.cat([x[:, 0], low], 1), t, *told)
        return out[:, None]


class PerFrame(Concatenated):
    """SR_h: frames are the batch."""

    def forward(self, x: Tensor, t: Tensor, low: Tensor, *told: Tensor) -> Tensor:
        """The UNet's prediction for x [1, K, C, H, W] with condition low [K, C', H, W]."""
        x = x[0, :, None, :, None]  # [K, 1, C, 1, H, W]
        out = super().forward(x, t.expand(x.shape[0]), low.unsqueeze(2), *told)
        return out[None, :, 0, :, 0]
