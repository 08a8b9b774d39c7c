"""Videos, folders and arrays as a user gives them: `pytest tests/test_pictures.py`.

Frames that are read back are compared with those that were written, by ffmpeg or Pillow.
"""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgereel import pictures, video
from edgereel.errors import BackendUnavailable, InputError
from edgereel.pictures import Wanted, frame_indices, read, scaled_size

Array = NDArray[Any]


def ffmpeg(*arguments: str, content: bytes = b"") -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    subprocess.run(command, input=content, check=True, capture_output=True)


def counted(count: int, height: int = 24, width: int = 32) -> Array:
    """u8 [F, H, W, 3]: frame k is all of the grey 7 k + 5, so that a frame says which it is."""
    levels = (7 * np.arange(count) + 5).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def which(frames: Array) -> list[int]:
    """The indices that the frames of `counted` have; what 8-bit YUV loses is less than 2.5."""
    levels = frames.astype(float).mean((1, 2, 3))
    indices = np.round((levels - 5) / 7)
    np.testing.assert_allclose(levels, 7 * indices + 5, atol=2.5)
    return [int(index) for index in indices]


def write(path: Path, frames: Array, rate: str, *options: str) -> Path:
    """Frames in a file; without options, lossless."""
    _, height, width, _ = frames.shape
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", rate)
    chosen = options or ("-c:v", "ffv1", "-pix_fmt", "gbrp")
    ffmpeg(*source, "-i", "pipe:0", *chosen, str(path), content=frames.tobytes())
    return path


def noise(frames: int, height: int, width: int) -> Array:
    return np.random.default_rng(7).integers(0, 256, (frames, height, width, 3), np.uint8)


# Which frames


@settings(deadline=None)
@given(
    count=st.integers(1, 400),
    rate=st.sampled_from([8.0, 10.0, 24.0, 25.0, 30.0, 29.97, 30000 / 1001, 60.0]),
    fps=st.sampled_from([1.0, 4.0, 8.0, 24.0, 25.0, 48.0]),
    start=st.integers(0, 30),
    length=st.integers(1, 80),
)
def test_indices_are_the_published_ones(
    count: int, rate: float, fps: float, start: int, length: int
) -> None:
    """prepare_video of Text2Video-Zero: linspace over frame numbers, cut to whole numbers.

    Its float arithmetic may fall just below a whole number that is meant; 1e-6 mends that here as
    it does in the norm.
    """
    begin, end = start / 4, min(start / 4 + length / 4, count / rate)
    first, last = math.floor(begin * rate + 1e-6), math.floor(end * rate + 1e-6)
    number = math.floor((end - begin) * fps + 1e-6)
    wanted = Wanted(start=begin, end=start / 4 + length / 4, fps=fps)
    if number < 1 or last <= first:
        with pytest.raises(InputError, match="has no frame from"):
            frame_indices("clip", count, rate, wanted)
        return
    expected = np.floor(np.linspace(first, last, number, endpoint=False) + 1e-9)
    found = frame_indices("clip", count, rate, wanted)
    np.testing.assert_array_equal(found, expected)
    assert found.max() < count


def test_everything_is_taken_unless_something_is_asked() -> None:
    np.testing.assert_array_equal(frame_indices("clip", 7, 24.0, Wanted()), np.arange(7))
    np.testing.assert_array_equal(frame_indices("clip", 7, None, Wanted(frames=3)), np.arange(3))
    assert len(frame_indices("clip", 61, 30000 / 1001, Wanted())) == 61


def test_seconds_that_float_arithmetic_makes_too_small() -> None:
    """0.29 · 100 is 28.999999999999996 in float64, and frame 29 is meant."""
    found = frame_indices("clip", 100, 100.0, Wanted(start=0.29, end=0.58))
    np.testing.assert_array_equal(found, np.arange(29, 58))


def test_pictures_without_a_rate_count_as_having_the_wanted_one() -> None:
    """So that a folder of frames can be given where a plan asks for 4 frames per second."""
    np.testing.assert_array_equal(frame_indices("clip", 9, None, Wanted(fps=4)), np.arange(9))
    part = frame_indices("clip", 9, None, Wanted(fps=4, start=0.5, end=1.5))
    np.testing.assert_array_equal(part, [2, 3, 4, 5])
    with pytest.raises(InputError, match="pictures without a rate"):
        frame_indices("clip", 9, None, Wanted(end=1.5))


