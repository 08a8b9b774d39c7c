"""What modes over Make-A-Video's networks are made of, as plan structs."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgereel.plan import (
    ChoiceParam,
    Denoise,
    FloatParam,
    Guidance,
    IntParam,
    Param,
    Ref,
    Run,
    Tokenize,
    Weight,
)

__all__ = [
    "SAMPLERS",
    "TEXT",
    "TOLD",
    "Sampling",
    "Widths",
    "guided",
    "pixel_loop",
    "prior_loop",
    "sampling_params",
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


def text_ops(row: str | None = "row") -> tuple[Tokenize, Run]:
    """A text's ids and perhaps guidance `row`s, and what the text encoder makes of them."""
    encode = Run(
        graph="text_encoder",
        inputs={"ids": "ids", "mask": "mask"},
        outputs={"states": "states", "embeds": "embeds"},
    )
    return Tokenize(tokenizer="bpe", rows="text", ids="ids", mask="mask", row=row), encode


def prior_loop(schedule: str, out: str) -> Denoise:
    """The loop that makes an image embedding, `out`, of a text, as Karlo's."""
    return Denoise(
        graph="prior",
        x="image_noise",
        out=out,
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


class Sampling(NamedTuple):
    """How a stage is sampled by default.

    steps, least: of them. guidance: None for none. what: the stage, in a sentence. sampler: of all
    pixel stages, with its description.
    """

    what: str
    described: str
    steps: int
    least: int
    guidance: float | None
    sampler: tuple[str, str]


def sampling_params(stage: str, facts: Sampling) -> dict[str, Param]:
    """Steps of a stage, guidance if it has any, and what all pixel stages share."""
    main = stage == "decoder"
    params: dict[str, Param] = {
        f"steps.{stage}": IntParam(
            description=facts.described,
            default=facts.steps,
            min=facts.least,
            max=1000,
            aliases=("steps", "num_inference_steps") if main else (),
        )
    }
    if facts.guidance is not None:
        params[f"guidance.{stage}"] = FloatParam(
            description=f"how strongly {facts.what} follows the prompt; 1 turns guidance off",
            default=facts.guidance,
            min=0.0,
            max=30.0,
            aliases=("guidance_scale",) if main else (),
        )
    if stage == "prior":
        return params
    default, described = facts.sampler
    params["sampler"] = ChoiceParam(
        description=described, choices=SAMPLERS, default=default, aliases=("scheduler",)
    )
    params["eta"] = FloatParam(description="DDIM's fresh noise", default=0.0, min=0.0, max=1.0)
    return params
