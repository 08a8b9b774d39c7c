"""Videos stay [b, c, f, h, w] inside a TensorRT engine, where graphs fold frames into the batch.

ONNX Runtime is fastest when a convolution within frames works on images [b*f, c, h, w] and one over
frames on [b, c, f, h*w]. TensorRT moves the whole video through memory for each change between the
two. Here every such convolution becomes one of 1 x k x k or k x 1 x 1 on the video itself; group
norms of single frames are written out, since TensorRT's cannot leave frames apart; and reshapes and
transposes are left out until something else, such as attention, needs tokens. Results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgereel_export.trt_axes import FOLDED, MOVES, Dim, Groups, after, before, dims_of
from edgereel_export.trt_frame_norm import frame_norm
from edgereel_export.trt_video import Maker

__all__ = ["unfold"]

# Whose result at one place depends on their inputs at that place alone.
POINTWISE = frozenset({"Abs", "Add", "Cast", "Clip", "Div", "Erf", "Exp", "Gelu", "Mul", "Neg",
                       "Relu", "Sigmoid", "Sub", "Tanh", "Where"})  # fmt: skip
JOINS = POINTWISE | {"Concat"}  # read several values of one size


class _View(NamedTuple):
    """A value as the same numbers in another arrangement of a video."""

    video: ir.Value
    groups: Groups
    dims: tuple[Dim, ...]  # the value's sizes

    def sizes(self) -> dict[str, Dim]:
        """Of the video's axes, by letter."""
        dims = dims_of(self.video)
        assert dims is not None
        return dict(zip("bcfhw", dims, strict=True))

    def result(self, node: ir.Node) -> list[Dim] | None:
        """Sizes of the video that a node makes, whose output has the axes of this value."""
        own = dims_of(node.outputs[0])
        if own is None or len(own) != len(self.groups):
            return None
        told = {g: d for g, d in zip(self.groups, own, strict=True) if len(g) == 1}
        return list({**self.sizes(), **told}.values())


def unfold(model: ir.Model) -> int:
    """The number of convolutions that now work on videos, in place; 0 changes nothing.

    Only graphs in which something looks along frames are changed: elsewhere images are images.
    """
    if not _looks_along_frames(model.graph):
        return 0
    unfolding = _Unfolding(model.graph)
    unfolding.run()
    passes.RemoveUnusedNodesPass()(model)
    return unfolding.convolutions


def _looks_along_frames(graph: ir.Graph) -> bool:
    """Whether there are convolutions over frames, on images whose frames are behind the channels.

    Where only group norms look along frames, engines get no smaller by videos.
    """
    swaps = (n.attributes["perm"].as_ints() for n in graph if n.op_type == "Transpose")
    windows = (n.attributes["kernel_shape"].as_ints() for n in graph if n.op_type == "Conv")
    swapped = any(len(order) >= 4 and tuple(order[:3]) == (0, 2, 1) for order in swaps)
    return swapped and any(len(w) == 2 and w[0] > 1 and w[1] == 1 for w in windows)


