"""Video files and folders of pictures, opened with ffmpeg, which sees local files only."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgereel import ffmpeg
from edgereel.errors import InputError

__all__ = ["Clip", "Frames", "Indices", "Size", "open_path", "scaled"]

Frames = NDArray[np.uint8]  # [F, H, W, 3], sRGB 0..255
Indices = NDArray[np.int64]
Size = tuple[int, int]  # height, width

_PICTURES = (".png", ".jpg", ".jpeg")
_RAW = ("-f", "rawvideo", "-pix_fmt", "rgb24")
_JPEG_FRAMES = [bytes([0xC0 + n]) for n in range(16) if n not in (4, 8, 12)]
# Bilinear with a kernel that widens as the picture shrinks, without a detour over thinned colours.
_SWS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True)
class Clip:
    """A source of frames before any is taken from it."""

    count: int
    fps: float | None  # None: pictures without a time
    size: Size
    take: Callable[[Indices, Size], Frames]  # the frames of never falling indices, scaled


def open_path(name: str, path: Path) -> Clip:
    """The frames of a video file, of a folder of pictures, or of one picture.

    Args:
        name: of the param, for messages.
        path: of the file or folder.

    Raises:
        InputError: there is none, or it is empty, damaged, or something else.
        BackendUnavailable: ffmpeg does not start.
    """
    try:
        if path.is_dir():
            return _of_pictures(name, path, sorted(p for p in path.iterdir() if _is_picture(p)))
        if path.is_file():
            return _of_pictures(name, path, [path]) if _is_picture(path) else _of_video(name, path)
    except (OSError, ValueError) as error:  # no permission, or a name that no file can have
        raise _unreadable(name, path, str(error)) from None
    raise InputError(
        f"{name} is {str(path)!r}, and there is no such file; expected a video file, a folder of "
        f"PNG or JPEG pictures, or an .npz. Correct the path."
    )


def scaled(name: str, frames: Frames, size: Size) -> Frames:
    """Frames of another size, u8 [F, H, W, 3].

    Raises:
        InputError: a size that ffmpeg cannot make.
    """
    if frames.shape[1:3] == size:
        return frames
    source = (*_RAW, "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-i", "pipe:0")
    output = ("-vf", _scale(size), *_RAW, "pipe:1")
    out, problem = ffmpeg.piped((*source, *output), np.ascontiguousarray(frames).tobytes())
    shape = (len(frames), *size, 3)
    if problem or len(out) != math.prod(shape):
        raise InputError(
            f"{name} cannot be scaled from {_words(frames.shape[1:3])} to {_words(size)} "
            f"({problem or 'ffmpeg stopped'}); expected an ordinary size. Scale it before."
        )
    return np.frombuffer(out, np.uint8).reshape(shape)


# Pictures


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURES and not path.name.startswith(".")


def _of_pictures(name: str, source: Path, paths: list[Path]) -> Clip:
    """Pictures in the order of their names, all of the first one's size."""
    if not paths:
        raise InputError(
            f"{name} is the folder {str(source)!r}, which has no pictures; expected .png or .jpg "
            f"files. Correct the path, or give a video file."
        )
    size: Size = _picture(name, paths[0]).shape[:2]

    def take(indices: Indices, to: Size) -> Frames:
        found = {index: _picture(name, paths[index]) for index in sorted(set(indices.tolist()))}
        for index, picture in found.items():
            if picture.shape[:2] != size:
                raise InputError(
                    f"{name} has {paths[index].name} of {_words(picture.shape[:2])}; expected "
                    f"{_words(size)}, as {paths[0].name} has. Give pictures of one size."
                )
        return scaled(name, np.stack([found[index] for index in indices.tolist()]), to)

    return Clip(len(paths), None, size, take)


