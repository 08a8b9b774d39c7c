"""The modes of an Emu Video cascade (arXiv:2311.10709): which parts each is made of.

A text becomes a picture, a picture and a text become a video, and interpolation makes more frames
of that. A picture or a video of the user's takes the place of what would have been made. What is
handed from part to part are latents; the last one makes them pictures.
"""

from __future__ import annotations

from collections.abc import Collection

from edgereel.plan import Mode
from edgereel_export.emu_checkpoint import Network

from .emu_video_later import extension, interpolation, video
from .emu_video_parts import (
    FPS,
    EmuFacts,
    decoded,
    given_picture,
    given_video,
    joined,
    picture,
)
from .parts import Part, mode_of

__all__ = ["MODES", "modes", "needs"]

MODES = {  # the parts of each mode, in order
    "video": ("picture", "video"),
    "image": ("image",),
    "animate": ("given picture", "video"),
    "interpolated": ("picture", "video", "interpolation"),
    "animate-interpolated": ("given picture", "video", "interpolation"),
    "interpolate": ("given video", "interpolation"),
    "extend": ("extension",),
}
_SEAMLESS = "-seamless"  # of modes with interpolation
_NETWORKS: dict[str, Network] = {
    "picture": "image",
    "image": "image",
    "video": "video",
    "interpolation": "interpolation",
    "extension": "extension",
}
_INTERPOLATED_FPS = 16.0
_WORDS = {
    "picture": "text to a picture",
    "image": "text to a picture",
    "given picture": "a picture of yours",
    "given video": "a video of yours",
    "video": "to a video",
    "interpolation": "with four times the frames and more",
    "extension": "a video of yours with more frames, as another text says",
}


def needs(mode: str) -> set[Network]:
    """The networks that a mode is made with."""
    parts = MODES.get(mode.removesuffix(_SEAMLESS), ())
    return {_NETWORKS[part] for part in parts if part in _NETWORKS}


def modes(facts: EmuFacts, networks: Collection[Network]) -> dict[str, Mode]:
    """What can be done with the networks there are."""
    found = {}
    for name in MODES:
        if not needs(name) <= set(networks):
            continue
        found[name] = _mode(name, facts)
        if "interpolation" in MODES[name]:
            found[name + _SEAMLESS] = _mode(name, facts, seamless=True)
    return found


def _mode(name: str, facts: EmuFacts, *, seamless: bool = False) -> Mode:
    names = MODES[name]
    more = "interpolation" in names
    parts: list[Part] = []
    for part in names:
        match part:
            case "image" | "picture":
                parts.append(picture(facts, part == "picture"))
            case "given picture":
                parts.append(given_picture(facts))
            case "given video":
                parts.append(given_video(facts))
            case "video":
                parts.append(video(facts, parts[-1].frames, of_eight=more))
            case "interpolation":
                parts.append(interpolation(facts, parts[-1].frames, seamless=seamless))
            case "extension":
                parts.append(extension(facts))
    parts.append(decoded(facts, parts[-1].frames))
    if name == "extend":
        parts.append(joined(parts[-1].frames))
    words = ", ".join(_WORDS[part] for part in names)
    words += ", without the jump between groups" if seamless else ""
    return mode_of(words, _INTERPOLATED_FPS if more else FPS, parts)
