"""The modes of a Make-A-Video cascade (arXiv:2209.14792), from texts and from what users give."""

from __future__ import annotations

import math
from functools import partial

from edgereel.plan import Mode

from .make_a_video_given import Given, between, filled, looked_at
from .make_a_video_high import High
from .make_a_video_parts import decoder, interpolation, led_by_interpolation, made_of, prior, text
from .make_a_video_plan import Widths
from .make_a_video_profile import Profile
from .parts import Part

__all__ = ["given_side", "modes"]


def given_side(profile: Profile, encoder: int) -> int:
    """Side of given pictures: a multiple of that of the result and of the image encoder's."""
    return math.lcm(profile.size * profile.scale_low * profile.scale_high, encoder)


def modes(profile: Profile, widths: Widths, encoder: int | None, high: High) -> dict[str, Mode]:
    """What a user can ask for.

    Args:
        profile, widths: of the checkpoint.
        high: its last stage.
        encoder: side of the image encoder's pictures in pixels; without one all begins with a text.
    """
    side = given_side(profile, encoder or 1)
    facts = Given(profile.frames, profile.skip, profile.size, side, widths.clip)
    fill = partial(interpolation, profile, widths)
    drawn = (decoder(profile, widths), between(facts, fill))
    begin = text(widths, guidance=True), prior(profile, widths)
    made: dict[str, tuple[str, tuple[Part, ...]]] = {"video": ("text to a video", (*begin, *drawn))}
    if encoder is not None:
        told = text(widths, guidance=False, default="")
        made |= {
            name: (words, (told, *parts)) for name, (words, parts) in filled(facts, fill).items()
        }
        begin = text(widths, guidance=True, default=""), looked_at(facts, profile.frames)
        made["variation"] = ("a new video that shows what one of yours does", (*begin, *drawn))
    found = {name: made_of(words, profile, parts, high) for name, (words, parts) in made.items()}
    led = {name: led_by_interpolation(found[name]) for name in filled(facts, fill) if name in found}
    return found | led
