"""Stages of a cascade made of Karlo's networks: sampling loops on pixels, super-resolution."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgereel.plan import Denoise, Each, Noise, Op, Range, Ref, Run, Stage, TensorSpec, Window

from .make_a_video_high import SHARED, High
from .make_a_video_plan import Widths
from .sd_plan import f32, u8

__all__ = ["SKIP", "KarloFacts", "Made", "joint", "one_by_one", "picture", "pixels"]

SKIP = 5  # interpolation makes so many frames of one, as published
Made = tuple[dict[str, TensorSpec], Stage]


class KarloFacts(NamedTuple):
    """What the checkpoint decides.

    size: side of the decoder's pictures in pixels. scale: of super-resolution. frames: that the
    decoder draws, 0 if it has no layers over frames. interpolates: whether there is interpolation.
    joint: whether super-resolution has layers over frames. timesteps: of its training. side: of
    given pictures, 0 without an image encoder. high: what makes the frames larger still, if
    anything.
    """

    widths: Widths
    size: int
    scale: int
    frames: int
    interpolates: bool
    joint: bool
    timesteps: int
    side: int
    high: High | None = None

    @property
    def large(self) -> int:
        """Side of the pictures of a mode in pixels."""
        return self.size * self.scale

    @property
    def length(self) -> int:
        """Frames of an interpolated video."""
        return (self.frames - 1) * SKIP + 1


def picture(facts: KarloFacts) -> Made:
    """Super-resolution of one picture, to `frames`, or to `large` if it gets larger still."""
    values, ops = _enlarged(facts, "clip", 1)
    if facts.high is None:
        values |= {"frames": u8(1, facts.large, facts.large, 3)}
        ops = (*ops, _to_pixels("large", "frames"))
    return values, Stage(name="super_res", ops=ops)


def one_by_one(facts: KarloFacts, frames: int | str, small: str) -> list[Made]:
    """Super-resolution of each frame of a video on its own, as SR_h of the paper: with one noise.

    It ends with `frames`, or with `large_frames` if they get larger still.

    Args:
        facts: of the checkpoint.
        frames: of the video.
        small: value of it, f32 [1, 3, F, H, W].
    """
    split = Run(graph=f"{small}_frames", inputs={"x": small}, outputs={"frames": "small_frames"})
    split_values = {"small_frames": f32(frames, 3, facts.size, facts.size)}
    values, ops = _enlarged(facts, "part", "K", shared=SHARED)
    values["part"] = f32("K", 3, facts.size, facts.size)
    sides = (facts.large, facts.large)
    if facts.high is None:
        values |= {"part_frames": u8("K", *sides, 3), "frames": u8(frames, *sides, 3)}
        ops, collect = (*ops, _to_pixels("large", "part_frames")), {"part_frames": "frames"}
    else:
        values["large_frames"], collect = f32(frames, 3, *sides), {"large": "large_frames"}
    window = Window(symbol="K", size=Ref(param="chunk_size"))
    stage = Stage(
        name="super_res",
        each=Each(slices={"part": "small_frames"}, windows=(window,)),
        collect=collect,
        ops=ops,
    )
    return [(split_values, Stage(name="split", ops=(split,))), (values, stage)]


def joint(facts: KarloFacts, frames: int | str, small: str) -> Made:
    """Super-resolution of a whole video, by layers over frames too; arguments as of one_by_one."""
    values, ops = _enlarged(facts, small, 1, frames=frames, suffix=f"_{small}")
    values["large_frames"] = f32(frames, 3, facts.large, facts.large)
    split = Run(
        graph=f"large_{small}_frames", inputs={"x": "large"}, outputs={"frames": "large_frames"}
    )
    ops = (*ops, split)
    if facts.high is None:
        values["frames"] = u8(frames, facts.large, facts.large, 3)
        ops = (*ops, _to_pixels("large_frames", "frames"))
    return values, Stage(name="super_res", ops=ops)


def _enlarged(
    facts: KarloFacts,
    small: str,
    count: int | str,
    *,
    frames: int | str = 0,
    suffix: str = "",
    shared: bool | Ref = False,
) -> tuple[dict[str, TensorSpec], tuple[Op, ...]]:
    """Values and ops that enlarge the value `small`, [count, 3, (frames,) H, W], to `large`."""
    sides = (facts.large, facts.large)
    shape = (count, 3, *((frames,) if frames else ()), *sides)
    names = ("upsampled", "super_res_noise", "unfinished", "large")
    last = facts.timesteps - 1
    steps = (
        ("super_res_first", "super_res_noise", "unfinished", Range(from_=last, to=0)),
        ("super_res_last", "unfinished", "large", Range(from_=0)),
    )
    loops = (
        pixels(
            f"{graph}{suffix}",
            (x, out),
            {"low": "upsampled"},
            "super_res",
            range=part,
            shared_noise=shared,
        )
        for graph, x, out, part in steps
    )
    ops: tuple[Op, ...] = (
        Run(graph=f"upsample{suffix}", inputs={"x": small}, outputs={"low": "upsampled"}),
        Noise(value="super_res_noise", shared=shared),
        *loops,
    )
    return {name: f32(*shape) for name in names}, ops


def _to_pixels(x: str, out: str) -> Run:
    return Run(graph="pixels", inputs={"x": x}, outputs={"frames": out})


def pixels(
    graph: str,
    way: tuple[str, str],
    conditions: dict[str, str],
    stage: str,
    *,
    learned: bool = False,
    **more: Any,
) -> Denoise:
    """A loop of a network on pixels.

    Args:
        graph: of its step.
        way: values of the first and the last state.
        conditions: of the graph.
        stage: whose steps, and whose noise.
        learned: whether it predicts its variance.
        more: further fields of the op.
    """
    return Denoise(
        graph=graph,
        x=way[0],
        out=way[1],
        conditions=conditions,
        schedule="super_res" if stage == "super_res" else "decoder",
        sampler=Ref(param="sampler"),
        spacing="unclip",
        steps=Ref(param=f"steps.{stage}"),
        eta=Ref(param="eta"),
        final="one",
        variance="learned_range" if learned else "fixed_small_log",
        noise=f"{stage}.z",
        **more,
    )
