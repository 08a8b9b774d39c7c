"""Device memory and one stream, through NVIDIA's cuda-python.

A buffer is an address, a shape and a type; its memory is freed when the last view of it is gone.
Everything is queued on one stream, so copies and engines run in the order they were asked for.
The host waits in few places: `Memory.get` and `wait` for all of it, `seconds` for a moment, and
`pace` so that it is never more than two calls ahead of the device.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np

from edgereel.backends import Array
from edgereel.errors import BackendUnavailable, EngineError

__all__ = ["INSTALL", "DeviceBuffer", "Memory", "cuda_python", "runtime_api"]

INSTALL = "pip install cuda-python"
_ALIGNMENT = 256  # of what TensorRT reads and writes, and of every allocation
_CALLS_AHEAD = 2  # one runs, one waits for it: the device never idles, a cancelled loop ends soon


def runtime_api() -> Any:
    """The CUDA runtime functions of cuda-python, whichever layout it has.

    Raises:
        BackendUnavailable: it is not installed.
    """
    return cuda_python("cuda.bindings.runtime", "cuda.cudart")


def cuda_python(*names: str) -> Any:
    """The module of cuda-python that has the first of its names, which are since 12.8, and before.

    Raises:
        BackendUnavailable: it is not installed.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendUnavailable(
        f"cuda-python is not installed; backends trt and ort-cuda need it for device memory. Run "
        f"`{INSTALL}`."
    )


class Cuda:
    """CUDA's functions, as methods that raise EngineError."""

    def __init__(self) -> None:
        self.api = runtime_api()

    def __call__(self, name: str, *values: Any, to: str) -> Any:
        """The result of a function, of several a tuple; `to` says in an error what it was for."""
        error, *results = getattr(self.api, name)(*values)
        if int(error) != 0:
            told = self.api.cudaGetErrorName(error)[1]
            text = told.decode() if isinstance(told, bytes) else str(told)
            raise EngineError(
                f"CUDA failed to {to} ({text}); expected a GPU with enough free memory. Use a "
                "smaller size or chunk, or close other programs that use the GPU."
            )
        return results[0] if len(results) == 1 else tuple(results)


class _Stream:
    """A stream that waits for no other, destroyed after all that was queued on it is freed."""

    def __init__(self, cuda: Cuda) -> None:
        flag = cuda.api.cudaStreamNonBlocking
        self.handle = cuda("cudaStreamCreateWithFlags", flag, to="create a stream")
        weakref.finalize(self, cuda.api.cudaStreamDestroy, self.handle)


class _Block:
    """One allocation, freed with its last view, after the work that was queued before."""

    def __init__(self, memory: Memory, size: int) -> None:
        cuda, stream, words = memory.cuda, memory.queue, f"allocate {size} bytes"
        if memory.pooled:
            self.address = int(cuda("cudaMallocAsync", max(size, 1), stream.handle, to=words))
            weakref.finalize(self, _free, cuda, self.address, stream)
        else:
            self.address = int(cuda("cudaMalloc", max(size, 1), to=words))
            weakref.finalize(self, cuda.api.cudaFree, self.address)


