"""Everything one call fixes before an engine runs: sizes, kept rows, step tables, noise.

All bad user values surface here, so a long computation never ends in a sentence about a flag.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel import schedule, windows
from edgereel.call_draws import Draws
from edgereel.call_start import read_videos, start_sizes
from edgereel.errors import InputError
from edgereel.memory import reads
from edgereel.plan import (
    Denoise,
    Each,
    Guidance,
    Mode,
    Op,
    Plan,
    Ref,
    Renoise,
    Run,
    Stage,
    Tokenize,
    cut,
    window_length,
)
from edgereel.windows import Span

__all__ = ["Call", "Steps"]

T, C_PREV, C_NOISE = (schedule.ROW.index(column) for column in ("t", "c_prev", "c_noise"))
Array = NDArray[Any]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Steps:
    """The steps of one denoise op."""

    rows: NDArray[np.float32]  # [N, 16], columns schedule.ROW
    weights: NDArray[np.float32]  # [G]
    first: int  # index of rows[0] in the whole trajectory, which numbers the noise
    trajectory: NDArray[np.float32]  # timesteps of all rows, also of those that a range cuts


class Call:
    """One mode with the user's params, resolved as far as possible without running a graph."""

    def __init__(
        self,
        plan: Plan,
        mode: Mode,
        params: Mapping[str, Any],
        tables: Mapping[str, NDArray[np.float64]],
        given_noise: Mapping[str, Array],
    ) -> None:
        self.mode, self.params = mode, params
        self._graphs, self._tables = plan.graphs, tables
        self.draws = Draws(params, given_noise, mode)
        self.kept = {name: self._kept(name) for name in mode.rows}
        self.steps: dict[str, Steps] = {}  # by the `out` of the denoise op
        self.renoise: dict[str, tuple[float, float]] = {}  # by the `out` of the renoise op
        for place, op in self._ops():
            try:
                if isinstance(op, Denoise):
                    self.steps[op.out] = self._steps(op)
                elif isinstance(op, Renoise):
                    self._check_order(op.from_, op.to)
                    self.renoise[op.out] = self._renoise(op)
            except ValueError as error:
                raise InputError(f"stage {place!r}: {error}") from None
        self.videos = read_videos(mode, params)
        self.sizes = {**start_sizes(mode, params, self.videos), **self._row_sizes()}
        self.spans = {stage.name: self._spans(stage) for stage in mode.stages}

    def value(self, field: Any) -> Any:
        """A literal of the plan, or what the user gave for the param it refers to."""
        return self.params[field.param] if isinstance(field, Ref) else field

    def shape(self, value: str, sizes: Sizes) -> tuple[int, ...]:
        """The shape of a value in numbers."""
        spec = self.mode.values[value]
        return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)

    def fill(self, name: str, sizes: Sizes) -> Array:
        """A numeric param as the value of its name."""
        return np.full(self.shape(name, sizes), self.params[name], self.mode.values[name].dtype)

    def work(self, op: Op, sizes: Sizes) -> int:
        """A guess at what an op costs: elements its graph writes in all its calls."""
        match op:
            case Run():
                return sum(self._elements(name, sizes) for name in op.outputs.values())
            case Denoise():
                steps = self.steps[op.out]
                return len(steps.rows) * len(steps.weights) * self._elements(op.x, sizes)
        return 0

    def total_work(self) -> int:
        """The work of all stages and chunks."""
        return sum(
            self.work(op, self.chunk_sizes(stage, spans))
            for stage in self.mode.stages
            for spans in itertools.product(*self.spans[stage.name])
            for op in stage.ops
        )

    def chunk_sizes(self, stage: Stage, spans: Sequence[Span]) -> Sizes:
        """The sizes of all symbols in the chunk that lies in these spans of the windows."""
        if stage.each is None:
            return self.sizes
        own = {w.symbol: span.size for w, span in zip(stage.each.windows, spans, strict=True)}
        for symbol, size in self.mode.sizes.items():
            if size.symbol in own:
                own[symbol] = own[size.symbol] * size.times
        return {**self.sizes, **own}

    def cuts(self, part: str, each: Each, spans: Sequence[Span]) -> list[tuple[int, Span]]:
        """The axes that the windows cut a value on to make `part`, each with its span."""
        found = [
            (cut(self.mode, part, window.symbol), span)
            for window, span in zip(each.windows, spans, strict=True)
        ]
        return [(axis[0], span) for axis, span in found if axis is not None]

    def _spans(self, stage: Stage) -> list[list[Span]]:
        """The parts of each window of a stage; of a stage without, none."""
        if stage.each is None:
            return []
        found = []
        for window in stage.each.windows:
            length = window_length(self.mode, stage.each, window.symbol)
            total = length if isinstance(length, int) else self.sizes[length]
            size, overlap = self.value(window.size), self.value(window.overlap)
            if size and overlap >= size:
                names = [n.param for n in (window.size, window.overlap) if isinstance(n, Ref)]
                raise InputError(
                    f"stage {stage.name!r}: parts of {size} that overlap by {overlap} never get "
                    f"on; expected a larger part or a smaller overlap. Change {' or '.join(names)}."
                )
            found.append(windows.spans(total, size, overlap, window.lead))
        return found

    def read_after(self, stage_index: int) -> set[str]:
        """The values that are still needed after a stage."""
        needed = {self.mode.output.value}
        for stage in self.mode.stages[stage_index + 1 :]:
            needed |= set(stage.each.slices.values()) if stage.each is not None else set()
            for op in stage.ops:
                needed.update(reads(op))
        return needed

    def _check_order(self, clean: Any, noisy: Any) -> None:
        """Raises ValueError unless one timestep, None for clean, is less noisy than the other."""
        if clean is not None and self.value(clean) >= self.value(noisy):
            names = (
                t.param if isinstance(t, Ref) else "the plan's timestep" for t in (clean, noisy)
            )
            low, high = (
                f"{name} is {self.value(t):g}"
                for name, t in zip(names, (clean, noisy), strict=True)
            )
            raise ValueError(
                f"{low} and {high}; expected the first to be the lower timestep, as it has less "
                f"noise. Change one of them."
            )

    def _elements(self, name: str, sizes: Sizes) -> int:
        return math.prod(self.shape(name, sizes))

    def _ops(self) -> Iterator[tuple[str, Op]]:
        return ((stage.name, op) for stage in self.mode.stages for op in stage.ops)

    def _weights(self, guidance: Guidance) -> list[float]:
        return [
            weight.const + sum(factor * self.params[name] for name, factor in weight.params.items())
            for weight in guidance.weights
        ]

    def _kept(self, rows: str) -> list[int]:
        """Indices of the rows that some denoise op gives a weight, or of all if none guides."""
        weights = [
            self._weights(op.guidance)
            for _, op in self._ops()
            if isinstance(op, Denoise) and op.guidance is not None and op.guidance.rows == rows
        ]
        kept = [
            index
            for index in range(len(self.mode.rows[rows]))
            if not weights or any(of_op[index] != 0 for of_op in weights)
        ]
        if not kept:
            raise InputError(
                f"the guidance gives every one of the {rows} rows the weight 0; expected one that "
                f"counts. Change the guidance."
            )
        return kept

    def _row_sizes(self) -> dict[str, int]:
        sizes = {}
        for _, op in self._ops():
            if isinstance(op, Tokenize):
                axis = self.mode.values[op.ids].shape[0]
                if isinstance(axis, str):
                    sizes[axis] = len(self.kept[op.rows])
        return sizes

    def _renoise(self, op: Renoise) -> tuple[float, float]:
        """Coefficients of x and of the noise."""
        start, end = self.value(op.from_), self.value(op.to)
        if op.along is not None:
            start, end = (self._lowered(t, op.along) for t in (start, end))
        return schedule.renoise_coefficients(self._tables[op.schedule], start, end)

    def _lowered(self, t: float | None, along: str) -> float | None:
        """The highest timestep of a trajectory that is not above t; clean stays clean."""
        if t is None:
            return None
        visited = self.steps[along].trajectory
        if not np.any(visited <= t):
            raise ValueError(
                f"timestep {t:g} is below {visited.min():g}, the last that is visited; expected a "
                f"higher one. Raise it, or take more steps."
            )
        return float(visited[visited <= t].max())

    def _steps(self, op: Denoise) -> Steps:
        sampler = self.value(op.sampler)
        rows = schedule.sampler_rows(
            sampler,
            self._tables[op.schedule],
            op.spacings.get(sampler) or self.value(op.spacing),
            self.value(op.steps),
            eta=self.value(op.eta),
            final=op.final,
            variance=op.variance,
        )
        first, trajectory = 0, rows[:, T]
        if op.range is not None:
            high = self.value(op.range.from_)
            self._check_order(op.range.to, op.range.from_)
            first = int(np.sum(rows[:, T] > high))
            rows = schedule.row_range(rows, high, self.value(op.range.to))
        for column, name in ((C_PREV, "prev"), (C_NOISE, "noise")):
            if np.any(rows[:, column]) and name not in self._graphs[op.graph].inputs:
                raise InputError(
                    f"sampler {sampler!r} with eta {self.value(op.eta)} needs an "
                    f"input {name!r} that graph {op.graph!r} does not have; expected a sampler it "
                    f"was exported for. Choose another, or export the cascade with that input."
                )
        weights = [1.0]
        if op.guidance is not None:
            every = self._weights(op.guidance)
            weights = [every[index] for index in self.kept[op.guidance.rows]]
        return Steps(rows, np.array(weights, np.float32), first, trajectory)
