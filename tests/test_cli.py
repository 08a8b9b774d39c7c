"""The command line on the toy cascade, in this process. Alone: `pytest tests/test_cli.py`."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgereel import (
    checks,
    cli,
    cli_doctor,
    cli_flags,
    cli_options,
    cli_progress,
    kernel_library,
    noise,
    plan,
    weights,
)
from edgereel.running import Progress

TOY = str(Path(__file__).parent / "data" / "toy")
ORT = ["--backend", "ort"]  # the reference, also on a machine with a GPU

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def toy() -> plan.Plan:
    return plan.load(TOY)


def test_generate_writes_the_video_and_says_what_it_is(tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "frames"
    assert cli.main(["generate", TOY, *ORT, "-p", "a dot", "-o", str(out), "--seed", "7"]) == 0
    told = capsys.readouterr().out
    images = sorted(out.iterdir())
    with Image.open(images[0]) as image:
        width, height = image.size
    assert told.startswith(f"{out}: {len(images)} frames, {width} x {height}, ")
    assert "seed 7" in told
    assert "backend ort" in told


def test_flags_may_stand_anywhere_and_use_either_dash(tmp_path: Path) -> None:
    """Three spellings of one command give the same frames."""
    commands = [
        [TOY, "-p", "x", "--guidance-scale", "2", "--steps", "3"],
        ["--steps", "3", "--guidance_scale=2", "-p", "x", TOY],
        [TOY, "--prompt=x", "--set", "steps.decoder=3", "--set", "guidance_scale=2"],
    ]
    frames = []
    for index, words in enumerate(commands):
        out = tmp_path / str(index)
        assert cli.main(["generate", *ORT, *words, "-o", str(out)]) == 0
        frames.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert frames[0] == frames[1] == frames[2]


def test_every_param_of_the_plan_is_in_the_help(toy: plan.Plan, capsys: Out) -> None:
    assert cli.main(["generate", TOY, "-h"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, param in cli_flags.pick_mode(toy, None)[1].params.items():
        for flag in cli_flags.flags(name, param):
            assert flag in told
        assert cli_flags.describe(param) in told


def test_help_without_a_folder(capsys: Out) -> None:
    assert cli.main(["generate", "-h"]) == 0
    assert "--noise" in capsys.readouterr().out
    assert cli.main(["verify", "-h"]) == 0
    assert "usage: edgereel verify DIR" in capsys.readouterr().out
    assert cli.main(["-h"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in cli.COMMANDS)


@pytest.mark.parametrize("command", ["explain", "doctor"])
def test_help_of_the_other_commands(command: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "-h"])
    assert ended.value.code == 0
    assert "usage: edgereel " + command in capsys.readouterr().out


def test_metadata_says_what_was_done(tmp_path: Path) -> None:
    told = tmp_path / "out.json"
    words = ["-p", "a dot", "-o", str(tmp_path / "out.mp4"), "--seed", "3", "--metadata", str(told)]
    assert cli.main(["generate", TOY, *ORT, *words]) == 0
    metadata = json.loads(told.read_text())
    assert metadata["seed"] == 3
    assert metadata["prompt"] == "a dot"
    assert metadata["backend"] == "ort"


@pytest.mark.parametrize("there", [True, False])
def test_kernels_are_named_and_can_be_left_out(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are installed (here a library that cannot be loaded) they are loaded, or not."""
    broken = tmp_path / "library"
    broken.touch()
    monkeypatch.setattr(kernel_library, "path", lambda: broken if there else None)
    words = ["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / "out"), "--metadata"]
    told = tmp_path / "told.json"
    assert cli.main([*words, str(told), "--no-kernels"]) == 0
    assert json.loads(told.read_text())["kernels"] == "none: standard operators"
    assert (cli.main([*words, str(told)]) == 0) is not there


def test_given_noise_takes_the_place_of_drawn_noise(tmp_path: Path, toy: plan.Plan) -> None:
    """Given the very noise that the seed draws, nothing changes; given other noise, it does."""
    _, mode = cli_flags.pick_mode(toy, None)
    name = next(op.value for stage in mode.stages for op in stage.ops if isinstance(op, plan.Noise))
    drawn = noise.normal(1, name, 0, 0, tuple(map(int, mode.values[name].shape)))
    clips = []
    for given in (None, drawn, drawn + 1):
        out, file = tmp_path / str(len(clips)), tmp_path / "noise.npz"
        words = ["-p", "x", "-o", str(out), "--seed", "1"]
        if given is not None:
            np.savez(file, **{name: given})
            words += ["--noise", str(file)]
        assert cli.main(["generate", TOY, *ORT, *words]) == 0
        clips.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert clips[0] == clips[1]
    assert clips[0] != clips[2]


def test_progress_in_a_log_is_one_line_per_stage(
    tmp_path: Path, toy: plan.Plan, capsys: Out
) -> None:
    assert cli.main(["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / "a.mp4")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stage ")]
    stages = cli_flags.pick_mode(toy, None)[1].stages
    assert [line.split()[2] for line in lines] == [stage.name for stage in stages]


def test_quiet_says_nothing_but_the_result(tmp_path: Path, capsys: Out) -> None:
    assert (
        cli.main(["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / "a.mp4"), "--quiet"]) == 0
    )
    told = capsys.readouterr()
    assert told.err == ""
    assert len(told.out.splitlines()) == 1


def test_progress_bar_on_demand(tmp_path: Path, capsys: Out) -> None:
    assert (
        cli.main(["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / "a.mp4"), "--progress"])
        == 0
    )
    told = capsys.readouterr().err
    assert re.search(r"stage \d/\d .*%.* elapsed, .* left", told)
    assert told.endswith("\x1b[K")  # the line is gone when the work is done


def progress(done: float, **changes: int) -> Progress:
    """25 steps in the second of three stages, 65 seconds in."""
    whole = {"stage_index": 1, "stages": 3, "step": 12, "steps": 25, "chunk": 0, "chunks": 1}
    return Progress(stage="decoder", done=done, seconds=65.0, **(whole | changes))


def test_progress_line_shows_stage_step_elapsed_and_left() -> None:
    line = cli_progress.line(progress(0.25), 100)
    assert line.startswith("stage 2/3 decoder step 12/25 [")
    assert line.endswith("25% 1:05 elapsed, 3:15 left")
    assert "chunk 2/4" in cli_progress.line(progress(0.25, chunk=1, chunks=4), 100)


@pytest.mark.parametrize("width", [10, 40, 60, 79, 200])
@pytest.mark.parametrize("done", [0.0, 0.3, 1.0])
def test_progress_line_fits_the_terminal(width: int, done: float) -> None:
    assert len(cli_progress.line(progress(done), width)) <= width


def test_clock() -> None:
    assert [cli_progress.clock(s) for s in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]


def test_explain_names_everything_in_the_plan(toy: plan.Plan, capsys: Out) -> None:
    assert cli.main(["explain", TOY]) == 0
    told = capsys.readouterr().out
    _, mode = cli_flags.pick_mode(toy, None)
    for name in (*mode.params, *(stage.name for stage in mode.stages)):
        assert name in told
    graphs = {
        op.graph
        for stage in mode.stages
        for op in stage.ops
        if isinstance(op, plan.Run | plan.Denoise)
    }
    for graph in graphs:
        assert toy.graphs[graph].file in told


def test_explain_says_which_graphs_no_build_computes_in_half(
    toy: plan.Plan, edit_toy: Callable[..., Path], capsys: Out
) -> None:
    marked, *others = (spec.file for spec in toy.graphs.values())
    name = next(iter(toy.graphs))
    folder = edit_toy(lambda document: document["graphs"][name].update(precision="fp32"))
    assert cli.main(["explain", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("always fp32") for line in lines if marked in line] == [True]
    assert others and not any("always" in line for line in lines if marked not in line)


def test_weights_are_counted_as_onnx_counts_them(toy: plan.Plan) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    floats = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    for graph in toy.graphs.values():
        path = toy.folder / graph.file
        wanted: dict[str, int] = {}
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            if tensor.data_type in floats:
                dtype = floats[tensor.data_type]
                wanted[dtype] = wanted.get(dtype, 0) + int(np.prod(tensor.dims))
        assert weights.weights(path) == wanted


@pytest.mark.parametrize(
    "content", [b"\x3a\xff\x01", b"\xff" * 20, b"\x07", b"not protobuf at all"]
)
def test_weights_of_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        weights.weights(path)


def test_verify_fails_on_a_graph_that_computes_something_else(
    toy: plan.Plan, tmp_path: Path, capsys: Out
) -> None:
    """The reference is moved by more than the tolerance: as if the graph were wrong."""
    copy = tmp_path / "toy"
    shutil.copytree(TOY, copy)
    graph, spec = next((name, spec) for name, spec in toy.graphs.items() if spec.golden)
    golden = copy / str(spec.golden)
    with np.load(golden) as file:
        arrays = {
            key: array + array.dtype.type(key.startswith("out.")) for key, array in file.items()
        }
    np.savez(golden, **arrays)
    text = (copy / "plan.json").read_text()
    digest = hashlib.sha256(golden.read_bytes()).hexdigest()
    (copy / "plan.json").write_text(text.replace(toy.files[str(spec.golden)], digest))
    assert cli.main(["verify", str(copy), *ORT, "--no-run"]) == 1
    told = capsys.readouterr().out
    assert re.search(rf"{graph} .* WRONG", told)
    assert re.search(rf"Wrong on this device: graph {graph}: \w+ differs by 1, allowed.*\.$", told)


def compare(got: object, expected: object, share: float = 1e-3) -> checks.Graph:
    return checks.compare(("g", "fp32", ""), "o", np.asarray(got), np.asarray(expected), share)


def test_compare_measures_error_and_psnr() -> None:
    result = compare(np.array([1.0, 2.1], np.float32), np.array([1.0, 2.0], np.float32))
    assert result.max_abs == pytest.approx(0.1, rel=1e-5)  # float32 inputs
    assert result.psnr_db == pytest.approx(10 * np.log10(4 / (0.01 / 2)), abs=1e-3)
    assert not result.ok
    assert compare([1.0, 2.0], [1.0, 2.0]).ok


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_compare_never_accepts_what_is_not_finite(bad: float) -> None:
    result = compare([bad, 0.0], [0.0, 0.0], share=np.inf)
    assert not result.ok
    assert not result.finite


def test_compare_accepts_one_level_of_a_pixel_but_not_two() -> None:
    black = np.zeros(4, np.uint8)
    assert compare(black + np.uint8(1), black).ok
    assert not compare(black + np.uint8(2), black).ok


def test_compare_finds_black_output() -> None:
    reference = np.linspace(-1, 1, 50, dtype=np.float32)
    assert not compare(np.zeros(50, np.float32), reference, share=3e-2).ok


def test_doctor_names_every_backend(capsys: Out) -> None:
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in (
        "python",
        "numpy",
        "onnxruntime",
        "CUDA driver",
        "ffmpeg",
        "OpenCV",
        "backend ort",
    ):
        assert word in told


class FakeCuda:
    """What the driver's library answers on a machine with one GPU."""

    cuInit = staticmethod(lambda _: 0)
    cuDeviceGet = staticmethod(lambda *_: 0)

    def cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 13000

    def cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = 1

    def cuDeviceGetName(self, name: Any, *_: object) -> None:
        name.value = b"A GPU"

    def cuDeviceTotalMem_v2(self, memory: Any, _: object) -> None:
        memory._obj.value = 8 << 30

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _: object) -> None:
        value._obj.value = {75: 8, 76: 7}[attribute]


def test_doctor_describes_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr(cli_doctor.ctypes, "CDLL", lambda _: FakeCuda())
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"CUDA driver +CUDA 13\.0", told)
    assert re.search(r"GPU 0 +A GPU, compute capability 8\.7, 8 GiB", told)


def test_doctor_without_a_driver(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cli_doctor.ctypes, "CDLL", missing)
    assert cli.main(["doctor"]) == 0
    assert re.search(r"backend trt +needs a CUDA GPU", capsys.readouterr().out)


def test_version(capsys: Out) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgereel ")


def test_no_command_shows_the_commands(capsys: Out) -> None:
    assert cli.main([]) == 2
    assert "generate" in capsys.readouterr().out


def test_debug_shows_where_an_error_came_from(capsys: Out) -> None:
    assert cli.main(["explain", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(cli.COMMANDS, "doctor", broken)
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "Traceback" not in told


def test_values_have_the_type_of_their_param(toy: plan.Plan) -> None:
    _, mode = cli_flags.pick_mode(toy, None)
    parser = cli_options.Parser("test")
    cli_flags.add_flags(parser, "video", mode)
    parsed = parser.parse_args(["-p", "7", "--seed", "18446744073709551615", "--fps", "8"])
    given = cli_flags.values(mode, parsed, ["steps=4", "unknown=5"])
    assert given == {"prompt": "7", "seed": 2**64 - 1, "fps": 8.0, "steps": 4, "unknown": "5"}
    assert isinstance(given["fps"], float)


@pytest.mark.parametrize(
    ("param", "text"),
    [
        (plan.IntParam(default=25, min=1, max=1000), "int 1..1000, default 25"),
        (plan.FloatParam(default=8.0, min=0.5), "number 0.5.., default 8"),
        (plan.TextParam(), "text, required"),
        (plan.TextParam(default=""), "text, default ''"),
        (plan.ChoiceParam(choices=("a", "b"), default="b"), "one of a, b, default 'b'"),
    ],
)
def test_describe(param: plan.Param, text: str) -> None:
    assert cli_flags.describe(param) == text


def test_a_param_named_as_our_own_option_is_reached_through_set_only() -> None:
    assert cli_flags.flags("threads", plan.IntParam(default=1)) == []
    assert cli_flags.flags("steps.sr", plan.IntParam(default=1, aliases=("sr_steps",))) == [
        "--sr-steps"
    ]