def test_too_few_frames() -> None:
    with pytest.raises(InputError, match="clip has 5 frames; expected at least 6"):
        frame_indices("clip", 5, 24.0, Wanted(frames=6))


# How large


@pytest.mark.parametrize("height", [1, 33, 240, 360, 416, 480, 500, 720, 1080])
@pytest.mark.parametrize("width", [1, 100, 480, 640, 854, 1280, 1920])
@pytest.mark.parametrize(("longest", "multiple"), [(512, 64), (512, 8), (100, 1), (96, 32)])
def test_size_is_the_published_one(height: int, width: int, longest: int, multiple: int) -> None:
    """prepare_video again: int(np.round(side * k / 64)) * 64, but never 0."""
    k = longest / max(height, width)
    expected = tuple(
        max(1, int(np.round(side * k / multiple))) * multiple for side in (height, width)
    )
    found = scaled_size((height, width), Wanted(longest=longest, multiple=multiple))
    assert found == expected
    assert scaled_size((height, width), Wanted()) == (height, width)


@pytest.mark.parametrize("size", [(45, 65), (64, 64), (33, 47), (180, 260)])
def test_scaling_is_bilinear_with_antialiasing(size: tuple[int, int]) -> None:
    """As Pillow's, which torchvision equals. Three pixels at the edge differ: they are repeated
    here and left out there. Inside, both round to 8 bits once or twice."""
    clip = noise(2, 90, 130)
    found = pictures.scaled("clip", clip, size).astype(float)
    for frame, got in zip(clip, found, strict=True):
        image = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR)
        error = np.abs(got - np.asarray(image))[3:-3, 3:-3]
        assert error.max() <= 2 and error.mean() < 0.6


def test_every_source_is_scaled_alike(tmp_path: Path) -> None:
    clip, wanted = noise(3, 60, 80), Wanted(longest=40, multiple=8)
    expected = read("clip", clip, wanted)
    assert expected.shape == (3, 32, 40, 3)  # 30 rows are 3.75 times 8
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{index}.png")
    np.save(tmp_path / "clip.npy", clip)
    write(tmp_path / "clip.mkv", clip, "8")
    for source in ("frames", "clip.npy", "clip.mkv"):
        np.testing.assert_array_equal(read("clip", str(tmp_path / source), wanted), expected)


# Video files


