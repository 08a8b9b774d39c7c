"""The kernels of an engine, read from what TensorRT says while it builds.

Its engine inspector says the same, but opens the engine for that, which takes a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

__all__ = ["Kernel", "Tensor", "kernels", "layout_between", "traffic_bytes"]

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: \[(?P<reads>.*?)\], "
    r"Constants: \[.*?\], Outputs: \[(?P<writes>.*?)\], Tactic.*?Metadata: (?P<nodes>.*)"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_FUSED = re.compile(r"__myl_(\w+?)_myl")
_BYTES = {"Half": 2, "BFloat16": 2, "Float": 4, "Int32": 4, "Int64": 8}
_LAYOUT = frozenset({"Move", "Resh", "Tran"})  # what moves numbers and computes none


@dataclass(frozen=True)
class Tensor:
    """What a kernel reads or writes."""

    name: str
    shape: tuple[int, ...]  # a size that only a call decides is negative
    bytes: int


@dataclass(frozen=True)
class Kernel:
    """One kernel of an engine."""

    name: str
    kind: str
    reads: tuple[Tensor, ...]  # without weights
    writes: tuple[Tensor, ...]
    nodes: tuple[str, ...]  # of the ONNX graph that it computes

    @property
    def bytes(self) -> int:
        """What it reads and writes, weights left out."""
        return sum(tensor.bytes for tensor in (*self.reads, *self.writes))

    @property
    def only_layout(self) -> bool:
        """Whether it moves numbers and computes none."""
        fused = _FUSED.match(self.name)
        parts = set(re.findall(r"[A-Z][a-z0-9]*", fused[1])) if fused and self.reads else set()
        return bool(parts) and parts <= _LAYOUT

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution."""
        return self.kind == "correlation"


def kernels(text: str) -> tuple[Kernel, ...]:
    """The kernels in the message of TensorRT that begins with "Layers:", in the order they run."""
    return tuple(
        Kernel(
            name=found["name"],
            kind=found["kind"],
            reads=tuple(_tensors(found["reads"])),
            writes=tuple(_tensors(found["writes"])),
            nodes=tuple(_NODE.findall(found["nodes"])),
        )
        for found in map(_LINE.match, text.splitlines())
        if found is not None
    )


def _tensors(text: str) -> Iterator[Tensor]:
    for name, sizes, kind in _TENSOR.findall(text):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        yield Tensor(name, shape, abs(prod(shape)) * _BYTES.get(kind, 1))


def traffic_bytes(found: Sequence[Kernel]) -> int:
    """What all kernels together read and write, as if no cache helped."""
    return sum(kernel.bytes for kernel in found)


def layout_between(found: Sequence[Kernel]) -> list[Kernel]:
    """Kernels of pure layout whose input a convolution wrote and whose output one reads."""
    makers = {tensor.name: kernel for kernel in found for tensor in kernel.writes}
    readers: dict[str, list[Kernel]] = {}
    for kernel in found:
        for tensor in kernel.reads:
            readers.setdefault(tensor.name, []).append(kernel)
    return [
        kernel
        for kernel in found
        if kernel.only_layout
        and any(makers[t.name].convolves for t in kernel.reads if t.name in makers)
        and any(reader.convolves for t in kernel.writes for reader in readers.get(t.name, ()))
    ]
