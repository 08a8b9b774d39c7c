"""Written videos are read back and compared. Alone: `pytest tests/test_video.py`."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from edgereel import video
from edgereel.errors import InputError, OutputError


def moving_square(frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """u8 [F, H, W, 3]: a red square that moves right over blue."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = (20, 40, 200)
    for index, frame in enumerate(clip):
        frame[8:24, 4 * index : 4 * index + 16] = (230, 30, 40)
    return clip


def ffmpeg(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments], capture_output=True)


def decoded(path: Path) -> tuple[np.ndarray, float]:
    """The frames of an mp4 and its frame rate."""
    about = ffmpeg("-hide_banner", "-i", str(path)).stderr.decode()
    stream = re.search(r"Video: .* (\d+)x(\d+).*?, ([\d.]+) fps", about)
    assert stream is not None, about
    raw = ffmpeg("-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, int(stream[2]), int(stream[1]), 3)
    return frames, float(stream[3])


def test_mp4_has_the_frames_the_rate_and_the_colours(tmp_path: Path) -> None:
    clip = moving_square()
    path = video.save(clip, 8, tmp_path / "out.mp4")
    read, fps = decoded(path)
    assert read.shape == clip.shape
    assert fps == 8
    # Flat areas: rounding to 8-bit YUV and back costs up to two levels, crf 18 a little more.
    for y, x in ((40, 60), (16, 8)):
        assert np.abs(read[0, y, x].astype(int) - clip[0, y, x]).max() <= 6
    # Edges blur by chroma subsampling, so the mean is the measure for whole frames.
    assert np.abs(read.astype(int) - clip).mean() < 4


def test_mp4_is_h264_yuv420p_tagged_and_starts_fast(tmp_path: Path) -> None:
    path = video.save(moving_square(), 8, tmp_path / "out.mp4")
    text = ffmpeg("-hide_banner", "-i", str(path)).stderr.decode()
    assert "h264" in text
    assert "yuv420p(tv, bt709" in text
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(33, 47), (48, 47), (33, 64), (1, 1)])
def test_odd_sizes_grow_by_a_repeated_edge(tmp_path: Path, height: int, width: int) -> None:
    clip = np.full((3, height, width, 3), (200, 60, 30), np.uint8)
    read, _ = decoded(video.save(clip, 5, tmp_path / "out.mp4"))
    assert read.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(read.astype(int) - (200, 60, 30)).max() <= 6  # as above; no black border


@pytest.mark.parametrize("fps", [7.5, 24, 1, 29.97])
def test_frame_rates_survive(tmp_path: Path, fps: float) -> None:
    read, found = decoded(video.save(moving_square(), fps, tmp_path / "out.mp4"))
    assert len(read) == 6
    assert found == pytest.approx(fps, abs=0.01)  # ffmpeg prints two decimals


def test_gif_loops_with_its_own_palette(tmp_path: Path) -> None:
    clip = moving_square(height=33, width=47)
    with Image.open(video.save(clip, 10, tmp_path / "out.gif")) as gif:
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 100
        read = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(gif)])
    assert read.shape == clip.shape
    assert np.abs(read.astype(int) - clip).max() <= 4  # few colours: each gets a palette entry


def test_gif_keeps_frames_that_do_not_change(tmp_path: Path) -> None:
    still = np.repeat(moving_square(1), 5, axis=0)
    with Image.open(video.save(still, 10, tmp_path / "out.gif")) as gif:
        assert gif.n_frames == 5


def test_folder_holds_exact_frames(tmp_path: Path) -> None:
    clip = moving_square(height=33, width=47)
    path = video.save(clip, 10, tmp_path / "frames")
    names = sorted(p.name for p in path.iterdir())
    assert names == [f"frame_{index:04d}.png" for index in range(6)]
    for name, frame in zip(names, clip, strict=True):
        with Image.open(path / name) as image:
            np.testing.assert_array_equal(np.asarray(image), frame)


def test_folder_of_frames_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "frames.v1"
    target.mkdir()
    video.save(moving_square(6), 10, target)
    video.save(moving_square(2), 10, f"{tmp_path}/frames.v1/")
    assert sorted(p.name for p in target.iterdir()) == ["frame_0000.png", "frame_0001.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"diary\.txt"):
        video.save(moving_square(), 10, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("old")
    video.save(moving_square(), 8, path)
    assert len(decoded(path)[0]) == 6
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["-y.mp4", "a:b.mp4", "50%d.mp4", "spaced name.gif", "ü☂.mp4", "%04d"]
)
def test_awkward_names_are_only_names(tmp_path: Path, name: str) -> None:
    video.save(moving_square(2), 8, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_strided_frames_are_written_as_seen(tmp_path: Path) -> None:
    clip = moving_square()
    path = video.save(clip[::-2, :, ::-1], 8, tmp_path / "frames")
    with Image.open(path / "frame_0000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), clip[5, :, ::-1])


def test_suffix_may_be_upper_case(tmp_path: Path) -> None:
    assert video.save(moving_square(2), 8, tmp_path / "OUT.MP4").stat().st_size > 0


@pytest.mark.parametrize("name", ["out.webm", "out.txt", "out.mp4.bak"])
def test_unknown_suffix_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.mp4, \.gif"):
        video.check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_impossible_fps(tmp_path: Path, fps: float) -> None:
    with pytest.raises(InputError, match="fps"):
        video.save(moving_square(), fps, tmp_path / "out.mp4")


def test_gif_faster_than_players_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="50"):
        video.save(moving_square(), 60, tmp_path / "out.gif")


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_frames_of_another_kind(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(InputError, match="Expected uint8"):
        video.save(frames, 8, tmp_path / "out.mp4")


def test_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mkdir"):
        video.check_writable(tmp_path / "nowhere" / "out.mp4")


def test_refused_place_is_found_before_the_work() -> None:
    """/proc takes no files, not even root's."""
    if not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    with pytest.raises(OutputError, match="Cannot write"):
        video.check_writable("/proc/out.mp4")


def test_ffmpeg_failing_leaves_nothing_and_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho 'first line' >&2\necho 'the real reason' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    out = tmp_path / "out"
    out.mkdir()
    for name in ("clip.mp4", "clip.gif", "clip"):
        with pytest.raises(OutputError, match="the real reason"):
            video.save(moving_square(), 8, out / name)
    assert list(out.iterdir()) == []


def test_ffmpeg_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "none"))
    with pytest.raises(OutputError, match="pip install"):
        video.save(moving_square(), 8, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_interrupt_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    for name in ("clip.mp4", "clip"):
        with pytest.raises(KeyboardInterrupt):
            video.save(moving_square(), 8, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if not made or made.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "frames"])
def test_full_disk_leaves_nothing(small_disk: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    with pytest.raises(OutputError, match=r"space|write"):
        video.save(noise, 8, small_disk / name)
    assert list(small_disk.iterdir()) == []
