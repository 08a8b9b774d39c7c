"""New nodes and constants for a graph that is being rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgereel_export.float16_range import SAME_AS
from edgereel_export.precision import FLOAT32
from edgereel_export.retype import MADE_OF
from edgereel_export.trt_axes import Dim, dims_of

__all__ = ["INT64", "Nodes", "same"]

INT64 = ir.TensorType(ir.DataType.INT64)


def same(value: ir.Value, other: ir.Value) -> ir.Value:
    """The value, told that it holds the numbers of the other one."""
    value.metadata_props[SAME_AS] = str(other.metadata_props.get(SAME_AS, other.name))
    return value


class Nodes:
    """Puts new nodes before a given one; they have its place in the network."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._node: ir.Node | None = None
        self._count = 0
        self._constants: dict[str, ir.Value] = {}

    def at(self, node: ir.Node) -> None:
        """From now on nodes are put before this one."""
        self._node = node

    def make(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Dim],
        attributes: Mapping[str, int | Sequence[int]] | None = None,
        kind: ir.TypeProtocol | None = None,
    ) -> ir.Value:
        """The result of a standard op, of the first input's type unless `kind` is told."""
        first = inputs[0]
        assert first is not None
        node = ir.node(op, inputs, dict(attributes or {}))
        return self.place(node, kind or first.type, shape)

    def exact(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[Dim],
        attributes: Mapping[str, int | Sequence[int]] | None = None,
    ) -> ir.Value:
        """As `make`, of a node that stays float32 in every engine."""
        value = self.make(op, inputs, shape, attributes)
        node = value.producer()
        assert node is not None
        node.metadata_props[FLOAT32] = "norm"
        return value

    def place(self, node: ir.Node, kind: ir.TypeProtocol | None, shape: Sequence[Dim]) -> ir.Value:
        """The only output of a node that is put into the graph."""
        assert self._node is not None
        self._count += 1
        node.name = f"{self._node.name}:video{self._count}"
        node.metadata_props.update(self._node.metadata_props)
        value = node.outputs[0]
        value.name, value.shape = node.name, ir.Shape(shape)
        value.type = None if kind is None else ir.TensorType(kind.dtype)  # each value its own
        self.graph.insert_before(self._node, node)
        return value

    def transposed(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """The value with its axes in another order."""
        dims = dims_of(value)
        assert dims is not None
        if tuple(order) == tuple(range(len(dims))):
            return value
        shape = [dims[i] for i in order]
        return same(self.make("Transpose", [value], shape, {"perm": list(order)}), value)

    def reshaped(
        self, value: ir.Value, sizes: Sequence[ir.Value], shape: Sequence[Dim]
    ) -> ir.Value:
        """The value in the shape that i64 [1] values say, one per axis."""
        constants = [size.const_value for size in sizes]
        numbers = [int(c.numpy()[0]) for c in constants if c is not None]
        if len(numbers) == len(sizes):
            target = self.ints(*numbers)
        else:
            target = self.make("Concat", sizes, [len(sizes)], {"axis": 0})
        return same(self.make("Reshape", [value, target], shape), value)

    def ints(self, *numbers: int) -> ir.Value:
        """A constant i64 [n]."""
        return self._constant(np.array(numbers, np.int64))

    def floats(self, numbers: NDArray[np.float32]) -> ir.Value:
        """A constant of the graph."""
        return self._constant(numbers)

    def view(self, constant: ir.Value, shape: Sequence[int]) -> ir.Value:
        """A constant in another shape; its numbers stay in its file until they are read."""
        source = constant.const_value
        assert source is not None
        name = f"{constant.name}.{'x'.join(map(str, shape))}"

        def read() -> ir.TensorProtocol:
            return ir.Tensor(source.numpy().reshape(shape), name=name)

        if name not in self._constants:
            self._register(name, ir.LazyTensor(read, source.dtype, ir.Shape(shape), name=name))
            self._constants[name].metadata_props[MADE_OF] = str(constant.name)
        return self._constants[name]

    def _constant(self, array: NDArray[np.generic]) -> ir.Value:
        name = f"video:{array.dtype}:{array.tolist()}"
        if name not in self._constants:
            self._register(name, ir.tensor(array, name=name))
        return self._constants[name]

    def _register(self, name: str, tensor: ir.TensorProtocol) -> None:
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
        self.graph.register_initializer(value)
        self._constants[name] = value
