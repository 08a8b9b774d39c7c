"""TensorRT and TensorRT-RTX: runs the compiled engines in builds/, on an NVIDIA GPU.

An engine is opened only after builds.py found that it belongs to this plan, library and GPU and
that its bytes are the ones that were compiled. trt_engine.py runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from edgereel import builds, kernel_library
from edgereel.backends import Footprint
from edgereel.backends.cuda import runtime_api
from edgereel.backends.on_device import OnDevice
from edgereel.backends.trt_engine import Arena, Engine, Opened
from edgereel.backends.trt_library import LIBRARIES, NO_GPU, Library, device, library
from edgereel.backends.trt_refit import Refitting
from edgereel.errors import BackendUnavailable, BuildMismatch, EngineError, OutputError
from edgereel.files import all_or_nothing
from edgereel.plan import GraphSpec, Plan, graphs_of, ops

__all__ = ["RUNTIME_CACHE", "Trt"]

RUNTIME_CACHE = "runtime.cache"  # in the folder of a build

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
        self._take_memory()
        self._builds: dict[str, builds.Build] = {}  # by graph
        self._runtimes: dict[str, _Runtime] = {}  # by library
        self._arena = Arena(self._memory)
        self._streamed: set[str] = set()  # graphs whose weights do not all stay on the GPU

    @staticmethod
    def unusable(plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        if device() is None:
            return NO_GPU
        try:
            library()
            runtime_api()
            for graph in _used(plan):
                _build(plan, graph)
        except (BackendUnavailable, BuildMismatch) as error:
            return str(error)
        return None

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The compiled engine of the graph at `path`."""
        graph = next(name for name, other in self._plan.graphs.items() if other.file == spec.file)
        build = self._build(graph)
        name = build.record.library.name
        if name not in self._runtimes:
            self._runtimes[name] = _Runtime(library(name))
        runtime, record = self._runtimes[name], build.record.graphs[graph]
        engine = runtime.open(build, graph)
        _check_declaration(engine, spec, runtime.library)
        if _stream_weights(engine, self._memory.free):
            self._streamed.add(graph)
        make = partial(runtime.context, cache=build.folder / RUNTIME_CACHE)
        refitting = partial(
            Refitting, runtime.library, engine, record, self._plan.folder, runtime.logger
        )
        opened = Opened(engine, make, record, self._memory, self._arena, refitting)
        return Engine(opened, graph)

    def footprint(self, graph: str) -> Footprint | None:
        """What build.json says of the engine."""
        record = self._build(graph).record.graphs[graph]
        return Footprint(record.weights_bytes, record.activation_bytes)

    def done(self) -> None:
        """Stores what TensorRT-RTX compiled for this GPU, so that it starts at once next time."""
        for runtime in self._runtimes.values():
            runtime.save()

    def _build(self, graph: str) -> builds.Build:
        """The build that a graph's engine comes from."""
        if graph not in self._builds:
            self._builds[graph] = _build(self._plan, graph)
        return self._builds[graph]

    def describe(self) -> dict[str, str]:
        """Library, device, precision and builds of the engines opened so far."""
        records = {b.record.key: b.record for b in self._builds.values()}.values()
        precisions = {b.record.graphs[graph].precision for graph, b in self._builds.items()}
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
            "streamed_weights": ", ".join(sorted(self._streamed)) or "none",
        }


class _Runtime:
    """A library's deserialiser, with the errors it logs, and what it compiles when it runs."""

    def __init__(self, trt: Library) -> None:
        self.library, self.errors = trt, list[str]()
        errors, severe = self.errors, trt.module.ILogger.Severity.ERROR

        class Logger(trt.module.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                if severity <= severe:
                    errors.append(message)

        self.logger = Logger()  # the runtime keeps no reference of its own
        self._runtime = trt.module.Runtime(self.logger)
        self._caches: dict[Path, Any] = {}  # of TensorRT-RTX, by file
        self._unsaved: set[Path] = set()

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

    def context(self, engine: Any, cache: Path) -> Any:
        """An execution context without memory of its own, or None.

        TensorRT-RTX compiles kernels for this GPU when one is made; the file has those of before.
        """
        user_managed = self.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self.library.module, "IRuntimeCache"):
            return engine.create_execution_context(user_managed)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(user_managed)
        if cache not in self._caches:
            self._caches[cache] = config.create_runtime_cache()
            with suppress(OSError):
                # Made for another GPU or version it is not taken, and written anew.
                self._caches[cache].deserialize(cache.read_bytes())
        config.set_runtime_cache(self._caches[cache])
        self._unsaved.add(cache)
        return engine.create_execution_context(config)

    def save(self) -> None:
        """Writes the caches of contexts made since the last time, where the folder lets it."""
        for path in self._unsaved:
            content = bytes(self._caches[path].serialize())
            with suppress(OutputError), all_or_nothing(path) as new:
                new.write_bytes(content)
        self._unsaved.clear()


def _stream_weights(engine: Any, free: Callable[[], int]) -> bool:
    """Whether weights must come from host memory while it runs, and were compiled to allow it."""
    size = int(getattr(engine, "streamable_weights_size", 0))
    if size == 0 or size <= free():
        return False
    engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
    return True


def _used(plan: Plan) -> list[str]:
    """The graphs that some mode runs."""
    used = graphs_of(ops(plan.modes.values()))
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
