"""How long a cascade takes: cold and warm runs, by stage, and beside another setting of it.

Runs of two settings alternate, so that what slows the machine slows both; of them the ratio counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgereel.pipeline import Cascade

__all__ = ["TOTAL", "Limits", "Setting", "Timings", "measure", "percentiles"]

TOTAL = "total"  # end to end: from the call to its frames


@dataclass(frozen=True)
class Limits:
    """When measuring ends, as trtexec has it: after so many runs and so many seconds, both."""

    warmup: float = 0.2  # seconds of runs that do not count, one at least
    iterations: int = 10
    duration: float = 3.0  # seconds of runs that count


@dataclass
class Setting:
    """What is measured."""

    name: str
    load: Callable[[], Cascade]
    mode: str | None
    params: Mapping[str, object]


@dataclass
class Timings:
    """Seconds of one setting, by stage and TOTAL."""

    name: str
    load: float = 0.0  # reading the plan and choosing the backend
    cold: dict[str, float] = field(default_factory=dict)  # the first run, in which engines load
    warm: dict[str, list[float]] = field(default_factory=dict)
    device_bytes: int | None = None  # most that its runs left taken on a GPU
    metadata: dict[str, Any] = field(default_factory=dict)  # of the last video


def measure(
    settings: Sequence[Setting],
    limits: Limits,
    progress: Callable[[str, int], None] = lambda name, runs: None,
) -> list[Timings]:
    """The timings of some settings, whose runs take turns.

    Args:
        settings: loaded in this order, each run once before the next is loaded.
        limits: hold for every setting.
        progress: called after every run with the setting and its number of runs that count.
    """
    timings = [Timings(setting.name) for setting in settings]
    runs: list[Callable[[], dict[str, float]]] = []
    for setting, timing in zip(settings, timings, strict=True):
        started = time.perf_counter()
        cascade = setting.load()
        timing.load = time.perf_counter() - started
        runs.append(_runner(cascade, setting, timing))
        timing.cold = runs[-1]()
        progress(setting.name, 0)
    for run in runs:
        started = time.perf_counter()
        run()
        while time.perf_counter() - started < limits.warmup:
            run()
    started = time.perf_counter()
    for number in _counted(limits, started, len(settings)):
        for timing, run in zip(timings, runs, strict=True):
            for stage, seconds in run().items():
                timing.warm.setdefault(stage, []).append(seconds)
            progress(timing.name, number)
    return timings


def percentiles(seconds: Sequence[float], asked: Sequence[float]) -> list[float]:
    """The values below which so many percent of the runs lie, between runs linear."""
    return [float(value) for value in np.percentile(np.array(seconds), list(asked))]


def _counted(limits: Limits, started: float, settings: int) -> Iterator[int]:
    """Numbers from 1 of the rounds that count."""
    number = 0
    while number < limits.iterations or (
        time.perf_counter() - started < limits.duration * settings
    ):
        number += 1
        yield number


def _runner(cascade: Cascade, setting: Setting, timing: Timings) -> Callable[[], dict[str, float]]:
    """One run: its seconds by stage and in all; it also notes what memory it left taken."""
    # Engines are not loaded yet. On a CPU the peak of the process says more than what is free.
    before = cascade.backend.free_memory() if cascade.backend.loads_ahead else None

    def run() -> dict[str, float]:
        started = time.perf_counter()
        video = cascade(mode=setting.mode, params=dict(setting.params))
        total = time.perf_counter() - started
        if before is not None:
            taken = before - (cascade.backend.free_memory() or 0)
            timing.device_bytes = max(timing.device_bytes or 0, taken)
        timing.metadata = video.metadata
        return {**video.metadata["seconds"], TOTAL: total}

    return run
