"""The trt backend against a fake library and fake device memory: everything but the kernels.

Alone: pytest tests/test_backend_trt.py
"""

from __future__ import annotations

import ctypes
import enum
import gc
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edgereel import builds, checks, kernel_library, plan
from edgereel.backends import Footprint, cuda, trt, trt_library
from edgereel.errors import BackendUnavailable, BuildMismatch, EngineError, InputError
from edgereel.files import sha256
from edgereel.interpreter import Interpreter
from edgereel.pipeline import Cascade

GPU = trt_library.Device("Fake GPU", "8.9")


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class FakeContext:
    """Doubles `x`; counts what it is told."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.calls = engine, engine.calls
        self.memory = (0, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, _: int) -> bool:
        self.calls.append(f"profile {index}")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.calls.append(f"shape {name}")
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address % 256 == 0  # TensorRT's demand
        self.calls.append(f"address {name}")
        self.addresses[name] = address

    def set_device_memory(self, address: int, size: int) -> None:
        self.calls.append(f"memory {size}")
        assert size >= self.engine.work
        self.memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77 and self.memory[0]
        self.calls.append("execute")
        count = int(np.prod(self.shapes["x"]))
        kind = ctypes.c_float * count
        x, y = (kind.from_address(self.addresses[name]) for name in ("x", "y"))

        def double() -> None:
            y[:] = [2 * value for value in x]

        self.engine.cuda.queue(double)
        return True


class FakeEngine:
    """An engine; one whose content is a number works in that many bytes."""

    num_io_tensors = 2
    cuda: Any = None

    def __init__(self, content: bytes) -> None:
        self.output = "HALF" if content == b"half" else "FLOAT"
        self.work = int(content) if content.isdigit() else 100
        self.calls: list[str] = []

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == "user managed"
        return FakeContext(self)

    def get_device_memory_size_for_profile_v2(self, _: int) -> int:
        return self.work

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> int:
        return "xy".index(name)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT" if name == "x" else self.output)


class FakeRuntime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        if content == b"refused":
            self.logger.log(Severity.ERROR, "the plan is of another kind")
            return None
        return FakeEngine(content)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> Any:
    """A machine with a GPU, cuda-python and tensorrt 11.3, all fake."""
    logger = type("ILogger", (), {"Severity": Severity})
    modes = SimpleNamespace(INPUT=0, OUTPUT=1)
    strategies = SimpleNamespace(USER_MANAGED="user managed")
    module = SimpleNamespace(
        ILogger=logger,
        Runtime=FakeRuntime,
        TensorIOMode=modes,
        ExecutionContextAllocationStrategy=strategies,
    )
    monkeypatch.setattr(FakeEngine, "cuda", fake_cuda)
    fake_cuda.module = module

    def library(name: str | None = None) -> trt_library.Library:
        if name not in (None, "tensorrt"):
            raise BackendUnavailable(f"{name} is not installed")
        return trt_library.Library(module, "tensorrt", "11.3")

    for where in (trt, trt_library):
        monkeypatch.setattr(where, "library", library)
        monkeypatch.setattr(where, "device", lambda: GPU)
    monkeypatch.setattr(trt, "runtime_api", lambda: fake_cuda)
    return fake_cuda


PLUGIN = {"name": "edgereel-kernels", "version": "9.9", "sha256": "of the other machine"}
DOUBLE: Mapping[str, builds.Precision] = {"double": "fp16"}
OFF = 0.01  # relative error of the reference outputs, between what fp32 and fp16 may have


def cascade(
    folder: Path,
    content: bytes = b"good",
    precisions: Mapping[str, builds.Precision] = DOUBLE,
    **changes: Any,
) -> plan.Plan:
    """A plan with graphs x -> y and a build of them, whose engines are all `content`."""
    (folder / "graphs").mkdir(parents=True)
    f32 = {"dtype": "float32", "shape": ["K", 2]}
    frames = {"dtype": "uint8", "shape": [1, 1, 1, 3]}
    graphs = {}
    for name in precisions:
        graphs[name] = {"file": f"graphs/{name}.onnx", "golden": f"{name}.npz",
                        "inputs": {"x": f32}, "outputs": {"y": f32}}  # fmt: skip
        (folder / f"graphs/{name}.onnx").write_bytes(b"\x08\x08")  # ir_version 8, no graph
        x = np.ones((1, 2), np.float32)
        np.savez(folder / f"{name}.npz", **{"in.x": x, "out.y": 2 * x * np.float32(1 + OFF)})
    files = {
        str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    mode = {
        "params": {"prompt": {"type": "text"}, "seed": {"type": "int", "default": 0}},
        "values": {"z": {"dtype": "float32", "shape": [3, 2]}, "video": frames},
        "stages": [],
        "output": {"value": "video", "fps": 8},
    }
    document = {"format": 1, "name": "double", "system": "test", "files": files,
                "graphs": graphs, "modes": {"video": mode}}  # fmt: skip
    import msgspec

    found = msgspec.convert(json.loads(json.dumps(document)), plan.Plan)  # rules are not the point
    found.__dict__["folder"] = folder
    engines = {
        name: builds.Engine(
            file=f"{name}.engine", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content),
            source={spec.file: found.files[spec.file]}, precision=precisions[name],
            profiles=tuple({"x": ((n, 2), (n, 2), (n, 2))} for n in (1, 2)),
            nodes=1, parameters=0, types={}, weights_bytes=0, activation_bytes=0,
            seconds=0.0, peak_rss_bytes=0,
        )
        for name, spec in found.graphs.items()
    }  # fmt: skip
    compiler = builds.Compiler(name="tensorrt", version="11.3")
    facts: dict[str, Any] = {
        "format": 1, "key": "", "backend": "trt", "library": compiler,
        "compute_capabilities": ("8.9",), "options": {}, "recipe": "",
    } | changes  # fmt: skip
    record = builds.Record(graphs=engines, **facts)
    record = msgspec.structs.replace(record, key=builds.record_key(record))
    build = folder / "builds" / record.key
    build.mkdir(parents=True)
    for engine in engines.values():
        (build / engine.file).write_bytes(content)
    (build / builds.FILE).write_bytes(builds.encode(record))
    return found


def opened(found: plan.Plan) -> tuple[trt.Trt, Any]:
    backend = trt.Trt(found)
    spec = found.graphs["double"]
    return backend, backend.load(found.folder / spec.file, spec)


def test_runs_on_views_without_waiting(machine: Any, tmp_path: Path) -> None:
    """Two chunks through the engine, the second one not where TensorRT may read; one wait each."""
    backend, engine = opened(cascade(tmp_path / "a"))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    source: Any = backend.put(x)
    parts = [backend.empty("float32", (n, 2)) for n in (2, 1)]
    engine.run({"x": source[0:2]}, {"y": parts[0]})
    engine.run({"x": source[2:3]}, {"y": parts[1]})
    assert machine.waits == 0
    np.testing.assert_array_equal(backend.get(parts[0]), 2 * x[:2])
    np.testing.assert_array_equal(backend.get(parts[1]), 2 * x[2:])
    np.testing.assert_array_equal(backend.get(source[1]), x[1])
    assert machine.waits == 3


def test_nothing_is_bound_twice(machine: Any, tmp_path: Path) -> None:
    backend, engine = opened(cascade(tmp_path / "a"))
    x, y = backend.empty("float32", (1, 2)), backend.empty("float32", (1, 2))
    other = backend.empty("float32", (1, 2))
    calls = engine._opened.engine.calls
    engine.run({"x": x}, {"y": y})
    first = ["profile 0", "memory 100", "shape x", "address x", "address y", "execute"]
    assert calls == first
    engine.run({"x": x}, {"y": other})
    engine.run({"x": x}, {"y": y})
    assert calls[len(first) :] == ["address y", "execute"] * 2


def loop(backend: trt.Trt, engine: Any, times: int) -> None:
    """A sampling loop's calls: two buffers in turn."""
    pair = [backend.empty("float32", (1, 2)) for _ in range(2)]
    for k in range(times):
        engine.run({"x": pair[k % 2]}, {"y": pair[1 - k % 2]})


