"""The modes of a Make-A-Video cascade, as plan structs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edgereel.plan import (
    ChoiceParam,
    Denoise,
    FloatParam,
    Guidance,
    IntParam,
    Mode,
    Noise,
    Output,
    Param,
    Ref,
    Row,
    Run,
    Stage,
    TensorSpec,
    TextParam,
    Tokenize,
    Weight,
)

from .make_a_video_profile import GUIDED, STEPS, Profile
from .sd_plan import SEED

if TYPE_CHECKING:
    from .make_a_video_high import Enlarged

__all__ = [
    "SAMPLERS",
    "TEXT",
    "TOLD",
    "Widths",
    "guided",
    "modes",
    "pixel_loop",
    "prior_loop",
    "text_ops",
]

SAMPLERS = ("ddim", "dpmpp_2m", "euler", "euler_ancestral", "ddpm")
TEXT = {"embeds": "embeds", "states": "states", "mask": "mask"}
TOLD = {"tokens": "tokens", "bias": "bias", "emb": "emb"}


class Widths(NamedTuple):
    """Sizes the networks' configs give.

    length: tokens of a prompt. clip: CLIP width. Of D^t's conditions: context, tokens made of the
    image embedding; cross, token width; emb, width of the added vector.
    """

    length: int
    clip: int
    context: int
    cross: int
    emb: int


def modes(profile: Profile, widths: Widths, enlarged: Enlarged) -> dict[str, Mode]:
    """Mode `video`: text to a video through all stages, the last ones from `low_frames` on."""
    return {
        "video": Mode(
            description=f"text to a video of {profile.length} frames",
            params=_params(profile) | enlarged.params,
            rows={
                "text": (Row(param="negative_prompt"), Row(param="prompt")),
                **enlarged.rows,
            },
            sizes=enlarged.sizes,
            values=_values(profile, widths) | enlarged.values,
            stages=(*_stages(), *enlarged.stages),
            output=Output(value="frames", fps=Ref(param="fps")),
        )
    }


def _params(profile: Profile) -> dict[str, Param]:
    params: dict[str, Param] = {
        "prompt": TextParam(description="what the video shows"),
        "negative_prompt": TextParam(description="what it should not show", default=""),
        "seed": SEED,
    }
    for stage, what in STEPS.items():
        if stage == "super_res_high":
            continue  # may have none
        params[f"steps.{stage}"] = IntParam(
            description=what,
            default=profile.steps[stage],
            min=1,
            max=1000,
            aliases=("steps", "num_inference_steps") if stage == "decoder" else (),
        )
    for stage in GUIDED:
        params[f"guidance.{stage}"] = FloatParam(
            description=f"how strongly the {stage} follows the prompt; 1 turns guidance off",
            default=profile.guidance[stage],
            min=0.0,
            max=30.0,
            aliases=("guidance_scale",) if stage == "decoder" else (),
        )
    params["sampler"] = ChoiceParam(
        description="sampler of the pixel stages", choices=SAMPLERS, default="ddim",
        aliases=("scheduler",),
    )  # fmt: skip
    params["eta"] = FloatParam(description="DDIM's fresh noise", default=0.0, min=0.0, max=1.0)
    params["fps"] = FloatParam(
        description="frames per second; a lower rate shows a longer time",
        default=profile.fps,
        min=1.0,
        max=30.0,
    )
    return params


def _values(profile: Profile, widths: Widths) -> dict[str, TensorSpec]:
    p = profile
    length, dim, context, cross, emb = widths
    low = p.size * p.scale_low
    clip, video = (1, 3, p.frames, p.size, p.size), (1, 3, p.length, p.size, p.size)
    big = (1, 3, p.length, low, low)
    shapes: dict[str, tuple[int | str, ...]] = {
        "mask": ("G", length),
        "states": ("G", length, dim),
        "embeds": ("G", dim),
        "fps": (1,),
        "image_noise": (1, dim),
        "image": (1, dim),
        "tokens": ("G", context + length, cross),
        "bias": ("G", context + length),
        "emb": ("G", emb),
        "clip_noise": clip,
        "clip": clip,
        "known": (1, 4, *video[2:]),
        "all_tokens": (1, context + length, cross),
        "all_bias": (1, context + length),
        "all_emb": (1, emb),
        "video_noise": video,
        "video_raw": video,
        "video": video,
        "upsampled": big,
        "low_noise": big,
        "low_video": big,
        "low_frames": (p.length, 3, low, low),
    }
    values = {name: TensorSpec(dtype="float32", shape=shape) for name, shape in shapes.items()}
    values["ids"] = TensorSpec(dtype="int64", shape=("G", length))
    values["row"] = TensorSpec(dtype="int64", shape=("G",))
    return values


def guided(stage: str) -> Guidance:
    """Classifier-free guidance: unconditional 1 - s, conditional s."""
    scale = f"guidance.{stage}"
    return Guidance(
        rows="text", weights=(Weight(const=1.0, params={scale: -1.0}), Weight(params={scale: 1.0}))
    )


def pixel_loop(stage: str, x: str, out: str, conditions: dict[str, str], **more: Any) -> Denoise:
    """A denoise op of one of the pixel networks."""
    return Denoise(
        graph=stage,
        x=x,
        out=out,
        conditions=conditions,
        schedule="shifted" if stage in ("decoder", "interpolation") else "cosine",
        sampler=Ref(param="sampler"),
        spacing="trailing",
        steps=Ref(param=f"steps.{stage}"),
        eta=Ref(param="eta"),
        final="one",
        variance="fixed_small",
        noise=f"{stage}.z",
        **more,
    )


def text_ops() -> tuple[Tokenize, Run]:
    """A prompt's ids, and what the text encoder makes of them."""
    encode = Run(
        graph="text_encoder",
        inputs={"ids": "ids", "mask": "mask"},
        outputs={"states": "states", "embeds": "embeds"},
    )
    return Tokenize(tokenizer="bpe", rows="text", ids="ids", mask="mask", row="row"), encode


