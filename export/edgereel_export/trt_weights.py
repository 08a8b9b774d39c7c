"""Which weights of an engine can be replaced after it was compiled, and where each comes from.

Torch's exporter keeps the names of most parameters. What a linear layer multiplies by it stores
transposed and without a name: that name is told by the module the product belongs to. Queries, keys
and values of attention over frames are stored as one weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir

from edgereel.builds import Refit
from edgereel_export.precision import scopes
from edgereel_export.retype import MADE_OF

__all__ = ["Stored", "mark", "matches", "replaceable", "stored"]

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
RESHAPES = frozenset({"Gather", "Squeeze", "Unsqueeze"})
PACKED = ("to_q", "to_k", "to_v")


class Stored(NamedTuple):
    """A weight in a data file of a graph."""

    parts: tuple[str, ...]
    transposed: bool
    location: str
    offset: int
    shape: tuple[int, ...]


def stored(path: Path) -> dict[str, Stored]:
    """What products of a graph multiply by, by the name of the initializer.

    Left out is what the .onnx file itself holds, and what has no name that can be told.
    """
    graph = ir.load(path).graph
    inside = {around[-1] for node in graph if (around := scopes(node))}
    found: dict[str, Stored] = {}
    for node in graph:
        if node.op_type not in PRODUCTS:
            continue
        base = node.inputs[1]
        while base is not None and base.const_value is None:
            producer = base.producer()
            reshapes = producer is not None and producer.op_type in RESHAPES
            base = producer.inputs[0] if producer is not None and reshapes else None
        tensor = None if base is None else base.const_value
        if base is None or not isinstance(tensor, ir.ExternalTensor):
            continue
        parts = _parts(node, str(base.name), inside)
        if parts and tensor.dtype == ir.DataType.FLOAT:
            turned = not str(base.name).endswith(".weight") and _columns(node)
            shape = tuple(int(size) for size in tensor.shape.numpy())
            found[str(base.name)] = Stored(
                parts, turned, str(tensor.location), int(tensor.offset or 0), shape
            )
    return found


def _columns(node: ir.Node) -> bool:
    """Whether a product's weight has the outputs last."""
    flag = node.attributes.get("transB")
    return node.op_type == "MatMul" or (
        node.op_type == "Gemm" and (flag is None or flag.as_int() == 0)
    )


def _parts(node: ir.Node, name: str, inside: Collection[str]) -> tuple[str, ...]:
    """Names of the parameters that a product's weight holds; none if they cannot be told."""
    if name.endswith(".weight"):
        return (name,)
    around = scopes(node)
    if not around:
        return ()
    module = around[-1]
    if not any(other.startswith(f"{module}.") for other in inside):
        return (f"{module}.weight",)
    readers = [use.node for value in node.outputs for use in value.uses()]
    readers += [use.node for n in readers if n.op_type == "Add" for use in n.outputs[0].uses()]
    if any(reader.op_type == "TemporalAttention" for reader in readers):
        return tuple(f"{module}.{part}.weight" for part in PACKED)
    return ()


def matches(one: Stored, wanted: Sequence[str]) -> bool:
    """Whether a weight has a name of one of the patterns."""
    return any(fnmatchcase(part, pattern) for part in one.parts for pattern in wanted)


def replaceable(
    model: ir.Model, known: Mapping[str, Stored], folder: str, wanted: Sequence[str]
) -> dict[str, Refit]:
    """Weights of a graph ready to be compiled, by the names that the engine will have for them.

    Args:
        model: the graph as it is compiled.
        known: of the graph as it is in its file.
        folder: that the data files are in, relative to the cascade's.
        wanted: patterns such as "*attn*" of names of parameters.
    """
    found: dict[str, Refit] = {}
    for node in model.graph:
        value = node.inputs[1] if node.op_type in PRODUCTS else None
        if value is None or value.const_value is None:
            continue
        origin = str(value.metadata_props.get(MADE_OF, value.name))
        one = known.get(origin)
        if one is None or not matches(one, wanted):
            continue
        half = value.dtype == ir.DataType.FLOAT16
        found[str(value.name)] = Refit(
            initializer=origin,
            parts=one.parts,
            shape=one.shape,
            transposed=one.transposed,
            file=f"{folder}/{one.location}" if folder else one.location,
            offset=one.offset,
            dtype="float16" if half else "float32",
        )
    return found


def mark(network: Any, wanted: Mapping[str, Refit]) -> dict[str, Refit]:
    """Those of the weights that a parsed network lets be replaced; they are marked in it."""
    return {
        name: one
        for name, one in wanted.items()
        if network.mark_weights_refittable(name) and network.are_weights_marked_refittable(name)
    }
