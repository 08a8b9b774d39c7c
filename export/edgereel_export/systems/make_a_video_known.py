"""The graphs of Make-A-Video that put given frames where ↑F is to see them."""

from __future__ import annotations

import torch

from edgereel_export.graph import Graph
from edgereel_export.modules import known_frames as known

from .examples import pictures, rand

__all__ = ["given_graphs", "known_graphs"]

_Shape = tuple[int, ...]


def known_graphs(clip: _Shape, video: _Shape, skip: int) -> dict[str, Graph]:
    """Where given frames are among those of ↑F, and how they get back there.

    Args:
        clip, video: shapes of what is given and of what ↑F makes, [1, 3, frames, H, W].
        skip: of the example.
    """
    n, f = {2: "N"}, {2: "F"}
    inputs = {"clip": rand(*clip), "like": rand(*video)}
    two = {"clip": rand(*clip[:2], 2, *clip[3:]), "like": rand(*video)}
    free = {"clip": n, "like": f, "known": f}
    at_ends = {"like": f, "known": f}
    mask = (torch.arange(video[2]) % skip > 0).float().view(1, 1, -1, 1, 1)
    told = torch.cat([rand(*video), mask.expand(-1, -1, -1, *video[3:])], 1)
    return {
        "every_known": Graph(
            known.EveryKnown(),
            {**inputs, "skip": torch.tensor([skip])},
            ("known",),
            at_ends,
        ),
        "first_known": Graph(known.FirstKnown(), inputs, ("known",), free),
        "last_known": Graph(known.LastKnown(), inputs, ("known",), free),
        "ends_known": Graph(known.EndsKnown(), two, ("known",), at_ends),
        "keep_known": Graph(
            known.KeepKnown(),
            {"video": rand(*video), "known": told, "keep": torch.ones(1)},
            ("out",),
            {"video": f, "known": f, "out": f},
        ),
    }


def given_graphs(
    embed: known.PictureEmbedding, side: int, factor: int, count: int
) -> dict[str, Graph]:
    """The user's pictures as ↑F and the image encoder see them.

    Args:
        embed: pictures to an embedding.
        side: of pictures in pixels.
        factor: of those to a pixel of ↑F.
        count: pictures of the example.
    """
    n, frames = {0: "N"}, pictures(count, side, side, 3)
    first, last = frames[:1].clone(), frames[-1:].clone()  # of one tensor export makes one input
    return {
        "both_pictures": Graph(known.BothPictures(), {"first": first, "last": last}, ("frames",)),
        "given_clip": Graph(
            known.SmallFrames(factor),
            {"frames": frames},
            ("clip",),
            {"frames": n, "clip": {2: "N"}},
        ),
        "image_encoder": Graph(embed, {"frames": frames}, ("image",), {"frames": n}),
    }
