"""Long videos by continuing, values, files and interruptions: `pytest tests/test_continue.py`.

Frames are compared exactly: the one graph here adds, cuts and truncates, which IEEE rounds alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgereel
from edgereel import cli, cli_progress, video
from edgereel.backends import ort
from edgereel.errors import InputError, OutputError
from edgereel.noise import normal
from edgereel.running import Progress

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

Frames = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]
LARGEST = 2**64 - 1
GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
brighten (uint8[1, H, W, 3] image, float[F] by) => (uint8[F, H, W, 3] frames)
{
    black = Constant<value_float = 0.0>()
    white = Constant<value_float = 255.0>()
    scale = Constant<value_float = 20.0>()
    axes = Constant<value_ints = [1, 2, 3]>()
    levels = Cast<to = 1>(image)
    scaled = Mul(by, scale)
    by_4 = Unsqueeze(scaled, axes)
    moved = Add(levels, by_4)
    limited = Clip(moved, black, white)
    frames = Cast<to = 2>(limited)
}"""


def mode(frames: int, **pictures: dict[str, Any]) -> dict[str, Any]:
    """Each of the pictures as frames that noise brightens; those of `image` are the video."""
    seed = {"type": "int", "default": 0, "min": 0, "max": LARGEST}
    values: dict[str, Any] = {"by": {"dtype": "float32", "shape": [frames]}}
    ops: list[dict[str, Any]] = [{"op": "noise", "value": "by"}]
    for name in pictures:
        values[name] = {"dtype": "uint8", "shape": [1, "H", "W", 3]}
        values[f"{name}s"] = {"dtype": "uint8", "shape": [frames, "H", "W", 3]}
        run = {"inputs": {"image": name, "by": "by"}, "outputs": {"frames": f"{name}s"}}
        ops.append({"op": "run", "graph": "brighten", **run})
    return {
        "params": {"seed": seed, **{n: {"type": "video", **f} for n, f in pictures.items()}},
        "values": values,
        "stages": [{"name": "brighten", "ops": ops}],
        "output": {"value": "images", "fps": 8},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/data/trace with modes that begin with a picture."""
    made = tmp_path_factory.mktemp("continue") / "cascade"
    shutil.copytree(ROOT / "tests/data/trace", made)
    onnx.save(onnx.parser.parse_model(GRAPH), made / "graphs/brighten.onnx")
    plan = json.loads((made / "plan.json").read_text())
    content = (made / "graphs/brighten.onnx").read_bytes()
    plan["files"]["graphs/brighten.onnx"] = hashlib.sha256(content).hexdigest()
    plan["graphs"]["brighten"] = {
        "file": "graphs/brighten.onnx",
        "inputs": {
            "image": {"dtype": "uint8", "shape": [1, "H", "W", 3]},
            "by": {"dtype": "float32", "shape": ["F"]},
        },
        "outputs": {"frames": {"dtype": "uint8", "shape": ["F", "H", "W", 3]}},
    }
    plan["modes"] = {
        "animate": mode(4, image={"frames": 1}),
        "still": mode(1, image={"frames": 1}),
        "trace": plan["modes"]["trace"],
        "timed": mode(4, image={"frames": 1, "start": 1.0}),
        "between": mode(4, image={"frames": 1}, other={"frames": 1}),
        "guided": mode(4, image={"frames": 1}, other={}),
    }
    (made / "plan.json").write_text(json.dumps(plan))
    return made


@pytest.fixture(scope="module")
def cascade(folder: Path) -> edgereel.Cascade:
    return edgereel.load(folder, backend="ort", threads=1)


@pytest.fixture
def picture() -> Frames:
    return np.random.default_rng(1).integers(0, 256, (1, 6, 10, 3), np.uint8)


def brightened(picture: Frames, seed: int) -> Frames:
    """A clip of mode `animate`, written down a second time."""
    by = normal(seed, "by", 0, 0, (4,)) * np.float32(20)
    return np.clip(picture + by[:, None, None, None], 0, 255).astype(np.uint8)


def long_video(picture: Frames, seed: int, times: int) -> Frames:
    """The frames of a video that is continued, as its definition says."""
    clips = [brightened(picture, seed)]
    for k in range(1, times + 1):
        clips.append(brightened(clips[-1][-1:], (seed + k) % 2**64))
    return np.concatenate([clips[0], *(clip[1:] for clip in clips[1:])])


def read(path: Path) -> Frames:
    """The frames of a folder of PNGs or of an mp4, by programs that did not write them."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(name)) for name in sorted(path.iterdir())])
    words = ["-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], capture_output=True)
    assert (raw.returncode, raw.stderr) == (0, b"")
    return np.frombuffer(raw.stdout, np.uint8).reshape(-1, 6, 10, 3)


# What is made


def test_a_clip_begins_with_the_last_frame_of_the_one_before(
    cascade: edgereel.Cascade, picture: Frames
) -> None:
    """The clips are those of a loop over calls, and of the formula; 4 + 3 * (4 - 1) frames."""
    clips = list(cascade.continued(times=3, mode="animate", image=picture, seed=5))
    assert [len(clip.frames) for clip in clips] == [4, 3, 3, 3]
    assert [clip.metadata["seed"] for clip in clips] == [5, 6, 7, 8]
    assert {clip.fps for clip in clips} == {8.0}
    begin = picture
    for k, clip in enumerate(clips):
        called = cascade(mode="animate", image=begin, seed=5 + k)
        np.testing.assert_array_equal(clip.frames, called.frames[1 if k else 0 :])
        assert not np.array_equal(called.frames[0], called.frames[-1])
        begin = called.frames[-1:]
    frames = np.concatenate([clip.frames for clip in clips])
    np.testing.assert_array_equal(frames, long_video(picture, 5, 3))


def test_after_the_largest_seed_comes_the_smallest(
    cascade: edgereel.Cascade, picture: Frames
) -> None:
    clips = list(cascade.continued(times=2, image=picture, seed=LARGEST))
    assert [clip.metadata["seed"] for clip in clips] == [LARGEST, 0, 1]
    frames = np.concatenate([clip.frames for clip in clips])
    np.testing.assert_array_equal(frames, long_video(picture, LARGEST, 2))


def test_progress_is_that_of_all_clips(cascade: edgereel.Cascade, picture: Frames) -> None:
    seen: list[Progress] = []
    list(cascade.continued(times=3, image=picture, callback=seen.append))
    assert [(told.clip, told.clips, told.done) for told in seen] == [
        (clip, 4, (clip + done) / 4) for clip in range(4) for done in (0, 1)
    ]
    assert sorted(told.seconds for told in seen) == [told.seconds for told in seen]
    assert cli_progress.line(seen[3], 100).startswith("clip 2/4 stage 1/1 brighten [")


def test_a_clip_is_made_when_it_is_asked_for_and_then_forgotten(
    cascade: edgereel.Cascade, picture: Frames
) -> None:
    """When a clip begins, no array of an earlier one is alive but its last frame."""
    made: list[weakref.ref[Frames]] = []
    begun: list[int] = []

    def begin(progress: Progress) -> None:
        begun.append(progress.clip)
        assert [frames() for frames in made] == [None] * len(made)

    clips = cascade.continued(times=3, image=picture, callback=begin)
    assert not begun
    for number in range(4):
        frames = next(clips).frames
        assert max(begun) == number
        made.append(weakref.ref(frames if frames.base is None else frames.base))
        del frames


def test_cancelling_between_two_clips(cascade: edgereel.Cascade, picture: Frames) -> None:
    clips = cascade.continued(times=2, image=picture)
    cascade.cancel()  # nothing is in progress, so this stops nothing
    next(clips)
    cascade.cancel()
    with pytest.raises(edgereel.Cancelled):
        next(clips)
    assert len(cascade(image=picture).frames) == 4


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"mode": "trace"},
        r"'trace' of trace does not begin with .* one of animate, still, guided\. Choose",
    ),
    ({"mode": "between"}, r"'between' of trace does not begin with one picture"),
    ({"mode": "timed"}, r"'timed' of trace does not begin with one picture"),
    ({"mode": "hologram"}, "mode is 'hologram'"),
    ({"times": 0}, "continued 0 times; expected a whole number of at least 1"),
    ({"times": True}, "continued True times"),
    ({"times": 1.0}, "continued 1.0 times"),
    ({"noise": {"by": np.zeros(4, np.float32)}}, "noise is given, .*Leave it out"),
    ({"image": None}, "image is missing"),
    ({"seed": -1}, "seed is -1"),
    ({"prompt": "a"}, "no param 'prompt'"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=[str(w)[:30] for w, _ in WRONG])
