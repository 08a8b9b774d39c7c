"""SR_h by Stable Diffusion's x4 upscaler, whose pictures are then made as large as wanted.

Each frame gets the same noise, both that which latents begin with and that on the small picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgereel.errors import InputError
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
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.modules import glue
from edgereel_export.x4_upscaler import X4Upscaler, read_x4_upscaler

from .examples import pictures, rand, randn
from .make_a_video_high import SHARED, SHARED_NOISE, Bicubic, High, Small, by_parts
from .parts import Frames, Part, Values, tile_param, tiles
from .sd_graphs import EXAMPLE, decode_graph, sd_step, text_graph
from .sd_plan import (
    Facts,
    decode_op,
    denoise_op,
    f32,
    guidance_of,
    sampling_params,
    text_stage,
    text_values,
    u8,
)

__all__ = ["BICUBIC", "X4", "read_high"]

BICUBIC = "bicubic"
_STAGE = "super_res_high"
_MOST_LEVEL = 350  # noise that the upscaler was trained with
_SIDES = {2: "H", 3: "W"}  # free axes of its latents
_ENCODER = f"{_STAGE}_text_encoder"


def read_high(given: str, size: int, scale: int) -> High:
    """What `--super-res-high` says: the word `bicubic`, or the folder of the x4 upscaler.

    Args:
        given: that.
        size: side of the small frames in pixels.
        scale: how many times as large they get.

    Raises:
        InputError: the folder is something else, or a part of it is missing or damaged, or its
            pictures are not as large as wanted.
    """
    if given == BICUBIC:
        return Bicubic(size, scale)
    upscaler = read_x4_upscaler(Path(given))
    factor = upscaler.around.vae.config.factor
    if scale > factor:
        raise InputError(
            f"--super-res-high {given} enlarges {factor} times; expected at least the {scale} of "
            f"this checkpoint. Use {BICUBIC}, or the checkpoint's own network."
        )
    return X4(upscaler, size, scale)


@dataclass(frozen=True)
class X4:
    """The upscaler, for frames of `size` pixels that get `scale` times as large."""

    upscaler: X4Upscaler
    size: int
    scale: int

    @property
    def tokenizers(self) -> Mapping[str, Tokens]:
        """Its own."""
        return {_STAGE: self.upscaler.around.tokens}

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """That of the network, and that of the noise on small pictures."""
        around = self.upscaler.around
        return {
            _STAGE: around.scheduler.alphas_cumprod(),
            "low_res": around.low_res_scheduler.alphas_cumprod(),
        }

    @property
    def _factor(self) -> int:
        return self.upscaler.around.vae.config.factor

    @property
    def _facts(self) -> Facts:
        around, width = self.upscaler.around, self.upscaler.unet.config.cross_attention_dim
        scheduler, sides = around.scheduler, (self.size, self.size)
        return Facts(
            around.tokens.length, width, sides, self._factor, 1, scheduler.spacing, scheduler.final
        )

    def graphs(self) -> dict[str, Graph]:
        """Text encoder, step, decoder, and what is around them."""
        around, facts = self.upscaler.around, self._facts
        frames, height, width = EXAMPLE
        free, large = {0: "K", **_SIDES}, self.size * self._factor
        more = {"low": randn(frames, 3, height, width), "level": torch.tensor([20])}
        states = {"states": randn(2, facts.length, facts.width)}
        prediction = around.scheduler.prediction
        return {
            _ENCODER: text_graph(around.text_encoder, facts.length),
            "clipped": Graph(
                glue.Clipped(), {"x": rand(2, 3, 8, 8) * 4 - 2}, ("y",), {"x": free, "y": free}
            ),
            _STAGE: sd_step(
                self.upscaler.unet, prediction, states | more, {"x": free, "low": free}
            ),
            f"{_STAGE}_decode": replace(
                decode_graph(
                    around.vae, rounded=True, sides=_SIDES, large={0: "K", 1: "PH", 2: "PW"}
                ),
                precision="fp32",  # half overflows, see the decoder of LaVie's large pictures
            ),
            "smaller": Graph(
                glue.AreaDownsample(large, self.size * self.scale),
                {"frames": pictures(2, large, large, 3)},
                ("smaller",),
                {"frames": {0: "K"}, "smaller": {0: "K"}},
            ),
        }

    def enlarged(self, small: Small) -> Part:
        """Stages for the text, latents, large pictures, and pictures of the wanted size."""
        shared = small.number != 1  # of a single picture there is nothing to share
        large = "frames" if self.scale == self._factor else "high_large"
        stages = [
            text_stage(_STAGE, encoder=_ENCODER, tokenizer=_STAGE),
            _latents(self._facts, small, SHARED if shared else False),
            _decoded(small, large),
        ]
        if large != "frames":
            stages.append(_smaller(small))
        return Part(
            Frames("frames", small.number),
            _params() | (SHARED_NOISE if shared else {}),
            {f"text.{_STAGE}": (Row(text=""), Row(param=f"prompt.{_STAGE}"))},
            {f"P{side}": Size(symbol=side, times=self._factor) for side in ("TH", "TW")},
            text_values(self._facts, _STAGE) | self._values(small.number, large),
            tuple(stages),
        )

    def _values(self, number: int | str, large: str) -> Values:
        size, wide, side = self.size, self.size * self._factor, self.size * self.scale
        values: Values = {
            "noise_level": TensorSpec(dtype="int64", shape=(1,)),
            **dict.fromkeys(("chunk", "chunk_clipped", "chunk_noisy"), f32("K", 3, size, size)),
            **dict.fromkeys(("high_noise", "high_chunk"), f32("K", 4, size, size)),
            "high_latents": f32(number, 4, size, size),
            "latents_part": f32("K", 4, "TH", "TW"),
            "high_large_part": u8("K", "PTH", "PTW", 3),
            large: u8(number, wide, wide, 3),
        }
        if large != "frames":
            values |= {
                "high_large_chunk": u8("K", wide, wide, 3),
                "chunk_frames": u8("K", side, side, 3),
                "frames": u8(number, side, side, 3),
            }
        return values


def _params() -> dict[str, Param]:
    return {
        f"prompt.{_STAGE}": TextParam(
            description="what the last enlargement is told to be of, if anything", default=""
        ),
        **sampling_params(50, 1.0, _STAGE),
        f"sampler.{_STAGE}": ChoiceParam(
            description="sampler of the last enlargement; dpmpp_2m needs fewer steps",
            choices=("ddim", "dpmpp_2m"),
            default="ddim",
        ),
        "noise_level": IntParam(
            description="noise on the small pictures; more lets the last enlargement invent more",
            default=20,
            min=0,
            max=_MOST_LEVEL,
        ),
        f"decode_tile.{_STAGE}": tile_param("decode"),
    }


def _latents(facts: Facts, small: Small, shared: bool | Ref) -> Stage:
    """Latents of large pictures, by the network."""
    clip = Run(graph="clipped", inputs={"x": "chunk"}, outputs={"y": "chunk_clipped"})
    noisy = Renoise(
        x="chunk_clipped",
        out="chunk_noisy",
        schedule="low_res",
        from_=None,
        to=Ref(param="noise_level"),
        noise="level_noise",
        shared_noise=shared,
    )
    denoise = denoise_op(
        facts,
        "high_noise",
        "high_chunk",
        graph=_STAGE,
        conditions={"states": f"states.{_STAGE}", "low": "chunk_noisy", "level": "noise_level"},
        schedule=_STAGE,
        sampler=Ref(param=f"sampler.{_STAGE}"),
        steps=Ref(param=f"steps.{_STAGE}"),
        guidance=guidance_of(_STAGE),
        noise=f"{_STAGE}.z",
        shared_noise=shared,
    )
    return Stage(
        name=_STAGE,
        each=by_parts(small, "chunk"),
        collect={"high_chunk": "high_latents"},
        ops=(clip, noisy, Noise(value="high_noise", shared=shared), denoise),
    )


def _decoded(small: Small, large: str) -> Stage:
    """The pictures of latents, perhaps in tiles, as the decoder looks at a whole picture."""
    windows = (Window(symbol="K", size=small.chunk), *tiles(f"decode_tile.{_STAGE}"))
    return Stage(
        name=f"{_STAGE}_decode",
        each=Each(slices={"latents_part": "high_latents"}, windows=windows),
        collect={"high_large_part": large},
        ops=(decode_op("latents_part", "high_large_part", f"{_STAGE}_decode"),),
    )


def _smaller(small: Small) -> Stage:
    run = Run(
        graph="smaller", inputs={"frames": "high_large_chunk"}, outputs={"smaller": "chunk_frames"}
    )
    return Stage(
        name=f"{_STAGE}_smaller",
        each=by_parts(small._replace(value="high_large"), "high_large_chunk"),
        collect={"chunk_frames": "frames"},
        ops=(run,),
    )
