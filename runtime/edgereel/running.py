"""Runs one call: a loop over stages, a `match` over op kinds, and the denoise loop.

It knows ops, never models. Values live in the backend's buffers; the host only draws noise,
joins chunks and tokenizes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgereel import chunks
from edgereel.backends import Array, Backend, Buffer, Engine
from edgereel.call import Call, Sizes
from edgereel.errors import Cancelled, EngineError
from edgereel.plan import Denoise, Noise, Plan, Ref, Renoise, Run, Stage, Tokenize
from edgereel.sampling import Loop
from edgereel.tokenizer import Tokenizer
from edgereel.windows import Span

__all__ = ["Loaded", "Progress", "Result", "run_call"]


@dataclass(frozen=True)
class Progress:
    """Where a call is: reported when a stage starts (step 0) and after each call of a graph."""

    stage: str
    stage_index: int
    stages: int
    step: int  # finished steps of the present op
    steps: int
    chunk: int  # index of the present chunk
    chunks: int
    done: float  # share of the work, 0 to 1
    seconds: float  # since the call began
    clip: int = 0  # index of the present clip, of a video that is continued
    clips: int = 1


@dataclass
class Result:
    """What a run leaves: frames u8 [F, H, W, 3], and facts about the run."""

    frames: NDArray[np.uint8]
    fps: float
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    warnings: list[str] = field(default_factory=list)


class Loaded(Protocol):
    """What a call runs with; the interpreter is it."""

    plan: Plan
    backend: Backend

    def engine(self, graph: str) -> Engine:
        """The engine of a graph, loaded at its first use."""

    def tokenizer(self, name: str) -> Tokenizer:
        """A tokenizer, loaded at its first use."""

    def load_ahead(self, stages: Sequence[Stage]) -> None:
        """Begins to load what some stages need, if that can be beside the work."""

    def stage_is_done(self) -> None:
        """Gives back what later stages do not need."""


def run_call(
    loaded: Loaded, call: Call, callback: Callable[[Progress], None], cancelled: Event
) -> Result:
    """The frames of a call.

    Raises:
        EngineError: a graph failed, or made what is not finite.
        Cancelled: `cancelled` was set, or the callback raised it.
    """
    return _Run(loaded, call, callback, cancelled).run()


@dataclass
class _Scope:
    """What the ops of a stage, or of one chunk of it, can see."""

    values: dict[str, Buffer]
    sizes: Sizes
    chunk: int | None = None
    lead: int = 0  # entries of the first chunk in front of this one


class _Run:
    """The state of one call."""

    def __init__(
        self,
        loaded: Loaded,
        call: Call,
        callback: Callable[[Progress], None],
        cancelled: Event,
    ) -> None:
        self.loaded, self.backend, self.call = loaded, loaded.backend, call
        self.callback, self.cancelled = callback, cancelled
        self.started = time.perf_counter()
        self.stage_index, self.chunk, self.chunks = 0, 0, 1
        self.done, self.total = 0, call.total_work()
        self.warnings: list[str] = []

    def run(self) -> Result:
        mode, marks = self.call.mode, [self.backend.mark()]
        values = {name: self.backend.put(frames) for name, frames in self.call.videos.items()}
        for self.stage_index, stage in enumerate(mode.stages):
            self.loaded.load_ahead(mode.stages[self.stage_index : self.stage_index + 2])
            self.run_stage(stage, values)
            for name in values.keys() - self.call.read_after(self.stage_index):
                del values[name]
            self.loaded.stage_is_done()
            marks.append(self.backend.mark())
        frames = self.backend.get(values[mode.output.value])
        self.backend.done()
        spans = zip(mode.stages, itertools.pairwise(marks), strict=True)
        seconds = {stage.name: self.backend.seconds(*span) for stage, span in spans}
        return Result(frames, float(self.call.value(mode.output.fps)), seconds, self.warnings)

    def run_stage(self, stage: Stage, values: dict[str, Buffer]) -> None:
        """Runs a stage, once or per chunk, and adds what leaves it to `values`."""
        self.chunk, self.chunks = 0, math.prod(len(s) for s in self.call.spans[stage.name])
        self.report(0, 1)
        if stage.each is None:
            self.run_ops(stage, _Scope(values, self.call.sizes))
            return
        run = partial(self.run_chunk, stage, values)
        joined = chunks.joined(self.backend, self.call, stage, run)
        for name, buffer in joined.items():
            values[stage.collect[name]] = buffer

    def run_chunk(
        self, stage: Stage, values: Mapping[str, Buffer], spans: Sequence[Span]
    ) -> dict[str, Buffer]:
        """What is collected of one chunk, without what leads it."""
        assert stage.each is not None
        inside = dict(values)
        for part, whole in stage.each.slices.items():
            given = self.read(whole, _Scope(inside, self.call.sizes))
            cuts = self.call.cuts(part, stage.each, spans)
            inside[part] = chunks.part_of(self.backend, given, cuts)
        sizes, lead = self.call.chunk_sizes(stage, spans), sum(span.lead for span in spans)
        self.run_ops(stage, _Scope(inside, sizes, self.chunk, lead))
        self.chunk += 1
        return {name: inside[name][lead:] if lead else inside[name] for name in stage.collect}

    def run_ops(self, stage: Stage, scope: _Scope) -> None:
        for op in stage.ops:
            match op:
                case Tokenize():
                    self.tokenize(op, scope)
                case Noise():
                    shape = self.call.shape(op.value, scope.sizes)
                    drawn = self.draw(op.value, shape, scope, op.shared)
                    scope.values[op.value] = self.backend.put(drawn)
                case Run():
                    inputs = {name: self.read(value, scope) for name, value in op.inputs.items()}
                    outputs = {name: self.make(value, scope) for name, value in op.outputs.items()}
                    self.check_cancelled()
                    self.loaded.engine(op.graph).run(inputs, outputs)
                    self.done += self.call.work(op, scope.sizes)
                    self.report(1, 1)
                case Denoise():
                    self.denoise(op, scope)
                case Renoise():
                    c_x, c_z = self.call.renoise[op.out]
                    x = self.read(op.x, scope)
                    z = self.draw(op.noise, x.shape, scope, op.shared_noise)
                    scope.values[op.out] = self.backend.mixed(x, c_x, z, c_z)

    def denoise(self, op: Denoise, scope: _Scope) -> None:
        """The sampling loop; what it makes must be finite numbers."""
        steps, x = self.call.steps[op.out], self.read(op.x, scope)
        graph, count = self.loaded.plan.graphs[op.graph], len(steps.rows)

        def noise(step: int) -> Array:
            return self.draw(op.noise or "", x.shape, scope, op.shared_noise, step)

        def after(step: int) -> None:
            self.done += self.call.work(op, scope.sizes) // count
            self.report(step, count)

        loop = Loop(
            backend=self.backend,
            engine=self.loaded.engine(op.graph),
            steps=steps,
            x=x,
            conditions={name: self.read(value, scope) for name, value in op.conditions.items()},
            made=frozenset({"prev", "noise"} & graph.inputs.keys()),
            noise=None if op.noise is None else noise,
        )
        made = loop.run(self.check_cancelled, after)
        if not loop.is_finite(made):
            raise self.not_finite(op, loop)
        scope.values[op.out] = made

    def not_finite(self, op: Denoise, loop: Loop) -> EngineError:
        """The error of a loop whose result is not finite, with the step where that began."""
        step, count = loop.first_not_finite(self.check_cancelled), len(loop.steps.rows)
        where = {0: f"{op.x} before the first step", None: "its result"}.get(
            step, f"{op.out} after step {step} of {count}"
        )
        precision = loop.engine.precision
        return EngineError(
            f"stage {self.call.mode.stages[self.stage_index].name!r}: {where} holds values that "
            f"are not finite (graph {op.graph}, {precision}); expected finite numbers. `edgereel "
            f"verify` says which graph is wrong; compile engines with more of it in float32 "
            f"(`build.py compile --precision fp32`), or check what was given to the stage."
        )

    def tokenize(self, op: Tokenize, scope: _Scope) -> None:
        """The kept rows of a guidance batch as ids, mask and declared indices."""
        kept, rows = self.call.kept[op.rows], self.call.mode.rows[op.rows]
        texts = []
        for index in kept:
            row = rows[index]
            given = "" if row.param is None else self.call.params[row.param]
            texts.append(f"{given}{row.append}{row.text or ''}")
        ids, mask, cut = self.loaded.tokenizer(op.tokenizer).encode(texts)
        for index in cut:
            name = rows[kept[index]].param or "a text of the plan"
            sentence = (
                f"{name} is longer than the {ids.shape[1]} tokens that {op.tokenizer!r} reads; "
                f"its end was left out. Shorten it to have all of it count."
            )
            if sentence not in self.warnings:
                self.warnings.append(sentence)
        made = {op.ids: ids, op.mask: mask, op.row: np.array(kept, np.int64)}
        for value, array in made.items():
            if value is not None:
                dtype = self.call.mode.values[value].dtype
                scope.values[value] = self.backend.put(array.astype(dtype))

    def draw(
        self,
        name: str,
        shape: tuple[int, ...],
        scope: _Scope,
        shared: bool | Ref,
        step: int | None = None,
    ) -> Array:
        """Noise f32 of the shape; shared noise is one draw for every index of axis 0."""
        draw, shared = self.call.draws.draw, bool(self.call.value(shared))
        if not shared and scope.lead:
            first = draw(name, (scope.lead, *shape[1:]), step=step, chunk=0, part=True)
            rest = (shape[0] - scope.lead, *shape[1:])
            return np.concatenate([first, draw(name, rest, step=step, chunk=scope.chunk)])
        if not shared:
            return draw(name, shape, step=step, chunk=scope.chunk)
        return np.broadcast_to(draw(name, shape[1:], step=step), shape)

    def read(self, value: str, scope: _Scope) -> Buffer:
        """The buffer of a value that was made, or of a numeric param."""
        if value in scope.values:
            return scope.values[value]
        return self.backend.put(self.call.fill(value, scope.sizes))

    def make(self, value: str, scope: _Scope) -> Buffer:
        """A new buffer for a value."""
        spec = self.call.mode.values[value]
        scope.values[value] = self.backend.empty(spec.dtype, self.call.shape(value, scope.sizes))
        return scope.values[value]

    def check_cancelled(self) -> None:
        """Before each call of a graph: raises Cancelled if the caller wants to stop."""
        if self.cancelled.is_set():
            raise Cancelled(
                "The call was cancelled; nothing was written. Call again to start over."
            )

    def report(self, step: int, steps: int) -> None:
        """Tells the caller where the work is."""
        self.callback(
            Progress(
                stage=self.call.mode.stages[self.stage_index].name,
                stage_index=self.stage_index,
                stages=len(self.call.mode.stages),
                step=step,
                steps=steps,
                chunk=self.chunk,
                chunks=self.chunks,
                done=self.done / max(self.total, 1),
                seconds=time.perf_counter() - self.started,
            )
        )
