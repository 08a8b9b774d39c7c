"""Everything a user can get wrong ends in one sentence. Alone: `pytest tests/test_bad_input.py`."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgereel import cli

ROOT = Path(__file__).parents[1]
TOY = str(ROOT / "tests" / "data" / "toy")
ORT = ["--backend", "ort"]  # the reference, also on a machine with a GPU


def told_once(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on stderr, after the checks that hold for all of them."""
    told = capsys.readouterr()
    assert told.out == ""
    messages = [line for line in told.err.splitlines() if line.startswith("edgereel: ")]
    assert len(messages) == 1
    assert messages[0].startswith("edgereel: error: ")
    assert "Traceback" not in told.err
    assert "This is a bug" not in told.err
    return messages[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-p", ""], "prompt"),
        (["-p", "   "], "prompt"),
        (["-p", "x", "--steps", "0"], "error: steps is 0"),
        (["-p", "x", "--steps", "100000"], "100000"),
        (["-p", "x", "--steps", "2.5"], "2.5"),
        (["-p", "x", "--steps", "many"], "many"),
        (["-p", "x", "--guidance-scale", "-1"], "-1"),
        (["-p", "x", "--guidance-scale", "nan"], "nan"),
        (["-p", "x", "--guidance-scale", "1e400"], "inf"),
        (["-p", "x", "--seed", "-1"], "-1"),
        (["-p", "x", "--seed", str(2**64)], str(2**64)),
        (["-p", "x", "--fps", "0"], "0"),
        (["-p", "x", "--fps", "1000"], "1000"),
        (["-p", "x", "--set", "stebs=3"], "stebs"),
        (["-p", "x", "--set", "steps"], "="),
        (["-p", "x", "--steps", "3", "--set", "steps=4"], "twice"),
        (["-p", "x", "--steps", "3", "--set", "steps.decoder=4"], "both are given"),
        (["-p", "x", "--set", "steps=4", "--set", "steps=4"], "twice"),
        (["-p", "x", "--stebs", "3"], "--stebs"),
        (["-p", "x", "--mode", "hologram"], "hologram"),
        (["-p", "x", "--backend", "abacus"], "abacus"),
        (["-p", "x", "--threads", "none"], "none"),
        (["-p", "x", "--threads", "-3"], "-3"),
        (["-p", "x", "--noise", "missing.npz"], "missing.npz"),
        (["-p"], "-p"),
        (["--steps", "3"], "prompt"),
    ],
)
def test_wrong_options(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", TOY, *ORT, *words, "-o", str(tmp_path / "out.mp4")]) == 2
    assert named in told_once(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "prompt",
    ["a red circle " * 770, "🔴 ➡️ 👩🏽‍🚀", "\u202eright to left", "a\tb\nc", "-- - \\ ' \" %s {x}"],
)
def test_unusual_prompts_work(prompt: str, tmp_path: Path) -> None:
    """Ten thousand characters are cut to the tokenizer's length; nothing is forbidden."""
    out = tmp_path / "out.mp4"
    assert cli.main(["generate", TOY, *ORT, f"--prompt={prompt}", "-o", str(out), "--quiet"]) == 0
    assert out.stat().st_size > 0


@pytest.mark.parametrize("command", ["generate", "explain", "verify"])
def test_unknown_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "no-cascade")
    extra = ["-p", "x", "-o", str(tmp_path / "out.mp4")] if command == "generate" else []
    assert cli.main([command, missing, *extra]) == 2
    assert missing in told_once(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["paint"], ["generate"], ["generate", "-p", "x"], ["explain"]])
def test_incomplete_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    told_once(capsys)


def test_damaged_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text('{"format": 1,')
    assert cli.main(["explain", str(tmp_path)]) == 2
    told_once(capsys)


