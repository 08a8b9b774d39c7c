"""Captions of the `shapes` world in varied plain English.

Training captions come from `caption`. `held_out` builds other sentences from the same words; its
sentence patterns are never used in training.
"""

from __future__ import annotations

import numpy as np

from .world import COLOURS, MOTIONS, SHAPES, SIZES, Scenes

__all__ = ["all_captions", "caption", "held_out", "plain"]

_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
}
_COLOUR_WORDS = {"purple": ("purple", "violet")}
_VERBS = (
    ("moving", "moves"),
    ("drifting", "drifts"),
    ("sliding", "slides"),
    ("gliding", "glides"),
    ("going", "goes"),
    ("travelling", "travels"),
    ("heading", "heads"),
    ("floating", "floats"),
)
_WAYS = {
    "left": ("left", "to the left", "leftward", "towards the left", "leftwards"),
    "right": ("right", "to the right", "rightward", "towards the right", "rightwards"),
    "up": ("up", "upward", "to the top", "towards the top", "upwards"),
    "down": ("down", "downward", "to the bottom", "towards the bottom", "downwards"),
}
_ACROSS = {
    "left": "from right to left",
    "right": "from left to right",
    "up": "from bottom to top",
    "down": "from top to bottom",
}
_STILL = (  # as a participle or state; as a verb
    ("standing still", "not moving", "at rest", "staying in place", "resting", "motionless"),
    ("stands still", "stays still", "does not move", "is still"),
)
_PLACES = ("", "", "", " on a dark background", " in the dark", " on black")
_PATTERNS = (
    "{a}{thing} {moving}",
    "{a}{thing} {moves}",
    "{a}{thing}",
    "{a}{thing}, {moving}",
    "{a}{thing} on a dark background, {moving}",
    "{a}{thing} in the dark {moves}",
    "{a}{thing} which {moves}",
    "{a}{thing} which is {moving}",
    "{a}{thing}. it {moves}",
    "{a}{thing}. it is {moving}",
    "{a}{thing}: it {moves}",
    "{a}{thing} and how it {moves}",
    "{a}{shape} that is {colour}, {moving}",
    "{a}{shape} that is {colour} {moves}",
    "{a}{shape} {moves} and is {colour}",
    "{a}{shape} {moves}, it is {colour}",
    "{a}{shape} in {colour} {moves}",
    "{a}{shape} in {colour}, {moving}",
    "{a}{shape} which is {moving} and {colour}",
    "{a}{shape} is {colour} and {moves}",
    "{a}{shape} is {colour}. it is {moving}",
    "{shape} {moving}, {colour}",
    "{shape}: {colour} and {moving}",
    "{colour}: {a}{shape} {moving}",
    "{colour} and {moving}: {shape}",
    "{moving}: {a}{thing}",
    "{moving}, {a}{thing}",
    "{moving} is {a}{thing}",
    "{moving} and {colour}, {a}{shape}",
    "it {moves} and it is {a}{thing}",
    "it {moves}: {a}{thing}",
    "it is {a}{thing} and it {moves}",
    "it is {a}{shape}, {colour}, and it is {moving}",
    "it is {colour}, it is {a}{shape}, it {moves}",
    "what {moves} is {a}{thing}",
    "what is {moving} is {colour}: {a}{shape}",
    "here {a}{thing} {moves}",
    "here is {a}{thing}, {moving}",
    "there is {a}{thing} {moving}",
    "there is {a}{shape} and it is {colour} and {moving}",
    "see how {a}{thing} {moves}",
    "this {shape} {moves} and it is {colour}",
    "this {colour} {shape} {moves}",
    "this is {a}{thing} {moving}",
    "this video: {a}{thing} {moves}",
    "a video of {a}{thing} {moving}",
    "an animation of {a}{thing} {moving}",
    "an animation in which {a}{thing} {moves}",
    "a clip of {a}{thing} {moving}",
    "a clip: {a}{shape}, it is {colour}, it is {moving}",
)
_HELD_PATTERNS = (
    "on a dark background, a {colour} {shape} {moves}",
    "in a video, the {colour} {shape} {moves}",
    "a {colour} {shape} is {moving}",
    "the {shape} that is {moving} is {colour}",
    "a {colour} {shape} that {moves}",
    "the {shape} {moves}. the {shape} is {colour}",
    "one {shape}, {colour}, {moving}",
    "{moving} in the dark: one {colour} {shape}",
)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _words(scenes: Scenes, index: int, rng: np.random.Generator) -> tuple[str, str, str, str]:
    size = list(SIZES)[int(scenes.size[index])]
    colour = list(COLOURS)[int(scenes.colour[index])]
    shape = SHAPES[int(scenes.shape[index])]
    motion = list(MOTIONS)[int(scenes.motion[index])]
    said_size = _pick(rng, _SIZE_WORDS[size]) if rng.random() < 0.6 else ""
    said_shape = shape if rng.random() < 0.6 else _pick(rng, _SHAPE_WORDS[shape])
    return said_size, _pick(rng, _COLOUR_WORDS.get(colour, (colour,))), said_shape, motion


def _phrase(motion: str, rng: np.random.Generator, *, finite: bool) -> str:
    """The motion as `moves left` (finite) or `moving left`, the form that a sentence needs."""
    if motion == "still":
        return _pick(rng, _STILL[finite])
    verb = _VERBS[int(rng.integers(len(_VERBS)))][finite]
    way = _ACROSS[motion] if rng.random() < 0.12 else _pick(rng, _WAYS[motion])
    return f"{verb} {way}"


def caption(scenes: Scenes, index: int, rng: np.random.Generator) -> str:
    """A training caption of one scene; now and then the motion or the size is left unsaid."""
    size, colour, shape, motion = _words(scenes, index, rng)
    text = _pick(rng, _PATTERNS[:3] if rng.random() < 0.3 else _PATTERNS).format(
        a=_pick(rng, ("a ", "a ", "a ", "the ", "", "one ")),
        thing=" ".join(word for word in (size, colour, shape) if word),
        colour=colour,
        shape=shape,
        moves=_phrase(motion, rng, finite=True),
        moving=_phrase(motion, rng, finite=False),
    )
    text += _pick(rng, _PLACES)
    text = text[0].upper() + text[1:] if rng.random() < 0.15 else text
    return text + "." if rng.random() < 0.15 else text


def held_out(colour: str, shape: str, motion: str, rng: np.random.Generator) -> str:
    """A sentence pattern kept out of training, made of training words."""
    pattern = _pick(rng, _HELD_PATTERNS)
    phrase = _phrase(motion, rng, finite="{moves}" in pattern)
    return pattern.format(colour=colour, shape=shape, moves=phrase, moving=phrase)


def plain(colour: str, shape: str, motion: str) -> str:
    """The plainest caption, as the benchmark and the README use it."""
    return f"a {colour} {shape} " + ("standing still" if motion == "still" else f"moving {motion}")


def all_captions(count: int, scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """One caption for each of the first `count` scenes."""
    return [caption(scenes, index, rng) for index in range(count)]
