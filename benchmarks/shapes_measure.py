"""What a clip of the `shapes` world shows, read from its pixels alone.

No network is involved. The background is the median colour of the frame's border; the foreground
is what lies far from it. Colour is the nearest of the world's colours to the foreground's median;
shape is the template of the same area and centre that overlaps best; motion is where the
foreground's centroid went. A frame without one clear foreground says "nothing", and a clip is
judged by more than half of its frames, so nothing is dropped from any count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgereel_export.shapes.world import COLOURS, SHAPES

__all__ = ["LIMIT", "MEASURE_VERSION", "NOTHING", "Measured", "foreground", "measure", "shape_of"]

Array = NDArray[Any]
MEASURE_VERSION = 1  # part of the key under which measured clips are kept

NOTHING = "nothing"
LIMIT = 0.1  # of the frame: what moves less stands still
_FAR = 64  # distance of two sRGB colours in 0..255; the world's are 130 apart at least
_UNKNOWN = 100  # farther than this from every colour of the world is none of them
_COVER = (0.01, 0.4)  # share of the frame one shape can fill; the world's fill 0.04..0.13
_FIT = 0.75  # overlap below which a foreground is no shape; a square on a circle has 0.83
_ENDS = 3  # frames averaged at the start and the end of a motion
_LOOKS = 8  # frames whose shape is fitted
_PALETTE = np.array(list(COLOURS.values())) * 255


class Measured(NamedTuple):
    """What a clip shows.

    colour, shape, motion: a name of the world, or "nothing", "other", "mixed".
    move: displacement of the centroid, first to last frames, in frame widths (x right, y down).
    drift: the farthest that the centroid ever was from its start, in frame widths.
    fit: median overlap (IoU) of the best template, 0..1.
    empty: frames without a foreground.
    """

    colour: str
    shape: str
    motion: str
    move: tuple[float, float] | None
    drift: float | None
    fit: float
    empty: int


def measure(frames: Array) -> Measured:
    """What the clip shows.

    Args:
        frames: u8 [F, H, W, 3], sRGB 0..255.
    """
    masks = [foreground(frame) for frame in frames]
    colours = [
        _colour(frame, mask) if mask.any() else NOTHING
        for frame, mask in zip(frames, masks, strict=True)
    ]
    looks = np.unique(np.linspace(0, len(frames) - 1, _LOOKS).round().astype(int))
    fits = [shape_of(masks[index]) for index in looks]
    motion, move, drift = _motion(np.array([_centroid(mask) for mask in masks]))
    return Measured(
        colour=_verdict(colours),
        shape=_verdict(name for name, _ in fits),
        motion=motion,
        move=move,
        drift=drift,
        fit=float(np.median([overlap for _, overlap in fits])),
        empty=sum(not mask.any() for mask in masks),
    )


def foreground(frame: Array) -> Array:
    """bool [H, W]: the shape's pixels; none at all where there is no single clear foreground."""
    pixels = frame.astype(np.float32)
    width = max(1, len(frame) // 32)
    inner = np.zeros(frame.shape[:2], bool)
    inner[width:-width, width:-width] = True
    distance = np.sqrt(np.square(pixels - np.median(pixels[~inner], axis=0)).sum(-1))
    far: Array = distance > _FAR
    if far.any():  # halfway between the two colours, so that soft edges do not change the size
        far = distance > max(_FAR, float(np.median(distance[far])) / 2)
    return far if _COVER[0] <= far.mean() <= _COVER[1] else np.zeros_like(far)


def shape_of(mask: Array) -> tuple[str, float]:
    """The best of the three templates and its overlap with a foreground, bool [H, W]."""
    if not mask.any():
        return NOTHING, 0.0
    best = max((_overlap(name, mask), name) for name in SHAPES)
    return (best[1] if best[0] >= _FIT else "other"), best[0]


def _overlap(name: str, mask: Array) -> float:
    """The highest IoU over centres within 2 px of 192 and sizes within 10 % of the measured."""
    side = len(mask)
    (cx, cy), radius = _centroid(mask), float(np.sqrt(mask.mean() / np.pi))
    axis = (np.arange(side) + 0.5) / side
    near = 2.2 * radius  # a window around every template of the search and the whole foreground
    rows, columns = mask.any(1), mask.any(0)
    ys = axis[(abs(axis - cy) < near) | rows]
    xs = axis[(abs(axis - cx) < near) | columns]
    window = mask[np.ix_((abs(axis - cy) < near) | rows, (abs(axis - cx) < near) | columns)]
    best, area = 0.0, float(window.sum())
    for dx, dy in product((-2 / 192, 0.0, 2 / 192), repeat=2):
        unit = _reach(name, xs[None, :] - cx - dx, ys[:, None] - cy - dy) / radius
        for size in (0.9, 0.95, 1.0, 1.05, 1.1):
            drawn = unit < size
            common = float((drawn & window).sum())
            best = max(best, common / (area + float(drawn.sum()) - common))
    return best


def _reach(name: str, x: Array, y: Array) -> Array:
    """The radius, as of a circle of equal area, at which a shape about its centroid has (x, y)."""
    if name == "circle":
        reach: Array = np.hypot(x, y)
    elif name == "square":
        reach = np.maximum(abs(x), abs(y)) / 0.8862  # half side: sqrt(pi) / 2
    else:  # equilateral, point up; inradius: sqrt(pi / (3 * sqrt(3)))
        reach = np.maximum(abs(x) * 0.8660 - y * 0.5, y) / 0.7776
    return reach


def _colour(frame: Array, mask: Array) -> str:
    """The world's colour nearest to the foreground's median, or "other"."""
    distance = np.linalg.norm(_PALETTE - np.median(frame[mask], axis=0), axis=1)
    return list(COLOURS)[int(distance.argmin())] if distance.min() < _UNKNOWN else "other"


def _centroid(mask: Array) -> tuple[float, float]:
    """Mean x and y of a foreground in 0..1; not a number where there is none."""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return float("nan"), float("nan")
    return float(xs.mean() + 0.5) / mask.shape[1], float(ys.mean() + 0.5) / mask.shape[0]


def _motion(path: Array) -> tuple[str, tuple[float, float] | None, float | None]:
    """Motion, displacement and drift of centroids, f64 [F, 2]; "nothing" if an end is missing."""
    start, end = path[:_ENDS].mean(0), path[-_ENDS:].mean(0)
    if np.isnan([start, end]).any():
        return NOTHING, None, None
    x, y = end - start
    drift = float(np.nanmax(np.linalg.norm(path - start, axis=1)))
    if max(abs(x), abs(y)) < LIMIT:
        name = "still"
    elif abs(x) > abs(y):
        name = "right" if x > 0 else "left"
    else:
        name = "down" if y > 0 else "up"
    return name, (float(x), float(y)), drift


def _verdict(votes: Iterable[str]) -> str:
    """What more than half of the frames say, or "mixed"."""
    counts = Counter(votes)
    name, count = counts.most_common(1)[0]
    return name if count * 2 > sum(counts.values()) else "mixed"
