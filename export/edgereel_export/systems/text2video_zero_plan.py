"""Modes of a Text2Video-Zero cascade that start from a prompt alone (arXiv:2303.13439)."""

from __future__ import annotations

from collections.abc import Mapping

from edgereel.plan import (
    FloatParam,
    IntParam,
    Mode,
    Noise,
    Output,
    Param,
    Range,
    Ref,
    Renoise,
    Run,
    Size,
    Stage,
    TensorSpec,
    VideoParam,
)

from .sd_plan import (
    SIZES,
    Facts,
    chunk_params,
    decode_op,
    denoise_op,
    f32,
    frames_each,
    latent_sizes,
    latents,
    prompts,
    sampling_params,
    size_params,
    text_stage,
    text_values,
    u8,
)
from .text2video_zero_given import controlled

__all__ = ["modes"]


def modes(facts: Facts, controls: Mapping[str, int]) -> dict[str, Mode]:
    """The modes of a text-to-image checkpoint, and one per ControlNet.

    Args:
        facts: of the checkpoint.
        controls: width of the control pictures' first features, by mode.
    """
    return {
        "video": _video(facts),
        "image": _image(facts),
        "smooth": _smooth(facts),
        **{name: controlled(name, width, facts) for name, width in controls.items()},
    }


def _frames(default: int = 8) -> dict[str, Param]:
    return {
        "frames": IntParam(
            description="frames of the video",
            default=default,
            min=1,
            max=4096,
            aliases=("num_frames", "video_length"),
        ),
        **chunk_params(),
    }


def _motion() -> dict[str, Param]:
    def axis(name: str) -> FloatParam:
        return FloatParam(
            description=f"how far the view moves along {name} per frame, in 512ths of the side",
            default=12.0,
            min=-512.0,
            max=512.0,
            aliases=(f"motion_field_strength_{name}",),
        )

    def level(description: str, default: int) -> IntParam:
        return IntParam(description=description, default=default, min=1, max=999)

    return {
        "motion_x": axis("x"),
        "motion_y": axis("y"),
        "t0": level("timestep at which the frames are moved", 881),
        "t1": level("timestep up to which they get noise again; above t0", 941),
    }


def _image(facts: Facts) -> Mode:
    """Plain text-to-image: one frame, which attends to itself."""
    texts = prompts()
    params = texts["params"] | sampling_params(50, 7.5) | size_params(facts)
    stages = (
        text_stage(),
        Stage(name="unet", ops=(Noise(value="x_T"), denoise_op(facts, "x_T", "x_0"))),
        Stage(name="decode", ops=(decode_op("x_0", "picture"),)),
    )
    return Mode(
        description="text to one picture",
        params=params,
        sizes={**SIZES, **latent_sizes(facts)},
        rows=texts["rows"],
        values={
            **text_values(facts),
            **latents("x_T", "x_0", count=1),
            "picture": u8(1, "H", "W", 3),
        },
        stages=stages,
        output=Output(value="picture", fps=1.0),
    )


def _anchor_stages(facts: Facts) -> tuple[Stage, ...]:
    """From noise to x_t1 of every frame: the first frame as it is, the others moved and noised.

    Of the first pass only the rows down to t0 are needed, five of the published fifty.
    """
    t0, t1 = Ref(param="t0"), Ref(param="t1")
    return (
        Stage(
            name="anchor",
            ops=(
                Noise(value="x_T"),
                denoise_op(facts, "x_T", "x_t1", range=Range(from_=1000.0, to=t1)),
                denoise_op(facts, "x_t1", "x_t0", range=Range(from_=t1, to=t0)),
            ),
        ),
        Stage(
            name="motion",
            ops=(
                Run(
                    graph="motion",
                    inputs={"anchor": "x_t0", "motion_x": "motion_x", "motion_y": "motion_y"},
                    outputs={"moved": "moved"},
                ),
                Renoise(
                    x="moved",
                    out="noised",
                    schedule="entering",
                    from_=t0,
                    to=t1,
                    noise="motion.z",
                    along="x_t1",
                ),
                Run(
                    graph="keep_anchor",
                    inputs={"frames": "noised", "anchor": "x_t1"},
                    outputs={"out": "start"},
                ),
            ),
        ),
    )


def _frame_stage(facts: Facts, start: str) -> Stage:
    """All frames from t1 to clean, a chunk at a time, each led by the first frame."""
    t1 = Ref(param="t1")
    return Stage(
        name="frames",
        each=frames_each(start, "chunk", "chunk_size", lead=1),
        collect={"pictures": "frames_out"},
        ops=(
            denoise_op(facts, "chunk", "x_0", range=Range(from_=t1), noise="frames.z"),
            decode_op("x_0", "pictures"),
        ),
    )


def _video_values(facts: Facts) -> dict[str, TensorSpec]:
    return {
        **text_values(facts),
        **latents("x_T", "x_t1", "x_t0", count=1),
        **latents("moved", "noised", "start", count="F"),
        **latents("chunk", "x_0", count="K"),
        "motion_x": f32("F"),
        "motion_y": f32("F"),
        "pictures": u8("K", "H", "W", 3),
        "frames_out": u8("F", "H", "W", 3),
    }


def _video(facts: Facts) -> Mode:
    texts = prompts()
    return Mode(
        description="text to a video whose view moves on",
        params=texts["params"]
        | sampling_params(50, 7.5)
        | size_params(facts)
        | _frames()
        | _motion(),
        sizes={**SIZES, **latent_sizes(facts), "F": Size(param="frames")},
        rows=texts["rows"],
        values=_video_values(facts),
        stages=(text_stage(), *_anchor_stages(facts), _frame_stage(facts, "start")),
        output=Output(value="frames_out", fps=Ref(param="fps")),
    )


def _smooth(facts: Facts) -> Mode:
    """`video` once more, its background held together outside the masks of the foreground."""
    video = _video(facts)
    params = dict(video.params)
    params["masks"] = VideoParam(
        description="white on the foreground of each frame of the same video made before",
        frames=Ref(param="frames"),
    )
    params["smooth_bg_strength"] = FloatParam(
        description="share of each frame's own background that stays", default=0.4, min=0.0, max=1.0
    )
    smooth = Run(
        graph="smooth",
        inputs={
            "x": "start",
            "masks": "masks",
            "motion_x": "motion_x",
            "motion_y": "motion_y",
            "keep": "smooth_bg_strength",
        },
        outputs={"out": "smoothed"},
    )
    values = {
        **video.values,
        **latents("smoothed", count="F"),
        "masks": u8("F", "H", "W", 3),
        "smooth_bg_strength": f32(1),
    }
    stages = (
        *video.stages[:-1],
        Stage(name="smooth", ops=(smooth,)),
        _frame_stage(facts, "smoothed"),
    )
    return Mode(
        description="a video made again with a steadier background",
        params=params,
        sizes=video.sizes,
        rows=video.rows,
        values=values,
        stages=stages,
        output=video.output,
    )
