"""What the stages of a mode cost at its defaults, for `edgereel explain`."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from edgereel import kernel_library, windows
from edgereel.cli_table import size, table
from edgereel.memory import Asked, Sizes, bound_symbols, evaluated, stage_peaks
from edgereel.plan import Denoise, IntParam, Mode, Plan, Ref, Run, Stage, window_length

__all__ = ["Costs"]

_UNITS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")
_TRIED = (1, 2, 4, 8, 16, 32, 64)  # sizes of a chunk that are told apart


@dataclass(frozen=True)
class Costs:
    """Arithmetic, traffic and memory of a mode's stages.

    `sizes_of` are the symbols of a mode with the defaults of its params.
    """

    plan: Plan
    mode: Mode
    sizes_of: Callable[[Mode], Sizes]

    def asked(self, mode: Mode) -> Asked:
        """What the memory of a mode is predicted for, with Edgereel's kernels if they are here."""
        sizes = [self.sizes_of(mode)] * len(mode.stages)
        return Asked(self.plan, mode, sizes, kernels=kernel_library.path() is not None)

    def work(self, stage: Stage) -> str:
        """Arithmetic of all calls in a stage, and the bytes they move; "" if nothing is known."""
        sizes = self.sizes_of(self.mode)
        flops = traffic = 0.0
        for op in stage.ops:
            if isinstance(op, Run | Denoise):
                graph = self.plan.graphs[op.graph]
                bound = bound_symbols(self.plan, self.mode, op, sizes)
                calls = self._number(op.steps) if isinstance(op, Denoise) else 1
                flops += calls * evaluated(graph.flops, bound)
                traffic += calls * evaluated(graph.traffic, bound)
        times = self._chunks(stage, sizes)
        return f"{_counted(times * flops)}, {size(times * traffic)} moved" if flops else ""

    def chunks(self, stage: Stage) -> list[str]:
        """Peak memory of a stage by the size of its chunks, where a param decides that."""
        lines = []
        index = self.mode.stages.index(stage)
        for window in stage.each.windows if stage.each is not None else ():
            param = self.mode.params[window.size.param] if isinstance(window.size, Ref) else None
            if not isinstance(param, IntParam) or not isinstance(window.size, Ref):
                continue
            found = []
            own = () if param.default is None else (param.default,)
            for number in sorted({*_TRIED, *own}):
                if not _takes(param, number):
                    continue
                changed = replace(param, default=number)
                mode = replace(self.mode, params={**self.mode.params, window.size.param: changed})
                total = stage_peaks(self.asked(mode))[index].total
                found.append((number, size(total)))
            rows = [(f"--{window.size.param.replace('_', '-')}", *(str(n) for n, _ in found))]
            rows.append(("peak memory", *(told for _, told in found)))
            lines += table(rows, indent=" " * 7)
        return lines

    def _chunks(self, stage: Stage, sizes: Sizes) -> int:
        """How often the ops of a stage run, as far as the defaults decide it."""
        counts = []
        for window in stage.each.windows if stage.each is not None else ():
            assert stage.each is not None
            axis = window_length(self.mode, stage.each, window.symbol)
            total = axis if isinstance(axis, int) else sizes.get(axis, 1)
            part, overlap = self._number(window.size), self._number(window.overlap)
            counts.append(len(windows.spans(total, part, overlap, window.lead)))
        return prod(counts)

    def _number(self, field: object) -> int:
        """The literal, or the default of the param it refers to."""
        found = self.mode.params[field.param].default if isinstance(field, Ref) else field
        return found if isinstance(found, int) else 0


def _takes(param: IntParam, number: int) -> bool:
    """Whether the param may have this value."""
    low = param.min is None or number >= param.min
    return low and (param.max is None or number <= param.max) and number % param.multiple == 0


def _counted(flops: float) -> str:
    """Multiplications and additions for people: 1.3 GFLOP."""
    unit = 0
    while flops >= 1000 and unit + 1 < len(_UNITS):
        flops, unit = flops / 1000, unit + 1
    return f"{flops:.3g} {_UNITS[unit]}"
