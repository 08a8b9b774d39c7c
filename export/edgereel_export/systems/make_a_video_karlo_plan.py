"""The modes of a cascade made of Karlo's networks, as plan structs."""

from __future__ import annotations

from edgereel.plan import (
    ChoiceParam,
    FloatParam,
    IntParam,
    Mode,
    Noise,
    Op,
    Output,
    Param,
    Ref,
    Run,
    Stage,
    TensorSpec,
)

from .make_a_video_high import SHARED_NOISE, Enlarged, Small
from .make_a_video_karlo_stages import KarloFacts, Made, joint, one_by_one, picture, pixels
from .make_a_video_plan import SAMPLERS, TEXT, TOLD, guided, prior_loop, text_ops
from .sd_plan import f32, prompts

__all__ = ["modes"]

_STEPS = {"prior": 25, "decoder": 25, "interpolation": 25, "super_res": 7}  # diffusers'
_GUIDANCE = {"prior": 4.0, "decoder": 8.0}
_WHAT = {
    "prior": "the prior",
    "decoder": "the decoder",
    "interpolation": "frame interpolation",
    "super_res": "super-resolution",
}
_FPS = 8.0


def modes(facts: KarloFacts) -> dict[str, Mode]:
    """Those that the checkpoint's networks can do, videos first."""
    found = {}
    if facts.frames:
        found["video"] = _mode(facts, facts.frames)
    if facts.interpolates:
        found["interpolated"] = _mode(facts, facts.length, interpolated=True)
    return found | {"image": _mode(facts, 0)}


def _mode(facts: KarloFacts, frames: int, *, interpolated: bool = False) -> Mode:
    """Text to so many frames; 0 is a picture, by the networks without layers over frames."""
    parts = [_text(facts), _prior(facts), _decoder(facts, frames > 0)]
    small = "clip"
    if interpolated:
        parts.append(_interpolation(facts))
        small = "video"
    if not frames:
        parts.append(picture(facts))
    elif facts.joint:
        parts.append(joint(facts, frames, small))
    else:
        parts += one_by_one(facts, frames, small)
    stages = ["prior", "decoder", *(["interpolation"] if interpolated else []), "super_res"]
    text = prompts()
    values = {key: value for made, _ in parts for key, value in made.items()}
    made = f"a video of {frames} frames" if frames else "a picture"
    one_by_one_frames = frames > 0 and not facts.joint
    larger = _larger(facts, frames)
    return Mode(
        description=f"text to {made}",
        params={
            **text["params"],
            **_params(stages, frames > 0, chunks=one_by_one_frames or bool(frames and facts.high)),
            **(SHARED_NOISE if one_by_one_frames else {}),
            **larger.params,
        },
        rows={**text["rows"], **larger.rows},
        sizes=larger.sizes,
        values=values | larger.values,
        stages=(*(stage for _, stage in parts), *larger.stages),
        output=Output(value="frames", fps=Ref(param="fps") if frames else 1.0),
    )


def _larger(facts: KarloFacts, frames: int) -> Enlarged:
    """What comes after super-resolution to 256 pixels, if anything."""
    if facts.high is None:
        return Enlarged({}, {}, {}, {}, ())
    if not frames:
        return facts.high.enlarged(Small("large", 1, 1))
    return facts.high.enlarged(Small("large_frames", frames, Ref(param="chunk_size")))


def _params(stages: list[str], video: bool, *, chunks: bool) -> dict[str, Param]:
    params: dict[str, Param] = {}
    for stage in stages:
        params[f"steps.{stage}"] = IntParam(
            description=f"steps of {_WHAT[stage]}",
            default=_STEPS[stage],
            min=2,  # its last one has a network of its own in super-resolution
            max=1000,
            aliases=("steps", "num_inference_steps") if stage == "decoder" else (),
        )
    for stage, scale in _GUIDANCE.items():
        params[f"guidance.{stage}"] = FloatParam(
            description=f"how strongly {_WHAT[stage]} follows the prompt; 1 turns guidance off",
            default=scale,
            min=0.0,
            max=30.0,
            aliases=("guidance_scale",) if stage == "decoder" else (),
        )
    params["sampler"] = ChoiceParam(
        description="sampler of the pixel stages; ddpm is Karlo's",
        choices=SAMPLERS,
        default="ddpm",
        aliases=("scheduler",),
    )
    params["eta"] = FloatParam(description="DDIM's fresh noise", default=0.0, min=0.0, max=1.0)
    if video:
        params["fps"] = FloatParam(
            description="frames per second; a lower rate shows a longer time",
            default=_FPS,
            min=1.0,
            max=30.0,
        )
    if chunks:
        params["chunk_size"] = IntParam(
            description="frames to enlarge at a time; does not change a video of shared noise",
            default=4,
            min=1,
            max=64,
        )
    return params


def _text(facts: KarloFacts) -> Made:
    length, dim = facts.widths.length, facts.widths.clip
    values = {
        "ids": TensorSpec(dtype="int64", shape=("G", length)),
        "row": TensorSpec(dtype="int64", shape=("G",)),
        "mask": f32("G", length),
        "states": f32("G", length, dim),
        "embeds": f32("G", dim),
    }
    return values, Stage(name="text", ops=text_ops())


def _prior(facts: KarloFacts) -> Made:
    values = {name: f32(1, facts.widths.clip) for name in ("image_noise", "image")}
    return values, Stage(name="prior", ops=(Noise(value="image_noise"), prior_loop("prior")))


def _decoder(facts: KarloFacts, video: bool) -> Made:
    _, _, context, cross, emb = facts.widths
    tokens = context + facts.widths.length
    sides = (facts.size, facts.size)
    shape = (1, 3, facts.frames, *sides) if video else (1, 3, *sides)
    values = {
        "tokens": f32("G", tokens, cross),
        "bias": f32("G", tokens),
        "emb": f32("G", emb),
        "clip_noise": f32(*shape),
        "clip": f32(*shape),
    }
    told = {"image": "image", **TEXT, "row": "row"}
    if video:
        values["fps"] = f32(1)
        told["fps"] = "fps"
    name = "decoder" if video else "image_decoder"
    condition = Run(graph=f"{name}_condition", inputs=told, outputs=TOLD)
    loop = pixels(
        name, ("clip_noise", "clip"), TOLD, "decoder", learned=True, guidance=guided("decoder")
    )
    return values, Stage(name="decoder", ops=(condition, Noise(value="clip_noise"), loop))


def _interpolation(facts: KarloFacts) -> Made:
    _, _, context, cross, emb = facts.widths
    tokens = context + facts.widths.length
    shape = (1, 3, facts.length, facts.size, facts.size)
    values = {
        "known": f32(1, 4, *shape[2:]),
        "all_tokens": f32(1, tokens, cross),
        "all_bias": f32(1, tokens),
        "all_emb": f32(1, emb),
        **{name: f32(*shape) for name in ("video_noise", "video_raw", "video")},
    }
    known = {"known": "known", **{name: f"all_{name}" for name in TOLD}}
    ops: tuple[Op, ...] = (
        Run(
            graph="interpolation_condition",
            inputs={"clip": "clip", "image": "image", **TEXT, "fps": "fps"},
            outputs=known,
        ),
        Noise(value="video_noise"),
        pixels("interpolation", ("video_noise", "video_raw"), known, "interpolation", learned=True),
        Run(
            graph="keep_known",
            inputs={"video": "video_raw", "clip": "clip"},
            outputs={"out": "video"},
        ),
    )
    return values, Stage(name="interpolation", ops=ops)
