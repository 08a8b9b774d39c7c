"""What the interpreter needs of an inference library, and the list of libraries.

A backend owns buffers and loads graphs; an engine is one loaded graph. A new backend is one file
here and one line in BACKENDS; its class is made with `(plan, threads, kernels)` and offers

    unusable(plan) -> str | None    why it cannot run this cascade here, or None (needs no object)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import BackendUnavailable, InputError
from edgereel.plan import GraphSpec, Plan

__all__ = ["AUTO", "BACKENDS", "Array", "Backend", "Buffer", "Engine", "Footprint", "choose"]

Array: TypeAlias = NDArray[Any]

BACKENDS = {
    "trt": "edgereel.backends.trt:Trt",
    "ort-cuda": "edgereel.backends.ort_cuda:OrtCuda",
    "ort": "edgereel.backends.ort:Ort",
    "openvino": "edgereel.backends.openvino:OpenVino",
    "openvino-bf16": "edgereel.backends.openvino:OpenVinoBf16",
    "ort-tensorrt": "edgereel.backends.ort_cuda:OrtTensorrt",
    "ort-tensorrt-rtx": "edgereel.backends.ort_cuda:OrtTensorrtRtx",
}
AUTO = ("trt", "ort-cuda", "ort")
"""What "auto" tries, in this order."""


class Buffer(Protocol):
    """Memory of a backend; a slice or an index on axis 0 is a view of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""

    def __getitem__(self, index: Any, /) -> Any:
        """The view `buffer[i]` (axis 0 gone) or `buffer[a:b]`."""


class Engine(Protocol):
    """One loaded graph."""

    sha256: str  # of the file it was loaded from
    precision: str  # of its arithmetic: fp16, bf16, fp32 or "as exported"

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Fills all `outputs`, allocated by the caller, from all `inputs` of the graph.

        Raises:
            EngineError: the library refused or failed.
        """


@dataclass(frozen=True)
class Footprint:
    """What a loaded graph takes on the device, in bytes."""

    weights: int
    activations: int  # while it runs, at the largest sizes it takes


class Backend(Protocol):
    """One inference library on one device."""

    name: str
    loads_ahead: bool  # whether engines of the next stage load on a thread while a stage runs

    @property
    def has_kernels(self) -> bool:
        """Whether Edgereel's kernels for a CPU compute what they can."""

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The graph at `path`, an .onnx file whose hash was checked, ready to run.

        Raises:
            EngineError: it cannot be loaded or its inputs and outputs are not those of `spec`.
            BuildMismatch: the compiled engine found for it belongs to something else.
        """

    def put(self, array: Array) -> Buffer:
        """A buffer with the contents of `array`, which the caller must not change afterwards."""

    def get(self, buffer: Buffer) -> Array:
        """The contents of a buffer; read only."""

    def empty(self, dtype: str, shape: Sequence[int]) -> Buffer:
        """A buffer with undefined contents."""

    def copy(self, source: Buffer | Array, target: Buffer) -> None:
        """The contents of `source` into `target`, a buffer of the same shape and type."""

    def is_finite(self, buffer: Buffer) -> bool:
        """Whether all numbers of a float32 buffer are finite; waits for them."""

    def mixed(self, x: Buffer, c_x: float, z: Array, c_z: float) -> Buffer:
        """`c_x * x + c_z * z`, f32, both of one shape."""

    def cut(self, buffer: Buffer, axis: int, start: int, stop: int) -> Buffer:
        """The entries start to stop of an axis, a view or a copy."""

    def join(self, whole: Buffer, part: Buffer, axis: int, start: int, done: int) -> None:
        """Puts a part into its place in `whole`, as `windows.join` says, of float32 and uint8."""

    def mark(self) -> Any:
        """The moment when all work asked for so far is done."""

    def seconds(self, start: Any, stop: Any) -> float:
        """The time between two marks."""

    def free_memory(self) -> int | None:
        """Bytes of the device's memory that can still be taken; None if unknown."""

    def footprint(self, graph: str) -> Footprint | None:
        """What a graph takes, where the backend knows better than the plan's `activations`."""

    def free_scratch(self) -> bool:
        """Gives back what graphs took while they ran; False if the library keeps that."""

    def done(self) -> None:
        """A call has ended: what later calls or programs profit from may be written."""

    def describe(self) -> dict[str, str]:
        """For the metadata of a video: at least library, device and precision."""


def choose(
    name: str, plan: Plan, *, threads: int | None = None, kernels: bool = True
) -> tuple[Backend, str]:
    """The backend for this cascade and a sentence that says why this one.

    "auto" takes the first of AUTO that can run; the sentence names what was passed over.
    A backend asked for by name is taken or refused, never replaced.

    Raises:
        InputError: an unknown name.
        BackendUnavailable: it cannot run here.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(
            f"backend is {name!r}; expected auto, {', '.join(BACKENDS)}. Choose one of these."
        )
    passed_over: dict[str, list[str]] = {}  # reason: backends
    for candidate in AUTO if name == "auto" else (name,):
        module, _, attribute = BACKENDS[candidate].partition(":")
        made = getattr(importlib.import_module(module), attribute)
        reason = cast("str | None", made.unusable(plan))
        if reason is None:
            why = "asked for" if name != "auto" else _told(passed_over) or "the first choice"
            return cast(Backend, made(plan, threads, kernels)), f"{candidate}: {why}"
        passed_over.setdefault(reason, []).append(candidate)
    other = "" if name in ("auto", "ort") else ", or use ort, which needs no GPU"
    raise BackendUnavailable(f"{_told(passed_over)}. Do what `edgereel doctor` says of it{other}.")


def _told(passed_over: Mapping[str, Sequence[str]]) -> str:
    """Why backends cannot run, each reason once."""
    told = (f"{' and '.join(names)} cannot run ({why})" for why, names in passed_over.items())
    return "; ".join(told)
