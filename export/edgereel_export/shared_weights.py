"""Keeps every weight of a cascade folder once, however many of its graphs use it.

A cascade often has one network in several graphs: with and without temporal layers, with and
without a ControlNet. Each tensor is stored by its bytes: a graph that needs one that an earlier
graph has stored points into that graph's weight file instead of having its own copy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import onnx
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

__all__ = ["SharedWeights"]

_PAGE = 4096  # a large tensor begins at one, so that it can be mapped into memory


class _Place(NamedTuple):
    file: str
    offset: int
    length: int


class SharedWeights:
    """The weights that the graphs of one folder have stored so far."""

    def __init__(self) -> None:
        self._known: dict[str, _Place] = {}  # by sha256 of the bytes

    def share(self, path: Path) -> tuple[str, ...]:
        """Weight files of a graph, own first, after its copies of known weights were dropped.

        Args:
            path: the .onnx file; its external weights, if any, are beside it in <name>.onnx.data,
                which is written anew with what only this graph has, or deleted if that is nothing.
        """
        own = path.with_name(path.name + ".data")
        if not own.exists():
            return ()
        model = onnx.load(path, load_external_data=False)
        fresh = own.with_suffix(".part")
        used: dict[str, None] = {}
        with own.open("rb") as source, fresh.open("wb") as target:
            for tensor in model.graph.initializer:
                if not uses_external_data(tensor):
                    continue
                info = ExternalDataInfo(tensor)
                source.seek(info.offset or 0)
                data = source.read(info.length)
                place = self._place(data, own.name, target)
                tensor.raw_data = b""  # set_external_data expects the field to be there
                set_external_data(tensor, place.file, place.offset, place.length)
                tensor.ClearField("raw_data")
                used[place.file] = None
        fresh.replace(own)
        if own.name not in used:
            own.unlink()
        onnx.save(model, path)
        return tuple(sorted(used, key=lambda name: name != own.name))

    def _place(self, data: bytes, name: str, file: BinaryIO) -> _Place:
        """Where these bytes are; written to the end of `file` if they are new."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self._known:
            unit = _PAGE if len(data) >= 16 * _PAGE else 64
            file.write(b"\0" * (-file.tell() % unit))
            self._known[key] = _Place(name, file.tell(), len(data))
            file.write(data)
        return self._known[key]
