"""Which nodes of a graph make or read values that float16 does not hold, as measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir

from edgereel_export.retype import MAX_FLOAT16, MIN_NORMAL_FLOAT16

__all__ = ["MARGIN", "SAME_AS", "Range", "Ranges", "largest", "misfits"]

MARGIN = 8  # other inputs may reach so many times what the reference inputs do
MOSTLY = 0.5
TO_MASKS = frozenset({"Add", "Cast", "Expand", "Mul", "Pad", "Reshape", "Slice", "Squeeze", "Sub",
                      "Transpose", "Unsqueeze", "Where"})  # fmt: skip
SAME_AS = "edgereel.same_as"
"""Metadata of a value that holds the numbers of another: the name that one had in the file."""

# What multiplies small numbers carries their rounding into large ones.
FACTORS = frozenset({"Attention", "Conv", "ConvTranspose", "Div", "Einsum", "Gemm", "MatMul",
                     "Mul"})  # fmt: skip


class Range(NamedTuple):
    """What a value was over all runs."""

    largest: float  # of the absolute values; inf if one was no number
    subnormal: float  # share of its numbers that are below float16's normal ones, and not zero


Ranges = Mapping[str, Range]
"""By the name of a value."""


def misfits(
    nodes: Sequence[ir.Node], half: Collection[ir.Node], ranges: Ranges
) -> dict[ir.Node, str]:
    """Nodes of `half` of which float16 does not hold what they make or read, with the reason.

    Args:
        nodes: of the graph, in its order.
        half: those that are to become float16.
        ranges: as measured; of what is not in it nothing is known.
    """
    masks = _masks(nodes)
    reasons = {node: _misfit(node, ranges, masks) for node in half}
    return {node: reason for node, reason in reasons.items() if reason}


def _masks(nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """Values that are only added to scores of attention: their large numbers stand for infinity."""
    found: set[ir.Value] = set()
    for node in reversed(nodes):
        for value in node.outputs:
            uses = value.uses()
            if uses and all(
                (use.node.op_type == "Attention" and use.idx == 3)
                or (use.node.op_type in TO_MASKS and use.node.outputs[0] in found)
                for use in uses
            ):
                found.add(value)
    return found


def _misfit(node: ir.Node, ranges: Ranges, masks: Collection[ir.Value]) -> str:
    if node.outputs[0] in masks:
        return ""
    values = [v for v in (*node.outputs, *node.inputs) if v is not None and v not in masks]
    known = list(_known(values, ranges))
    top = max(known, default=("", Range(0, 0)), key=lambda pair: pair[1].largest)
    if not top[1].largest <= MAX_FLOAT16 / MARGIN:
        return (
            f"value {top[0]} reaches {top[1].largest:.3g} on reference inputs, float16 ends at "
            f"{MAX_FLOAT16:g}"
        )
    for name, found in known if node.op_type in FACTORS else _known(node.outputs, ranges):
        if found.subnormal > MOSTLY:
            return (
                f"{found.subnormal:.0%} of value {name} is below {MIN_NORMAL_FLOAT16:.2g} on "
                "reference inputs, too small for float16"
            )
    return ""


def largest(nodes: Sequence[ir.Node], half: Collection[ir.Node], ranges: Ranges) -> float | None:
    """The largest number that a node of `half` made, masks left out; None if nothing is known."""
    masks = _masks(nodes)
    made = (value for node in half for value in node.outputs if value not in masks)
    return max((found.largest for _, found in _known(made, ranges)), default=None)


def _known(values: Iterable[ir.Value], ranges: Ranges) -> Iterator[tuple[str, Range]]:
    for value in values:
        name = str(value.metadata_props.get(SAME_AS, value.name))
        if name in ranges and value.dtype == ir.DataType.FLOAT:
            yield name, ranges[name]
