"""One compiled engine: binding, memory to work in, and CUDA graphs of calls that come again.

A sampling loop calls an engine with two sets of addresses in turn. The first call of a set is
queued kernel by kernel, the second is captured as a CUDA graph, all later ones replay it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from edgereel import builds
from edgereel.backends import Buffer
from edgereel.backends.cuda import DeviceBuffer, Memory
from edgereel.backends.trt_refit import Refitting
from edgereel.errors import EngineError

__all__ = ["Arena", "Engine", "Opened"]

_GRAPHS = 4  # kept of one profile, twice what a loop needs
_SEEN = 16  # calls remembered that no graph was made of yet

Place = tuple[str, int, tuple[int, ...]]  # input or output, its address, its shape


class Arena:
    """The memory that engines work in: one block for all, as they run one after the other."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._block: DeviceBuffer | None = None

    def at_least(self, size: int) -> DeviceBuffer:
        """A block of that many bytes or more; another one than before if that was too small."""
        if self._block is None or self._block.nbytes < size:
            self._block = None  # given back before the larger one is asked for
            self._block = self._memory.empty("uint8", (max(size, 1),))
        return self._block


@dataclass(frozen=True)
class Opened:
    """What an engine runs with."""

    engine: Any  # ICudaEngine
    make_context: Callable[[Any], Any]  # a context without memory of its own, or None
    record: builds.Engine
    memory: Memory
    arena: Arena
    refitting: Callable[[], Refitting]  # of its weights


class Engine:
    """One compiled graph, with one execution context per profile that was needed so far."""

    def __init__(self, opened: Opened, graph: str) -> None:
        self.sha256, self.precision = opened.record.sha256, opened.record.precision
        self._opened, self._graph = opened, graph
        self._contexts: dict[int, _Context] = {}
        self._refitting: Refitting | None = None

    def weights(self) -> Refitting:
        """What replaces weights, once all calls are done; they are captured anew after this.

        Raises:
            EngineError: it was not compiled for that.
        """
        if self._refitting is None:
            self._refitting = self._opened.refitting()
        self._opened.memory.wait()
        for context in self._contexts.values():
            context.forget()
        return self._refitting

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Queues one call; outputs are filled when the stream gets there."""
        memory = self._opened.memory
        inputs = {n: memory.aligned(cast(DeviceBuffer, b)) for n, b in inputs.items()}
        index = self._profile(inputs)
        if index not in self._contexts:
            self._contexts[index] = _Context(self._opened, self._graph, index)
        self._contexts[index].run(inputs, outputs)
        memory.pace()

    def _profile(self, inputs: Mapping[str, Buffer]) -> int:
        """The first profile that takes these shapes."""
        profiles = self._opened.record.profiles
        for index, profile in enumerate(profiles):
            if all(
                len(buffer.shape) == len(profile[name][0])
                and all(
                    low <= size <= high
                    for low, size, high in zip(
                        profile[name][0], buffer.shape, profile[name][2], strict=True
                    )
                )
                for name, buffer in inputs.items()
            ):
                return index
        given = ", ".join(f"{name} {list(b.shape)}" for name, b in inputs.items())
        known = " or ".join(
            ", ".join(f"{name} {list(spans[2])}" for name, spans in profile.items())
            for profile in profiles
        )
        raise EngineError(
            f"graph {self._graph}: no profile takes {given}; its engine was compiled for {known}. "
            "Use one of those, or compile again with `--profile PARAM=SIZES` or `--bucket FxHxW`."
        )


class _Context:
    """An engine's state for one profile."""

    def __init__(self, opened: Opened, graph: str, index: int) -> None:
        self._memory, self._arena, self._graph = opened.memory, opened.arena, graph
        self._context = context = opened.make_context(opened.engine)
        stream = self._memory.stream
        if context is None or not context.set_optimization_profile_async(index, stream):
            raise EngineError(
                f"graph {graph}: TensorRT cannot prepare profile {index}; expected about "
                f"{opened.record.activation_bytes >> 20} MiB of free GPU memory. Free some, or "
                "use a smaller size."
            )
        self._size = int(opened.engine.get_device_memory_size_for_profile_v2(index))
        self._bound: dict[str, Place] = {}
        self._work = 0  # address of the arena's block it was given
        self._seen: set[tuple[Place, ...]] = set()
        self._graphs: dict[tuple[Place, ...], _CudaGraph] = {}
        self._capturable = True

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        call = tuple(
            (name, tensor.address, tensor.shape)
            for name, tensor in cast("Mapping[str, DeviceBuffer]", {**inputs, **outputs}).items()
        )
        block = self._arena.at_least(self._size)
        if block.address != self._work:
            self._context.set_device_memory(block.address, block.nbytes)
            self._work = block.address
            self.forget()
        if call in self._graphs:
            self._graphs[call].launch()
            return
        self._bind(call, inputs)
        if self._capturable and call in self._seen and self._capture(call):
            self._graphs[call].launch()
            return
        self._queue()
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen.add(call)

    def forget(self) -> None:
        """Graphs hold for the shapes and the memory they were captured with."""
        self._seen.clear()
        self._graphs.clear()

    def _bind(self, call: tuple[Place, ...], inputs: Mapping[str, Buffer]) -> None:
        """Binds what moved: that costs about a millisecond each time."""
        for place in call:
            name, address, shape = place
            _, old, old_shape = self._bound.get(name, (name, 0, None))
            if shape != old_shape:
                self.forget()
                if name in inputs:
                    self._context.set_input_shape(name, shape)
            if address != old:
                self._context.set_tensor_address(name, address)
            self._bound[name] = place

    def _queue(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise EngineError(
                f"graph {self._graph}: TensorRT failed to queue it; expected inputs as in "
                "plan.json and enough free GPU memory. Use a smaller size or chunk, or compile "
                "the engines again."
            )

    def _capture(self, call: tuple[Place, ...]) -> bool:
        """Whether the bound call could be captured; one that cannot is never tried again."""
        cuda, stream = self._memory.cuda, self._memory.stream
        asked = getattr(self._context, "is_stream_capturable", None)  # of TensorRT-RTX
        if asked is not None and not asked(stream):
            self._capturable = False
            return False
        # Of this thread only: another one may be loading an engine.
        mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda("cudaStreamBeginCapture", stream, mode, to="begin a CUDA graph")
        queued = self._context.execute_async_v3(stream)
        error, graph = cuda.api.cudaStreamEndCapture(stream)
        self._capturable = bool(queued) and int(error) == 0
        if self._capturable:
            if len(self._graphs) >= _GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[call] = _CudaGraph(self._memory, graph)
        return self._capturable


class _CudaGraph:
    """A captured call."""

    def __init__(self, memory: Memory, graph: Any) -> None:
        self._memory, cuda = memory, memory.cuda
        self._graph = cuda("cudaGraphInstantiate", graph, 0, to="make a CUDA graph")
        cuda("cudaGraphDestroy", graph, to="drop what a CUDA graph was made of")
        weakref.finalize(self, cuda.api.cudaGraphExecDestroy, self._graph)

    def launch(self) -> None:
        self._memory.cuda("cudaGraphLaunch", self._graph, self._memory.stream, to="replay a graph")
