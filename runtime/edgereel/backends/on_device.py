"""The part of a backend that owns buffers, where they are in device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from edgereel.backends import Array, Buffer
from edgereel.backends.cuda import DeviceBuffer, Memory
from edgereel.backends.device_ops import DeviceOps

__all__ = ["OnDevice"]


class OnDevice:
    """Buffers in the memory of the first GPU; what is asked of them is queued on one stream."""

    loads_ahead = True  # the host is idle while the device works
    has_kernels = False

    def _take_memory(self) -> None:
        """To be called when the backend is made."""
        self._memory = Memory()
        self._ops = DeviceOps(self._memory)

    def put(self, array: Array) -> Buffer:
        """A device buffer that will hold the array."""
        return self._memory.put(array)

    def get(self, buffer: Buffer) -> Array:
        """The contents of a device buffer, once all queued work is done."""
        return self._memory.get(cast(DeviceBuffer, buffer))

    def empty(self, dtype: str, shape: Sequence[int]) -> Buffer:
        """A device buffer with undefined contents."""
        return self._memory.empty(dtype, shape)

    def copy(self, source: Buffer | Array, target: Buffer) -> None:
        """Queues a copy."""
        self._memory.copy(cast("DeviceBuffer | Array", source), cast(DeviceBuffer, target))

    def is_finite(self, buffer: Buffer) -> bool:
        """Whether all numbers are finite, found on the device."""
        return self._ops.is_finite(cast(DeviceBuffer, buffer))

    def mixed(self, x: Buffer, c_x: float, z: Array, c_z: float) -> Buffer:
        """`c_x * x + c_z * z`, z copied to the device."""
        return self._ops.mixed(cast(DeviceBuffer, x), c_x, self._memory.put(z), c_z)

    def cut(self, buffer: Buffer, axis: int, start: int, stop: int) -> Buffer:
        """A view of axis 0, a copy of a part of another."""
        return self._ops.cut(cast(DeviceBuffer, buffer), axis, start, stop)

    def join(self, whole: Buffer, part: Buffer, axis: int, start: int, done: int) -> None:
        """On the device."""
        values = cast(DeviceBuffer, whole), cast(DeviceBuffer, part)
        self._ops.join(*values, axis, start, done)

    def free_scratch(self) -> bool:
        """Nothing is given back: it is where captured work has it."""
        return False

    def mark(self) -> Any:
        """An event of the device."""
        return self._memory.moment(timed=True)

    def seconds(self, start: Any, stop: Any) -> float:
        """By the device's clock."""
        return self._memory.seconds(start, stop)

    def free_memory(self) -> int | None:
        """What the GPU can still give."""
        return self._memory.free()
