"""Make-A-Video over Karlo's networks (kakaobrain/karlo-v1-alpha), an open DALL-E 2.

Nobody has published layers over frames for them; karlo_temporal.py says how to give some. Without,
the cascade draws pictures, as diffusers' UnCLIPPipeline does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgereel.errors import InputError
from edgereel.plan import Mode
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.karlo_checkpoint import Karlo, read
from edgereel_export.karlo_temporal import IDENTITY, Timed, read_temporal
from edgereel_export.modules import glue
from edgereel_export.modules.known_frames import ClipRate, InterpolationCondition, PictureEmbedding
from edgereel_export.modules.unet import UNet
from edgereel_export.modules.wrapped import Concatenated, PerFrame, Picture, Rows
from edgereel_export.step import step_graph

from .examples import ids, rand, randn
from .extras import Extras
from .make_a_video_high import High
from .make_a_video_karlo_plan import modes
from .make_a_video_karlo_stages import SKIP, KarloFacts
from .make_a_video_known import given_graphs, known_graphs
from .make_a_video_parts import MOST_FPS
from .make_a_video_plan import Widths
from .make_a_video_x4 import read_high

__all__ = ["KarloCascade", "load_karlo"]

_SCALE_HIGH = 3  # 256 pixels to 768, as published
_FILLED = ("interpolated", "animate", "transition", "interpolate", "extend", "extend-start")
_VIDEOS = {  # by mode: what has to be given
    **dict.fromkeys(("video", "variation"), "decoder"),
    **dict.fromkeys(_FILLED, "interpolation"),
}
_TOLD = ("tokens", "bias", "emb")
_CONDITION = ("image", "embeds", "states", "mask", "row")
_K = {0: "K"}
_F = {name: {2: "F"} for name in ("x", "low", "known")}


@dataclass(frozen=True, kw_only=True)
class KarloCascade:
    """The networks of a checkpoint, and perhaps some of them with layers over frames."""

    parts: Karlo
    timed: Timed | None
    high: High | None = None

    @property
    def tokenizers(self) -> dict[str, Tokens]:
        """The one for prompts, and what the last stage has."""
        return {"bpe": self.parts.tokens, **(self.high.tokenizers if self.high else {})}

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """By stage."""
        own = {name: part.alphas_cumprod() for name, part in self.parts.schedulers.items()}
        return own | (self.high.schedules() if self.high else {})

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for."""
        return modes(self._facts())

    def _facts(self) -> KarloFacts:
        parts, proj = self.parts, self.parts.text_proj.config
        widths = Widths(
            parts.tokens.length,
            proj.clip_embeddings_dim,
            proj.clip_extra_context_tokens,
            proj.cross_attention_dim,
            proj.time_embed_dim,
        )
        return KarloFacts(
            widths,
            parts.size,
            parts.scale,
            self.timed.frames if self.timed else 0,
            "interpolation" in self._videos,
            "super_res_first" in self._videos,
            parts.schedulers["super_res"].num_train_timesteps,
            math.lcm(parts.size, parts.sees.size) if parts.sees else 0,
            self.high,
        )

    @property
    def _videos(self) -> Mapping[str, UNet]:
        return self.timed.unets if self.timed else {}

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; guidance rows and the frames of a part are free."""
        given = self._examples()
        graphs = self._text_graphs(given) | self._picture_graphs(given)
        if self.timed is not None:
            graphs |= self._video_graphs(given)
        if "interpolation" in self._videos:
            graphs |= self._interpolation_graphs(given)
        graphs |= self._given_graphs()
        return graphs | (self.high.graphs() if self.high else {})

    def _given_graphs(self) -> dict[str, Graph]:
        """What shows the user's pictures to the networks, if there is an image encoder."""
        parts, side = self.parts, self._facts().side
        if parts.sees is None:
            return {}
        embed = PictureEmbedding(
            parts.sees.model, side // parts.sees.size, parts.sees.levels, self._statistics
        )
        return given_graphs(embed, side, side // parts.size, 2)

    def _text_graphs(self, given: Mapping[str, Tensor]) -> dict[str, Graph]:
        """Text encoder and prior."""
        text = _pick(given, "embeds", "states", "mask")
        step = self.parts.schedulers["prior"].step
        return {
            "text_encoder": Graph(
                glue.TextEncoder(self.parts.text_encoder),
                _pick(given, "ids", "mask"),
                ("states", "embeds"),
                _ROWS,
            ),
            "prior": step_graph(Rows(self.parts.prior), step, given["image"].shape, text, _ROWS),
        }

    def _picture_graphs(self, given: Mapping[str, Tensor]) -> dict[str, Graph]:
        """Decoder and super-resolution without layers over frames, and what is around them."""
        parts, side, large = self.parts, self.parts.size, self.parts.size * self.parts.scale
        condition = glue.ImageCondition(parts.text_proj, *self._statistics)
        step, told = parts.schedulers["decoder"].step, _told(condition, given)
        decoder = Picture(parts.unets["decoder"])
        graphs = {
            "image_decoder_condition": Graph(condition, _pick(given, *_CONDITION), _TOLD, _ROWS),
            "image_decoder": step_graph(decoder, step, (1, 3, side, side), told, _ROWS),
            "upsample": Graph(
                glue.Upsample(side, parts.scale),
                {"x": rand(2, 3, side, side)},
                ("low",),
                {"x": _K, "low": _K},
            ),
            "pixels": Graph(
                glue.Pixels(),
                {"x": rand(2, 3, large, large) * 2 - 1},
                ("frames",),
                {"x": _K, "frames": _K},
            ),
        }
        shape, free = (2, 3, large, large), {"x": _K, "low": _K}
        step = parts.schedulers["super_res"].step
        for name in ("super_res_first", "super_res_last"):
            network = PerFrame(parts.unets[name])
            graphs[name] = step_graph(network, step, shape, {"low": rand(*shape)}, free)
        return graphs

    def _video_graphs(self, given: Mapping[str, Tensor]) -> dict[str, Graph]:
        """The decoder over frames; super-resolution over frames of each length there is."""
        assert self.timed is not None
        facts, unet = self._facts(), self._videos["decoder"]
        shape = (1, 3, facts.frames, facts.size, facts.size)
        condition = self._condition(unet)
        told = _told(condition, given)
        step = self.parts.schedulers["decoder"].step
        graphs = {
            "decoder_condition": Graph(condition, _pick(given, *_CONDITION, "fps"), _TOLD, _ROWS),
            "decoder": step_graph(Rows(unet), step, shape, told, _ROWS),
        }
        lengths = {"clip": facts.frames}
        if facts.interpolates:
            lengths["small"] = facts.length
        for small, frames in lengths.items():
            if facts.joint:
                graphs |= self._joint_graphs(small, frames)
            else:
                x = rand(1, 3, frames, facts.size, facts.size)
                free = {"x": _F["x"], "frames": {0: "F"}}
                graphs[f"{small}_frames"] = Graph(glue.FrameBatch(), {"x": x}, ("frames",), free)
        return graphs

    def _joint_graphs(self, small: str, frames: int) -> dict[str, Graph]:
        """Super-resolution of the whole of a value of so many frames."""
        side, scale = self.parts.size, self.parts.scale
        shape = (1, 3, frames, side * scale, side * scale)
        step = self.parts.schedulers["super_res"].step
        graphs = {
            f"upsample_{small}": Graph(
                glue.Upsample(side, scale),
                {"x": rand(1, 3, frames, side, side)},
                ("low",),
                {name: _F[name] for name in ("x", "low")},
            ),
            f"large_{small}_frames": Graph(
                glue.FrameBatch(),
                {"x": rand(*shape)},
                ("frames",),
                {"x": _F["x"], "frames": {0: "F"}},
            ),
        }
        for name in ("super_res_first", "super_res_last"):
            network = Concatenated(self._videos[name])
            graphs[f"{name}_{small}"] = step_graph(network, step, shape, {"low": rand(*shape)}, _F)
        return graphs

    def _interpolation_graphs(self, given: Mapping[str, Tensor]) -> dict[str, Graph]:
        """Interpolation, told what the decoder is told."""
        facts, unet = self._facts(), self._videos["interpolation"]
        condition = self._condition(unet)
        told = {name: value[-1:].contiguous() for name, value in _told(condition, given).items()}
        clip = (1, 3, facts.frames, facts.size, facts.size)
        video = (1, 3, facts.length, facts.size, facts.size)
        known = {"known": rand(1, 4, *video[2:]), **told}
        step = self.parts.schedulers["decoder"].step
        inputs = _pick(given, "image", "embeds", "states", "mask", "fps")
        return {
            "clip_rate": Graph(
                ClipRate(SKIP, MOST_FPS),
                {"fps": given["fps"], "skip": torch.tensor([SKIP])},
                ("rate",),
            ),
            "interpolation_condition": Graph(
                InterpolationCondition(condition),
                inputs,
                _TOLD,
                {name: _ROWS[name] for name in ("embeds", "states", "mask")},
            ),
            "interpolation": step_graph(Concatenated(unet), step, video, known, _F),
            **known_graphs(clip, video, SKIP),
        }

    def _condition(self, unet: UNet) -> glue.DecoderCondition:
        """What a decoder over frames is told."""
        return glue.DecoderCondition(self.parts.text_proj, unet, *self._statistics)

    @property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of image embeddings, f32 [1, D]."""
        return self.parts.prior.clip_mean.data, self.parts.prior.clip_std.data

    def _examples(self) -> dict[str, Tensor]:
        """Two guidance rows of plausible inputs."""
        length = self.parts.tokens.length
        tokens = ids(2, length)
        mask = (torch.arange(length) < torch.tensor([[5], [9]])).float()
        with torch.no_grad():
            states, embeds = glue.TextEncoder(self.parts.text_encoder)(tokens, mask)
        return {
            "ids": tokens,
            "mask": mask,
            "states": states,
            "embeds": embeds,
            "row": torch.arange(2),
            "image": randn(1, self.parts.prior.config.embedding_dim),
            "fps": torch.full((1,), 8.0),
        }


_ROWS = {name: {0: "G"} for name in (*_CONDITION[1:], "ids", *_TOLD)}


def _pick(values: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: values[name] for name in names}


def _told(condition: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Example outputs of a condition."""
    names = (*_CONDITION, "fps") if isinstance(condition, glue.DecoderCondition) else _CONDITION
    with torch.no_grad():
        return dict(zip(_TOLD, condition(*_pick(given, *names).values()), strict=True))


def load_karlo(checkpoint: Path, extras: Extras) -> KarloCascade:
    """The cascade of a checkpoint of Karlo with the layers over frames that are given.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others, or a mode is wanted
            that needs layers nobody gave.
    """
    wanted = [mode for mode in extras.modes if mode in _VIDEOS]
    if wanted and not extras.temporal:
        raise InputError(
            f"--mode {wanted[0]} needs layers over frames, which Karlo has not; expected "
            f"--temporal FILE with trained ones, or --temporal {IDENTITY} for a video of unrelated "
            f"pictures of one text. Give one of these, or choose --mode image."
        )
    parts = read(checkpoint)
    timed = read_temporal(extras.temporal, parts.unets) if extras.temporal else None
    for mode in wanted:
        assert timed is not None
        if _VIDEOS[mode] not in timed.unets:
            raise InputError(
                f"--mode {mode} needs {_VIDEOS[mode]}, which {extras.temporal} has not; expected "
                f"keys that begin with {_VIDEOS[mode]}. there. Add them, or choose other modes."
            )
    high = None
    if extras.super_res_high:
        high = read_high(extras.super_res_high, parts.size * parts.scale, _SCALE_HIGH)
    return KarloCascade(parts=parts, timed=timed, high=high)
