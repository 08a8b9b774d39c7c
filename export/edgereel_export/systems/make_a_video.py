"""Make-A-Video (arXiv:2209.14792): SR_h after SR_l^t after ↑F after D^t after P after CLIP text.

A checkpoint is a folder with `cascade.json` (a Profile) and one folder per stage, each with a
config.json and weights: text_encoder, prior, text_proj, decoder, interpolation,
interpolation_text_proj, super_res_low, super_res_high, and tokenizer/tokenizer.json. Something else
may take the place of super_res_high: make_a_video_x4.py. A folder with a model_index.json is
Karlo's instead: make_a_video_karlo.py.
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
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from edgereel.errors import InputError
from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod
from edgereel.plan import Mode
from edgereel_export.checkpoints import fill, read_config, read_weights
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph
from edgereel_export.karlo_checkpoint import is_karlo
from edgereel_export.modules import glue
from edgereel_export.modules.prior import Prior, PriorConfig
from edgereel_export.modules.text_proj import TextProj, TextProjConfig
from edgereel_export.modules.unet import UNet, UNetConfig
from edgereel_export.modules.wrapped import Concatenated, Rows
from edgereel_export.shapes.networks import CHECKPOINT
from edgereel_export.step import StepConfig, step_graph

from .examples import rand
from .extras import NO_EXTRAS, Extras
from .make_a_video_high import High, Network, Small
from .make_a_video_karlo import KarloCascade, load_karlo
from .make_a_video_plan import Widths, modes
from .make_a_video_profile import Profile
from .make_a_video_sizes import drawn
from .make_a_video_x4 import read_high

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
        small = Small("low_frames", self.profile.length, self.profile.chunk)
        return modes(self.profile, widths, self.high.enlarged(small))

    def text_proj(self, name: str) -> TextProj:
        """The projections of D^t or of ↑F."""
        proj = self.networks[name]
        assert isinstance(proj, TextProj)
        return proj

    def condition(self, proj: str, unet: str) -> glue.DecoderCondition:
        """The condition graph of D^t or ↑F."""
        mean, std = self.prior.clip_mean.data, self.prior.clip_std.data
        return glue.DecoderCondition(self.text_proj(proj), self.unet(unet), mean, std)

    def graphs(self) -> dict[str, Graph]:
        """Every graph with example inputs; the first axis of conditions is free (G)."""
        p, given = self.profile, self._examples()
        clip, video = (1, 3, p.frames, p.size, p.size), (1, 3, p.length, p.size, p.size)
        low = p.size * p.scale_low
        decoder = self.condition("text_proj", "decoder")
        known = self.condition("interpolation_text_proj", "interpolation")
        interpolation = glue.InterpolationCondition(known, p.length, p.skip)
        with torch.no_grad():
            tokens, bias, emb = decoder(*_pick(given, _CONDITION))
        told = {"tokens": tokens, "bias": bias, "emb": emb}
        last = {name: value[-1:].contiguous() for name, value in told.items()}
        frames = {"known": rand(1, 4, *video[2:]), **last}
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
            "interpolation_condition": Graph(
                interpolation,
                {"clip": rand(*clip), **{n: given[n] for n in _CONDITION if n != "row"}},
                ("known", "tokens", "bias", "emb"),
                {name: in_rows[name] for name in text},
            ),
            "interpolation": step_graph(
                Concatenated(self.unet("interpolation")), pixel_config, video, frames, {}
            ),
            "keep_known": Graph(
                glue.KeepKnown(p.skip),
                {"video": rand(*video), "clip": rand(*clip)},
                ("out",),
            ),
            "upsample_low": Graph(
                glue.Upsample(p.size, p.scale_low), {"x": rand(*video)}, ("low",)
            ),
            "super_res_low": step_graph(
                Concatenated(self.unet("super_res_low")),
                pixel_config,
                sr_low,
                {"low": rand(*sr_low)},
                {},
            ),
            "frame_batch": Graph(glue.FrameBatch(), {"x": rand(*sr_low)}, ("frames",)),
            **self.high.graphs(),
        }

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
        profile, networks, tokens = drawn(checkpoint, _KINDS, _made)
        return MakeAVideo(profile, networks, tokens, _own_high(networks.pop(_HIGH), profile))
    return _load_own(checkpoint, extras.super_res_high)


def _load_own(checkpoint: Path, given: str | None = None) -> MakeAVideo:
    """The cascade of a folder with a cascade.json, and the last stage if another one is given."""
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
    low = profile.size * profile.scale_low
    high = read_high(given, low, profile.scale_high) if given else None
    networks = {name: _network(checkpoint / name, name) for name in _KINDS if name != _HIGH}
    pad = read_config(checkpoint / "text_encoder").get("pad_token_id", 0)
    text = place.read_text(encoding="utf-8")
    prior = networks["prior"]
    assert isinstance(prior, Prior)
    high = high or _own_high(_network(checkpoint / _HIGH, _HIGH), profile)
    return MakeAVideo(profile, networks, Tokens(text, prior.config.tokens, int(pad)), high)


def _own_high(unet: nn.Module, profile: Profile) -> Network:
    """The checkpoint's own last stage."""
    assert isinstance(unet, UNet)
    return Network(
        profile.size * profile.scale_low,
        profile.scale_high,
        profile.chunk,
        unet=unet,
        prediction=profile.prediction,
        steps=profile.steps[_HIGH],
    )


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    model: nn.Module = CLIPTextModelWithProjection(CLIPTextConfig(**known))
    return model


_HIGH = "super_res_high"
_UNETS = ("decoder", "interpolation", "super_res_low", _HIGH)
_KINDS: dict[str, Any] = {
    "text_encoder": _text_encoder,
    "prior": lambda config: Prior(PriorConfig(**config)),
    "text_proj": lambda config: TextProj(TextProjConfig(**config)),
    "interpolation_text_proj": lambda config: TextProj(TextProjConfig(**config)),
    **dict.fromkeys(_UNETS, lambda config: UNet(UNetConfig.from_json(config))),
}


def _network(folder: Path, name: str) -> nn.Module:
    """One stage, its weights loaded."""
    module = _made(name, read_config(folder), folder / "config.json")
    fill(module, read_weights(folder), folder)
    return module


def _made(name: str, config: dict[str, Any], place: Path) -> nn.Module:
    """One stage of the sizes that a file says."""
    try:
        module = _KINDS[name](config)
    except Exception as error:  # torch and transformers raise many kinds for impossible sizes
        raise InputError(
            f"checkpoint: {place} does not describe a {name} "
            f"({' '.join(str(error).split()):.200}); expected the sizes of its weights. Check that "
            f"it belongs to this system."
        ) from None
    assert isinstance(module, nn.Module)
    return module


def tiny(folder: Path) -> MakeAVideo:
    """The same cascade with random weights in seconds, through a checkpoint written to `folder`."""
    from .make_a_video_tiny import write_checkpoint

    write_checkpoint(folder)
    return _load_own(folder)
