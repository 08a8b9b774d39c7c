"""The progress display: one moving line with the time left, or one line per stage in a log."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from edgereel.cli_table import size, table

if TYPE_CHECKING:
    from edgereel.pipeline import Cascade, Progress

__all__ = ["ProgressBar", "clock", "with_memory"]

_REDRAW_SECONDS = 0.1  # often enough to look alive, rare enough to cost nothing
_CLEAR_LINE = "\r\x1b[K"


class ProgressBar:
    """A callback for `Cascade.__call__`; use it in a `with` so that the line is always ended."""

    def __init__(self, stream: TextIO, *, bar: bool) -> None:
        self._stream = stream
        self._bar = bar
        self._stage: tuple[int, int] | None = None  # clip and stage
        self._drawn_at = -_REDRAW_SECONDS

    def __call__(self, progress: "Progress") -> None:
        """Shows the progress, at most ten times a second."""
        if not self._bar:
            if (progress.clip, progress.stage_index) != self._stage:
                self._stage = progress.clip, progress.stage_index
                self._stream.write(f"{_where(progress)} ({clock(progress.seconds)})\n")
                self._stream.flush()
            return
        now = time.monotonic()
        if now - self._drawn_at >= _REDRAW_SECONDS or progress.done >= 1:
            self._drawn_at = now
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(_CLEAR_LINE + line(progress, width))
            self._stream.flush()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Takes the moving line away, for something else to be printed."""
        if self._bar:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()


def line(progress: "Progress", width: int) -> str:
    """The moving line, at most `width` characters: place, step, bar, share, elapsed, left."""
    done = min(max(progress.done, 0.0), 1.0)
    left = "?" if done == 0 else clock(progress.seconds * (1 - done) / done)
    head = _where(progress)
    if progress.chunks > 1:
        head += f" chunk {min(progress.chunk + 1, progress.chunks)}/{progress.chunks}"
    if progress.steps > 1:
        head += f" step {progress.step}/{progress.steps}"
    tail = f"{done:4.0%} {clock(progress.seconds)} elapsed, {left} left"
    cells = min(30, width - len(head) - len(tail) - 4)
    if cells < 5:
        return f"{head} {tail}"[:width]
    full = round(done * cells)
    return f"{head} [{'=' * full}{'.' * (cells - full)}] {tail}"


def clock(seconds: float) -> str:
    """Minutes and seconds, `1:05`, with hours where needed."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _where(progress: "Progress") -> str:
    clip = f"clip {progress.clip + 1}/{progress.clips} " if progress.clips > 1 else ""
    return f"{clip}stage {progress.stage_index + 1}/{progress.stages} {progress.stage}"


def with_memory(cascade: "Cascade", bar: ProgressBar) -> "Callable[[Progress], None]":
    """`bar`, before whose first call the memory of the call is told."""
    told = list[bool]()

    def callback(progress: "Progress") -> None:
        if not told:
            told.append(True)
            stages, free = cascade.memory["stages"], cascade.memory["free"]
            rows = [(name, *map(size, parts.values())) for name, parts in stages.items()]
            head = ("stage", "memory, predicted", "weights", "values", "activations")
            print("\n".join(table([head, *rows])), file=sys.stderr)
            if free is not None:
                print(f"  {size(free)} are free", file=sys.stderr)
        bar(progress)

    return callback
