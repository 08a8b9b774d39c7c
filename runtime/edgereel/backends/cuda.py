"""Device memory and one stream, through NVIDIA's cuda-python.

A buffer is an address, a shape and a type; its memory is freed when the last view of it is gone.
Everything is queued on one stream, so copies and engines run in the order they were asked for and
only `Memory.get` waits for the device.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np

from edgereel.backends import Array, Buffer
from edgereel.errors import BackendUnavailable, EngineError

__all__ = ["INSTALL", "DeviceBuffer", "Memory", "OnDevice", "runtime_api"]

INSTALL = "pip install cuda-python"


def runtime_api() -> Any:
    """The CUDA runtime functions of cuda-python, whichever layout it has.

    Raises:
        BackendUnavailable: it is not installed.
    """
    for name in ("cuda.bindings.runtime", "cuda.cudart"):  # since 12.8, and before
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendUnavailable(
        f"cuda-python is not installed; backends trt and ort-cuda need it for device memory. Run "
        f"`{INSTALL}`."
    )


class _Block:
    """One allocation, freed with its last view."""

    def __init__(self, api: Any, size: int) -> None:
        (self.address,) = _done(api, api.cudaMalloc(max(size, 1)), f"allocate {size} bytes")
        self.address = int(self.address)
        weakref.finalize(self, api.cudaFree, self.address)


@dataclass(frozen=True)
class DeviceBuffer:
    """An array in device memory, C order."""

    block: _Block
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: int | slice) -> DeviceBuffer:
        """The view `buffer[i]` (axis 0 gone) or `buffer[a:b]`."""
        row = prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step != 1:
                raise IndexError(f"a slice of a device buffer has step 1, this one {step}")
            shape: tuple[int, ...] = (max(stop - start, 0), *self.shape[1:])
        else:
            start, shape = range(self.shape[0])[index], self.shape[1:]
        return DeviceBuffer(self.block, self.address + start * row, shape, self.dtype)


class Memory:
    """Buffers of the first GPU and the stream that all work is queued on."""

    def __init__(self) -> None:
        self._api = runtime_api()
        _done(self._api, self._api.cudaSetDevice(0), "use GPU 0")
        (self.stream,) = _done(self._api, self._api.cudaStreamCreate(), "create a stream")
        self._copying: list[Array] = []  # host arrays the device may still be reading

    def empty(self, dtype: str, shape: Sequence[int]) -> DeviceBuffer:
        """A buffer with undefined contents."""
        kind = np.dtype(dtype)
        block = _Block(self._api, prod(shape) * kind.itemsize)
        return DeviceBuffer(block, block.address, tuple(shape), kind)

    def put(self, array: Array) -> DeviceBuffer:
        """A buffer that will hold `array` when the work queued after it runs."""
        array = np.ascontiguousarray(array)
        buffer = self.empty(array.dtype.name, array.shape)
        self._copy(buffer.address, array.ctypes.data, buffer.nbytes, "cudaMemcpyHostToDevice")
        self._copying.append(array)
        return buffer

    def get(self, buffer: DeviceBuffer) -> Array:
        """The contents of a buffer after all queued work; waits for the device."""
        array = np.empty(buffer.shape, buffer.dtype)
        self._copy(array.ctypes.data, buffer.address, buffer.nbytes, "cudaMemcpyDeviceToHost")
        _done(self._api, self._api.cudaStreamSynchronize(self.stream), "finish the queued work")
        self._copying.clear()
        return array

    def free(self) -> int:
        """Bytes of the GPU's memory that nothing holds yet."""
        free, _ = _done(self._api, self._api.cudaMemGetInfo(), "tell its free memory")
        return int(free)

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        if size:
            way = getattr(self._api.cudaMemcpyKind, kind)
            _done(self._api, self._api.cudaMemcpyAsync(to, source, size, way, self.stream), "copy")


class OnDevice:
    """The part of a backend that owns buffers, where they are in device memory."""

    _memory: Memory

    def put(self, array: Array) -> Buffer:
        """A device buffer that will hold the array."""
        return self._memory.put(array)

    def get(self, buffer: Buffer) -> Array:
        """The contents of a device buffer, once all queued work is done."""
        return self._memory.get(cast(DeviceBuffer, buffer))

    def empty(self, dtype: str, shape: Sequence[int]) -> Buffer:
        """A device buffer with undefined contents."""
        return self._memory.empty(dtype, shape)


def _done(api: Any, result: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """The values of a CUDA call; cuda-python returns (error, *values)."""
    error, *values = result
    if int(error) != 0:
        name = api.cudaGetErrorName(error)[1]
        text = name.decode() if isinstance(name, bytes) else str(name)
        raise EngineError(
            f"CUDA failed to {what} ({text}); expected a GPU with enough free memory. Use a "
            "smaller size or chunk, or close other programs that use the GPU."
        )
    return tuple(values)
