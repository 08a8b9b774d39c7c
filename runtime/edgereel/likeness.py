"""How alike two arrays, pictures or videos are, in numpy: error, cosine, PSNR, SSIM, flicker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosine", "drift", "flicker", "flicker_error", "mean_square", "psnr", "ssim"]

Array = NDArray[Any]
Frames = NDArray[np.uint8]

_RADIUS, _SIGMA = 5, 1.5  # of SSIM's window: 11 taps
_K1, _K2, _LEVELS = 0.01, 0.03, 255.0


def drift(got: Array, reference: Array) -> float:
    """The norm of the difference as a share of the reference's norm; inf where not finite.

    Of pixels u8 as a share of white's, since a black picture may be off by a level too.
    """
    found, wanted = got.astype(np.float64), reference.astype(np.float64)
    if not np.isfinite(found).all():
        return math.inf
    error, size = float(np.linalg.norm(found - wanted)), float(np.linalg.norm(wanted))
    if reference.dtype == np.uint8:
        size = _LEVELS * math.sqrt(wanted.size)
    if error == 0:
        return 0.0
    return error / size if size else math.inf


def cosine(got: Array, reference: Array) -> float:
    """Of the angle between two arrays as vectors, -1 to 1; 0 where that is not defined."""
    found, wanted = got.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if np.array_equal(found, wanted):
        return 1.0
    if not np.isfinite(found).all():
        return 0.0
    size = float(np.linalg.norm(found) * np.linalg.norm(wanted))
    return float(found @ wanted) / size if size else 0.0


def mean_square(got: Array, reference: Array) -> float:
    """Of the difference of two arrays; inf where not finite."""
    square = float(np.mean((got.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return square if math.isfinite(square) else math.inf


def psnr(square: float, peak: float = _LEVELS) -> float:
    """In dB, of arrays whose largest magnitude is `peak`, by their mean square error.

    Infinite if that is 0, and -inf if it is not finite.
    """
    if square in (0, math.inf):
        return math.inf if square == 0 else -math.inf
    return 10 * math.log10(peak**2 / square + 1e-30)


def ssim(got: Frames, reference: Frames) -> float | None:
    """Structural similarity of two pictures u8 [H, W, 3], mean over places and channels, up to 1.

    Wang, Bovik, Sheikh, Simoncelli 2004, DOI 10.1109/TIP.2003.819861, eq. 13: windows of 11 x 11
    with Gaussian weights, sigma 1.5, that lie wholly in the picture. None where none does.
    """
    if min(got.shape[:2]) <= 2 * _RADIUS:
        return None
    x, y = got.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    both, c1, c2 = mean_x * mean_y, (_K1 * _LEVELS) ** 2, (_K2 * _LEVELS) ** 2
    squares = mean_x**2 + mean_y**2
    shared = _smooth(x * y) - both
    spread = _smooth(x * x + y * y) - squares
    found = (2 * both + c1) * (2 * shared + c2) / ((squares + c1) * (spread + c2))
    return float(found.mean())


def _smooth(picture: Array) -> Array:
    """The Gaussian mean of every whole window, f64 [H - 10, W - 10, 3]."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = picture.shape[axis] - 2 * _RADIUS
        parts = (picture.take(range(k, k + length), axis) * w for k, w in enumerate(weights))
        picture = sum(parts, np.float64(0))
    return picture


def flicker(frames: Frames) -> float | None:
    """Mean absolute difference of neighbouring frames in levels of 255; None for one frame.

    "Temporal flickering" of VBench, arXiv:2311.17982, whose score is (255 - this) / 255.
    """
    return _mean(float(np.abs(change).mean()) for change in _changes(frames))


def flicker_error(got: Frames, reference: Frames) -> float | None:
    """How differently two videos change from frame to frame, in levels; None for one frame.

    The root mean square, over pixels, of the difference of their changes: dtSSD of Erofeev et al.,
    "Perceptually Motivated Benchmark for Video Matting", BMVC 2015. An error that stands still
    counts nothing; one that is new in each frame counts sqrt(2) times its own size.
    """
    pairs = zip(_changes(got), _changes(reference), strict=True)
    square = _mean(float(np.mean((mine - its) ** 2)) for mine, its in pairs)
    return None if square is None else math.sqrt(square)


def _changes(frames: Frames) -> Iterator[Array]:
    """What each frame adds to the one before, f32 [H, W, 3]."""
    return (b.astype(np.float32) - a.astype(np.float32) for a, b in pairwise(frames))


def _mean(numbers: Iterator[float]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None
