"""The UNet of LaVie's super-resolution stage, under the key names of the checkpoint.

Stable Diffusion's x4 upscaler with three things that look along the frames (arXiv:2309.15103,
section 3.4): convolutions at the entry of every transformer, the base network's attention inside
it, and a module of convolutions after every block.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .lavie_layers import (
    JointResnet,
    RelativeFrameAttention,
    Rotary,
    by_image,
    by_row,
)
from .lavie_unet import JointParts, JointUNet
from .sd_config import SDBlocksConfig
from .sd_layers import Batch, Resnet
from .sd_upscaler import PixelTransformer, UpscalerBlock, UpscalerConfig

__all__ = ["VSRConfig", "VSRUNet"]

_EPS = 1e-6  # of the group norms that the upscaler does not have


VSRConfig = UpscalerConfig  # sizes of the network


class _FrameConv(nn.Conv3d):
    """Convolution over frames alone, [G, C, F, S] -> the same shape."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., 0], self.bias, padding=(self.kernel_size[0] // 2, 0))


class _FrameResnet(Resnet):
    """A resnet of convolutions over frames, in the layout of `by_row`.

    Args:
        channels: C.
        temb: width of the timestep embedding; 0: none.
        groups: of both group norms, which take all frames of a row together.
        kernel: frames that the first convolution sees; the second sees 3.
    """

    def __init__(self, channels: int, temb: int, groups: int, kernel: int) -> None:
        super().__init__((channels, channels), temb, groups, _EPS)
        self.conv1, self.conv2 = _FrameConv(channels, kernel), _FrameConv(channels, 3)


class _TemporalModule(nn.Module):
    """A correction of images by their neighbours: [G*F, C, h, w] -> the same shape."""

    def __init__(self, channels: int, temb: int, groups: int) -> None:
        super().__init__()
        self.resblocks_3d_t = _FrameResnet(channels, temb, groups, 5)
        self.resblocks_3d_s = JointResnet((channels, channels), temb, groups, _EPS)
        self.shift_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, temb: Tensor, batch: Batch) -> Tensor:
        h = self.resblocks_3d_t(by_row(x, batch), temb, Batch(batch.rows, 1))
        h = self.resblocks_3d_s(by_image(h, x), temb, batch)
        out: Tensor = x + self.shift_conv(h)
        return out


class _Block(UpscalerBlock):
    """Attention within a frame or to the text, to the text, over frames, MLP."""

    def __init__(self, channels: int, config: SDBlocksConfig, rotary: Rotary, told: bool) -> None:
        super().__init__(channels, config, told)
        self.norm_temporal = nn.LayerNorm(channels)
        self.attn_temporal = RelativeFrameAttention(channels, config.attention_head_dim, rotary)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, F, S, C], states [G, L, D] -> as x."""
        x = self.attended(x, states)
        x = x + self.attn_temporal(self.norm_temporal(x))
        x = x + self.ff(self.norm3(x))
        return x


class _Transformer(PixelTransformer):
    """A transformer of images that saw their neighbours first."""

    def __init__(self, channels: int, groups: int, block: nn.Module) -> None:
        super().__init__(channels, groups, block)
        self.resblock_temporal = _FrameResnet(channels, 0, groups, 3)

    def forward(self, x: Tensor, states: Tensor, batch: Batch) -> Tensor:
        """x [G*F, C, h, w], states [G, L, D] -> as x."""
        seen = by_image(self.resblock_temporal(by_row(x, batch)), x)
        return super().forward(seen, states, batch)


class _Parts(JointParts):
    def __init__(self, config: VSRConfig, rotary: Rotary) -> None:
        super().__init__(config)
        self.told, self.rotary = config.only_cross_attention, rotary

    def transformer(self, channels: int, level: int) -> nn.Module:
        block = _Block(channels, self.config, self.rotary, self.told[level])
        return _Transformer(channels, self.config.norm_num_groups, block)


class VSRUNet(JointUNet):
    """The network: noisy latents and a small picture to its prediction, of any height and width."""

    any_size = True

    def __init__(self, config: VSRConfig) -> None:
        rotary = Rotary()
        super().__init__(config, _Parts(config, rotary))
        widths, groups = config.block_out_channels, config.norm_num_groups
        temb = 4 * widths[0]
        self.temporal_rotary_emb = rotary
        self.class_embedding = nn.Embedding(config.num_class_embeds, temb)
        self.down_temporal_blocks = nn.ModuleList(_TemporalModule(c, temb, groups) for c in widths)
        self.mid_temporal_block = _TemporalModule(widths[-1], temb, groups)
        self.up_temporal_blocks = nn.ModuleList(
            _TemporalModule(c, temb, groups) for c in reversed(widths)
        )

    def between(
        self,
        half: Literal["down", "mid", "up"],
        index: int,
        x: Tensor,
        temb: Tensor,
        batch: Batch,
    ) -> Tensor:
        """x corrected by the module that follows block `index`; skips are those before it."""
        if half == "mid":
            out: Tensor = self.mid_temporal_block(x, temb, batch)
        else:
            blocks = self.down_temporal_blocks if half == "down" else self.up_temporal_blocks
            out = blocks[index](x, temb, batch)
        return out

    def forward(self, x: Tensor, t: Tensor, states: Tensor, low: Tensor, level: Tensor) -> Tensor:
        """The prediction, [G, F, out_channels, h, w].

        Args:
            x: [G, F, 4, h, w], F frames of each guidance row.
            t: f32 [G], training timesteps.
            states: [G, L, D], text encoder states.
            low: [F, 3, h, w], the pictures to enlarge, with noise of `level` added.
            level: [1], i64 or a whole f32 below `num_class_embeds`: timestep of that noise.
        """
        temb = self.time_embedding(t) + self.class_embedding(level.long())
        return self.walk(self.beside(x, low), temb, states)
