"""The shapes a graph's engine must accept, worked out from the modes that use the graph.

Every use of a graph gives sizes to the symbols of its inputs. A size the plan fixes is one static
profile; `G`, the number of guidance rows, is one static profile per possible number, since a call
with guidance off keeps fewer rows. Weights are shared by all profiles of an engine, and static
profiles run faster than a range.

Where a param decides a size, the engine takes the param's default, and only what was asked for if
the param was named (trt_sizes.py). Height and width of a video are known only to a call, so they
are the square of its default `longest` unless they were asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from edgereel.builds import Profile
from edgereel.errors import InputError, PlanError
from edgereel.pictures import Wanted, scaled_size
from edgereel.plan import (
    Denoise,
    Each,
    GraphSpec,
    IntParam,
    Mode,
    Plan,
    Ref,
    Run,
    Shape,
    Stage,
    Tokenize,
    VideoParam,
    Window,
    resized,
    window_length,
)

from .trt_sizes import DEFAULTS, Asked, Span

__all__ = ["MAX_STATIC_PROFILES", "graph_profiles"]

MAX_STATIC_PROFILES = 8  # more than these become one range


def graph_profiles(
    plan: Plan, graph: str, asked: Sequence[Asked] = (DEFAULTS,)
) -> tuple[Profile, ...]:
    """The profiles of one graph, smallest first; symbols of all modes that use it are covered.

    Args:
        plan: the cascade's.
        graph: name of the graph.
        asked: each a choice of sizes for params, see trt_sizes.read_sizes.

    Raises:
        PlanError: no mode uses the graph and it has symbols, so no size is known.
        InputError: one size is asked for, and the graph has a range of them.
    """
    spec = plan.graphs[graph]
    sizes: dict[tuple[tuple[str, Span], ...], None] = {}
    for (name, mode), choice in itertools.product(plan.modes.items(), asked):
        known = _Sizes(f"modes.{name}", mode, choice)
        for stage in mode.stages:
            for inputs in _uses(mode, stage, graph):
                for found in known.assignments(stage, spec, inputs):
                    if choice.static:
                        _check_static(graph, found)
                    sizes[tuple(sorted(found.items()))] = None
    if not sizes and any(isinstance(d, str) for t in spec.inputs.values() for d in t.shape):
        raise PlanError.at(
            f"graphs.{graph}", "no mode uses it, so its symbols have no size", "a mode that does"
        )
    every = [dict(s) for s in sorted(sizes)] or [{}]
    if len(every) > MAX_STATIC_PROFILES and not any(choice.static for choice in asked):
        every = [_hull(every)]
    return tuple(_profile(spec, found) for found in every)


def _check_static(graph: str, sizes: Mapping[str, Span]) -> None:
    ranges = [f"{symbol} {low} to {high}" for symbol, (low, _, high) in sizes.items() if low < high]
    if ranges:
        raise InputError(
            f"--bucket: graph {graph} would take a range ({', '.join(ranges)}); expected one size "
            "of each. Name the param that decides it too, with `--profile PARAM=SIZE`."
        )


def _uses(mode: Mode, stage: Stage, graph: str) -> Iterator[Mapping[str, Shape]]:
    """For each op of a stage that calls the graph: input of the graph -> shape of its value."""
    for op in stage.ops:
        if isinstance(op, Run) and op.graph == graph:
            yield {name: mode.values[value].shape for name, value in op.inputs.items()}
        if isinstance(op, Denoise) and op.graph == graph:
            x = mode.values[op.x].shape
            shapes = {name: mode.values[value].shape for name, value in op.conditions.items()}
            weights: Shape = (_rows(mode, op.guidance.rows) if op.guidance else 1,)
            yield {**shapes, "x": x, "prev": x, "noise": x, "weights": weights}


def _rows(mode: Mode, rows: str) -> int | str:
    """Axis 0 of the ids tokenized from a group of rows."""
    for stage in mode.stages:
        for op in stage.ops:
            if isinstance(op, Tokenize) and op.rows == rows:
                return mode.values[op.ids].shape[0]
    return len(mode.rows[rows])


class _Sizes:
    """The sizes that the symbols of one mode can have, of those that were asked for."""

    def __init__(self, place: str, mode: Mode, asked: Asked) -> None:
        self._place, self._mode, self._asked = place, mode, asked

    def assignments(
        self, stage: Stage, spec: GraphSpec, inputs: Mapping[str, Shape]
    ) -> Iterator[dict[str, Span]]:
        """Every combination of sizes that one use can give to the graph's symbols."""
        bound: dict[str, int | str] = {}
        for name, shape in inputs.items():
            if name in spec.inputs:
                pairs = zip(spec.inputs[name].shape, shape, strict=True)
                bound.update({mine: its for mine, its in pairs if isinstance(mine, str)})
        symbols = sorted({size for size in bound.values() if isinstance(size, str)})
        for choice in itertools.product(*(self._spans(stage, symbol) for symbol in symbols)):
            chosen = dict(zip(symbols, choice, strict=True))
            yield {
                mine: chosen[its] if isinstance(its, str) else (its, its, its)
                for mine, its in bound.items()
            }

    def _spans(self, stage: Stage, symbol: str) -> list[Span]:
        """What a symbol can be: a number of rows, of entries in a chunk, or a size of a call."""
        mode = self._mode
        for other in mode.stages:
            for op in other.ops:
                if isinstance(op, Tokenize) and mode.values[op.ids].shape[0] == symbol:
                    most, only = len(mode.rows[op.rows]), self._asked.rows
                    counts = range(1, most + 1) if only is None else [min(only, most)]
                    return [(n, n, n) for n in counts]
        if stage.each is not None:
            found = mode.sizes.get(symbol)
            own, times = (found.symbol, found.times) if found else (symbol, 1)
            for window in stage.each.windows:
                if window.symbol == own:
                    parts = self._chunks(stage.each, window)
                    return [(a * times, b * times, c * times) for a, b, c in parts]
        span = self._start(symbol)
        if span is None:
            raise PlanError.at(
                f"{self._place}.values",
                f"the size {symbol!r} is known only to a call",
                "a default of the param that decides it, or `--profile PARAM=SIZE` with compile",
            )
        return [span]

    def _start(self, symbol: str) -> Span | None:
        """What a symbol that has a size from the start can be; None if only a call knows."""
        mode = self._mode
        size = mode.sizes.get(symbol)
        if size is not None:
            of = self._param(size.param) if size.param else self._start(size.symbol or "")
            if of is None:
                return None
            low, usual, high = (resized(size, n) for n in of)
            return (low[0] + bool(low[1]), usual[0], high[0])
        for name, video in mode.params.items():
            if isinstance(video, VideoParam) and symbol in mode.values[name].shape:
                axis = mode.values[name].shape.index(symbol)
                return self._int(video.frames) if axis == 0 else self._side(name, video, axis - 1)
        return None

    def _int(self, value: int | Ref | None) -> Span | None:
        """What an int of the plan can be."""
        if isinstance(value, Ref):
            return self._param(value.param)
        return (value, value, value) if value else None

    def _param(self, name: str) -> Span | None:
        """What was asked for of an int param, or its default; 0 stands for no number."""
        param = self._mode.params[name]
        assert isinstance(param, IntParam)  # plan_start checked it
        return self._asked.ints.get(name) or self._int(param.default)

    def _side(self, name: str, video: VideoParam, axis: int) -> Span | None:
        """Height (axis 0) or width of a video: asked for, or of a square scaled as by default."""
        sides = self._asked.sides.get(name)
        if sides is None:
            longest = self._int(video.longest)
            if longest is None:
                return None
            wanted = Wanted(longest=longest[1], multiple=video.multiple)
            sides = scaled_size((longest[1], longest[1]), wanted)
        return (sides[axis], sides[axis], sides[axis])

    def _chunks(self, each: Each, window: Window) -> list[Span]:
        """The size of a window and, if the axis does not divide, that of its last part."""
        axis = window_length(self._mode, each, window.symbol)
        length = self._start(axis) if isinstance(axis, str) else (axis, axis, axis)
        size = self._int(window.size) or length  # 0 takes all
        if size is None:
            raise PlanError.at(
                f"{self._place}.stages", "the size of a chunk is known only to a call", "a default"
            )
        if length is None:
            return [(1, size[1], size[2])]
        if length[0] < length[2] or size[0] < size[2]:
            most = min(size[2], length[2])
            return [(1, min(size[1], most), most)]
        rest = max(length[0] - size[0], 0) % (size[0] - window.lead)
        if window.overlap != 0:
            rest = 0  # the last part begins earlier
        sizes = {min(size[0], length[0]), rest + window.lead if rest else 0} - {0}
        return [(n, n, n) for n in sorted(sizes)]


def _hull(spans: Iterable[Mapping[str, Span]]) -> dict[str, Span]:
    """One range per symbol that holds them all; the largest is preferred."""
    merged: dict[str, Span] = {}
    for found in spans:
        for symbol, (low, _, high) in found.items():
            known = merged.get(symbol, (low, high, high))
            top = max(known[2], high)
            merged[symbol] = (min(known[0], low), top, top)
    return merged


def _profile(spec: GraphSpec, sizes: Mapping[str, Span]) -> Profile:
    """Smallest, preferred and largest shape of every input."""
    profile: Profile = {}
    for name, tensor in spec.inputs.items():
        dims = [(d, d, d) if isinstance(d, int) else sizes[d] for d in tensor.shape]
        low, usual, high = (tuple(d[i] for d in dims) for i in range(3))
        profile[name] = (low, usual, high)
    return profile
