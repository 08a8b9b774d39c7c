"""Fixtures for all tests, and skips with their reason where a requirement is missing."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cpp_probe
import device_ops_host
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, read when torch and others are imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
TOY = Path(__file__).parent / "data" / "toy"
EditCascade = Callable[[Path, Callable[[dict[str, Any]], object]], Path]
EditToy = Callable[[Callable[[dict[str, Any]], object]], Path]


@functools.cache
def missing(marker: str) -> str:
    """Why tests with this marker cannot run here; empty if they can."""
    if marker == "torch" and importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    libraries = ("tensorrt", "tensorrt_rtx")
    if marker == "trt" and not any(importlib.util.find_spec(name) for name in libraries):
        return "neither tensorrt nor tensorrt_rtx is installed"
    if marker == "gpu":
        count = ctypes.c_int(0)
        try:
            cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return "no CUDA driver"
        if (
            cuda.cuInit(0) != 0
            or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0
            or not count.value
        ):
            return "no CUDA device"
    return ""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make stay in one process, the largest groups first."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: (-_WEIGHT.get(_group(item), 0), _group(item)))


_WEIGHT = {  # exports that many tests need
    "test_shapes.py": 5,
    "lavie": 4,
    "emu-video": 3,
    "text2video-zero": 2,
    "test_karlo.py": 2,
    "make-a-video": 1,
}


def _group(item: pytest.Item) -> str:
    """The system whose tiny cascade a test needs, or its file."""
    call = getattr(item, "callspec", None)
    if call is not None and "tiny" in call.params:
        return str(call.params["tiny"])
    needed = [name for name in getattr(item, "fixturenames", ()) if name.startswith("tiny_")]
    for system in _WEIGHT:
        if f"tiny_{system.replace('-', '_')}" in needed:
            return system
    return item.path.name


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if reason := missing(mark.name):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def toy() -> Path:
    """The toy cascade; see tests/data/make_toy.py."""
    return TOY


@pytest.fixture
def edit_cascade(tmp_path: Path) -> EditCascade:
    """A function that copies a cascade folder with its plan changed and returns the copy."""

    def edit(source: Path, change: Callable[[dict[str, Any]], object]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(source, folder, dirs_exist_ok=True)
        document = json.loads((source / "plan.json").read_text())
        change(document)
        (folder / "plan.json").write_text(json.dumps(document))
        return folder

    return edit


@pytest.fixture
def edit_toy(edit_cascade: EditCascade) -> EditToy:
    """`edit_cascade` of the toy cascade."""
    return functools.partial(edit_cascade, TOY)


class FakeCuda:
    """Host memory in place of device memory; what is queued happens at once.

    `told` has every call in order, with what a test may want to see of it.
    """

    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrMemoryPoolsSupported=115)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking, cudaEventDefault = 1, 0
    cudaEventBlockingSync, cudaEventDisableTiming = 1, 2

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}  # device memory
        self.pinned: dict[int, Any] = {}  # page-locked host memory
        self.events: dict[int, int] = {}  # event -> moment it was recorded, 0 before
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.capturing: list[Callable[[], object]] | None = None
        self.pooled, self.can_capture, self.streams = 1, True, 0
        self.told: list[tuple[Any, ...]] = []

    @property
    def waits(self) -> int:
        """How often the host waited for all that was queued."""
        return sum(call[0] == "wait" for call in self.told)

    def queue(self, work: Callable[[], object]) -> None:
        """Work of an engine on the stream: done at once, or part of the graph that is captured."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def cudaSetDevice(self, _: int) -> tuple[int]:
        return (0,)

    def cudaDeviceGetAttribute(self, attribute: int, _: int) -> tuple[int, int]:
        assert attribute == 115
        return 0, self.pooled

    def cudaStreamCreateWithFlags(self, _: int) -> tuple[int, int]:
        self.streams += 1
        return 0, 77

    def cudaStreamDestroy(self, _: int) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._take(self.blocks, size)

    def cudaMallocAsync(self, size: int, stream: int) -> tuple[int, int]:
        assert stream == 77 and self.pooled
        return self._take(self.blocks, size)

    def cudaFree(self, address: int) -> tuple[int]:
        assert not self.pooled
        del self.blocks[address]
        return (0,)

    def cudaFreeAsync(self, address: int, _: int) -> tuple[int]:
        assert self.pooled
        del self.blocks[address]
        return (0,)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return self._take(self.pinned, size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.pinned[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, _: int) -> tuple[int]:
        assert kind in (1, 2, 3) and self.capturing is None
        # A copy from memory that is not page-locked would make the host wait.
        assert kind != 1 or any(a <= source < a + len(b) for a, b in self.pinned.items())
        ctypes.memmove(to, source, size)
        self.told.append(("copy", kind, size))
        return (0,)

    def cudaMemcpy2DAsync(
        self, to: int, to_pitch: int, source: int, pitch: int, width: int, rows: int, kind: int,
        _: int,
    ) -> tuple[int]:  # fmt: skip
        assert kind == 3 and width <= min(pitch, to_pitch) and self.capturing is None
        for row in range(rows):
            ctypes.memmove(to + row * to_pitch, source + row * pitch, width)
        self.told.append(("copy 2d", width, rows))
        return (0,)

    def cuModuleLoadData(self, ptx: bytes) -> tuple[int, str]:
        assert b".version" in ptx and ptx.endswith(b"\0")
        return 0, ptx.decode()

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[int, str]:
        assert f".entry {name.decode()}(" in module
        return 0, name.decode()

    def cuLaunchKernel(self, kernel: str, *words: Any) -> tuple[int]:
        (*grid, block, _, _), (_, stream, (values, types), _) = words[:6], words[6:]
        assert stream == 77 and grid[1:] == [1, 1] and self.capturing is None
        device_ops_host.run(kernel, grid[0], block, values, types)
        self.told.append(("kernel", kernel))
        return (0,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, 3 << 30, 4 << 30

    def cudaStreamSynchronize(self, _: int) -> tuple[int]:
        self.told.append(("wait",))
        return (0,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        event = 1000 + len(self.told)
        self.told.append(("event", event, flags))
        self.events[event] = 0
        return 0, event

    def cudaEventRecord(self, event: int, _: int) -> tuple[int]:
        self.told.append(("record", event))
        self.events[event] = len(self.told)
        return (0,)

    def cudaEventQuery(self, event: int) -> tuple[int]:
        return (0 if self.events[event] else 600,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        self.told.append(("wait for", event))
        return (0,)

    def cudaEventElapsedTime(self, start: int, stop: int) -> tuple[int, float]:
        return 0, 1000.0 * (self.events[stop] - self.events[start])

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        del self.events[event]
        return (0,)

    def cudaStreamBeginCapture(self, _: int, mode: int) -> tuple[int]:
        assert mode == 1 and self.capturing is None
        self.capturing = []
        return (0,)

    def cudaStreamEndCapture(self, _: int) -> tuple[int, int]:
        assert self.capturing is not None
        graph, self.capturing = self.capturing, None
        if not self.can_capture:
            return 901, 0
        self.told.append(("capture",))
        self.graphs[len(self.told)] = graph
        return 0, len(self.told)

    def cudaGraphInstantiate(self, graph: int, _: int) -> tuple[int, int]:
        self.graphs[-graph] = self.graphs[graph]
        return 0, -graph

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    def cudaGraphLaunch(self, graph: int, _: int) -> tuple[int]:
        self.told.append(("replay", graph))
        for work in self.graphs[graph]:
            work()
        return (0,)

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        return 0, b"cudaErrorMemoryAllocation" if error == 2 else b"cudaErrorUnknown"

    def _take(self, blocks: dict[int, Any], size: int) -> tuple[int, int]:
        if size > 1 << 30:
            return 2, 0
        block = ctypes.create_string_buffer(size + 256)
        address = -(-ctypes.addressof(block) // 256) * 256
        blocks[address] = block
        return 0, address


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """cuda-python as the backends see it, without a GPU."""
    from edgereel.backends import cuda, device_ops

    fake = FakeCuda()
    monkeypatch.setattr(cuda, "runtime_api", lambda: fake)
    monkeypatch.setattr(device_ops, "driver_api", lambda: fake)
    return fake


@pytest.fixture(scope="session")
def cpp() -> Iterator[cpp_probe.Probe]:
    """The C++ runtime, built with sanitizers; leaks are found when it ends."""
    if reason := cpp_probe.missing():
        pytest.skip(reason)
    probe = cpp_probe.Probe(cpp_probe.built() / "probe")
    yield probe
    code, told = probe.close()
    assert code == 0, told
