"""The ort-cuda backend on fake device memory: all but CUDA itself. `pytest tests/test_ort_cuda.py`

ONNX Runtime's provider for CPUs takes the place of that for GPUs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
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
    told = []
    session = onnxruntime.InferenceSession

    def opened(*words: Any, providers: Any) -> Any:
        told.append(providers)
        return session(*words, providers=PROVIDERS[1:])

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    fake_cuda.told = told
    return fake_cuda


def test_a_video_is_that_of_the_cpu(machine: Any, toy: Path) -> None:
    """The same engines on the same noise; the sampling loop does not wait for the device."""
    expected = edgereel.load(toy, backend="ort")(PROMPT, seed=3).frames
    machine.told.clear()
    cascade = edgereel.load(toy, backend="ort-cuda")
    waits = []
    for steps in (4, 12):
        machine.waits = 0
        video = cascade(PROMPT, seed=3, steps=steps)
        waits.append(machine.waits)
    np.testing.assert_array_equal(cascade(PROMPT, seed=3).frames, expected)
    assert waits[0] == waits[1]
    assert video.metadata["backend"] == "ort-cuda"
    options = {"device_id": "0", "user_compute_stream": "77"}
    assert machine.told and all(
        providers == [(PROVIDERS[0], options), PROVIDERS[1]] for providers in machine.told
    )


def test_memory_is_that_of_the_gpu(machine: Any, toy: Path) -> None:
    backend = ort_cuda.OrtCuda(edgereel.plan.load(toy))
    assert backend.free_memory() == 3 << 30
    assert backend.describe()["device"] == "Fake GPU (compute capability 8.9)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS[1:]),
            r"without its CUDA provider; pip uninstall onnxruntime, then pip install",
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
