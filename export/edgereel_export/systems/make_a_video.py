"""Make-A-Video (arXiv:2209.14792): SR_h after SR_l^t after ↑F after D^t after P after CLIP text.

A checkpoint is a folder with `cascade.json` (a Profile) and one folder per stage, each with a
config.json and weights: text_encoder, prior, text_proj, decoder, interpolation,
interpolation_text_proj, super_res_low, super_res_high, and tokenizer/tokenizer.json; and perhaps
image_encoder, a CLIP vision model that sees levels of -1..1, for modes that begin with pictures. A
folder with a model_index.json is Karlo's instead: make_a_video_karlo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from edgereel.errors import InputError
from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod
from edgereel.plan import Mode
from edgereel_export.checkpoints import fill, read_config, read_weights
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.karlo_checkpoint import is_karlo
from edgereel_export.modules import glue
from edgereel_export.modules.known_frames import ClipRate, InterpolationCondition, PictureEmbedding
from edgereel_export.modules.prior import Prior, PriorConfig
from edgereel_export.modules.text_proj import TextProj, TextProjConfig
from edgereel_export.modules.unet import UNet, UNetConfig
from edgereel_export.modules.wrapped import Concatenated, PerFrame, Rows
from edgereel_export.shapes.networks import CHECKPOINT
from edgereel_export.step import StepConfig, step_graph

from .examples import rand
from .extras import NO_EXTRAS, Extras
from .make_a_video_karlo import KarloCascade, load_karlo
from .make_a_video_known import given_graphs, known_graphs
from .make_a_video_modes import given_side, modes
from .make_a_video_parts import MOST_FPS
from .make_a_video_plan import Widths
from .make_a_video_profile import Profile

__all__ = ["CHECKPOINTS", "MakeAVideo", "Profile", "load", "tiny"]

CHECKPOINTS = {"shapes": CHECKPOINT}  # --size NAME: checkpoints that come with Edgereel


@dataclass
class MakeAVideo:
    """The loaded stages of one checkpoint."""

    profile: Profile
    networks: dict[str, nn.Module]
    tokens: Tokens

    @property
    def tokenizers(self) -> dict[str, Tokens]:
        """The one for prompts."""
        return {"bpe": self.tokens}

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
        """The cosine schedule, and that of D^t and ↑F, which may have more noise."""
        cosine = alphas_cumprod_cosine()
        shifted = shift_alphas_cumprod(cosine, self.profile.shift)
        return {"cosine": cosine, "shifted": shifted}

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
        return modes(self.profile, widths, self._sees)

    @property
    def _sees(self) -> int | None:
        """Side of the image encoder's pictures, if there is one."""
        encoder: Any = self.networks.get(_ENCODER)
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
        low, side = p.size * p.scale_low, p.size * p.scale_low * p.scale_high
        decoder = self.condition("text_proj", "decoder")
        more = self.condition("interpolation_text_proj", "interpolation")
        with torch.no_grad():
            tokens, bias, emb = decoder(*_pick(given, _CONDITION))
        told = {"tokens": tokens, "bias": bias, "emb": emb}
        last = {name: value[-1:].contiguous() for name, value in told.items()}
        frames = {"known": rand(1, 4, *video[2:]), **last}
        in_frames = {name: {2: "F"} for name in ("x", "known", "low")}
        sr_low, sr_high = (1, 3, p.length, low, low), (p.chunk, 3, side, side)
        text = {name: given[name] for name in ("embeds", "states", "mask")}
        prior_config = StepConfig("x0", 5.0)
        pixel_config = StepConfig(p.prediction, 1.0)
        in_rows = {name: {0: "G"} for name in (*_CONDITION[1:5], "ids", "tokens", "bias", "emb")}
        high = PerFrame(self.unet("super_res_high"))
        chunked = {"x": {0: "K"}, "low": {0: "K"}}
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
            "upsample_high": Graph(
                glue.Upsample(low, p.scale_high),
                {"x": rand(p.chunk, 3, low, low)},
                ("low",),
                {"x": {0: "K"}, "low": {0: "K"}},
            ),
            "super_res_high": step_graph(
                high, pixel_config, sr_high, {"low": rand(*sr_high)}, chunked
            ),
            "pixels": Graph(
                glue.Pixels(),
                {"x": rand(*sr_high) * 2 - 1},
                ("frames",),
                {"x": {0: "K"}, "frames": {0: "K"}},
            ),
        }

    def _given_graphs(self) -> dict[str, Graph]:
        """What shows the user's pictures to the networks, if there is an image encoder."""
        if self._sees is None:
            return {}
        side, half = given_side(self.profile, self._sees), (0.5,) * 3
        embed = PictureEmbedding(
            self.networks[_ENCODER], side // self._sees, (half, half), self._statistics
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
    """The cascade of a checkpoint folder, whose layout may be Karlo's (karlo_checkpoint.py).

    Raises:
        InputError: a file is missing, damaged, or does not belong to this system.
    """
    extras.refuse_adapters("make-a-video")
    if is_karlo(checkpoint):
        return load_karlo(checkpoint, extras)
    extras.refuse_temporal("stages of your own, which have their layers over frames")
    return _load_own(checkpoint)


def _load_own(checkpoint: Path) -> MakeAVideo:
    """The cascade of a folder with a cascade.json."""
    path = checkpoint / "cascade.json"
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise InputError(
            f"checkpoint: {path} cannot be read ({error.strerror}); expected the top folder of a "
            f"Make-A-Video checkpoint, or of Karlo's with model_index.json. Correct --checkpoint."
        ) from None
    except msgspec.MsgspecError as error:
        raise InputError(f"checkpoint: {path}: {error}. Correct the file.") from None
    place = checkpoint / "tokenizer" / "tokenizer.json"
    if not place.is_file():
        raise InputError(f"checkpoint: {place} is missing. Copy the checkpoint again.")
    names = [name for name in _KINDS if name != _ENCODER or (checkpoint / name).is_dir()]
    networks = {name: _network(checkpoint / name, name) for name in names}
    pad = read_config(checkpoint / "text_encoder").get("pad_token_id", 0)
    text = place.read_text(encoding="utf-8")
    prior = networks["prior"]
    assert isinstance(prior, Prior)
    return MakeAVideo(profile, networks, Tokens(text, prior.config.tokens, int(pad)))


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    model: nn.Module = CLIPTextModelWithProjection(CLIPTextConfig(**known))
    return model


def _image_encoder(config: dict[str, Any]) -> nn.Module:
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    model: nn.Module = CLIPVisionModelWithProjection(CLIPVisionConfig(**known))
    return model


_ENCODER = "image_encoder"  # may be absent
_UNETS = ("decoder", "interpolation", "super_res_low", "super_res_high")
_KINDS: dict[str, Any] = {
    "text_encoder": _text_encoder,
    _ENCODER: _image_encoder,
    "prior": lambda config: Prior(PriorConfig(**config)),
    "text_proj": lambda config: TextProj(TextProjConfig(**config)),
    "interpolation_text_proj": lambda config: TextProj(TextProjConfig(**config)),
    **dict.fromkeys(_UNETS, lambda config: UNet(UNetConfig.from_json(config))),
}


def _network(folder: Path, name: str) -> nn.Module:
    """One stage, its weights loaded."""
    config = read_config(folder)
    try:
        module = _KINDS[name](config)
    except Exception as error:  # torch and transformers raise many kinds for impossible sizes
        raise InputError(
            f"checkpoint: {folder / 'config.json'} does not describe a {name} "
            f"({' '.join(str(error).split()):.200}); expected the sizes of its weights. Check that "
            f"the folder belongs to this system."
        ) from None
    assert isinstance(module, nn.Module)
    fill(module, read_weights(folder), folder)
    return module


def tiny(folder: Path) -> MakeAVideo:
    """The same cascade with random weights in seconds, through a checkpoint written to `folder`."""
    from .make_a_video_tiny import write_checkpoint

    write_checkpoint(folder)
    return _load_own(folder)
