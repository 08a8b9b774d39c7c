"""ONNX Runtime on the CPU: runs the .onnx files themselves; every other backend is held to it.

Buffers are numpy arrays, bound by address, so an engine reads and writes them without a copy.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgereel import kernel_library
from edgereel.backends import Array, Buffer
from edgereel.backends.on_host import OnHost, check_declaration, give_back
from edgereel.errors import EngineError
from edgereel.plan import GraphSpec, Plan

__all__ = ["Engine", "Ort", "session_options"]

# A graph that gives back its input x, u8 [0], as y: the arena is emptied at the end of a run.
_IDLE = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x02\x12\x04\n\x02\x08\x00"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x02\x12\x04\n\x02\x08\x00B\x04\n\x00\x10\x11"
)

# Our name of a tensor type, from ONNX Runtime's.
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class Ort(OnHost):
    """The `ort` backend."""

    name = "ort"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        import onnxruntime

        self._plan = plan
        self._ort = onnxruntime
        self._threads = threads
        self._kernels = kernel_library.path() if kernels else None
        self.has_kernels = self._kernels is not None
        # 3 = errors: warnings of the graph optimiser are no use to a user.
        onnxruntime.set_default_logger_severity(3)

    @staticmethod
    def unusable(plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'edgereel[ort]'"
        return None

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The .onnx file as a session with all graph optimisations."""
        options = session_options(self._threads, self._kernels)
        give_back()  # what dropped engines had
        try:
            session = self._session(str(path), options)
        except Exception as error:  # onnxruntime raises its own types, all plain Exceptions
            raise EngineError(
                f"{spec.file}: ONNX Runtime cannot load it ({_first_line(error)}); expected a "
                f"graph for onnxruntime {self._ort.__version__}. Export the cascade again, or "
                f"upgrade onnxruntime."
            ) from error
        give_back()
        check_declaration(spec, "inputs", _declared(session.get_inputs()))
        check_declaration(spec, "outputs", _declared(session.get_outputs()))
        return self._engine(session, spec.file, self._plan.files[spec.file])

    def _session(self, path: str, options: Any) -> Any:
        return self._ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def _engine(self, session: Any, file: str, sha256: str) -> Engine:
        return Engine(session, file, sha256)

    def free_scratch(self) -> bool:
        """Empties the arena that all sessions share."""
        options = self._ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        _idle().run(None, {"x": np.empty(0, np.uint8)}, options)
        return True

    def describe(self) -> dict[str, str]:
        """Library, device and precision."""
        return {
            "library": f"onnxruntime {self._ort.__version__}",
            "device": "CPU" + (f", {self._threads} threads" if self._threads else ""),
            "precision": Engine.precision,
            "kernels": kernel_library.name(self._kernels),
        }


class Engine:
    """One session."""

    precision = "as exported"
    place = "cpu"  # where its buffers are, in ONNX Runtime's words

    def __init__(self, session: Any, file: str, sha256: str) -> None:
        self.sha256 = sha256
        self._session = session
        self._file = file
        self._binding = session.io_binding()
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """One call of the graph; what stays where it was is not bound again."""
        for bind, buffers in (
            (self._binding.bind_input, inputs),
            (self._binding.bind_output, outputs),
        ):
            for name, buffer in buffers.items():
                found = self._address(buffer), buffer.shape
                if self._bound.get(name) != found:
                    bind(name, self.place, 0, buffer.dtype, buffer.shape, found[0])
                    self._bound[name] = found
        try:
            self._run()
        except Exception as error:  # as in load
            raise EngineError(
                f"{self._file}: ONNX Runtime failed to run it ({_first_line(error)}); expected "
                f"it to fill outputs of the shapes in plan.json. Export the cascade again; if "
                f"memory ran out, use a smaller size or chunk."
            ) from error

    def _address(self, buffer: Buffer) -> int:
        return int(cast(Array, buffer).ctypes.data)

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding)


def session_options(threads: int | None = None, kernels: Path | None = None) -> Any:
    """How sessions are made here, with the arena that they share in place.

    Args:
        threads: None leaves their number to ONNX Runtime.
        kernels: a library of our operators; None: their definitions in the files are run.
    """
    import onnxruntime

    _make_shared_arena()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # One arena for all sessions, grown by what is asked: on two convolution stacks run at two
    # sizes each, 91 MB at the peak instead of 242 MB with the defaults, and no slower.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # A buffer goes back to the arena after its last reader. Reused for a later value of its
    # shape instead, it stays meanwhile: 229 MB instead of 88 MB on a small UNet, no faster.
    options.enable_mem_reuse = False
    if kernels is not None:
        try:
            options.register_custom_ops_library(str(kernels))
        except Exception as error:  # as in load
            raise EngineError(
                f"{kernels}: ONNX Runtime cannot load it ({_first_line(error)}); expected kernels "
                f"for onnxruntime {onnxruntime.__version__}. Install them again with `pip install "
                f"./kernels`, or do without them: --no-kernels, kernels=False."
            ) from error
    return options


@functools.cache
def _make_shared_arena() -> None:
    """Gives the process the arena that sessions with `use_env_allocators` share."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    grow_as_asked = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    # Another library in the process may have made one already; then that one is shared.
    with contextlib.suppress(Exception):
        onnxruntime.create_and_register_allocator(memory, grow_as_asked)


@functools.cache
def _idle() -> Any:
    """A session of `_IDLE`."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        _IDLE, session_options(1), providers=["CPUExecutionProvider"]
    )


def _declared(tensors: Sequence[Any]) -> dict[str, tuple[str, int]]:
    """Our word for the type, and the rank, of a session's inputs or outputs by name."""
    return {t.name: (_TYPES.get(t.type, t.type), len(t.shape)) for t in tensors}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