@pytest.mark.parametrize("size", [(24, 32), (30, 61), (96, 20), (48, 64)])
def test_covering_keeps_the_middle(size: tuple[int, int]) -> None:
    frames = noise(2, *size)
    got = read("video", frames, Wanted(cover=(48, 64)))
    scale = max(48 / size[0], 64 / size[1])
    scaled = [max(to, round(side * scale)) for to, side in zip((48, 64), size, strict=True)]
    assert (
        min(s - t for s, t in zip(scaled, (48, 64), strict=True)) == 0
    )  # no more is cut than must
    box = ((scaled[1] - 64) // 2, (scaled[0] - 48) // 2)
    for frame, mine in zip(frames, got, strict=True):
        whole = Image.fromarray(frame).resize(scaled[::-1], Image.Resampling.BILINEAR)
        other = np.asarray(whole.crop((*box, box[0] + 64, box[1] + 48)), np.int16)
        assert np.abs(other - mine).max() <= 3  # two roundings of two passes


def test_a_picture_is_no_video() -> None:
    with pytest.raises(InputError, match="has 2 frames; expected one picture"):
        read("image", noise(2, 24, 32), Wanted(frames=1, still=True))
    assert read("image", noise(1, 24, 32), Wanted(frames=1, still=True)).shape == (1, 24, 32, 3)


def test_the_last_frames() -> None:
    assert frame_indices("video", 9, 8.0, Wanted(frames=3, last=True)).tolist() == [6, 7, 8]
    half = Wanted(frames=2, last=True, fps=4.0, start=0.25)
    assert frame_indices("video", 9, 8.0, half).tolist() == [4, 6]
    with pytest.raises(InputError, match="has 9 frames; expected at least 16"):
        frame_indices("video", 9, 8.0, Wanted(frames=16, last=True))


def test_lossless_frames_come_back_as_they_are(tmp_path: Path) -> None:
    clip = noise(5, 33, 47)
    path = str(write(tmp_path / "clip.mkv", clip, "8"))
    np.testing.assert_array_equal(read("clip", path, Wanted()), clip)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ("-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p")),
        ("a.mov", ("-c:v", "libx264", "-g", "5", "-pix_fmt", "yuv444p")),
        ("a.avi", ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2")),
        ("a.webm", ("-c:v", "libvpx-vp9", "-auto-alt-ref", "1", "-lag-in-frames", "8")),
        ("a.gif", ()),
        ("-y 50%d:ü.mp4", ("-c:v", "libx264")),
    ],
)
def test_every_frame_of_common_files_once(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """Reordered, hidden and predicted frames change nothing, nor does the file's name."""
    options = options or ("-f", "gif")
    made = write(tmp_path / "made", counted(32), "25", *options, "-f", FORMATS[name[-3:]])
    path = made.rename(tmp_path / name)
    assert which(read("clip", str(path), Wanted())) == list(range(32))
    found = read("clip", str(path), Wanted(start=0.2, end=1.0, fps=10, frames=7))
    assert which(found) == [5, 7, 10, 12, 15, 17, 20]


FORMATS = {"mp4": "mp4", "mov": "mov", "avi": "avi", "ebm": "webm", "gif": "gif"}


def test_what_video_saves_is_read_with_its_colours(tmp_path: Path) -> None:
    clip = np.empty((4, 48, 64, 3), np.uint8)
    clip[:] = (20, 40, 200)
    clip[:, 8:24, 8:40] = (230, 30, 40)
    path = video.save(clip, 8, tmp_path / "out.mp4")
    found = read("clip", str(path), Wanted())
    for y, x in ((40, 60), (16, 20)):  # inside flat areas; as in test_video
        assert np.abs(found[0, y, x].astype(int) - clip[0, y, x]).max() <= 6


def test_rotated_by_its_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", counted(3), "8", "-c:v", "libx264")
    ffmpeg("-display_rotation:v:0", "90", "-i", str(tmp_path / "a.mp4"), "-c", "copy",
           str(tmp_path / "b.mp4"))  # fmt: skip
    assert read("clip", str(tmp_path / "b.mp4"), Wanted()).shape == (3, 32, 24, 3)


def test_rate_of_a_file_is_its_frames_by_its_length(tmp_path: Path) -> None:
    """A gif whose frames last 100 to 1000 ms, 1.75 s in all: 6 / 1.75 frames per second."""
    images = [Image.fromarray(frame) for frame in counted(6)]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:],
        duration=[100, 300, 100, 50, 200, 1000],
    )  # fmt: skip
    found = read("clip", str(tmp_path / "a.gif"), Wanted(end=1.0))
    assert which(found) == [0, 1, 2]  # 1.0 s · 6 / 1.75 is 3.4
    write(tmp_path / "b.mkv", counted(30), "30000/1001")
    found = read("clip", str(tmp_path / "b.mkv"), Wanted(start=0.5))
    assert which(found) == list(range(14, 30))  # 0.5 s · 29.97 is 14.99


# Folders and arrays


