"""What is computed on values between graphs where they are in device memory: device_ops.ptx.

The driver compiles it for its GPU when it is first needed, so it fits every one since Turing.
"""

from __future__ import annotations

import ctypes
from importlib import resources
from math import prod
from typing import Any

import numpy as np

from edgereel import windows
from edgereel.backends.cuda import DeviceBuffer, Memory, cuda_python
from edgereel.errors import EngineError

__all__ = ["DeviceOps", "driver_api"]

_THREADS, _MOST_BLOCKS = 256, 4096  # a thread takes as many elements as it must
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_longlong  # what kernels take


def driver_api() -> Any:
    """The CUDA driver's functions of cuda-python, whichever layout it has.

    Raises:
        BackendUnavailable: it is not installed.
    """
    return cuda_python("cuda.bindings.driver", "cuda.cuda")


class DeviceOps:
    """The kernels, queued on the stream of a memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._kernels: dict[str, Any] = {}

    def is_finite(self, x: DeviceBuffer) -> bool:
        """Whether all numbers of a float32 buffer are finite; waits for that one answer."""
        count, found = prod(x.shape), self._memory.put(np.zeros(1, np.int32))
        self._run("find_not_finite", count, (found.address, x.address), (count,))
        return int(self._memory.get(found)[0]) == 0

    def mixed(self, x: DeviceBuffer, c_x: float, z: DeviceBuffer, c_z: float) -> DeviceBuffer:
        """`c_x * x + c_z * z`, f32, both of one shape."""
        out, size = self._memory.empty("float32", x.shape), prod(x.shape)
        factors = [self._memory.put(np.array([c], np.float32)) for c in (c_x, c_z)]
        self._mix((out, x, z), factors, (size, size, 1, size, size))
        return out

    def cut(self, buffer: DeviceBuffer, axis: int, start: int, stop: int) -> DeviceBuffer:
        """The entries start to stop of an axis; of axis 0 a view."""
        if axis == 0:
            return buffer[start:stop]
        shape = (*buffer.shape[:axis], stop - start, *buffer.shape[axis + 1 :])
        part = self._memory.empty(buffer.dtype.name, shape)
        self._memory.copy_along(axis, (buffer, start), (part, 0), stop - start)
        return part

    def join(
        self, whole: DeviceBuffer, part: DeviceBuffer, axis: int, start: int, done: int
    ) -> None:
        """As `windows.join`, of float32 and uint8."""
        count, length = max(done - start, 0), part.shape[axis]
        self._memory.copy_along(axis, (part, count), (whole, start + count), length - count)
        if count == 0:
            return
        outer, inner = prod(part.shape[:axis]), prod(part.shape[axis + 1 :])
        old = whole.at(start * inner)
        factors = [self._memory.put(weight) for weight in windows.fade(count)]
        strides = whole.shape[axis] * inner, length * inner
        self._mix((old, old, part), factors, (*strides, count, inner, outer * count * inner))

    def _mix(
        self,
        buffers: tuple[DeviceBuffer, DeviceBuffer, DeviceBuffer],
        factors: list[DeviceBuffer],
        sizes: tuple[int, int, int, int, int],
    ) -> None:
        """out[o, j, k] = a[j] * x[o, j, k] + b[j] * y[o, j, k].

        Args:
            buffers: out, x and y.
            factors: a and b, f32 [length].
            sizes: elements between one o and the next in out and x, and in y; length; inner; all.
        """
        addresses = tuple(buffer.address for buffer in (*buffers, *factors))
        self._run(f"mix_{buffers[0].dtype.name}", sizes[-1], addresses, sizes)

    def _run(
        self, name: str, count: int, addresses: tuple[int, ...], sizes: tuple[int, ...]
    ) -> None:
        """Queues a kernel for `count` elements."""
        if count == 0:
            return
        blocks = min(-(-count // _THREADS), _MOST_BLOCKS)
        types = (_POINTER,) * len(addresses) + (_NUMBER,) * len(sizes)
        grid, block = (blocks, 1, 1), (_THREADS, 1, 1)
        values = (addresses + sizes, types)
        self._call(
            "cuLaunchKernel", self._kernel(name), *grid, *block, 0, self._memory.stream, values, 0
        )

    def _kernel(self, name: str) -> Any:
        if not self._kernels:  # the thread has CUDA's context by now: it made a buffer before
            code = resources.files(__package__).joinpath("device_ops.ptx").read_bytes() + b"\0"
            module = self._call("cuModuleLoadData", code)
            for kernel in ("find_not_finite", "mix_float32", "mix_uint8"):
                self._kernels[kernel] = self._call("cuModuleGetFunction", module, kernel.encode())
        return self._kernels[name]

    def _call(self, name: str, *values: Any) -> Any:
        error, *results = getattr(driver_api(), name)(*values)
        if int(error) != 0:
            raise EngineError(
                f"CUDA failed in {name} (error {int(error)}); expected a GPU of compute "
                f"capability 7.5 or later and a driver for it. Update NVIDIA's driver."
            )
        return results[0] if results else None
