"""`python export/build.py`: wrong commands, damaged checkpoints, interruptions, and success.

Alone: pytest tests/export/test_build_cli.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from safetensors.torch import save_file  # noqa: E402

from edgereel import plan  # noqa: E402
from edgereel.errors import EngineError  # noqa: E402
from edgereel_export.cli import main  # noqa: E402
from edgereel_export.modules.unet import UNet, UNetConfig  # noqa: E402
from edgereel_export.systems import make_a_video  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command writes by mistake lands in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def exported(tiny_make_a_video: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs exported so far; they are copied from the tiny folder, which is quick."""
    document, names = plan.load(tiny_make_a_video.folder), []

    def copied(graph: object, name: str, folder: Path, weights: object) -> plan.GraphSpec:
        spec = document.graphs[name]
        for rel in (spec.file, *spec.weights, spec.golden or ""):
            (folder / rel).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tiny_make_a_video.folder / rel, folder / rel)
        names.append(name)
        return spec

    monkeypatch.setattr("edgereel_export.folder.export", copied)
    return names


def files() -> list[Path]:
    """Every file below the present folder."""
    return sorted(path for path in Path().rglob("*") if path.is_file())


def refused(capsys: Any, code: int, *arguments: Any) -> str:
    """The error of a command that leaves no file in the present folder but what was there."""
    before = files()
    assert main([str(argument) for argument in arguments]) == code
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith("build.py: ")
    assert "Traceback" not in shown.err and not shown.out
    assert files() == before
    return str(shown.err.splitlines()[-1])


