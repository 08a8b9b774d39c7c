"""LaVie's networks on the `shapes` world: time added to the latent text-to-image model (latent.py).

As in the paper (arXiv:2309.15103) the base network starts from the image model and sees clips and
single pictures; pictures pass by the attention over frames. Noise is LaVie's, up to almost nothing
but noise, where the direction of a motion is settled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_linear
from edgereel_export.modules.sd_vae import SDVAE, SDEncoder

from .captions import all_captions
from .data import Data
from .losses import Component, denoise_loss, frozen
from .networks import build, weights_file
from .world import Scenes, draw, sample_scenes

__all__ = ["base_component"]

_PIXELS = 128
_FPS = 16.0  # of the frames after interpolation; a clip of 61 lasts 3.8 seconds
_EVERY = 4  # of these, the base network makes every fourth
_FRAMES = 16
_CLIPS = 768
_ALPHAS = torch.from_numpy(alphas_cumprod_linear(1e-4, 0.02)).float()
_PLACE = torch.arange(_FRAMES, dtype=torch.float32) * _EVERY


def base_component() -> Component:
    """The base network: v-prediction, a tenth of the captions empty, two batches in three clips."""
    unet: Any = build("lavie_base")
    unet.load_state_dict(load_file(weights_file("unet")), strict=False)
    blocks: list[Any] = [block for block in unet.modules() if hasattr(block, "attn_temp")]
    for block in blocks:  # at the start every frame is drawn on its own
        nn.init.zeros_(block.attn_temp.to_out[0].weight)
        nn.init.zeros_(block.attn_temp.to_out[0].bias)
    text: Any = frozen("text_encoder")
    scenes, latents = _bank(Data(3), frozen("vae"))

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        moving = data.rng.random() < 2 / 3
        rows = data.integers(_CLIPS, 2 if moving else 24)
        x0 = latents[rows].float()  # [B, F, 4, h, w]
        if not moving:
            x0 = x0[torch.arange(len(rows)), data.integers(_FRAMES, len(rows)), None]
        told = all_captions(len(rows), scenes.rows(rows), data.rng)
        ids, _ = data.tokens([t if data.rng.random() > 0.1 else "" for t in told])
        with torch.no_grad():
            states = text(input_ids=ids).last_hidden_state.float()  # padding is read, as in SD
        for block in blocks:
            block.temporal = moving

        def predict(x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = unet(x.flatten(0, 1), t.repeat_interleave(x.shape[1]), states)
            return out.view(x.shape)

        return denoise_loss(data, x0, predict, 0.7, _ALPHAS)

    return Component(nn.ModuleDict({"lavie_base": unet}), loss, rate=6e-4)


def _bank(data: Data, vae: nn.Module) -> tuple[Scenes, Tensor]:
    """Scenes, and the scaled latents of a clip of each, f16 [_CLIPS, F, 4, h, w]."""
    assert isinstance(vae, SDVAE)
    encode = SDEncoder(vae)
    scenes = sample_scenes(_CLIPS, data.rng, np.full(_CLIPS, _FPS))
    latents = []
    for row in range(_CLIPS):
        pictures = draw(scenes.rows(torch.tensor([row])), _PLACE, _PIXELS)[0].transpose(0, 1)
        with torch.no_grad():
            latents.append((encode(pictures) * vae.config.scaling_factor).half())
    return scenes, torch.stack(latents)
