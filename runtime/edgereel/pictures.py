"""Reads frames that a user gives: a video file, a folder of pictures, or an array.

Which frames are taken, and how they are scaled, is one rule for all of them; engines/README.md
has it under "Videos".
"""

from __future__ import annotations

import importlib
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import BackendUnavailable, InputError
from edgereel.picture_files import Clip, Frames, Indices, Size, open_path, scaled

__all__ = ["Wanted", "frame_indices", "read", "scaled_size"]

# What seconds times a rate may lack to the whole number of frames that was meant.
_SLACK = 1e-6
_LARGEST = 16384  # pixels on a side, which no network here comes near


@dataclass(frozen=True)
class Wanted:
    """What a plan asks of a video; None leaves it as it is."""

    start: float = 0.0  # seconds
    end: float | None = None
    fps: float | None = None
    frames: int | None = None
    longest: int | None = None  # pixels of the longer side
    multiple: int = 1  # height and width are multiples of it, if scaled to `longest`
    filter: str | None = None  # "canny"
    last: bool = False  # the last frames, not the first
    still: bool = False  # a picture, not a video
    cover: Size | None = None  # height and width to cover and to be cut to, around the middle


def read(name: str, source: str | NDArray[Any], wanted: Wanted) -> Frames:
    """The frames of a source as `wanted`, u8 [F, H, W, 3], sRGB 0..255.

    Args:
        name: of the param, for messages.
        source: a path, or an array u8, or f32 in 0..1, [F, H, W, 3] or [F, H, W].
        wanted: which frames, how large.

    Raises:
        InputError: it is not there, not a video, damaged, too short, or too large for memory.
        BackendUnavailable: ffmpeg, or OpenCV for a filter, is missing.
    """
    if wanted.filter is not None:
        _opencv()
    try:
        clip = _opened(name, source)
        _check_clip(name, clip, wanted)
        indices = frame_indices(name, clip.count, clip.fps, wanted)
        frames = _middle(clip.take(indices, scaled_size(clip.size, wanted)), wanted.cover)
        return frames if wanted.filter is None else _canny(frames)
    except MemoryError as error:
        raise InputError(
            f"{name} does not fit into memory ({error}); expected frames of a few seconds. Take a "
            f"shorter part of it, or smaller frames."
        ) from None


def frame_indices(name: str, count: int, fps: float | None, wanted: Wanted) -> Indices:
    """Which frames of a source are wanted, i64 [F], never falling.

    Args:
        name: of the param, for messages.
        count: frames of the source.
        fps: of the source; None, as pictures have none, counts as the wanted one.
        wanted: the part, the rate, the number.

    Raises:
        InputError: no frame is left, or fewer than wanted.
    """
    fps = fps or wanted.fps
    if fps is None and (wanted.start > 0 or wanted.end is not None):
        raise InputError(
            f"{name} is pictures without a rate, of which a part in seconds is asked for; expected "
            f"a video file. Leave start and end away, or give a video file."
        )
    rate = fps or 1.0
    end = count / rate if wanted.end is None else min(wanted.end, count / rate)
    first = math.floor(wanted.start * rate + _SLACK)
    last = math.floor(end * rate + _SLACK)
    found = last - first
    if wanted.fps is not None and found > 0:
        found = math.floor((end - wanted.start) * wanted.fps + _SLACK)
    if found < 1:
        raise InputError(
            f"{name} has no frame from {wanted.start:g} s to {end:g} s; expected a part of its "
            f"{count} frames, which last {count / rate:g} s. Change start, end or the rate."
        )
    if found < (wanted.frames or 0):
        raise InputError(
            f"{name} has {found} frames; expected at least {wanted.frames}. Give a longer one, or "
            f"ask for fewer frames."
        )
    taken = np.arange(wanted.frames or found, dtype=np.int64)
    taken += found - len(taken) if wanted.last else 0
    indices: Indices = first + taken * (last - first) // found
    return indices


