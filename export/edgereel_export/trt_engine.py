"""One graph becomes one engine; the program of the child process that trt.py starts per graph.

    python -m edgereel_export.trt_engine < job.json

One process per graph gives all of its memory back to the system, and its peak is its own. The
result and the progress go to stdout, one JSON object per line; whatever the library prints goes
to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import msgspec
import onnx_ir as ir

from edgereel import host_memory, kernel_library
from edgereel.backends.trt_library import Library, library
from edgereel.builds import Refit
from edgereel.errors import EdgereelError, EngineError, OutputError
from edgereel_export import precision, trt_attention, trt_layout, trt_weights
from edgereel_export.float16_range import Ranges
from edgereel_export.trt_job import Job, Made
from edgereel_export.trt_listen import Log, monitor, writer
from edgereel_export.trt_prepare import prepare

__all__ = ["Job", "Made", "compile_graph", "compile_logged", "main"]

MEASURED = 0.03  # part of the progress bar before values are measured
PREPARED = 0.1  # part of the progress bar for reading and retyping the graph


def compile_graph(job: Job, progress: Callable[[float, str], bool]) -> Made:
    """Facts about the engine written to `job.target`; see compile_logged."""
    return compile_logged(job, progress)[0]


def compile_logged(job: Job, progress: Callable[[float, str], bool]) -> tuple[Made, Log]:
    """Facts about the engine written to `job.target`, and what the library said of it.

    Args:
        job: what to compile.
        progress: called with a fraction of the graph's work and the phase; False stops it.

    Raises:
        EngineError: the parser or the builder refused; names graph and node.
    """
    start, target, trt = time.monotonic(), Path(job.target), library(job.library)
    progress(0.0, "reading the graph")
    graph = target.with_suffix(".typed.onnx")
    try:
        model = precision.load(Path(job.source), plugin=job.plugin)
        nodes = len(model.graph)
        parameters = sum(_size(v) for v in model.graph.initializers.values())
        typed = _rewritten(model, job, progress)
        building = _Building(trt, job, progress, _replaceable(model, job))
        ir.save(model, graph, external_data=f"{graph.name}.data")
        del model
        gc.collect()  # its weights are mapped, which counts as memory
        progress(PREPARED, "parsing")
        building.build(graph)
    except EngineError as error:
        raise EngineError(f"graph {job.graph}: {error}") from None
    finally:
        graph.unlink(missing_ok=True)
        graph.with_name(f"{graph.name}.data").unlink(missing_ok=True)
    made = Made(
        nodes=nodes,
        parameters=parameters,
        types=building.log.types(),
        weights_bytes=building.log.memory.get("Weights", 0),
        activation_bytes=building.log.memory.get("Activation", 0),
        seconds=round(time.monotonic() - start, 3),
        peak_rss_bytes=host_memory.peak_memory() or 0,
        decomposed_attention=tuple(building.decomposed),
        kept_float32=typed.kept,
        largest_float16=typed.largest,
        refit=building.refit,
    )
    return made, building.log


def _rewritten(
    model: ir.Model, job: Job, progress: Callable[[float, str], bool]
) -> precision.Typed:
    """What became float16 of a graph that is made ready for the parser, in place."""
    prepare(model)
    if not job.folded:
        trt_layout.unfold(model)
    if job.precision == "fp32":
        return precision.Typed()
    ranges = _ranges(job, progress)
    return precision.to_float16(model, denoise=job.denoise, keep=job.keep_float32, ranges=ranges)


def _ranges(job: Job, progress: Callable[[float, str], bool]) -> Ranges | None:
    """Ranges of the values of the graph as it is in its file; None if there are no inputs for it.

    Where they are measured ONNX Runtime is loaded, else not.
    """
    if job.golden is None:
        return None
    from edgereel_export.trt_ranges import measured

    progress(MEASURED, "measuring values")
    return measured(Path(job.source), Path(job.golden), job.rows)


def _replaceable(model: ir.Model, job: Job) -> dict[str, Refit]:
    """Weights that are to be marked so that they can be replaced."""
    if not job.refit:
        return {}
    known = trt_weights.stored(Path(job.source))
    return trt_weights.replaceable(model, known, job.place, job.refit)


def _size(value: ir.Value) -> int:
    constant = value.const_value
    floating = constant is not None and constant.dtype.is_floating_point()
    return int(constant.size) if constant is not None and floating else 0


class _Building:
    """One use of the library's builder, with what it says on the way."""

    def __init__(
        self,
        trt: Library,
        job: Job,
        progress: Callable[[float, str], bool],
        refit: dict[str, Refit] | None = None,
    ) -> None:
        self.trt, self.job, self.progress = trt, job, progress
        self.refit = refit or {}  # what is asked for, after parsing what the network lets be
        self.log = Log(trt)
        self.builder = trt.module.Builder(self.log.logger)
        self.decomposed: list[str] = []

    def build(self, graph: Path) -> None:
        """Writes the serialised engine of an ONNX file to the job's target."""
        if self.job.plugin:
            kernel_library.register_plugin(self.trt.module)
        network = self.parsed(graph)
        self.decomposed = trt_attention.decompose(
            self.trt, network, lambda config: self._capabilities(config)
        )
        config = self._config()
        if not self._write(network, config):
            raise EngineError(
                f"{self.trt} cannot build it ({'; '.join(self.log.errors[-2:]) or 'no reason'}); "
                "expected a graph its kernels cover; keep the named node float32, change it in the "
                "exporter, or report the message"
            )

    def _write(self, network: Any, config: Any) -> bool:
        """Whether the engine was built and written."""
        target = Path(self.job.target)
        if hasattr(self.builder, "build_serialized_network_to_stream"):
            with target.open("wb", buffering=0) as file:
                taker = writer(self.trt, file)
                done = self.builder.build_serialized_network_to_stream(network, config, taker)
            if taker.failed:
                raise OutputError(
                    f"{target.name} cannot be written ({taker.failed.strerror}); expected place "
                    f"for the engine. Free some, or compile a copy of the folder elsewhere."
                )
            return bool(done)
        plan = self.builder.build_serialized_network(network, config)
        if plan is not None:
            target.write_bytes(plan)
        return plan is not None

    def parsed(self, graph: Path) -> Any:
        """The network of an ONNX file, whose weights that can be replaced are marked."""
        network = self._network()
        parser = self.trt.module.OnnxParser(network, self.log.logger)
        if not parser.parse_from_file(str(graph)):
            raise EngineError(self._parse_error(parser))
        self._check_names(network)
        self.refit = trt_weights.mark(network, self.refit)
        return network

    def _network(self) -> Any:
        flags = getattr(self.trt.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return self.builder.create_network(0 if flags is None else 1 << int(flags))

    def _parse_error(self, parser: Any) -> str:
        error = parser.get_error(0) if parser.num_errors else None
        if error is None:
            return f"{self.trt} cannot parse it ({'; '.join(self.log.errors) or 'no reason given'})"
        return (
            f"{self.trt} cannot parse node {error.node_name() or error.node()} "
            f"({error.node_operator() or 'unknown op'}): {error.desc().strip()}; expected an op "
            "its ONNX parser knows; change the module so that it exports to one"
        )

    def _check_names(self, network: Any) -> None:
        """Nothing; EngineError where the graph's inputs or outputs are not those of the plan."""
        for side, wanted, count, get in (
            ("inputs", set(self.job.profiles[0]), network.num_inputs, network.get_input),
            ("outputs", set(self.job.outputs), network.num_outputs, network.get_output),
        ):
            found = {get(i).name for i in range(count)}
            if found != wanted:
                raise EngineError(
                    f"its {side} are {sorted(found)}, plan.json says {sorted(wanted)}; export the "
                    "cascade again"
                )

    def _config(self) -> Any:
        module, job = self.trt.module, self.job
        config = self.builder.create_builder_config()
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
        config.progress_monitor = monitor(self.trt, self._building)
        config.clear_flag(module.BuilderFlag.TF32)  # float32 means float32
        if job.weight_streaming:
            config.set_flag(module.BuilderFlag.WEIGHT_STREAMING)
        # TensorRT-RTX: all memory is from the arena, without which no CUDA graph can be captured.
        elif hasattr(module.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if self.refit:
            config.set_flag(module.BuilderFlag.REFIT_INDIVIDUAL)
        if job.workspace_mib is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
        if job.optimization_level is not None:
            config.builder_optimization_level = job.optimization_level
        self._capabilities(config)
        for shapes in job.profiles:
            profile = self.builder.create_optimization_profile()
            for name, spans in shapes.items():
                profile.set_shape(name, *spans)
            if config.add_optimization_profile(profile) < 0:
                raise EngineError(
                    f"{self.trt} refused the profile {shapes} ({'; '.join(self.log.errors[-1:])}); "
                    "expected shapes that fit the graph; export the cascade again"
                )
        return config

    def _building(self, fraction: float, phase: str) -> bool:
        return self.progress(PREPARED + (1 - PREPARED) * fraction, phase)

    def _capabilities(self, config: Any) -> None:
        """Sets the GPUs to compile for, where the library can compile for absent ones."""
        if not self.trt.builds_without_gpu:
            return
        config.num_compute_capabilities = len(self.job.compute_capabilities)
        for index, capability in enumerate(self.job.compute_capabilities):
            name = "SM" + capability.replace(".", "")
            config.set_compute_capability(getattr(self.trt.module.ComputeCapability, name), index)


def main(jobs: TextIO, results: TextIO) -> int:
    """0 after the engine of the job in `jobs` was written; 1 after an error that is told."""

    def tell(**message: Any) -> None:
        results.write(json.dumps(message) + "\n")
        results.flush()

    def progress(fraction: float, phase: str) -> bool:
        tell(fraction=round(fraction, 4), phase=phase)
        return True

    try:
        made = compile_graph(msgspec.json.decode(jobs.read(), type=Job), progress)
    except EdgereelError as error:
        tell(error=str(error), kind=type(error).__name__)
        return 1
    tell(made=msgspec.to_builtins(made))
    return 0


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints must not mix with our lines
    sys.exit(main(sys.stdin, own))
