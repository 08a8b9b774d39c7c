"""What interpolation and super-resolution add to a mode of LaVie (arXiv:2309.15103).

Both go on from the pictures of the part before them (lavie_parts.py).
"""

from __future__ import annotations

from edgereel.plan import (
    ChoiceParam,
    Each,
    IntParam,
    Noise,
    Param,
    Ref,
    Renoise,
    Row,
    Run,
    Size,
    Stage,
    TensorSpec,
    TextParam,
    Window,
)

from .parts import Frames, Part, Values, decoded_by, tile_param, tiles
from .sd_plan import (
    Facts,
    decode_op,
    denoise_op,
    f32,
    frames_each,
    guidance_of,
    latent_sizes,
    sampling_params,
    text_stage,
    text_values,
    u8,
)

__all__ = ["interpolation", "upscaling"]

_NULL = "None"  # the literal text without a prompt that interpolation was published with
_BEST = ", 4k."  # what it adds to a prompt
_BLURRED = "blur, worst quality"  # the published negative prompt of super-resolution
_MOST_LEVEL = 350  # noise that super-resolution was trained with
_LARGE = {"PH": "H", "PW": "W", "PTH": "TH", "PTW": "TW"}  # sides of what is four times as large


def interpolation(facts: Facts, before: Frames) -> Part:
    """F frames to 4F - 3, all of them made anew."""
    text = text_stage("interpolation", tokenizer="text_encoder")
    few, many = (before.number, 4, "h", "w"), ("T", 4, "h", "w")
    after = Frames("more", "T")
    decoded, decode = decoded_by("decode", "more.x_0", many, after)
    encode = Run(
        graph="encode",
        inputs={"frames": "seen"},
        outputs={"mean": "mean.part", "deviation": "deviation.part"},
    )
    copy = Run(
        graph="copied",
        inputs={"mean": "mean", "deviation": "deviation", "z": "posterior.z"},
        outputs={"copied": "copied"},
    )
    denoise = denoise_op(
        facts,
        "more.x_T",
        "more.x_0",
        graph="interpolation",
        conditions={"states": "states.interpolation", "copied": "copied"},
        spacing="adm",
        steps=Ref(param="steps.interpolation"),
        final="one",
        guidance=guidance_of("interpolation"),
        noise="more.z",
    )
    encoded = Stage(
        name="encode",
        each=frames_each(before.value, "seen", "decode_chunk"),
        collect={"mean.part": "mean", "deviation.part": "deviation"},
        ops=(encode,),
    )
    ops = (Noise(value="posterior.z"), copy, Noise(value="more.x_T"), denoise)
    values = {
        **text_values(facts, "interpolation"),
        "seen": u8("K", "H", "W", 3),
        **dict.fromkeys(("mean.part", "deviation.part"), f32("K", 4, "h", "w")),
        **dict.fromkeys(("mean", "deviation", "posterior.z"), f32(*few)),
        **dict.fromkeys(("copied", "more.x_T", "more.x_0"), f32(*many)),
        **decoded,
    }
    return Part(
        after,
        sampling_params(50, 4.0, "interpolation"),
        {"text.interpolation": (Row(text=_NULL), Row(param="prompt", append=_BEST))},
        latent_sizes(facts) | {"T": Size(symbol=str(before.number), times=4, plus=-3)},
        values,
        (text, encoded, Stage(name="interpolation", ops=ops), decode),
    )


def upscaling(facts: Facts, before: Frames) -> Part:
    """Pictures to ones of four times the height and width, a few frames at a time."""
    encoder = "upscaling_text_encoder"
    text = text_stage("upscaling", encoder=encoder, tokenizer=encoder)
    after = Frames("large", before.number, "PH", "PW")
    begin = Stage(
        name="noisy",
        ops=(
            Run(graph="unit", inputs={"frames": before.value}, outputs={"x": "low"}),
            Renoise(
                x="low",
                out="noisy",
                schedule="low_res",
                from_=None,
                to=Ref(param="noise_level"),
                noise="low.z",
            ),
            Noise(value="large.x_T"),
        ),
    )
    denoise = denoise_op(
        facts,
        "large.x_T.part",
        "large.x_0.part",
        graph="upscaling",
        conditions={"states": "states.upscaling", "low": "noisy.part", "level": "noise_level"},
        sampler=Ref(param="sampler.upscaling"),
        steps=Ref(param="steps.upscaling"),
        guidance=guidance_of("upscaling"),
        noise="large.z",
    )
    frames = Window(
        symbol="K", size=Ref(param="upscaling_chunk"), overlap=Ref(param="upscaling_overlap")
    )
    upscale = Stage(
        name="upscaling",
        each=Each(
            slices={"noisy.part": "noisy", "large.x_T.part": "large.x_T"},
            windows=(frames, *tiles("upscaling_tile")),
        ),
        collect={"large.x_0.part": "large.x_0"},
        ops=(denoise,),
    )
    decode = Stage(
        name="large",
        each=Each(
            slices={"large.latents": "large.x_0"},
            windows=(
                Window(symbol="K", size=Ref(param="decode_chunk")),
                *tiles("upscaling_decode_tile"),
            ),
        ),
        collect={"large.part": "large"},
        ops=(decode_op("large.latents", "large.part", "upscaling_decode"),),
    )
    return Part(
        after,
        _upscaling_params(),
        {"text.upscaling": (Row(param="upscaling_negative_prompt"), Row(param="prompt"))},
        {large: Size(symbol=small, times=4) for large, small in _LARGE.items()},
        text_values(facts, "upscaling") | _upscaling_values(before.number),
        (text, begin, upscale, decode),
    )


def _upscaling_values(count: int | str) -> Values:
    return {
        "noise_level": TensorSpec(dtype="int64", shape=(1,)),
        **dict.fromkeys(("low", "noisy"), f32(count, 3, "H", "W")),
        **dict.fromkeys(("large.x_T", "large.x_0"), f32(count, 4, "H", "W")),
        "noisy.part": f32("K", 3, "TH", "TW"),
        **dict.fromkeys(
            ("large.x_T.part", "large.x_0.part", "large.latents"), f32("K", 4, "TH", "TW")
        ),
        "large.part": u8("K", "PTH", "PTW", 3),
        "large": u8(count, "PH", "PW", 3),
    }


def _upscaling_params() -> dict[str, Param]:
    return {
        "upscaling_negative_prompt": TextParam(
            description="what the large pictures should not show", default=_BLURRED
        ),
        **sampling_params(50, 5.0, "upscaling"),
        "sampler.upscaling": ChoiceParam(
            description="sampler of upscaling; dpmpp_2m needs fewer steps",
            choices=("ddim", "dpmpp_2m"),
            default="ddim",
        ),
        "noise_level": IntParam(
            description="noise on the small pictures; more lets upscaling invent more",
            default=50,
            min=0,
            max=_MOST_LEVEL,
        ),
        "upscaling_chunk": IntParam(
            description="frames to upscale together; fewer need less memory",
            default=8,
            min=1,
            max=64,
        ),
        "upscaling_overlap": IntParam(
            description="frames that two chunks share, where one fades into the next",
            default=0,
            min=0,
            max=32,
        ),
        "upscaling_tile": tile_param("upscale"),
        "upscaling_decode_tile": tile_param("decode"),
    }
