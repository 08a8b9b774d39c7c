"""How much memory the inside of a graph takes, as a polynomial in its symbols.

torch's exporter leaves the size of every value of a graph as an expression of the sizes of its
inputs, such as `2*s0*(s77 - 1)//2`. From those follows what is alive while each node runs, for
sizes that only a call decides. The graph's own inputs, outputs and weights are not counted: they
are values of the plan and files of the folder, whose sizes the runtime knows.

What ONNX Runtime 1.31 does on a CPU, measured by its peak memory on single nodes: views take
nothing, an elementwise node writes over an input that nobody else reads, Attention holds all its
scores, or with Edgereel's kernels copies of what it reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import sympy
from numpy.typing import NDArray

from edgereel.plan import TensorSpec

__all__ = ["Bytes", "Inside", "Sizes", "activations", "monomials"]

Bytes = dict[str, float]  # a product of symbols -> how many bytes of it

_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
_IN_PLACE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Relu", "Sigmoid", "Tanh", "Clip", "Softmax", "Neg", "Abs")
) | {"Sqrt", "Exp", "Log", "Erf", "Floor", "Ceil", "Round", "Reciprocal"}
_SCALES = (1, 4, 32)  # of an example size: where a peak is looked for


class Inside(NamedTuple):
    """Polynomials of which the largest counts, none if it is 0.

    plain: by standard operators. kernels: with Edgereel's, none if that is no less.
    """

    plain: tuple[Bytes, ...]
    kernels: tuple[Bytes, ...] = ()


def activations(path: Path, inputs: Mapping[str, TensorSpec], example: Mapping[str, int]) -> Inside:
    """Bytes inside the graph while it runs.

    A polynomial is a dict from a product of symbols, such as "F*h*w" ("" = 1), to its factor.
    Division in the sizes of the graph is taken to go even, and a value whose size is no polynomial
    (one that its content decides) counts nothing.

    Args:
        path: the .onnx file, as torch's exporter wrote it.
        inputs: of the graph, with the plan's symbols.
        example: a size of every symbol; peaks are looked for there and at larger sizes.
    """
    model = onnx.load(path, load_external_data=False)
    sizes = Sizes(model.graph, inputs)
    plain = _peaks(_lives(model.graph, sizes, kernels=False), example)
    if not any(node.domain == "edgereel" for node in model.graph.node):
        return Inside(plain)
    less = _peaks(_lives(model.graph, sizes, kernels=True), example)
    return Inside(plain, less if less != plain else ())


class Sizes:
    """The sizes of the values of a graph, in symbols of the plan."""

    def __init__(self, graph: Any, inputs: Mapping[str, TensorSpec]) -> None:
        self._types = {
            value.name: value.type.tensor_type
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._symbols: dict[str, Any] = {}  # torch's name -> the plan's symbol
        self._axes: dict[str, Any] = {}
        self._known: dict[tuple[Any, ...], Bytes] = {}
        for name, spec in inputs.items():
            for dim, size in zip(self._types[name].shape.dim, spec.shape, strict=True):
                if isinstance(size, str) and dim.dim_param:
                    self._symbols[dim.dim_param] = sympy.Symbol(size, integer=True, positive=True)

    def bytes(self, name: str) -> Bytes:
        """Of a value; empty if unknown."""
        return self.product(name, self.shape(name))

    def product(self, name: str, shape: Sequence[Any]) -> Bytes:
        """Bytes of an array of this shape and the type of value `name`."""
        kind = self._types[name].elem_type if name in self._types else 0
        key = (kind, *shape)
        if key not in self._known:
            known = kind and None not in shape
            size = sympy.Mul(_item(kind), *shape) if known else sympy.Integer(0)
            self._known[key] = monomials(size)
        return self._known[key]

    def shape(self, name: str) -> tuple[Any, ...]:
        """Size of every axis: an expression of symbols, or None."""
        if name not in self._types or not self._types[name].HasField("shape"):
            return (None,)
        return tuple(self._axis(dim) for dim in self._types[name].shape.dim)

    def _axis(self, dim: Any) -> Any:
        if not dim.dim_param:
            return sympy.Integer(dim.dim_value) if dim.HasField("dim_value") else None
        if dim.dim_param not in self._axes:
            parsed = sympy.sympify(dim.dim_param, locals=self._symbols)
            self._axes[dim.dim_param] = parsed.replace(sympy.floor, _divided)
        return self._axes[dim.dim_param]


def _divided(ratio: Any) -> Any:
    """floor(ratio) where its symbols are multiples of what they are divided by."""
    constant, rest = sympy.expand(ratio).as_coeff_Add()
    return rest + sympy.floor(constant)


def monomials(size: Any) -> Bytes:
    """The terms of a polynomial; those below 0 are left out, so it is not underestimated."""
    symbols = sorted(size.free_symbols, key=str)
    if not size.is_polynomial(*symbols) or any(not symbol.is_positive for symbol in symbols):
        return {}
    found: Bytes = {}
    for term, factor in sympy.expand(size).as_coefficients_dict().items():
        powers = term.as_powers_dict()
        names = [str(symbol) for symbol in symbols for _ in range(int(powers.get(symbol, 0)))]
        if factor > 0:
            found["*".join(names)] = float(factor)
    return found


def _item(kind: int) -> int:
    """Bytes of one element of an ONNX type."""
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


@dataclass
class _Life:
    """Memory of a value, or of several in turn: from its first to its last node."""

    size: Bytes = field(default_factory=dict)
    first: int = 0
    last: int = 0


def _lives(graph: Any, sizes: Sizes, *, kernels: bool) -> list[_Life]:
    """What takes memory inside a graph, and when."""
    outside = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    last = {name: at for at, node in enumerate(graph.node) for name in _read(node)}
    owners: dict[str, _Life] = {}  # value -> the memory it is in
    lives: list[_Life] = []
    for at, node in enumerate(graph.node):
        if node.op_type == "Constant":
            continue
        beside = _of_a_kernel if kernels and node.domain == "edgereel" else _workspace
        lives.append(_Life(beside(node, sizes), at, at))
        for name in node.output:
            if not name or name in outside:
                continue
            owner = _shared(node, name, at, owners, sizes)
            if owner is None:
                view = node.op_type in _VIEWS  # of what is outside
                owner = _Life({} if view else sizes.bytes(name), at, at)
                lives.append(owner)
            owner.last = max(owner.last, last.get(name, at))
            owners[name] = owner
    return [life for life in lives if life.size]


def _shared(
    node: Any, name: str, at: int, owners: Mapping[str, _Life], sizes: Sizes
) -> _Life | None:
    """The memory of an input that an output is a view of, or that it is written over."""
    if node.op_type in _VIEWS:
        return owners.get(node.input[0])
    if node.op_type in _IN_PLACE:
        for given in node.input:
            owner = owners.get(given)
            if owner is not None and owner.last == at and owner.size == sizes.bytes(name):
                return owner
    return None


def _read(node: Any) -> Iterator[str]:
    """The values a node reads, also inside its branches."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for deeper in inner.node:
                yield from _read(deeper)


