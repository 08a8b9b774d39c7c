"""What SEINE (arXiv:2310.20700) makes of pictures: a part of a mode of LaVie."""

from __future__ import annotations

from edgereel.plan import Noise, Op, Param, Ref, Run, Size, Stage, VideoParam

from .lavie_parts import frames_param
from .parts import Frames, Part, chunk_param, decoded_by
from .sd_plan import (
    Facts,
    denoise_op,
    f32,
    latent_sizes,
    prompts,
    resolution_param,
    sampling_params,
    text_stage,
    text_values,
    u8,
)

__all__ = ["animation"]

_SLOW, _TRANSITION = ", slow motion.", "smooth transition."  # what is added to a prompt
_MOMENTS = ("mean", "deviation")


def animation(facts: Facts, *, last: bool) -> Part:
    """A given first picture, and perhaps a last one, to frames, by SEINE's network."""
    texts = prompts(_TRANSITION if last else _SLOW)
    shape, frames = ("F", 4, "h", "w"), Frames("clip", "F")
    decoded, decode = decoded_by("decode", "x_0", shape, frames)
    given = {"image": "the first frame"} | ({"last_image": "the last frame"} if last else {})
    known = dict(zip(("first", "last"), given, strict=False))
    parts = [f"{part}_{of}" for part in ("grey", *known) for of in _MOMENTS]
    denoise = denoise_op(
        facts,
        "x_T",
        "x_0",
        graph="seine",
        conditions={"states": "states", "given": "given"},
        sampler="ddpm",
        spacing="adm",
        final="one",
        variance="fixed_large",
    )
    params: dict[str, Param] = {**texts["params"], **sampling_params(250, 8.0)}
    params |= {name: _picture(what, facts) for name, what in given.items()}
    params |= resolution_param(facts) | frames_param(least=2) | chunk_param()
    values = {
        **text_values(facts),
        **dict.fromkeys(given, u8(1, "H", "W", 3)),
        **dict.fromkeys(parts, f32(1, 4, "h", "w")),
        **dict.fromkeys(("given.z", "x_T", "x_0"), f32(*shape)),
        "given": f32("F", 5, "h", "w"),
        **decoded,
    }
    ops: tuple[Op, ...] = (
        _moments("grey", "image", "grey"),
        *(_moments("encode", picture, part) for part, picture in known.items()),
        Noise(value="given.z"),
        Run(
            graph="given_both" if last else "given_first",
            inputs={"z": "given.z", **{part: part for part in parts}},
            outputs={"given": "given"},
        ),
        Noise(value="x_T"),
        denoise,
    )
    return Part(
        frames,
        params,
        texts["rows"],
        latent_sizes(facts) | {"F": Size(param="frames")},
        values,
        (text_stage(tokenizer="text_encoder"), Stage(name="unet", ops=ops), decode),
    )


def _moments(graph: str, picture: str, part: str) -> Run:
    """Mean and deviation of latents."""
    outputs = {of: f"{part}_{of}" for of in _MOMENTS}
    return Run(graph=graph, inputs={"frames": picture}, outputs=outputs)


def _picture(description: str, facts: Facts) -> VideoParam:
    """One picture of the user's."""
    longest = Ref(param="resolution")
    return VideoParam(description=description, frames=1, longest=longest, multiple=facts.multiple)
