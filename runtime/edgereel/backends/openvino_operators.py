"""Our operators for OpenVINO, which does not read the definitions of them that the files hold.

The definitions are `export/edgereel_export/temporal_attention.py`, `plain_attention.py`
and `group_norm.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension

__all__ = ["reader"]


def reader() -> openvino.Core:
    """Reads our files."""
    core = openvino.Core()
    core.add_extension(ConversionExtension("Attention", "edgereel", _attention))
    core.add_extension(ConversionExtension("GroupNorm", "edgereel", _group_norm))
    core.add_extension(ConversionExtension("TemporalAttention", "edgereel", _temporal_attention))
    return core


def _attention(node: NodeContext) -> list[Any]:
    q, k, v = (node.get_input(i) for i in range(3))
    return [ops.scaled_dot_product_attention(q, k, v).output(0)]


def _group_norm(node: NodeContext) -> list[Any]:
    x, scale, bias = (node.get_input(i) for i in range(3))
    groups, epsilon = node.get_attribute("num_groups"), node.get_attribute("epsilon")
    return [ops.group_normalization(x, scale, bias, groups, epsilon).output(0)]


def _temporal_attention(node: NodeContext) -> list[Any]:
    given = [node.get_input(i) for i in range(node.get_input_size())]
    qkv, cos, sin, bias = (_present(x) for x in (*given, None, None, None)[:4])
    heads, interleaved = node.get_attribute("heads"), bool(node.get_attribute("interleaved"))
    width = qkv.get_partial_shape()[3].get_length() // (3 * heads)
    frames, pixels = (ops.gather(ops.shape_of(qkv), _ints(axis), _ints(0)) for axis in (1, 2))
    parts = ops.reshape(qkv, _ints(0, 0, 0, 3, heads, width), special_zero=True)
    by_part = ops.split(ops.transpose(parts, _ints(3, 0, 2, 4, 1, 5)), 0, 3).outputs()
    by_pixel = ops.concat([_ints(-1, heads), frames, _ints(width)], 0)
    q, k, v = (ops.reshape(part, by_pixel, special_zero=False).output(0) for part in by_part)
    if cos is not None:
        q, k = (_turned(x, width, cos, sin, interleaved) for x in (q, k))
    scaled = ops.multiply(q, np.float32(node.get_attribute("scale")))
    scores = ops.matmul(scaled, k, transpose_a=False, transpose_b=True)
    if bias is not None:
        scores = ops.add(scores, ops.unsqueeze(bias, _ints(0)))
    attended = ops.matmul(ops.softmax(scores, -1), v, transpose_a=False, transpose_b=False)
    by_row = ops.concat([_ints(-1), pixels, _ints(heads), frames, _ints(width)], 0)
    rows = ops.reshape(attended, by_row, special_zero=False)
    by_frame = ops.transpose(rows, _ints(0, 3, 1, 2, 4))
    return [ops.reshape(by_frame, _ints(0, 0, 0, heads * width), special_zero=True).output(0)]


def _turned(x: Any, width: int, cos: Any, sin: Any, interleaved: bool) -> Any:
    """Queries or keys [B, heads, F, width], their first channels turned by cos and sin [F, r/2]."""
    turned = 2 * cos.get_partial_shape()[1].get_length()
    if turned < width:
        first, rest = ops.variadic_split(x, -1, _ints(turned, width - turned)).outputs()
        return ops.concat([_turned(first, turned, cos, sin, interleaved), rest], -1).output(0)
    if interleaved:
        x = ops.reshape(x, _ints(0, 0, 0, -1, 2), special_zero=True)
        cos, sin = (ops.unsqueeze(table, _ints(-1)) for table in (cos, sin))
    a, b = ops.split(x, -1, 2).outputs()
    first = ops.subtract(ops.multiply(a, cos), ops.multiply(b, sin))
    second = ops.add(ops.multiply(b, cos), ops.multiply(a, sin))
    both = ops.concat([first, second], -1)
    return ops.reshape(both, _ints(0, 0, 0, width), special_zero=True).output(0)


def _present(value: Any) -> Any:
    """None for an optional input that is left out."""
    return None if value is None or value.get_node().get_type_name() == "NullNode" else value


def _ints(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))
