"""Layers of the Stable Diffusion networks, under the parameter names of diffusers' checkpoints.

Images are [G*N, C, h, w]: G guidance rows of N images each (a Batch), all images of row 0 first. As
tokens they are [G, N, S, C], S = h*w. What the images of a row attend to is the same for all of
them (the row's text, its first image), so it is projected once per row and never copied per image:
the queries of a row are laid end to end instead.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Attention",
    "Batch",
    "Downsample",
    "Projections",
    "Resnet",
    "Transformer",
    "TransformerBlock",
    "Upsample",
]


class Batch(NamedTuple):
    """G and N of images [G*N, ...]; said, not worked out, as that makes an export take minutes."""

    rows: int
    images: int

    def split(self, x: Tensor) -> Tensor:
        """[G*N, ...] -> [G, N, ...]."""
        return x.reshape(*self, *x.shape[1:])

    def each(self, x: Tensor) -> Tensor:
        """What rows have in common, [G, ...], once for each of their images: [G*N, ...]."""
        return x.unsqueeze(1).expand(-1, self.images, *x.shape[1:]).flatten(0, 1)


class Resnet(nn.Module):
    """Residual block of two 3x3 convolutions: [N, C, h, w] -> [N, C', h, w].

    Args:
        channels: C and C'.
        temb: width of the timestep embedding, added after the first convolution; 0: none.
        groups: of both group norms.
        eps: of both group norms; 1e-5 in UNets, 1e-6 in autoencoders.
    """

    def __init__(self, channels: tuple[int, int], temb: int, groups: int, eps: float) -> None:
        super().__init__()
        inside, out = channels
        self.norm1 = nn.GroupNorm(groups, inside, eps=eps)
        self.conv1: nn.Module = nn.Conv2d(inside, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(temb, out) if temb else None
        self.norm2 = nn.GroupNorm(groups, out, eps=eps)
        self.conv2: nn.Module = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, out, 1) if inside != out else None

    def forward(self, x: Tensor, temb: Tensor | None = None, batch: Batch | None = None) -> Tensor:
        """x [G*N, C, h, w], temb [G, E] -> [G*N, C', h, w]; without temb there are no rows."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert temb is not None and batch is not None
            h = h + batch.each(self.time_emb_proj(F.silu(temb)))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        out: Tensor = x + h
        return out


class Downsample(nn.Module):
    """3x3 convolution of stride 2, [N, C, h, w] -> [N, C, h/2, w/2] for even h and w.

    Args:
        channels: C.
        both_sides: zeros all round, as UNets have them; else only below and to the right, as
            autoencoders do.
    """

    def __init__(self, channels: int, *, both_sides: bool = True) -> None:
        super().__init__()
        self.both_sides = both_sides
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=int(both_sides))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, h/2, w/2]."""
        out: Tensor = self.conv(x if self.both_sides else F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Every pixel repeated 2x2, then a 3x3 convolution: [N, C, h, w] -> [N, C, 2h, 2w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """[N, C, h, w] -> [N, C, 2h, 2w], or of the height and width `size`."""
        if size is None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        else:
            x = F.interpolate(x, size=size, mode="nearest")
        out: Tensor = self.conv(x)
        return out


class Projections(nn.Module):
    """The four linear layers of an attention; which tokens attend to which is a subclass's.

    Args:
        channels: C, width of the tokens.
        source: E, width of the source tokens.
        heads: number of heads; C is a multiple of it.
    """

    def __init__(self, channels: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(source, channels, bias=False)
        self.to_v = nn.Linear(source, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])


class Attention(Projections):
    """All tokens of a row attend to the same `source` tokens."""

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x [G, N, S, C], source [G, M, E] -> as x."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x).flatten(1, 2), self.to_k(source), self.to_v(source))
        )
        h = F.scaled_dot_product_attention(q, k, v)  # [G, heads, N*S, C/heads]
        out: Tensor = self.to_out[0](h.transpose(1, 2).reshape(x.shape))
        return out


class _Geglu(nn.Module):
    """One half of a linear layer, gated by the GELU of the other: [..., C] -> [..., C']."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inside, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class _FeedForward(nn.Module):
    """GEGLU MLP of four times the width under the key names `net.0.proj` and `net.2`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.net = nn.ModuleList([_Geglu(channels, wide), nn.Identity(), nn.Linear(wide, channels)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Cross-frame attention, text attention, MLP, each on layer-normed tokens and added to them.

    In `attn1` the images of a row attend to the row's first image, as in Text2Video-Zero
    (arXiv:2303.13439); a single image therefore attends to itself, which is self-attention.
    """

    def __init__(self, channels: int, heads: int, cross: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1: nn.Module = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, cross, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = _FeedForward(channels)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x [G, N, S, C], states [G, L, D] -> as x."""
        h = self.norm1(x)
        x = x + self.attn1(h, h[:, 0])
        x = x + self.attn2(self.norm2(x), states)
        x = x + self.ff(self.norm3(x))
        return x


class Transformer(nn.Module):
    """A transformer block on the pixels of images, added to them.

    Args:
        channels: C, of the images.
        groups: of the group norm.
        block: called with tokens [G, N, S, C] and text states [G, L, D]; gives new tokens.
    """

    def __init__(self, channels: int, groups: int, block: nn.Module) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in: nn.Module = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out: nn.Module = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, states: Tensor, batch: Batch) -> Tensor:
        """x [G*N, C, h, w], states [G, L, D] -> as x."""
        h = batch.split(self.proj_in(self.norm(x)).flatten(2).transpose(1, 2))  # [G, N, S, C]
        for block in self.transformer_blocks:
            h = block(h, states)
        out: Tensor = self.proj_out(h.transpose(2, 3).reshape(x.shape))
        return x + out
