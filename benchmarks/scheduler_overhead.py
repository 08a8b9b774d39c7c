"""Time of a denoising step outside the network: ours, and diffusers' loop on the same latents.

Ours: the sampling loop of a real cascade with everything but the call of ONNX Runtime itself: the
row of the table, binding, cancelling, progress. Theirs: the loop of a diffusers pipeline around a
network that returns at once: two guidance rows joined and mixed, `scale_model_input`, `step`.
Both on the CPU, latents of the same shape, DDIM; loops take turns, the least of --rounds counts,
in time of the processor, as other work only adds. Beside it the whole step with the network.

    python benchmarks/scheduler_overhead.py
    python benchmarks/scheduler_overhead.py --cascade engines/lavie-shapes --stage base

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from shapes_report import machine

import edgereel
from edgereel.backends import ort
from edgereel.plan import Denoise

__all__ = ["main"]

PROMPT = "a red circle moving right"


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cascade", default="engines/shapes", metavar="DIR")
    parser.add_argument("--stage", default="decoder", help="the stage whose loop is measured")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    cascade = edgereel.load(options.cascade, backend="ort")
    probe = _Probe(cascade, options.stage)
    whole = probe.step_seconds(20)
    theirs = _diffusers(probe.shape)
    ours_found, theirs_found = [], []
    probe.without_network()
    for _ in range(options.rounds):
        ours_found.append(probe.step_seconds(options.steps))
        theirs_found.append(theirs(options.steps))
    ours, other = min(ours_found), min(theirs_found)
    figures = {
        "latents": list(probe.shape),
        "step_ms": round(whole * 1e3, 2),
        "ours_us": round(ours * 1e6, 1),
        "diffusers_us": round(other * 1e6, 1),
        "ours_share_of_step": round(ours / whole, 5),
        "ratio": round(other / ours, 1),
    }
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(json.dumps({**figures, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


class _Probe:
    """The sampling loop of a stage, timed from the end of its first step to that of its last."""

    def __init__(self, cascade: edgereel.Cascade, stage: str) -> None:
        self._cascade, self._stage = cascade, stage
        self.shape: tuple[int, ...] = ()
        self.clock = time.perf_counter
        mode = next(iter(cascade.plan.modes.values()))
        (self._op,) = [
            op
            for found in mode.stages
            if found.name == stage
            for op in found.ops
            if isinstance(op, Denoise)
        ]
        self._param = getattr(self._op.steps, "param", None)

    def step_seconds(self, steps: int) -> float:
        """Of one step of a loop of so many."""
        moments: list[float] = []

        def note(progress: edgereel.Progress) -> None:
            if progress.stage == self._stage and progress.steps > 1:
                if progress.step:
                    moments.append(self.clock())
                if progress.step == progress.steps:
                    raise edgereel.Cancelled("measured")

        with contextlib.suppress(edgereel.Cancelled):
            self._cascade(PROMPT, params={str(self._param): steps}, callback=note)
        engine = self._cascade._interpreter.engines[self._op.graph]
        self.shape = engine._bound["x"][1]  # type: ignore[attr-defined]
        return (moments[-1] - moments[0]) / (len(moments) - 1)

    def without_network(self) -> None:
        """From now on the loop's network does nothing; its outputs stay as they are, zeros."""
        engine = self._cascade._interpreter.engines[self._op.graph]
        assert isinstance(engine, ort.Engine)
        self.clock = time.thread_time
        engine._run = lambda: None  # type: ignore[method-assign]
        backend = self._cascade.backend
        empty = backend.empty

        def zeros(dtype: str, shape: Sequence[int]) -> Any:
            buffer: Any = empty(dtype, shape)
            buffer.fill(0)
            return buffer

        backend.empty = zeros  # type: ignore[method-assign]


def _diffusers(shape: tuple[int, ...]) -> Callable[[int], float]:
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    start, predicted = torch.randn(shape), torch.zeros(2 * shape[0], *shape[1:])

    def timed(steps: int) -> float:
        scheduler.set_timesteps(steps)
        latents, started = start, 0.0
        with torch.no_grad():
            for index, t in enumerate(scheduler.timesteps):
                if index == 1:
                    started = time.thread_time()
                both = scheduler.scale_model_input(torch.cat([latents] * 2), t)
                assert both.shape == predicted.shape  # where the network would be called
                without, with_text = predicted.chunk(2)
                guided = without + 3.0 * (with_text - without)
                latents = scheduler.step(guided, t, latents).prev_sample
        return (time.thread_time() - started) / (steps - 1)

    return timed


if __name__ == "__main__":
    sys.exit(main())
