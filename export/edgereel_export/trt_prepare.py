"""Rewrites of valid ONNX that TensorRT's parser refuses; they change no result.

TensorRT has uint8 inputs and outputs but no uint8 in between. Pixels that are cast to uint8 and
then only moved (transposed, reshaped, ...) are moved first and cast last.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["prepare"]

MOVES = frozenset({"Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze",
                   "Tile", "Transpose", "Unsqueeze"})  # fmt: skip


def prepare(model: ir.Model) -> int:
    """The number of outputs that were rewritten, in place."""
    graph, count = model.graph, 0
    for index, value in enumerate(graph.outputs):
        moves = _moves(value)
        if moves:
            graph.outputs[index] = _cast_last(graph, value, moves)
            count += 1
    return count


def _moves(value: ir.Value) -> list[ir.Node]:
    """The nodes between a cast to uint8 and an output, last first; none if others see them."""
    moves = []
    node = value.producer()
    while node is not None and value.dtype == ir.DataType.UINT8 and node.op_type in MOVES:
        moves.append(node)
        source = node.inputs[0]
        if source is None or len(source.uses()) != 1 or source.is_graph_output():
            return []
        value, node = source, source.producer()
    return moves if node is not None and node.op_type == "Cast" else []


def _cast_last(graph: ir.Graph, value: ir.Value, moves: list[ir.Node]) -> ir.Value:
    """The output, now made by a cast behind the moves."""
    early = moves[-1].inputs[0]
    assert early is not None
    cast = early.producer()
    assert cast is not None
    source = cast.inputs[0]
    assert source is not None
    moves[-1].replace_input_with(0, source)
    graph.remove(cast, safe=True)
    for node in moves:
        node.outputs[0].type = source.type
    name = str(value.name)
    value.name = f"{name}.moved"
    late = ir.node("Cast", [value], {"to": ir.DataType.UINT8}, name=cast.name)
    late.metadata_props.update(cast.metadata_props)
    late.outputs[0].name = name
    late.outputs[0].type, late.outputs[0].shape = ir.TensorType(ir.DataType.UINT8), value.shape
    graph.insert_after(moves[0], late)
    return late.outputs[0]
