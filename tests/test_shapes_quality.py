"""The benchmarks of `shapes` measure what they say: `pytest tests/test_shapes_quality.py`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from edgereel import Video, cli, errors

pytestmark = pytest.mark.torch
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOY = str(Path(__file__).parent / "data" / "toy")
SMALL = {"pixels": 64, "frames": 12}
ORT = ["--cascade", TOY, "--backend", "ort", "--threads", "1"]
Out = pytest.CaptureFixture[str]


def imported(name: str) -> ModuleType:
    """A script of benchmarks/, found as when it is run: by its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


quality, truth, measuring = map(imported, ("shapes_quality", "shapes_truth", "shapes_measure"))
speed, results = imported("shapes_speed"), imported("shapes_results")
zero = imported("zero_quality")


@pytest.fixture(autouse=True)
def no_bar(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """tqdm's background thread would outlive a test."""
    monkeypatch.setattr(quality.tqdm, "monitor_interval", 0)
    yield


def test_every_ground_truth_is_measured_as_what_it_is() -> None:
    assert len(set(truth.PROMPTS)) == 90
    assert truth.misread(truth.true_clips, truth.PROMPTS, **SMALL) == []


def test_wrong_clips_are_measured_as_wrong() -> None:
    """Other colours, shapes, motions; blank, noise, flat, ending, twins. Degraded is right."""
    assert truth.misread(truth.altered_clips, truth.PROMPTS[::13], **SMALL) == []


def test_a_full_size_clip_is_measured_right() -> None:
    asked = truth.Asked("purple", "triangle", "up")
    result = measuring.measure(truth.truth(asked, frames=16))
    assert result[:3] == asked
    assert result.fit > 0.98
    assert result.move is not None
    assert result.move[1] < -0.2


def test_a_circle_is_not_nearly_a_square() -> None:
    """The templates overlap with each other as geometry says, so that a confusion is seen."""
    circle = measuring.foreground(truth.truth(truth.Asked("red", "circle", "still"), frames=1)[0])
    overlaps = {name: measuring._overlap(name, circle) for name in ("circle", "square", "triangle")}
    assert overlaps["circle"] > 0.98
    assert overlaps["square"] < 0.86
    assert overlaps["triangle"] < 0.75


def test_drift_is_seen_even_when_a_shape_returns() -> None:
    clip = truth.truth(truth.Asked("red", "circle", "right"), **SMALL)
    there_and_back = np.concatenate([clip, clip[::-1]])
    result = measuring.measure(there_and_back)
    assert result.motion == "still"
    assert result.drift is not None
    assert result.drift > 0.3


def test_the_jobs_are_all_prompts_and_a_limit_spreads_them() -> None:
    every = quality.jobs(quality.WORDINGS)
    assert [job.seed for job in every] == [*range(90), *range(90)]
    assert len({job.prompt for job in every}) == 180
    few = [job.asked for job in quality.jobs(("plain",), 15)]
    assert {name for asked in few for name in asked} >= {*measuring.COLOURS, *measuring.SHAPES}
    assert len({asked.motion for asked in few}) == 5
    assert every == quality.jobs(quality.WORDINGS)


def test_the_mp4_of_a_clip_is_decoded_as_the_clip(tmp_path: Path) -> None:
    asked = truth.Asked("blue", "square", "left")
    clip = truth.truth(asked, pixels=96, frames=12)
    Video(clip, 20.0).save(tmp_path / "clip.mp4")
    shown = quality._decoded(tmp_path / "clip.mp4")
    assert shown.shape == clip.shape
    assert np.abs(shown.astype(int) - clip).mean() < 3
    assert measuring.measure(shown)[:3] == asked


def test_a_run_counts_every_clip_and_continues(tmp_path: Path, capsys: Out) -> None:
    """On the toy cascade, whose noise shows nothing: all wrong, none dropped."""
    kept, told = tmp_path / "kept.jsonl", tmp_path / "told.json"
    command = [*ORT, "--wordings", "both", "--resume", str(kept)]
    assert quality.main([*command, "--limit", "2"]) == 0
    lines = kept.read_text().splitlines()
    assert len(lines) == 1 + 4 + 1  # key, clips, check of the mp4
    kept.write_text(kept.read_text() + '{"wording": "pl')  # as an interruption may leave it
    pictures = ["--sheet", str(tmp_path / "sheet.png"), "--strip", str(tmp_path / "strip.png")]
    capsys.readouterr()
    assert quality.main([*command, "--limit", "3", "--json", str(told), *pictures]) == 0
    assert kept.read_text().splitlines()[:6] == lines
    assert len(kept.read_text().splitlines()) == 8
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    for wording in quality.WORDINGS:
        assert summary["quality"][wording]["clips"] == 3
        assert summary["quality"][wording]["all_three_percent"] == 0
    assert summary["mp4_of_generate"]["same_size"]
    assert len(json.loads(told.read_text())["clips"]) == 6
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width <= 1600


def test_a_run_is_what_the_command_line_makes(tmp_path: Path) -> None:
    """The measured frames are those that `edgereel generate` writes."""
    job = quality.Job("plain", 7, truth.PROMPTS[7], "a red circle")
    maker = quality.Maker(TOY, ["--backend=ort", "--threads=1", "--set=steps.decoder=2"])
    clip, _ = maker.make(job, tmp_path / "clip.mp4")
    assert clip.metadata["seed"] == 7
    assert clip.metadata["params"]["steps.decoder"] == 2
    assert cli.main(["generate", *maker._line(job, str(tmp_path / "cli.mp4"))]) == 0
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "cli.mp4").read_bytes()