class _Unfolding:
    """One walk through a graph, from inputs to outputs."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.make = graph, Maker(graph)
        self.views: dict[ir.Value, _View] = {}
        self.made: dict[tuple[ir.Value, Groups], ir.Value] = {}
        self.convolutions = 0
        self.rules: Mapping[str, Callable[[ir.Node, _View], ir.Value | None]] = {
            "Conv": self._conv,
            "GroupNormalization": self._norm,
            "AveragePool": self._pool,
            "MaxPool": self._pool,
            "Resize": self._resize,
            "Concat": self._concat,
            **dict.fromkeys(POINTWISE, self._pointwise),
        }

    def run(self) -> None:
        """Rewrites every node that works on a video; the others get what they read as before."""
        for node in list(self.graph):
            self.make.at(node)
            if not self._entered(node) and not self._moved(node) and not self._rewritten(node):
                self._left(node)
        for index, value in enumerate(self.graph.outputs):
            if value in self.views:
                self.graph.outputs[index] = self.make.output(self._materialised(value), value)

    def _entered(self, node: ir.Node) -> bool:
        """Whether the node folds frames into the batch: there a video begins."""
        source, out = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Reshape" or source is None or source in self.views:
            return False
        inside, outside = dims_of(source), dims_of(out)
        if inside is None or outside is None or (len(inside), len(outside)) != (5, 4):
            return False
        if inside[2:] != outside[1:] or None in inside or not isinstance(inside[2], int):
            return False
        producer = source.producer()
        swap = (0, 2, 1, 3, 4)
        if (
            producer is not None
            and producer.op_type == "Transpose"
            and tuple(producer.attributes["perm"].as_ints()) == swap
            and producer.inputs[0] is not None
        ):
            video = producer.inputs[0]
        else:
            video = self.make.transposed(source, swap)
        self.views[out] = _View(video, FOLDED, outside)
        return True

    def _moved(self, node: ir.Node) -> bool:
        """Whether the node only arranges a video anew; then nothing is computed."""
        view = self.views.get(node.inputs[0]) if node.inputs and node.inputs[0] else None
        if view is None or node.op_type not in MOVES:
            return False
        out = node.outputs[0]
        groups, dims = after(view.groups, node, view.sizes()), dims_of(out)
        if groups is None or dims is None:
            return False
        self.views[out] = _View(view.video, groups, dims)
        return True

    def _rewritten(self, node: ir.Node) -> bool:
        """Whether the node now works on a video."""
        rule = self.rules.get(node.op_type)
        known = [self.views[v] for v in node.inputs if v is not None and v in self.views]
        if rule is None or not known:
            return False
        first = node.inputs[0]
        if node.op_type not in JOINS and first not in self.views:
            return False
        video, dims = rule(node, known[0]), dims_of(node.outputs[0])
        if video is None or dims is None:
            return False
        self.views[node.outputs[0]] = _View(video, known[0].groups, dims)
        return True

    def _left(self, node: ir.Node) -> None:
        """Nothing; a node that stays as it is reads what it read before."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.views:
                node.replace_input_with(index, self._materialised(value))

    def _materialised(self, value: ir.Value) -> ir.Value:
        """The value of a view, moved out of its video once."""
        view = self.views[value]
        key = view.video, view.groups
        if key not in self.made:
            self.made[key] = self.make.arranged(*key)
        return self.made[key]

    def _lifted(self, value: ir.Value | None, like: _View, joined: int = -1) -> ir.Value | None:
        """The video, or what broadcasts to one, of a value that has none yet; None if unclear.

        Args:
            value: what a node reads.
            like: another value that it reads.
            joined: an axis along which the two may differ in size.
        """
        if value is None:
            return None
        if value in self.views:
            view = self.views[value]
            return view.video if view.groups == like.groups else None
        dims = dims_of(value)
        if dims is None or len(dims) > len(like.groups):
            return None
        dims = (1,) * (len(like.groups) - len(dims)) + dims
        if any(d not in (1, own) for i, (d, own) in enumerate(zip(dims, like.dims, strict=True))
               if i != joined):  # fmt: skip
            return None
        if all(d == 1 for d in dims) and not dims_of(value):
            return value  # a number
        sizes = like.sizes()
        for group, dim, own in zip(like.groups, dims, like.dims, strict=True):
            if dim != own:  # broadcast, or joined
                sizes.update(dict.fromkeys(group, dim))
        groups, source = like.groups, value
        while (producer := source.producer()) is not None and producer.op_type in MOVES:
            earlier, read = before(groups, producer, sizes), producer.inputs[0]
            if earlier is None or read is None:
                break
            groups, source = earlier, read
        return self.make.spread(source, groups, sizes, like.video)

    def _conv(self, node: ir.Node, view: _View) -> ir.Value | None:
        """1 x k x k within frames, k x 1 x 1 over them."""
        spatial = _window(node, view.groups)
        dims = view.result(node)
        weight = None if spatial is None else self.make.weight(node.inputs[1], spatial)
        if spatial is None or weight is None or dims is None:
            return None
        self.convolutions += 1
        inputs = [view.video, weight, *node.inputs[2:]]
        return self.make.like(node, inputs, dims, _window_attributes(node, spatial))

    def _pool(self, node: ir.Node, view: _View) -> ir.Value | None:
        dims = view.result(node)
        if dims is None or len(node.outputs) != 1 or not _window(node, view.groups):
            return None
        return self.make.like(node, [view.video], dims, _window_attributes(node, True))

    def _norm(self, node: ir.Node, view: _View) -> ir.Value | None:
        """Of all frames together where they are no part of the batch, else of each."""
        if view.groups == FOLDED:
            return frame_norm(self.make, node, view.video)
        if view.groups[:2] == ("b", "c") and "".join(view.groups[2:]) == "fhw":
            sizes = list(view.sizes().values())
            return self.make.like(node, [view.video, *node.inputs[1:]], sizes)
        return None

    def _resize(self, node: ir.Node, view: _View) -> ir.Value | None:
        """Of images: frames keep their number."""
        dims = view.result(node)
        if dims is None or view.groups != FOLDED:
            return None
        return self.make.resized(node, view.video, dims)

    def _concat(self, node: ir.Node, view: _View) -> ir.Value | None:
        axis = node.attributes["axis"].as_int() % len(view.groups)
        dims = view.result(node)
        if dims is None or view.groups[axis] != "c":
            return None
        videos = [self._lifted(value, view, axis) for value in node.inputs]
        if any(video is None for video in videos):
            return None
        return self.make.like(node, videos, dims, {"axis": ir.AttrInt64("axis", 1)})

    def _pointwise(self, node: ir.Node, view: _View) -> ir.Value | None:
        dims = view.result(node)
        videos = [self._lifted(value, view) for value in node.inputs]
        if dims is None or videos.count(None) != list(node.inputs).count(None):
            return None
        return self.make.like(node, videos, dims)


def _window(node: ir.Node, groups: Groups) -> bool | None:
    """Whether a sliding window stays within frames (True) or runs over them (False)."""
    kind = node.attributes.get("auto_pad")
    if kind is not None and kind.as_string() != "NOTSET":
        return None
    if groups == FOLDED and len(node.attributes["kernel_shape"].as_ints()) == 2:
        return True
    if groups != ("b", "c", "f", "hw"):
        return None
    alone = {"kernel_shape": (1,), "strides": (1,), "dilations": (1,), "pads": (0, 0)}
    for name, wanted in alone.items():
        if name in node.attributes:
            given = tuple(node.attributes[name].as_ints())
            if given[1::2] != wanted:
                return None
    return False


def _window_attributes(node: ir.Node, spatial: bool) -> dict[str, ir.Attr]:
    """The window's attributes with a third axis: frames before, or a width of one behind."""
    found = {}
    for name, one in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
        if name not in node.attributes:
            continue
        given = list(node.attributes[name].as_ints())
        sides = [given[:2], given[2:]] if name == "pads" else [given]
        wide = [[one, *side] if spatial else [*side, one] for side in sides]
        found[name] = ir.AttrInt64s(name, [n for side in wide for n in side])
    return found
