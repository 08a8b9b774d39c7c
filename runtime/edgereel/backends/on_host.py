"""Values in the host's memory: numpy arrays as buffers, for backends that run on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from edgereel import host_memory, windows
from edgereel.backends import Array, Buffer, Footprint
from edgereel.errors import EngineError
from edgereel.plan import GraphSpec

__all__ = ["OnHost", "check_declaration", "give_back"]


class OnHost:
    """What backends on the CPU have in common; what is asked of buffers is done at once."""

    loads_ahead = False  # it would take cores from the stage that runs
    has_kernels = False

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

    def free_scratch(self) -> bool:
        """Nothing is given back."""
        return False

    def mark(self) -> Any:
        """Now, as no work is left over."""
        return time.perf_counter()

    def seconds(self, start: Any, stop: Any) -> float:
        """By the clock of the host."""
        return float(stop - start)

    def free_memory(self) -> int | None:
        """What the machine can still give."""
        return host_memory.free_memory()

    def footprint(self, graph: str) -> Footprint | None:
        """What the exporter worked out is right."""
        return None

    def done(self) -> None:
        """Nothing to do."""


def give_back() -> None:
    """Returns memory that was freed to the system, which glibc keeps otherwise.

    Loading brings weights of convolutions into another order: 193 MB of them left 371 MB in use,
    199 MB after this.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def check_declaration(spec: GraphSpec, side: str, found: Mapping[str, tuple[str, int]]) -> None:
    """Raises EngineError unless a file's inputs or outputs are those of its spec.

    Args:
        spec: of the graph.
        side: "inputs" or "outputs".
        found: dtype and rank of the file's, by name.
    """
    declared = {name: (t.dtype, len(t.shape)) for name, t in getattr(spec, side).items()}
    if found != declared:
        raise EngineError(
            f"{spec.file}: its {side} are {_words(found)}; expected {_words(declared)} as "
            f"plan.json says. Export the cascade again."
        )


def _words(tensors: Mapping[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name} {dtype} rank {rank}" for name, (dtype, rank) in tensors.items())
