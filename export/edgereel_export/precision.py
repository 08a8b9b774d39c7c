"""A float32 ONNX graph becomes a float16-typed one with float32 islands.

TensorRT 11 and TensorRT-RTX have no weak typing left: the precision of an engine is the precision
written in its graph. So `float16` here is a rewrite of types, done once and visible in the file:

* Only nodes inside the submodule `network` turn to float16. What a denoise graph does around it
  (guidance, prediction type, update) stays float32. A graph without that submodule is all network.
* Inside, ISLANDS stay float32, with the arithmetic that belongs to them: what feeds a sine (the
  timestep embedding), and what scales by a root (a norm written out).
* A group norm reads and writes float16; its sums are float32, as the op's `stash_type` says. In
  float32 TensorRT writes twice the bytes and does not fuse what follows.
* A graph without any product (a resize, pixels from latents) gains nothing and stays float32.
* A node stays float32 when float16 cannot hold one of its constants, or what it was measured to
  make or read on reference inputs.
* Inputs and outputs keep their declared types; casts stand at the borders.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgereel.errors import EngineError
from edgereel_export import group_norm, plain_attention, trt_plugin
from edgereel_export.float16_range import Ranges, largest, misfits
from edgereel_export.retype import MAX_FLOAT16, MIN_NORMAL_FLOAT16, retype

__all__ = ["FLOAT32", "ISLANDS", "Typed", "load", "scopes", "to_float16"]

NORMS = frozenset({"InstanceNormalization", "LayerNormalization", "LpNormalization",
                   "RMSNormalization"})  # fmt: skip
SUMS = frozenset({"CumSum", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSum",
                  "ReduceSumSquare"})  # fmt: skip
ROOTS = frozenset({"Exp", "Log", "Pow", "Reciprocal", "Sqrt"})
WAVES = frozenset({"Cos", "Sin", "Tan"})
ISLANDS = NORMS | SUMS | ROOTS | WAVES | {"Range"}
"""Op types that stay float32 wherever they stand."""

PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul",
                      "TemporalAttention"})  # fmt: skip
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})
MOVES = frozenset({"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split",
                   "Squeeze", "Transpose", "Unsqueeze"})  # fmt: skip

FLOAT32 = "edgereel.float32"
"""Metadata of a node that stays float32; the value says why."""

MASK_FILL = 2.0**24  # no weight is this large: it is a "minus infinity" of an attention mask
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass
class Typed:
    """What the rewrite did: node counts, and why each extra node stayed float32."""

    float16_nodes: int = 0
    float32_nodes: int = 0
    casts: int = 0
    kept: dict[str, str] = field(default_factory=dict)  # node name -> reason
    largest: float | None = None  # absolute value a float16 node made; None = not measured


def load(path: Path, *, plugin: bool = False) -> ir.Model:
    """The graph of an ONNX file, functions inlined; weights stay on disk until they are read.

    Args:
        path: the file.
        plugin: attention over frames is not inlined but becomes a call of TensorRT's plugin.
    """
    model = ir.load(path)
    group_norm.as_standard(model)
    plain_attention.as_standard(model)
    if plugin:
        trt_plugin.keep(model)
    passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def to_float16(
    model: ir.Model,
    *,
    denoise: bool = False,
    keep: Collection[str] = (),
    ranges: Ranges | None = None,
) -> Typed:
    """Counts of the rewrite, done in place on `model` (as `load` gives it).

    Args:
        model: every float value float32 and typed, as torch.onnx.export(dynamo=True) writes it.
        denoise: the graph is a denoising step, so it must have a submodule `network`.
        keep: more op types, or module paths inside the graph, that stay float32.
        ranges: of values, as trt_ranges.py measures them; None = constants alone decide.

    Raises:
        EngineError: control flow, an untyped value, or a denoise graph without `network`.
    """
    nodes = list(model.graph)
    _check(model, nodes)
    inside = _network(nodes, denoise, str(model.graph.name))
    if not any(n.op_type in PRODUCTS for n in inside):
        inside = set()
    half = {n for n in inside if _writes(n)} - _islands(nodes, inside, keep)
    typed = Typed()
    measured = misfits(nodes, half, ranges or {})
    for node in sorted(half, key=lambda n: str(n.name)):
        reason = _unfit(node) or measured.get(node)
        if reason:
            typed.kept[str(node.name)] = reason
    half = {n for n in half if n.name not in typed.kept and (_reads(n) or _can_write(n))}
    typed.largest = largest(nodes, half, ranges or {})
    typed.float16_nodes = len(half)
    typed.float32_nodes = sum(_writes(n) for n in nodes) - len(half)
    typed.casts = retype(model.graph, nodes, half)
    return typed


def _check(model: ir.Model, nodes: Iterable[ir.Node]) -> None:
    """Nothing; EngineError where the graph has what this rewrite does not handle."""
    for node in nodes:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for a in node.attributes.values()):  # fmt: skip
            raise EngineError(
                f"node {node.name}: {node.op_type} is control flow, and float16 graphs must be "
                "straight lines; export the module without data-dependent branches or loops, or "
                "compile with precision fp32"
            )
    if any(value.dtype is None for node in nodes for value in node.outputs if value.uses()):
        passes.ShapeInferencePass()(model)
    for node in nodes:
        for value in node.outputs:
            if value.dtype is None and value.uses():
                raise EngineError(
                    f"node {node.name}: its output {value.name} has no element type in the file; "
                    "float16 graphs need every type; export again with "
                    "torch.onnx.export(dynamo=True)"
                )


def scopes(node: ir.Node) -> list[str] | None:
    """Module paths around a node, outermost first; None if the exporter wrote none."""
    text = node.metadata_props.get(_SCOPES)
    try:
        found = ast.literal_eval(text) if text else None
    except (SyntaxError, ValueError):
        return None
    return [str(s) for s in found[:-1]] if isinstance(found, list) else None  # last = the op


def _network(nodes: list[ir.Node], denoise: bool, name: str) -> set[ir.Node]:
    """Nodes of the submodule `network`; every node if no node is in one.

    Nodes that an optimiser made carry no path: those between two nodes of the network are in it.
    """
    tagged, untagged = set(), set()
    for node in nodes:
        around = scopes(node)
        if around is None:
            untagged.add(node)
        elif any(s.rsplit(".", 1)[-1] == "network" or s.startswith("network.") for s in around):
            tagged.add(node)
    if not tagged:
        if denoise:
            raise EngineError(
                f"graph {name}: no node belongs to a submodule named `network`, so guidance and "
                "update cannot be told from the network and would lose precision; export the "
                "denoise step with its network as `self.network`"
            )
        return set(nodes)
    after, before = set(tagged), set(tagged)
    for node in nodes:
        if any(p in after for p in node.predecessors()):
            after.add(node)
    for node in reversed(nodes):
        if any(s in before for s in node.successors()):
            before.add(node)
    return tagged | (untagged & after & before)


def _writes(node: ir.Node) -> bool:
    """Whether any output is float32."""
    return any(v.dtype == ir.DataType.FLOAT for v in node.outputs)


def _reads(node: ir.Node) -> bool:
    """Whether any input is float32."""
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs)


def _can_write(node: ir.Node) -> bool:
    """Whether a node without float inputs says its result type in an attribute we know."""
    return node.op_type == "Cast" or (
        node.op_type == "ConstantOfShape" and "value" in node.attributes
    )


def _islands(nodes: list[ir.Node], inside: set[ir.Node], keep: Collection[str]) -> set[ir.Node]:
    """Nodes inside the network that stay float32."""
    islands = set()
    for node in inside:
        around = scopes(node) or []
        told = node.op_type in ISLANDS or FLOAT32 in node.metadata_props
        if told or node.op_type in keep or any(s in keep for s in around):
            islands.add(node)
    roots = {n for n in islands if n.op_type in ROOTS}
    waves = {n for n in islands if n.op_type in WAVES}
    for node in reversed(nodes):
        if node not in inside:
            continue
        # what is added to a variance under its root, and what the root then divides
        beside = {*node.successors(), *node.predecessors()}
        if node.op_type in ARITHMETIC and beside & roots:
            islands.add(node)
        # the angle of a sine, all the way from the timestep: 999 * frequency needs 24 bits
        if node.op_type in ARITHMETIC | MOVES and waves.intersection(node.successors()):
            islands.add(node)
            waves.add(node)
    return islands


def _constants(node: ir.Node) -> Iterable[tuple[ir.Value, np.ndarray]]:
    """Float32 constants that a node reads, with their numbers."""
    for value in node.inputs:
        if value is not None and value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            yield value, value.const_value.numpy()


def _unfit(node: ir.Node) -> str:
    """Why a constant of the node does not fit float16; "" if all do."""
    for value, array in _constants(node):
        if not array.size:
            continue
        sizes = np.abs(array, dtype=np.float32)
        finite = sizes[np.isfinite(sizes)]
        large = finite[(finite > MAX_FLOAT16) & (finite < MASK_FILL)]
        if large.size:
            return f"constant {value.name} reaches {large.max():g}, float16 ends at {MAX_FLOAT16:g}"
        if array.size == 1 and finite.size and 0 < finite.max() < MIN_NORMAL_FLOAT16:
            return f"constant {value.name} is {finite.max():g}, too small for float16"
    return ""
