"""The nodes that trt_layout.py puts into a graph: videos out of other values and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from edgereel_export.trt_axes import VIDEO, Dim, Groups, dims_of
from edgereel_export.trt_nodes import INT64, Nodes, same

__all__ = ["Maker"]

RESHAPES = frozenset({"Gather", "Reshape", "Squeeze", "Unsqueeze"})  # of weights, by axes of size 1


class Maker(Nodes):
    """Makes videos [b, c, f, h, w] and what is read of them."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._sizes: dict[tuple[ir.Value, str], ir.Value] = {}

    def like(
        self,
        node: ir.Node,
        inputs: Sequence[ir.Value | None],
        dims: Sequence[Dim],
        changed: Mapping[str, ir.Attr] | None = None,
    ) -> ir.Value:
        """The video of sizes `dims` that the same operation makes of other inputs."""
        attributes = {**node.attributes, **(changed or {})}
        made = ir.Node(node.domain, node.op_type, inputs, attributes.values())
        return same(self.place(made, node.outputs[0].type, dims), node.outputs[0])

    def output(self, value: ir.Value, old: ir.Value) -> ir.Value:
        """The value as an output of the graph, under the name of the old one."""
        made = self.make("Identity", [value], dims_of(value) or ())
        old.name, made.name = f"{old.name}.folded", old.name
        return made

    def arranged(self, video: ir.Value, groups: Groups) -> ir.Value:
        """A video in the order `groups`, axes merged as they say."""
        flat, dims = "".join(groups), _letters(video)
        value = self.transposed(video, ["bcfhw".index(letter) for letter in flat])
        if len(groups) == len(flat):
            return value
        free = next(i for i, group in enumerate(groups) if len(group) > 1)
        sizes = [
            self.ints(-1) if i == free else self._merged(video, group, dims)
            for i, group in enumerate(groups)
        ]
        return self.reshaped(value, sizes, [_product(dims[g] for g in group) for group in groups])

    def spread(
        self, value: ir.Value, groups: Groups, dims: Mapping[str, Dim], like: ir.Value
    ) -> ir.Value:
        """A video, or what broadcasts to one, of a value that holds its axes in the order `groups`.

        Args:
            value: any; sizes that are no numbers are those of the video `like`.
            groups: its axes.
            dims: sizes of the single axes.
            like: a video.
        """
        flat = "".join(groups)
        if len(groups) < len(flat) or dims_of(value) != tuple(dims[letter] for letter in flat):
            sizes = [self._merged(like, letter, dims) for letter in flat]
            value = self.reshaped(value, sizes, [dims[letter] for letter in flat])
        return self.transposed(value, [flat.index(letter) for letter in "bcfhw"])

    def weight(self, value: ir.Value | None, spatial: bool) -> ir.Value | None:
        """The weight [O, I, k, l] of a convolution as one of 1 x k x l or k x l x 1."""
        dims = None if value is None else dims_of(value)
        numbers = [d for d in dims or () if isinstance(d, int)]
        base = value
        while base is not None and base.const_value is None:
            producer = base.producer()
            reshapes = producer is not None and producer.op_type in RESHAPES
            base = producer.inputs[0] if producer is not None and reshapes else None
        if base is None or base.const_value is None or len(numbers) != 4:
            return None
        if base.const_value.size != prod(numbers):
            return None
        return self.view(base, [*numbers[:2], 1, *numbers[2:]] if spatial else [*numbers, 1])

    def resized(self, node: ir.Node, video: ir.Value, dims: Sequence[Dim]) -> ir.Value | None:
        """A video of another height and width."""
        scales, sizes = (*node.inputs, None, None, None)[2:4]
        if "axes" in node.attributes:
            return None
        if scales is not None and scales.const_value is not None and scales.const_value.size == 4:
            factors = np.insert(scales.const_value.numpy(), 1, 1.0).astype(np.float32)
            return self.like(node, [video, None, self.floats(factors)], dims)
        if sizes is None:
            return None
        kept = self.make("Shape", [video], [3], {"start": 0, "end": 3}, INT64)
        sides = self.make("Slice", [sizes, self.ints(2), self.ints(4), self.ints(0)], [2])
        target = self.make("Concat", [kept, sides], [5], {"axis": 0})
        return self.like(node, [video, None, None, target], dims)

    def _merged(self, video: ir.Value, letters: str, dims: Mapping[str, Dim]) -> ir.Value:
        """i64 [1]: the size of merged axes; those that are no numbers are the video's."""
        size = _product(dims[letter] for letter in letters)
        if isinstance(size, int):
            return self.ints(size)
        total, *others = (self._size(video, letter) for letter in letters)
        for other in others:
            total = self.make("Mul", [total, other], [1])
        return total

    def _size(self, video: ir.Value, letter: str) -> ir.Value:
        if (video, letter) not in self._sizes:
            axis = VIDEO.index(letter)
            span = {"start": axis, "end": axis + 1}
            self._sizes[video, letter] = self.make("Shape", [video], [1], span, INT64)
        return self._sizes[video, letter]


def _letters(video: ir.Value) -> dict[str, Dim]:
    return dict(zip("bcfhw", dims_of(video) or (), strict=True))


def _product(dims: Iterable[Dim]) -> Dim:
    """Of sizes; None if one is no number, itself if it is alone."""
    found = list(dims)
    numbers = [d for d in found if isinstance(d, int)]
    if len(numbers) == len(found):
        return prod(numbers)
    return found[0] if len(found) == 1 else None
