"""The shapes a graph's engine must accept, worked out from the modes that use the graph.

Every use of a graph gives sizes to the symbols of its inputs. A size the plan fixes is one static
profile; `G`, the number of guidance rows, is one static profile per possible number, since a call
with guidance off keeps fewer rows. Weights are shared by all profiles of an engine, and static
profiles run faster than a range; a range is made only where a user's param decides the size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from edgereel.builds import Profile
from edgereel.errors import PlanError
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
    raise PlanError.at(place, f"symbol {symbol!r} has no size", "one from ids or from a chunk")


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
    sizes = {min(each.size, length), length % each.size} - {0}
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
