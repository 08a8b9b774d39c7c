"""Modes of a Text2Video-Zero cascade that follow a video the user gives (arXiv:2303.13439)."""

from __future__ import annotations

from typing import NamedTuple

from edgereel.plan import (
    Filter,
    FloatParam,
    Guidance,
    Mode,
    Noise,
    Op,
    Output,
    Ref,
    Row,
    Run,
    Stage,
    TensorSpec,
    Weight,
)

from .sd_plan import (
    Facts,
    chunk_params,
    decode_op,
    denoise_op,
    f32,
    frames_each,
    given_video,
    latent_sizes,
    latents,
    prompts,
    sampling_params,
    text_stage,
    text_values,
    u8,
)

__all__ = ["CONTROLS", "controlled", "edit_modes"]

_NEGATIVE = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality"
)


class _Control(NamedTuple):
    """What the published demo adds to a prompt, and how the control pictures are made."""

    description: str
    append: str
    filter: Filter | None = None


_BEST = ", best quality, extremely detailed"
CONTROLS = {
    "canny": _Control("a video whose edges are followed", _BEST, "canny"),
    "depth": _Control("a video of depth maps, near is bright", _BEST),
    "pose": _Control(
        "a video of drawn skeletons",
        f"{_BEST}, HD, ultra-realistic, 8K, HQ, masterpiece, trending on artstation, art, smooth",
    ),
}


def _chunk_values(video: str) -> dict[str, TensorSpec]:
    """A given video, a chunk of it, the pictures made of that, and all of them."""
    counts = {video: "F", "part": "K", "pictures": "K", "frames_out": "F"}
    return {name: u8(count, "H", "W", 3) for name, count in counts.items()}


def _chunk_stage(video: str, ops: tuple[Op, ...]) -> Stage:
    """`ops` from each `part` of the video to its `pictures`, led by the first frame."""
    each = frames_each(video, "part", "chunk_size", lead=1)
    return Stage(name="frames", each=each, collect={"pictures": "frames_out"}, ops=ops)


def controlled(name: str, width: int, facts: Facts) -> Mode:
    """The mode of a ControlNet; `width` is that of its control pictures' first features."""
    control = CONTROLS[name]
    texts = prompts(control.append, _NEGATIVE)
    params = texts["params"] | sampling_params(20, 9.0)
    params |= given_video(control.description, facts, filter=control.filter) | chunk_params()
    params["conditioning_scale"] = FloatParam(
        description="how strongly the control video is followed",
        default=1.0,
        min=0.0,
        max=10.0,
        aliases=("controlnet_conditioning_scale",),
    )
    conditions = {"states": "states", "seen": "seen", "scale": "conditioning_scale"}
    ops: tuple[Op, ...] = (
        Run(graph=f"{name}_picture", inputs={"frames": "part"}, outputs={"seen": "seen"}),
        Noise(value="x_T", shared=True),
        denoise_op(facts, "x_T", "x_0", graph=f"unet_{name}", conditions=conditions),
        decode_op("x_0", "pictures"),
    )
    values = {
        **text_values(facts),
        **_chunk_values("control_video"),
        "seen": f32("K", width, "h", "w"),
        **latents("x_T", "x_0", count="K"),
        "conditioning_scale": f32(1),
    }
    return Mode(
        description=f"text to a video led by {control.description}",
        params=params,
        sizes=latent_sizes(facts),
        rows=texts["rows"],
        values=values,
        stages=(text_stage(), _chunk_stage("control_video", ops)),
        output=Output(value="frames_out", fps=Ref(param="fps")),
    )


def edit_modes(facts: Facts) -> dict[str, Mode]:
    """The mode of an InstructPix2Pix checkpoint: a given video, changed as the prompt says."""
    texts = prompts()
    params = texts["params"] | sampling_params(50, 7.5)
    params["image_guidance"] = FloatParam(
        description="how closely the given video is kept",
        default=1.0,
        min=0.0,
        max=20.0,
        aliases=("image_guidance_scale",),
    )
    params |= given_video("the video to change", facts) | chunk_params()
    guidance = Guidance(
        rows="text",
        weights=(
            Weight(params={"guidance": 1.0}),
            Weight(params={"image_guidance": 1.0, "guidance": -1.0}),
            Weight(const=1.0, params={"image_guidance": -1.0}),
        ),
    )
    denoise = denoise_op(
        facts,
        "x_T",
        "x_0",
        conditions={"states": "states", "image": "image", "index": "row"},
        sampler="euler_ancestral",
        spacing="linspace",
        guidance=guidance,
    )
    ops = (
        Run(graph="encode", inputs={"frames": "part"}, outputs={"x": "image"}),
        Noise(value="x_T"),
        denoise,
        decode_op("x_0", "pictures"),
    )
    values = {
        **text_values(facts),
        "row": TensorSpec(dtype="int64", shape=("G",)),
        **_chunk_values("video"),
        **latents("image", "x_T", "x_0", count="K"),
    }
    negative = Row(param="negative_prompt")
    return {
        "edit": Mode(
            description="a given video, changed as the prompt says",
            params=params,
            sizes=latent_sizes(facts),
            rows={"text": (Row(param="prompt"), negative, negative)},
            values=values,
            stages=(text_stage(row="row"), _chunk_stage("video", ops)),
            output=Output(value="frames_out", fps=Ref(param="fps")),
        )
    }