def prior_loop(schedule: str) -> Denoise:
    """The loop that makes an image embedding of a text, as Karlo's."""
    return Denoise(
        graph="prior",
        x="image_noise",
        out="image",
        conditions=TEXT,
        schedule=schedule,
        sampler="ddpm",
        spacing="unclip",
        steps=Ref(param="steps.prior"),
        eta=0.0,
        final="one",
        variance="fixed_small_log",
        guidance=guided("prior"),
        noise="prior.z",
    )


def _stages() -> tuple[Stage, ...]:
    """All but the last ones."""
    prior = prior_loop("cosine")
    told = {"image": "image", **TEXT, "fps": "fps"}
    known = {name: f"all_{name}" for name in TOLD}
    return (
        Stage(
            name="text",
            ops=text_ops(),
        ),
        Stage(name="prior", ops=(Noise(value="image_noise"), prior)),
        Stage(
            name="decoder",
            ops=(
                Run(graph="decoder_condition", inputs={**told, "row": "row"}, outputs=TOLD),
                Noise(value="clip_noise"),
                pixel_loop("decoder", "clip_noise", "clip", TOLD, guidance=guided("decoder")),
            ),
        ),
        Stage(
            name="interpolation",
            ops=(
                Run(
                    graph="interpolation_condition",
                    inputs={"clip": "clip", **told},
                    outputs={"known": "known", **known},
                ),
                Noise(value="video_noise"),
                pixel_loop(
                    "interpolation", "video_noise", "video_raw", {"known": "known", **known}
                ),
                Run(
                    graph="keep_known",
                    inputs={"video": "video_raw", "clip": "clip"},
                    outputs={"out": "video"},
                ),
            ),
        ),
        Stage(
            name="super_res_low",
            ops=(
                Run(graph="upsample_low", inputs={"x": "video"}, outputs={"low": "upsampled"}),
                Noise(value="low_noise"),
                pixel_loop("super_res_low", "low_noise", "low_video", {"low": "upsampled"}),
                Run(
                    graph="frame_batch", inputs={"x": "low_video"}, outputs={"frames": "low_frames"}
                ),
            ),
        ),
    )