# Wrong commands


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["nothing"],
            "unknown system 'nothing'; expected one of make-a-video, ",
        ),
        (["make-a-video"], "--size is missing; expected one of shapes, published, or --checkp"),
        (["make-a-video", "--size", "huge"], "--size is huge; expected one of shapes"),
        (["make-a-video", "--size", "shapes", "--checkpoint", "x"], "exclude each other"),
        (["make-a-video", "--checkpoint", "nowhere"], "--checkpoint nowhere is no folder"),
        (["lavie", "--checkpoint", "Vchitect/LaVie"], "`hf download NAME --local-dir DIR`"),
        (["make-a-video", "engines/x"], "unexpected argument 'engines/x'; only compile takes"),
        (["shapes", "--checkpoint", "x"], "--checkpoint x has no meaning with shapes"),
        (["shapes", "--size", "huge"], "--size huge has no meaning with shapes"),
        (["compile"], "compile needs a cascade folder, for example"),
        (["compile", "x", "--out", "y"], "--out y has no meaning with compile"),
        (["compile", "x", "--temporal", "y"], "--temporal y has no meaning with compile"),
        (["compile", "x", "--super-res-high", "y"], "--super-res-high y has no meaning with"),
        (["compile", "x", "--checkpoint", "y"], "--checkpoint y has no meaning with compile"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_refused(capsys: Any, arguments: list[str], told: str) -> None:
    assert told in refused(capsys, 2, *arguments)


@pytest.mark.parametrize("arguments", [[], ["shapes", "--backend", "x"], ["shapes", "--seed"]])
def test_what_argparse_refuses(capsys: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: build.py" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: Any) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("make-a-video", "shapes", "compile", "--checkpoint"))


def test_compile_of_no_cascade_is_refused(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        assert main(["compile", folder]) != 0
        shown = capsys.readouterr().err
        assert "build.py: error: " in shown and "Traceback" not in shown


# Wrong checkpoints


@pytest.fixture
def checkpoint(tiny_make_a_video: Any, tmp_path_factory: Any) -> Path:
    """A copy of the tiny checkpoint to damage."""
    place = tmp_path_factory.mktemp("given") / "mine"
    return Path(shutil.copytree(tiny_make_a_video.checkpoint, place))


def test_an_empty_checkpoint_is_refused(capsys: Any, exported: Any, tmp_path_factory: Any) -> None:
    told = refused(capsys, 2, "make-a-video", "--checkpoint", tmp_path_factory.mktemp("empty"))
    assert "cascade.json cannot be read" in told


def test_a_truncated_checkpoint_is_refused(capsys: Any, exported: Any, checkpoint: Path) -> None:
    weights = checkpoint / "super_res_low" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    told = refused(capsys, 2, "make-a-video", "--checkpoint", checkpoint, "--out", "out/x")
    assert str(weights) in told and "half downloaded" in told


def test_a_missing_stage_is_refused(capsys: Any, exported: Any, checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "prior")
    told = refused(capsys, 2, "make-a-video", "--checkpoint", checkpoint)
    assert str(checkpoint / "prior" / "config.json") in told


def test_a_stage_of_another_kind_is_refused(capsys: Any, exported: Any, checkpoint: Path) -> None:
    """A super-resolution network in the place of the decoder: whole, but of other sizes."""
    shutil.rmtree(checkpoint / "decoder")
    shutil.copytree(checkpoint / "super_res_low", checkpoint / "decoder")
    told = refused(capsys, 2, "make-a-video", "--checkpoint", checkpoint, "--out", "out/x")
    assert "decoder" in told and "fps" in told


def test_more_channels_than_the_pixels_have_are_refused(capsys: Any, checkpoint: Path) -> None:
    """A decoder that also predicts its variance, as Karlo's own does."""
    config = json.loads((checkpoint / "decoder" / "config.json").read_text())
    config["out_channels"] = 6
    (checkpoint / "decoder" / "config.json").write_text(json.dumps(config))
    network = UNet(UNetConfig.from_json(config))
    save_file(network.state_dict(), checkpoint / "decoder" / "model.safetensors")
    told = refused(capsys, 2, "make-a-video", "--checkpoint", checkpoint, "--out", "out/x")
    assert "'decoder' cannot be computed" in told


def test_debug_shows_the_traceback(capsys: Any, exported: Any, checkpoint: Path) -> None:
    (checkpoint / "cascade.json").unlink()
    assert main(["make-a-video", "--checkpoint", str(checkpoint), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


# Wrong places


def test_a_folder_that_is_no_cascade_is_kept(capsys: Any, exported: Any, checkpoint: Path) -> None:
    Path("home").mkdir()
    Path("home/letter.txt").write_text("dear")
    told = refused(capsys, 1, "make-a-video", "--checkpoint", checkpoint, "--out", "home")
    assert "home exists and is no cascade folder" in told and not exported
    assert Path("home/letter.txt").read_text() == "dear"


@pytest.mark.parametrize("out", ["letter.txt", "letter.txt/x", "letter.txt/x/y", "/proc/edgereel"])
def test_a_place_that_cannot_be_written_is_refused(
    capsys: Any, exported: Any, checkpoint: Path, out: str
) -> None:
    Path("letter.txt").write_text("dear")
    refused(capsys, 1, "make-a-video", "--checkpoint", checkpoint, "--out", out)
    assert not exported  # told before any work
    assert Path("letter.txt").read_text() == "dear"


# Success, and what stops it


def test_a_checkpoint_becomes_a_cascade(capsys: Any, exported: Any, checkpoint: Path) -> None:
    assert main(["make-a-video", "--checkpoint", str(checkpoint)]) == 0
    out = Path("engines/make-a-video-mine")
    document = plan.load(out)
    assert (document.name, document.system) == ("make-a-video-mine", "make-a-video")
    assert exported == list(document.graphs)
    for rel in document.files:
        document.check_file(rel)
    assert f"edgereel generate {out}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_an_empty_folder_may_be_filled(exported: Any, checkpoint: Path) -> None:
    Path("new").mkdir()
    assert main(["make-a-video", "--checkpoint", str(checkpoint), "--out", "new"]) == 0
    assert plan.load("new").name == "make-a-video-mine"


@pytest.fixture
def old(exported: Any, checkpoint: Path) -> Path:
    """A cascade folder that is there already, with a build and a graph of an older version."""
    out = Path("old")
    assert main(["make-a-video", "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    (out / "builds" / "key").mkdir(parents=True)
    (out / "builds" / "key" / "decoder.engine").write_bytes(b"compiled")
    (out / "graphs" / "gone.onnx").write_bytes(b"left over")
    exported.clear()
    return out


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no links"])
def test_a_replaced_folder_keeps_its_builds(
    old: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    if not linked:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    assert main(["make-a-video", "--checkpoint", str(checkpoint), "--out", str(old)]) == 0
    assert (old / "builds" / "key" / "decoder.engine").read_bytes() == b"compiled"
    assert not (old / "graphs" / "gone.onnx").exists()
    plan.load(old)
    assert [path.name for path in Path().iterdir()] == [old.name]


STOPS = [
    (KeyboardInterrupt(), 130, "interrupted"),
    (EngineError("graph 'prior' differs."), 1, "differs"),
    (OSError(28, "No space left on device"), 1, "No space left"),
]


def stop_at(exported: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The fourth graph fails with `error`, half of it written."""
    from edgereel_export import folder

    export = folder.export

    def failing(graph: Any, name: str, *more: Any) -> plan.GraphSpec:
        spec = export(graph, name, *more)
        if len(exported) == 4:
            raise error
        return spec

    monkeypatch.setattr(folder, "export", failing)


@pytest.mark.parametrize(("error", "code", "told"), STOPS)
def test_a_stopped_export_leaves_nothing(
    capsys: Any,
    exported: list[str],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    stop_at(exported, monkeypatch, error)
    Path("out").mkdir()
    said = refused(capsys, code, "make-a-video", "--checkpoint", checkpoint, "--out", "out/new")
    assert told in said and len(exported) == 4


@pytest.mark.parametrize(("error", "code", "told"), STOPS)
def test_a_stopped_export_keeps_the_old_folder(
    capsys: Any,
    old: Path,
    exported: list[str],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    capsys.readouterr()
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    stop_at(exported, monkeypatch, error)
    assert told in refused(capsys, code, "make-a-video", "--checkpoint", checkpoint, "--out", old)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_the_script_runs_the_command() -> None:
    script = [sys.executable, str(ROOT / "export" / "build.py"), "nothing"]
    done = subprocess.run(
        script, capture_output=True, text=True, check=False, cwd=ROOT, env=_environment()
    )
    assert done.returncode == 2, done.stderr
    assert "unknown system 'nothing'" in done.stderr and "Traceback" not in done.stderr


def test_the_script_says_what_to_install(tmp_path: Path) -> None:
    """Only the runtime is installed, whose package has the exporter too."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(__name__, name=__name__)")
    script = [sys.executable, str(ROOT / "export" / "build.py"), "shapes"]
    paths = os.pathsep.join([str(tmp_path), _environment()["PYTHONPATH"]])
    environment = _environment() | {"PYTHONPATH": paths}
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "the module torch is not installed for" in done.stderr
    assert "run `pip install -e '.[ort,export]'`" in done.stderr and "Traceback" not in done.stderr


def test_checkpoints_that_an_installed_package_leaves_out(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_a_video, "CHECKPOINTS", {"shapes": Path("nowhere")})
    told = refused(capsys, 2, "shapes")
    assert "--size shapes has no checkpoint at nowhere; expected a clone of Edgereel" in told
    assert "Run `python export/build.py` in a clone" in told


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "runtime"), str(ROOT / "export")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def test_the_exported_golden_vectors_are_plain_arrays(tiny_make_a_video: Any) -> None:
    for path in sorted((tiny_make_a_video.folder / "golden").iterdir()):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(array.dtype.kind in "fiub" for array in arrays.values())
