"""How far a build is, told to a caller who may stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from edgereel.errors import Cancelled

__all__ = ["Progress", "Watch"]


@dataclass(frozen=True)
class Progress:
    """Where a build is."""

    graph: str
    phase: str
    fraction: float  # of this graph, 0..1
    done: float  # of the whole build, 0..1, weighted by the size of the graphs' files
    seconds: float  # since the build began


class Watch:
    """Turns the progress of one graph into the progress of the build."""

    def __init__(
        self, sizes: Mapping[str, int], progress: Callable[[Progress], bool | None] | None
    ) -> None:
        self.progress, self.start = progress, time.monotonic()
        self.sizes, self.whole = sizes, float(sum(sizes.values())) or 1.0
        self.before, self.graph = 0.0, next(iter(sizes))

    def begin(self, graph: str) -> None:
        """From now on fractions are of this graph."""
        self.graph = graph

    def tell(self, fraction: float, phase: str) -> None:
        """Calls back; raises Cancelled if the answer is False."""
        if self.progress is None:
            return
        done = min((self.before + fraction * self.sizes[self.graph]) / self.whole, 1.0)
        seconds = time.monotonic() - self.start
        if self.progress(Progress(self.graph, phase, fraction, done, seconds)) is False:
            raise Cancelled(
                f"Compiling stopped in graph {self.graph} as asked; nothing was written. Run "
                "the same command to compile again."
            )

    def end(self) -> None:
        """The graph is done."""
        self.tell(1.0, "done")
        self.before += self.sizes[self.graph]

    def finish(self) -> None:
        """The last call: everything is done."""
        self.before = self.whole
        with suppress(Cancelled):  # too late
            self.tell(1.0, "done")
