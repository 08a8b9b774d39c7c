"""The memory a mode will take, known before anything is loaded.

At every op that is the weights of the graphs loaded so far, the values that are made and still
needed, and what is inside the op's graph: the activations that the exporter worked out, or, while
a graph loads, a second copy of its weights (ONNX Runtime brings them into another order). Of a
compiled engine the compiler has told both; its activations are in a block that all engines share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgereel.backends import Footprint
from edgereel.errors import InputError
from edgereel.plan import (
    Denoise,
    IntParam,
    Mode,
    Noise,
    Op,
    Plan,
    Ref,
    Renoise,
    Run,
    Stage,
    TensorSpec,
    Tokenize,
    VideoParam,
    graphs_of,
)
from edgereel.weights import weights as count_weights

__all__ = [
    "Asked",
    "Peak",
    "bound_symbols",
    "check",
    "evaluated",
    "open_symbols",
    "reads",
    "spec_bytes",
    "stage_peaks",
    "writes",
]

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4}
_ITEM_BYTES |= {"uint8": 1, "bool": 1, "float8": 1}

Sizes = Mapping[str, int]
# Where a value is made and dropped, counted in ops from the start of the mode.
Life = tuple[int, int]


@dataclass(frozen=True)
class Peak:
    """The op of a stage that takes most, in bytes."""

    stage: str
    weights: int = 0
    values: int = 0
    activations: int = 0  # inside the graph that runs
    loading: int = 0  # the second copy of weights, before it runs
    unknown: frozenset[str] = frozenset()  # symbols without a size; what has them is not counted

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.values + max(self.activations, self.loading)


@dataclass(frozen=True)
class Asked:
    """What memory is predicted for."""

    plan: Plan  # with its folder: weights are counted in the files of its graphs
    mode: Mode
    sizes: Sequence[Sizes]  # for each stage, of every symbol in its largest chunk
    loaded: frozenset[str] = frozenset()  # graphs whose weights are in memory already
    footprint: Callable[[str], Footprint | None] = lambda _: None  # of a graph, from its backend
    ahead: bool = False  # the graphs of the next stage load while a stage runs
    kernels: bool = False  # Edgereel's, for a CPU, compute what they can


def stage_peaks(asked: Asked, *, low_vram: bool = False) -> list[Peak]:
    """The predicted peak of every stage; with `low_vram` it drops the graphs of the one before."""
    lives, peaks, moment, shared = _lives(asked.mode), list[Peak](), 0, 0
    resident = dict.fromkeys(asked.loaded, 0)
    for at, (stage, sizes) in enumerate(zip(asked.mode.stages, asked.sizes, strict=True)):
        found, unknown = list[Peak](), set[str]()
        resident = {} if low_vram else resident
        for later in asked.mode.stages[at + 1 : at + 2] if asked.ahead and not low_vram else ():
            resident |= {
                name: _loaded(asked, name)[0]
                for name in graphs_of(later.ops)
                if name not in resident
            }
        for op in stage.ops or (None,):
            alive = [asked.mode.values[name] for name, (a, b) in lives.items() if a <= moment <= b]
            alive += _buffers(asked, op)
            activations = loading = 0
            if isinstance(op, Run | Denoise):
                engine = asked.footprint(op.graph)
                shared = max(shared, engine.activations if engine else 0)
                activations = shared if engine else _activations(asked, op, sizes)
                if op.graph not in resident:
                    resident[op.graph], loading = _loaded(asked, op.graph)
            values = sum(spec_bytes(spec, sizes) for spec in alive if not open_symbols(spec, sizes))
            unknown |= {s for spec in alive for s in open_symbols(spec, sizes)}
            weights = sum(resident.values())
            found.append(Peak(stage.name, weights, values, activations, loading))
            moment += 1
        largest = max(found, key=lambda peak: peak.total)
        peaks.append(replace(largest, unknown=frozenset(unknown)))
    return peaks


def check(asked: Asked, free: int | None, *, low_vram: bool) -> list[Peak]:
    """The predicted peak of every stage, all of which fit into `free` bytes; None is not compared.

    Raises:
        InputError: one does not; the sentence says what would, as far as this mode has it.
    """
    peaks = stage_peaks(asked, low_vram=low_vram)
    for stage, peak in zip(asked.mode.stages, peaks, strict=True):
        if free is not None and peak.total > free:
            ways = list(dict.fromkeys(_smaller(asked.mode, stage)))
            if all(other.total <= free for other in stage_peaks(asked, low_vram=True)):
                ways.append("--low-vram (in Python low_vram=True)")
            todo = f"Use {' or '.join(ways)}" if ways else "Close other programs"
            raise InputError(
                f"stage {stage.name!r} needs {_gib(peak.total)} of memory, {_gib(peak.weights)} of "
                f"it for weights; expected at most the {_gib(free)} that are free. {todo}."
            )
    return peaks


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _smaller(mode: Mode, stage: Stage) -> Iterator[str]:
    """What a user can make smaller."""
    for window in stage.each.windows if stage.each is not None else ():
        if isinstance(window.size, Ref):
            param = mode.params[window.size.param]
            every = isinstance(param, IntParam) and param.min == 0
            yield f"a smaller {window.size.param}" + (" (0 takes all)" if every else "")
    frames, deciding = _frames_param(mode), _deciding(mode, stage)
    of_a_size = any(size.param == frames for size in mode.sizes.values())
    if frames is not None and (frames in deciding or not of_a_size):
        yield f"fewer {frames}" if frames.endswith("frames") else f"a smaller {frames}"
    yield from (f"a smaller {name}" for name in mode.params if name in deciding - {frames})


def _deciding(mode: Mode, stage: Stage) -> set[str | None]:
    """The params that decide the sizes of what a stage works on."""
    names = [name for op in stage.ops for name in (*reads(op), *writes(op))]
    axes = [axis for name in (*names, *stage.collect.values()) for axis in mode.values[name].shape]
    found: set[str | None] = set()
    for axis in axes:
        while isinstance(axis, str) and axis in mode.sizes:
            found.add(mode.sizes[axis].param)
            axis = mode.sizes[axis].symbol or ""
    return found


def reads(op: Op) -> tuple[str, ...]:
    """The values an op reads."""
    match op:
        case Run():
            return tuple(op.inputs.values())
        case Denoise():
            return (op.x, *op.conditions.values())
        case Renoise():
            return (op.x,)
        case _:
            return ()


def writes(op: Op) -> tuple[str, ...]:
    """The values an op makes."""
    match op:
        case Tokenize():
            return tuple(name for name in (op.ids, op.mask, op.row) if name is not None)
        case Noise():
            return (op.value,)
        case Run():
            return tuple(op.outputs.values())
        case Denoise() | Renoise():
            return (op.out,)


def open_symbols(spec: TensorSpec, sizes: Sizes) -> list[str]:
    """The symbols of a shape whose size only a call knows, such as those of a video."""
    return [axis for axis in spec.shape if isinstance(axis, str) and axis not in sizes]


def spec_bytes(spec: TensorSpec, sizes: Sizes) -> int:
    """Bytes of a value; an axis that only a call knows counts as 1."""
    numbers = [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in spec.shape]
    return math.prod(numbers) * _ITEM_BYTES[spec.dtype]


def _frames_param(mode: Mode) -> str | None:
    """The param that decides how many frames come out, if there is one."""
    axis = mode.values[mode.output.value].shape[0]
    while isinstance(axis, str) and axis in mode.sizes:
        size = mode.sizes[axis]
        if size.param is not None:
            return size.param
        axis = size.symbol or ""
    for name, param in mode.params.items():
        if isinstance(param, VideoParam) and mode.values[name].shape[0] == axis:
            return param.frames.param if isinstance(param.frames, Ref) else None
    return None


def _loaded(asked: Asked, graph: str) -> tuple[int, int]:
    """Bytes of a graph's weights, and what it takes besides while it loads."""
    engine = asked.footprint(graph)
    if engine is not None:
        return engine.weights, 0
    weights = _weights(asked.plan, graph)
    return weights, weights


