"""One cascade on one backend: what stays loaded, and what a call is checked for before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel import memory
from edgereel.backends import Array, Backend, Engine
from edgereel.call import Call
from edgereel.errors import EngineError, PlanError
from edgereel.levels import checked_table
from edgereel.plan import Denoise, Mode, Plan, Renoise, Stage, graphs_of
from edgereel.running import Progress, Result, run_call
from edgereel.tokenizer import Tokenizer

__all__ = ["Interpreter"]


class Interpreter:
    """One cascade on one backend; engines, schedules and tokenizers stay loaded."""

    def __init__(
        self, plan: Plan, backend: Backend, *, verify_hashes: bool = True, low_vram: bool = False
    ) -> None:
        self.plan, self.backend = plan, backend
        self.engines: dict[str, Engine] = {}  # by graph
        self.hashes: dict[str, str] = {}  # sha256 of every engine so far, by graph
        self.low_vram = low_vram  # engines are dropped after their stage
        self.peaks: list[memory.Peak] = []  # predicted of the last call, by stage
        self.free: int | None = None  # bytes there were for it
        self._held = 0  # activations of calls so far, which the backend keeps for the next
        self._tables: dict[str, NDArray[np.float64]] = {}
        self._loading: dict[str, Future[Engine]] = {}  # by graph, on a thread of its own
        self._loader = ThreadPoolExecutor(1, "edgereel-load")
        self._tokenizers: dict[str, Tokenizer] = {}
        self._verify = verify_hashes

    def run(
        self,
        mode: Mode,
        params: Mapping[str, Any],
        *,
        noise: Mapping[str, Array],
        callback: Callable[[Progress], None],
        cancelled: Event,
    ) -> Result:
        """The frames of one prompt.

        Raises:
            InputError: a param or a given noise array does not fit, or the free memory does not
                suffice, before any graph loads.
            EngineError: a graph failed, or memory ran out.
            Cancelled: `cancelled` was set, or the callback raised it.
        """
        tables = {
            op.schedule: self.table(op.schedule)
            for stage in mode.stages
            for op in stage.ops
            if isinstance(op, Denoise | Renoise)
        }
        call = Call(self.plan, mode, params, tables, noise)
        self._check_memory(call)
        try:
            return run_call(self, call, callback, cancelled)
        except MemoryError as error:
            raise EngineError(
                f"memory ran out ({error}); expected room for the values of this mode, which "
                f"`edgereel explain` lists. Close other programs, or use a smaller cascade."
            ) from error

    def engine(self, graph: str) -> Engine:
        """The engine of a graph, loaded at its first use."""
        if graph not in self.engines:
            ahead = self._loading.pop(graph, None)
            self.engines[graph] = ahead.result() if ahead else self._load(graph)
            self.hashes[graph] = self.engines[graph].sha256
        return self.engines[graph]

    def load_ahead(self, stages: Sequence[Stage]) -> None:
        """Begins to load what some stages need, in this order, if that can be beside the work.

        One thread loads, as the deserialisers of libraries are for one thread.
        """
        if self.ahead:
            for graph in graphs_of(op for stage in stages for op in stage.ops):
                if graph not in self.engines and graph not in self._loading:
                    self._loading[graph] = self._loader.submit(self._load, graph)

    @property
    def ahead(self) -> bool:
        """Whether the engines of the next stage load while a stage runs."""
        return self.backend.loads_ahead and not self.low_vram

    def stage_is_done(self) -> None:
        """Gives back what later stages do not need."""
        if self.low_vram:
            self.engines.clear()
        if self.backend.free_scratch():
            self._held = 0

    def tokenizer(self, name: str) -> Tokenizer:
        """A tokenizer, loaded at its first use."""
        if name not in self._tokenizers:
            spec = self.plan.tokenizers[name]
            self._tokenizers[name] = Tokenizer(self._file(spec.file), spec)
        return self._tokenizers[name]

    def table(self, name: str) -> NDArray[np.float64]:
        """The alphas_cumprod of a schedule, f64 [T], loaded at its first use."""
        if name not in self._tables:
            rel = self.plan.schedules[name].file
            try:
                self._tables[name] = checked_table(np.load(self._file(rel), allow_pickle=False))
            except (ValueError, OSError, EOFError) as error:
                raise PlanError.at(f"files.{rel}", str(error), "alphas_cumprod, f64 [T]") from None
        return self._tables[name]

    def _check_memory(self, call: Call) -> None:
        """Raises InputError if a stage is predicted to take more memory than is free."""
        free = self.backend.free_memory()
        self.free = None if free is None else free + self._held
        sizes = [
            call.chunk_sizes(stage, [spans[0] for spans in call.spans[stage.name]])
            for stage in call.mode.stages
        ]
        loaded, footprint = frozenset(self.engines), self.backend.footprint
        asked = memory.Asked(
            self.plan, call.mode, sizes, loaded, footprint, self.ahead, self.backend.has_kernels
        )
        self.peaks = memory.check(asked, self.free, low_vram=self.low_vram)
        self._held = max(self._held, *(peak.activations for peak in self.peaks))

    def _load(self, graph: str) -> Engine:
        spec = self.plan.graphs[graph]
        for rel in spec.weights:
            self._file(rel)
        return self.backend.load(self._file(spec.file), spec)

    def _file(self, rel: str) -> Path:
        return self.plan.check_file(rel) if self._verify else self.plan.folder / rel
