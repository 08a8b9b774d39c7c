"""Clips whose content is known, right and wrong ones, to prove that the measuring is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from shapes_measure import Measured, measure
from torch import Tensor

from edgereel_export.shapes.world import COLOURS, FRAMES, MOTIONS, SHAPES, Scenes, draw
from edgereel_export.shapes.world import sample_scenes as _sample

__all__ = [
    "PROMPTS",
    "Asked",
    "altered_clips",
    "degraded",
    "drawn",
    "misread",
    "scene",
    "true_clips",
    "truth",
]

Array = NDArray[Any]
Known = tuple[str, Array, set[str]]  # what it is, the clip, the fields to be read as wrong
FPS = 20.0


class Asked(NamedTuple):
    """What a prompt asks for, in words of the world."""

    colour: str
    shape: str
    motion: str


PROMPTS = [Asked(*words) for words in product(COLOURS, SHAPES, MOTIONS)]


def truth(asked: Asked, pixels: int = 192, frames: int = FRAMES, seed: int = 0) -> Array:
    """u8 [F, pixels, pixels, 3]: the world's clip of a prompt, F frames spread over its time."""
    return drawn(scene(asked, FPS, seed), torch.linspace(0, FRAMES - 1, frames), pixels)


def scene(asked: Asked, fps: float, seed: int = 0) -> Scenes:
    """One scene of a prompt, whose clip has `fps` frames in a second."""
    scenes = _scenes(fps, seed)
    index = [list(COLOURS), list(SHAPES), list(MOTIONS)]
    wanted = [names.index(word) for names, word in zip(index, asked, strict=True)]
    found = torch.stack([scenes.colour, scenes.shape, scenes.motion], 1) == torch.tensor(wanted)
    return scenes.rows(found.all(1).nonzero()[seed % 3])


def drawn(scene: Scenes, times: Tensor, pixels: int) -> Array:
    """u8 [F, pixels, pixels, 3]: frames of a scene by their numbers, f32 [F]."""
    parts = (draw(scene, part, pixels) for part in times.split(8))  # few at a time, for memory
    video = torch.cat(list(parts), 2)[0]
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


@cache
def _scenes(fps: float, seed: int) -> Scenes:
    count = 5000  # a combination is 1 of 90, so three of each are certain enough
    return _sample(count, np.random.default_rng(seed), np.full(count, fps))


def degraded(clip: Array, seed: int = 0) -> Array:
    """The clip blurred, dimmed and noisy, as a weak network would draw it; still right."""
    rng = np.random.default_rng(seed)
    soft: Array = clip.astype(np.float32)
    for axis in (1, 2):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    noisy: Array = soft * 0.9 + rng.normal(0, 8, clip.shape)
    return np.asarray(noisy.round().clip(0, 255), np.uint8)


def true_clips(asked: Asked, **size: int) -> Iterator[Known]:
    """The clip that the world draws."""
    yield "truth", truth(asked, **size), set()


def altered_clips(asked: Asked, **size: int) -> Iterator[Known]:
    """The clip as a weak network would draw it, still right, and clips that are wrong."""
    clip = truth(asked, **size)
    yield "degraded", degraded(clip), set()
    half = len(clip) // 2
    rng = np.random.default_rng(0)
    for field, names in (("colour", COLOURS), ("shape", SHAPES), ("motion", MOTIONS)):
        options = [name for name in names if name != getattr(asked, field)]
        for name in options:
            yield f"{field} {name}", truth(asked._replace(**{field: name}), **size), {field}
    every = {"colour", "shape", "motion"}
    yield "blank", np.full_like(clip, 18), every
    yield "noise", rng.integers(0, 256, clip.shape, np.uint8), every
    yield "one colour", np.full_like(clip, clip.max((0, 1, 2))), every
    ended = clip.copy()
    ended[half - 1 :] = 18
    yield "gone after half", ended, every
    twins = np.maximum(_still(asked, clip, 0), _still(asked, clip, 1))
    yield "two shapes", twins, {"shape"}
    if asked.motion != "still":
        yield "frozen", np.repeat(clip[:1], len(clip), 0), {"motion"}
        yield "backwards", clip[::-1], {"motion"}


def _still(asked: Asked, clip: Array, corner: int) -> Array:
    """The shape of the first frame, smaller, resting in the upper left or lower right quarter."""
    frame = clip[0][::2, ::2]
    quarter = np.full_like(clip[0], 18)
    start = corner * (len(quarter) - len(frame))
    quarter[start : start + len(frame), start : start + len(frame)] = frame
    return np.repeat(quarter[None], len(clip), 0)


def misread(
    known: Callable[..., Iterator[Known]],
    prompts: Iterable[Asked],
    tick: Callable[[], object] = lambda: None,
    **size: int,
) -> list[str]:
    """Every clip that is measured as something it is not; empty if the measuring is right.

    Args:
        known: `true_clips` or `altered_clips`.
        prompts: what the clips are made for.
        tick: called after each prompt.
        **size: `pixels` and `frames` of the clips.
    """
    found = []
    for number, asked in enumerate(prompts):
        for name, shown, wrong in known(asked, seed=number % 3, **size):
            result = measure(shown)
            differing = _differing(asked, result)
            if not wrong <= differing or (differing and not wrong):
                found.append(f"{' '.join(asked)}, {name}: {result}")
        tick()
    return found


def _differing(asked: Asked, result: Measured) -> set[str]:
    """The fields in which a clip is not what was asked."""
    return {field for field in Asked._fields if getattr(asked, field) != getattr(result, field)}
