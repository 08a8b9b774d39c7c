"""The modes of a LaVie cascade (arXiv:2309.15103): which parts each is made of.

The published combinations are base, base and interpolation, and either with super-resolution; the
last two also take a video of the user's. SEINE (arXiv:2310.20700), the same network with further
channels, begins with one or two pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgereel.plan import Mode
from edgereel_export.lavie_checkpoint import Stage

from .lavie_later import interpolation, upscaling
from .lavie_parts import FRAMES, base, given, image
from .lavie_seine import animation
from .parts import Part, mode_of
from .sd_plan import Facts

__all__ = ["MODES", "modes", "needs"]

MODES = {  # the parts of each mode, in order
    "video": ("base",),
    "image": ("image",),
    "interpolated": ("base", "interpolation"),
    "upscaled": ("base", "vsr"),
    "interpolated-upscaled": ("base", "interpolation", "vsr"),
    "interpolate": ("given", "interpolation"),
    "upscale": ("given", "vsr"),
    "animate": ("first",),
    "transition": ("both",),
}
_NETWORKS: dict[str, Stage] = {
    "base": "base",
    "image": "base",
    "interpolation": "interpolation",
    "vsr": "vsr",
    "first": "seine",
    "both": "seine",
}
_FPS, _INTERPOLATED_FPS = 8.0, 24.0  # as published, though the second has four times the frames
_WORDS = {
    "base": "text to a video",
    "image": "text to one picture",
    "given": "a video of yours",
    "first": "a picture of yours to a video",
    "both": "a video from one picture of yours to another",
    "interpolation": "with four times the frames",
    "vsr": "with four times the height and width",
}


def needs(mode: str) -> set[Stage]:
    """The networks that a mode of MODES is made with."""
    return {_NETWORKS[part] for part in MODES[mode] if part in _NETWORKS}


def modes(facts: Mapping[str, Facts], stages: Collection[Stage]) -> dict[str, Mode]:
    """What can be done with the networks of `stages`.

    Args:
        facts: of "base", which are those of interpolation too, and of "vsr".
        stages: which networks there are.
    """
    return {
        name: mode_of(
            ", ".join(_WORDS[part] for part in names),
            _INTERPOLATED_FPS if "interpolation" in names else _FPS,
            _parts(names, facts),
        )
        for name, names in MODES.items()
        if needs(name) <= set(stages)
    }


def _parts(names: tuple[str, ...], facts: Mapping[str, Facts]) -> list[Part]:
    """The parts of a mode, each working on the pictures of the one before."""
    parts: list[Part] = []
    for name in names:
        match name:
            case "base":
                parts.append(base(facts["base"]))
            case "image":
                parts.append(image(facts["base"]))
            case "given":
                large = "vsr" in names
                parts.append(given(facts["vsr"]) if large else given(facts["base"], FRAMES))
            case "first" | "both":
                parts.append(animation(facts["base"], last=name == "both"))
            case "interpolation":
                parts.append(interpolation(facts["base"], parts[-1].frames))
            case "vsr":
                parts.append(upscaling(facts["vsr"], parts[-1].frames))
    return parts
