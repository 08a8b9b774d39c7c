"""Make-A-Video (arXiv:2209.14792): SR_h after SR_l^t after ↑F after D^t after P after CLIP text.

A checkpoint is stages of one's own (make_a_video_checkpoint.py), sizes of such in a file
(make_a_video_sizes.py), or Karlo's folder (make_a_video_karlo.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod
from edgereel.plan import Mode
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.karlo_checkpoint import is_karlo
from edgereel_export.modules import glue
from edgereel_export.modules.known_frames import ClipRate, InterpolationCondition, PictureEmbedding
from edgereel_export.modules.prior import Prior
from edgereel_export.modules.text_proj import TextProj
from edgereel_export.modules.unet import UNet
from edgereel_export.modules.wrapped import Concatenated, Rows
from edgereel_export.shapes.networks import CHECKPOINT
from edgereel_export.step import StepConfig, step_graph

from .examples import rand
from .extras import NO_EXTRAS, Extras
from .make_a_video_checkpoint import ENCODER, drawn_stages, read_stages
from .make_a_video_high import High
from .make_a_video_karlo import KarloCascade, load_karlo
from .make_a_video_known import given_graphs, known_graphs
from .make_a_video_modes import given_side, modes
from .make_a_video_parts import MOST_FPS
from .make_a_video_plan import Widths
from .make_a_video_profile import Profile

__all__ = ["CHECKPOINTS", "MakeAVideo", "Profile", "load", "tiny"]

CHECKPOINTS = {  # --size NAME: what comes with Edgereel
    "shapes": CHECKPOINT,
    "published": Path(__file__).with_name("make_a_video_published.json"),
}


@dataclass
class MakeAVideo:
    """The loaded stages of one checkpoint."""

    profile: Profile
    networks: dict[str, nn.Module]
    tokens: Tokens
    high: High

    @property
    def tokenizers(self) -> dict[str, Tokens]:
        """The one for prompts, and what the last stage has."""
        return {"bpe": self.tokens, **self.high.tokenizers}

    @property
    def length(self) -> int:
        """Tokens of a prompt."""
        return self.tokens.length

    @property
    def prior(self) -> Prior:
        """The prior P."""
        prior = self.networks["prior"]
        assert isinstance(prior, Prior)
        return prior

    def unet(self, name: str) -> UNet:
        """One of the pixel networks."""
        unet = self.networks[name]
        assert isinstance(unet, UNet)
        return unet

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """The cosine one, that of D^t and ↑F, which may have more noise, and the last stage's."""
        cosine = alphas_cumprod_cosine()
        shifted = shift_alphas_cumprod(cosine, self.profile.shift)
        return {"cosine": cosine, "shifted": shifted, **self.high.schedules()}

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for."""
        config = self.text_proj("text_proj").config
        widths = Widths(
            self.length,
            config.clip_embeddings_dim,
            config.clip_extra_context_tokens,
            config.cross_attention_dim,
            config.time_embed_dim,
        )
        return modes(self.profile, widths, self._sees, self.high)

    @property
    def _sees(self) -> int | None:
        """Side of the image encoder's pictures, if there is one."""
        encoder: Any = self.networks.get(ENCODER)
        return encoder and int(encoder.config.image_size)

    def text_proj(self, name: str) -> TextProj:
        """The projections of D^t or of ↑F."""
        proj = self.networks[name]
        assert isinstance(proj, TextProj)
        return proj

    def condition(self, proj: str, unet: str) -> glue.DecoderCondition:
        """The condition graph of D^t or ↑F."""
        return glue.DecoderCondition(self.text_proj(proj), self.unet(unet), *self._statistics)

    @property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of image embeddings, f32 [1, D]."""
        return self.prior.clip_mean.data, self.prior.clip_std.data

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; the first axis of conditions is free (G)."""
        p, given = self.profile, self._examples()
        clip, video = (1, 3, p.frames, p.size, p.size), (1, 3, p.length, p.size, p.size)
        low = p.size * p.scale_low
        decoder = self.condition("text_proj", "decoder")
        more = self.condition("interpolation_text_proj", "interpolation")
        with torch.no_grad():
            tokens, bias, emb = decoder(*_pick(given, _CONDITION))
        told = {"tokens": tokens, "bias": bias, "emb": emb}
        last = {name: value[-1:].contiguous() for name, value in told.items()}
        frames = {"known": rand(1, 4, *video[2:]), **last}
        in_frames = {name: {2: "F"} for name in ("x", "known", "low")}
        sr_low = (1, 3, p.length, low, low)
        text = {name: given[name] for name in ("embeds", "states", "mask")}
        prior_config = StepConfig("x0", 5.0)
        pixel_config = StepConfig(p.prediction, 1.0)
        in_rows = {name: {0: "G"} for name in (*_CONDITION[1:5], "ids", "tokens", "bias", "emb")}
        return {
            "text_encoder": Graph(
                glue.TextEncoder(self.networks["text_encoder"]),
                {"ids": given["ids"], "mask": given["mask"]},
                ("states", "embeds"),
                in_rows,
            ),
            "prior": step_graph(
                Rows(self.prior), prior_config, given["image"].shape, text, in_rows
            ),
            "decoder_condition": Graph(
                decoder, {n: given[n] for n in _CONDITION}, ("tokens", "bias", "emb"), in_rows
            ),
            "decoder": step_graph(Rows(self.unet("decoder")), pixel_config, clip, told, in_rows),
            "clip_rate": Graph(
                ClipRate(p.skip, MOST_FPS),
                {"fps": given["fps"], "skip": torch.tensor([p.skip])},
                ("rate",),
            ),
            "interpolation_condition": Graph(
                InterpolationCondition(more),
                {n: given[n] for n in _CONDITION if n != "row"},
                ("tokens", "bias", "emb"),
                {name: in_rows[name] for name in text},
            ),
            "interpolation": step_graph(
                Concatenated(self.unet("interpolation")), pixel_config, video, frames, in_frames
            ),
            **known_graphs(clip, video, p.skip),
            **self._given_graphs(),
            "upsample_low": Graph(
                glue.Upsample(p.size, p.scale_low),
                {"x": rand(*video)},
                ("low",),
                {name: in_frames[name] for name in ("x", "low")},
            ),
            "super_res_low": step_graph(
                Concatenated(self.unet("super_res_low")),
                pixel_config,
                sr_low,
                {"low": rand(*sr_low)},
                in_frames,
            ),
            "frame_batch": Graph(
                glue.FrameBatch(),
                {"x": rand(*sr_low)},
                ("frames",),
                {"x": {2: "F"}, "frames": {0: "F"}},
            ),
            **self.high.graphs(),
        }

    def _given_graphs(self) -> dict[str, Graph]:
        """What shows the user's pictures to the networks, if there is an image encoder."""
        if self._sees is None:
            return {}
        side, half = given_side(self.profile, self._sees), (0.5,) * 3
        embed = PictureEmbedding(
            self.networks[ENCODER], side // self._sees, (half, half), self._statistics
        )
        return given_graphs(embed, side, side // self.profile.size, self.profile.frames)

    def _examples(self) -> dict[str, Tensor]:
        """Two guidance rows of plausible inputs, from a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        dim = self.prior.config.embedding_dim
        ids = torch.randint(3, 256, (2, self.length), generator=generator)
        mask = (torch.arange(self.length) < torch.tensor([[5], [9]])).float()
        with torch.no_grad():
            states, embeds = glue.TextEncoder(self.networks["text_encoder"])(ids, mask)
        return {
            "ids": ids,
            "mask": mask,
            "states": states,
            "embeds": embeds,
            "row": torch.arange(2),
            "image": torch.randn(1, dim, generator=generator),
            "fps": torch.full((1,), self.profile.fps),
        }


_CONDITION = ("image", "embeds", "states", "mask", "row", "fps")


def _pick(values: dict[str, Tensor], names: tuple[str, ...]) -> list[Tensor]:
    return [values[name] for name in names]


def load(checkpoint: Path, extras: Extras = NO_EXTRAS) -> MakeAVideo | KarloCascade:
    """The cascade of a checkpoint folder, which may be Karlo's, or of a file of sizes.

    See karlo_checkpoint.py for the one, make_a_video_sizes.py for the other.

    Raises:
        InputError: a file is missing, damaged, or does not belong to this system.
    """
    extras.refuse_adapters("make-a-video")
    if is_karlo(checkpoint):
        return load_karlo(checkpoint, extras)
    extras.refuse_temporal("stages of your own, which have their layers over frames")
    if checkpoint.is_file():
        extras.refuse_high("sizes in a file, which has the last stage's")
        return MakeAVideo(*drawn_stages(checkpoint))
    return MakeAVideo(*read_stages(checkpoint, extras.super_res_high))


def tiny(folder: Path) -> MakeAVideo:
    """The same cascade with random weights in seconds, through a checkpoint written to `folder`."""
    from .make_a_video_tiny import write_checkpoint

    write_checkpoint(folder)
    return MakeAVideo(*read_stages(folder))