def test_what_is_refused_at_once(
    cascade: edgereel.Cascade, picture: Frames, wrong: dict[str, Any], sentence: str
) -> None:
    """Before a clip is asked for."""
    with pytest.raises(InputError, match=sentence):
        cascade.continued(**{"times": 1, "image": picture, **wrong})


def test_a_cascade_without_such_a_mode(toy: Path) -> None:
    with pytest.raises(InputError, match=r"which it lacks\. Only make a single clip"):
        edgereel.load(toy, backend="ort").continued("a", times=1)


def test_a_single_frame_is_not_continued(cascade: edgereel.Cascade, picture: Frames) -> None:
    with pytest.raises(InputError, match="a clip of this mode has 1 frame"):
        next(cascade.continued(times=1, mode="still", image=picture))


# What is written


def parts(count: int = 3) -> Iterator[Frames]:
    """Frames u8 [4, 6, 10, 3], flat and far apart, so that an mp4 holds each recognisably."""
    for part in range(count):
        levels = np.arange(4 * part, 4 * part + 4, dtype=np.uint8) * 20
        yield np.broadcast_to(levels[:, None, None, None], (4, 6, 10, 3))


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "frames"])
def test_parts_become_the_file_of_their_whole(tmp_path: Path, name: str) -> None:
    with video.Writer(tmp_path / name, 8) as out:
        for part in parts():
            out.add(part)
    (tmp_path / "whole").mkdir()
    whole = video.save(np.concatenate(list(parts())), 8, tmp_path / "whole" / name)
    assert out.parts == [4, 4, 4]
    if name == "frames":
        np.testing.assert_array_equal(read(out.path), np.concatenate(list(parts())))
        np.testing.assert_array_equal(read(out.path), read(whole))
    else:
        assert out.path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_what_was_added_outlives_an_exception(tmp_path: Path, name: str) -> None:
    out = video.Writer(tmp_path / name, 8)
    with pytest.raises(ZeroDivisionError), out:
        for part in parts():
            out.add(part)
            assert not out.path.exists()
        raise ZeroDivisionError
    found, expected = read(out.path).astype(int), np.concatenate(list(parts()))
    assert found.shape == expected.shape and out.parts == [4, 4, 4]
    assert np.abs(found - expected).max() <= 6  # crf 18, as in test_video.py; frames differ by 20
    assert list(tmp_path.iterdir()) == [out.path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, None])
