"""The ONNX Runtime backend refuses what does not fit, in a sentence: `pytest tests/test_ort.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import backends, plan
from edgereel.backends.ort import Ort

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def backend() -> Ort:
    return Ort(plan.load(Path(__file__).parent / "data" / "toy"), threads=1)


def pixels(backend: Ort, toy: Path) -> Any:
    return backend.load(toy / "graphs/pixels.onnx", plan.load(toy).graphs["pixels"])


def test_outputs_are_written_in_place_and_slices_are_views(backend: Ort, toy: Path) -> None:
    engine = pixels(backend, toy)
    clip = backend.put(np.linspace(-1, 1, 3 * 3 * 2 * 2, dtype=np.float32).reshape(3, 3, 2, 2))
    whole = backend.empty("uint8", (3, 2, 2, 3))
    engine.run({"clip": clip[0:1]}, {"frames": whole[0:1]})
    engine.run({"clip": clip[1:3]}, {"frames": whole[1:3]})
    expected = np.clip((backend.get(clip) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(backend.get(whole), expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(2, 3, 2, 3), (2, 2, 2, 4), (1, 2, 2, 3)])
def test_output_of_the_wrong_shape(backend: Ort, toy: Path, shape: tuple[int, ...]) -> None:
    clip = backend.put(np.zeros((2, 3, 2, 2), np.float32))
    with pytest.raises(edgereel.EngineError, match=r"graphs/pixels\.onnx: ONNX Runtime failed"):
        pixels(backend, toy).run({"clip": clip}, {"frames": backend.empty("uint8", shape)})


def test_graph_that_is_not_as_declared(backend: Ort, toy: Path) -> None:
    specs = plan.load(toy).graphs
    with pytest.raises(edgereel.EngineError, match=r"its inputs are .*clip.*; expected x "):
        backend.load(toy / "graphs/pixels.onnx", specs["to_clip"])


def test_damaged_graph(backend: Ort, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "pixels.onnx").write_bytes(b"not a graph")
    with pytest.raises(edgereel.EngineError, match="ONNX Runtime cannot load it"):
        backend.load(tmp_path / "pixels.onnx", plan.load(toy).graphs["pixels"])


SCRATCH = """
import sys, numpy as np
from pathlib import Path
from edgereel import plan
from edgereel.backends.ort import Ort

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmRSS"].split()[0]) * 1024

toy = Path(sys.argv[1])
backend, spec = Ort(plan.load(toy), threads=1), plan.load(toy).graphs["pixels"]
engine = backend.load(toy / spec.file, spec)
clip, frames = np.ones((4000, 3, 32, 32), "f"), np.zeros((4000, 32, 32, 3), np.uint8)
frames[...] = 1  # its pages are there
engine.run({"clip": clip[:1]}, {"frames": frames[:1]})
assert backend.free_scratch()
before = held()
engine.run({"clip": clip}, {"frames": frames})
after = held()
assert backend.free_scratch()
print(after - before, held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_scratch_is_given_back(toy: Path) -> None:
    """48 MB of values between the operators of a graph: none is held afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", SCRATCH, str(toy)], capture_output=True, text=True, check=True
    )
    while_running, afterwards = map(int, done.stdout.split())
    assert while_running > 40e6
    assert afterwards < 4e6


def test_choose(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = plan.load(toy)
    monkeypatch.setattr(backends, "BACKENDS", {"ort": "edgereel.backends.ort:Ort"})
    monkeypatch.setattr(backends, "AUTO", ("ort",))
    chosen, reason = backends.choose("auto", loaded)
    assert chosen.name == "ort" and reason.startswith("ort: ")
    with pytest.raises(edgereel.InputError, match="backend is 'cuda'; expected auto, ort"):
        backends.choose("cuda", loaded)
    find_spec: Callable[[str], object] = importlib.util.find_spec
    hidden = lambda name: None if name == "onnxruntime" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    for name in ("auto", "ort"):
        with pytest.raises(edgereel.BackendUnavailable, match="pip install 'edgereel"):
            backends.choose(name, loaded)
