"""The trained cascades that come with Edgereel. Alone: pytest tests/export/test_shapes.py

Each is exported once; what its videos show is read from their pixels by shapes_measure.py. The
figures over all prompts are those of benchmarks/shapes_quality.py and zero_quality.py; here a few
prompts prove that checkpoint, exporter and runtime belong together.
"""

from __future__ import annotations

import importlib
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
PLACED = [f"{which}_known" for which in ("every", "first", "last", "ends", "keep")]
PLAIN = {
    "pixels": "-",
    "both_pictures": "-",
    **dict.fromkeys((*PLACED, "frame_batch", "given_clip", "clip_rate"), "Float"),
}


def _script(name: str) -> ModuleType:
    """A script of benchmarks/, found as when it is run: by its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "shapes"
    assert build_cli.main(["shapes", "--out", str(folder)]) == 0
    return folder


def test_a_video_shows_its_prompt(shapes: Path) -> None:
    video = load(shapes, backend="ort")("a red circle moving right", seed=1)
    assert video.frames.shape == (76, 192, 192, 3)
    seen = _script("shapes_measure").measure(video.frames)
    assert (seen.colour, seen.shape, seen.motion) == ("red", "circle", "right")


def test_text2video_zero_moves_the_view(tmp_path: Path) -> None:
    """A shape keeps colour and form while the view moves, with the checkpoint's own defaults."""
    folder = tmp_path / "zero"
    assert build_cli.main(["text2video-zero", "--size", "shapes", "--out", str(folder)]) == 0
    cascade = load(folder, backend="ort")
    asked = {"motion_x": 12.0, "motion_y": -8.0}
    video = cascade("a yellow square", seed=10, steps=25, **asked)
    seen = _script("shapes_measure").measure(video.frames)
    assert (seen.colour, seen.shape, seen.empty) == ("yellow", "square", 0)
    moved = _script("zero_quality").moved(video.frames, tuple(asked.values()))
    assert moved == pytest.approx(1.0, abs=0.2)


def test_lavie_shows_its_prompt(tmp_path: Path) -> None:
    """Only the base stage, as the others cost minutes here."""
    folder = tmp_path / "lavie"
    words = ["lavie", "--size", "shapes", "--mode", "video", "--out", str(folder)]
    assert build_cli.main(words) == 0
    video = load(folder, backend="ort")("a blue triangle moving up", seed=1)
    assert video.frames.shape == (16, 64, 64, 3)
    seen = _script("shapes_measure").measure(video.frames)
    assert (seen.colour, seen.shape, seen.motion) == ("blue", "triangle", "up")


def test_emu_video_shows_its_prompt(tmp_path: Path) -> None:
    """Text to a picture, which a video begins with; with fewer steps than the checkpoint's own."""
    folder = tmp_path / "emu"
    words = ["emu-video", "--size", "shapes", "--mode", "video", "--out", str(folder)]
    assert build_cli.main(words) == 0
    few = {"steps": 8, "steps.picture": 12}
    video = load(folder, backend="ort")("a green square moving down", seed=1, params=few)
    assert video.frames.shape == (8, 128, 128, 3)
    seen = _script("shapes_measure").measure(video.frames)
    assert (seen.colour, seen.shape, seen.motion) == ("green", "square", "down")


def test_another_machine_makes_almost_the_same_video(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may differ elsewhere: the order of float operations, and 1 ulp of each noise value.

    Unfused graphs stand for the first. 50 dB is an error of 0.8 of 255 levels: below what is seen.
    """
    prompt = "a red circle moving right"
    few = {"steps.decoder": 6, "steps.interpolation": 2, "steps.super_res_low": 1}
    here = load(shapes, backend="ort")(prompt, seed=1, params=few).frames.astype(np.float64)
    level = onnxruntime.GraphOptimizationLevel
    monkeypatch.setattr(level, "ORT_ENABLE_ALL", level.ORT_DISABLE_ALL)
    normal = noise.normal
    monkeypatch.setattr(
        noise, "normal", lambda *of: np.nextafter(normal(*of), np.inf, dtype=np.float32)
    )
    there = load(shapes, backend="ort", threads=1)(prompt, seed=1, params=few).frames
    error = np.mean((here - there) ** 2)
    assert 0 < error < 255**2 / 10**5.0


def test_every_graph_agrees_with_its_reference_on_this_device(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(shapes), "--no-run"]) == 0
    told = capsys.readouterr().out
    assert all(graph in told for graph in plan.load(shapes).graphs)


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
def test_every_graph_becomes_an_fp16_engine(shapes: Path) -> None:
    result = trt.build(shapes, trt.Options(compute_capabilities=("8.9",)))
    engines = result.build.record.graphs
    assert engines.keys() == plan.load(shapes).graphs.keys()
    expected = {name: PLAIN.get(name, "Half") for name in engines}
    assert {name: engine.float_type for name, engine in engines.items()} == expected
    report = trt_report.table(result.build)
    assert all(name in report for name in engines)
    assert trt.build(shapes, trt.Options(compute_capabilities=("8.9",))).cached
