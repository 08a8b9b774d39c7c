"""The trained cascade that comes with Edgereel. Alone: pytest tests/export/test_shapes.py

It is exported once; what its videos show is read from their pixels by benchmarks/shapes_measure.py.
The figures over all prompts are the benchmark's (benchmarks/shapes_quality.py); here a few prompts
prove that checkpoint, exporter and runtime belong together.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")

from edgereel import cli, load, noise, plan
from edgereel_export import cli as build_cli
from edgereel_export import trt, trt_report

pytestmark = [pytest.mark.torch, pytest.mark.slow]

# Graphs that only move or clip numbers: no matrix product, so float32 is kept (see precision.py).
# `pixels` is one kernel that writes integers, so no float type is told of it.
PLAIN = {"pixels": "-", "frame_batch": "Float", "keep_known": "Float"}


def _measuring() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "shapes_measure.py"
    spec = importlib.util.spec_from_file_location("shapes_measure", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shapes_measure"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "shapes"
    assert build_cli.main(["shapes", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("colour", "shape", "motion", "seed"),
    [("red", "circle", "right", 1), ("blue", "square", "still", 39)],
)
def test_a_video_shows_its_prompt(
    shapes: Path, colour: str, shape: str, motion: str, seed: int
) -> None:
    words = "standing still" if motion == "still" else f"moving {motion}"
    video = load(shapes, backend="ort")(f"a {colour} {shape} {words}", seed=seed)
    assert video.frames.shape == (76, 192, 192, 3)
    seen = _measuring().measure(video.frames)
    assert (seen.colour, seen.shape, seen.motion) == (colour, shape, motion)


def test_another_machine_makes_almost_the_same_video(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may differ elsewhere: the order of float operations, and 1 ulp of each noise value.

    Unfused graphs stand for the first. 50 dB is an error of 0.8 of 255 levels: below what is seen.
    """
    prompt = "a red circle moving right"
    here = load(shapes, backend="ort")(prompt, seed=1).frames.astype(np.float64)
    level = onnxruntime.GraphOptimizationLevel
    monkeypatch.setattr(level, "ORT_ENABLE_ALL", level.ORT_DISABLE_ALL)
    normal = noise.normal
    monkeypatch.setattr(
        noise, "normal", lambda *of: np.nextafter(normal(*of), np.inf, dtype=np.float32)
    )
    there = load(shapes, backend="ort", threads=1)(prompt, seed=1).frames
    error = np.mean((here - there) ** 2)
    assert 0 < error < 255**2 / 10**5.0


def test_every_graph_agrees_with_its_reference_on_this_device(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(shapes)]) == 0
    told = capsys.readouterr().out
    assert all(graph in told for graph in plan.load(shapes).graphs)


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
def test_every_graph_becomes_an_fp16_engine(shapes: Path) -> None:
    result = trt.build(shapes, trt.Options(compute_capabilities=("8.9",)))
    engines = result.build.record.graphs
    assert engines.keys() == plan.load(shapes).graphs.keys()
    expected = {name: PLAIN.get(name, "Half") for name in engines}
    assert {name: engine.precision for name, engine in engines.items()} == expected
    report = trt_report.table(result.build)
    assert all(name in report for name in engines)
    assert trt.build(shapes, trt.Options(compute_capabilities=("8.9",))).cached
