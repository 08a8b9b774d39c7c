"""The shapes a graph's engine must accept, worked out from the modes that use the graph.

Every use of a graph gives sizes to the symbols of its inputs. A size the plan fixes is one static
profile; `G`, the number of guidance rows, is one static profile per possible number, since a call
with guidance off keeps fewer rows. Weights are shared by all profiles of an engine, and static
profiles run faster than a range; a range is made only where a user's param decides the size.

Of the symbols that exist from the start, one whose size is a param, or that counts the frames a
video is cut to by a param, becomes the range of that param. Height and width of a video are known
only to a call, so they become one fixed square, the default of its `longest`: the engine takes
square videos of just that size, and others need another backend.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from edgereel.builds import Profile
from edgereel.errors import PlanError
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
)

__all__ = ["MAX_STATIC_PROFILES", "graph_profiles"]

MAX_STATIC_PROFILES = 8  # more than these become one range

Span = tuple[int, int, int]  # smallest, preferred, largest


def graph_profiles(plan: Plan, graph: str) -> tuple[Profile, ...]:
    """The profiles of one graph, smallest first; symbols of all modes that use it are covered.

    Raises:
        PlanError: no mode uses the graph and it has symbols, so no size is known.
    """
    spec = plan.graphs[graph]
    sizes: dict[tuple[tuple[str, Span], ...], None] = {}
    for name, mode in plan.modes.items():
        for stage in mode.stages:
            for inputs in _uses(mode, stage, graph):
                for found in _assignments(f"modes.{name}", mode, stage, spec, inputs):
                    sizes[tuple(sorted(found.items()))] = None
    if not sizes and any(isinstance(d, str) for t in spec.inputs.values() for d in t.shape):
        raise PlanError.at(
            f"graphs.{graph}", "no mode uses it, so its symbols have no size", "a mode that does"
        )
    known = [dict(s) for s in sorted(sizes)] or [{}]
    if len(known) > MAX_STATIC_PROFILES:
        known = [_hull(known)]
    return tuple(_profile(spec, found) for found in known)


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


def _assignments(
    place: str, mode: Mode, stage: Stage, spec: GraphSpec, inputs: Mapping[str, Shape]
) -> Iterator[dict[str, Span]]:
    """Every combination of sizes that one use can give to the graph's symbols."""
    bound: dict[str, int | str] = {}
    for name, shape in inputs.items():
        if name in spec.inputs:
            pairs = zip(spec.inputs[name].shape, shape, strict=True)
            bound.update({mine: its for mine, its in pairs if isinstance(mine, str)})
    symbols = sorted({size for size in bound.values() if isinstance(size, str)})
    spans = [_spans(place, mode, stage, symbol) for symbol in symbols]
    for choice in itertools.product(*spans):
        chosen = dict(zip(symbols, choice, strict=True))
        yield {
            mine: chosen[its] if isinstance(its, str) else (its, its, its)
            for mine, its in bound.items()
        }


def _spans(place: str, mode: Mode, stage: Stage, symbol: str) -> list[Span]:
    """What a symbol of a mode can be: a number of rows, or of entries in a chunk."""
    for other in mode.stages:
        for op in other.ops:
            if isinstance(op, Tokenize) and mode.values[op.ids].shape[0] == symbol:
                return [(n, n, n) for n in range(1, len(mode.rows[op.rows]) + 1)]
    each = stage.each
    if each is not None and mode.values[each.as_].shape[0] == symbol:
        return _chunks(mode, each)
    return [_start_span(place, mode, symbol)]


def _start_span(place: str, mode: Mode, symbol: str) -> Span:
    """What a symbol that has a size from the start can be."""
    size = mode.sizes.get(symbol)
    if size is not None:
        if size.param is not None:
            span = _param_span(f"{place}.params.{size.param}", mode, size.param)
        else:
            assert size.symbol is not None  # plan_start checked it
            span = _start_span(place, mode, size.symbol)
        low, usual, high = span
        return (-(-low // size.divide), usual // size.divide, high // size.divide)
    for name, video in mode.params.items():
        if isinstance(video, VideoParam) and symbol in mode.values[name].shape:
            if symbol == mode.values[name].shape[0]:
                return _frames_span(f"{place}.params.{name}.frames", mode, symbol, video)
            return _square(f"{place}.params.{name}.longest", mode, symbol, video)
    raise PlanError.at(place, f"symbol {symbol!r} has no size", "one from ids or from a chunk")


def _param_span(place: str, mode: Mode, name: str) -> Span:
    """The range of an int param; a required one is expected to be at its largest."""
    param = mode.params[name]
    if not isinstance(param, IntParam) or not param.min or param.max is None:
        raise PlanError.at(place, "can be any size", "a min of at least 1 and a max")
    return (param.min, param.default or param.max, param.max)


def _frames_span(place: str, mode: Mode, symbol: str, video: VideoParam) -> Span:
    """How many frames a video is cut to."""
    if isinstance(video.frames, Ref):
        return _param_span(place, mode, video.frames.param)
    if video.frames is None:
        raise PlanError.at(
            place, f"{symbol!r} is known only to a call", "a number of frames, or a size for it"
        )
    return (video.frames, video.frames, video.frames)


def _square(place: str, mode: Mode, symbol: str, video: VideoParam) -> Span:
    """The side of a square video, scaled as by default."""
    longest = video.longest
    if isinstance(longest, Ref):
        param = mode.params[longest.param]
        longest = param.default if isinstance(param, IntParam) else None
    if longest is None:
        raise PlanError.at(
            place, f"{symbol!r} is known only to a call", "a default size, or a size for it"
        )
    side = scaled_size((longest, longest), Wanted(longest=longest, multiple=video.multiple))[0]
    return (side, side, side)


def _chunks(mode: Mode, each: Each) -> list[Span]:
    """The chunk size and, if the axis does not divide, the size of the last chunk."""
    length = mode.values[each.value].shape[0]
    if isinstance(each.size, Ref):
        param = mode.params[each.size.param]
        assert isinstance(param, IntParam)  # plan_flow checked it
        smallest, largest = param.min or 1, param.max or length
        usual = param.default or largest
        if not isinstance(largest, int) or not isinstance(usual, int):
            raise PlanError.at(
                f"params.{each.size.param}", "has no max, so a chunk has no largest size", "a max"
            )
        limit = length if isinstance(length, int) else largest
        return [(1, min(max(usual, smallest), limit), min(largest, limit))]
    if isinstance(length, str):
        return [(1, each.size, each.size)]
    rest = max(length - each.size, 0) % (each.size - each.lead)
    sizes = {min(each.size, length), rest + each.lead if rest else 0} - {0}
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
