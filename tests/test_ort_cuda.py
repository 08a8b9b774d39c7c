"""The ort-cuda backend on fake device memory: all but CUDA itself. `pytest tests/test_ort_cuda.py`

ONNX Runtime's provider for CPUs takes the place of that for GPUs.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import cli
from edgereel.backends import ort_cuda, trt_library

onnxruntime = pytest.importorskip("onnxruntime")
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]
PROMPT = "a red circle"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> Any:
    """A machine with a GPU and onnxruntime-gpu, both fake."""
    gpu = trt_library.Device("Fake GPU", "8.9")
    monkeypatch.setattr(ort_cuda, "device", lambda: gpu)
    monkeypatch.setattr(ort_cuda, "runtime_api", lambda: fake_cuda)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort_cuda.Engine, "place", "cpu")
    sessions = []
    session = onnxruntime.InferenceSession

    def opened(path: str, options: Any, providers: Any = None) -> Any:
        sessions.append(providers)
        if fake_cuda.refuses_graphs and "enable_cuda_graph" in str(providers):
            raise RuntimeError("a node is on the CPU")
        return session(path, options, providers=PROVIDERS[1:])

    class Options(onnxruntime.RunOptions):
        def add_run_config_entry(self, key: str, value: str) -> None:
            super().add_run_config_entry(key, value)
            if key == "gpu_graph_id":
                self.graph = int(value)

    run = onnxruntime.InferenceSession.run_with_iobinding

    def counted(self: Any, binding: Any, *options: Any) -> None:
        fake_cuda.graph_ids.extend(o.graph for o in options)
        run(self, binding, *options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(onnxruntime, "RunOptions", Options)
    monkeypatch.setattr(session, "run_with_iobinding", counted)
    fake_cuda.sessions, fake_cuda.graph_ids, fake_cuda.refuses_graphs = sessions, [], False
    return fake_cuda


def test_a_video_is_that_of_the_cpu(machine: Any, toy: Path) -> None:
    """The same engines on the same noise; the sampling loop does not wait for the device."""
    expected = edgereel.load(toy, backend="ort")(PROMPT, seed=3).frames
    machine.sessions.clear()
    cascade = edgereel.load(toy, backend="ort-cuda")
    waits = []
    for steps in (4, 12):
        machine.told.clear()
        video = cascade(PROMPT, seed=3, steps=steps)
        waits.append(machine.waits)
    np.testing.assert_array_equal(cascade(PROMPT, seed=3).frames, expected)
    assert waits[0] == waits[1]
    assert video.metadata["backend"] == "ort-cuda"
    assert not cascade._interpreter.backend.has_kernels  # those for a CPU
    options = {"device_id": "0", "user_compute_stream": "77", "enable_cuda_graph": "1"}
    assert machine.sessions and all(
        providers == [(PROVIDERS[0], options), PROVIDERS[1]] for providers in machine.sessions
    )


TRACE = Path(__file__).parent / "data" / "trace"
TILES: dict[str, Any] = {
    "mode": "tiles", "frames": 5, "height": 28, "width": 24, "steps": 2, "seed": 3,
    "frames_at_once": 3, "shared_frames": 1, "tile": 3, "shared_sides": 1,
}  # fmt: skip


def test_values_stay_on_the_device(machine: Any) -> None:
    """Between stages, chunks and tiles that overlap: one answer a loop comes back, and the frames.

    They are those of the CPU to the last bit.
    """
    expected = edgereel.load(TRACE, backend="ort")(**TILES).frames
    cascade = edgereel.load(TRACE, backend="ort-cuda")
    machine.told.clear()
    video = cascade(**TILES)
    np.testing.assert_array_equal(video.frames, expected)
    sizes = [call[2] for call in machine.told if call[:2] == ("copy", 2)]
    assert len(sizes) > 9 and set(sizes[:-1]) == {4} and sizes[-1] == expected.nbytes
    assert ("kernel", "mix_uint8") in machine.told  # parts of frames faded into each other


def test_noise_is_added_to_values_on_the_device(machine: Any, toy: Path) -> None:
    """Its mode `video` has a `renoise`, and chunks."""
    cascade = edgereel.load(toy, backend="ort-cuda")
    machine.told.clear()
    video = cascade(PROMPT, seed=3)
    assert ("kernel", "mix_float32") in machine.told
    sizes = [call[2] for call in machine.told if call[:2] == ("copy", 2)]
    assert set(sizes[:-1]) == {4} and sizes[-1] == video.frames.nbytes


def test_verify_sees_what_each_call_made(
    machine: Any, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Buffers that steps write in turn are read before they are written again."""
    assert cli.main(["verify", str(toy), "--backend", "ort-cuda", "--steps", "8"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"decoder +decoder +8 +0 +0 ", told) and "18 calls of a run" in told


def test_calls_that_come_again_have_numbers(machine: Any, toy: Path) -> None:
    """-1 is not captured; what is bound to a number never changes."""
    cascade = edgereel.load(toy, backend="ort-cuda")
    cascade(PROMPT, seed=3, steps=8, mode="video")
    at = machine.graph_ids.index(1)
    # text; the first three steps, whose buffers are new or seen once; then two sets in turn
    assert machine.graph_ids[: at + 5] == [-1] * at + [1, 2, 1, 2, 1] and at == 4
    assert max(machine.graph_ids) <= 4


def test_a_graph_that_cannot_be_captured_runs_without(machine: Any, toy: Path) -> None:
    machine.refuses_graphs = True
    expected = edgereel.load(toy, backend="ort")(PROMPT).frames
    cascade = edgereel.load(toy, backend="ort-cuda")
    np.testing.assert_array_equal(cascade(PROMPT).frames, expected)
    assert {"enable_cuda_graph" in p[0][1] for p in machine.sessions[-2:]} == {True, False}


def test_tensorrt_keeps_its_engines_beside_ours(
    machine: Any, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = ["TensorrtExecutionProvider", *PROVIDERS]
    with pytest.raises(edgereel.BackendUnavailable, match="without its TensorrtExecutionProvider"):
        edgereel.load(toy, backend="ort-tensorrt")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    cascade = edgereel.load(toy, backend="ort-tensorrt")
    video = cascade(PROMPT)
    stream = {"device_id": "0", "user_compute_stream": "77"}
    kept = str(toy / "builds" / "ort-tensorrt")
    cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": kept}
    assert machine.sessions[-1] == [
        ("TensorrtExecutionProvider", stream | cache),
        ("CUDAExecutionProvider", stream),
        "CPUExecutionProvider",
    ]
    assert video.metadata["provider"] == "TensorrtExecutionProvider"


def test_tensorrt_rtx_is_a_plugin(machine: Any, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is registered once; a machine without a GPU it can use is told so."""
    with pytest.raises(
        edgereel.BackendUnavailable,
        match=r"pip install 'edgereel\[ort\]' onnxruntime-ep-nv-tensorrt-",
    ):
        edgereel.load(toy, backend="ort-tensorrt-rtx")
    name, told = "NvTensorRTRTXExecutionProvider", list[Any]()
    plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.__spec__ = importlib.machinery.ModuleSpec(plugin.__name__, None)
    plugin.get_ep_name = lambda: name  # type: ignore[attr-defined]
    plugin.get_library_path = lambda: "/lib/rtx.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    devices: list[Any] = []
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)

    def register(*words: str) -> None:
        told.append(words)
        devices.extend(machine.found)

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)

    class Options(onnxruntime.SessionOptions):
        def add_provider_for_devices(self, chosen: Any, options: dict[str, str]) -> None:
            told.append((chosen, options))

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    machine.found = []
    with pytest.raises(edgereel.EngineError, match="finds no GPU it can use"):
        edgereel.load(toy, backend="ort-tensorrt-rtx")(PROMPT)
    told.clear()
    machine.found = [SimpleNamespace(ep_name="other"), SimpleNamespace(ep_name=name)]
    edgereel.load(toy, backend="ort-tensorrt-rtx")(PROMPT)
    options = {
        "device_id": "0",
        "user_compute_stream": "77",
        "has_user_compute_stream": "1",
        "nv_runtime_cache_path": str(toy / "builds" / "ort-tensorrt-rtx"),
    }
    assert told[0] == (name, "/lib/rtx.so")
    assert told[1:] == [([machine.found[1]], options)] * (len(told) - 1) and len(told) > 2


def test_memory_is_that_of_the_gpu(machine: Any, toy: Path) -> None:
    backend = ort_cuda.OrtCuda(edgereel.plan.load(toy))
    assert backend.free_memory() == 3 << 30
    assert backend.describe()["device"] == "Fake GPU (compute capability 8.9)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS[1:]),
            r"without its CUDAExecutionProvider; pip uninstall onnxruntime onnxruntime-gpu, then",
        ),
        (lambda p: p.setattr(ort_cuda, "device", lambda: None), "no CUDA GPU answers here"),
        (
            lambda p: p.setattr(importlib.util, "find_spec", lambda _: None),
            r"onnxruntime-gpu is not installed: pip install 'edgereel\[ort-gpu\]'",
        ),
    ],
)
def test_what_is_missing_is_named(
    machine: Any,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
    words: str,
) -> None:
    change(monkeypatch)
    with pytest.raises(edgereel.BackendUnavailable, match=f"ort-cuda cannot run .*{words}"):
        edgereel.load(toy, backend="ort-cuda")