def _picture(name: str, path: Path) -> Frames:
    """One picture, u8 [H, W, 3]; ffmpeg gets its bytes, since it reads a '%' in a name."""
    output = ("-frames:v", "1", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(name, path, str(error)) from None
    if what := _refused(content):
        raise _unreadable(name, path, what)
    out, problem = ffmpeg.piped(("-i", "pipe:0", *output), content)
    if problem or not out:
        raise _unreadable(name, path, problem or "it shows nothing")
    _, sides, _, pixels = out.split(b"\n", 3)  # P6, width and height, 255, pixels
    width, height = map(int, sides.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _refused(content: bytes) -> str:
    """Why a file that ffmpeg opens is no picture to take, or nothing."""
    if content.startswith(b"\x89PNG") and b"acTL" in content.partition(b"IDAT")[0]:
        return "it is an animation"
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while content[place : place + 1] == b"\xff":  # the segments of a JPEG, until its frame's
        marker, length = content[place + 1 : place + 2], content[place + 2 : place + 4]
        if marker in _JPEG_FRAMES:
            channels = content[place + 9 : place + 10]
            return "its colours are CMYK, not RGB" if channels == b"\x04" else ""
        place += 2 + max(2, int.from_bytes(length, "big"))
    return ""


# Video files


def _of_video(name: str, path: Path) -> Clip:
    """A file, decoded once to find damage, and what is certain only then: frames, times, size."""
    with path.open("rb") as file:
        if _is_text(file.read(4096)):  # ffmpeg would draw its letters, or open what it lists
            raise _unreadable(name, path, "it is a text")
    text, problem = ffmpeg.piped((*_input(path), "-f", "framecrc", "pipe:1"))
    if problem:
        raise _unreadable(name, path, problem)
    lines = text.decode().splitlines()
    about = dict(line[1:].split(" 0: ", 1) for line in lines if " 0: " in line)
    times = [[int(n) for n in line.split(",")[2:4]] for line in lines if line[0] != "#"]
    if not times:
        raise _unreadable(name, path, "it has no frames")
    ticks = times[-1][0] + times[-1][1] - times[0][0]  # when shown, plus how long
    num, den = map(int, about["tb"].split("/"))
    fps = len(times) * den / (ticks * num) if ticks > 0 else None
    width, height = map(int, about["dimensions"].split("x"))

    def take(indices: Indices, size: Size) -> Frames:
        return _decoded(name, path, indices, size)

    return Clip(len(times), fps, (height, width), take)


def _decoded(name: str, path: Path, indices: Indices, size: Size) -> Frames:
    """The frames of these indices; ffmpeg is stopped behind the last of them."""
    frames = np.empty((len(indices), *size, 3), np.uint8)
    filters = f"scale=flags={_SWS},format=rgb24,{_scale(size)}"
    command = (*_input(path), "-vf", filters, *_RAW, "pipe:1")
    done, length = 0, frames[0].nbytes
    with tempfile.TemporaryFile() as errors, ffmpeg.started(command, errors) as process:
        assert process.stdout is not None
        try:
            for index in range(int(indices[-1]) + 1):
                pixels = process.stdout.read(length)
                if len(pixels) < length:
                    break
                while done < len(indices) and indices[done] == index:
                    frames[done] = np.frombuffer(pixels, np.uint8).reshape(*size, 3)
                    done += 1
        finally:
            process.kill()
        errors.seek(0)
        problem = errors.read()
    if done < len(indices):
        raise _unreadable(name, path, ffmpeg.reason(1, problem))
    return frames


def _input(path: Path) -> tuple[str, ...]:
    """The options for one local file, every frame of its picture once."""
    source = ("-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path.absolute()}")
    return (*source, "-map", "0:v:0", "-fps_mode", "passthrough")


def _is_text(start: bytes) -> bool:
    """Whether a file that begins like this is UTF-8 text; its last letter may be cut."""
    try:
        return bool(start) and b"\0" not in start and bool(start.decode())
    except UnicodeDecodeError as error:
        return error.start > 4096 - 4


def _scale(size: Size) -> str:
    return f"scale={size[1]}:{size[0]}:flags={_SWS}"


def _unreadable(name: str, path: Path, problem: str) -> InputError:
    return InputError(
        f"{name} is {str(path)!r}, which cannot be read ({problem}); expected a video or picture "
        f"that ffmpeg reads to its end. Convert it, for example to an .mp4, or give another."
    )


def _words(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} pixels"
