"""Attention of every pixel to itself in all frames of its video, as one operator.

In PyTorch it is standard operators. In an export it is one node, `edgereel::TemporalAttention`,
for which temporal_attention.py has the definition and kernels/ the fast ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Turns", "attend_frames"]


class Turns(NamedTuple):
    """Rotary position embedding (arXiv:2104.09864): queries and keys are turned by frame.

    Of every head the first r channels are turned in pairs: (2i, 2i + 1) if interleaved, else
    (i, i + r/2), and then r is the whole head.
    """

    cos: Tensor  # f32 [F, r/2]
    sin: Tensor  # f32 [F, r/2]
    interleaved: bool


def attend_frames(
    qkv: Tensor, heads: int, turns: Turns | None = None, bias: Tensor | None = None
) -> Tensor:
    """[B, F, S, C]: softmax(q k^T / sqrt(C / heads) + bias) v over the F frames.

    Args:
        qkv: [B, F, S, 3C], queries, keys and values of S pixels, each C channels of `heads` heads.
        heads: C is a multiple of it.
        turns: how queries and keys are turned first.
        bias: [heads, F, F] added to the scores, query frames first.
    """
    interleaved = turns is not None and turns.interleaved
    cos, sin = (None, None) if turns is None else turns[:2]
    scale = (qkv.shape[3] // (3 * heads)) ** -0.5
    if torch.compiler.is_exporting():
        values: Tensor = torch.onnx.ops.symbolic(
            "edgereel::TemporalAttention",
            (qkv, cos, sin, bias),
            {"heads": heads, "interleaved": int(interleaved), "scale": scale},
            dtype=qkv.dtype,
            shape=(*qkv.shape[:3], qkv.shape[3] // 3),
            version=1,
        )
        # torch takes it to be on the CPU; networks without values are on the meta device
        return values if values.device == qkv.device else values.to(qkv.device)
    rows, frames, pixels, _ = qkv.shape
    parts = qkv.reshape(rows, frames, pixels, 3, heads, -1).permute(3, 0, 2, 4, 1, 5)
    q, k, v = parts.flatten(1, 2).unbind()  # [B*S, heads, F, d]
    if turns is not None:
        turns = Turns(turns.cos.to(q), turns.sin.to(q), interleaved)
        q, k = _turned(q, turns), _turned(k, turns)
    mask = None if bias is None else bias[None].to(q)
    h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    h = h.reshape(rows, pixels, heads, frames, -1).permute(0, 3, 1, 2, 4)
    return h.reshape(rows, frames, pixels, -1)


def _turned(x: Tensor, turns: Turns) -> Tensor:
    """x [..., F, d] with the first channels turned."""
    width = 2 * turns.cos.shape[1]
    head = x[..., :width]
    if turns.interleaved:
        a, b = head[..., ::2], head[..., 1::2]
    else:
        a, b = head.chunk(2, dim=-1)
    out = a * turns.cos - b * turns.sin, b * turns.cos + a * turns.sin
    head = torch.stack(out, -1).flatten(-2) if turns.interleaved else torch.cat(out, -1)
    return head if width == x.shape[-1] else torch.cat([head, x[..., width:]], -1)
