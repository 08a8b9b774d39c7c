"""The `shapes` world: procedurally drawn clips of one flat shape that moves or stands still.

The frame is the unit square, x to the right and y down. A shape moves at constant speed until it
touches a wall and rests there, so a clip of a lower frame rate shows more of the same motion.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["COLOURS", "FRAMES", "MOTIONS", "SHAPES", "SIZES", "Scenes", "draw", "sample_scenes"]

FRAMES = 76  # frames of a whole clip; the decoder sees every fifth of them
SPEED = 0.14  # frame widths per second
COLOURS = {  # sRGB in 0..1
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.80, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.62, 0.15, 0.80),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.13, "large": 0.19}  # radius of the circle with the same area
MOTIONS = {  # direction (x, y)
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}
_EXTENT = (1.05, 0.95, 1.4)  # half of the bounding box of each shape, in radii, and some air
_TRIANGLE = 1.5551  # circumradius of the equilateral triangle of the same area, in circle radii
_SQUARE = 0.8862  # half side of the square of the same area


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes; row b of every array describes clip b.

    colour, shape, size, motion: i64 [B], indices into COLOURS, SHAPES, SIZES, MOTIONS.
    start: f32 [B, 2], centre at frame 0. speed: f32 [B], widths per second. radius: f32 [B].
    background: f32 [B, 3], sRGB 0..1. fps: f32 [B], frames per second of the whole clip.
    """

    colour: Tensor
    shape: Tensor
    size: Tensor
    motion: Tensor
    start: Tensor
    speed: Tensor
    radius: Tensor
    background: Tensor
    fps: Tensor

    def rows(self, rows: Tensor) -> Scenes:
        """The scenes with the given numbers, i64 [N]."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def centres(self, frames: Tensor) -> Tensor:
        """f32 [B, F, 2]: the centre at the given frame numbers (f32 [F] or [B, F])."""
        direction = torch.tensor(list(MOTIONS.values()))[self.motion]  # [B, 2]
        seconds = frames.expand(len(self.fps), -1) / self.fps[:, None]  # [B, F]
        travel = (self.speed[:, None] * seconds)[..., None] * direction[:, None]
        low = (self.radius * torch.tensor(_EXTENT)[self.shape])[:, None, None]
        return torch.minimum(torch.maximum(self.start[:, None] + travel, low), 1 - low)


def sample_scenes(count: int, rng: np.random.Generator, fps: np.ndarray | None = None) -> Scenes:
    """`count` random scenes; moving shapes start on the side they move away from.

    Args:
        count: number of scenes B.
        rng: source of all randomness.
        fps: f64 [B] frame rates; uniform in 1..30 when absent.
    """
    size = rng.integers(len(SIZES), size=count)
    radius = np.array(list(SIZES.values()))[size] * rng.uniform(0.92, 1.08, count)
    motion = rng.integers(len(MOTIONS), size=count)
    direction = np.array(list(MOTIONS.values()))[motion]
    shape = rng.integers(len(SHAPES), size=count)
    extent = radius * np.array(_EXTENT)[shape]
    anywhere = rng.uniform(extent[:, None], 1 - extent[:, None], (count, 2))
    margin = extent + rng.uniform(0.0, 0.12, count)
    start = np.where(direction > 0, margin[:, None], anywhere)
    start = np.where(direction < 0, 1 - margin[:, None], start)
    arrays = {
        "colour": rng.integers(len(COLOURS), size=count),
        "shape": shape,
        "size": size,
        "motion": motion,
        "start": start.astype(np.float32),
        "speed": (SPEED * rng.uniform(0.9, 1.1, count)).astype(np.float32),
        "radius": radius.astype(np.float32),
        "background": rng.uniform(0.04, 0.10, (count, 3)).astype(np.float32),
        "fps": (rng.uniform(1, 30, count) if fps is None else fps).astype(np.float32),
    }
    return Scenes(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def draw(scenes: Scenes, frames: Tensor, pixels: int, oversample: int = 2) -> Tensor:
    """f32 [B, 3, F, pixels, pixels] in -1..1: the scenes at the given frame numbers.

    Args:
        scenes: B scenes.
        frames: f32 [F] or [B, F], frame numbers.
        pixels: side of the picture.
        oversample: side of the grid averaged into one pixel, over an edge one grid cell soft.
    """
    side = pixels * oversample
    grid = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    centre = scenes.centres(frames)  # [B, F, 2]
    x = grid[None, None, None, :] - centre[..., 0, None, None]
    y = grid[None, None, :, None] - centre[..., 1, None, None]
    radius = scenes.radius[:, None, None, None]
    distance = torch.empty(*centre.shape[:2], side, side)
    for index, name in enumerate(SHAPES):
        rows = scenes.shape == index
        distance[rows] = _distance(name, x[rows], y[rows], radius[rows])
    cover = (0.5 - distance * side).clamp(0, 1)
    cover = F.avg_pool2d(cover, oversample) if oversample > 1 else cover
    colour = torch.tensor(list(COLOURS.values()))[scenes.colour][:, :, None, None, None]
    background = scenes.background[:, :, None, None, None]
    return (background + (colour - background) * cover[:, None]) * 2 - 1


def _distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the outline, negative inside (corners by the half-plane maximum)."""
    if shape == "circle":
        return (x.square() + y.square()).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - radius * _SQUARE
    inner = radius * _TRIANGLE / 2
    y = y - inner / 2  # the bounding box, not the centroid, is centred
    return torch.maximum(x.abs() * 0.8660254 - y * 0.5, y + 0 * x) - inner
