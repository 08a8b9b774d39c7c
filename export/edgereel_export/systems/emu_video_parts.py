"""What the parts of a mode of Emu Video (arXiv:2311.10709) begin with, and what they share."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgereel.plan import (
    ChoiceParam,
    Denoise,
    Final,
    FloatParam,
    Guidance,
    IntParam,
    Noise,
    Op,
    Param,
    Ref,
    Row,
    Run,
    Size,
    Spacing,
    Stage,
    TensorSpec,
    Tokenize,
    VideoParam,
    Weight,
)
from edgereel_export.modules.emu_glue import FEW, PAST
from edgereel_export.modules.emu_unet import MOST_FRAMES

from .parts import Frames, Part, Values, chunk_param, decoded_by
from .sd_plan import (
    SIZES,
    Facts,
    f32,
    frames_each,
    latent_sizes,
    prompts,
    sampling_params,
    size_params,
    trim_params,
    u8,
)

__all__ = [
    "FPS",
    "THREE",
    "EmuFacts",
    "Encoder",
    "decoded",
    "denoise",
    "frames_param",
    "given_param",
    "given_picture",
    "given_video",
    "joined",
    "latents",
    "picture",
    "sampling",
    "texts",
]

FPS = 4.0
_STEPS, _GUIDANCE, _IMAGE_GUIDANCE = 250, 7.5, 2.0


class Encoder(NamedTuple):
    """A text encoder: the end of its names, tokens of a prompt, width of the states."""

    end: str
    length: int
    width: int


class EmuFacts(NamedTuple):
    """What the checkpoint decides: sizes, text encoders, and how images and videos are sampled."""

    size: tuple[int, int]
    channels: int
    factor: int
    multiple: int
    encoders: tuple[Encoder, ...]
    image: tuple[Spacing, Final]
    video: tuple[Spacing, Final]

    @property
    def sides(self) -> Facts:
        """What concerns height and width alone, for the helpers of other systems."""
        return Facts(0, 0, self.size, self.factor, self.multiple, *self.image)


def texts(facts: EmuFacts, stage: str = "", *, index: bool = True) -> tuple[Values, Stage]:
    """The states of the texts `text.<stage>` by every text encoder, perhaps the rows' indices."""
    of = f".{stage}" if stage else ""
    values: Values = {}
    ops: list[Op] = []
    for number, (end, length, width) in enumerate(facts.encoders):
        ids, states = f"ids{end}{of}", f"states{end}{of}"
        group = f"G{stage}"
        values |= {ids: TensorSpec(dtype="int64", shape=(group, length))}
        values |= {states: f32(group, length, width)}
        encoder = f"text_encoder{end}"
        row = f"row{of}" if index and not number else None
        if row:
            values[row] = TensorSpec(dtype="int64", shape=(group,))
        ops += [
            Tokenize(tokenizer=encoder, rows=f"text{of}", ids=ids, row=row),
            Run(graph=encoder, inputs={"ids": ids}, outputs={"states": states}),
        ]
    return values, Stage(name=f"text{of}", ops=tuple(ops))


def sampling(stage: str, *, image: bool = True) -> dict[str, Param]:
    """Steps, sampler and guidance; those of a named stage end in its name."""
    end, of = (f".{stage}", f" of {stage}") if stage else ("", "")
    params = sampling_params(_STEPS, _GUIDANCE, stage)
    params[f"sampler{end}"] = ChoiceParam(
        description=f"sampler{of}; dpmpp_2m needs fewer steps",
        choices=("ddim", "dpmpp_2m"),
        default="ddim",
        aliases=() if stage else ("scheduler",),
    )
    if image:
        params[f"image_guidance{end}"] = FloatParam(
            description=f"how closely the result{of} keeps to what it is given",
            default=_IMAGE_GUIDANCE,
            min=0.0,
            max=50.0,
            aliases=() if stage else ("image_guidance_scale",),
        )
    return params


def denoise(facts: EmuFacts, graph: str, x: str, out: str, stage: str, given: str = "") -> Denoise:
    """A loop of a network: of the image network, or of one that is given the value `given`."""
    of = f".{stage}" if stage else ""
    text, image = f"guidance{of}", f"image_guidance{of}"
    conditions = {"given": given, "index": f"row{of}"} if given else {}
    conditions |= {f"states{e.end}": f"states{e.end}{of}" for e in facts.encoders}
    spacing, final = facts.video if given else facts.image
    weights = (
        (  # X0 + image (XI - X0) + text (XIP - XI)
            Weight(const=1.0, params={image: -1.0}),
            Weight(params={image: 1.0, text: -1.0}),
            Weight(params={text: 1.0}),
        )
        if given
        else (Weight(const=1.0, params={text: -1.0}), Weight(params={text: 1.0}))
    )
    return Denoise(
        graph=graph,
        x=x,
        out=out,
        conditions=conditions,
        schedule="video" if given else "image",
        sampler=Ref(param=f"sampler{of}"),
        spacing=spacing,
        spacings={"dpmpp_2m": "trailing"},  # its few steps are to begin at the most noise
        steps=Ref(param=f"steps{of}"),
        eta=0.0,
        final=final,
        variance="fixed_small",
        guidance=Guidance(rows=f"text{of}", weights=weights),
        noise=f"z{of}",
    )


