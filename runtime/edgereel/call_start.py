"""What a call has before its first op: the videos a user gave, and the sizes they and params set.

plan_start.py is the same for a plan without a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgereel import pictures
from edgereel.errors import InputError
from edgereel.picture_files import Frames
from edgereel.plan import Mode, Ref, Size, VideoParam, resized

__all__ = ["read_videos", "start_sizes"]

_SAID = ("has {} frames", "is {} pixels high", "is {} pixels wide")


def read_videos(mode: Mode, params: Mapping[str, Any]) -> dict[str, Frames]:
    """The frames of every video param, u8 [F, H, W, 3], by name.

    Raises:
        InputError: one cannot be read, or is not long enough.
        BackendUnavailable: what reads it is missing.
    """

    def value(field: Any) -> Any:
        return params[field.param] if isinstance(field, Ref) else field

    return {
        name: pictures.read(
            name,
            params[name],
            pictures.Wanted(
                start=value(param.start) or 0.0,
                end=value(param.end) or None,
                fps=value(param.fps) or None,
                frames=value(param.frames) or None,
                last=param.last,
                still=param.frames == 1,
                longest=value(param.longest),
                multiple=param.multiple,
                cover=_cover(value(param.height), value(param.width)),
                filter=param.filter,
            ),
        )
        for name, param in mode.params.items()
        if isinstance(param, VideoParam)
    }


def _cover(height: int | None, width: int | None) -> tuple[int, int] | None:
    return None if height is None or width is None else (height, width)


def start_sizes(
    mode: Mode, params: Mapping[str, Any], videos: Mapping[str, Frames]
) -> dict[str, int]:
    """The size of every symbol that has one from the start; all videos have those sizes.

    Raises:
        InputError: a size cannot be divided, or a video has another size than it must.
    """
    sizes: dict[str, int] = {}
    said: dict[str, str] = {}  # symbol -> where its size is from, to begin a sentence
    for symbol, size in mode.sizes.items():
        if size.param is not None:
            said[symbol] = f"{size.param} is {params[size.param]}"
            sizes[symbol] = _resized(params[size.param], size, said[symbol])
    for name, frames in videos.items():
        for axis, length in enumerate(mode.values[name].shape[:3]):
            if isinstance(length, str) and length not in {*mode.sizes, *sizes}:
                sizes[length] = frames.shape[axis]
                said[length] = _axis(mode, name, frames, axis)
    for symbol, size in mode.sizes.items():
        if size.symbol in said:  # others are of a window
            said[symbol] = said[size.symbol]
            sizes[symbol] = _resized(sizes[size.symbol], size, said[symbol])
    for name, frames in videos.items():
        for axis, length in enumerate(mode.values[name].shape[:3]):
            number = sizes[length] if isinstance(length, str) else length
            if frames.shape[axis] != number:
                why = f"as {said[length]}" if isinstance(length, str) else "as the cascade needs"
                raise InputError(
                    f"{_axis(mode, name, frames, axis)}; expected {number}, {why}. Change it, or "
                    f"give another."
                )
    return sizes


def _resized(number: int, size: Size, said: str) -> int:
    """The size of a symbol whose source is `number`, which must go even."""
    found, rest = resized(size, number)
    if rest and (size.times, size.plus) == (1, 0):
        near = max(1, round(number / size.divide)) * size.divide
        raise InputError(
            f"{said}; expected a multiple of {size.divide}. Make it, for example, {near}."
        )
    if rest or found < 1:
        raise InputError(
            f"{said}; expected a number n for which (n * {size.times} {size.plus:+d}) / "
            f"{size.divide} is a whole number above 0. Change it."
        )
    return found


def _axis(mode: Mode, name: str, frames: Frames, axis: int) -> str:
    """The size of a video's axis as the beginning of a sentence."""
    param = mode.params[name]
    scaled = axis > 0 and isinstance(param, VideoParam) and param.longest is not None
    words = _SAID[axis].format(frames.shape[axis])
    return f"{name} {words}{' after scaling' if scaled else ''}"
