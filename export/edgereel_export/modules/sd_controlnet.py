"""A ControlNet of Stable Diffusion 1.x, under the parameter names of diffusers' ControlNetModel.

The down half of a UNet, shown a control picture, whose every skip goes through one more 1x1
convolution (arXiv:2302.05543). It has the same cross-frame attention as the UNet.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from .sd_config import SDControlNetConfig
from .sd_layers import Batch
from .sd_unet import DownHalf

__all__ = ["SDControlNet"]


class _PictureEncoder(nn.Module):
    """The control picture at the latents' resolution: [N, 3, 8h, 8w] -> [N, C0, h, w].

    Each width but the first is reached by a convolution of stride 2.
    """

    def __init__(self, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inside, wider in itertools.pairwise(widths):
            self.blocks.append(nn.Conv2d(inside, inside, 3, padding=1))
            self.blocks.append(nn.Conv2d(inside, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        h = F.silu(self.conv_in(picture))
        for block in self.blocks:
            h = F.silu(block(h))
        out: Tensor = self.conv_out(h)
        return out


class SDControlNet(DownHalf):
    """Residuals for a UNet's skips and middle, from latents, text and a control picture."""

    def __init__(self, config: SDControlNetConfig) -> None:
        super().__init__(config)
        self.config = config
        channels = config.block_out_channels
        self.controlnet_cond_embedding = _PictureEncoder(
            config.conditioning_embedding_out_channels, channels[0]
        )
        self.controlnet_down_blocks = nn.ModuleList(
            nn.Conv2d(width, width, 1) for width in self.skip_channels
        )
        self.controlnet_mid_block = nn.Conv2d(channels[-1], channels[-1], 1)

    def forward(
        self, x: Tensor, t: Tensor, states: Tensor, control: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """`down` and `mid` of SDUNet: 12 residuals and one in the published size, not yet scaled.

        Args:
            x, t, states: as the UNet's.
            control: f32 [G*N, 3, 8h, 8w] in 0..1, the picture of each image.
        """
        return self.residuals(x, t, states, self.controlnet_cond_embedding(control))

    def residuals(
        self, x: Tensor, t: Tensor, states: Tensor, seen: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As `forward`, from control pictures encoded already: seen f32 [G*N, C0, h, w]."""
        h = self.conv_in(x.flatten(0, 1)) + seen
        skips, mid = self.descend(h, self.time_embedding(t), states, Batch(*x.shape[:2]))
        convs = self.controlnet_down_blocks
        down = tuple(conv(skip) for conv, skip in zip(convs, skips, strict=True))
        return down, self.controlnet_mid_block(mid)
