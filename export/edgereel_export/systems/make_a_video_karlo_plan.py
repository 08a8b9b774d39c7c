"""The modes of a cascade made of Karlo's networks, as plan structs."""

from __future__ import annotations

from functools import partial

import msgspec

from edgereel.plan import (
    Denoise,
    Mode,
    Noise,
    Op,
    Output,
    Param,
    Run,
    Size,
    Stage,
)

from .make_a_video_given import Given, between, filled, looked_at
from .make_a_video_high import SHARED_NOISE, Small, chunk_size, in_chunks
from .make_a_video_karlo_stages import SKIP, KarloFacts, Made, joint, one_by_one, picture, pixels
from .make_a_video_parts import (
    clip_rate,
    filling,
    led_by_interpolation,
    rate_param,
    text,
    told_values,
)
from .make_a_video_plan import TEXT, TOLD, Sampling, guided, prior_loop, sampling_params
from .parts import Frames, Part, mode_of
from .sd_plan import f32

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
_CHUNK = 4  # frames enlarged at a time by default


def modes(facts: KarloFacts) -> dict[str, Mode]:
    """Those that the checkpoint's networks can do, videos first."""
    begin = text(facts.widths, guidance=True), _prior(facts)
    found: dict[str, Mode] = {}
    given = Given(facts.frames, SKIP, facts.size, facts.side, facts.widths.clip)
    fill = partial(_interpolation, facts)
    if facts.frames:
        parts = (*begin, _decoder(facts, video=True))
        found["video"] = _mode(f"text to a video of {facts.frames} frames", facts, parts)
    if facts.interpolates:
        drawn = (_decoder(facts, video=True, rated=True), between(given, fill))
        words = f"text to a video of {facts.length} frames"
        found["interpolated"] = _mode(words, facts, (*begin, *drawn))
    found["image"] = _picture(facts, begin)
    if not facts.side:
        return found
    told = text(facts.widths, guidance=False, default="")
    if facts.interpolates:
        for name, (words, more) in filled(given, fill).items():
            found[name] = led_by_interpolation(_mode(words, facts, (told, *more)))
    both = text(facts.widths, guidance=True, default="")
    if facts.frames:
        words = f"{facts.frames} frames that show what a picture or a video of yours does"
        parts = (both, looked_at(given, facts.frames), _decoder(facts, video=True))
        found["variation"] = _mode(words, facts, parts)
    found["image-variation"] = _picture(facts, (both, looked_at(given, 1)))
    return found


def _mode(description: str, facts: KarloFacts, parts: tuple[Part, ...]) -> Mode:
    """A mode of parts that end with small frames, which are then enlarged."""
    frames = parts[-1].frames
    if facts.joint:
        made = [joint(facts, frames.number, frames.value)]
        params: dict[str, Param] = {}
    else:
        made = one_by_one(facts, frames.number, frames.value)
        params = {**chunk_size(_CHUNK), **SHARED_NOISE}
    enlarged = _enlarged(made, {**_sampling("super_res"), **params})
    larger = []
    if facts.high:
        larger = [in_chunks(facts.high, "large_frames", frames.number, _CHUNK)]
    return mode_of(description, _FPS, [*parts, enlarged, *larger])


def _picture(facts: KarloFacts, begin: tuple[Part, ...]) -> Mode:
    """One picture, by the networks without layers over frames."""
    large = _enlarged([picture(facts)], _sampling("super_res"))
    what = begin[-1].frames.value or "text"
    larger = [facts.high.enlarged(Small("large", 1, 1))] if facts.high else []
    made = [*begin, _decoder(facts, video=False), large, *larger]
    mode = mode_of(f"{what} to a picture", 1.0, made)
    params = {name: param for name, param in mode.params.items() if name != "fps"}
    return msgspec.structs.replace(mode, params=params, output=Output(value="frames", fps=1.0))


def _enlarged(made: list[Made], params: dict[str, Param]) -> Part:
    values = {name: spec for more, _ in made for name, spec in more.items()}
    return Part(Frames("frames", 0), params, {}, {}, values, tuple(stage for _, stage in made))


def _sampling(stage: str) -> dict[str, Param]:
    """At least two steps, as the last of super-resolution has a network of its own."""
    what, sampler = _WHAT[stage], ("ddpm", "sampler of the pixel stages; ddpm is Karlo's")
    facts = Sampling(what, f"steps of {what}", _STEPS[stage], 2, _GUIDANCE.get(stage), sampler)
    return sampling_params(stage, facts)


def _prior(facts: KarloFacts) -> Part:
    values = {name: f32(1, facts.widths.clip) for name in ("image_noise", "embedding")}
    ops = (Noise(value="image_noise"), prior_loop("prior", "embedding"))
    return Part(Frames("", 0), _sampling("prior"), {}, {}, values, (Stage(name="prior", ops=ops),))


def _decoder(facts: KarloFacts, *, video: bool, rated: bool = False) -> Part:
    """An image embedding to a picture or to frames; `rated`: as far apart as the skip says."""
    sides = (facts.size, facts.size)
    shape = (1, 3, facts.frames, *sides) if video else (1, 3, *sides)
    values = told_values("G", "", facts.widths)
    values |= dict.fromkeys(("clip_noise", "clip"), f32(*shape))
    told = {"image": "embedding", **TEXT, "row": "row"}
    ops: list[Op] = []
    if video:
        values["fps"] = f32(1)
        told["fps"] = "fps"
    if rated:
        values["clip_fps"] = f32(1)
        told["fps"] = "clip_fps"
        ops.append(clip_rate())
    name = "decoder" if video else "image_decoder"
    ops += [
        Run(graph=f"{name}_condition", inputs=told, outputs=TOLD),
        Noise(value="clip_noise"),
        pixels(
            name, ("clip_noise", "clip"), TOLD, "decoder", learned=True, guidance=guided("decoder")
        ),
    ]
    params = _sampling("decoder") | (rate_param(_FPS) if video else {})
    stage = Stage(name="decoder", ops=tuple(ops))
    return Part(Frames("clip", facts.frames), params, {}, {}, values, (stage,))


def _interpolation(facts: KarloFacts, placed: str, frames: Size, params: dict[str, Param]) -> Part:
    """Frames `clip` to as many as `frames` says; see make_a_video_parts.filling."""

    def loop(x: str, out: str, told: dict[str, str]) -> Denoise:
        return pixels("interpolation", (x, out), told, "interpolation", learned=True)

    sampling = {**_sampling("interpolation"), **rate_param(_FPS)}
    return filling(facts.size, facts.widths, loop, placed, frames, {**params, **sampling})
