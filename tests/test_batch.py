"""Many prompts: what is made, left alone, refused, gone on with: `pytest tests/test_batch.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import batch, cli, cli_batch
from edgereel.errors import InputError
from edgereel.pipeline import Cascade

pytest.importorskip("onnxruntime")

TOY = str(Path(__file__).parent / "data" / "toy")
Out = pytest.CaptureFixture[str]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\n  blue square left \ngreen up\n", encoding="utf-8")
    return path


def run(prompts: Path, out: Path, *words: str) -> int:
    return cli.main(["batch", TOY, str(prompts), "--out", str(out), "--steps", "2", *words])


def told(out: Path) -> dict[str, Any]:
    """The metadata of every clip, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}


def test_every_prompt_has_a_clip_with_its_seed(prompts: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "out"
    assert run(prompts, out, "--seed", "40", "--format", "png") == 0
    assert "3 of 3 clips, 3 made" in capsys.readouterr().out
    found = told(out)
    assert [(m["prompt"], m["seed"]) for m in found.values()] == [
        ("a red circle", 40),
        ("blue square left", 41),
        ("green up", 42),
    ]
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["0000", "0001", "0002"]
    from PIL import Image

    alone = edgereel.load(TOY)("green up", seed=42, steps=2).frames
    first = np.asarray(Image.open(sorted((out / "0002").glob("*.png"))[0]))
    np.testing.assert_array_equal(first, alone[0])


def test_samples_are_named_as_vbench_wants_them(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(prompts, out, "--samples", "2", "--names", "prompt") == 0
    seeds = {name: facts["seed"] for name, facts in told(out).items()}
    assert seeds == {
        "a red circle-0": 0, "a red circle-1": 1,
        "blue square left-0": 2, "blue square left-1": 3,
        "green up-0": 4, "green up-1": 5,
    }  # fmt: skip
    assert (out / "green up-1.mp4").stat().st_size > 0


def test_a_line_can_have_params_of_its_own(tmp_path: Path) -> None:
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    rows = [{"prompt": "a", "seed": 7, "guidance_scale": 1.5}, {"prompt": "red"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert run(path, out, "--guidance-scale", "4") == 0
    found = list(told(out).values())
    assert [facts["seed"] for facts in found] == [7, 1]
    assert [facts["params"]["guidance.decoder"] for facts in found] == [1.5, 4.0]


def test_a_bad_prompt_does_not_stop_the_rest(tmp_path: Path, capsys: Out) -> None:
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    path.write_text('{"prompt": "a"}\n{"prompt": "red", "steps": -3}\n{"prompt": "green"}\n')
    assert run(path, out) == 1
    shown = capsys.readouterr()
    assert "2 of 3 clips" in shown.out and "1 could not be made" in shown.err
    assert list(told(out)) == ["0000", "0002"]
    (failed,) = map(json.loads, (out / cli_batch.FAILED).read_text().splitlines())
    assert failed["name"] == "0001" and "-3" in failed["error"]
    assert run(path, out, "--resume") == 1  # it is tried again
    path.write_text('{"prompt": "a"}\n{"prompt": "red"}\n{"prompt": "green"}\n')
    assert run(path, out, "--resume") == 0
    assert not (out / cli_batch.FAILED).exists() and len(told(out)) == 3


def test_resume_makes_what_is_missing_or_was_made_otherwise(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(prompts, out) == 0
    made: list[str] = []
    original = batch.make

    def counted(cascade: Cascade, clip: batch.Clip, *words: Any) -> batch.Outcome:
        made.append(clip.name)
        return original(cascade, clip, *words)

    monkeypatch.setattr(batch, "make", counted)
    assert run(prompts, out, "--resume") == 0 and made == []
    (out / "0001.json").write_text('{"batch": ')  # the machine went down
    (out / "0002.json").unlink()
    assert run(prompts, out, "--resume") == 0 and made == ["0001", "0002"]
    made.clear()
    assert run(prompts, out, "--resume", "--seed", "5") == 0 and len(made) == 3
    made.clear()
    assert run(prompts, out) == 0 and len(made) == 3


def test_a_clip_that_is_interrupted_is_not_there(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    out = tmp_path / "out"
    original = edgereel.Video.save

    def stop(self: edgereel.Video, path: Path) -> Path:
        if Path(path).stem == "0001":
            raise KeyboardInterrupt
        return original(self, path)

    monkeypatch.setattr(edgereel.Video, "save", stop)
    assert run(prompts, out) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert list(told(out)) == ["0000"] and not (out / "0001.mp4").exists()


def test_processes_make_what_one_makes(prompts: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(prompts, one) == 0 and run(prompts, two, "--workers", "2") == 0
    for path in sorted(one.glob("*.mp4")):
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert run(prompts, two, "--workers", "2", "--resume") == 0


def test_a_process_that_dies_is_told(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setattr(cli_batch, "_make", _die)
    assert run(prompts, tmp_path / "out", "--workers", "2") == 1
    assert "Use fewer --workers, and --resume for the rest" in capsys.readouterr().err


def _die(*_: object) -> None:
    os._exit(9)


@pytest.mark.parametrize(
    ("name", "text", "words", "problem"),
    [
        ("a.txt", None, (), "cannot be read.*expected a text file with one prompt"),
        ("a.txt", "\n \n", (), "has no prompts; expected one on each line"),
        ("a.txt", "a\na\n", ("--names", "prompt"), "line 2: another clip is named 'a-0' already"),
        ("a.jsonl", '{"prompt": "a"}\nred\n', (), "line 2: no JSON.*expected an object such as"),
        ("a.jsonl", '{"prompt": "a", "seed": "x"}', (), "line 1: seed is 'x'; expected a whole"),
        ("a.txt", "a\n", ("--samples", "0"), "samples is 0; expected at least 1"),
        ("a.txt", "a\n", ("--workers", "0"), "--workers is 0; expected at least 1"),
        ("a.txt", "a\n", ("--mode", "no"), "has no mode 'no'"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, capsys: Out, name: str, text: str | None, words: tuple[str, ...], problem: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert run(path, tmp_path / "out", *words) == 2
    import re

    assert re.search(problem, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_help_shows_the_params_of_the_cascade(capsys: Out) -> None:
    assert cli.main(["batch", TOY, "-h"]) == 0
    assert "--guidance-scale" in capsys.readouterr().out


def test_seeds_go_round(prompts: Path) -> None:
    found = batch.clips(prompts, {"seed": 2**64 - 2})
    assert [clip.params["seed"] for clip in found] == [2**64 - 2, 2**64 - 1, 0]
    with pytest.raises(InputError, match="samples is 0"):
        batch.clips(prompts, {}, samples=0)


@pytest.mark.filterwarnings("ignore")  # of Ray, about its own settings
def test_a_ray_cluster_makes_what_one_process_makes(prompts: Path, tmp_path: Path) -> None:
    """On a cluster of this machine: the same files, resumed, a bad line told."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (edgereel[ray])")
    one, many = tmp_path / "one", tmp_path / "many"
    assert run(prompts, one) == 0
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        words = ("--ray", "--workers", "2", "--threads", "1")
        assert run(prompts, many, *words) == 0
        for path in sorted(one.glob("*.mp4")):
            assert path.read_bytes() == (many / path.name).read_bytes()
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"prompt": "a red circle"}\n{"prompt": "red", "steps": -3}\n')
        assert run(bad, tmp_path / "bad", *words) == 1
        assert list(told(tmp_path / "bad")) == ["0000"]
    finally:
        ray.shutdown()


def test_without_ray_the_command_is_named(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(prompts, tmp_path / "out", "--ray") == 1
    assert "pip install 'edgereel[ray]'" in capsys.readouterr().err