def _weights(plan: Plan, graph: str) -> int:
    """Bytes of a graph's weights once loaded, each graph with a copy of its own."""
    try:
        counts = count_weights(plan.folder / plan.graphs[graph].file)
    except ValueError:  # a damaged file is refused in a sentence when it is loaded
        return 0
    return sum(_ITEM_BYTES[dtype] * count for dtype, count in counts.items())


def _buffers(asked: Asked, op: Op | None) -> list[TensorSpec]:
    """What a sampling loop has beside its values: x_next and x0 twice, one of them `out`."""
    if not isinstance(op, Denoise):
        return []
    given = {"prev", "noise"} & asked.plan.graphs[op.graph].inputs.keys()
    return [asked.mode.values[op.x]] * (3 + len(given))


def _activations(asked: Asked, op: Run | Denoise, sizes: Sizes) -> int:
    """Bytes inside the graph of an op; terms with a symbol without a size are left out."""
    graph, bound = asked.plan.graphs[op.graph], bound_symbols(asked.plan, asked.mode, op, sizes)
    known = (asked.kernels and graph.activations_kernels) or graph.activations
    return int(max((evaluated(terms, bound) for terms in known), default=0))


def bound_symbols(plan: Plan, mode: Mode, op: Run | Denoise, sizes: Sizes) -> dict[str, int]:
    """The sizes of a graph's own symbols in an op, as far as those of the mode are known."""
    graph, bound = plan.graphs[op.graph], dict[str, int]()
    shapes = {name: mode.values[value].shape for name, value in _inputs(op).items()}
    if isinstance(op, Denoise):
        shapes = {"weights": (1 if op.guidance is None else len(op.guidance.weights),), **shapes}
    for name, shape in shapes.items():
        for symbol, axis in zip(graph.inputs[name].shape, shape, strict=True):
            number = axis if isinstance(axis, int) else sizes.get(axis)
            if isinstance(symbol, str) and number is not None:
                bound[symbol] = number
    return bound


