"""Which axes of a video a value holds, and in what order: the algebra that trt_layout.py counts on.

A video is [b, c, f, h, w]. What networks make of it by reshapes and transposes holds the same
numbers with its axes in another order and some of them merged. That is written as one word per
axis: images are ("bf", "c", "h", "w"), what looks along frames ("b", "c", "f", "hw"), tokens
("bf", "hw", "c").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import onnx_ir as ir

__all__ = ["FOLDED", "MOVES", "VIDEO", "Dim", "Groups", "after", "before", "dims_of"]

Groups = tuple[str, ...]
VIDEO: Groups = ("b", "c", "f", "h", "w")
FOLDED: Groups = ("bf", "c", "h", "w")

Dim = int | str | None
MOVES = frozenset({"Reshape", "Transpose"})


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """Sizes of a value: numbers, or the text of a size that only a call decides."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def after(groups: Groups, node: ir.Node, sizes: Mapping[str, Dim]) -> Groups | None:
    """The axes of what a node makes of a value with the axes `groups`; None if that is not certain.

    Args:
        groups: axes of the node's first input.
        node: any; only a Reshape or a Transpose can keep the axes apart.
        sizes: of the single axes, by letter.
    """
    if node.op_type == "Transpose" and len(_order(node)) == len(groups):
        return tuple(groups[i] for i in _order(node))
    if node.op_type == "Reshape":
        return _regrouped(groups, dims_of(node.outputs[0]), sizes)
    return None


def before(groups: Groups, node: ir.Node, sizes: Mapping[str, Dim]) -> Groups | None:
    """The axes of a node's first input, if its output has the axes `groups`."""
    source = node.inputs[0]
    if node.op_type == "Transpose" and len(_order(node)) == len(groups):
        return tuple(groups[_order(node).index(i)] for i in range(len(groups)))
    if node.op_type == "Reshape" and source is not None:
        return _regrouped(groups, dims_of(source), sizes)
    return None


def _order(node: ir.Node) -> tuple[int, ...]:
    attribute = node.attributes.get("perm")
    return tuple(attribute.as_ints()) if attribute is not None else ()


def _regrouped(
    groups: Groups, dims: Sequence[Dim] | None, sizes: Mapping[str, Dim]
) -> Groups | None:
    """The only way to merge the axes, in their order, so that they have the sizes `dims`."""
    if dims is None:
        return None
    fits = [g for g in _partitions("".join(groups), len(dims)) if _fit(g, dims, sizes)]
    return fits[0] if len(fits) == 1 else None


def _partitions(letters: str, count: int) -> Iterator[Groups]:
    for cuts in itertools.combinations(range(1, len(letters)), count - 1):
        edges = (0, *cuts, len(letters))
        yield tuple(letters[a:b] for a, b in itertools.pairwise(edges))


def _fit(groups: Groups, dims: Sequence[Dim], sizes: Mapping[str, Dim]) -> bool:
    """Whether merged axes can have these sizes; a single axis must have its own."""
    for group, dim in zip(groups, dims, strict=True):
        parts = [sizes[letter] for letter in group]
        if len(parts) == 1:
            if dim is None or dim != parts[0]:
                return False
            continue
        numbers = [part for part in parts if isinstance(part, int)]
        if len(numbers) == len(parts) and dim != prod(numbers):
            return False
    return True
