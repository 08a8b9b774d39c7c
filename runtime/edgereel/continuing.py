"""Long videos by continuing: which modes can be, and what a clip hands on to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError
from edgereel.params import ParamValue
from edgereel.plan import IntParam, Mode, Plan, VideoParam
from edgereel.running import Progress

__all__ = ["count", "next_values", "of_all", "picture"]


def count(times: int, noise: object) -> int:
    """The number of clips of a video that is continued so often.

    Raises:
        InputError: that is less than once, or there is given noise, which is that of one clip.
    """
    if noise is not None:
        raise InputError(
            "noise is given, which is that of one clip; expected none for a video that is "
            "continued. Leave it out, and choose a seed."
        )
    if type(times) is not int or times < 1:
        raise InputError(
            f"a video is to be continued {times!r} times; expected a whole number of at least 1. "
            f"Change it, or make a single clip."
        )
    return times + 1


def picture(plan: Plan, mode: str) -> str:
    """The param that a mode begins with: its only video param of one frame, taken as it is.

    Raises:
        InputError: there is none, or two; the message names the modes that can be continued.
    """
    found = {name: _picture(each) for name, each in plan.modes.items()}
    name = found[mode]
    if name is None:
        able = [name for name, param in found.items() if param is not None]
        choice = f"one of {', '.join(able)}. Choose it, or" if able else "which it lacks. Only"
        raise InputError(
            f"mode {mode!r} of {plan.name} does not begin with one picture, so it cannot be "
            f"continued; expected a mode that does, {choice} make a single clip."
        )
    return name


def _picture(mode: Mode) -> str | None:
    videos = {name: each for name, each in mode.params.items() if isinstance(each, VideoParam)}
    pictures = [name for name, each in videos.items() if each.frames == 1]
    if len(pictures) != 1:
        return None
    only = videos[pictures[0]]
    # A frame of ours has no time, and its edges are not the frame.
    whole = only.start is None and only.end is None and only.filter is None
    return pictures[0] if whole else None


def next_values(
    mode: Mode, values: Mapping[str, ParamValue], picture: str, frames: NDArray[np.uint8]
) -> dict[str, ParamValue]:
    """The params of the clip after the one with these params and these frames u8 [F, H, W, 3].

    Raises:
        InputError: there is one frame, which the next clip would only repeat.
    """
    if len(frames) < 2:
        raise InputError(
            "a clip of this mode has 1 frame, so a video does not become longer by continuing it; "
            "expected at least 2. Choose another mode, or ask for more frames."
        )
    changed: dict[str, ParamValue] = {picture: frames[-1:].copy()}  # a view would hold them all
    match mode.params.get("seed"), values.get("seed"):
        case IntParam(min=int(low), max=int(high)), int(seed):
            changed["seed"] = low + (seed + 1 - low) % (high - low + 1)
    return {**values, **changed}


def of_all(
    callback: Callable[[Progress], None], clip: int, clips: int, started: float
) -> Callable[[Progress], None]:
    """A callback for one of several clips, which tells `callback` about all of them.

    Args:
        callback: whom to tell.
        clip: index of this clip.
        clips: how many there are.
        started: when the first began, by `time.perf_counter`.
    """

    def tell(progress: Progress) -> None:
        done = (clip + progress.done) / clips
        seconds = time.perf_counter() - started
        callback(replace(progress, clip=clip, clips=clips, done=done, seconds=seconds))

    return tell
