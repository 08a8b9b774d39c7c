"""What the networks of LaVie (arXiv:2309.15103) add to a mode: params, texts, values, plan stages.

Here are the parts that a mode begins with; lavie_later.py has those that go on from pictures.
"""

from __future__ import annotations

from edgereel.plan import (
    ChoiceParam,
    IntParam,
    Noise,
    Param,
    Ref,
    Size,
    Stage,
    TextParam,
)

from .parts import Frames, Part, chunk_param, decoded_by
from .sd_plan import (
    SEED,
    SIZES,
    Facts,
    denoise_op,
    f32,
    given_video,
    latent_sizes,
    prompts,
    sampling_params,
    size_params,
    text_stage,
    text_values,
    u8,
)

__all__ = [
    "FRAMES",
    "base",
    "frames_param",
    "given",
    "image",
]

FRAMES = 16  # that the networks were trained on


def base(facts: Facts) -> Part:
    """Text to frames."""
    part = _made(facts, "unet", Frames("clip", "F"))
    return part._replace(
        params=part.params | frames_param(least=1), sizes=part.sizes | {"F": Size(param="frames")}
    )


def image(facts: Facts) -> Part:
    """Text to one picture, by the same weights without attention over frames."""
    return _made(facts, "unet_image", Frames("picture", 1))


def _made(facts: Facts, graph: str, frames: Frames) -> Part:
    """Text to pictures by the base network `graph`."""
    texts = prompts()
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
        {**text_values(facts), "x_T": f32(*shape), "x_0": f32(*shape), **decoded},
        (
            text_stage(tokenizer="text_encoder"),
            Stage(name="unet", ops=(Noise(value="x_T"), denoise)),
            decode,
        ),
    )


def given(facts: Facts, count: int = 0) -> Part:
    """A video of the user's, of which `count` frames are taken by default; 0 takes all."""
    text: dict[str, Param] = {
        "prompt": TextParam(description="what the video shows", default=""),
        "seed": SEED,
    }
    frames = Frames("video", "F")
    params: dict[str, Param] = {**text, **given_video("the video to work on", facts, count)}
    params |= chunk_param()
    return Part(frames, params, {}, {}, {"video": u8("F", "H", "W", 3)}, ())


def frames_param(least: int) -> dict[str, Param]:
    """How many frames are made."""
    return {
        "frames": IntParam(
            description="frames of the video; the network was trained on the default",
            default=FRAMES,
            min=least,
            max=256,
            aliases=("num_frames", "video_length"),
        )
    }