def kinds(machine: Any) -> list[str]:
    """What of CUDA was called, without the events that pace it."""
    return [call[0] for call in machine.told if call[0] in ("capture", "replay", "copy", "wait")]


def test_calls_that_come_again_are_captured_once(machine: Any, tmp_path: Path) -> None:
    """Of ten calls two are queued, two captured and eight replayed; none is waited for."""
    backend, engine = opened(cascade(tmp_path / "a"))
    machine.told.clear()
    loop(backend, engine, 10)
    assert kinds(machine) == ["capture", "replay"] * 2 + ["replay"] * 6
    assert engine._opened.engine.calls.count("execute") == 4


def test_a_replayed_call_computes(machine: Any, tmp_path: Path) -> None:
    backend, engine = opened(cascade(tmp_path / "a"))
    x, y = backend.put(np.ones((1, 2), np.float32)), backend.empty("float32", (1, 2))
    for value in (1, 2, 3, 4):
        backend.copy(np.full((1, 2), value, np.float32), x)
        engine.run({"x": x}, {"y": y})
        np.testing.assert_array_equal(backend.get(y), [[2 * value] * 2])
    assert "replay" in kinds(machine)


def test_other_shapes_or_memory_end_the_graphs(machine: Any, tmp_path: Path) -> None:
    """A graph is only valid for the shapes and the arena that it was captured with."""
    both: Mapping[str, builds.Precision] = {"double": "fp16", "other": "fp16"}
    found = cascade(tmp_path / "a", b"200", both)
    backend, engine = opened(found)
    x, y = backend.empty("float32", (1, 2)), backend.empty("float32", (1, 2))
    for _ in range(3):
        engine.run({"x": x}, {"y": y})
    assert kinds(machine) == ["capture", "replay", "replay"]
    backend._arena.at_least(300)
    machine.told.clear()
    for _ in range(2):
        engine.run({"x": x}, {"y": y})
    assert kinds(machine) == ["capture", "replay"]
    assert len(machine.graphs) == 1  # the old one was destroyed
    other = backend.load(found.folder, found.graphs["other"])
    other.run({"x": x}, {"y": y})
    assert other._opened.engine.calls[1] == "memory 300"  # one arena for all