def test_damaged_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One changed byte is found before the file reaches the inference library."""
    copy = tmp_path / "toy"
    shutil.copytree(TOY, copy)
    graph = next((copy / "graphs").glob("*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert cli.main(["verify", str(copy), *ORT]) == 2
    assert "sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code"),
    [("out.webm", 2), ("out", 1), ("nowhere/out.mp4", 1), ("\0.mp4", 1), ("n" * 300 + ".mp4", 1)],
)
def test_output_that_cannot_be_written_is_found_first(
    name: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cascade is never loaded, so a typo costs no time."""
    monkeypatch.setattr(cli.pipeline, "load", lambda *_, **__: pytest.fail("work was begun"))
    (tmp_path / "out").write_text("a file where a folder was asked for")
    assert cli.main(["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / name)]) == code
    told_once(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_metadata_that_cannot_be_written_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-o", str(tmp_path / "a.mp4"), "--metadata", str(tmp_path / "no" / "a.json")]
    assert cli.main(["generate", TOY, *ORT, "-p", "x", *words]) == 1
    told_once(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pickle", "npy", "text", "wrong name", "wrong shape"])
def test_noise_of_another_kind(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, out = tmp_path / "noise.npz", tmp_path / "out"
    out.mkdir()
    with noise.open("wb") as file:
        if kind == "pickle":
            np.savez(file, x=np.array([{}], dtype=object))
        elif kind == "npy":
            np.save(file, np.zeros(3))
        elif kind == "text":
            file.write(b"0.1 0.2")
        else:
            np.savez(file, nothing=np.zeros(3, np.float32))
    words = ["-p", "x", "-o", str(out / "a.mp4"), "--noise", str(noise)]
    assert cli.main(["generate", TOY, *ORT, *words]) == 2
    told_once(capsys)
    assert list(out.iterdir()) == []


# The toy is done in milliseconds; this gives a signal the time to find it at work.
SLOW = """
import sys, time
from edgereel import cli
from edgereel.backends import ort
run = ort.Engine.run
ort.Engine.run = lambda *args: (time.sleep(0.5), run(*args))[1]
sys.exit(cli.main(sys.argv[1:]))
"""


def started(
    words: list[str],
    *,
    python: tuple[str, ...] = ("-m", "edgereel.cli"),
    before: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.Popen[str]:
    """`edgereel` in a process of its own, from this clone, that Ctrl-C can interrupt.

    A shell's background job ignores Ctrl-C and so would whatever it starts, these tests included.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    path = os.pathsep.join([str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *python, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=prepare,
        start_new_session=True,
    )


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "frames"])
def test_file_size_limit_leaves_nothing(name: str, tmp_path: Path) -> None:
    """The system stops the writing process itself, as a quota or a full disk would."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))  # no PNG is that small

    words = ["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / name)]
    process = started(words, before=limited)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "edgereel: error: " in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one page."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a full disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_nothing(tiny_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_disk / "other").write_bytes(b"x" * 4096)
    words = ["-p", "x", "-o", str(tiny_disk / "out.mp4"), "--quiet"]
    assert cli.main(["generate", TOY, *ORT, *words]) == 1
    assert "space" in told_once(capsys)
    assert [path.name for path in tiny_disk.iterdir()] == ["other"]


def interrupted(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Sends the signal and checks the end that every interrupted command has.

    A terminal's Ctrl-C reaches ffmpeg too; SIGTERM comes to us alone.
    """
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "edgereel: interrupted; nothing was written."
    assert "Traceback" not in err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_computation_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    words = ["generate", TOY, *ORT, "-p", "x", "-o", str(tmp_path / "out.mp4")]
    process = started(words, python=("-c", SLOW))
    assert process.stderr is not None
    for line in process.stderr:  # until the second stage has begun
        if line.startswith("stage 2"):
            break
    interrupted(process, how)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_interrupting_the_writing_leaves_nothing(
    how: signal.Signals, name: str, tmp_path: Path
) -> None:
    """An ffmpeg that has begun a file and never ends; it must not outlive us either."""
    out, ffmpeg, note = tmp_path / "out", tmp_path / "ffmpeg", tmp_path / "pid"
    out.mkdir()
    ffmpeg.write_text(
        f'#!/bin/sh\nfor last; do :; done\necho half > "$last"\necho $$ > {note}.new\n'
        f"mv {note}.new {note}\nexec sleep 60\n"
    )
    ffmpeg.chmod(0o755)
    words = ["generate", TOY, *ORT, "-p", "x", "-o", str(out / name), "--quiet"]
    process = started(words, IMAGEIO_FFMPEG_EXE=str(ffmpeg))
    deadline = time.monotonic() + 30
    while not note.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # past the start of the process, where a signal may still miss it
    assert len(list(out.iterdir())) == 1
    interrupted(process, how)
    assert list(out.iterdir()) == []
    deadline = time.monotonic() + 10  # a dead process is there until it is waited for
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(note.read_text()), 0)
            time.sleep(0.02)


def test_closed_pipe_is_not_an_error() -> None:
    process = started(["explain", TOY])
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    assert err == ""
