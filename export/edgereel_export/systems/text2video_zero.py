"""Text2Video-Zero (arXiv:2303.13439): video from a Stable Diffusion 1.x checkpoint, untrained.

A checkpoint is a folder in diffusers' layout (diffusers_folder.py), of a text-to-image model or of
InstructPix2Pix, whichever was trained further from Stable Diffusion 1.x. LoRA files are merged into
it; each ControlNet adds a mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgereel.errors import InputError
from edgereel.plan import Mode
from edgereel_export import diffusers_folder, lora
from edgereel_export.checkpoints import fill
from edgereel_export.diffusers_parts import read_vae
from edgereel_export.diffusers_scheduler import SchedulerConfig
from edgereel_export.graph import Graph
from edgereel_export.modules import sd_glue as glue
from edgereel_export.modules.sd_config import SDControlNetConfig, SDUNetConfig
from edgereel_export.modules.sd_controlnet import SDControlNet
from edgereel_export.modules.sd_unet import SDUNet
from edgereel_export.modules.sd_vae import SDVAE
from edgereel_export.shapes.networks import LATENT

from .examples import pictures, randn
from .extras import NO_EXTRAS, Extras
from .sd_graphs import EXAMPLE, IMAGE, PICTURE, decode_graph, sd_step, text_graph
from .sd_plan import Facts
from .text2video_zero_given import CONTROLS, edit_modes
from .text2video_zero_plan import modes

__all__ = ["CHECKPOINTS", "Text2VideoZero", "load", "tiny"]

CHECKPOINTS = {"shapes": LATENT}  # --size NAME: checkpoints that come with Edgereel


@dataclass
class Text2VideoZero:
    """The loaded parts of one checkpoint."""

    kind: diffusers_folder.Kind
    unet: SDUNet
    vae: SDVAE
    text_encoder: nn.Module
    scheduler: SchedulerConfig
    tokens: diffusers_folder.Tokens
    controlnets: Mapping[str, SDControlNet]

    @property
    def tokenizers(self) -> dict[str, diffusers_folder.Tokens]:
        """The one for prompts."""
        return {"bpe": self.tokens}

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.tokens.length

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        return self.vae.config.factor

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """As trained; and one timestep earlier, which is how the published code adds noise again.

        Its product of alphas from t0 to t1 - 1 is the ratio of alphas_cumprod at t1 - 1 and t0 - 1.
        """
        table = self.scheduler.alphas_cumprod()
        return {"trained": table, "entering": np.concatenate([[(1 + table[0]) / 2], table[:-1]])}

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for."""
        levels = len(self.unet.config.block_out_channels)
        side = self.unet.config.sample_size * self.factor
        facts = Facts(
            self.length,
            self.unet.config.cross_attention_dim,
            (side, side),
            self.factor,
            self.factor * 2 ** (levels - 1),
            self.scheduler.spacing,
            self.scheduler.final,
        )
        if self.kind == "instruct-pix2pix":
            return edit_modes(facts)
        widths = {n: c.config.block_out_channels[0] for n, c in self.controlnets.items()}
        return modes(facts, widths)

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; guidance rows, frames, height and width are free."""
        shared = {
            "text_encoder": text_graph(self.text_encoder, self.length),
            "decode": decode_graph(self.vae),
        }
        if self.kind == "instruct-pix2pix":
            return shared | self._edit_graphs()
        return shared | self._video_graphs() | self._control_graphs()

    def _video_graphs(self) -> dict[str, Graph]:
        frames, height, width = EXAMPLE
        one, many = (1, 4, height, width), (frames, 4, height, width)
        latents = {0: "F", **IMAGE}
        motion = {
            name: torch.full((frames,), v) for name, v in (("motion_x", 40.0), ("motion_y", -90.0))
        }
        by_frame = {"motion_x": {0: "F"}, "motion_y": {0: "F"}}
        masks = pictures(frames, height * self.factor, width * self.factor, 3)
        return {
            "unet": self._step(self.unet, {}),
            "motion": Graph(
                glue.MotionField(),
                {"anchor": randn(*one), **motion},
                ("moved",),
                {"anchor": IMAGE, "moved": latents, **by_frame},
            ),
            "keep_anchor": Graph(
                glue.KeepAnchor(),
                {"frames": randn(*many), "anchor": randn(*one)},
                ("out",),
                {"frames": latents, "anchor": IMAGE, "out": latents},
            ),
            "smooth": Graph(
                glue.SmoothBackground(self.factor),
                {"x": randn(*many), "masks": masks, **motion, "keep": torch.tensor([0.4])},
                ("out",),
                {"x": latents, "masks": {0: "F", 1: "H", 2: "W"}, "out": latents, **by_frame},
            ),
        }

    def _control_graphs(self) -> dict[str, Graph]:
        graphs = {}
        frames, height, width = EXAMPLE
        for name, controlnet in self.controlnets.items():
            first = controlnet.config.block_out_channels[0]
            conditions = {"seen": randn(frames, first, height, width), "scale": torch.ones(1)}
            graphs[f"{name}_picture"] = self._pictures(glue.ControlPicture(controlnet), "seen")
            graphs[f"unet_{name}"] = self._step(glue.Controlled(self.unet, controlnet), conditions)
        return graphs

    def _edit_graphs(self) -> dict[str, Graph]:
        conditions = {"image": randn(EXAMPLE[0], 4, *EXAMPLE[1:]), "index": torch.tensor([0, 2])}
        return {
            "encode": self._pictures(glue.PictureLatents(self.vae), "x"),
            "unet": self._step(glue.Edited(self.unet), conditions),
        }

    def _pictures(self, module: nn.Module, out: str) -> Graph:
        """A graph from pictures u8 [K, H, W, 3] to `out` f32 [K, C, h, w]."""
        frames = pictures(2, EXAMPLE[1] * self.factor, EXAMPLE[2] * self.factor, 3)
        free = {"frames": PICTURE, out: {0: "K", **IMAGE}}
        return Graph(module, {"frames": frames}, (out,), free)

    def _step(self, network: nn.Module, more: Mapping[str, Tensor]) -> Graph:
        """The denoise graph of a network with text states and `more` conditions."""
        states = randn(2, self.length, self.unet.config.cross_attention_dim)
        latents = {0: "K", **IMAGE}
        free = {"x": latents, "seen": latents, "image": latents, "index": {0: "G"}}
        return sd_step(network, self.scheduler.prediction, {"states": states, **more}, free)


def load(checkpoint: Path, extras: Extras = NO_EXTRAS) -> Text2VideoZero:
    """The parts of a checkpoint folder, LoRA files merged.

    Raises:
        InputError: a file is missing, damaged, or does not belong to Stable Diffusion 1.x.
    """
    extras.refuse_temporal("text2video-zero")
    extras.refuse_high("text2video-zero")
    kind = diffusers_folder.check_kind(checkpoint)
    _check_controls(kind, extras.controlnets)
    config, unet_weights = diffusers_folder.component(checkpoint, "unet")
    text_config, text_weights = diffusers_folder.component(checkpoint, "text_encoder")
    for path, strength in extras.loras:
        unet_weights, text_weights = lora.merge(path, unet_weights, text_weights, strength)
    unet = SDUNet(SDUNetConfig.from_json(config))
    fill(unet, unet_weights, checkpoint / "unet")
    text_encoder = diffusers_folder.clip_text_model(text_config, checkpoint / "text_encoder")
    fill(text_encoder, text_weights, checkpoint / "text_encoder")
    controlnets = {name: _controlnet(path, unet) for name, path in extras.controlnets.items()}
    return Text2VideoZero(
        kind=kind,
        unet=unet,
        vae=read_vae(checkpoint),
        text_encoder=text_encoder,
        scheduler=diffusers_folder.scheduler(checkpoint),
        tokens=diffusers_folder.tokenizer(checkpoint),
        controlnets=controlnets,
    )


def _check_controls(kind: diffusers_folder.Kind, given: Mapping[str, Path]) -> None:
    """Refuses ControlNets that no mode could use."""
    for name in given:
        if name not in CONTROLS:
            raise InputError(
                f"--controlnet {name}=…: there is no mode {name!r}; expected one of "
                f"{', '.join(CONTROLS)}. Choose the one the ControlNet was trained for."
            )
        if kind == "instruct-pix2pix":
            raise InputError(
                "--controlnet was given for an InstructPix2Pix checkpoint, which follows its own "
                "video; expected a text-to-image checkpoint. Drop it, or choose another checkpoint."
            )


def _controlnet(folder: Path, unet: SDUNet) -> SDControlNet:
    """The ControlNet of a folder, made for a UNet of the same sizes."""
    config, weights = diffusers_folder.controlnet(folder)
    controlnet = SDControlNet(SDControlNetConfig.from_json(config))
    if controlnet.skip_channels != unet.skip_channels:
        raise InputError(
            f"checkpoint: the ControlNet in {folder} gives residuals of widths "
            f"{controlnet.skip_channels}; expected {unet.skip_channels}, those of the UNet. Choose "
            f"a ControlNet that was trained for this model."
        )
    fill(controlnet, weights, folder)
    return controlnet


def tiny(folder: Path) -> Text2VideoZero:
    """The same cascade with random weights in seconds, through checkpoints written to `folder`."""
    from .text2video_zero_tiny import write_checkpoint, write_controlnet

    write_checkpoint(folder / "base")
    write_controlnet(folder / "depth")
    controlnets = dict.fromkeys(("canny", "depth"), folder / "depth")
    return load(folder / "base", Extras(controlnets=controlnets))
