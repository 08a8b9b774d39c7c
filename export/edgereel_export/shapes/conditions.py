"""What D^t and ↑F of the `shapes` cascade are told in training: texts, pictures, the frame rate."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod

from .data import Data
from .networks import SHIFT, null_rows
from .world import FRAMES, Scenes, draw

__all__ = ["SHIFTED", "Encoders", "conditions", "encoded"]

# D^t and ↑F see more noise: motion is settled while single pixels are still drowned in it.
SHIFTED = torch.from_numpy(shift_alphas_cumprod(alphas_cumprod_cosine(), SHIFT)).float()
Encoders = tuple[nn.Module, nn.Module]  # text, pictures


def _text(ids: Tensor, mask: Tensor, encoder: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = encoder(input_ids=ids, attention_mask=mask.long())
    return out.text_embeds.float(), out.last_hidden_state.float()


def encoded(
    data: Data,
    batch: tuple[Scenes, Tensor, Tensor],
    encoders: Encoders,
    silent: float = 0.0,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Text embedding, states and mask, image embedding, rows made null.

    A tenth of the rows gets the empty caption, and a share `silent` of the others. The image
    embedding is the mean of those of the frames `seen`, f32 [N], or is that of a random frame.
    """
    scenes, ids, mask = batch
    encoder, pictures = encoders
    null_ids, null_mask = data.tokens([""])
    drop = data.uniform(len(ids)) < 0.1
    empty = drop | (data.uniform(len(ids)) < silent) if silent else drop
    ids, mask = null_rows(ids, null_ids[0], empty), null_rows(mask, null_mask[0], empty)
    text, states = _text(ids, mask, encoder)
    frames = data.uniform(len(ids), 1) * (FRAMES - 1) if seen is None else seen
    shown = draw(scenes, frames, 32).transpose(1, 2)
    with torch.no_grad():
        image = pictures(pixel_values=shown.flatten(0, 1)).image_embeds.float()
    image = image.unflatten(0, shown.shape[:2]).mean(1)
    return text, states, mask, image, drop


def conditions(
    data: Data,
    modules: nn.ModuleDict,
    encoders: Encoders,
    batch: Any,
    names: Any,
    silent: float = 0.0,
    seen: Tensor | None = None,
) -> dict[str, Tensor]:
    """tokens, bias and emb of a batch; a tenth of the rows get the null condition.

    A share `silent` of the others is told no text. `seen` are the frames whose image embeddings
    are told, see `encoded`.
    """
    unet, proj = (cast(Any, modules[name]) for name in names)
    text, states, mask, image, drop = encoded(data, batch, encoders, silent, seen)
    image = null_rows(image, proj.learned_classifier_free_guidance_embeddings, drop)
    tokens, bias, emb = proj(image, text, states, mask)
    return {"tokens": tokens, "bias": bias, "emb": emb + unet.fps_embedding(batch[0].fps)}