def test_folder_in_the_order_of_names(tmp_path: Path) -> None:
    """PNG and JPEG mixed, grey, with a palette, with alpha; other files are not looked at."""
    clip = counted(5)
    kinds = [("b.JPG", "RGB"), ("%04d.png", "RGB"), ("c 1.png", "L"), ("d.png", "P"),
             ("e.jpeg", "RGB")]  # fmt: skip
    for (name, kind), frame in zip(kinds, clip, strict=True):
        Image.fromarray(frame).convert(kind).save(tmp_path / name)  # type: ignore[arg-type]
    (tmp_path / "a.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    assert which(read("clip", str(tmp_path), Wanted())) == [1, 0, 2, 3, 4]
    assert which(read("clip", str(tmp_path), Wanted(frames=2))) == [1, 0]


def test_png_is_exact_and_one_picture_is_one_frame(tmp_path: Path) -> None:
    picture = noise(1, 33, 47)
    Image.fromarray(picture[0]).save(tmp_path / "a%d.png")
    np.testing.assert_array_equal(read("clip", str(tmp_path / "a%d.png"), Wanted()), picture)


def test_pictures_of_two_sizes(tmp_path: Path) -> None:
    for name, size in (("a.png", 8), ("b.png", 9)):
        Image.fromarray(noise(1, size, 8)[0]).save(tmp_path / name)
    with pytest.raises(InputError, match=r"b\.png of 8 x 9 pixels; expected 8 x 8 pixels, as a"):
        read("clip", str(tmp_path), Wanted())
    assert read("clip", str(tmp_path), Wanted(frames=1)).shape == (1, 8, 8, 3)


def test_arrays_of_every_kind(tmp_path: Path) -> None:
    clip = noise(4, 10, 12)
    np.testing.assert_array_equal(read("clip", clip[::-1], Wanted(frames=2)), clip[:1:-1])
    floats = (clip / 255).astype(np.float32)
    np.testing.assert_array_equal(read("clip", floats, Wanted()), clip)
    np.testing.assert_array_equal(read("clip", floats.astype(np.float64), Wanted()), clip)
    grey = clip[..., 0]
    expected = np.stack([grey] * 3, -1)
    np.testing.assert_array_equal(read("clip", grey, Wanted()), expected)
    np.savez(tmp_path / "a.npz", frames=grey)
    np.testing.assert_array_equal(read("clip", str(tmp_path / "a.npz"), Wanted()), expected)


WRONG_ARRAYS: list[tuple[Array, str]] = [
    (np.zeros((2, 3)), r"float64 \[2, 3\]; expected uint8"),
    (np.zeros((2, 3, 3, 4), np.uint8), r"\[2, 3, 3, 4\]"),
    (np.zeros((0, 3, 3), np.uint8), r"\[0, 3, 3\]"),
    (np.zeros((2, 3, 3), np.int64), "int64"),
    (np.zeros((2, 3, 3), bool), "bool"),
    (np.array([[{}]], object), "object"),
    (np.full((2, 3, 3), 1.5), "values from 1.5 to 1.5; expected floats from 0 to 1"),
    (np.full((2, 3, 3), np.nan, np.float32), "values from nan"),
    (np.full((2, 3, 3), -0.1, np.float32), "values from -0.1"),
]


@pytest.mark.parametrize(("array", "words"), WRONG_ARRAYS)
def test_wrong_arrays(array: Array, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read("clip", array, Wanted())


# What is no video


def damaged(path: Path, *, keep: float = 1.0, flip: range = range(0)) -> str:
    content = bytearray(path.read_bytes())
    for index in flip:
        content[index % len(content)] ^= 0x5A
    path.write_bytes(content[: int(len(content) * keep)])
    return str(path)


def wrong_files(folder: Path) -> dict[str, str]:
    """What to give -> words of the message."""
    clip = noise(12, 24, 32)
    fast = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart")
    for name in ("half.mp4", "broken.mp4"):
        write(folder / name, clip, "8", *fast)
    write(folder / "half.mkv", clip, "8")
    Image.fromarray(clip[0]).save(folder / "half.png")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", str(folder / "sound.wav"))
    (folder / "empty.mp4").touch()
    (folder / "letters.txt").write_text("a film\n" * 999)
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{folder}/half.mkv\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    (folder / "full").mkdir()
    (folder / "full" / "a.png").mkdir()
    np.savez(folder / "two.npz", a=clip, b=clip)
    np.savez(folder / "none.npz")
    np.save(folder / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (folder / "text.npz").write_text("0.1 0.2")
    (folder / "empty.npy").touch()
    first = Image.fromarray(clip[0])
    first.save(folder / "moving.png", save_all=True, append_images=[Image.fromarray(clip[1])])
    first.convert("CMYK").save(folder / "print.jpg")
    header = struct.pack(">IIBBBBB", 0, 24, 8, 2, 0, 0, 0)
    checked = [b"IHDR" + header, b"IDAT" + zlib.compress(b""), b"IEND"]
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in checked]
    (folder / "nothing.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    Image.new("RGB", (20000, 3)).save(folder / "wide.png")
    return {
        str(folder / "nowhere.mp4"): "there is no such file; expected a video file",
        str(folder / "nowhere.npz"): "cannot be read",
        "\0.mp4": "cannot be read|there is no such file",
        "x" * 5000: "cannot be read|there is no such file",
        "https://example.com/a.mp4": "there is no such file",
        damaged(folder / "half.mp4", keep=0.6): "cannot be read",
        damaged(folder / "broken.mp4", flip=range(1500, 2500)): "cannot be read",
        damaged(folder / "half.mkv", keep=0.6): "cannot be read",
        damaged(folder / "half.png", keep=0.6): "cannot be read",
        str(folder / "sound.wav"): "matches no streams",
        str(folder / "empty.mp4"): "cannot be read",
        str(folder / "letters.txt"): "it is a text",
        str(folder / "list.m3u8"): "it is a text",
        str(folder / "notes"): "has no pictures",
        str(folder / "full"): r"a\.png.*cannot be read",
        str(folder / "two.npz"): "the arrays a, b; expected one",
        str(folder / "none.npz"): r"the arrays \(none\); expected one",
        str(folder / "pickle.npy"): "allow_pickle",
        str(folder / "text.npz"): "cannot be read",
        str(folder / "empty.npy"): "cannot be read",
        str(folder / "moving.png"): "it is an animation",
        str(folder / "print.jpg"): "CMYK",
        str(folder / "nothing.png"): "cannot be read",
        str(folder / "wide.png"): "20000 x 3 pixels; expected at most 16384",
    }


def test_what_is_no_video_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = wrong_files(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for source, words in files.items():
        with pytest.raises(InputError, match=words) as caught:
            read("clip", source, Wanted())
        assert str(caught.value).startswith("clip is ")
        assert "expected" in str(caught.value) and str(caught.value).endswith(".")


def test_anything_in_place_of_a_video_is_frames_or_a_sentence(tmp_path: Path) -> None:
    """Bytes of a good file changed at random places; nothing else than InputError comes of it."""
    path = tmp_path / "a.mp4"
    write(path, noise(4, 16, 16), "8", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    good, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(12):
        content = bytearray(good)
        for index in random.integers(0, len(good), 3):
            content[index] = int(random.integers(0, 256))
        path.write_bytes(content)
        try:
            assert read("clip", str(path), Wanted()).shape[3] == 3
        except InputError:
            refused += 1
    assert refused  # most changes hurt


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\necho 'the real reason' >&2\nexit 1\n", "#!/bin/sh\nkill -9 $$\n"]
)
def test_ffmpeg_failing_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    write(tmp_path / "a.mkv", counted(2), "8")
    broken = tmp_path / "ffmpeg"
    broken.write_text(script)
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    for source in (str(tmp_path / "a.mkv"), counted(2)):
        with pytest.raises(InputError, match=r"the real reason|Killed"):
            read("clip", source, Wanted(longest=8))  # type: ignore[arg-type]


def test_ffmpeg_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    write(tmp_path / "a.mkv", counted(2), "8")
    for found in (lambda: str(tmp_path / "none"), none):
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", found)
        with pytest.raises(BackendUnavailable, match="pip install"):
            read("clip", str(tmp_path / "a.mkv"), Wanted())


def test_too_large_for_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Array:
        raise MemoryError("no room")

    monkeypatch.setattr(pictures, "scaled", full)
    with pytest.raises(InputError, match=r"does not fit into memory \(no room\)"):
        read("clip", counted(2), Wanted())


# Edges


def test_edges_are_those_of_opencv() -> None:
    """The call that ControlNet's examples make: two thresholds, on the scaled RGB picture."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    clip = noise(2, 60, 80)
    wanted = Wanted(longest=40, filter="canny")
    found = read("clip", clip, wanted)
    for frame, picture in zip(read("clip", clip, Wanted(longest=40)), found, strict=True):
        for channel in range(3):
            np.testing.assert_array_equal(picture[..., channel], cv2.Canny(frame, 100, 200))
    assert set(np.unique(found)) <= {0, 255}


def test_edges_are_asked_of_opencv_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenCV here, a stand-in shows what it is given and what is made of its answer."""
    seen: list[tuple[Array, int, int]] = []

    def canny(frame: Array, low: int, high: int) -> Array:
        seen.append((frame, low, high))
        return frame[..., 1] // 128 * 255

    stand_in = types.ModuleType("cv2")
    stand_in.Canny = canny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    clip = noise(3, 16, 20)
    found = read("clip", clip, Wanted(filter="canny"))
    assert [(low, high) for _, low, high in seen] == [(100, 200)] * 3
    np.testing.assert_array_equal(np.stack([frame for frame, _, _ in seen]), clip)
    expected = np.repeat((clip[..., 1:2] // 128 * 255), 3, axis=3)
    np.testing.assert_array_equal(found, expected)


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file is even looked for."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendUnavailable, match=r"OpenCV.*pip install 'edgereel\[control\]'"):
        read("clip", "nowhere.mp4", Wanted(filter="canny"))
