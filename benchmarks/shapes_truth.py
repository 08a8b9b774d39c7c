"""Clips whose content is known, right and wrong ones, to prove that the measuring can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from edgereel_export.shapes.world import COLOURS, FRAMES, MOTIONS, SHAPES, Scenes, draw
from edgereel_export.shapes.world import sample_scenes as _sample
from numpy.typing import NDArray
from shapes_measure import Measured, measure

__all__ = ["PROMPTS", "Asked", "degraded", "misread_truths", "misread_wrongs", "truth", "wrong_clips"]

Array = NDArray[Any]
FPS = 20.0


class Asked(NamedTuple):
    """What a prompt asks for, in words of the world."""

    colour: str
    shape: str
    motion: str


PROMPTS = [Asked(*words) for words in product(COLOURS, SHAPES, MOTIONS)]


def truth(asked: Asked, pixels: int = 192, frames: int = FRAMES, seed: int = 0) -> Array:
    """u8 [F, pixels, pixels, 3]: what the world draws for a prompt, at frames spread over a clip."""
    scenes = _scenes(seed)
    index = [list(COLOURS), list(SHAPES), list(MOTIONS)]
    wanted = [names.index(word) for names, word in zip(index, asked, strict=True)]
    found = torch.stack([scenes.colour, scenes.shape, scenes.motion], 1) == torch.tensor(wanted)
    row = int(found.all(1).nonzero()[seed % 3, 0])
    scene = Scenes(**{f.name: getattr(scenes, f.name)[row : row + 1] for f in fields(Scenes)})
    times = torch.linspace(0, FRAMES - 1, frames)
    video = torch.cat([draw(scene, part, pixels) for part in times.split(8)], 2)[0]
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


@cache
def _scenes(seed: int) -> Scenes:
    count = 5000  # a combination is 1 of 90, so three of each are certain enough
    return _sample(count, np.random.default_rng(seed), np.full(count, FPS))


def degraded(clip: Array, seed: int = 0) -> Array:
    """The clip blurred, dimmed and noisy, as a weak network would draw it: still the same content."""
    rng = np.random.default_rng(seed)
    soft = clip.astype(np.float32)
    for axis in (1, 2):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    return (soft * 0.9 + rng.normal(0, 8, clip.shape)).round().clip(0, 255).astype(np.uint8)


def wrong_clips(asked: Asked, **size: int) -> Iterator[tuple[str, Array, set[str]]]:
    """Clips that are not what was asked: (what is wrong, clip, fields that must be read as wrong)."""
    clip = truth(asked, **size)
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


def misread_truths(
    prompts: Iterable[Asked], tick: Callable[[], object] = lambda: None, **size: int
) -> list[str]:
    """Every ground truth, as drawn or degraded, that is not measured as what it is.

    Args:
        prompts: what to draw.
        tick: called after each prompt.
        **size: `pixels` and `frames` of the clips.
    """
    found = []
    for number, asked in enumerate(prompts):
        clip = truth(asked, seed=number % 3, **size)
        for name, shown in (("truth", clip), ("degraded", degraded(clip))):
            if tuple(result := measure(shown))[:3] != asked or result.empty:
                found.append(f"{' '.join(asked)}, {name}: {result}")
        tick()
    return found


def misread_wrongs(
    prompts: Iterable[Asked], tick: Callable[[], object] = lambda: None, **size: int
) -> list[str]:
    """Every wrong clip that is measured as right; arguments as in `misread_truths`."""
    found = []
    for asked in prompts:
        for name, shown, fields_wrong in wrong_clips(asked, **size):
            if not fields_wrong <= _differing(asked, result := measure(shown)):
                found.append(f"{' '.join(asked)}, {name}: {result}")
        tick()
    return found


def _differing(asked: Asked, result: Measured) -> set[str]:
    """The fields in which a clip is not what was asked."""
    return {field for field in Asked._fields if getattr(asked, field) != getattr(result, field)}