def _workspace(node: Any, sizes: Sizes) -> Bytes:
    """What a node takes beside its inputs and outputs."""
    if node.op_type == "TemporalAttention":  # its definition: parts cut out, turned, and scores
        rows, frames, pixels, _ = sizes.shape(node.input[0])
        heads = next(a.i for a in node.attribute if a.name == "heads")
        scores = sizes.product(node.input[0], (rows, pixels, heads, frames, frames))
        parts = sizes.bytes(node.input[0])
        return {name: 2 * parts.get(name, 0) + scores.get(name, 0) for name in parts | scores}
    if node.op_type != "Attention":
        return {}
    query, key = (sizes.shape(name) for name in node.input[:2])
    if len(query) == 3:  # [B, L, heads * D]
        heads = next(a.i for a in node.attribute if a.name == "q_num_heads")
        return sizes.product(node.input[0], (query[0], heads, query[1], key[1]))
    return sizes.product(node.input[0], (*query[:3], key[2]))


def _of_a_kernel(node: Any, sizes: Sizes) -> Bytes:
    """As `_workspace`, of Edgereel's kernels: ONNX Runtime's blocks begin with copies."""
    found: Bytes = {}
    for name in node.input if node.op_type == "Attention" else ():
        for product, factor in sizes.bytes(name).items():
            found[product] = found.get(product, 0) + factor
    return found


def _peaks(lives: Sequence[_Life], example: Mapping[str, int]) -> tuple[Bytes, ...]:
    """What is alive at the nodes where memory peaks, for any of a few sizes."""
    if not lives:
        return ()
    names = sorted({name for life in lives for name in life.size})
    factors = np.array([[life.size.get(name, 0.0) for name in names] for life in lives])
    alive = np.zeros((max(life.last for life in lives) + 2, len(names)))
    np.add.at(alive, [life.first for life in lives], factors)
    np.add.at(alive, [life.last + 1 for life in lives], -factors)
    alive = np.cumsum(alive, axis=0)
    peaks = {
        int(np.argmax(alive @ _evaluated(names, dict(zip(example, sizes, strict=True)))))
        for sizes in itertools.product(*([n * s for s in _SCALES] for n in example.values()))
    }
    rows = np.unique(alive[sorted(peaks)], axis=0)
    kept = [row for row in rows if (rows >= row).all(axis=1).sum() == 1]  # only it is as large
    return tuple(
        {name: round(float(n), 3) for name, n in zip(names, row, strict=True) if n > 0.001}
        for row in kept
    )


def _evaluated(names: Sequence[str], sizes: Mapping[str, int]) -> NDArray[np.float64]:
    """Products of symbols in numbers."""
    products = [[sizes[symbol] for symbol in name.split("*") if symbol] for name in names]
    return np.array([np.prod(np.array(product, np.float64)) for product in products])
