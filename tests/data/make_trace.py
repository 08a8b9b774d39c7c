"""Writes tests/data/trace: `python tests/data/make_trace.py`.

A whole cascade in a few kilobytes whose sizes a call decides. Mode `paint` makes as many frames,
as large, as its params say, mode `tiles` the same in parts that overlap; mode `trace` follows a
video of any size. All work a few frames at a time. Every number is made by operations that IEEE
rounds exactly, so the files are the same bytes on every machine; a test compares them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgspec
import numpy as np
from make_toy import SPLIT_ROW, UPDATE, write_graph

from edgereel import plan as p
from edgereel.schedule import alphas_cumprod_linear

TRACE = Path(__file__).parent / "trace"
GRAPHS = {
    # every pixel of the result is the mean of four times four
    "shrink": """
shrink (uint8[K, H, W, 3] frames) => (float[K, 3, h, w] small)
{
    one = Constant<value_float = 1.0>()
    half = Constant<value_float = 127.5>()
    levels = Cast<to = 1>(frames)
    channels_first = Transpose<perm = [0, 3, 1, 2]>(levels)
    positive = Div(channels_first, half)
    signed = Sub(positive, one)
    small = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(signed)
}""",
    # frame k is brighter by the k-th number
    "drift": """
drift (float[F, 3, h, w] x, float[F] by) => (float[F, 3, h, w] y)
{
    last = Constant<value_ints = [1, 2, 3]>()
    by_4 = Unsqueeze(by, last)
    y = Add(x, by_4)
}""",
    # net = softsign(x - seen); no guidance
    "step": """
step (float[K, 3, h, w] x, float[16] row, float[N] weights, float[K, 3, h, w] seen,
      float[K, 3, h, w] noise) => (float[K, 3, h, w] x_next, float[K, 3, h, w] x0)
{"""
    + SPLIT_ROW
    + """
    entry = Sub(x_in, seen)
    net = Softsign(entry)
    m = Mul(net, weights)
"""
    + UPDATE
    + """
    x_next = Identity(x_noisy)
}""",
    # each pixel four times in each direction
    "pixels": """
