"""Steps as the published code computes them, for peers.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["as_published", "published"]


class _CrossFrame(nn.Module):
    """diffusers' UNet as its TextToVideoZeroPipeline calls it, in the form of our networks."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """x [G, F, 4, h, w], t [G], states [G, L, D] -> as x."""
        states = states.repeat_interleave(x.shape[1], 0)
        made: Tensor = self.unet(x.flatten(0, 1), t[0], encoder_hidden_states=states).sample
        return made.reshape(x.shape)


def published(work: str, module: nn.Module) -> nn.Module:
    """The step with the published network in it; LaVie's differs by what `as_published` does."""
    if work != "sd15":
        return module
    import diffusers
    from diffusers.pipelines.deprecated.text_to_video_synthesis import (
        pipeline_text_to_video_zero as zero,
    )

    unet = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet.load_state_dict(module.get_submodule("network").state_dict())
    unet.set_attn_processor(zero.CrossFrameAttnProcessor2_0(batch_size=2))
    module.network = _CrossFrame(unet.eval().requires_grad_(False))
    return module


def as_published(work: str) -> Callable[[], Any]:
    """What to run a published step within."""
    if work in ("sd15", "shapes"):
        return nullcontext
    return lambda: mock.patch.object(F, "scaled_dot_product_attention", _attention)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, scale: Any = None) -> Tensor:
    """With scores in memory, by the operators of the published code."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, keys, values = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    if torch.compiler.is_exporting():  # or the unused tensor becomes a constant of gigabytes
        scores = torch.bmm(rows, keys.transpose(1, 2)) * scale
    else:
        blank = q.new_empty(rows.shape[0], rows.shape[1], keys.shape[1])
        scores = torch.baddbmm(blank, rows, keys.transpose(1, 2), beta=0, alpha=scale)
    if attn_mask is not None:
        scores = (scores.reshape(*q.shape[:-1], -1) + attn_mask).reshape(scores.shape)
    return torch.bmm(scores.softmax(-1), values).reshape(*q.shape[:-1], v.shape[-1])
