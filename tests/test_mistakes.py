"""The likeliest mistakes of a first hour are told with what was expected and what to do.

Those of a first hour that other tests hold to the same are in ELSEWHERE.
Alone: `pytest tests/test_mistakes.py`
"""

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from test_bad_input import TOY, told_once

from edgereel import cli, cli_doctor
from edgereel.backends import ort_cuda, trt

ROOT = Path(__file__).parents[1]
TRACE = str(ROOT / "tests" / "data" / "trace")
Setup = Callable[[Path, pytest.MonkeyPatch], object]


class Mistake(NamedTuple):
    words: str  # of the command; TOY and TRACE are cascades, PLACE is an empty folder
    told: tuple[str, ...]  # the value, what was expected, and what to do
    code: int = 2
    before: Setup = lambda *_: None


def checkpoint(place: Path, _: pytest.MonkeyPatch) -> None:
    (place / "sd").mkdir()
    (place / "sd" / "model_index.json").write_text("{}")
    (place / "one.safetensors").write_bytes(b"")


def cascades(place: Path, _: pytest.MonkeyPatch) -> None:
    shutil.copytree(TOY, place / "engines" / "toy")


def newer(place: Path, _: pytest.MonkeyPatch) -> None:
    cascades(place, _)
    path = place / "engines" / "toy" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))


