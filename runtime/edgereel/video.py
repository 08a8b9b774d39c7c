"""Writes frames to an mp4, a gif or a folder of PNGs: all that was added whole, or nothing."""

import math
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereel import ffmpeg, files
from edgereel.errors import InputError, OutputError

__all__ = ["Writer", "check_writable", "save"]

# A gif counts time in hundredths of a second, and players slow down any frame shorter than two.
_GIF_MAX_FPS = 50
_OURS = re.compile(r"frame_\d{4,}\.png")

_ENCODED = {
    # RGB becomes BT.709 and the file says so; untagged files are decoded by guesswork on their
    # size. The filter rounds exactly, so a flat colour survives within two levels.
    "mp4": (
        *("-vf", "scale=out_color_matrix=bt709:out_range=tv"),
        *("-sws_flags", "bicubic+accurate_rnd+full_chroma_int"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18"),
        *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
        *("-color_range", "tv", "-movflags", "+faststart", "-f", "mp4"),
    ),
    "gif": (
        *("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse"),
        *("-loop", "0", "-f", "gif"),
    ),
    "png": ("-pix_fmt", "rgb24", "-start_number", "0", "-f", "image2"),
}


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
    with Writer(path, fps) as out:
        out.add(frames)
    return out.path


class Writer:
    """A video that is written while it is made; use it in a `with`, and `add` to it in there.

    Frames go to ffmpeg as they are added and are not kept, but for a gif, all frames of which
    ffmpeg keeps until the end to choose the palette. The file appears under its name when the
    `with` ends; if an exception ends it, with every part that was added before, or, if there is
    none, not at all.
    """

    path: Path
    parts: list[int]  # the frames of each part written whole; none if in the end there is no file

    def __init__(self, path: str | Path, fps: float) -> None:
        """Checks both, as `save` does; the file is begun with the first frames."""
        self.path, self.parts = Path(path), []
        self._kind, self._fps = check_writable(path), fps
        _check_fps(fps, self._kind)
        self._temp = files.temporary(self.path)
        self._process: subprocess.Popen[bytes] | None = None
        self._size = 0, 0  # height and width of the first frames

    def add(self, frames: npt.NDArray[np.uint8]) -> None:
        """Writes a part: u8 [F, H, W, 3], sRGB 0..255, F >= 1, every part of one size.

        Raises:
            InputError: frames that no file can hold, or of another size.
            OutputError: ffmpeg failed.
        """
        _check_frames(frames)
        height, width = frames.shape[1:3]
        if self._process is not None and (height, width) != self._size:
            raise InputError(
                f"Frames of {width} x {height} pixels come after frames of {self._size[1]} x "
                f"{self._size[0]}. Expected one size. Scale them."
            )
        if self._kind == "mp4":
            frames = _even(frames)
        if self._process is None:
            self._size = height, width
            self._process = self._start(*frames.shape[1:3])
        try:
            self._feeder.submit(self._feed, self._process, frames).result()
        except OSError as error:
            raise self._failed(self._process) from error

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        there = False
        try:
            if error is None or self.parts:
                self._finish()
                there = True
        except KeyboardInterrupt:
            if error is None and len(self.parts) > 1:  # the first Ctrl-C: hours may be in there
                self._finish()
                there = True
            raise
        finally:
            self._stop()
            files.remove(self._temp)
            if not there:
                self.parts.clear()

    def _start(self, height: int, width: int) -> "subprocess.Popen[bytes]":
        """ffmpeg, run beside the output so that no path needs escaping, waiting for raw frames."""
        folder, out = self._temp.parent, (*_ENCODED[self._kind], self._temp.name)
        if self._kind == "png":
            folder, out = self._temp, (*_ENCODED["png"], "frame_%04d.png")
            try:
                folder.mkdir()
            except OSError as error:
                raise files.cannot_write(self.path, error) from error
        command = [
            *(*ffmpeg.program(), "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-framerate", f"{self._fps:.6f}", "-i", "pipe:0", *out),
        ]
        # Not through a pipe, which a talkative ffmpeg would fill, and then wait for us.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._feeder = ThreadPoolExecutor(1)
        try:
            return subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # a terminal's Ctrl-C is for us: we may go on to finish
            )
        except OSError as error:
            self._errors.close()
            raise OutputError(
                f"ffmpeg did not start ({error}). The binary of imageio-ffmpeg was expected. "
                "Reinstall it: pip install --force-reinstall imageio-ffmpeg."
            ) from error

    def _feed(self, process: "subprocess.Popen[bytes]", frames: npt.NDArray[np.uint8]) -> None:
        """Writes a part, in a thread, where Ctrl-C cannot cut it in two, and counts it."""
        assert process.stdin is not None
        process.stdin.write(_flat(frames))
        process.stdin.flush()
        self.parts.append(len(frames))

    def _finish(self) -> None:
        """Gives the file its name when ffmpeg has all parts and is done."""
        if self._process is None:
            raise InputError("No frames were added. Expected at least one. Add them.")
        self._feeder.shutdown()
        self._process.communicate()
        if self._process.returncode != 0:
            raise self._failed(self._process)
        if self._kind == "png":
            written = len(list(self._temp.iterdir()))
            if written != sum(self.parts):
                raise OutputError(
                    f"Writing {self.path} stopped after {written} of {sum(self.parts)} frames. "
                    "Every frame was expected. Check the disk and try again."
                )
        files.put(self._temp, self.path)

    def _failed(self, process: "subprocess.Popen[bytes]") -> OutputError:
        """What ffmpeg said before it gave up."""
        process.communicate()
        self._errors.seek(0)
        reason = ffmpeg.reason(process.returncode, self._errors.read())
        return OutputError(
            f"ffmpeg could not write the video: {reason}. "
            "Expected it to finish. Check free space and permissions of the output's folder."
        )

    def _stop(self) -> None:
        """Ends ffmpeg if it still runs, before the temporary file goes, or it would write on."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._feeder.shutdown()
        assert self._process.stdin is not None
        with suppress(OSError):  # what it did not take
            self._process.stdin.close()
        self._errors.close()


def check_writable(path: str | Path) -> str:
    """The kind of output `path` asks for: "mp4", "gif" or "png" (a folder of frames).

    Call it before long work: it makes and removes a small file beside the target.

    Raises:
        InputError: the suffix is not one we write.
        OutputError: the folder is missing or read-only, or the target holds something else.
        BackendUnavailable: there is no ffmpeg.
    """
    target = Path(path)
    files.check_place(target)
    kind = _kind(path)
    if target.exists() and target.is_dir() != (kind == "png"):
        raise OutputError(
            f"{path} exists and is not a {'folder' if kind == 'png' else 'file'}. "
            "A new name, a video file or a folder of frames was expected. Choose another name."
        )
    if target.is_dir():
        _check_replaceable(target)
    ffmpeg.program()
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


def _check_frames(frames: npt.NDArray[np.uint8]) -> None:
    """Raises InputError for what no video holds."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(
            f"Frames are {frames.dtype} {list(frames.shape)}. "
            "Expected uint8 [frames, height, width, 3], none of them 0. Convert them first."
        )


def _check_fps(fps: float, kind: str) -> None:
    """Raises InputError for a rate that the format cannot hold."""
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


def _flat(frames: npt.NDArray[np.uint8]) -> Any:
    """The bytes of the frames in C order, without a copy where they already lie so."""
    return np.ascontiguousarray(frames).reshape(-1).data