def test_without_frames_there_is_no_file(tmp_path: Path, error: type[BaseException] | None) -> None:
    with pytest.raises(error or InputError), video.Writer(tmp_path / "out.mp4", 8):
        if error is not None:
            raise error
    assert list(tmp_path.iterdir()) == []


def test_parts_of_two_sizes(tmp_path: Path) -> None:
    """33 rows are padded to 34 in an mp4, but 34 are not 33."""
    out = video.Writer(tmp_path / "out.mp4", 8)
    with pytest.raises(InputError, match="8 x 34 pixels come after frames of 8 x 33"), out:
        out.add(np.zeros((2, 33, 8, 3), np.uint8))
        out.add(np.zeros((2, 34, 8, 3), np.uint8))
    assert out.parts == [2] and out.path.exists()


def test_the_writer_keeps_no_frames(tmp_path: Path) -> None:
    with video.Writer(tmp_path / "frames", 8) as out:
        frames = np.zeros((4, 64, 64, 3), np.uint8)
        alive = weakref.ref(frames)
        out.add(frames)
        del frames
        deadline = time.monotonic() + 5  # its thread lets go of them a moment later
        while alive() is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert alive() is None


def test_an_interruption_does_not_cut_a_part_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while ffmpeg, which begins after it, has taken no more than a pipe holds, 64 KiB."""
    program, begin = tmp_path / "ffmpeg", tmp_path / "begin"
    wait = f"while [ ! -e {begin} ]; do sleep 0.05; done"
    program.write_text(f'#!/bin/sh\n{wait}\nexec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    small, large = (np.zeros((count, 60, 60, 3), np.uint8) for count in (1, 60))
    main = threading.get_ident()

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        begin.touch()

    timer = threading.Timer(0.3, interrupt)
    out = video.Writer(tmp_path / "frames", 8)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
    try:
        with pytest.raises(KeyboardInterrupt), out:
            out.add(small)
            timer.start()
            out.add(large)
    finally:
        signal.signal(signal.SIGINT, before)
    assert out.parts == [1, 60] and len(list(out.path.iterdir())) == 61


@pytest.mark.parametrize(("count", "kept"), [(1, False), (2, True)])
def test_an_interruption_at_the_end_keeps_a_long_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, kept: bool
) -> None:
    """A single clip that is interrupted leaves nothing, as ever."""
    finish = subprocess.Popen.communicate

    def interrupted(process: subprocess.Popen[bytes]) -> Any:
        monkeypatch.setattr(subprocess.Popen, "communicate", finish)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    out = video.Writer(tmp_path / "frames", 8)
    with pytest.raises(KeyboardInterrupt), out:
        for part in parts(count):
            out.add(part)
    assert out.path.exists() == kept and out.parts == [4] * count * kept
    assert len(list(tmp_path.iterdir())) == kept


def test_a_failing_ffmpeg_leaves_nothing_of_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nhead -c 720 > /dev/null\necho 'the reason' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    out = video.Writer(tmp_path / "out.mp4", 8)
    with pytest.raises(OutputError, match="the reason"), out:
        for part in parts(400):  # more than a pipe holds
            out.add(part)
    assert out.parts == [] and list(tmp_path.iterdir()) == [program]


# The command


@pytest.fixture
def words(folder: Path, picture: Frames, tmp_path: Path) -> list[str]:
    """A command that makes four clips; what it writes comes into tmp_path/out."""
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "picture.npz", picture)
    return ["generate", str(folder), "--backend", "ort", "--image", str(tmp_path / "picture.npz"),
            "--continue", "3", "--seed", "9"]  # fmt: skip


def test_the_command_writes_all_clips(
    words: list[str], picture: Frames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "out/frames", tmp_path / "out/told.json"
    assert cli.main([*words, "-o", str(out), "--metadata", str(told)]) == 0
    np.testing.assert_array_equal(read(out), long_video(picture, 9, 3))
    assert [clip["seed"] for clip in json.loads(told.read_text())["clips"]] == [9, 10, 11, 12]
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: 13 frames in 4 clips, 10 x 6, 8 fps, made in ")
    progress = [line.split(" (")[0] for line in said.err.splitlines() if line.startswith("clip")]
    assert progress == [f"clip {clip}/4 stage 1/1 brighten" for clip in (1, 2, 3, 4)]
    assert said.err.count("memory, predicted") == 1  # of the first clip, for all


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (KeyboardInterrupt(), 130, "edgereel: interrupted; {kept}"),
        (edgereel.EngineError("It broke."), 1, "edgereel: error: It broke."),
    ],
)
@pytest.mark.parametrize("clip", [0, 2])
def test_what_stops_a_clip_keeps_those_before(
    clip: int, error: BaseException, code: int, last: str, words: list[str], picture: Frames,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run, calls = ort.Engine.run, []

    def stopped(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > clip:
            raise error
        run(*arguments)

    monkeypatch.setattr(ort.Engine, "run", stopped)
    out, told = tmp_path / "out/frames", tmp_path / "out/told.json"
    assert cli.main([*words, "-o", str(out), "--metadata", str(told)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    if clip == 0:
        assert list((tmp_path / "out").iterdir()) == []
        assert said.err.splitlines()[-1] == last.format(kept="nothing was written.")
        return
    kept = f"{out} has 2 of 4 clips, 7 frames."
    assert said.err.splitlines()[-1] == last.format(kept=kept) and said.err.count(kept) == 1
    np.testing.assert_array_equal(read(out), long_video(picture, 9, 1))
    assert [made["seed"] for made in json.loads(told.read_text())["clips"]] == [9, 10]
    assert len(list((tmp_path / "out").iterdir())) == 2


# The graph is done in no time; this gives a signal the time to find it at work.
SLOW = """
import sys, time
from edgereel import cli
from edgereel.backends import ort
run = ort.Engine.run
ort.Engine.run = lambda *args: (time.sleep(0.5), run(*args))[1]
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_third_clip(
    how: signal.Signals, words: list[str], picture: Frames, tmp_path: Path
) -> None:
    """As a terminal sends Ctrl-C, to every process, and as `timeout` sends SIGTERM, twice."""
    out = tmp_path / "out/out.mp4"
    path = os.pathsep.join([str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words, "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("clip 3"):
            break
    for _ in range(2 if how is signal.SIGTERM else 1):
        os.killpg(process.pid, how)
        time.sleep(0.01)
    said, err = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, ""), err
    assert err.splitlines()[-1] == f"edgereel: interrupted; {out} has 2 of 4 clips, 7 frames."
    assert read(out).shape == (7, 6, 10, 3)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["-o", "out.gif"], "the palette of a gif needs all frames"),
        (["-o", "out.mp4", "--continue", "0"], "continued 0 times"),
        (["-o", "out.mp4", "--continue", "many"], "many"),
        (["-o", "out.mp4", "--mode", "trace", "--video", "x"], "does not begin with one picture"),
        (["-o", "out.mp4", "--noise", "x.npz"], "noise is given"),
    ],
)
def test_what_the_command_refuses(
    more: list[str], sentence: str, words: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path / "out")
    if "--mode" in more:
        words = [word for word in words if word != "--image" and not word.endswith(".npz")]
    assert cli.main([*words, *more]) == 2
    assert sentence in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
