"""Emu Video (arXiv:2311.10709): text to a picture, picture and text to a video.

One network does both, without and with its layers over frames; networks of the same structure
interpolate a video or go on from it. emu_checkpoint.py says what a checkpoint holds. Nobody has
published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgereel.errors import InputError
from edgereel.plan import Mode
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.emu_checkpoint import Network, Parts, networks, read
from edgereel_export.emu_sizes import make, read_sizes
from edgereel_export.graph import Graph
from edgereel_export.modules import emu_glue as glue
from edgereel_export.shapes.networks import EMU
from edgereel_export.step import StepConfig, step_graph

from .emu_video_parts import EmuFacts, Encoder
from .emu_video_plan import modes, needs
from .examples import pictures, randn
from .extras import NO_EXTRAS, Extras
from .sd_graphs import EXAMPLE, IMAGE, PICTURE, decode_graph, text_graph

__all__ = ["CHECKPOINTS", "EmuVideo", "load", "tiny"]

CHECKPOINTS = {  # --size NAME: what comes with Edgereel
    "shapes": EMU,
    "published": Path(__file__).with_name("emu_video_published.json"),
}
_GROUPS = 2  # of interpolated frames, in example inputs


@dataclass(frozen=True, kw_only=True)
class EmuVideo:
    """The loaded networks of a checkpoint and what surrounds them."""

    parts: Parts

    @property
    def tokenizers(self) -> dict[str, Tokens]:
        """By the text encoder that they are for."""
        return {f"text_encoder{end}": e.tokens for end, e in self.parts.encoders.items()}

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """That of pictures and, where there is one, that of videos."""
        found = {"image": self.parts.image.alphas_cumprod()}
        if self.parts.video is not None:
            found["video"] = self.parts.video.alphas_cumprod()
        return found

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for."""
        parts = self.parts
        factor = parts.vae.config.factor
        side = parts.config.sample_size * factor
        video = parts.video or parts.image
        facts = EmuFacts(
            (side, side),
            parts.config.latent_channels,
            factor,
            factor << len(parts.config.block_out_channels) - 1,
            tuple(Encoder(end, e.tokens.length, e.width) for end, e in parts.encoders.items()),
            (parts.image.spacing, parts.image.final),
            (video.spacing, video.final),
        )
        return modes(facts, parts.unets.keys())

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; guidance rows, frames, height and width are free."""
        vae, encoders = self.parts.vae, self.parts.encoders
        graphs = {
            f"text_encoder{end}": text_graph(e.model, e.tokens.length)
            for end, e in encoders.items()
        }
        graphs |= {"decode": decode_graph(vae, rounded=True), "image": self._step("image")}
        graphs |= {name: self._step(name) for name in self.parts.unets if name != "image"}
        return graphs | self._given_graphs() | self._video_graphs()

    def _step(self, name: Network) -> Graph:
        """The denoise graph of a network."""
        parts = self.parts
        channels = parts.config.latent_channels
        frames, height, width = EXAMPLE
        unet = parts.unets[name]
        states = {
            f"states{end}": randn(2, e.tokens.length, e.width) for end, e in parts.encoders.items()
        }
        free: dict[str, Mapping[int, str]] = {key: {0: "G"} for key in states}
        if name == "image":
            shape = (1, channels, height, width)
            step = StepConfig(parts.image.prediction)
            return step_graph(glue.Drawn(unet), step, shape, states, {**free, "x": IMAGE})
        assert parts.video is not None
        latents = {0: "F", **IMAGE}
        given: dict[str, Tensor] = {
            "given": randn(frames, channels + 1, height, width),
            "index": torch.tensor([0, 2]),
        }
        free |= {"x": latents, "given": latents, "index": {0: "G"}}
        shape = (frames, channels, height, width)
        step = StepConfig(parts.video.prediction)
        return step_graph(glue.Animated(unet), step, shape, {**given, **states}, free)

    def _given_graphs(self) -> dict[str, Graph]:
        """What a network over frames is given."""
        frames, height, width = EXAMPLE
        channels = self.parts.config.latent_channels
        latents = {0: "F", **IMAGE}
        known = glue.FEW * _GROUPS
        return {
            "first_given": Graph(
                glue.FirstGiven(),
                {
                    "first": randn(1, channels, height, width),
                    "like": randn(frames, channels, height, width),
                },
                ("given",),
                {"first": IMAGE, "like": latents, "given": latents},
            ),
            "all_given": Graph(
                glue.AllGiven(),
                {"past": randn(glue.PAST, channels, height, width)},
                ("given",),
                {"past": IMAGE, "given": IMAGE},
            ),
            "some_given": Graph(
                glue.SomeGiven(),
                {"known": randn(known, channels, height, width)},
                ("given",),
                {"known": latents, "given": {0: "A", **IMAGE}},
            ),
        }

    def _video_graphs(self) -> dict[str, Graph]:
        """To latents, and what is done to whole videos."""
        _, height, width = EXAMPLE
        channels, factor = self.parts.config.latent_channels, self.parts.vae.config.factor
        clip = pictures(glue.PAST + 1, height * factor, width * factor, 3)
        long = randn(glue.MOST_FRAMES * _GROUPS, channels, height, width)
        joined = {"x": {0: "A", **IMAGE}, "frames": {0: "T", **IMAGE}}
        video, longer = {**PICTURE, 0: "F"}, {**PICTURE, 0: "L"}
        return {
            "encode": Graph(
                glue.VideoLatents(self.parts.vae),
                {"frames": clip[:2]},
                ("x",),
                {"frames": PICTURE, "x": {0: "K", **IMAGE}},
            ),
            "encode_past": Graph(
                glue.PastLatents(self.parts.vae),
                {"frames": clip},
                ("x",),
                {"frames": video, "x": IMAGE},
            ),
            "joined": Graph(glue.Joined(seamless=False), {"x": long}, ("frames",), joined),
            "joined_seamless": Graph(glue.Joined(seamless=True), {"x": long}, ("frames",), joined),
            "extended": Graph(
                glue.Extended(),
                {"video": clip, "more": clip[: glue.PAST]},
                ("out",),
                {"video": video, "more": {1: "H", 2: "W"}, "out": longer},
            ),
        }


def load(checkpoint: Path, extras: Extras = NO_EXTRAS) -> EmuVideo:
    """The networks that the wanted modes need, of a checkpoint folder or of a file of sizes.

    Raises:
        InputError: a part is missing, damaged, or does not fit the others.
    """
    extras.refuse("emu-video")
    sizes = checkpoint.is_file()
    there = read_sizes(checkpoint).networks if sizes else networks(checkpoint)
    wanted: set[Network] = set().union(*(needs(mode) for mode in extras.modes))
    missing = sorted(wanted - {"image", *there})
    if missing:
        raise InputError(
            f"checkpoint: {checkpoint} has no {missing[0]}, which the mode "
            f"{next(mode for mode in extras.modes if missing[0] in needs(mode))} needs; expected "
            f"a network over frames of that name. Choose other modes, or add it."
        )
    chosen = [name for name in there if name in wanted or not extras.modes]
    return EmuVideo(parts=make(checkpoint, chosen) if sizes else read(checkpoint, chosen))


def tiny(folder: Path) -> EmuVideo:
    """The same cascade with random weights in seconds, through a checkpoint written to `folder`."""
    from .emu_video_tiny import write_checkpoint

    write_checkpoint(folder)
    return load(folder)
