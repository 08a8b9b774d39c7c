"""What Emu Video's networks over frames (arXiv:2311.10709) add to a mode."""

from __future__ import annotations

from edgereel.plan import Each, IntParam, Noise, Ref, Renoise, Run, Size, Stage, Window
from edgereel_export.modules.emu_glue import FEW, PAST
from edgereel_export.modules.emu_unet import MOST_FRAMES

from .emu_video_parts import (
    THREE,
    EmuFacts,
    denoise,
    frames_param,
    given_param,
    latents,
    sampling,
    texts,
)
from .parts import Frames, Part
from .sd_plan import SIZES, latent_sizes, u8

__all__ = ["extension", "interpolation", "video"]

_MOST_LEVEL = 250  # noise that interpolation was trained with


def video(facts: EmuFacts, first: Frames, *, of_eight: bool) -> Part:
    """The latents of a first frame to those of a video."""
    values, text = texts(facts)
    ops = (
        Noise(value="x_T"),
        Run(
            graph="first_given",
            inputs={"first": first.value, "like": "x_T"},
            outputs={"given": "given"},
        ),
        denoise(facts, "video", "x_T", "x_0", "", "given"),
    )
    values |= {name: latents(facts, "F") for name in ("x_T", "x_0")}
    return Part(
        Frames("x_0", "F"),
        sampling("") | frames_param(of_eight=of_eight),
        {"text": THREE},
        {"F": Size(param="frames")},
        {**values, "given": latents(facts, "F", given=True)},
        (text, Stage(name="video", ops=ops)),
    )


def interpolation(facts: EmuFacts, before: Frames, *, seamless: bool) -> Part:
    """Latents of eight frames to those of 37, each group of eight on its own, then joined."""
    stage = "interpolation"
    values, text = texts(facts, stage)
    begin = Stage(
        name="noisy",
        ops=(
            Renoise(
                x=before.value,
                out="noisy",
                schedule="video",
                from_=None,
                to=Ref(param="noise_level"),
                noise="noisy.z",
            ),
            Run(graph="some_given", inputs={"known": "noisy"}, outputs={"given": "more.given"}),
            Noise(value="more.x_T"),
        ),
    )
    parts = {"more.x_T.part": "more.x_T", "more.given.part": "more.given"}
    loop = Stage(
        name=stage,
        each=Each(slices=parts, windows=(Window(symbol="M", size=MOST_FRAMES),)),
        collect={"more.x_0.part": "more.x_0"},
        ops=(denoise(facts, stage, "more.x_T.part", "more.x_0.part", stage, "more.given.part"),),
    )
    graph = "joined_seamless" if seamless else "joined"
    join = Run(graph=graph, inputs={"x": "more.x_0"}, outputs={"frames": "joined"})
    values |= {
        "noisy": latents(facts, before.number),
        **{f"more.{name}": latents(facts, "A") for name in ("x_T", "x_0")},
        "more.given": latents(facts, "A", given=True),
        **{f"more.{name}.part": latents(facts, "M") for name in ("x_T", "x_0")},
        "more.given.part": latents(facts, "M", given=True),
        "joined": latents(facts, "T"),
    }
    few = str(before.number)
    kept = (32, 5) if seamless else (28, 9)  # of N groups N times the first and the second are kept
    level = IntParam(
        description="noise on the frames between which others are made",
        default=100,
        min=0,
        max=_MOST_LEVEL,
    )
    return Part(
        Frames("joined", "T"),
        {**sampling(stage), "noise_level": level},
        {f"text.{stage}": THREE},
        {
            "A": Size(symbol=few, times=MOST_FRAMES, divide=FEW),
            "T": Size(symbol=few, times=kept[0], plus=kept[1] * FEW, divide=FEW),
        },
        values,
        (text, begin, loop, Stage(name="joined", ops=(join,))),
    )


def extension(facts: EmuFacts) -> Part:
    """The last frames of a video of the user's to the latents of those that follow."""
    params = given_param("the video to go on from", facts, frames=Ref(param="frames"), last=True)
    params["frames"] = IntParam(
        description=f"last frames of the video to take; the last {PAST} are gone on from",
        default=PAST,
        min=PAST,
        max=4096,
    )
    params |= sampling("")
    values, text = texts(facts)
    encode = Run(graph="encode_past", inputs={"frames": "video"}, outputs={"x": "past"})
    ops = (
        encode,
        Run(graph="all_given", inputs={"past": "past"}, outputs={"given": "given"}),
        Noise(value="x_T"),
        denoise(facts, "extension", "x_T", "x_0", "", "given"),
    )
    values |= {
        "video": u8("F", "H", "W", 3),
        **{name: latents(facts, PAST) for name in ("past", "x_T", "x_0")},
        "given": latents(facts, PAST, given=True),
    }
    return Part(
        Frames("x_0", PAST),
        params,
        {"text": THREE},
        SIZES | latent_sizes(facts.sides) | {"F": Size(param="frames")},
        values,
        (text, Stage(name="extension", ops=ops)),
    )
