"""TensorRT and TensorRT-RTX: runs the compiled engines in builds/, on an NVIDIA GPU.

An engine is opened only after builds.py found that it belongs to this plan, library and GPU and
that its bytes are the ones that were compiled. `run` only queues work; nothing waits for the GPU
before a value is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from edgereel import builds, kernel_library
from edgereel.backends import Buffer
from edgereel.backends.cuda import DeviceBuffer, Memory, OnDevice, runtime_api
from edgereel.backends.trt_library import LIBRARIES, Library, device, library
from edgereel.errors import BackendUnavailable, BuildMismatch, EngineError
from edgereel.plan import Denoise, GraphSpec, Plan, Run

__all__ = ["Trt"]

# TensorRT's name of an element type, from ours.
_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int64": "INT64",
    "int32": "INT32",
    "uint8": "UINT8",
    "bool": "BOOL",
}


class Trt(OnDevice):
    """The `trt` backend."""

    name = "trt"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        self._plan = plan
        self._memory = Memory()
        self._opened: dict[str, builds.Build] = {}  # by graph
        self._runtimes: dict[str, _Runtime] = {}  # by library

    @staticmethod
    def unusable(plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        try:
            library()
            if device() is None:
                return "no CUDA GPU answers here; it needs one and NVIDIA's driver"
            runtime_api()
            for graph in _used(plan):
                _build(plan, graph)
        except (BackendUnavailable, BuildMismatch) as error:
            return str(error)
        return None

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The compiled engine of the graph at `path`."""
        graph = next(name for name, other in self._plan.graphs.items() if other.file == spec.file)
        build = self._opened[graph] = _build(self._plan, graph)
        name = build.record.library.name
        if name not in self._runtimes:
            self._runtimes[name] = _Runtime(library(name))
        engine = self._runtimes[name].open(build, graph)
        _check_declaration(engine, spec, self._runtimes[name].library)
        return Engine(engine, graph, build.record.graphs[graph], self._memory)

    def free_memory(self) -> int | None:
        """Unknown: what is predicted holds for ONNX Runtime on a CPU."""
        return None

    def describe(self) -> dict[str, str]:
        """Library, device, precision and builds of the engines opened so far."""
        records = {b.record.key: b.record for b in self._opened.values()}.values()
        precisions = {b.record.graphs[graph].precision for graph, b in self._opened.items()}
        compilers = sorted({f"{r.library.name} {r.library.version}" for r in records})
        return {
            "library": ", ".join(compilers) or str(library()),
            "device": str(device()),
            "precision": ", ".join(sorted(precisions)) or "as compiled",
            "builds": ", ".join(sorted(r.key for r in records)),
            "plugin": ", ".join(
                sorted({f"{r.plugin['name']} {r.plugin['version']}" for r in records if r.plugin})
            )
            or "none",
        }


class Engine:
    """One compiled graph, with one execution context per profile that was needed so far."""

    def __init__(self, engine: Any, graph: str, record: builds.Engine, memory: Memory) -> None:
        self.sha256, self.precision = record.sha256, record.precision
        self._engine, self._graph, self._record, self._memory = engine, graph, record, memory
        self._contexts: dict[int, Any] = {}
        self._bound: dict[int, dict[str, tuple[int, tuple[int, ...]]]] = {}

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Queues one call; outputs are filled when the stream gets there."""
        index = self._profile(inputs)
        context = self._context(index)
        bound = self._bound[index]
        for name, buffer in (*inputs.items(), *outputs.items()):
            tensor = cast(DeviceBuffer, buffer)
            address, shape = bound.get(name, (0, ()))
            if name in inputs and (name not in bound or shape != tensor.shape):
                context.set_input_shape(name, tensor.shape)
            if address != tensor.address:  # binding again costs about a millisecond
                context.set_tensor_address(name, tensor.address)
            bound[name] = (tensor.address, tensor.shape)
        if not context.execute_async_v3(int(self._memory.stream)):
            raise EngineError(
                f"graph {self._graph}: TensorRT failed to queue it; expected inputs as in "
                "plan.json and enough free GPU memory. Use a smaller size or chunk, or compile "
                "the engines again."
            )

    def _profile(self, inputs: Mapping[str, Buffer]) -> int:
        """The first profile that takes these shapes."""
        for index, profile in enumerate(self._record.profiles):
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
            for profile in self._record.profiles
        )
        raise EngineError(
            f"graph {self._graph}: no profile takes {given}; its engine was compiled for {known}. "
            "Use one of those, or compile again with `--profile PARAM=SIZES` for these sizes."
        )

    def _context(self, index: int) -> Any:
        if index not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(
                index, int(self._memory.stream)
            ):
                raise EngineError(
                    f"graph {self._graph}: TensorRT cannot prepare profile {index}; expected about "
                    f"{self._record.activation_bytes >> 20} MiB of free GPU memory. Free some, or "
                    "use a smaller size."
                )
            self._contexts[index], self._bound[index] = context, {}
        return self._contexts[index]


class _Runtime:
    """A library's deserialiser, with the errors it logs."""

    def __init__(self, trt: Library) -> None:
        self.library, self.errors = trt, list[str]()
        errors, severe = self.errors, trt.module.ILogger.Severity.ERROR

        class Logger(trt.module.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                if severity <= severe:
                    errors.append(message)

        self._logger = Logger()  # the runtime keeps no reference of its own
        self._runtime = trt.module.Runtime(self._logger)

    def open(self, build: builds.Build, graph: str) -> Any:
        """The engine of a graph, its hash checked first."""
        content = build.engine(graph)
        if build.record.plugin is not None:
            kernel_library.register_plugin(self.library.module)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(
                f"graph {graph}: {self.library} cannot open its engine in {build.folder} "
                f"({'; '.join(self.errors[-2:]) or 'no reason given'}); expected an engine for "
                f"{device()}; {builds.rebuild(build.folder)}"
            )
        return engine


def _used(plan: Plan) -> list[str]:
    """The graphs that some mode runs."""
    ops = (op for mode in plan.modes.values() for stage in mode.stages for op in stage.ops)
    used = {op.graph for op in ops if isinstance(op, Run | Denoise)}
    return [name for name in plan.graphs if name in used]


def _build(plan: Plan, graph: str) -> builds.Build:
    """The build whose engine of this graph fits this plan and machine."""
    spec, here = plan.graphs[graph], device()
    sources = {graph: {name: plan.files[name] for name in (spec.file, *spec.weights)}}
    libraries: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(BackendUnavailable):
            libraries[name] = library(name).version
    capability = here.capability if here else None
    precisions = {graph: spec.precision}
    wanted = builds.Wanted(sources, libraries, capability, precisions, kernel_library.plugin())
    return builds.choose(plan.folder, wanted)


def _check_declaration(engine: Any, spec: GraphSpec, trt: Library) -> None:
    """Nothing; EngineError where the engine's inputs and outputs are not those of the plan."""
    mode = trt.module.TensorIOMode
    for side, tensors in ((mode.INPUT, spec.inputs), (mode.OUTPUT, spec.outputs)):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {
            name: engine.get_tensor_dtype(name).name
            for name in names
            if engine.get_tensor_mode(name) == side
        }
        declared = {name: _TYPES[tensor.dtype] for name, tensor in tensors.items()}
        if found != declared:
            raise EngineError(
                f"{spec.file}: the engine has {found}, plan.json says {declared}. Compile the "
                "cascade again with `python export/build.py compile`."
            )
