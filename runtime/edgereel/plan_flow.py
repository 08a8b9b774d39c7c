"""The flow of values through a mode, walked as the interpreter will walk it.

At every op it is known which values exist and which symbols have a size; each value is compared
with what the graph declares. A symbol of a mode has a size from the start (plan_start.py), or gets
it from a `tokenize` op (the number of rows kept) or from a chunk of an `each` stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from edgereel.errors import PlanError
from edgereel.plan_chunks import Chunks
from edgereel.plan_format import (
    Denoise,
    Document,
    GraphSpec,
    Guidance,
    IntParam,
    Mode,
    Noise,
    Op,
    Ref,
    Renoise,
    Run,
    Sampler,
    Spacing,
    Stage,
    TensorSpec,
    Tokenize,
)
from edgereel.plan_scope import Sizes, fit, names, words
from edgereel.plan_start import check_start

__all__ = ["check_flow"]

ROW = TensorSpec(dtype="float32", shape=(16,))
MAX_SEED = 2**64 - 1


def check_flow(plan: Document, mode: Mode, place: str) -> None:
    """Raises PlanError, naming the place, if a value, symbol or reference of a mode is wrong."""
    flow = _Flow(plan, mode, place)
    check_start(flow, place)
    for index, stage in enumerate(mode.stages):
        flow.check_stage(f"{place}.stages[{index}]", stage)
    flow.check_end()


class _Flow(Chunks):
    def __init__(self, plan: Document, mode: Mode, place: str) -> None:
        super().__init__(mode)
        self.plan, self.place = plan, place
        self.rows_size: Sizes = {}  # rows name -> size of its axis
        self.part_streams: set[str] = set()
        self.once_streams: set[str] = set()
        self.trajectories: dict[str, Denoise] = {}  # by the value they make
        self.in_chunks = False

    def check_stage(self, place: str, stage: Stage) -> None:
        outside, sized = set(self.visible), set(self.sized)
        if (stage.each is None) != (not stage.collect):
            raise PlanError.at(place, "has only one of each and collect", "both or neither")
        self.in_chunks = stage.each is not None
        self.led = None
        if stage.each is not None:
            self.enter_chunks(f"{place}.each", stage.each)
        for index, op in enumerate(stage.ops):
            self._check_op(f"{place}.ops[{index}]", op)
        if stage.each is not None:
            inside, self.visible, self.sized = self.visible - outside, outside, sized
            for chunk, whole in stage.collect.items():
                where = f"{place}.collect.{chunk}"
                if chunk not in inside:
                    raise PlanError.at(
                        where, "is not made in this stage", "one of " + names(inside)
                    )
                self.check_collect(where, stage.each, chunk, whole)

    def check_end(self) -> None:
        """The output exists and has the shape of frames; nothing is declared for nothing."""
        where, output = f"{self.place}.output", self.mode.output
        spec = self.read(f"{where}.value", output.value)
        if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[3] != 3:
            raise PlanError.at(f"{where}.value", words(output.value, spec), "uint8 [F, H, W, 3]")
        self.number(f"{where}.fps", output.fps, least=0.001)
        if self.part_streams | self.once_streams:
            self._check_seed()
        if idle := self.mode.values.keys() - self.made:
            name = min(idle)
            raise PlanError.at(f"{self.place}.values.{name}", "no op makes it", "one that does")
        if idle := self.mode.params.keys() - self.used:
            name = min(idle)
            raise PlanError.at(f"{self.place}.params.{name}", "nothing uses it", "a use of it")

    def _check_seed(self) -> None:
        seed = self.mode.params.get("seed")
        if not isinstance(seed, IntParam) or seed.min is None or seed.max is None:
            found = "is missing or has no range"
        elif seed.min < 0 or seed.max > MAX_SEED:
            found = f"has the range {seed.min} to {seed.max}"
        else:
            self.used.add("seed")
            return
        raise PlanError.at(
            f"{self.place}.params.seed",
            found,
            f"an int param within 0 to {MAX_SEED}, as noise is drawn",
        )

    # ops

    def _check_op(self, place: str, op: Op) -> None:
        match op:
            case Tokenize() if self.in_chunks:
                raise PlanError.at(f"{place}.op", "tokenize once per chunk", "it in a stage before")
            case Tokenize():
                self._check_tokenize(place, op)
            case Noise():
                self._stream(f"{place}.value", op.value, self.once_streams)
                spec = self.make(f"{place}.value", op.value)
                self._check_shared(f"{place}.shared", op.value, op.shared)
                fit(f"{place}.value", op.value, spec, TensorSpec(dtype="float32", shape=spec.shape))
            case Run():
                graph, sizes = self._graph(place, op.graph), Sizes()
                self._bind(f"{place}.inputs", op.inputs, graph.inputs, sizes)
                self._bind(f"{place}.outputs", op.outputs, graph.outputs, sizes, make=True)
            case Denoise():
                self._check_denoise(place, op)
            case Renoise():
                self.find(f"{place}.schedule", op.schedule, self.plan.schedules, "schedule")
                self._stream(f"{place}.noise", op.noise, self.once_streams)
                self.number(f"{place}.to", op.to, least=0, whole=True)
                if op.from_ is not None:
                    self.number(f"{place}.from", op.from_, least=0, whole=True)
                if isinstance(op.from_, int) and isinstance(op.to, int) and op.from_ >= op.to:
                    raise PlanError.at(f"{place}.to", f"{op.to} <= from", "a noisier timestep")
                if op.along is not None:
                    self.find(
                        f"{place}.along", op.along, self.trajectories, "denoised value before"
                    )
                self._same(place, op.x, op.out)
                self._check_shared(f"{place}.shared_noise", op.x, op.shared_noise)

    def _check_tokenize(self, place: str, op: Tokenize) -> None:
        tokenizer = self.find(f"{place}.tokenizer", op.tokenizer, self.plan.tokenizers, "tokenizer")
        rows = self.find(f"{place}.rows", op.rows, self.mode.rows, "rows list")
        self.used.update(row.param for row in rows if row.param is not None)
        size = (self.declared(f"{place}.ids", op.ids).shape or (0,))[0]
        known = self.rows_size.get(op.rows)
        if known != size and (known is not None or size in self.sized):
            raise PlanError.at(
                f"{place}.ids",
                f"its axis 0 is {size!r}",
                f"one symbol for rows {op.rows!r}, and for nothing else",
            )
        self.rows_size[op.rows] = size
        if isinstance(size, int) and size != len(rows):
            raise PlanError.at(
                f"{place}.ids", f"its axis 0 is {size}", f"a symbol, or {len(rows)} as rows has"
            )
        if isinstance(size, str):
            self.sized.add(size)
        ids = TensorSpec(dtype="int64", shape=(size, tokenizer.length))
        fit(f"{place}.ids", op.ids, self.make(f"{place}.ids", op.ids), ids)
        if op.mask is not None:
            mask = self.make(f"{place}.mask", op.mask)
            dtype = mask.dtype if mask.dtype == "int64" else "float32"
            fit(f"{place}.mask", op.mask, mask, TensorSpec(dtype=dtype, shape=ids.shape))
        if op.row is not None:
            row = TensorSpec(dtype="int64", shape=(size,))
            fit(f"{place}.row", op.row, self.make(f"{place}.row", op.row), row)

    def _check_denoise(self, place: str, op: Denoise) -> None:
        graph, sizes = self._graph(place, op.graph), Sizes()
        inputs, outputs = dict(graph.inputs), dict(graph.outputs)
        x = self._same(place, op.x, op.out)
        own = {"x": x, "row": ROW, "weights": self._check_guidance(place, op.guidance)}
        own |= {name: x for name in ("prev", "noise") if name in inputs}
        for spec_of, wanted in ((inputs, own), (outputs, {"x_next": x, "x0": x})):
            for name, spec in wanted.items():
                if name not in spec_of:
                    raise PlanError.at(
                        f"{place}.graph", f"{op.graph!r} has no {name!r}", "a graph of one step"
                    )
                fit(f"{place}.graph", name, spec, spec_of.pop(name), sizes)
        if outputs:
            raise PlanError.at(
                f"{place}.graph", f"has outputs {names(outputs)}", "only x_next and x0"
            )
        self._bind(f"{place}.conditions", op.conditions, inputs, sizes)
        self._check_sampling(place, op)
        self.trajectories[op.out] = op
        if (op.noise is not None) != ("noise" in graph.inputs) or (
            op.shared_noise and not op.noise
        ):
            raise PlanError.at(
                f"{place}.noise",
                f"is {op.noise!r}",
                "a stream name exactly if the graph reads noise",
            )
        if op.noise is not None:
            # The parts of one trajectory share a stream, whose draws its steps number.
            streams = self.once_streams if op.range is None else self.part_streams
            self._stream(f"{place}.noise", op.noise, streams)
            self._check_shared(f"{place}.shared_noise", op.x, op.shared_noise)

    def _check_sampling(self, place: str, op: Denoise) -> None:
        self.find(f"{place}.schedule", op.schedule, self.plan.schedules, "schedule")
        self.choice(f"{place}.sampler", op.sampler, get_args(Sampler))
        self.choice(f"{place}.spacing", op.spacing, get_args(Spacing))
        chosen = self.mode.params.get(op.sampler.param) if isinstance(op.sampler, Ref) else None
        if extra := op.spacings.keys() - set(getattr(chosen, "choices", ())):
            raise PlanError.at(
                f"{place}.spacings.{min(extra)}", "nobody can choose it", "choices of the sampler"
            )
        self.number(f"{place}.steps", op.steps, least=1, whole=True)
        self.number(f"{place}.eta", op.eta, least=0)
        if op.range is not None:
            self.number(f"{place}.range.from", op.range.from_, least=0)
            if op.range.to is not None:
                self.number(f"{place}.range.to", op.range.to, least=0)
            high, low = op.range.from_, op.range.to
            if isinstance(high, float) and isinstance(low, float) and high <= low:
                raise PlanError.at(f"{place}.range.to", f"{low} >= from", "a less noisy timestep")

    def _check_guidance(self, place: str, guidance: Guidance | None) -> TensorSpec:
        """The spec of the weights; unguided there is one row of weight 1."""
        if guidance is None:
            return TensorSpec(dtype="float32", shape=(1,))
        place = f"{place}.guidance"
        rows = self.find(f"{place}.rows", guidance.rows, self.mode.rows, "rows list")
        size = self.rows_size.get(guidance.rows)
        if not isinstance(size, str):
            raise PlanError.at(
                f"{place}.rows",
                f"{guidance.rows!r} has the axis {size}",
                "rows tokenized before, with a symbol as axis 0 of ids, since rows can be dropped",
            )
        if len(guidance.weights) != len(rows):
            raise PlanError.at(
                f"{place}.weights",
                f"there are {len(guidance.weights)}",
                f"{len(rows)}, one per row",
            )
        for index, weight in enumerate(guidance.weights):
            for param in weight.params:
                self.number(f"{place}.weights[{index}].params.{param}", Ref(param=param))
        return TensorSpec(dtype="float32", shape=(size,))

    def _same(self, place: str, x: str, out: str) -> TensorSpec:
        spec = self.read(f"{place}.x", x)
        fit(f"{place}.x", x, spec, TensorSpec(dtype="float32", shape=spec.shape))
        fit(f"{place}.out", out, self.make(f"{place}.out", out), spec)
        return spec

    def _bind(
        self,
        place: str,
        values: Mapping[str, str],
        tensors: Mapping[str, TensorSpec],
        sizes: Sizes,
        make: bool = False,
    ) -> None:
        for name in values.keys() ^ tensors.keys():
            problem = "is not one of the graph's" if name in values else "is not given a value"
            raise PlanError.at(f"{place}.{name}", problem, "exactly " + names(tensors))
        for name, value in values.items():
            where = f"{place}.{name}"
            spec = self.make(where, value) if make else self.read(where, value)
            fit(where, value, spec, tensors[name], sizes)

    def _check_shared(self, place: str, value: str, shared: bool | Ref) -> None:
        """In led chunks, what is drawn for the first entries is what the first chunk drew."""
        self.number(place, shared, whole=True)
        axis = (self.mode.values[value].shape or (0,))[0]
        if self.led is not None and shared is not True and axis != self.led:
            raise PlanError.at(
                place, f"draws for {value!r}, whose axis 0 is {axis!r}", f"{self.led!r}, or shared"
            )

    def _graph(self, place: str, name: str) -> GraphSpec:
        return self.find(f"{place}.graph", name, self.plan.graphs, "graph")

    def _stream(self, place: str, name: str, streams: set[str]) -> None:
        """Two draws of one name would be equal numbers."""
        if name in self.once_streams or (
            name in self.part_streams and streams is not self.part_streams
        ):
            raise PlanError.at(place, f"noise {name!r} is drawn already", "a name of its own")
        streams.add(name)