def test_results_of_other_settings_are_refused(tmp_path: Path, capsys: Out) -> None:
    kept = ["--resume", str(tmp_path / "kept.jsonl"), "--limit", "1"]
    assert quality.main([*ORT, *kept]) == 0
    assert quality.main([*ORT, *kept, "--set", "steps=2"]) == 2
    assert "other settings" in capsys.readouterr().err
    with pytest.raises(errors.InputError, match="another cascade"):
        results.Results(tmp_path / "kept.jsonl", {"plan": "another"})


def test_a_missing_cascade_is_an_error_message(capsys: Out) -> None:
    assert quality.main(["--cascade", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def test_speed_measures_processes_and_settings(capsys: Out, tmp_path: Path) -> None:
    command = [*ORT, "--runs", "1", "--prompts", "1", "--setting", "2,,,,", "--max-mb", "10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        assert speed.main([*command, "--resume", str(tmp_path / "steps")]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["generate"]["seconds_median"] > 0
    assert "peak memory" in told["limits_broken"][0]
    assert told["steps"][0]["params"]["steps.decoder"] == 2
    assert told["steps"][0]["clips"] == 1


def test_speed_imports_nothing_large_before_its_processes() -> None:
    """The kernel would count this process's memory as theirs."""
    code = "import sys, shapes_speed; print({'torch', 'numpy', 'edgereel'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("start", [60, 2])
@pytest.mark.parametrize("asked", [(12.0, 0.0), (-12.0, 0.0), (0.0, 24.0), (12.0, -8.0)])
def test_motion_of_a_view_is_measured_where_a_shape_leaves_it_too(
    start: int, asked: tuple[float, float]
) -> None:
    """A square of 30 pixels that moves against the view, 128 pixels being 512."""
    canvas = np.full((8, 384, 384, 3), 16, np.uint8)
    for k in range(8):
        x, y = (round(start + 128 - k * along / 4) for along in asked)
        canvas[k, y : y + 30, x : x + 30] = 240
    frames = canvas[:, 128:256, 128:256]
    assert zero.moved(frames, asked) == pytest.approx(1.0, abs=0.03)
    assert zero.moved(frames[[0] * 8], asked) == pytest.approx(0.0, abs=0.03)
    assert zero.moved(frames[::-1], asked) < 0.9
    assert zero.moved(canvas[:, :128, :128], asked) is None
