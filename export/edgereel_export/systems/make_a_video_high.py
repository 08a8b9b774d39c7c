"""SR_h, the last stage of Make-A-Video: every frame is made larger on its own.

With the same noise for all frames, as published, what a network invents does not flicker. Here are
a network on pixels, whose sizes nobody published, and none at all; make_a_video_x4.py has another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgereel.plan import (
    Each,
    IntParam,
    Noise,
    Op,
    Param,
    Ref,
    Run,
    Stage,
    TensorSpec,
    Window,
)
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.modules import glue
from edgereel_export.modules.unet import UNet
from edgereel_export.modules.wrapped import PerFrame
from edgereel_export.step import Prediction, StepConfig, step_graph

from .examples import rand
from .make_a_video_plan import pixel_loop
from .make_a_video_profile import STEPS
from .parts import Frames, Part
from .sd_plan import f32, u8

__all__ = [
    "SHARED",
    "SHARED_NOISE",
    "Bicubic",
    "High",
    "Network",
    "Small",
    "by_parts",
    "chunk_size",
    "in_chunks",
]

SHARED = Ref(param="shared_noise")
SHARED_NOISE: dict[str, Param] = {
    "shared_noise": IntParam(
        description="1: frames enlarged one by one all get the same noise; 0: each its own",
        default=1,
        min=0,
        max=1,
    )
}
_K = {0: "K"}
_CHUNK_SIZE = "chunk_size"


class Small(NamedTuple):
    """Frames to enlarge: a value f32 [number, 3, H, W], about -1..1, `chunk` at a time."""

    value: str
    number: int | str
    chunk: int | Ref


def in_chunks(high: High, value: str, number: int | str, chunk: int) -> Part:
    """What `high` adds to a mode that made these frames; param chunk_size is `chunk` by default."""
    part = high.enlarged(Small(value, number, Ref(param=_CHUNK_SIZE)))
    return part._replace(params={**chunk_size(chunk), **part.params})


def chunk_size(default: int) -> dict[str, Param]:
    """Param `chunk_size` of stages that enlarge frames one by one."""
    param = IntParam(
        description="frames to enlarge at a time; does not change a video of shared noise",
        default=default,
        min=1,
        max=max(64, default),
    )
    return {_CHUNK_SIZE: param}


class High(Protocol):
    """A way to make the last frames, with what it brings into the cascade."""

    @property
    def tokenizers(self) -> Mapping[str, Tokens]:
        """For prompts of its own."""

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """Its alphas_cumprod, f64 [T], by name."""

    def graphs(self) -> dict[str, Graph]:
        """Its graphs, with example inputs."""

    def enlarged(self, small: Small) -> Part:
        """What it adds to a mode that has made the frames `small`: `frames`, u8 [F, H, W, 3]."""


@dataclass(frozen=True)
class Bicubic:
    """No network: frames of `size` pixels `scale` times as large."""

    size: int
    scale: int
    example: int = 2  # frames of the example inputs
    tokenizers: Mapping[str, Tokens] = field(default_factory=dict)

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """None."""
        return {}

    def graphs(self) -> dict[str, Graph]:
        """The filter, and pixels."""
        side, count = self.size * self.scale, self.example
        return {
            "upsample_high": Graph(
                glue.Upsample(self.size, self.scale),
                {"x": rand(count, 3, self.size, self.size)},
                ("low",),
                {"x": _K, "low": _K},
            ),
            "pixels": Graph(
                glue.Pixels(),
                {"x": rand(count, 3, side, side) * 2 - 1},
                ("frames",),
                {"x": _K, "frames": _K},
            ),
        }

    def enlarged(self, small: Small) -> Part:
        """A stage that asks nothing."""
        return self.stage(small, {}, {}, (), "chunk_upsampled")

    def stage(
        self,
        small: Small,
        params: dict[str, Param],
        values: dict[str, TensorSpec],
        ops: tuple[Op, ...],
        out: str,
    ) -> Part:
        """The stage with `ops` between the filter and the pixels, which are made of `out`."""
        side = self.size * self.scale
        upsample = Run(
            graph="upsample_high", inputs={"x": "chunk"}, outputs={"low": "chunk_upsampled"}
        )
        to_pixels = Run(graph="pixels", inputs={"x": out}, outputs={"frames": "chunk_frames"})
        whole = {
            "chunk": f32("K", 3, self.size, self.size),
            "chunk_upsampled": f32("K", 3, side, side),
            "chunk_frames": u8("K", side, side, 3),
            "frames": u8(small.number, side, side, 3),
        }
        made = Stage(
            name="super_res_high",
            each=by_parts(small, "chunk"),
            collect={"chunk_frames": "frames"},
            ops=(upsample, *ops, to_pixels),
        )
        return Part(Frames("frames", small.number), params, {}, {}, whole | values, (made,))


@dataclass(frozen=True, kw_only=True)
class Network(Bicubic):
    """A network that sees the frames made larger without it; `steps` are its default."""

    unet: UNet
    prediction: Prediction
    steps: int

    def graphs(self) -> dict[str, Graph]:
        """Those without a network, and its step."""
        side = self.size * self.scale
        shape = (self.example, 3, side, side)
        step = StepConfig(self.prediction, 1.0)
        network, free = PerFrame(self.unet), {"x": _K, "low": _K}
        denoise = step_graph(network, step, shape, {"low": rand(*shape)}, free)
        return super().graphs() | {"super_res_high": denoise}

    def enlarged(self, small: Small) -> Part:
        """A stage with a sampling loop."""
        params: dict[str, Param] = {
            "steps.super_res_high": IntParam(
                description=STEPS["super_res_high"],
                default=self.steps,
                min=1,
                max=1000,
            )
        }
        side = self.size * self.scale
        values = dict.fromkeys(("high_noise", "high_chunk"), f32("K", 3, side, side))
        loop = pixel_loop(
            "super_res_high",
            "high_noise",
            "high_chunk",
            {"low": "chunk_upsampled"},
            shared_noise=SHARED,
        )
        noise = Noise(value="high_noise", shared=SHARED)
        return self.stage(small, params | SHARED_NOISE, values, (noise, loop), "high_chunk")


def by_parts(small: Small, part: str) -> Each:
    """A stage's chunks of some frames, each seen as the value `part`, whose axis 0 is K."""
    return Each(slices={part: small.value}, windows=(Window(symbol="K", size=small.chunk),))
