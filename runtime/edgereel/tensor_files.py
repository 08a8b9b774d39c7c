"""Reads .safetensors files: a JSON header, then the numbers of every tensor one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError

__all__ = ["read_metadata", "read_tensors"]

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MOST_HEADER_BYTES = 100 << 20  # as the format's own reader


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Every floating-point tensor of a file as f32, by name.

    Raises:
        InputError: the file cannot be read or is no .safetensors file.
    """
    with _told(path):
        return dict(_tensors(path))


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says besides its tensors.

    Raises:
        InputError: the file cannot be read or is no .safetensors file.
    """
    with _told(path):
        return {name: str(text) for name, text in _header(path)[0].get("__metadata__", {}).items()}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says of a file that it cannot be used, whatever is wrong with it."""
    try:
        yield
        return
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error)
    raise InputError(
        f"{path}: cannot be read as weights ({reason}); expected a .safetensors file. Correct the "
        "path, or write the weights anew."
    )


def _header(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The header, and the bytes behind it."""
    data = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 2 <= length <= min(_MOST_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header would be {length} bytes long")
    return json.loads(data[8 : 8 + length].tobytes()), data[8 + length :]


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    header, data = _header(path)
    for name, facts in header.items():
        if name == "__metadata__" or facts["dtype"] not in _TYPES:
            continue
        start, end = map(int, facts["data_offsets"])
        kind, shape = np.dtype(_TYPES[facts["dtype"]]), [int(size) for size in facts["shape"]]
        if not 0 <= start <= end <= len(data) or end - start != prod(shape) * kind.itemsize:
            raise ValueError(f"tensor {name} does not lie in it")
        numbers = np.frombuffer(data[start:end].tobytes(), kind)
        if facts["dtype"] == "BF16":  # the upper half of a float32
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        yield name, numbers.astype(np.float32).reshape(shape)