def without(module: str) -> Setup:
    def hide(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        hidden = lambda name, *more: None if name == module else find(name, *more)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", hidden)
        monkeypatch.setitem(sys.modules, module, None)

    return hide


def no_gpu(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trt, ort_cuda):
        monkeypatch.setattr(module, "device", lambda: None)


def no_onnxruntime(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(place, monkeypatch)
    without("onnxruntime")(place, monkeypatch)


def text_file(place: Path, _: pytest.MonkeyPatch) -> None:
    (place / "picture.png").write_text("not a picture")


def little_memory(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgereel.backends.ort.Ort.free_memory", lambda _: 1000)


OUT, NO_CASCADE = "-p x -o PLACE/out.mp4", "expected a cascade folder with a plan.json"
MISTAKES = {
    "a folder that is not there": Mistake(
        f"generate PLACE/x/y {OUT}", ("x/y/plan.json", NO_CASCADE, "Build one with `python exp")
    ),
    "a misspelt folder": Mistake(
        f"generate PLACE/engines/tay {OUT}", ("tay", NO_CASCADE, "Give one: PLACE/engines/toy."),
        before=cascades,
    ),
    "the folder around the cascades": Mistake(
        f"generate PLACE/engines {OUT}", ("engines/plan", NO_CASCADE, "Give one: PLACE/engines/t"),
        before=cascades,
    ),
    "a folder inside a cascade": Mistake(
        f"generate TOY/graphs {OUT}", ("graphs/plan.json", NO_CASCADE, "Give one: TOY.")
    ),
    "the plan instead of its folder": Mistake(
        f"generate TOY/plan.json {OUT}", ("plan.json", NO_CASCADE, "Give the folder TOY.")
    ),
    "a checkpoint instead of what is built from it": Mistake(
        f"generate PLACE/sd {OUT}",
        ("sd/plan.json", NO_CASCADE, "`python export/build.py SYSTEM --checkpoint PLACE/sd`."),
        before=checkpoint,
    ),
    "a file of weights": Mistake(
        f"generate PLACE/one.safetensors {OUT}",
        ("Not a directory", NO_CASCADE, "This is a checkpoint; a cascade is built from it"),
        before=checkpoint,
    ),
    "a cascade of a newer version": Mistake(
        "explain PLACE/engines/toy", ("has format 2", "expected 1", "Export the cascade again"),
        before=newer,
    ),
    "building with the wrong command": Mistake(
        "compile TOY", ("'compile'", "Expected one of generate", "`python export/build.py`")
    ),
    "a misspelt flag": Mistake(
        f"generate TOY --stebs 3 {OUT}", ("--stebs 3", "expected options", "mean --steps?")
    ),
    "half a flag": Mistake(
        f"generate TOY --negative x {OUT}", ("--negative x", "expected", "mean --negative-prompt?")
    ),
    "a flag of another tool": Mistake(
        f"generate TOY --cfg 7 {OUT}", ("--cfg 7", "expected options", "`edgereel generate TOY -h`")
    ),
    "a flag of another mode": Mistake(
        "generate TRACE --video a.mp4 -o PLACE/out.mp4",
        ("--video a.mp4", "expected options", "belongs to --mode trace; add that"),
    ),
    "a text without quotation marks": Mistake(
        "generate TOY -p a red circle -o PLACE/out.mp4",
        ("red circle", "expected options", 'quotation marks, as in -p "a red circle"'),
    ),
    "a misspelt mode": Mistake(
        f"generate TOY --mode vidoe {OUT}", ("'vidoe'", "modes are video, preview", "Choose one")
    ),
    "no output": Mistake("generate TOY -p x", ("No output", "Expected -o", "Add, for example")),
    "an unknown kind of output": Mistake(
        "generate TOY -p x -o PLACE/out.avi", (".avi is not", "Expected .mp4, .gif", "Change the")
    ),
    "a folder for the output that is not there": Mistake(
        "generate TOY -p x -o PLACE/no/out.mp4",
        ("PLACE/no does not exist", "needs an existing folder", "mkdir -p PLACE/no"), 1,
    ),
    "a seed that is no number": Mistake(
        f"generate TOY --seed random {OUT}", ("'random'", "a whole number from 0", "Give a number")
    ),
    "a size that the model cannot make": Mistake(
        "generate TRACE --width 50 -o PLACE/out.mp4",
        ("width is 50", "a multiple of 4", "Choose, for example, 48."),
    ),
    "more frames than the model makes": Mistake(
        "generate TRACE --frames 5000 -o PLACE/out.mp4",
        ("frames is 5000", "from 1 to 16", "Choose a number in that range"),
    ),
    "something else than a picture": Mistake(
        "generate TRACE --mode trace --video PLACE/picture.png -o PLACE/out.mp4",
        ("picture.png", "expected a video or picture", "Convert it"), before=text_file,
    ),
    "a backend of another tool": Mistake(
        f"generate TOY --backend cuda {OUT}", ("'cuda'", "expected auto, trt", "Choose one")
    ),
    "no GPU": Mistake(
        f"generate TOY --backend trt {OUT}",
        ("trt cannot run", "it needs one and NVIDIA's driver", "or use ort, which needs no GPU"),
        1, no_gpu,
    ),
    "no ONNX Runtime": Mistake(
        f"generate TOY {OUT}",
        ("ort cannot run", "onnxruntime is not installed", "pip install 'edgereel[ort]'"),
        1, no_onnxruntime,
    ),
    "no ffmpeg": Mistake(
        f"generate TOY {OUT}",
        ("ffmpeg did not start", "imageio-ffmpeg was expected", "pip install --force-reinstall"),
        1, without("imageio_ffmpeg"),
    ),
    "too little memory": Mistake(
        "generate TRACE --width 64 -o PLACE/out.mp4 --quiet",
        ("needs ", "that are free", "fewer frames or a smaller height or a smaller width"),
        before=little_memory,
    ),
}  # fmt: skip
# file::test of mistakes that need more than a command line on a small cascade.
ELSEWHERE = {
    "no prompt": "tests/test_bad_input.py::test_wrong_options",
    "a damaged file": "tests/test_bad_input.py::test_damaged_graph",
    "a full disk": "tests/test_bad_input.py::test_full_disk_leaves_nothing",
    "a prompt of too many tokens": "tests/test_pipeline.py::"
    "test_long_prompt_is_cut_and_says_so_once",
    "a read-only or misspelt output for metadata": "tests/test_bad_input.py::"
    "test_metadata_that_cannot_be_written_is_found_first",
    "an engine of another GPU or version": "tests/test_backend_trt.py::"
    "test_another_machines_build_is_refused",
    "onnxruntime for CPUs where a GPU is": "tests/test_ort_cuda.py::test_what_is_missing_is_named",
    "a checkpoint of another system": "tests/export/test_diffusers_folder.py::"
    "test_other_folders_are_named",
    "pointers of Git LFS instead of weights": "tests/export/test_diffusers_folder.py::"
    "test_a_pointer_of_git_is_explained",
    "weights as pickles with code": "tests/export/test_checkpoints.py::"
    "test_a_pickle_with_code_is_refused_and_not_run",
    "a wrong path in C++": "tests/test_cpp_videos.py::"
    "test_a_folder_that_is_none_and_a_changed_file",
    "building without the exporter's libraries": "tests/export/test_build_cli.py::"
    "test_the_script_says_what_to_install",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistake = MISTAKES[name]
    mistake.before(tmp_path, monkeypatch)
    there = sorted(tmp_path.rglob("*"))
    places = {"TOY": TOY, "TRACE": TRACE, "PLACE": str(tmp_path)}

    def placed(text: str) -> str:
        for short, path in places.items():
            text = text.replace(short, path)
        return text

    assert cli.main(placed(mistake.words).split()) == mistake.code
    sentence = told_once(capsys)
    at = 0
    for part in map(placed, mistake.told):  # in this order
        assert part in sentence[at:], sentence
        at = sentence.index(part, at)
    assert sorted(tmp_path.rglob("*")) == there


def test_the_tests_of_other_mistakes_exist() -> None:
    for mistake, test in ELSEWHERE.items():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), mistake


def test_two_onnxruntimes_are_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The later one has overwritten files of the other, so its GPU may be there or not."""
    version = importlib.metadata.version
    both = lambda name: "1.30" if name.startswith("onnxruntime") else version(name)  # noqa: E731
    monkeypatch.setattr(cli_doctor.metadata, "version", both)
    assert cli.main(["doctor"]) == 0
    assert "pip uninstall onnxruntime onnxruntime-gpu, as both are here" in capsys.readouterr().out
