"""The part of a backend that owns buffers, where they are numpy arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from edgereel import host_memory, windows
from edgereel.backends import Array, Buffer

__all__ = ["OnHost"]


class OnHost:
    """Buffers that are arrays; what is asked of them is done at once."""

    loads_ahead = False  # it would take cores from the stage that runs

    def put(self, array: Array) -> Buffer:
        """The array itself, made contiguous."""
        return np.ascontiguousarray(array)

    def get(self, buffer: Buffer) -> Array:
        """The buffer itself: it is an array."""
        return cast(Array, buffer)

    def empty(self, dtype: str, shape: Sequence[int]) -> Buffer:
        """An array with undefined contents."""
        return np.empty(tuple(shape), dtype)

    def copy(self, source: Buffer | Array, target: Buffer) -> None:
        """Copies at once."""
        np.copyto(cast(Array, target), cast(Array, source))

    def is_finite(self, buffer: Buffer) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite(cast(Array, buffer)).all())

    def mixed(self, x: Buffer, c_x: float, z: Array, c_z: float) -> Buffer:
        """`c_x * x + c_z * z`."""
        return cast(Buffer, np.float32(c_x) * cast(Array, x) + np.float32(c_z) * z)

    def cut(self, buffer: Buffer, axis: int, start: int, stop: int) -> Buffer:
        """A part of an axis, made contiguous."""
        part = (*[slice(None)] * axis, slice(start, stop))
        return np.ascontiguousarray(cast(Array, buffer)[part])

    def join(self, whole: Buffer, part: Buffer, axis: int, start: int, done: int) -> None:
        """At once."""
        windows.join(cast(Array, whole), cast(Array, part), axis, start, done)

    def mark(self) -> Any:
        """Now, as no work is left over."""
        return time.perf_counter()

    def seconds(self, start: Any, stop: Any) -> float:
        """By the clock of the host."""
        return float(stop - start)

    def free_memory(self) -> int | None:
        """What the machine can still give."""
        return host_memory.free_memory()
