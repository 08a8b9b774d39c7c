"""Parts of the modes of a Make-A-Video cascade, each of a network and what is around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from edgereel.plan import (
    Denoise,
    FloatParam,
    IntParam,
    Mode,
    Noise,
    Param,
    Row,
    Run,
    Size,
    Stage,
    TensorSpec,
    TextParam,
)

from .make_a_video_high import High, in_chunks
from .make_a_video_plan import (
    TEXT,
    TOLD,
    Sampling,
    Widths,
    guided,
    pixel_loop,
    prior_loop,
    sampling_params,
    text_ops,
)
from .make_a_video_profile import GUIDED, STEPS, Profile
from .parts import Frames, Part, Values, mode_of
from .sd_plan import SEED, f32

__all__ = [
    "MOST_FPS",
    "clip_rate",
    "decoder",
    "filling",
    "interpolation",
    "led_by_interpolation",
    "made_of",
    "prior",
    "rate_param",
    "text",
    "told_values",
]

MOST_FPS = 30.0  # that the networks know
_NEGATIVE = TextParam(description="what it should not show", default="")


def made_of(description: str, profile: Profile, parts: Sequence[Part], high: High) -> Mode:
    """The mode of parts that end with small frames, which are then enlarged."""
    last = in_chunks(high, "low_frames", "F", profile.chunk)
    return mode_of(description, profile.fps, [*parts, _low(profile), last])


def led_by_interpolation(mode: Mode) -> Mode:
    """A mode without a decoder: `--steps` are interpolation's."""
    steps = mode.params["steps.interpolation"]
    assert isinstance(steps, IntParam)
    led = msgspec.structs.replace(steps, aliases=("steps", "num_inference_steps"))
    return msgspec.structs.replace(mode, params={**mode.params, "steps.interpolation": led})


def text(widths: Widths, *, guidance: bool, default: str | None = None) -> Part:
    """The texts as the networks are told them; with guidance the unconditional one is row 0."""
    count: int | str = "G" if guidance else 1
    length, dim = widths.length, widths.clip
    prompt = TextParam(description="what the video shows", default=default)
    row = {"row": TensorSpec(dtype="int64", shape=(count,))} if guidance else {}
    negative = (Row(param="negative_prompt"),) if guidance else ()
    return Part(
        Frames("", 0),
        {
            "prompt": prompt,
            **({"negative_prompt": _NEGATIVE} if guidance else {}),
            "seed": SEED,
        },
        {"text": (*negative, Row(param="prompt"))},
        {},
        {
            "ids": TensorSpec(dtype="int64", shape=(count, length)),
            "mask": f32(count, length),
            "states": f32(count, length, dim),
            "embeds": f32(count, dim),
            **row,
        },
        (Stage(name="text", ops=text_ops("row" if guidance else None)),),
    )


def prior(profile: Profile, widths: Widths) -> Part:
    """A text's image embedding."""
    values = {name: f32(1, widths.clip) for name in ("image_noise", "embedding")}
    loop = prior_loop("cosine", "embedding")
    stage = Stage(name="prior", ops=(Noise(value="image_noise"), loop))
    return Part(Frames("", 0), _steps(profile, "prior"), {}, {}, values, (stage,))


def decoder(profile: Profile, widths: Widths) -> Part:
    """An image embedding and texts to a few frames, as far apart as interpolation has them."""
    told = {"image": "embedding", **TEXT, "row": "row", "fps": "clip_fps"}
    ops = (
        clip_rate(),
        Run(graph="decoder_condition", inputs=told, outputs=TOLD),
        Noise(value="clip_noise"),
        pixel_loop("decoder", "clip_noise", "clip", TOLD, guidance=guided("decoder")),
    )
    shape = (1, 3, profile.frames, profile.size, profile.size)
    values = {
        **told_values("G", "", widths),
        **dict.fromkeys(("clip_noise", "clip"), f32(*shape)),
        **dict.fromkeys(("fps", "clip_fps"), f32(1)),
    }
    params = _steps(profile, "decoder") | rate_param(profile.fps)
    return Part(
        Frames("clip", profile.frames), params, {}, {}, values, (Stage(name="decoder", ops=ops),)
    )


