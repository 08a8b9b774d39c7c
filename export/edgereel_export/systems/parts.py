"""Modes put together of parts, each of which goes on from what the one before ended with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgereel.plan import (
    FloatParam,
    IntParam,
    Mode,
    Output,
    Param,
    Ref,
    Row,
    Size,
    Stage,
    TensorSpec,
    Window,
)

from .sd_plan import decode_op, f32, frames_each, u8

__all__ = [
    "Frames",
    "Part",
    "Values",
    "chunk_param",
    "decoded_by",
    "mode_of",
    "tile_param",
    "tiles",
]

_OVERLAP = 16  # rows and columns that neighbouring tiles share
Values = dict[str, TensorSpec]


class Frames(NamedTuple):
    """A value of pictures u8 [number, height, width, 3], by the symbols of its axes.

    Where a system hands on latents f32 [number, C, h, w], it is the value of those.
    """

    value: str
    number: int | str
    height: str = "H"
    width: str = "W"


class Part(NamedTuple):
    """What a network and what surrounds it add to a mode, and the frames it ends with."""

    frames: Frames
    params: dict[str, Param]
    rows: dict[str, tuple[Row, ...]]
    sizes: dict[str, Size]
    values: Values
    stages: tuple[Stage, ...]


def mode_of(description: str, fps: float, parts: Sequence[Part]) -> Mode:
    """The mode that does one part after the other; `fps` is the default of the file.

    A part may bring the param `fps` itself.
    """
    params: dict[str, Param] = {}
    rows: dict[str, tuple[Row, ...]] = {}
    sizes: dict[str, Size] = {}
    values: Values = {}
    for part in parts:
        params |= part.params
        rows |= part.rows
        sizes |= part.sizes
        values |= part.values
    params.setdefault(
        "fps",
        FloatParam(description="frames per second of the file", default=fps, min=0.1, max=120.0),
    )
    return Mode(
        description=description,
        params=params,
        sizes=sizes,
        rows=rows,
        values=values,
        stages=tuple(stage for part in parts for stage in part.stages),
        output=Output(value=parts[-1].frames.value, fps=Ref(param="fps")),
    )


def decoded_by(
    graph: str, x: str, shape: tuple[int | str, ...], frames: Frames
) -> tuple[Values, Stage]:
    """The values and the stage that make pictures of latents `x` of `shape`, each on its own."""
    part, pictures, sides = f"{x}.part", f"{frames.value}.part", (frames.height, frames.width, 3)
    values = {
        part: f32("K", *shape[1:]),
        pictures: u8("K", *sides),
        frames.value: u8(frames.number, *sides),
    }
    each = frames_each(x, part, "decode_chunk")
    ops = (decode_op(part, pictures, graph),)
    stage = Stage(name=frames.value, each=each, collect={pictures: frames.value}, ops=ops)
    return values, stage


def chunk_param() -> dict[str, Param]:
    """How many pictures are encoded or decoded at a time."""
    return {
        "decode_chunk": IntParam(
            description="pictures to encode or decode at a time; does not change the video",
            default=4,
            min=1,
            max=64,
        )
    }


def tiles(size: str) -> tuple[Window, Window]:
    """Tiles of as many rows and columns, TH and TW, of pictures as the param `size` says."""
    sides = (Window(symbol=s, size=Ref(param=size), overlap=_OVERLAP) for s in ("TH", "TW"))
    return (next(sides), next(sides))


def tile_param(what: str) -> IntParam:
    """The size of tiles, for what is done to them."""
    return IntParam(
        description=f"side of the parts of a small picture to {what}, for less memory; 0 is all",
        default=0,
        min=0,
        max=2048,
        multiple=8,
    )
