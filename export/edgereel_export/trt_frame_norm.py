"""Group norms of single frames of a video, written out.

TensorRT's layer takes all frames of a video together. Here sums are float32 in any engine and the
variance is that of differences from the mean, so a flat picture stays exact; TensorRT makes two
kernels of it, one that only reads the video and one that also computes what follows the norm.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgereel_export.trt_axes import dims_of
from edgereel_export.trt_nodes import Nodes, same

__all__ = ["frame_norm"]


def frame_norm(make: Nodes, node: ir.Node, video: ir.Value) -> ir.Value | None:
    """What a GroupNormalization of images makes of a video; None if its weights are computed.

    Args:
        make: puts nodes before `node`.
        node: the norm.
        video: f32 [b, c, f, h, w].
    """
    scale, bias, dims = node.inputs[1], node.inputs[2], dims_of(video)
    if scale is None or bias is None or scale.const_value is None or bias.const_value is None:
        return None
    if dims is None or not isinstance(dims[1], int):
        return None
    b, f = dims[0], dims[2]
    groups = node.attributes["num_groups"].as_int()
    parts = groups, dims[1] // groups
    by_frame = make.transposed(video, (0, 2, 1, 3, 4))
    grouped = make.make("Reshape", [by_frame, make.ints(0, 0, groups, -1)], [b, f, groups, None])
    last, one, many = make.ints(3), [b, f, groups, 1], [b, f, groups, None]
    mean = make.exact("ReduceMean", [grouped, last], one)
    off = make.exact("Sub", [grouped, mean], many)
    variance = make.exact("ReduceMean", [make.exact("Mul", [off, off], many), last], one)
    epsilon = make.floats(np.array(node.attributes["epsilon"].as_float(), np.float32))
    root = make.exact("Sqrt", [make.exact("Add", [variance, epsilon], one)], one)
    part = [b, f, *parts]
    factor = make.exact(
        "Mul", [make.exact("Reciprocal", [root], one), make.view(scale, parts)], part
    )
    offset = make.exact(
        "Sub", [make.view(bias, parts), make.exact("Mul", [mean, factor], part)], part
    )
    factor, offset = _per_channel(make, factor, dims[1]), _per_channel(make, offset, dims[1])
    made = make.exact("Add", [make.exact("Mul", [video, factor], dims), offset], dims)
    return same(made, node.outputs[0])


def _per_channel(make: Nodes, value: ir.Value, channels: int) -> ir.Value:
    """f32 [b, f, groups, c / groups] as [b, c, f, 1, 1]."""
    b, f = (dims_of(value) or ())[:2]
    whole = make.exact("Reshape", [value, make.ints(0, 0, channels)], [b, f, channels])
    turned = make.exact("Transpose", [whole], [b, channels, f], {"perm": [0, 2, 1]})
    return make.exact("Unsqueeze", [turned, make.ints(3, 4)], [b, channels, f, 1, 1])
