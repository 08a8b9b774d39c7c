"""The latent text-to-image model of the `shapes` world, in diffusers' Stable Diffusion layout.

It is the base that text-to-video systems over Stable Diffusion start from: an autoencoder of 128
pixels to 32, a UNet on its latents, and the text encoder of the Make-A-Video cascade.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.levels import alphas_cumprod_scaled_linear
from edgereel_export.modules.sd_vae import SDVAE, SDDecoder, SDEncoder

from .captions import all_captions
from .data import Data
from .losses import Component, denoise_loss, frozen, text_states
from .networks import build
from .world import FRAMES, Scenes, draw, sample_scenes

__all__ = [
    "ClipLatents",
    "Noise",
    "reconstruction_loss",
    "scaled_latents",
    "stills_component",
    "unet_component",
    "vae_component",
]

_PIXELS = 128
_STILLS = 4096
BETAS = (8.5e-4, 1.2e-2)  # scaled linear, of Stable Diffusion 1.x
_ALPHAS = torch.from_numpy(alphas_cumprod_scaled_linear(*BETAS)).float()


class Noise(NamedTuple):
    """What noise a network learns from: timesteps as u^power, alphas_cumprod; and its rate.

    The power goes from the first to the second while it learns.
    """

    power: tuple[float, float] = (0.8, 0.8)
    alphas: Tensor = _ALPHAS
    rate: float = 1e-3


def _pictures(data: Data, count: int) -> tuple[Any, Tensor]:
    """A batch of scenes with captions, and one picture of each, f32 [B, 3, _PIXELS, _PIXELS]."""
    batch = data.scenes(count)
    frame = data.uniform(count, 1) * (FRAMES - 1)
    return batch, draw(batch[0], frame, _PIXELS)[:, :, 0]


def vae_component() -> Component:
    """The autoencoder, on single pictures."""
    vae = build("vae")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        _, x = _pictures(data, 8)
        return reconstruction_loss(vae, x)

    return Component(nn.ModuleDict({"vae": vae}), loss)


def reconstruction_loss(vae: nn.Module, x: Tensor) -> Tensor:
    """Absolute and squared error of pictures f32 [B, 3, H, W], and a little pull to a normal law.

    The law is that of the latents given a picture.
    """
    assert isinstance(vae, SDVAE)
    mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    z = mean + (logvar / 2).exp() * torch.randn_like(mean)
    out: Tensor = SDDecoder(vae)(z).float()
    pull = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
    error: Tensor = F.l1_loss(out, x) + F.mse_loss(out, x) + 1e-4 * pull
    return error


def unet_component() -> Component:
    """The UNet on stills from any moment of a clip.

    Epsilon-prediction hardly learns the timesteps at which the place of a shape is decided.
    """
    own = Data(2)
    scenes = sample_scenes(_STILLS, own.rng)
    frame = own.uniform(_STILLS, 1) * (FRAMES - 1)
    return stills_component("unet", build("unet"), scenes, frame, Noise())


def stills_component(
    name: str, unet: Any, scenes: Scenes, frame: Tensor, noise: Noise
) -> Component:
    """A text-to-image network on latents, v-prediction, a tenth of the captions empty.

    The latents are made once; every step says the scenes in other words.

    Args:
        name: of the network.
        unet: the network.
        scenes: B scenes.
        frame: the frame of each, f32 [B, 1].
        noise: what the network learns from.
    """
    text: Any = frozen("text_encoder")
    latents = scaled_latents(frozen("vae"), scenes, frame, _PIXELS)[:, 0]

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        rows = data.integers(len(latents), 32)
        texts = all_captions(len(rows), scenes.rows(rows), data.rng)
        told = [t if data.rng.random() > 0.1 else "" for t in texts]
        states = text_states(data, text, told)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = unet(x[:, None], t, states)[:, 0]
            return out

        power = noise.power[0] * (1 - progress) + noise.power[1] * progress
        return denoise_loss(data, latents[rows], predict, power, noise.alphas)

    return Component(nn.ModuleDict({name: unet}), loss, noise.rate)


class ClipLatents:
    """The latents of clips f16 [B, F, 4, h, w] by pixels of a side, made when asked for.

    Args:
        scenes: B scenes.
        frames: frame numbers, f32 [F] or [B, F].
    """

    def __init__(self, scenes: Scenes, frames: Tensor) -> None:
        self._scenes, self._frames, self._vae = scenes, frames, frozen("vae")
        self._made: dict[int, Tensor] = {}

    def of(self, pixels: int) -> Tensor:
        """Those of pictures of this size; those of another one are given up."""
        if pixels not in self._made:
            made = scaled_latents(self._vae, self._scenes, self._frames, pixels).half()
            self._made = {pixels: made}
        return self._made[pixels]


def scaled_latents(vae: nn.Module, scenes: Scenes, frames: Tensor, pixels: int) -> Tensor:
    """f32 [B, F, 4, h, w]: latents of frames [F] or [B, F] of scenes, times the scaling factor.

    They are the modes of the posterior.

    Args:
        vae: the autoencoder.
        scenes: B scenes.
        frames: frame numbers.
        pixels: side of the pictures.
    """
    assert isinstance(vae, SDVAE)
    encode = SDEncoder(vae)
    frames = frames.expand(len(scenes.fps), -1)
    latents = []
    for row, places in enumerate(frames):
        pictures = draw(scenes.rows(torch.tensor([row])), places, pixels)[0].transpose(0, 1)
        with torch.no_grad():
            latents.append((encode(pictures) * vae.config.scaling_factor).float())
    return torch.stack(latents)
