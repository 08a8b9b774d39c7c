"""How much arithmetic and memory traffic one call of a graph is, as polynomials in its symbols.

Counted are convolutions, products of matrices and attention, as torch.utils.flop_counter does:
a multiplication and an addition are 2. Their traffic is what they read and write, weights
included, each once; everything else of a network can be fused into them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import onnx
import sympy

from edgereel.plan import TensorSpec
from edgereel_export.activations import Bytes, Sizes, monomials

__all__ = ["Work", "work"]


class Work(NamedTuple):
    """Of one call: product of symbols -> factor."""

    flops: dict[str, float]
    traffic: dict[str, float]  # bytes


def work(path: Path, inputs: dict[str, TensorSpec]) -> Work:
    """What one call of the graph in an .onnx file is, as torch's exporter wrote it.

    Args:
        path: the file.
        inputs: of the graph, with the plan's symbols.
    """
    model = onnx.load(path, load_external_data=False)
    sizes = Sizes(model.graph, inputs)
    flops: dict[str, float] = {}
    traffic: dict[str, float] = {}
    for node in model.graph.node:
        number = _flops(node, sizes)
        if number is not None:
            _add(flops, monomials(number))
            for name in (*node.input, *node.output):
                _add(traffic, sizes.bytes(name))
    return Work(_rounded(flops), _rounded(traffic))


def _flops(node: Any, sizes: Sizes) -> Any:
    """Of a node that counts, an expression; None of one that does not, or whose sizes are open."""
    count = _COUNTS.get(node.op_type)
    if count is None:
        return None
    number = count(node, sizes)
    return None if number is None else sympy.sympify(number)


def _product(shape: tuple[Any, ...]) -> Any:
    return None if None in shape else sympy.Mul(*shape)


def _convolution(node: Any, sizes: Sizes) -> Any:
    """Every element of the larger side meets a kernel of all channels of its group."""
    whole = sizes.shape(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    kernel = sizes.shape(node.input[1])[1:]  # of one channel of that side
    return None if None in (*whole, *kernel) else 2 * _product(whole) * _product(kernel)


def _matrices(node: Any, sizes: Sizes) -> Any:
    inner = sizes.shape(node.input[0])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    out, width = _product(sizes.shape(node.output[0])), inner[0 if turned else -1]
    return None if out is None or width is None else 2 * out * width


def _attention(node: Any, sizes: Sizes) -> Any:
    """Scores and their product with the values; heads share both widths."""
    query, key, value = (sizes.shape(name) for name in node.input[:3])
    if None in (*query, *key, *value):
        return None
    if len(query) == 3:  # [B, L, heads * D]
        return 2 * query[0] * query[1] * key[1] * (query[2] + value[2])
    return 2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


def _over_frames(node: Any, sizes: Sizes) -> Any:
    """TemporalAttention: [B, F, S, C] out, F frames to F frames at every pixel, twice."""
    out = sizes.shape(node.output[0])
    if len(out) != 4 or None in out:
        out = (*sizes.shape(node.input[0])[:3], sizes.shape(node.input[0])[3] / 3)
    return 4 * _product(out) * out[1]


_COUNTS = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MatMul": _matrices,
    "Gemm": _matrices,
    "Attention": _attention,
    "TemporalAttention": _over_frames,
}


def _add(total: dict[str, float], more: Bytes) -> None:
    for name, factor in more.items():
        total[name] = total.get(name, 0.0) + factor


def _rounded(terms: dict[str, float]) -> dict[str, float]:
    return {name: round(factor, 3) for name, factor in sorted(terms.items())}