def scaled_size(size: Size, wanted: Wanted) -> Size:
    """Height and width after scaling.

    The longer is `longest` and both are rounded to `multiple`; or one is that of `cover` and the
    other the same or more.
    """
    if wanted.cover is not None:
        larger = max(to / side for to, side in zip(wanted.cover, size, strict=True))
        covering = (
            max(to, round(side * larger)) for to, side in zip(wanted.cover, size, strict=True)
        )
        return next(covering), next(covering)
    if wanted.longest is None:
        return size
    unit = max(size) * wanted.multiple
    height, width = (max(1, round(side * wanted.longest / unit)) for side in size)
    return height * wanted.multiple, width * wanted.multiple


def _check_clip(name: str, clip: Clip, wanted: Wanted) -> None:
    """Raises InputError for a video in place of a picture, and for sides that nothing needs."""
    if wanted.still and clip.count > 1:
        raise InputError(
            f"{name} has {clip.count} frames; expected one picture. Give one of them as a file."
        )
    if max(clip.size) > _LARGEST:
        height, width = clip.size
        raise InputError(
            f"{name} is {width} x {height} pixels; expected at most {_LARGEST} on a side. Scale it "
            f"before."
        )


def _middle(frames: Frames, size: Size | None) -> Frames:
    """Frames [F, H, W, 3] cut to a size around their middle."""
    if size is None:
        return frames
    top, left = ((had - kept) // 2 for had, kept in zip(frames.shape[1:3], size, strict=True))
    return frames[:, top : top + size[0], left : left + size[1]]


def _opened(name: str, source: str | NDArray[Any]) -> Clip:
    if not isinstance(source, str):
        return _of_array(name, source)
    if Path(source).suffix.lower() in (".npy", ".npz") and not Path(source).is_dir():
        return _of_array(name, _loaded(name, source))
    return open_path(name, Path(source))


def _loaded(name: str, path: str) -> NDArray[Any]:
    """The one array of an .npy or .npz file."""
    arrays: dict[str, NDArray[Any]]
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            arrays = {"": content}
        else:
            with content:
                arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{name} is {path!r}, which cannot be read ({error}); expected an .npz or .npy file. "
            f"Write one with numpy.savez, or correct the path."
        ) from None
    if len(arrays) != 1:
        raise InputError(
            f"{name} is {path!r} with the arrays {', '.join(arrays) or '(none)'}; expected one "
            f"array, the frames. Save them alone."
        )
    return arrays.popitem()[1]


def _of_array(name: str, array: NDArray[Any]) -> Clip:
    """Frames [F, H, W, 3] or, of grey ones, [F, H, W]; u8 0..255 or floats 0..1."""
    shape, whole = array.shape, array.dtype == np.uint8
    framed = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if not framed or 0 in shape or not (whole or array.dtype.kind == "f"):
        raise InputError(
            f"{name} is {array.dtype} {list(shape)}; expected uint8, or float32 from 0 to 1, as "
            f"[frames, height, width, 3] or [frames, height, width]. Convert it."
        )

    def take(indices: Indices, size: Size) -> Frames:
        taken = array[indices]
        if not whole:
            low, high = taken.min(), taken.max()
            if not (low >= 0 and high <= 1):  # refuses NaN too
                raise InputError(
                    f"{name} has values from {low:g} to {high:g}; expected floats from 0 to 1. "
                    f"Scale them, or convert them to uint8."
                )
            taken = np.rint(taken * 255).astype(np.uint8)
        if taken.ndim == 3:
            taken = np.repeat(taken[..., None], 3, axis=3)
        return scaled(name, taken, size)

    return Clip(len(array), None, (shape[1], shape[2]), take)


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise BackendUnavailable(
            f"Finding edges needs OpenCV, which does not load here ({error}). The package "
            "opencv-python-headless was expected. Install it: pip install 'edgereel[control]'."
        ) from None


def _canny(frames: Frames) -> Frames:
    """The edges of each frame, 0 or 255 in three equal channels, as the canny ControlNet reads."""
    canny = _opencv().Canny
    edges = np.stack([canny(np.ascontiguousarray(frame), 100, 200) for frame in frames])
    return np.repeat(edges[..., None], 3, axis=3)