def test_weights_are_replaced_between_calls(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was queued is done first, and calls are captured anew; the cascade hands it all on."""
    found = cascade(tmp_path / "a")
    backend, engine = opened(found)
    x, y = backend.empty("float32", (1, 2)), backend.empty("float32", (1, 2))
    with pytest.raises(EngineError, match="Compile the cascade again with `--refit`"):
        engine.weights()
    told: list[Any] = []

    class Refitting:
        def __init__(self, *words: Any) -> None:
            told.append(words)

        def swap(self, given: Any) -> tuple[str, ...]:
            told.append(given)
            return ("w",)

        def swap_lora(self, *words: Any) -> tuple[str, ...]:
            told.append(words)
            return ("w", "v")

    monkeypatch.setattr(trt, "Refitting", Refitting)
    interpreter = Interpreter(found, backend)
    loaded = Cascade(found, interpreter, "a test")
    engine = interpreter.engine("double")
    for _ in range(3):
        engine.run({"x": x}, {"y": y})
    machine.told.clear()
    assert loaded.swap("double", str(tmp_path / "b.safetensors")) == ("w",)
    assert machine.waits == 1
    for _ in range(2):
        engine.run({"x": x}, {"y": y})
    assert kinds(machine) == ["wait", "capture", "replay"]
    assert loaded.swap("double", lora="c", scale=0.5, network="text_encoder") == ("w", "v")
    loaded.swap("double")
    record = backend._build("double").record.graphs["double"]
    library, _, *rest = told[0]
    assert library.name == "tensorrt" and rest[:2] == [record, found.folder]
    assert told[1:] == [tmp_path / "b.safetensors", (Path("c"), 0.5, "text_encoder"), {}]
    with pytest.raises(InputError, match="graph is 'no'; expected one of double"):
        loaded.swap("no")
    interpreter.low_vram = True
    with pytest.raises(InputError, match="low_vram drops engines"):
        loaded.swap("double")


def test_other_backends_take_no_other_weights(toy: Path) -> None:
    import edgereel

    with pytest.raises(EngineError, match="backend ort takes no other weights; expected trt"):
        edgereel.load(toy, backend="ort").swap("decoder", {})


def test_few_graphs_are_kept(machine: Any, tmp_path: Path) -> None:
    """Of six calls that come again, the oldest two are captured anew when they come once more."""
    backend, engine = opened(cascade(tmp_path / "a"))
    buffers = [backend.empty("float32", (1, 2)) for _ in range(7)]
    for _ in range(2):
        for x, y in itertools.pairwise(buffers):
            engine.run({"x": x}, {"y": y})
    assert kinds(machine).count("capture") == 6 and len(machine.graphs) == 4


def test_a_larger_arena_takes_the_place_of_the_old(machine: Any, tmp_path: Path) -> None:
    """The memory of both is never needed at once."""
    backend = trt.Trt(cascade(tmp_path / "a"))
    held: list[int] = []
    allocate = machine.cudaMallocAsync
    machine.cudaMallocAsync = lambda *a: (held.append(len(machine.blocks)), allocate(*a))[1]
    first, same = backend._arena.at_least(100).address, backend._arena.at_least(50).address
    backend._arena.at_least(200)
    assert first == same and held == [0, 0] and len(machine.blocks) == 1


def test_what_cannot_be_captured_is_queued(machine: Any, tmp_path: Path) -> None:
    machine.can_capture = False
    backend, engine = opened(cascade(tmp_path / "a"))
    x, y = backend.put(np.ones((1, 2), np.float32)), backend.empty("float32", (1, 2))
    for _ in range(4):
        engine.run({"x": x}, {"y": y})
    assert kinds(machine)[1:] == []
    assert engine._opened.engine.calls.count("execute") == 5  # one of them in the attempt
    np.testing.assert_array_equal(backend.get(y), [[2, 2]])


def test_the_host_is_two_calls_ahead_at_most(machine: Any, tmp_path: Path) -> None:
    """So that progress is true and a cancelled loop ends within a step."""
    backend, engine = opened(cascade(tmp_path / "a"))
    machine.told.clear()
    loop(backend, engine, 6)
    records = [call[1] for call in machine.told if call[0] == "record"]
    waits = [call[1] for call in machine.told if call[0] == "wait for"]
    assert len(records) == 6 and waits == records[:4]
    at = [machine.told.index(("wait for", event)) for event in waits]
    assert all(machine.told.index(("record", records[k + 2])) < at[k] for k in range(4))


@pytest.mark.parametrize(("over", "blocks"), [(True, 1), (False, 4)])
def test_host_memory_of_a_copy_is_used_again_when_it_is_over(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, over: bool, blocks: int
) -> None:
    """An array may change as soon as the copy is queued."""
    backend = trt.Trt(cascade(tmp_path / "a"))
    monkeypatch.setattr(machine, "cudaEventQuery", lambda _: (0 if over else 600,))
    target, array = backend.empty("float32", (4,)), np.zeros(4, np.float32)
    for _ in range(4):
        array += 1
        backend.copy(array, target)
    assert len(machine.pinned) == blocks
    np.testing.assert_array_equal(backend.get(target), [4] * 4)
    assert machine.pinned == {}


@pytest.mark.parametrize("pooled", [1, 0])
def test_memory_of_old_devices_is_not_pooled(machine: Any, tmp_path: Path, pooled: int) -> None:
    machine.pooled = pooled  # the fake refuses the functions of the other kind
    backend = trt.Trt(cascade(tmp_path / "a"))
    backend.get(backend.put(np.ones(3, np.float32)))
    assert machine.blocks == {}


def test_nothing_is_left_over(machine: Any, tmp_path: Path) -> None:
    """Memory, events, graphs and the stream go with the backend and its engine."""
    backend, engine = opened(cascade(tmp_path / "a"))
    loop(backend, engine, 9)
    assert machine.graphs and machine.events and machine.streams == 1
    del backend, engine
    gc.collect()
    assert machine.graphs == machine.events == machine.blocks == machine.pinned == {}
    assert machine.streams == 0


def test_time_is_that_of_the_device(machine: Any, tmp_path: Path) -> None:
    backend = trt.Trt(cascade(tmp_path / "a"))
    start, stop = backend.mark(), backend.mark()
    assert backend.seconds(start, stop) == 2.0  # the fake's clock: calls between the two
    assert machine.told[-1] == ("wait for", stop.handle)


def test_footprint_is_what_the_compiler_told(machine: Any, tmp_path: Path) -> None:
    backend = trt.Trt(cascade(tmp_path / "a"))
    assert backend.footprint("double") == Footprint(weights=0, activations=0)
    assert backend.free_memory() == 3 << 30


def test_weights_are_streamed_where_they_do_not_fit(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FakeEngine, "streamable_weights_size", 1, raising=False)
    monkeypatch.setattr(
        FakeEngine, "get_weight_streaming_automatic_budget", lambda _: 5, raising=False
    )
    backend, engine = opened(cascade(tmp_path / "a"))
    assert backend.describe()["streamed_weights"] == "none"
    assert not hasattr(engine._opened.engine, "weight_streaming_budget_v2")
    monkeypatch.setattr(FakeEngine, "streamable_weights_size", 4 << 30)
    backend, engine = opened(cascade(tmp_path / "b"))
    assert engine._opened.engine.weight_streaming_budget_v2 == 5
    assert backend.describe()["streamed_weights"] == "double"


class FakeCache:
    """TensorRT-RTX's cache of kernels: it has what was compiled for each context."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True

    def serialize(self) -> bytes:
        self.content += b"+"
        return self.content


class FakeConfig:
    """TensorRT-RTX's IRuntimeConfig."""

    def __init__(self) -> None:
        self.strategy, self.cache = "", FakeCache()

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> None:
        self.cache = cache


def test_what_rtx_compiles_is_kept_in_the_build(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Written once per call that made contexts; read by the next program."""
    machine.module.IRuntimeCache = FakeCache
    monkeypatch.setattr(FakeEngine, "create_runtime_config", lambda _: FakeConfig(), raising=False)
    asked: list[FakeConfig] = []

    def context(engine: FakeEngine, config: FakeConfig) -> FakeContext:
        asked.append(config)
        return FakeContext(engine)

    monkeypatch.setattr(FakeEngine, "create_execution_context", context)
    found = cascade(tmp_path / "a")
    for expected in (b"+", b"++"):
        backend = trt.Trt(found)
        engine: Any = backend.load(found.folder, found.graphs["double"])
        x = backend.empty("float32", (1, 2))
        engine.run({"x": x}, {"y": x})
        backend.done()
        (file,) = found.folder.glob(f"builds/*/{trt.RUNTIME_CACHE}")
        assert file.read_bytes() == expected
        file.touch()
        backend.done()
        assert file.read_bytes() == expected
    assert all(config.strategy == "user managed" for config in asked)
    assert opened(found)  # the build is still whole


def test_memory_goes_with_its_last_view(machine: Any, tmp_path: Path) -> None:
    backend = trt.Trt(cascade(tmp_path / "a"))
    view: Any = backend.put(np.ones((4, 2), np.float32))[1:3]
    assert len(machine.blocks) == len(machine.pinned) == 1
    np.testing.assert_array_equal(backend.get(view), np.ones((2, 2)))
    del view
    assert machine.blocks == machine.pinned == machine.events == {}
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        backend.empty("float32", (1 << 30, 2))


def test_describes_what_it_opened(machine: Any, tmp_path: Path) -> None:
    backend, engine = opened(cascade(tmp_path / "a"))
    facts = backend.describe()
    assert facts["library"] == "tensorrt 11.3" and facts["precision"] == "fp16"
    assert facts["device"] == "Fake GPU (compute capability 8.9)"
    assert len(facts["builds"]) == 16 and len(engine.sha256) == 64


MIXED: list[dict[str, builds.Precision]] = [
    {"half": "fp16", "exact": "fp32"},
    {"exact": "fp32", "half": "fp16"},
]


@pytest.mark.parametrize("precisions", MIXED)
def test_verify_allows_each_engine_its_own_error(
    machine: Any, tmp_path: Path, precisions: dict[str, builds.Precision]
) -> None:
    """An error of OFF is in order at half precision and wrong in float32, in either order."""
    found = cascade(tmp_path / "a", precisions=precisions)
    backend = trt.Trt(found)
    results = {result.graph: result for result in checks.graphs(found, backend)}
    assert [result.ok for result in (results["half"], results["exact"])] == [True, False]
    peak = 2 * (1 + OFF)
    allowed = {"half": 3e-2 * peak, "exact": 1e-3 * peak}  # the shares that `verify` promises
    assert {name: r.allowed for name, r in results.items()} == pytest.approx(allowed)
    assert backend.describe()["precision"] == "fp16, fp32"


def test_an_engine_below_the_plans_precision_is_refused(machine: Any, tmp_path: Path) -> None:
    """The mark of a graph is in no hash of a file, so it is compared itself."""
    found = cascade(tmp_path / "a", precisions={"half": "fp16", "exact": "fp32"})
    for name in found.graphs:
        found.graphs[name] = structs.replace(found.graphs[name], precision="fp32")
    backend = trt.Trt(found)
    backend.load(found.folder, found.graphs["exact"])
    with pytest.raises(
        BuildMismatch,
        match=r"graph half was compiled in fp16, plan\.json asks for fp32.*build\.py compile",
    ):
        backend.load(found.folder, found.graphs["half"])


def test_a_shape_without_a_profile_is_refused(machine: Any, tmp_path: Path) -> None:
    backend, engine = opened(cascade(tmp_path / "a"))
    x = backend.empty("float32", (3, 2))
    with pytest.raises(EngineError, match=r"no profile takes x \[3, 2\].*x \[1, 2\] or x \[2, 2\]"):
        engine.run({"x": x}, {"y": x})


@pytest.mark.parametrize(
    ("content", "words"), [(b"refused", "of another kind"), (b"half", "'HALF'.*'FLOAT'")]
)
def test_a_wrong_engine_is_refused(
    machine: Any, tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        opened(cascade(tmp_path / "a", content))


def test_the_plugin_is_there_before_its_engine(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library of the same version with other bytes is the same; if it fails, that is told."""
    told: list[Any] = []
    package = SimpleNamespace(register_plugin=told.append)
    monkeypatch.setitem(sys.modules, "edgereel_kernels", package)
    monkeypatch.setattr(kernel_library, "plugin", lambda: PLUGIN | {"sha256": "of this machine"})
    backend, _ = opened(cascade(tmp_path / "a", plugin=PLUGIN))
    assert told == [trt.library().module]
    assert backend.describe()["plugin"] == "edgereel-kernels 9.9"
    opened(cascade(tmp_path / "b"))
    assert len(told) == 1  # not for an engine without it

    def broken(_: Any) -> None:
        raise RuntimeError("cannot load it")

    package.register_plugin = broken
    with pytest.raises(BackendUnavailable, match=r"cannot load it.*compile without --plugin"):
        opened(cascade(tmp_path / "c", plugin=PLUGIN))


def test_a_changed_engine_is_never_opened(machine: Any, tmp_path: Path) -> None:
    found = cascade(tmp_path / "a")
    (engine,) = found.folder.glob("builds/*/double.engine")
    engine.write_bytes(b"evil")
    with pytest.raises(BuildMismatch, match="is not opened"):
        opened(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compute_capabilities": ("8.0",)}, "compute capabilities 8.0, this GPU has 8.9"),
        ({"library": builds.Compiler(name="tensorrt", version="10.3")}, "10.3, .*tensorrt 11.3"),
        (
            {"plugin": PLUGIN},
            "--plugin and needs that of edgereel-kernels 9.9, this machine has no",
        ),
    ],
)
def test_another_machines_build_is_refused(
    machine: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(kernel_library, "plugin", lambda: None)
    with pytest.raises(BuildMismatch, match=f"{words}.*python export/build.py compile"):
        opened(cascade(tmp_path / "a", **change))


def test_a_machine_without_gpu_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = cascade(tmp_path / "a")
    monkeypatch.setattr(trt, "library", lambda *_: None)
    monkeypatch.setattr(trt, "device", lambda: None)
    assert "no CUDA GPU" in str(trt.Trt.unusable(found))


def test_without_a_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Callable[[], None]:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(trt_library.importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match="pip install tensorrt-rtx"):
        trt_library.library()
    with pytest.raises(BackendUnavailable, match="expected one of tensorrt, tensorrt_rtx"):
        trt_library.library("tensorboard")
    with pytest.raises(BackendUnavailable, match="pip install cuda-python"):
        cuda.runtime_api()
