"""Exports without tracing a second time.

torch.onnx traces a program again to take apart operators that ONNX has no word for. Of our networks
these are a handful, each of which is another operator by another name; with sizes that are free the
second trace takes longer than all else together. What it is good for besides is done here too:
every size inside is worked out from those of the inputs, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import SymInt
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

__all__ = ["light_decomposition"]

_aten = torch.ops.aten
_CONVERSIONS = {_aten.to.dtype: 1, _aten.to.device: 2, _aten.to.dtype_layout: 1}  # dtype's place
_OTHER_NAMES: Mapping[Any, OpOverload] = {
    _aten.__and__.Tensor: _aten.bitwise_and.Tensor,
    _aten.min.other: _aten.minimum.default,
}
_RESHAPES = {
    _aten.flatten.using_ints,
    _aten.reshape.default,
    _aten.unflatten.int,
    _aten.view.default,
}
_CHECKS = {_aten._assert_scalar.default, _aten._assert_tensor_metadata.default}


@contextmanager
def light_decomposition() -> Iterator[None]:
    """Programs are rewritten where that is enough, and traced again where it is not."""
    again: Callable[..., ExportedProgram] = ExportedProgram.run_decompositions

    def run(
        program: ExportedProgram, table: dict[OpOverload, Callable[..., Any]] | None = None
    ) -> ExportedProgram:
        graph = program.graph
        _rename(graph)
        left = {node.target for node in graph.nodes if node.op == "call_function"}
        if any(target in (table or ()) or _mutates(target) for target in left - _CHECKS):
            return again(program, table)
        _resize(graph)
        program.graph_module.recompile()
        return program

    with mock.patch.object(ExportedProgram, "run_decompositions", run):
        yield


def _rename(graph: Graph) -> None:
    """Puts the operators that ONNX has words for in place of those that are the same."""
    for node in list(graph.nodes):
        if node.target is _aten.detach_.default:  # as its input: nothing is trained here
            node.target, node.args, node.kwargs = _aten.clone.default, node.args[:1], {}
        elif node.target in _CONVERSIONS:
            place = _CONVERSIONS[node.target]
            dtype = node.args[place] if len(node.args) > place else node.kwargs["dtype"]
            node.target, node.args = _aten._to_copy.default, node.args[:1]
            node.kwargs = {"dtype": dtype}
        elif node.op == "call_function" and node.target in _OTHER_NAMES:
            node.target = _OTHER_NAMES[node.target]


def _mutates(target: object) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _resize(graph: Graph) -> None:
    """Works every size out from those of the inputs, and drops checks of sizes."""
    for node in list(graph.nodes):
        if node.target in _CHECKS:
            graph.erase_node(node)
    found = list(graph.nodes)
    sizes = _Sizes(graph)
    for node in found:
        if isinstance(node.meta.get("val"), SymInt):
            size = sizes.of(node.meta["val"])
            assert isinstance(size, Node)
            node.replace_all_uses_with(size)
        elif node.target in _RESHAPES:
            node.target = _aten.reshape.default
            node.args = (node.args[0], [sizes.of(size) for size in node.meta["val"].shape])
            node.kwargs = {}
    graph.eliminate_dead_code()


class _Sizes:
    """Free sizes as nodes that stand right after a graph's inputs."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._tracer = graph, GraphAppendingTracer(graph)
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self._first = inputs[-1].next  # of the nodes that are no inputs
        self._made: dict[Any, Proxy] = {}  # by expression
        for node in inputs:
            for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                if isinstance(size, SymInt) and size.node.expr not in self._made:
                    with graph.inserting_before(self._first):
                        read = graph.call_function(_aten.sym_size.int, (node, axis))
                    read.meta["val"] = size
                    self._made[size.node.expr] = Proxy(read, self._tracer)

    def of(self, size: int | SymInt) -> int | Node:
        """A size as an argument of a node."""
        if not isinstance(size, SymInt) or size.node.expr.is_Integer:
            return int(size)
        expression = size.node.expr
        if expression not in self._made:
            last = self._first.prev
            with self._graph.inserting_before(self._first):
                self._made[expression] = sympy_interp(
                    PythonReferenceAnalysis, self._made, expression
                )
            while (last := last.next) is not self._first:
                values = [a.meta["val"] if isinstance(a, Node) else a for a in last.args]
                assert callable(last.target)
                last.meta["val"] = last.target(*values)
        return self._made[expression].node
