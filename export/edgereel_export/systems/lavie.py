"""LaVie (arXiv:2309.15103): text to video, more frames, larger pictures, as three networks.

A checkpoint is the folder that its authors published (lavie_checkpoint.py) with two folders of
diffusers beside it (lavie_companions.py). Any of the three networks may be missing; what can be
done without it is left. LoRA files are merged into the base network and the text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgereel.errors import InputError
from edgereel.plan import Mode
from edgereel_export import lora
from edgereel_export.checkpoints import fill
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.lavie_checkpoint import Stage, read_lavie, stages, vsr_config
from edgereel_export.lavie_companions import (
    Companion,
    Upscaler,
    read_stable_diffusion,
    read_upscaler,
    unet_config,
)
from edgereel_export.modules import lavie_glue as glue
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet
from edgereel_export.modules.lavie_vsr import VSRUNet
from edgereel_export.modules.sd_unet import UNet
from edgereel_export.shapes.networks import LAVIE

from .examples import pictures, randn
from .extras import NO_EXTRAS, Extras
from .lavie_plan import MODES, modes, needs
from .sd_graphs import EXAMPLE, IMAGE, PICTURE, decode_graph, sd_step, text_graph
from .sd_plan import Facts

__all__ = ["CHECKPOINTS", "LaVie", "load", "tiny"]

CHECKPOINTS = {"shapes": LAVIE}  # --size NAME: checkpoints that come with Edgereel
_SIZE = 320, 512  # default height and width
_MOMENTS = ("mean", "deviation")
_LARGE = {2: "H", 3: "W"}  # free axes of super-resolution's latents


@dataclass(frozen=True, kw_only=True)
class LaVie:
    """The loaded networks of a checkpoint, by stage, and what surrounds them."""

    unets: dict[Stage, UNet]
    image: LaVieUNet | None  # the base network without attention over frames
    around: Companion | None  # of base and interpolation
    upscaler: Upscaler | None

    @property
    def tokenizers(self) -> dict[str, Tokens]:
        """By the text encoder that they are for."""
        found = {"text_encoder": self.around, "upscaling_text_encoder": self.upscaler}
        return {name: part.tokens for name, part in found.items() if part is not None}

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """That of the networks, and that of the noise on low-resolution pictures."""
        found = {}
        part = self.around or self.upscaler
        assert part is not None
        found["trained"] = part.scheduler.alphas_cumprod()
        if self.upscaler is not None:
            found["low_res"] = self.upscaler.low_res_scheduler.alphas_cumprod()
        return found

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for."""
        return modes(self._facts(), self.unets.keys())

    def _facts(self) -> dict[str, Facts]:
        """What the plan needs to know, by the network that it is about."""
        found = {}
        small = next((unet for name, unet in self.unets.items() if name != "vsr"), None)
        for name, part, unet in (
            ("base", self.around, small),
            ("vsr", self.upscaler, self.unets.get("vsr")),
        ):
            if part is None or unet is None:
                continue
            factor = part.vae.config.factor
            levels = len(unet.config.block_out_channels)
            found[name] = Facts(
                part.tokens.length,
                unet.config.cross_attention_dim,
                _SIZE,
                factor,
                8 if name == "vsr" else factor << levels - 1,
                part.scheduler.spacing,
                part.scheduler.final,
            )
        return found

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; guidance rows, frames, height and width are free."""
        graphs: dict[str, Graph] = {}
        if self.around is not None:
            graphs |= self._small_graphs(self.around)
        if self.upscaler is not None:
            graphs |= self._large_graphs(self.upscaler)
        return graphs

    def _small_graphs(self, around: Companion) -> dict[str, Graph]:
        """Of base and interpolation."""
        frames, height, width = EXAMPLE
        factor = around.vae.config.factor
        one = {name: randn(2, 4, height, width) for name in ("mean", "deviation", "z")}
        latents = {0: "K", **IMAGE}
        graphs = {
            "text_encoder": text_graph(around.text_encoder, around.tokens.length),
            "decode": decode_graph(around.vae, rounded=True),
            "encode": Graph(
                glue.Posterior(around.vae),
                {"frames": pictures(2, height * factor, width * factor, 3)},
                _MOMENTS,
                {"frames": PICTURE, "mean": latents, "deviation": latents},
            ),
            "copied": Graph(
                glue.CopiedFrames(),
                one,
                ("copied",),
                {"copied": {0: "T", **IMAGE}, **{key: {0: "F", **IMAGE} for key in one}},
            ),
        }
        networks = {"unet": self.unets.get("base"), "unet_image": self.image}
        for name, network in networks.items():
            if network is not None:
                graphs[name] = _step(network, around, {}, IMAGE)
        if "interpolation" in self.unets:
            more = {"copied": randn(frames, 4, height, width)}
            graphs["interpolation"] = _step(self.unets["interpolation"], around, more, IMAGE)
        if "seine" in self.unets:
            graphs |= self._animated(around)
        return graphs

    def _animated(self, around: Companion) -> dict[str, Graph]:
        """Of SEINE: what is given of a video, and the step that makes the rest."""
        frames, height, width = EXAMPLE
        factor = around.vae.config.factor
        parts = ("grey", "first", "last")
        known = {f"{part}_{of}": randn(1, 4, height, width) for part in parts for of in _MOMENTS}
        inputs = {"z": randn(frames, 4, height, width), **known}
        free = {"z": {0: "F", **IMAGE}, "given": {0: "F", **IMAGE}, **dict.fromkeys(known, IMAGE)}
        first = {name: tensor for name, tensor in inputs.items() if not name.startswith("last")}
        more = {"given": randn(frames, 5, height, width)}
        return {
            "grey": Graph(
                glue.GreyLatents(around.vae),
                {"frames": pictures(2, height * factor, width * factor, 3)},
                _MOMENTS,
                {"frames": PICTURE, **dict.fromkeys(_MOMENTS, IMAGE)},
            ),
            "given_first": Graph(glue.GivenFrames(), first, ("given",), free),
            "given_both": Graph(glue.GivenFrames(), inputs, ("given",), free),
            "seine": _step(self.unets["seine"], around, more, IMAGE),
        }

    def _large_graphs(self, upscaler: Upscaler) -> dict[str, Graph]:
        """Of super-resolution, whose latents are as large as its small pictures."""
        frames, height, width = EXAMPLE
        more = {"low": randn(frames, 3, height, width), "level": torch.tensor([50])}
        latents = {0: "K", **_LARGE}
        return {
            "upscaling_text_encoder": text_graph(upscaler.text_encoder, upscaler.tokens.length),
            "unit": Graph(
                glue.UnitPictures(),
                {"frames": pictures(2, height, width, 3)},
                ("x",),
                {"frames": PICTURE, "x": latents},
            ),
            "upscaling": _step(self.unets["vsr"], upscaler, more, _LARGE),
            "upscaling_decode": replace(
                decode_graph(upscaler.vae, sides=_LARGE, large={0: "K", 1: "PH", 2: "PW"}),
                # Half overflows: vsr/models/pipeline_stable_diffusion_upscale_video_3d.py:742 of
                # Vchitect/LaVie at c4cf9c7.
                precision="fp32",
            ),
        }


def _step(
    network: UNet, part: Companion, more: Mapping[str, Tensor], sides: Mapping[int, str]
) -> Graph:
    """The denoise graph of a network with text states and `more` conditions."""
    states = randn(2, part.tokens.length, network.config.cross_attention_dim)
    frames = {0: "F", **sides}
    free = {"x": frames, **dict.fromkeys(more.keys() - {"level"}, frames)}
    return sd_step(network, part.scheduler.prediction, {"states": states, **more}, free)


def load(checkpoint: Path, extras: Extras = NO_EXTRAS) -> LaVie:
    """The networks of a checkpoint folder that the wanted modes need, LoRA files merged.

    Raises:
        InputError: a file is missing, damaged, or of something else than its name says.
    """
    if extras.controlnets:
        raise InputError(
            "--controlnet has no meaning with lavie; expected it with text2video-zero. Drop it."
        )
    extras.refuse_temporal("lavie")
    extras.refuse_high("lavie")
    there = set(stages(checkpoint))
    known = [name for name in MODES if name in extras.modes]
    wanted = set().union(*(needs(name) for name in known)) if known else there
    states = read_lavie(checkpoint, sorted(wanted))
    around = read_stable_diffusion(checkpoint) if wanted - {"vsr"} else None
    unets: dict[Stage, UNet] = {}
    if "base" in states:
        assert around is not None
        states["base"] = _merged(states["base"], around, extras)
        unets["base"] = LaVieUNet(unet_config(checkpoint, 4))
    if "interpolation" in states:
        unets["interpolation"] = InterpolationUNet(unet_config(checkpoint, 8))
    if "seine" in states:
        unets["seine"] = LaVieUNet(unet_config(checkpoint, 9))
    upscaler = None
    if "vsr" in states:
        config = vsr_config(states["vsr"], checkpoint)
        unets["vsr"] = VSRUNet(config)
        upscaler = read_upscaler(checkpoint, config.cross_attention_dim)
    for stage, unet in unets.items():
        fill(unet, states.pop(stage), checkpoint / stage)
    return LaVie(unets=unets, image=_image(unets), around=around, upscaler=upscaler)


def _merged(state: dict[str, Tensor], around: Companion, extras: Extras) -> dict[str, Tensor]:
    """The weights of the base network with the LoRA files; the text encoder takes its part."""
    text = around.text_encoder.state_dict()
    for path, strength in extras.loras:
        state, text = lora.merge(path, state, text, strength)
    around.text_encoder.load_state_dict(text)
    return state


def _image(unets: Mapping[Stage, UNet]) -> LaVieUNet | None:
    """The base network for pictures, which shares its weights."""
    base = unets.get("base")
    if base is None:
        return None
    assert isinstance(base, LaVieUNet)
    image = LaVieUNet(base.config, temporal=False)
    image.load_state_dict(base.state_dict(), assign=True)
    return image.eval().requires_grad_(False)


def tiny(folder: Path) -> LaVie:
    """The same cascade with random weights in seconds, through a checkpoint written to `folder`."""
    from .lavie_tiny import write_checkpoint

    write_checkpoint(folder)
    return load(folder)
