"""What happens between the networks of Text2Video-Zero (arXiv:2303.13439), as modules.

Frames are axis 0: latents [F, 4, h, w], pictures u8 [F, H, W, 3].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sd_controlnet import SDControlNet
from .sd_unet import SDUNet
from .sd_vae import SDVAE, SDDecoder, SDEncoder

__all__ = [
    "ControlPicture",
    "Controlled",
    "Edited",
    "KeepAnchor",
    "LatentPictures",
    "MotionField",
    "PictureLatents",
    "SmoothBackground",
    "TextStates",
    "unit_pictures",
]

_GRID = 512  # side of the grid that motion is given on, whatever the size of the video


class TextStates(nn.Module):
    """A transformers CLIP text model, ids i64 [G, L] -> last hidden states f32 [G, L, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Padding is read like text, as Stable Diffusion does."""
        states: Tensor = self.model(input_ids=ids).last_hidden_state
        return states


def _sources(size: int, shift: Tensor) -> Tensor:
    """i64 [F, size]: where each row or column is taken from when the picture moves by `shift`.

    The closed form of the published warp: nearest sample of a flow given in pixels of a grid of
    512, mirrored at the borders with the edge repeated. shift f32 [F], in pixels of that grid.
    """
    place = torch.arange(size) + (shift[:, None] - 0.5) * (size / _GRID)
    place = place.round()
    source = (place - (place / (2 * size)).floor() * (2 * size)).long()  # modulo twice the side
    return torch.where(source < size, source, 2 * size - 1 - source)


def _warped(x: Tensor, motion_x: Tensor, motion_y: Tensor) -> Tensor:
    """Picture x [1, C, h, w] moved on by k times the motion in frame k: [F, C, h, w]."""
    frames, (channels, height, width) = motion_x.shape[0], x.shape[1:]
    number = torch.arange(frames)
    rows = _sources(height, number * motion_y)[:, None, :, None]
    columns = _sources(width, number * motion_x)[:, None, None, :]
    shape = (frames, channels, height, width)
    moved = x.expand(shape).gather(2, rows.expand(shape))
    return moved.gather(3, columns.expand(shape))


class MotionField(nn.Module):
    """The anchor's latents moved by the motion field, one frame after the other."""

    def forward(self, anchor: Tensor, motion_x: Tensor, motion_y: Tensor) -> Tensor:
        """f32 [F, C, h, w]; frame k is the anchor seen k times the motion further on.

        Args:
            anchor: f32 [1, C, h, w].
            motion_x, motion_y: f32 [F], all equal: pixels per frame where the side has 512.
        """
        return _warped(anchor, motion_x, motion_y)


class KeepAnchor(nn.Module):
    """Frames whose first one is replaced by the anchor: [F, C, h, w]."""

    def forward(self, frames: Tensor, anchor: Tensor) -> Tensor:
        """frames f32 [F, C, h, w], anchor f32 [1, C, h, w]."""
        first = torch.arange(frames.shape[0]) == 0
        return torch.where(first[:, None, None, None], anchor, frames)


class SmoothBackground(nn.Module):
    """Latents whose background is drawn towards the moved background of the first frame."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(
        self, x: Tensor, masks: Tensor, motion_x: Tensor, motion_y: Tensor, keep: Tensor
    ) -> Tensor:
        """f32 [F, C, h, w] at the timestep of x.

        Args:
            x: f32 [F, C, h, w], frame 0 the anchor.
            masks: u8 [F, H, W, 3]; what is above 127 in the first channel is foreground.
            motion_x, motion_y: f32 [F], as for MotionField.
            keep: f32 [1], share of x that the background keeps (0.4 in the published code).
        """
        levels = masks.to(x.dtype)  # first of all: TensorRT does nothing else to bytes
        picked = levels[:, :: self.factor, :: self.factor, 0].unsqueeze(1)
        front = F.max_pool2d((picked > 127).to(x.dtype), 5, stride=1, padding=2)
        moved_front = _warped(front[:1], motion_x, motion_y)
        background = (1 - front) * (1 - moved_front)
        first = torch.arange(x.shape[0]) == 0
        background = torch.where(first[:, None, None, None], 1 - front, background)
        still = _warped(x[:1] * (1 - front[:1]), motion_x, motion_y)
        return x + background * (1 - keep) * (still - x)


class LatentPictures(nn.Module):
    """Latents to pictures: scaled, decoded, and made levels as the published code does.

    Args:
        vae: the autoencoder.
        rounded: to the nearest level instead of the one below.
    """

    def __init__(self, vae: SDVAE, *, rounded: bool = False) -> None:
        super().__init__()
        self.decode, self.scale = SDDecoder(vae), vae.config.scaling_factor
        self.offset = 0.5 if rounded else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """f32 [K, 4, h, w] -> u8 [K, H, W, 3]."""
        pictures: Tensor = self.decode(x / self.scale)
        levels = (pictures / 2 + 0.5).clamp(0, 1) * 255 + self.offset
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def unit_pictures(frames: Tensor) -> Tensor:
    """u8 [K, H, W, 3] -> f32 [K, 3, H, W] in -1..1."""
    # a float first of all: TensorRT does nothing else to bytes
    return frames.float().permute(0, 3, 1, 2) / 127.5 - 1


class PictureLatents(nn.Module):
    """Pictures to latents: the mode of the posterior, not scaled, as InstructPix2Pix has them."""

    def __init__(self, vae: SDVAE) -> None:
        super().__init__()
        self.encode = SDEncoder(vae)

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [K, H, W, 3] -> f32 [K, 4, h, w]."""
        latents: Tensor = self.encode(unit_pictures(frames))
        return latents


class ControlPicture(nn.Module):
    """Control pictures as the ControlNet's first layers see them, which no timestep changes."""

    def __init__(self, controlnet: SDControlNet) -> None:
        super().__init__()
        self.embed = controlnet.controlnet_cond_embedding

    def forward(self, frames: Tensor) -> Tensor:
        """u8 [K, H, W, 3] -> f32 [K, C0, h, w]."""
        seen: Tensor = self.embed(frames.float().permute(0, 3, 1, 2) / 255)
        return seen


class Controlled(nn.Module):
    """A UNet led by a ControlNet; each frame's control picture serves all guidance rows."""

    def __init__(self, unet: SDUNet, controlnet: SDControlNet) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(self, x: Tensor, t: Tensor, states: Tensor, seen: Tensor, scale: Tensor) -> Tensor:
        """The prediction for x [G, K, 4, h, w].

        Args:
            x, t, states: as for SDUNet.
            seen: f32 [K, C0, h, w], of ControlPicture.
            scale: f32 [1], what the ControlNet's residuals are multiplied by.
        """
        seen = seen.expand(x.shape[0], *seen.shape).flatten(0, 1)
        down, mid = self.controlnet.residuals(x, t, states, seen)
        out: Tensor = self.unet(x, t, states, tuple(d * scale for d in down), mid * scale)
        return out


class Edited(nn.Module):
    """InstructPix2Pix's UNet: the picture's latents join the noisy ones, but not in the last row.

    The guidance rows are text and picture, picture, neither.
    """

    def __init__(self, unet: SDUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor, image: Tensor, index: Tensor) -> Tensor:
        """The prediction for x [G, K, 4, h, w].

        Args:
            x, t, states: as for SDUNet.
            image: f32 [K, 4, h, w], latents of the given frames.
            index: i64 [G], declared index of each guidance row.
        """
        given = torch.where((index == 2)[:, None, None, None, None], 0.0, image)
        out: Tensor = self.unet(torch.cat([x, given], 2), t, states)
        return out
