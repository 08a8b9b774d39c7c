"""What the networks of LaVie (arXiv:2309.15103) add to a mode: params, texts, values, plan stages.

Here are the parts that a mode begins with; lavie_later.py has those that go on from pictures.
"""

from __future__ import annotations

from typing import NamedTuple

from edgereel.plan import (
    ChoiceParam,
    Each,
    IntParam,
    Noise,
    Param,
    Ref,
    Row,
    Run,
    Size,
    Stage,
    TensorSpec,
    TextParam,
    Tokenize,
)

from .sd_plan import (
    SIZES,
    Facts,
    denoise_op,
    f32,
    given_video,
    latent_sizes,
    prompts,
    sampling_params,
    size_params,
    u8,
)

__all__ = [
    "FRAMES",
    "Frames",
    "Part",
    "Values",
    "base",
    "chunk_param",
    "decoded_by",
    "given",
    "image",
    "states_of",
]

FRAMES = 16  # that the networks were trained on
Values = dict[str, TensorSpec]


class Frames(NamedTuple):
    """A value of pictures u8 [number, height, width, 3], by the symbols of its axes."""

    value: str
    number: int | str
    height: str = "H"
    width: str = "W"


class Part(NamedTuple):
    """What a stage of the paper adds to a mode, and the pictures it ends with."""

    frames: Frames
    params: dict[str, Param]
    rows: dict[str, tuple[Row, ...]]
    sizes: dict[str, Size]
    values: Values
    stages: tuple[Stage, ...]


def base(facts: Facts) -> Part:
    """Text to frames."""
    part = _made(facts, "unet", Frames("clip", "F"))
    return part._replace(
        params=part.params | _frames_param(least=1), sizes=part.sizes | {"F": Size(param="frames")}
    )


def image(facts: Facts) -> Part:
    """Text to one picture, by the same weights without attention over frames."""
    return _made(facts, "unet_image", Frames("picture", 1))


def _made(facts: Facts, graph: str, frames: Frames) -> Part:
    """Text to pictures by the base network `graph`."""
    texts = prompts()
    text_values, text = states_of("", facts, "text_encoder")
    shape = (frames.number, 4, "h", "w")
    decoded, decode = decoded_by("decode", "x_0", shape, frames)
    sampler: dict[str, Param] = {
        "sampler": ChoiceParam(
            description="sampler of the video",
            choices=("ddpm", "ddim", "euler"),
            default="ddpm",
            aliases=("scheduler",),
        )
    }
    denoise = denoise_op(
        facts,
        "x_T",
        "x_0",
        graph=graph,
        sampler=Ref(param="sampler"),
        spacing="leading",
        spacings={"ddim": "leading+1", "euler": "linspace"},
    )
    params: dict[str, Param] = {**texts["params"], **sampling_params(50, 7.5), **sampler}
    params |= size_params(facts) | chunk_param()
    return Part(
        frames,
        params,
        texts["rows"],
        SIZES | latent_sizes(facts),
        {**text_values, "x_T": f32(*shape), "x_0": f32(*shape), **decoded},
        (text, Stage(name="unet", ops=(Noise(value="x_T"), denoise)), decode),
    )


def given(facts: Facts, count: int = 0) -> Part:
    """A video of the user's, of which `count` frames are taken by default; 0 takes all."""
    text: dict[str, Param] = {
        "prompt": TextParam(description="what the video shows", default=""),
        "seed": IntParam(description="same seed, same video", default=0, min=0, max=2**64 - 1),
    }
    frames = Frames("video", "F")
    params: dict[str, Param] = {**text, **given_video("the video to work on", facts, count)}
    params |= chunk_param()
    return Part(frames, params, {}, {}, {"video": u8("F", "H", "W", 3)}, ())


def states_of(stage: str, facts: Facts, encoder: str) -> tuple[Values, Stage]:
    """The values and the stage that make states of the texts of `stage`."""
    end, group = (f".{stage}", f"G_{stage}") if stage else ("", "G")
    values = {
        f"ids{end}": TensorSpec(dtype="int64", shape=(group, facts.length)),
        f"states{end}": f32(group, facts.length, facts.width),
    }
    ops = (
        Tokenize(tokenizer=encoder, rows=f"text{end}", ids=f"ids{end}"),
        Run(graph=encoder, inputs={"ids": f"ids{end}"}, outputs={"states": f"states{end}"}),
    )
    return values, Stage(name=f"text{end}", ops=ops)


def decoded_by(
    graph: str, x: str, shape: tuple[int | str, ...], frames: Frames
) -> tuple[Values, Stage]:
    """The values and the stage that make pictures of latents `x` of `shape`, each on its own."""
    part, pictures, sides = f"{x}.part", f"{frames.value}.part", (frames.height, frames.width, 3)
    values = {
        part: f32("K", *shape[1:]),
        pictures: u8("K", *sides),
        frames.value: u8(frames.number, *sides),
    }
    each = Each(value=x, as_=part, size=Ref(param="decode_chunk"))
    run = Run(graph=graph, inputs={"x": part}, outputs={"frames": pictures})
    stage = Stage(name=f"{frames.value}", each=each, collect={pictures: frames.value}, ops=(run,))
    return values, stage


def _frames_param(least: int) -> dict[str, Param]:
    return {
        "frames": IntParam(
            description="frames of the video; the network was trained on the default",
            default=FRAMES,
            min=least,
            max=256,
            aliases=("num_frames", "video_length"),
        )
    }


def chunk_param() -> dict[str, Param]:
    """How many pictures are encoded or decoded at a time."""
    return {
        "decode_chunk": IntParam(
            description="pictures to encode or decode at a time; does not change the video",
            default=4,
            min=1,
            max=64,
        )
    }