def interpolation(
    profile: Profile, widths: Widths, placed: str, frames: Size, params: dict[str, Param]
) -> Part:
    """Frames `clip` to as many as `frames` says, by ↑F; arguments as of `filling`."""

    def loop(x: str, out: str, told: dict[str, str]) -> Denoise:
        return pixel_loop("interpolation", x, out, told)

    params = {**params, **_steps(profile, "interpolation"), **rate_param(profile.fps)}
    return filling(profile.size, widths, loop, placed, frames, params)


def filling(
    size: int,
    widths: Widths,
    loop: Callable[[str, str, dict[str, str]], Denoise],
    placed: str,
    frames: Size,
    params: dict[str, Param],
) -> Part:
    """Frames `clip` to `small`, [1, 3, F, size, size], by a network that makes those in between.

    Args:
        size, widths: of the checkpoint.
        loop: that network's, from a value to another, told the values of a mapping.
        placed: the graph that says which are given; its input `skip` is a param, if it has one.
        frames: F.
        params: what these need.
    """
    skip = {"skip": "skip"} if "skip" in params else {}
    known = {name: f"all_{name}" for name in TOLD}
    ops = (
        Noise(value="video_noise"),
        Run(
            graph=placed,
            inputs={"clip": "clip", "like": "video_noise", **skip},
            outputs={"known": "known"},
        ),
        Run(
            graph="interpolation_condition",
            inputs={"image": "embedding", **TEXT, "fps": "fps"},
            outputs=known,
        ),
        loop("video_noise", "video_raw", {"known": "known", **known}),
        Run(
            graph="keep_known",
            inputs={"video": "video_raw", "known": "known", "keep": "keep_known"},
            outputs={"out": "small"},
        ),
    )
    values = {
        **told_values(1, "all_", widths),
        **dict.fromkeys(("video_noise", "video_raw", "small"), f32(1, 3, "F", size, size)),
        "known": f32(1, 4, "F", size, size),
        **dict.fromkeys(("fps", "keep_known"), f32(1)),
        **dict.fromkeys(skip, TensorSpec(dtype="int64", shape=(1,))),
    }
    keep = IntParam(
        description="1 puts the given frames back into the result; 0 leaves those that were made",
        default=1,
        min=0,
        max=1,
    )
    return Part(
        Frames("small", "F"),
        {**params, "keep_known": keep},
        {},
        {"F": frames},
        values,
        (Stage(name="interpolation", ops=ops),),
    )


def _low(profile: Profile) -> Part:
    """Small frames to larger ones, all together."""
    side = profile.size * profile.scale_low
    ops = (
        Run(graph="upsample_low", inputs={"x": "small"}, outputs={"low": "upsampled"}),
        Noise(value="low_noise"),
        pixel_loop("super_res_low", "low_noise", "low_video", {"low": "upsampled"}),
        Run(graph="frame_batch", inputs={"x": "low_video"}, outputs={"frames": "low_frames"}),
    )
    names = ("upsampled", "low_noise", "low_video")
    values = dict.fromkeys(names, f32(1, 3, "F", side, side))
    values["low_frames"] = f32("F", 3, side, side)
    return Part(
        Frames("low_frames", "F"),
        _steps(profile, "super_res_low"),
        {},
        {},
        values,
        (Stage(name="super_res_low", ops=ops),),
    )


def told_values(count: int | str, start: str, widths: Widths) -> Values:
    """What D^t or ↑F is told, by names that begin with `start`."""
    tokens = widths.context + widths.length
    return {
        f"{start}tokens": f32(count, tokens, widths.cross),
        f"{start}bias": f32(count, tokens),
        f"{start}emb": f32(count, widths.emb),
    }


def _steps(profile: Profile, stage: str) -> dict[str, Param]:
    guidance = profile.guidance[stage] if stage in GUIDED else None
    sampler = "ddim", "sampler of the pixel stages"
    facts = Sampling(f"the {stage}", STEPS[stage], profile.steps[stage], 1, guidance, sampler)
    return sampling_params(stage, facts)


def rate_param(fps: float) -> dict[str, Param]:
    """The frame rate of the file, which the networks are told, by default `fps`."""
    return {
        "fps": FloatParam(
            description="frames per second; a lower rate shows a longer time",
            default=fps,
            min=1.0,
            max=MOST_FPS,
        )
    }


def clip_rate() -> Run:
    """The rate that D^t is told, for that of the file and the skip of interpolation."""
    return Run(
        graph="clip_rate", inputs={"fps": "fps", "skip": "skip"}, outputs={"rate": "clip_fps"}
    )
