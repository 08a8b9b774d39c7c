"""Writes frames to an mp4, a gif or a folder of PNGs: the whole thing, or nothing at all."""

import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereel import ffmpeg
from edgereel.errors import InputError, OutputError
from edgereel.files import all_or_nothing, check_place

__all__ = ["check_writable", "save"]

# A gif counts time in hundredths of a second, and players slow down any frame shorter than two.
_GIF_MAX_FPS = 50
_OURS = re.compile(r"frame_\d{4,}\.png")

# RGB becomes BT.709 and the file says so; untagged files are decoded by guesswork on their size.
# The filter rounds exactly, so a flat colour survives within two levels.
_MP4 = (
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv"),
    *("-sws_flags", "bicubic+accurate_rnd+full_chroma_int"),
    *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
    *("-color_range", "tv", "-movflags", "+faststart", "-f", "mp4"),
)
_GIF = (
    *("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse"),
    *("-loop", "0", "-f", "gif"),
)
_PNG = ("-pix_fmt", "rgb24", "-start_number", "0", "-f", "image2")


def save(frames: npt.NDArray[np.uint8], fps: float, path: str | Path) -> Path:
    """The path written; its suffix chooses the format.

    `.mp4` is H.264, yuv420p, crf 18, playable before it is fully loaded; an odd height or width
    grows by one repeated row or column, which the pixel format needs. `.gif` has its own palette
    and loops. A path without suffix, ending in `/`, or naming an existing folder becomes a folder
    of `frame_0000.png`, …, lossless; such a folder is replaced as a whole on the next call.

    Args:
        frames: u8 [F, H, W, 3], sRGB 0..255, F >= 1.
        fps: frames per second, above 0; a gif takes at most 50.
        path: where to write.

    Raises:
        InputError: unknown suffix, or frames or fps that no file can hold.
        OutputError: the path cannot be written, or ffmpeg failed; nothing is left behind.
    """
    kind = check_writable(path)
    _check_frames(frames, fps, kind)
    target = Path(path)
    with all_or_nothing(target) as temp:
        if kind == "png":
            temp.mkdir()
            _encode(frames, fps, (*_PNG, "frame_%04d.png"), temp)
            written = len(list(temp.iterdir()))
            if written != len(frames):
                raise OutputError(
                    f"Writing {target} stopped after {written} of {len(frames)} frames. "
                    "Every frame was expected. Check the disk and try again."
                )
        elif kind == "gif":
            _encode(frames, fps, (*_GIF, temp.name), temp.parent)
        else:
            _encode(_even(frames), fps, (*_MP4, temp.name), temp.parent)
    return target


def check_writable(path: str | Path) -> str:
    """The kind of output `path` asks for: "mp4", "gif" or "png" (a folder of frames).

    Call it before long work: it makes and removes a small file beside the target.

    Raises:
        InputError: the suffix is not one we write.
        OutputError: the folder is missing or read-only, or the target holds something else.
    """
    target = Path(path)
    check_place(target)
    kind = _kind(path)
    if target.exists() and target.is_dir() != (kind == "png"):
        raise OutputError(
            f"{path} exists and is not a {'folder' if kind == 'png' else 'file'}. "
            "A new name, a video file or a folder of frames was expected. Choose another name."
        )
    if target.is_dir():
        _check_replaceable(target)
    return kind


def _kind(path: str | Path) -> str:
    """mp4, gif or png, from the spelling of the path and, for folders, what is on disk."""
    suffix = Path(path).suffix.lower()
    if str(path).endswith(("/", os.sep)) or suffix == "" or Path(path).is_dir():
        return "png"
    if suffix in (".mp4", ".gif"):
        return suffix[1:]
    raise InputError(
        f"Cannot write {path}: the suffix {suffix} is not supported. "
        "Expected .mp4, .gif, or a name without suffix for a folder of PNG frames. "
        "Change the output's name."
    )


def _check_replaceable(folder: Path) -> None:
    """Raises OutputError where replacing the folder would delete something we did not write."""
    foreign = next((p.name for p in folder.iterdir() if not _OURS.fullmatch(p.name)), None)
    if foreign is not None:
        raise OutputError(
            f"The folder {folder} holds other files ({foreign}). A new or empty folder, "
            "or one with only frame_0000.png and so on, was expected, since it is replaced. "
            f"Choose another name, for example {folder / 'frames'}."
        )


def _check_frames(frames: npt.NDArray[np.uint8], fps: float, kind: str) -> None:
    """Raises InputError for frames or fps that the format cannot hold."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(
            f"Frames are {frames.dtype} {list(frames.shape)}. "
            "Expected uint8 [frames, height, width, 3], none of them 0. Convert them first."
        )
    highest = _GIF_MAX_FPS if kind == "gif" else math.inf
    if not (math.isfinite(fps) and 0 < fps <= highest):
        limit = f" and at most {_GIF_MAX_FPS} for a gif" if kind == "gif" else ""
        raise InputError(f"fps is {fps}. Expected a number above 0{limit}. Pass another fps.")


def _even(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Frames with even height and width, the last row or column repeated where needed."""
    odd_h, odd_w = frames.shape[1] % 2, frames.shape[2] % 2
    if not (odd_h or odd_w):
        return frames
    return np.pad(frames, ((0, 0), (0, odd_h), (0, odd_w), (0, 0)), mode="edge")


def _encode(frames: npt.NDArray[np.uint8], fps: float, out: tuple[str, ...], folder: Path) -> None:
    """Pipes raw frames through ffmpeg, run inside `folder` so that no path needs escaping."""
    _, height, width, _ = frames.shape
    command = [
        *(*ffmpeg.program(), "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", f"{fps:.6f}", "-i", "pipe:0", *out),
    ]
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise OutputError(
            f"ffmpeg did not start ({error}). The binary of imageio-ffmpeg was expected. "
            "Reinstall it: pip install --force-reinstall imageio-ffmpeg."
        ) from error
    with process:
        try:
            _, stderr = process.communicate(_flat(frames))
        except BaseException:
            process.kill()  # before the temporary file goes, or ffmpeg would write on
            process.wait()  # the `with` does not, after Ctrl-C
            raise
    if process.returncode != 0:
        raise OutputError(
            f"ffmpeg could not write the video: {ffmpeg.reason(process.returncode, stderr)}. "
            "Expected it to finish. Check free space and permissions of the output's folder."
        )


def _flat(frames: npt.NDArray[np.uint8]) -> Any:
    """The bytes of the frames in C order, without a copy where they already lie so."""
    return np.ascontiguousarray(frames).reshape(-1).data
