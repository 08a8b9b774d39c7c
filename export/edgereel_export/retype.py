"""Writes element types into a graph: the chosen nodes in float16, casts at their borders."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgereel.half import MAX_FLOAT16, as_float16

__all__ = ["MADE_OF", "MAX_FLOAT16", "MIN_NORMAL_FLOAT16", "retype"]

MIN_NORMAL_FLOAT16 = 2.0**-14
MADE_OF = "edgereel.made_of"
"""Metadata of a constant that is another one converted or reshaped: that one's name in the file."""

SHAPE_ONLY = frozenset({"Shape", "Size"})  # read no number, so the type does not matter
# Inputs that the op's signature fixes to float32.
ALWAYS_FLOAT32 = {"Resize": (1, 2), "TemporalAttention": (1, 2, 3)}


def retype(graph: ir.Graph, nodes: Collection[ir.Node], half: Collection[ir.Node]) -> int:
    """The number of casts put in, so that `half` computes in float16 and the rest in float32."""
    borders = _Borders(graph)
    halves = {v for n in half for v in n.outputs if v.dtype == ir.DataType.FLOAT}
    for node in half:
        _write_float16(node)
    for made in halves:
        made.dtype = ir.DataType.FLOAT16
    for node in nodes:
        fixed = ALWAYS_FLOAT32.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is None or node.op_type in SHAPE_ONLY:
                continue
            wants_half = node in half and index not in fixed
            if wants_half and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(index, borders.half(value))
            elif not wants_half and value in halves:
                node.replace_input_with(index, borders.full(value))
    for index, result in enumerate(graph.outputs):
        if result in halves:
            graph.outputs[index] = borders.output(result)
    for constant in list(graph.initializers.values()):
        if not constant.uses() and not constant.is_graph_output():
            graph.initializers.pop(str(constant.name))
    return borders.casts


def _write_float16(node: ir.Node) -> None:
    """Nothing; an attribute that says float32 as the node's result type says float16 now."""
    if node.op_type == "Cast":
        node.attributes.add(ir.AttrInt64("to", ir.DataType.FLOAT16))
    if node.op_type == "ConstantOfShape" and "value" in node.attributes:
        fill = node.attributes["value"].as_tensor().numpy().astype(np.float16)
        node.attributes.add(ir.AttrTensor("value", ir.tensor(fill)))


class _Borders:
    """Makes each needed cast, or float16 copy of a constant, once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.first = graph[0]
        self.made: dict[ir.Value, ir.Value] = {}
        self.casts = 0

    def half(self, value: ir.Value) -> ir.Value:
        """The float16 twin of a float32 value."""
        if value not in self.made:
            constant = value.const_value is not None
            self.made[value] = (
                self._constant(value) if constant else self._cast(value, ir.DataType.FLOAT16)
            )
        return self.made[value]

    def full(self, value: ir.Value) -> ir.Value:
        """The float32 twin of a float16 value."""
        if value not in self.made:
            self.made[value] = self._cast(value, ir.DataType.FLOAT)
        return self.made[value]

    def output(self, value: ir.Value) -> ir.Value:
        """The float32 twin of a float16 value, under the value's own name."""
        twin, name = self.full(value), str(value.name)
        value.name, twin.name = f"{name}.float16", name
        return twin

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}.{dtype.name.lower()}"
        cast = ir.node("Cast", [value], attributes={"to": dtype}, name=f"cast:{name}")
        cast.outputs[0].name = name
        cast.outputs[0].type = ir.TensorType(dtype)
        cast.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.first, cast)
        else:
            self.graph.insert_after(producer, cast)
        self.casts += 1
        return cast.outputs[0]

    def _constant(self, value: ir.Value) -> ir.Value:
        source = value.const_value
        assert source is not None
        name = f"{value.name}.float16"

        def convert() -> ir.TensorProtocol:
            return ir.Tensor(as_float16(source.numpy()), name=name)

        shape = ir.Shape(source.numpy().shape)
        lazy = ir.LazyTensor(convert, ir.DataType.FLOAT16, shape, name=name)
        twin = ir.Value(
            name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=lazy
        )
        twin.metadata_props[MADE_OF] = str(value.metadata_props.get(MADE_OF, value.name))
        self.graph.register_initializer(twin)
        return twin