def _free(cuda: Cuda, address: int, stream: _Stream) -> None:
    """Frees in the stream's order; the stream lives at least as long as its blocks."""
    cuda.api.cudaFreeAsync(address, stream.handle)


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

    def at(self, element: int) -> DeviceBuffer:
        """The rest of it, from an element on, in one axis."""
        start = self.address + element * self.dtype.itemsize
        return DeviceBuffer(self.block, start, (prod(self.shape) - element,), self.dtype)

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
        self.cuda = cuda = Cuda()
        cuda("cudaSetDevice", 0, to="use GPU 0")
        pools = cuda.api.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported
        self.pooled = bool(cuda("cudaDeviceGetAttribute", pools, 0, to="tell what GPU 0 can do"))
        self.queue = _Stream(cuda)
        self._pinned = _Pinned(self)
        self._ahead: deque[_Event] = deque()  # an event after each call not known to be over

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self.queue.handle)

    def empty(self, dtype: str, shape: Sequence[int]) -> DeviceBuffer:
        """A buffer with undefined contents."""
        kind = np.dtype(dtype)
        block = _Block(self, prod(shape) * kind.itemsize)
        return DeviceBuffer(block, block.address, tuple(shape), kind)

    def put(self, array: Array) -> DeviceBuffer:
        """A buffer that will hold the array, which may change as soon as this returns."""
        buffer = self.empty(array.dtype.name, array.shape)
        self.copy(array, buffer)
        return buffer

    def copy(self, source: DeviceBuffer | Array, target: DeviceBuffer) -> None:
        """Queues a copy into a buffer; an array may change as soon as this returns."""
        if target.nbytes == 0:
            return
        if isinstance(source, DeviceBuffer):
            self._queue_copy(target.address, source.address, target.nbytes, "DeviceToDevice")
            return
        self._pinned.send(
            np.ascontiguousarray(source),
            lambda address: self._queue_copy(
                target.address, address, target.nbytes, "HostToDevice"
            ),
        )

    def copy_along(
        self, axis: int, source: tuple[DeviceBuffer, int], target: tuple[DeviceBuffer, int], n: int
    ) -> None:
        """Queues a copy of n entries of an axis, each side from its index on; others are equal."""
        (one, start), (two, place) = source, target
        inner = prod(one.shape[axis + 1 :]) * one.dtype.itemsize  # bytes of an entry
        rows, width = prod(one.shape[:axis]), n * inner
        if rows * width == 0:
            return
        self.cuda(
            "cudaMemcpy2DAsync", two.address + place * inner, two.shape[axis] * inner,
            one.address + start * inner, one.shape[axis] * inner, width, rows,
            self.cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice, self.queue.handle, to="copy",
        )  # fmt: skip

    def aligned(self, buffer: DeviceBuffer) -> DeviceBuffer:
        """The buffer, or a copy of a view that begins where an engine may not read."""
        if buffer.address % _ALIGNMENT == 0:
            return buffer
        copied = self.empty(buffer.dtype.name, buffer.shape)
        self.copy(buffer, copied)
        return copied

    def get(self, buffer: DeviceBuffer) -> Array:
        """The contents of a buffer after all queued work; waits for the device."""
        array = np.empty(buffer.shape, buffer.dtype)
        if buffer.nbytes:
            self._queue_copy(array.ctypes.data, buffer.address, buffer.nbytes, "DeviceToHost")
        self.wait()
        return array

    def wait(self) -> None:
        """Until all queued work is done."""
        self.cuda("cudaStreamSynchronize", self.queue.handle, to="finish the queued work")
        self._ahead.clear()
        self._pinned.clear()

    def moment(self, *, timed: bool = False) -> _Event:
        """When all work queued so far is done; a timed one is for `seconds`."""
        api = self.cuda.api
        wanted = api.cudaEventDefault if timed else api.cudaEventDisableTiming
        event = _Event(self.cuda, wanted | api.cudaEventBlockingSync)
        self.cuda("cudaEventRecord", event.handle, self.queue.handle, to="record an event")
        return event

    def seconds(self, start: Any, stop: Any) -> float:
        """Between two timed moments; waits for the later one."""
        self.cuda("cudaEventSynchronize", stop.handle, to="finish the queued work")
        told = self.cuda("cudaEventElapsedTime", start.handle, stop.handle, to="tell a duration")
        return float(told) / 1000

    def pace(self) -> None:
        """To be called after each queued call: waits until only two of them are unfinished."""
        self._ahead.append(self.moment())
        if len(self._ahead) > _CALLS_AHEAD:
            handle = self._ahead.popleft().handle
            self.cuda("cudaEventSynchronize", handle, to="finish the queued work")

    def free(self) -> int:
        """Bytes of the GPU's memory that nothing holds; waits, as pools keep until then."""
        self.cuda("cudaStreamSynchronize", self.queue.handle, to="finish the queued work")
        return int(self.cuda("cudaMemGetInfo", to="tell its free memory")[0])

    def _queue_copy(self, to: int, source: int, size: int, way: str) -> None:
        kind = getattr(self.cuda.api.cudaMemcpyKind, f"cudaMemcpy{way}")
        self.cuda("cudaMemcpyAsync", to, source, size, kind, self.queue.handle, to="copy")


class _Event:
    """A CUDA event, destroyed with its last reference."""

    def __init__(self, cuda: Cuda, flags: int) -> None:
        self.handle = cuda("cudaEventCreateWithFlags", flags, to="create an event")
        weakref.finalize(self, cuda.api.cudaEventDestroy, self.handle)


class _Pinned:
    """Page-locked host memory: only from there a copy to the device does not make the host wait."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._blocks: list[_HostBlock] = []

    def send(self, array: Array, copy: Callable[[int], None]) -> None:
        """Calls `copy` with the address of a copy of the array, which stays until that is done."""
        block = next((b for b in self._blocks if b.size >= array.nbytes and self._over(b)), None)
        if block is None:
            block = _HostBlock(self._memory.cuda, array.nbytes)
            self._blocks.append(block)
        ctypes.memmove(block.address, array.ctypes.data, array.nbytes)
        copy(block.address)
        block.copied = self._memory.moment()

    def clear(self) -> None:
        """Gives the memory back; to be called when nothing is queued."""
        self._blocks.clear()

    def _over(self, block: _HostBlock) -> bool:
        api = self._memory.cuda.api
        return block.copied is None or int(api.cudaEventQuery(block.copied.handle)[0]) == 0


class _HostBlock:
    """Page-locked memory of a size in bytes."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.size, self.copied = size, cast("_Event | None", None)
        self.address = int(cuda("cudaMallocHost", size, to=f"allocate {size} bytes of host memory"))
        weakref.finalize(self, cuda.api.cudaFreeHost, self.address)
