"""Calls ffmpeg, the binary that imageio-ffmpeg carries; it reads and writes all video files."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import IO

from edgereel.errors import BackendUnavailable

__all__ = ["piped", "program", "reason", "started"]

_SPEAKER = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] ")  # who in ffmpeg said it, with its address


def program() -> list[str]:
    """The start of every command line: the binary, told to be quiet but for errors.

    Raises:
        BackendUnavailable: imageio-ffmpeg is not there, or has no binary for this machine.
    """
    try:
        import imageio_ffmpeg  # here, so that a call that reads and writes no file does without it

        return [str(imageio_ffmpeg.get_ffmpeg_exe()), "-hide_banner", "-loglevel", "error"]
    except (ImportError, RuntimeError) as error:
        raise _unavailable(error) from None


def piped(arguments: tuple[str, ...], content: bytes = b"") -> tuple[bytes, str]:
    """What ffmpeg writes to its output, and what it complains about; empty if nothing.

    Raises:
        BackendUnavailable: it does not start.
    """
    try:
        done = subprocess.run([*program(), *arguments], input=content, capture_output=True)
    except OSError as error:
        raise _unavailable(error) from error
    failed = done.returncode != 0 or done.stderr.strip()
    return done.stdout, reason(done.returncode, done.stderr) if failed else ""


def started(arguments: tuple[str, ...], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """ffmpeg at work, its output a pipe to read; `errors` is a file for its complaints.

    Raises:
        BackendUnavailable: it does not start.
    """
    try:
        return subprocess.Popen(
            [*program(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    except OSError as error:
        raise _unavailable(error) from error


def reason(returncode: int, stderr: bytes) -> str:
    """The first and last lines ffmpeg wrote, or the signal that ended it."""
    said = (_SPEAKER.sub("", line).strip() for line in stderr.decode(errors="replace").splitlines())
    lines = [line for line in said if line]
    tail = "; ".join(lines if len(lines) < 4 else [lines[0], *lines[-2:]])
    if returncode < 0:
        name = signal.strsignal(-returncode) or f"signal {-returncode}"
        return f"{name}; {tail}" if tail else name
    return tail or f"exit code {returncode}"


def _unavailable(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"ffmpeg did not start ({error}). The binary of imageio-ffmpeg was expected. "
        "Reinstall it: pip install --force-reinstall imageio-ffmpeg."
    )