_NEGATIVE, _PROMPT = Row(param="negative_prompt"), Row(param="prompt")
THREE = (_NEGATIVE, _NEGATIVE, _PROMPT)  # neither, what is given, that and the text


def latents(facts: EmuFacts, count: int | str, *, given: bool = False) -> TensorSpec:
    """Latents of `count` frames; or what is given of as many, with a mask as a last channel."""
    return f32(count, facts.channels + given, "h", "w")


def picture(facts: EmuFacts, first: bool) -> Part:
    """Text to the latents of one picture, which is the first of a video or all that is wanted."""
    stage = "picture" if first else ""
    of = f".{stage}" if stage else ""
    values, text = texts(facts, stage, index=False)
    params = prompts()["params"] | sampling(stage, image=False) | size_params(facts.sides)
    loop = Stage(
        name="picture",
        ops=(
            Noise(value="picture.x_T"),
            denoise(facts, "image", "picture.x_T", "first", stage),
        ),
    )
    return Part(
        Frames("first", 1),
        params,
        {f"text{of}": (_NEGATIVE, _PROMPT)},
        SIZES | latent_sizes(facts.sides),
        {**values, **dict.fromkeys(("picture.x_T", "first"), latents(facts, 1))},
        (text, loop),
    )


def given_picture(facts: EmuFacts) -> Part:
    """The latents of a picture of the user's."""
    image = VideoParam(
        description="the first frame",
        frames=1,
        height=Ref(param="height"),
        width=Ref(param="width"),
    )
    encode = Run(graph="encode", inputs={"frames": "image"}, outputs={"x": "first"})
    return Part(
        Frames("first", 1),
        prompts()["params"] | {"image": image} | size_params(facts.sides),
        {},
        SIZES | latent_sizes(facts.sides),
        {"image": u8(1, "H", "W", 3), "first": latents(facts, 1)},
        (Stage(name="encode", ops=(encode,)),),
    )


def given_param(description: str, facts: EmuFacts, **more: Any) -> dict[str, Param]:
    """A video of the user's, cut to the height and width of the result."""
    video = VideoParam(
        description=description,
        start=Ref(param="start"),
        end=Ref(param="end"),
        fps=Ref(param="sample_fps"),
        height=Ref(param="height"),
        width=Ref(param="width"),
        **more,
    )
    return {
        **prompts()["params"],
        "video": video,
        **trim_params(FPS),
        **size_params(facts.sides),
        **chunk_param(),
    }


def given_video(facts: EmuFacts) -> Part:
    """The latents of a video of the user's."""
    params = given_param("the video to work on", facts, frames=Ref(param="frames"))
    stage = Stage(
        name="encode",
        each=frames_each("video", "seen", "decode_chunk"),
        collect={"latents.part": "latents"},
        ops=(Run(graph="encode", inputs={"frames": "seen"}, outputs={"x": "latents.part"}),),
    )
    values = {
        "video": u8("F", "H", "W", 3),
        "seen": u8("K", "H", "W", 3),
        "latents.part": latents(facts, "K"),
        "latents": latents(facts, "F"),
    }
    return Part(
        Frames("latents", "F"),
        params | frames_param(of_eight=True),
        {},
        SIZES | latent_sizes(facts.sides) | {"F": Size(param="frames")},
        values,
        (stage,),
    )


def frames_param(*, of_eight: bool) -> dict[str, Param]:
    """How many frames there are before interpolation, which takes groups of eight."""
    return {
        "frames": IntParam(
            description="frames of the video; networks were trained on 8 or 16",
            default=PAST,
            min=FEW if of_eight else 1,
            max=MOST_FRAMES // FEW * FEW if of_eight else MOST_FRAMES,
            multiple=FEW if of_eight else 1,
            aliases=("num_frames", "video_length"),
        )
    }


def decoded(facts: EmuFacts, before: Frames) -> Part:
    """Latents to pictures."""
    after = Frames("clip", before.number)
    shape = (before.number, facts.channels, "h", "w")
    values, stage = decoded_by("decode", before.value, shape, after)
    return Part(after, chunk_param(), {}, {}, values, (stage,))


def joined(before: Frames) -> Part:
    """The user's video and what follows it."""
    run = Run(
        graph="extended", inputs={"video": "video", "more": before.value}, outputs={"out": "long"}
    )
    return Part(
        Frames("long", "L"),
        {},
        {},
        {"L": Size(symbol="F", plus=PAST)},
        {"long": u8("L", "H", "W", 3)},
        (Stage(name="long", ops=(run,)),),
    )
