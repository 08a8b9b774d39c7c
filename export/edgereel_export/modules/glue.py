"""What happens between the networks of a cascade, as modules, so that the runtime need not know."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.errors import InputError

from .text_proj import TextProj
from .unet import UNet

__all__ = [
    "AreaDownsample",
    "Clipped",
    "DecoderCondition",
    "FrameBatch",
    "ImageCondition",
    "Pixels",
    "TextEncoder",
    "Upsample",
    "upsample_matrix",
]


class TextEncoder(nn.Module):
    """A transformers CLIP text model with plain inputs and outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States f32 [G, L, D] and projected embedding f32 [G, D] of ids i64 [G, L]."""
        out = self.model(input_ids=ids, attention_mask=mask.long())
        return out.last_hidden_state, out.text_embeds


class ImageCondition(nn.Module):
    """Everything a decoder of pictures is told, computed once: prior output and text.

    Row 0 of the declared guidance rows is the unconditional one and gets the learned null
    embedding in place of the image embedding, as Karlo does.
    """

    def __init__(self, proj: TextProj, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.proj = proj
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(
        self, image: Tensor, embeds: Tensor, states: Tensor, mask: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [G, M, C], bias [G, M] and added vector [G, E].

        Args:
            image: f32 [1, D], normalised image embedding of the prior.
            embeds, states, mask: text, [G, D], [G, L, D], [G, L].
            row: i64 [G], declared index of each row.
        """
        null = self.proj.learned_classifier_free_guidance_embeddings
        image = torch.where((row == 0)[:, None], null, image * self.std + self.mean)
        tokens, bias, emb = self.proj(image, embeds, states, mask)
        return tokens, bias, emb


class DecoderCondition(nn.Module):
    """Everything D^t is told: what ImageCondition gives, and the frame rate."""

    def __init__(self, proj: TextProj, unet: UNet, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if unet.fps_embedding is None:
            raise InputError(
                "checkpoint: decoder and interpolation must be told the frame rate, and one of "
                "them is not; expected fps: true in its config.json and weights that belong to "
                "it. Check that the stages belong to this system."
            )
        self.told, self.fps_embedding = ImageCondition(proj, mean, std), unet.fps_embedding

    def forward(
        self, image: Tensor, embeds: Tensor, states: Tensor, mask: Tensor, row: Tensor, fps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [G, M, C], bias [G, M] and added vector [G, E].

        Args:
            image, embeds, states, mask, row: as for ImageCondition.
            fps: f32 [1].
        """
        tokens, bias, emb = self.told(image, embeds, states, mask, row)
        return tokens, bias, emb + self.fps_embedding(fps)


def upsample_matrix(size: int, scale: int) -> Tensor:
    """f32 [scale*size, size]: bicubic, antialiased, align_corners False, as Karlo resizes."""
    eye = torch.eye(size)[None, None]
    up = F.interpolate(eye, size=(size * scale, size), mode="bicubic", antialias=True)
    return up[0, 0]


class Upsample(nn.Module):
    """[..., H, W] -> [..., scale*H, scale*W] by two matrix products."""

    def __init__(self, size: int, scale: int) -> None:
        super().__init__()
        self.matrix = nn.Buffer(upsample_matrix(size, scale))

    def forward(self, x: Tensor) -> Tensor:
        """f32 [..., H, W] -> f32 [..., scale*H, scale*W], clipped to -1..1 before."""
        return self.matrix @ x.clamp(-1, 1) @ self.matrix.T


class FrameBatch(nn.Module):
    """[1, C, F, H, W] -> [F, C, H, W], the frames as a batch."""

    def forward(self, x: Tensor) -> Tensor:
        """f32 [1, C, F, H, W] -> f32 [F, C, H, W]."""
        return x[0].transpose(0, 1)


class Pixels(nn.Module):
    """[-1, 1] -> u8 [F, H, W, 3], rounded to the nearest level."""

    def forward(self, x: Tensor) -> Tensor:
        """f32 [F, 3, H, W] -> u8 [F, H, W, 3]."""
        levels = (x.clamp(-1, 1) * 127.5 + 127.5).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


class Clipped(nn.Module):
    """Frames in -1..1."""

    def forward(self, x: Tensor) -> Tensor:
        """f32, any shape."""
        return x.clamp(-1, 1)


class AreaDownsample(nn.Module):
    """Square pictures of `size` pixels, smaller: `wanted` pixels, each the mean of its area."""

    def __init__(self, size: int, wanted: int) -> None:
        super().__init__()
        shared = math.gcd(size, wanted)
        parts = torch.eye(size).repeat_interleave(wanted // shared, 0)  # of rows, all equally high
        self.matrix = nn.Buffer(parts.reshape(wanted, size // shared, size).mean(1))

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [F, size, size, 3] -> u8 [F, wanted, wanted, 3], rounded to the nearest level."""
        levels = frames.float().permute(0, 3, 1, 2)  # a float first: TensorRT needs it of bytes
        smaller = (self.matrix @ levels @ self.matrix.T).round()
        return smaller.permute(0, 2, 3, 1).to(torch.uint8)
