"""Every command of README.md is run: here on the tiny cascades, or by the test that COVERED names.

A new command with a known folder is run by itself; any other fails until COVERED has it.
Alone: `pytest tests/export/test_readme.py`
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

import edgereel  # noqa: E402
from edgereel import cli, video  # noqa: E402
from edgereel_export import cli as build_cli  # noqa: E402

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and line.strip()
]
SYSTEMS = {  # of the folders that README.md builds; of `engines/shapes` see below
    "engines/mine": "make-a-video",
    "engines/zero": "text2video-zero",
    "engines/text2video-zero-shapes": "text2video-zero",
    "engines/lavie": "lavie",
    "engines/lavie-shapes": "lavie",
    "engines/emu": "emu-video",
    "engines/emu-video-shapes": "emu-video",
}
# The first words of the others, and the test that does the same; `make` and training themselves,
# and the published sizes, take minutes and are run by hand.
COVERED = {
    "make demo": "tests/export/test_shapes.py::test_a_video_shows_its_prompt",
    "make test": "tests/test_docs.py::test_every_make_target_and_extra_shown_exists",
    "python export/build.py compile": "tests/export/test_trt.py::"
    "test_every_graph_of_a_system_becomes_an_engine",
    "python export/build.py make-a-video --checkpoint karlo": "tests/export/test_karlo.py::"
    "test_trained_layers_join_the_frames",
    "edgereel generate engines/karlo": "tests/export/test_karlo.py::test_a_picture_equals_karlos",
    "python export/build.py make-a-video --size published": "tests/export/"
    "test_make_a_video_sizes.py::test_plan",
    "python export/build.py text2video-zero --size shapes": "tests/export/test_shapes.py::"
    "test_text2video_zero_moves_the_view",
    "python export/build.py lavie --size shapes": "tests/export/test_shapes.py::"
    "test_lavie_shows_its_prompt",
    "python export/build.py emu-video --size shapes": "tests/export/test_shapes.py::"
    "test_emu_video_shows_its_prompt",
    "python export/build.py emu-video --size published": "tests/export/test_emu_sizes.py::"
    "test_published_sizes",
    "python -m edgereel_export.shapes.train": "tests/export/test_shapes_training.py::"
    "test_a_trained_folder_is_read_as_lavies",
}


def folder_of(command: list[str]) -> str:
    """The cascade folder that a command works on or writes, as README.md calls it."""
    return next((word for word in command if word.startswith("engines/")), "")


def system_of(command: list[str]) -> str | None:
    """The system whose tiny cascade it is run on; the toy does for most on `engines/shapes`."""
    if folder_of(command) == "engines/shapes" and "--mode" in command:
        mode = command[command.index("--mode") + 1]
        return None if mode == "video" else "make-a-video"
    return SYSTEMS.get(folder_of(command))


def here(command: list[str]) -> bool:
    """Whether this file runs it."""
    if command[:2] == ["python", "export/build.py"]:
        return "DIR" in command and folder_of(command) in SYSTEMS
    known = {*SYSTEMS, "engines/shapes"}
    return command[0] == "edgereel" and (folder_of(command) in known or command[1] == "doctor")


def test_every_command_is_run_by_a_test() -> None:
    told = [" ".join(command) for command in COMMANDS if not here(command)]
    for line in told:
        assert any(line.startswith(start) for start in COVERED), f"no test runs: {line}"
    for start, test in COVERED.items():
        assert any(line.startswith(start) for line in told), f"not in README.md: {start}"
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_commands_in_a_sentence_have_the_flags_of_their_script() -> None:
    """Benchmarks take minutes, so only what they are called with is checked."""
    shown = re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", README)
    assert shown
    for script, words in shown:
        source = (ROOT / script).read_text(encoding="utf-8")
        for flag in re.findall(r"\s(--[a-z-]+)", words):
            assert f'"{flag}"' in source, f"{flag} of {script}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the files that README.md takes for given."""
    monkeypatch.chdir(tmp_path)
    grey = np.full((24, 16, 16, 3), 128, np.uint8)
    video.save(grey, 8, "in.mp4")
    for name in ("bear.png", "corgi.png", "dot.png"):
        video.save(grey[:1], 8, "one")
        (tmp_path / "one" / "frame_0000.png").rename(name)
    Path("prompts.txt").write_text("a red circle\na blue square\n")
    Path("prompts.jsonl").write_text('{"prompt": "a red circle", "steps": 3}\n')
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {"lora_A": torch.zeros(2, 8), "lora_B": torch.zeros(8, 2)}
    save_file({f"{layer}.{name}.weight": part for name, part in lora.items()}, "style.safetensors")
    return tmp_path


def run(command: list[str], more: list[str]) -> None:
    """`edgereel …`; what it is told to write is there."""
    words = command[1:] + (more if command[1] == "generate" else [])
    assert cli.main(words) == 0, words
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists()


def test_commands_on_a_cascade(
    tiny: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of a system in their order, for what one writes the next may read; few steps."""
    monkeypatch.setattr("edgereel_export.folder.write_folder", lambda *_, **__: None)
    given = {
        "DIR": str(tiny.checkpoint / ("base" if tiny.system == "text2video-zero" else "")),
        "canny=CONTROLNET_DIR": f"canny={tiny.checkpoint / 'depth'}",
        "30": "2",  # frames that the tiny one can add
    }
    ran = 0
    for command in COMMANDS:
        if not here(command) or system_of(command) != tiny.system:
            continue
        words = [given.get(word, word) for word in command]
        if command[0] == "python":  # up to the export, which the tests of each system have
            assert build_cli.main(words[2:]) == 0, words
        else:
            words[words.index(folder_of(command))] = str(tiny.folder)
            run(words, [] if "--steps" in words else ["--steps", "2"])
        ran += 1
    assert ran


def test_commands_on_shapes_and_on_none(
    toy: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--backend=ort", "--warmup=0", "--duration=0", "--iterations=2"]
    for command in COMMANDS:
        if (
            here(command)
            and folder_of(command) in ("", "engines/shapes")
            and not system_of(command)
        ):
            given = {"engines/shapes": str(toy), "trt": "ort"}  # without a GPU
            words = [given.get(word, word) for word in command]
            run(words + (quick if command[1] == "bench" else []), [])
    assert Path("bars.png").exists() and len(list(Path("clips").glob("*.mp4"))) >= 2


def test_the_code_in_python(toy: Path, place: Path) -> None:
    """Its comment tells the shape of the shapes cascade; the toy's is another."""
    (code,) = (block for language, block in BLOCKS if language == "python")
    assert "load(" in code
    found: dict[str, Any] = {}
    exec(code.replace("engines/shapes", str(toy)), found)
    assert found["edgereel"] is edgereel and Path("out.mp4").exists()
