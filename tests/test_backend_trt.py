"""The trt backend against a fake library and fake device memory: everything but the kernels.

Alone: pytest tests/test_backend_trt.py
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edgereel import builds, cli_verify, kernel_library, plan
from edgereel.backends import cuda, trt, trt_library
from edgereel.errors import BackendUnavailable, BuildMismatch, EngineError
from edgereel.files import sha256

GPU = trt_library.Device("Fake GPU", "8.9")


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class FakeContext:
    """Doubles `x`; counts what it is told."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, _: int) -> bool:
        self.calls.append(f"profile {index}")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.calls.append(f"shape {name}")
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.calls.append(f"address {name}")
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77
        count = int(np.prod(self.shapes["x"]))
        kind = ctypes.c_float * count
        x, y = (kind.from_address(self.addresses[name]) for name in ("x", "y"))
        y[:] = [2 * value for value in x]
        return True


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, content: bytes) -> None:
        self.output = "FLOAT" if content == b"good" else "HALF"
        self.calls: list[str] = []

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self.calls)

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
    module = SimpleNamespace(ILogger=logger, Runtime=FakeRuntime, TensorIOMode=modes)

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
    """Two chunks of a buffer through the engine; the device is waited for once, at the end."""
    backend, engine = opened(cascade(tmp_path / "a"))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    source, target = backend.put(x), backend.empty("float32", (3, 2))
    engine.run({"x": source[0:2]}, {"y": target[0:2]})
    engine.run({"x": source[2:3]}, {"y": target[2:3]})
    assert machine.waits == 0
    np.testing.assert_array_equal(backend.get(target), 2 * x)
    np.testing.assert_array_equal(backend.get(target[1]), 2 * x[1])
    assert machine.waits == 2


def test_nothing_is_bound_twice(machine: Any, tmp_path: Path) -> None:
    backend, engine = opened(cascade(tmp_path / "a"))
    x, y = backend.empty("float32", (1, 2)), backend.empty("float32", (1, 2))
    other = backend.empty("float32", (1, 2))
    calls = engine._engine.calls
    engine.run({"x": x}, {"y": y})
    assert calls == ["profile 0", "shape x", "address x", "address y"]
    engine.run({"x": x}, {"y": y})
    engine.run({"x": x}, {"y": other})
    assert calls[4:] == ["address y"]


def test_memory_goes_with_its_last_view(machine: Any, tmp_path: Path) -> None:
    backend = trt.Trt(cascade(tmp_path / "a"))
    view: Any = backend.put(np.ones((4, 2), np.float32))[1:3]
    assert len(machine.blocks) == 1
    np.testing.assert_array_equal(backend.get(view), np.ones((2, 2)))
    del view
    assert machine.blocks == {}
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
    results = {result.graph: result for result in cli_verify.verify(found, backend)}
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
