"""Parts of modes over Make-A-Video's networks that begin with pictures or videos of the user's.

↑F fills in frames between, after or before given ones, those of D^t or of the user's. Of pictures
and videos of the user's the networks are told the mean of their CLIP embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgereel.plan import IntParam, Op, Param, Ref, Run, Size, Stage, VideoParam

from .parts import Frames, Part, Values
from .sd_plan import f32, trim_params, u8

__all__ = ["Given", "Interpolation", "between", "filled", "looked_at"]

# Frames `clip` to more of them, of the graph that says which they are, the size, and its params
Interpolation = Callable[[str, Size, dict[str, Param]], Part]


class Given(NamedTuple):
    """What the networks decide.

    frames: that D^t draws. skip: frames from one of these to the next in ↑F's by default. size: of
    these frames in pixels. side: of given pictures, a multiple. width: of image embeddings.
    """

    frames: int
    skip: int
    size: int
    side: int
    width: int

    @property
    def length(self) -> int:
        """Frames that ↑F makes by default."""
        return (self.frames - 1) * self.skip + 1


def filled(facts: Given, interpolation: Interpolation) -> dict[str, tuple[str, tuple[Part, ...]]]:
    """By mode, what it does, what is given to ↑F, and which of its frames that is."""
    one = {"image": "the first frame"}
    return {
        "animate": (
            "a picture of yours to a video",
            (_pictures(facts, one), _free(facts, interpolation, "first_known")),
        ),
        "transition": (
            "two pictures of yours to a video from one to the other",
            (
                _pictures(facts, {**one, "last_image": "the last frame"}),
                _free(facts, interpolation, "ends_known"),
            ),
        ),
        "interpolate": (
            "frames between those of a video of yours",
            (_video(facts, "frames to make others between"), between(facts, interpolation)),
        ),
        "extend": (
            "the last frames of a video of yours, and what follows",
            (
                _video(facts, "the video to go on from", last=True),
                _more(facts, interpolation, "first_known"),
            ),
        ),
        "extend-start": (
            "what comes before a video of yours, and its first frames",
            (
                _video(facts, "the video to begin before"),
                _more(facts, interpolation, "last_known"),
            ),
        ),
    }


def between(facts: Given, interpolation: Interpolation) -> Part:
    """Frames between some that are evenly apart."""
    skip = IntParam(
        description="from one frame that interpolation is given to the next",
        default=facts.skip,
        min=min(2, facts.skip),
        max=max(5, facts.skip),
    )
    count = Size(param="skip", times=facts.frames - 1, plus=1)
    return interpolation("every_known", count, {"skip": skip})


def _more(facts: Given, interpolation: Interpolation, placed: str) -> Part:
    """New frames after or before the given ones."""
    most = facts.length - facts.frames
    new = IntParam(description="frames to add", default=most, min=1, max=most)
    return interpolation(placed, Size(param="new_frames", plus=facts.frames), {"new_frames": new})


def _free(facts: Given, interpolation: Interpolation, placed: str) -> Part:
    """As many frames as are asked for."""
    frames = IntParam(
        description="frames of the video",
        default=facts.length,
        min=facts.frames,
        max=facts.length,
        aliases=("frames", "video_length"),
    )
    return interpolation(placed, Size(param="num_frames"), {"num_frames": frames})


def _video(facts: Given, what: str, *, last: bool = False) -> Part:
    """As many frames of a video of the user's as D^t draws, the first or the last ones."""
    count = facts.frames
    params = _video_params(facts, what, count, last=last)
    return _seen(facts, ("video", count), params, {})


def _pictures(facts: Given, pictures: dict[str, str]) -> Part:
    """One or two pictures of the user's: their names and what they are."""
    side = facts.side
    params: dict[str, Param] = {
        name: VideoParam(description=what, frames=1, height=side, width=side)
        for name, what in pictures.items()
    }
    values = dict.fromkeys(pictures, u8(1, side, side, 3))
    if len(pictures) == 1:
        return _seen(facts, ("image", 1), params, values)
    inputs = dict(zip(("first", "last"), pictures, strict=True))
    join = Run(graph="both_pictures", inputs=inputs, outputs={"frames": "pictures"})
    return _seen(facts, ("pictures", 2), params, values, join)


def looked_at(facts: Given, count: int) -> Part:
    """By default `count` frames of the user's, of which only the image embedding is used."""
    params = _video_params(facts, "the video, or a picture, to take after", Ref(param="num_frames"))
    params["num_frames"] = IntParam(
        description="first frames of the given video to look at; 1 for a picture",
        default=count,
        min=1,
        max=4096,
        aliases=("frames",),
    )
    values = {"video": u8("N", facts.side, facts.side, 3), "embedding": f32(1, facts.width)}
    stage = Stage(name="given", ops=(_embed("video"),))
    return Part(Frames("video", "N"), params, {}, {"N": Size(param="num_frames")}, values, (stage,))


def _seen(
    facts: Given, given: tuple[str, int], params: dict[str, Param], values: Values, *ops: Op
) -> Part:
    """Pictures of the user's as ↑F is given them, and their embedding.

    Args:
        facts: of the cascade.
        given: the value of the pictures, and how many.
        params, values, ops: that it is made of.
    """
    name, count = given
    size = facts.size
    small = Run(graph="given_clip", inputs={"frames": name}, outputs={"clip": "clip"})
    values = {
        **values,
        name: u8(count, facts.side, facts.side, 3),
        "clip": f32(1, 3, count, size, size),
        "embedding": f32(1, facts.width),
    }
    stage = Stage(name="given", ops=(*ops, small, _embed(name)))
    return Part(Frames("clip", count), params, {}, {}, values, (stage,))


def _embed(pictures: str) -> Run:
    return Run(graph="image_encoder", inputs={"frames": pictures}, outputs={"image": "embedding"})


def _video_params(
    facts: Given, what: str, frames: int | Ref, *, last: bool = False
) -> dict[str, Param]:
    """A video of the user's, and which part of it is taken."""
    video = VideoParam(
        description=what,
        start=Ref(param="start"),
        end=Ref(param="end"),
        fps=Ref(param="sample_fps"),
        frames=frames,
        last=last,
        height=facts.side,
        width=facts.side,
    )
    return {"video": video, **trim_params()}
