"""Group norm as a function of the file: `edgereel::GroupNorm`, which ONNX Runtime computes right.

ONNX Runtime has no kernel for GroupNormalization. It computes the standard's own definition, whose
variance is mean(x^2) - mean(x)^2: of a flat picture a difference of large numbers, below zero even,
and then the result is not a number. Here the variance is that of InstanceNormalization, which has a
kernel and subtracts the mean first. TensorRT has a layer for the standard op.
"""

from __future__ import annotations

import onnx_ir as ir

from . import own_functions

__all__ = ["BODY", "as_function", "as_standard"]

_NAME, _STANDARD = "GroupNorm", "GroupNormalization"
BODY = """
<domain: "edgereel", opset_import: ["" : 23]>
GroupNorm <num_groups, epsilon> (x, scale, bias) => (y)
{
    count = Constant <value_int: int = @num_groups> ()
    first = Constant <value_ints = [0]> ()
    rest = Constant <value_ints = [-1]> ()
    one = Constant <value_ints = [1]> ()
    groups = Reshape(count, one)
    channels = Shape(scale)
    by_group = Concat <axis = 0> (first, groups, rest)
    by_channel = Concat <axis = 0> (first, channels, rest)
    unit_float = Constant <value_float = 1.0> ()
    zero_float = Constant <value_float = 0.0> ()
    unit = CastLike(unit_float, x)
    zero = CastLike(zero_float, x)
    ones = Expand(unit, groups)
    zeros = Expand(zero, groups)
    grouped = Reshape(x, by_group)
    normal = InstanceNormalization <epsilon: float = @epsilon> (grouped, ones, zeros)
    channelled = Reshape(normal, by_channel)
    scale_1 = Unsqueeze(scale, one)
    bias_1 = Unsqueeze(bias, one)
    scaled = Mul(channelled, scale_1)
    moved = Add(scaled, bias_1)
    shape = Shape(x)
    y = Reshape(moved, shape)
}
"""


def as_function(model: ir.Model) -> None:
    """Makes every GroupNormalization a call of the function, in place."""
    found = [node for node in model.graph.all_nodes() if node.op_type == _STANDARD]
    for node in found:
        node.domain, node.op_type, node.version = own_functions.DOMAIN, _NAME, None
        node.attributes.setdefault("epsilon", ir.AttrFloat32("epsilon", 1e-5))
        node.attributes.pop("stash_type", None)
    if found:
        own_functions.add(model, BODY)


def as_standard(model: ir.Model) -> None:
    """Makes every call of the function a GroupNormalization again, in place."""
    own_functions.to_standard(model, _NAME, _STANDARD)
