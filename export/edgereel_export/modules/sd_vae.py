"""The Stable Diffusion autoencoder, under the parameter names of diffusers' AutoencoderKL.

It works on each frame alone, so frames may be taken in chunks of any size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from .sd_config import SDVAEConfig
from .sd_layers import Downsample, Resnet, Upsample

__all__ = ["SDVAE", "SDDecoder", "SDEncoder", "modern_vae_keys"]

_EPS = 1e-6


class _Attention(nn.Module):
    """Self-attention of the pixels of an image, in one head: [K, C, h, w] -> the same shape."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # [K, h*w, C]
        q, k, v = (layer(h).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        out: Tensor = self.to_out[0](h).transpose(1, 2)
        return x + out.reshape(x.shape)


class _Block(nn.Module):
    """Resnets at one resolution, then what was put into `downsamplers` or `upsamplers`."""

    def __init__(self, widths: list[tuple[int, int]], groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(pair, 0, groups, _EPS) for pair in widths)
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class _MidBlock(nn.Module):
    """The lowest level: resnet, attention, resnet."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        pair = (channels, channels)
        self.resnets = nn.ModuleList(Resnet(pair, 0, groups, _EPS) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return out


class _Encoder(nn.Module):
    """Pictures to the means and log variances of latents: [K, 3, H, W] -> [K, 2*C, h, w]."""

    def __init__(self, config: SDVAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        inside = channels[0]
        for level, out in enumerate(channels):
            widths = [(inside, out)] + [(out, out)] * (config.layers_per_block - 1)
            block = _Block(widths, groups)
            if level < len(channels) - 1:
                block.downsamplers.append(Downsample(out, both_sides=False))
            self.down_blocks.append(block)
            inside = out
        self.mid_block = _MidBlock(inside, groups)
        self.conv_norm_out = nn.GroupNorm(groups, inside, eps=_EPS)
        self.conv_out = nn.Conv2d(inside, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))
        return out


class _Decoder(nn.Module):
    """Latents to pictures: [K, C, h, w] -> [K, 3, H, W]."""

    def __init__(self, config: SDVAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        inside = channels[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, inside, 3, padding=1)
        self.mid_block = _MidBlock(inside, groups)
        self.up_blocks = nn.ModuleList()
        for level, out in enumerate(reversed(channels)):
            block = _Block([(inside, out)] + [(out, out)] * config.layers_per_block, groups)
            if level < len(channels) - 1:
                block.upsamplers.append(Upsample(out))
            self.up_blocks.append(block)
            inside = out
        self.conv_norm_out = nn.GroupNorm(groups, inside, eps=_EPS)
        self.conv_out = nn.Conv2d(inside, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            h = block(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out


class SDVAE(nn.Module):
    """The whole autoencoder, to load weights into; SDEncoder and SDDecoder compute with it."""

    def __init__(self, config: SDVAEConfig) -> None:
        super().__init__()
        self.config = config
        latents = config.latent_channels
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)


class SDEncoder(nn.Module):
    """Pictures to latents, the mode of the posterior, not multiplied by the scaling factor."""

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, x: Tensor) -> Tensor:
        """f32 [K, 3, 8h, 8w] in -1..1 -> f32 [K, 4, h, w]."""
        return self.moments(x)[0]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, both f32 [K, 4, h, w]."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, (logvar.clamp(-30, 20) / 2).exp()


class SDDecoder(nn.Module):
    """Latents, already divided by the scaling factor, to pictures."""

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, z: Tensor) -> Tensor:
        """f32 [K, 4, h, w] -> f32 [K, 3, 8h, 8w], about -1..1, not clipped."""
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out


_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LEGACY = re.compile(r"(.*\.mid_block\.attentions\.0)\.(\w+)\.(weight|bias)")


def modern_vae_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the present names of the middle's attention.

    Old files call it `query`, `key`, `value` and `proj_attn`, some with the [C, C, 1, 1] weights
    of 1x1 convolutions. Present names are kept.
    """
    out = {}
    for key, value in state.items():
        match = _LEGACY.fullmatch(key)
        if match and match[2] in _RENAMED:
            key = f"{match[1]}.{_RENAMED[match[2]]}.{match[3]}"
        if ".mid_block.attentions.0." in key and value.ndim == 4:
            value = value.flatten(1)
        out[key] = value
    return out
