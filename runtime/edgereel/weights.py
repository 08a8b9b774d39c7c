"""Counts the weights of an ONNX file by reading its protobuf directly; the runtime has no onnx.

Field numbers are those of onnx.proto (ModelProto.graph 7, GraphProto.initializer 5,
TensorProto.dims 1 and data_type 2). Weight bytes are skipped, so large files cost nothing.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

__all__ = ["weights"]

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_DIMS, _TENSOR_DTYPE = 7, 5, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Only floating point counts as a weight; integer initializers are shapes and indices.
_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16", 17: "float8", 19: "float8"}


def weights(path: Path) -> dict[str, int]:
    """The number of floating-point weights by dtype, inside the file or in its data files.

    Raises:
        ValueError: the file is not a protobuf message.
    """
    counts: dict[str, int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, end in _messages(data, 0, len(data), _MODEL_GRAPH):
            for tensor in _messages(data, start, end, _GRAPH_INITIALIZER):
                size, dtype = _tensor(data, *tensor)
                if dtype in _FLOATS:
                    name = _FLOATS[dtype]
                    counts[name] = counts.get(name, 0) + size
    return counts


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Number of elements and dtype of a TensorProto."""
    dims: list[int] = []
    dtype = 0
    for number, wire, value, at in _fields(data, start, end):
        if number == _TENSOR_DTYPE:
            dtype = value
        elif number == _TENSOR_DIMS and wire == _VARINT:
            dims.append(value)
        elif number == _TENSOR_DIMS:  # packed: a run of varints
            stop = at + value
            while at < stop:
                dim, at = _varint(data, at)
                dims.append(dim)
    return math.prod(dims), dtype


def _messages(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where each length-delimited field `wanted` lies."""
    for number, wire, value, at in _fields(data, start, end):
        if number == wanted and wire == _BYTES:
            yield at, at + value


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, value (or length) and where its bytes start, one per field."""
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        size = {_FIXED64: 8, _FIXED32: 4, _VARINT: 0}.get(wire, 0)
        value = 0
        if wire in (_VARINT, _BYTES):
            value, at = _varint(data, at)
            size = value if wire == _BYTES else 0
        elif wire not in (_FIXED64, _FIXED32):
            raise ValueError(f"wire type {wire} at byte {at} is not protobuf")
        yield number, wire, value, at
        at += size
    if at != end:
        raise ValueError(f"a field ends at byte {at}, past its message's end {end}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A base-128 number and where the next byte is."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"the number at byte {at} does not end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