def _inputs(op: Run | Denoise) -> dict[str, str]:
    """Input of the graph -> value."""
    return op.inputs if isinstance(op, Run) else {"x": op.x, **op.conditions}


def evaluated(terms: Mapping[str, float], sizes: Sizes) -> float:
    """One of a graph's `activations` in numbers; a term with a symbol without a size is 0."""
    products = {name: [s for s in name.split("*") if s] for name in terms}
    return sum(
        factor * math.prod(sizes[symbol] for symbol in products[name])
        for name, factor in terms.items()
        if sizes.keys() >= set(products[name])
    )


def _lives(mode: Mode) -> dict[str, Life]:
    """When each value is made, and the end of the last stage that has it: there it is dropped.

    Joined values exist from their stage's start.
    """
    lives: dict[str, Life] = {}

    def touch(names: Iterable[str], moment: int) -> None:
        for name in names:
            lives[name] = (lives.get(name, (moment, moment))[0], moment)

    touch((name for name, param in mode.params.items() if isinstance(param, VideoParam)), 0)
    at = 0
    for stage in mode.stages:
        last = at + max(len(stage.ops), 1) - 1
        if stage.each is not None:
            parts = (*stage.each.slices, *stage.each.slices.values(), *stage.collect.values())
            touch(parts, at)
        for moment, op in enumerate(stage.ops, at):
            touch((*reads(op), *writes(op)), moment)
        touch([name for op in stage.ops for name in (*reads(op), *writes(op))], last)
        if stage.each is not None:
            touch(parts, last)
        at = last + 1
    touch((mode.output.value,), at)
    return lives
