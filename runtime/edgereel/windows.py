"""Parts of an axis that are worked on one after the other, and how results are joined again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Span", "fade", "join", "spans"]


class Span(NamedTuple):
    """The entries start to stop of an axis, after the first `lead` entries of all."""

    start: int
    stop: int
    lead: int = 0

    @property
    def size(self) -> int:
        """Number of entries, those in front included."""
        return self.stop - self.start + self.lead


def spans(total: int, size: int, overlap: int = 0, lead: int = 0) -> list[Span]:
    """The parts of an axis of `total` entries, in order.

    Parts that overlap all have the same size: the last one begins earlier. Others follow each
    other, and the last one may be shorter.

    Args:
        total: of the axis.
        size: of a part; 0 takes all at once.
        overlap: entries of a part that the one before has too; below `size`.
        lead: entries from the start that stand in front of every part but the first.
    """
    if size == 0 or size >= total:
        return [Span(0, total)]
    found = [Span(0, size)]
    while (done := found[-1].stop) < total:
        if overlap:
            start = min(done - overlap, total - size)
            found.append(Span(start, start + size))
        else:
            found.append(Span(done, min(done + size - lead, total), lead))
    return found


def join(whole: NDArray[Any], part: NDArray[Any], axis: int, start: int, done: int) -> None:
    """Puts a part into its place in `whole`; entries that are there already fade into it.

    They are mixed in float32; integers are rounded, halves to even.

    Args:
        whole: float32 or uint8, is written to.
        part: of the same sizes, but for `axis`.
        axis: that the parts lie along.
        start: where the part begins.
        done: where what is there already ends.
    """
    count = done - start
    new, old = np.moveaxis(part, axis, 0), np.moveaxis(whole, axis, 0)
    old[done : start + len(new)] = new[count:]
    if count > 0:
        kept, fresh = (w.reshape(-1, *[1] * (old.ndim - 1)) for w in fade(count))
        mixed = old[start:done] * kept + new[:count] * fresh
        old[start:done] = mixed if whole.dtype.kind == "f" else np.rint(mixed)


def fade(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights f32 [count] of what is there already, and of the part: (j + 1/2) / count."""
    fresh = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count)
    return 1 - fresh, fresh