pixels (float[K, 3, h, w] clip) => (uint8[K, H, W, 3] frames)
{
    one = Constant<value_float = 1.0>()
    half = Constant<value_float = 0.5>()
    black = Constant<value_float = 0.0>()
    white = Constant<value_float = 255.0>()
    scale = Constant<value_float = 127.5>()
    scales = Constant<value_floats = [1.0, 1.0, 4.0, 4.0]>()
    large = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                   nearest_mode = "floor">(clip, , scales)
    positive = Add(large, one)
    levels = Mul(positive, scale)
    rounded = Add(levels, half)
    limited = Clip(rounded, black, white)
    last = Transpose<perm = [0, 2, 3, 1]>(limited)
    frames = Cast<to = 2>(last)
}""",
}
Side = p.Size(symbol="H", divide=4), p.Size(symbol="W", divide=4)
SEED: dict[str, p.Param] = {
    "seed": p.IntParam(description="same seed, same video", default=0, min=0, max=2**64 - 1),
    "steps": p.IntParam(description="more is finer", default=3, min=1, max=100),
    "frames_at_once": p.IntParam(description="more needs more memory", default=2, min=1, max=16),
    "one_noise": p.IntParam(description="of all frames; 0 is no", default=1, min=0, max=1),
    "fps": p.FloatParam(description="frames per second", default=8, min=1, max=30),
}


def build(folder: Path) -> None:
    """Writes the cascade into `folder`."""
    for name in ("graphs", "schedules"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    specs = {name: write_graph(folder, name, text) for name, text in GRAPHS.items()}
    np.save(folder / "schedules/linear.npy", alphas_cumprod_linear(0.001, 0.04, 100))
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "plan.json")
    plan = p.Document(
        format=p.FORMAT,
        name="trace",
        system="toy",
        description="Frames of any number and size: for tests.",
        files={
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        graphs=specs,
        schedules={"linear": p.ScheduleSpec(file="schedules/linear.npy")},
        modes={"paint": _paint(), "tiles": _tiles(), "trace": _trace()},
    )
    (folder / "plan.json").write_bytes(p.encode(plan))


def _stage(each: str, first: tuple[p.Op, ...], seen: str, joined: str) -> p.Stage:
    """Denoises one picture per frame of a chunk, all from the same noise if `one_noise` is 1."""
    denoise = p.Denoise(
        graph="step",
        x="z",
        out="clip",
        conditions={"seen": seen},
        schedule="linear",
        sampler="ddpm",
        spacing="leading",
        steps=p.Ref(param="steps"),
        eta=0.0,
        final="one",
        variance="fixed_small",
        noise="step.z",
        shared_noise=p.Ref(param="one_noise"),
    )
    return p.Stage(
        name="frames",
        each=p.Each(
            slices={"part": each},
            windows=(p.Window(symbol="K", size=p.Ref(param="frames_at_once")),),
        ),
        collect={"chunk": joined},
        ops=(
            *first,
            p.Noise(value="z", shared=p.Ref(param="one_noise")),
            denoise,
            p.Run(graph="pixels", inputs={"clip": "clip"}, outputs={"frames": "chunk"}),
        ),
    )


def _float(*shape: int | str) -> p.TensorSpec:
    return p.TensorSpec(dtype="float32", shape=shape)


def _pixels(*shape: int | str) -> p.TensorSpec:
    return p.TensorSpec(dtype="uint8", shape=shape)


VALUES = {
    "z": _float("K", 3, "h", "w"),
    "clip": _float("K", 3, "h", "w"),
    "chunk": _pixels("K", "H", "W", 3),
}


def _paint() -> p.Mode:
    side = {"min": 8, "max": 64, "multiple": 4}
    drift = p.Run(graph="drift", inputs={"x": "start", "by": "drift"}, outputs={"y": "moved"})
    return p.Mode(
        description="As many frames, as large, as asked for.",
        params=SEED
        | {
            "frames": p.IntParam(description="how many", default=5, min=1, max=16),
            "height": p.IntParam(description="pixels", default=16, **side),
            "width": p.IntParam(description="pixels", default=24, **side),
            "drift": p.FloatParam(description="brightness", default=0.25, min=-2, max=2),
        },
        sizes={
            "F": p.Size(param="frames"),
            "H": p.Size(param="height"),
            "W": p.Size(param="width"),
            "h": Side[0],
            "w": Side[1],
        },
        values=VALUES
        | {
            "drift": _float("F"),
            "start": _float("F", 3, "h", "w"),
            "moved": _float("F", 3, "h", "w"),
            "part": _float("K", 3, "h", "w"),
            "frames.u8": _pixels("F", "H", "W", 3),
        },
        stages=(
            p.Stage(name="start", ops=(p.Noise(value="start", shared=True), drift)),
            _stage("moved", (), "part", "frames.u8"),
        ),
        output=p.Output(value="frames.u8", fps=p.Ref(param="fps")),
    )


def _tiles() -> p.Mode:
    """`paint` in parts of frames, height and width, of noise that was drawn for all of it."""
    paint = _paint()
    frames = paint.stages[1]
    part = _float("K", 3, "th", "tw")
    least = {"default": 0, "min": 0, "max": 16}
    return msgspec.structs.replace(
        paint,
        description="As many frames, as large, as asked for, in tiles.",
        params=paint.params
        | {
            "shared_frames": p.IntParam(description="that two parts have", **least),
            "tile": p.IntParam(description="side of a part, a quarter; 0 is all", **least),
            "shared_sides": p.IntParam(description="that two tiles have", **least),
        },
        sizes=paint.sizes
        | {"TH": p.Size(symbol="th", times=4), "TW": p.Size(symbol="tw", times=4)},
        values=paint.values
        | {
            "z": _float("F", 3, "h", "w"),
            **dict.fromkeys(("part", "z.part", "clip"), part),
            "chunk": _pixels("K", "TH", "TW", 3),
        },
        stages=(
            msgspec.structs.replace(
                paint.stages[0], ops=(*paint.stages[0].ops, p.Noise(value="z", shared=True))
            ),
            msgspec.structs.replace(
                frames,
                each=p.Each(
                    slices={"part": "moved", "z.part": "z"},
                    windows=(
                        _window("K", "frames_at_once", "shared_frames"),
                        _window("th", "tile", "shared_sides"),
                        _window("tw", "tile", "shared_sides"),
                    ),
                ),
                ops=(
                    msgspec.structs.replace(frames.ops[1], x="z.part", sampler="ddim"),
                    frames.ops[2],
                ),
            ),
        ),
    )


def _window(symbol: str, size: str, overlap: str) -> p.Window:
    return p.Window(symbol=symbol, size=p.Ref(param=size), overlap=p.Ref(param=overlap))


def _trace() -> p.Mode:
    shrink = p.Run(graph="shrink", inputs={"frames": "part"}, outputs={"small": "seen"})
    second = {"min": 0, "max": 3600}
    return p.Mode(
        description="Follows a video.",
        params=SEED
        | {
            "video": p.VideoParam(
                description="what to follow",
                start=p.Ref(param="video_start"),
                end=p.Ref(param="video_end"),
                fps=p.Ref(param="video_fps"),
                frames=p.Ref(param="max_frames"),
                longest=p.Ref(param="size"),
                multiple=4,
            ),
            "video_start": p.FloatParam(description="seconds", default=0, **second),
            "video_end": p.FloatParam(description="seconds; 0 is its end", default=0, **second),
            "video_fps": p.FloatParam(description="0 is its own", default=0, min=0, max=60),
            "max_frames": p.IntParam(description="0 is all", default=0, min=0, max=64),
            "size": p.IntParam(
                description="pixels of the longer side", default=32, min=8, max=64, multiple=4
            ),
        },
        sizes={"h": Side[0], "w": Side[1]},
        values=VALUES
        | {
            "video": _pixels("F", "H", "W", 3),
            "part": _pixels("K", "H", "W", 3),
            "seen": _float("K", 3, "h", "w"),
            "frames": _pixels("F", "H", "W", 3),
        },
        stages=(_stage("video", (shrink,), "seen", "frames"),),
        output=p.Output(value="frames", fps=p.Ref(param="fps")),
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else TRACE)
