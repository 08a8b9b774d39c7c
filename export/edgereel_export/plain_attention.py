"""Attention without a mask as a function of the file: `edgereel::Attention`, its definition.

ONNX Runtime computes Attention with all scores in memory at once. With Edgereel's kernels the
function is ONNX Runtime's own operator that works in blocks; without them it is the standard op.

    q      T [B, heads, S, D]
    k, v   T [B, heads, L, D]
    y      T [B, heads, S, D], of scores scaled by 1 / sqrt(D)
"""

from __future__ import annotations

import onnx_ir as ir

from . import own_functions

__all__ = ["BODY", "as_function", "as_standard"]

_NAME = "Attention"
BODY = """
<domain: "edgereel", opset_import: ["" : 23]>
Attention (q, k, v) => (y)
{
    y = Attention(q, k, v)
}
"""
_NOTHING = {"is_causal": 0, "qk_matmul_output_mode": 0, "softcap": 0.0}  # if that is all it has


def as_function(model: ir.Model) -> None:
    """Makes every Attention that is no more than that a call of the function, in place."""
    found = [node for node in model.graph.all_nodes() if _is_plain(node)]
    for node in found:
        node.domain, node.version = own_functions.DOMAIN, None
        node.attributes.clear()
    if found:
        own_functions.add(model, BODY)


def as_standard(model: ir.Model) -> None:
    """Makes every call of the function the standard's Attention again, in place."""
    own_functions.to_standard(model, _NAME, _NAME)


def _is_plain(node: ir.Node) -> bool:
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    return (
        (node.domain, node.op_type) == ("", _NAME)
        and [value is not None for value in node.inputs] == [True] * 3
        and len(node.outputs) == 1
        and node.inputs[0] is not None
        and node.inputs[0].shape is not None
        and len(node.inputs[0].shape) == 4
        and given.items() <= _NOTHING.items()
    )
