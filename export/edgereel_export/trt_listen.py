"""What TensorRT says while it builds: errors, facts about the engine, progress, the engine."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from edgereel.backends.trt_library import Library

__all__ = ["Log", "monitor", "writer"]

_DATATYPE = re.compile(r"Outputs: \[(.*?)\], Tactic")
_TYPE = re.compile(r"Datatype: (\w+)")
_MEMORY = re.compile(r"Total (Weights|Activation) Memory: (\d+) bytes")


class Log:
    """Keeps the errors and what the library says about the finished engine."""

    def __init__(self, trt: Library) -> None:
        self.errors: list[str] = []
        self.layers = ""
        self.memory: dict[str, int] = {}
        outer, severe = self, trt.module.ILogger.Severity.ERROR

        class Logger(trt.module.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                outer.take(severity <= severe, message)

        self.logger = Logger()

    def take(self, error: bool, message: str) -> None:
        """One message of the library."""
        if error and "cudaError" not in message:  # "no driver" is expected where there is no GPU
            self.errors.append(message)
        elif message.startswith("Layers:"):
            self.layers = message
        elif found := _MEMORY.search(message):
            self.memory[found[1]] = int(found[2])

    def types(self) -> dict[str, int]:
        """Element type -> kernels that write it; empty if the library does not say."""
        counts: dict[str, int] = {}
        for outputs in _DATATYPE.findall(self.layers):
            for name in sorted(set(_TYPE.findall(outputs))):
                counts[name] = counts.get(name, 0) + 1
        return counts


def monitor(trt: Library, progress: Callable[[float, str], bool]) -> Any:
    """The library's progress monitor: nested phases become one fraction that only grows."""

    class Monitor(trt.module.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, done
            self.reached = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = (parent, max(steps, 1), 0)

        def step_complete(self, name: str, step: int) -> bool:
            parent, steps, _ = self.phases[name]
            self.phases[name] = (parent, steps, min(step + 1, steps))
            self.reached = max(self.reached, self._fraction(name))
            return progress(self.reached, name)

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def _fraction(self, name: str) -> float:
            """How far the outermost phase is, counting the part of its current step."""
            parent, steps, done = self.phases[name]
            within = done / steps
            while parent in self.phases:
                name = parent
                parent, steps, done = self.phases[name]
                within = min((done + within) / steps, 1.0)
            return within

    return Monitor()


def writer(trt: Library, file: BinaryIO) -> Any:
    """Takes the serialised engine as it is made, so that it is never in memory as a whole.

    The library goes on after an error here: `failed` has the first.
    """

    class Writer(trt.module.IStreamWriter):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.failed: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                count = file.write(data)
                if count < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return count
            except OSError as error:
                self.failed = self.failed or error
                return 0

    return Writer()
