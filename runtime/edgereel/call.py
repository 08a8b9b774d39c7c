"""Everything one call fixes before an engine runs: sizes, kept rows, step tables, noise.

All bad user values surface here, so a long computation never ends in a sentence about a flag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel import noise, schedule
from edgereel.call_start import read_videos, start_sizes
from edgereel.errors import InputError
from edgereel.plan import (
    Denoise,
    Guidance,
    Mode,
    Noise,
    Op,
    Plan,
    Ref,
    Renoise,
    Run,
    Stage,
    Tokenize,
)

__all__ = ["Call", "Draws", "Steps"]

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


@dataclass(frozen=True)
class Chunk:
    """A part of axis 0, start to stop, led by the first `lead` entries; sizes of all symbols."""

    start: int
    stop: int
    sizes: Sizes
    lead: int = 0


class Draws:
    """The noise of one call: drawn by name, or taken from arrays the user gave.

    Keys of given arrays: `name` for a noise or renoise op, `name.k` for step k of a denoise op,
    either with `[c]` behind it in chunk c of a chunked stage. Shared noise has no chunk and no
    axis 0.
    """

    def __init__(self, seed: int, given: Mapping[str, Array], mode: Mode) -> None:
        self._seed, self._given = seed, given
        ops = [op for stage in mode.stages for op in stage.ops]
        once = {
            op.value if isinstance(op, Noise) else op.noise
            for op in ops
            if isinstance(op, Noise | Renoise)
        }
        steps = {op.noise for op in ops if isinstance(op, Denoise) and op.noise is not None}
        for key in given:
            whole = re.sub(r"\[\d+\]$", "", key)
            name, _, step = whole.rpartition(".")
            if whole not in once and not (name in steps and step.isdecimal()):
                known = sorted(once | {f"{stream}.0" for stream in steps})
                raise InputError(
                    f"the given noise {key!r} is not drawn in this mode; expected keys like "
                    f"{', '.join(known) or '(it draws none)'}. Correct the key, or drop it."
                )

    def draw(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        step: int | None = None,
        chunk: int | None = None,
        part: bool = False,
    ) -> NDArray[np.float32]:
        """Standard normal noise, f32 of the shape.

        Args:
            name: of the stream.
            shape: of the result; the leading axes that a caller shares are left to it.
            step: index in the trajectory, or None for a draw outside a loop.
            chunk: index of the chunk, or None outside chunks and for shared noise.
            part: only the first entries of the draw are wanted.
        """
        key = name if step is None else f"{name}.{step}"
        key += "" if chunk is None else f"[{chunk}]"
        if key not in self._given:
            return noise.normal(self._seed, name, chunk or 0, step or 0, shape)
        array = np.asarray(self._given[key])
        if part and array.shape[1:] == shape[1:]:
            array = array[: shape[0]]
        if array.shape != shape or array.dtype.kind != "f":
            raise InputError(
                f"the given noise {key!r} is {array.dtype} {list(array.shape)}; expected float32 "
                f"{list(shape)}. Save it in that shape."
            )
        return array.astype(np.float32)


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
        self.draws = Draws(params.get("seed", 0), given_noise, mode)
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
            self.work(op, chunk.sizes)
            for stage in self.mode.stages
            for chunk in self.chunks(stage)
            for op in stage.ops
        )

    def chunks(self, stage: Stage) -> list[Chunk]:
        """The parts of axis 0 that a stage works on, one after the other; one if it is whole."""
        if stage.each is None:
            return [Chunk(0, 0, self.sizes)]
        total = self.shape(stage.each.value, self.sizes)[0]
        size, symbol = self.value(stage.each.size), self.mode.values[stage.each.as_].shape[0]
        chunks: list[Chunk] = []
        start = 0
        while start < total:
            lead = stage.each.lead if chunks else 0
            stop = min(start + size - lead, total)
            own = {symbol: stop - start + lead} if isinstance(symbol, str) else {}
            chunks.append(Chunk(start, stop, {**self.sizes, **own}, lead))
            start = stop
        return chunks

    def read_after(self, stage_index: int) -> set[str]:
        """The values that are still needed after a stage."""
        needed = {self.mode.output.value}
        for stage in self.mode.stages[stage_index + 1 :]:
            needed |= {stage.each.value} if stage.each is not None else set()
            for op in stage.ops:
                needed |= _reads(op)
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


def _reads(op: Op) -> set[str]:
    """The values an op reads."""
    match op:
        case Run():
            return set(op.inputs.values())
        case Denoise():
            return {op.x, *op.conditions.values()}
        case Renoise():
            return {op.x}
    return set()
