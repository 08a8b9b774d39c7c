"""Compiles the graphs of a cascade folder into TensorRT engines, in builds/<key>/.

A build is found by what it was made from, never by its existence: the key hashes graphs, weights,
profiles, precision, options, library version and GPUs. What is already there and whole is not
compiled again, neither a build nor a single engine of another build. Each graph is compiled in a
process of its own (trt_engine.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgereel import builds, half
from edgereel.backends.trt_library import LIBRARIES, Library, device, library
from edgereel.errors import BackendUnavailable, BuildMismatch, InputError
from edgereel.files import all_or_nothing, sha256
from edgereel.plan import Denoise, Plan, load, ops
from edgereel_export import trt_child, trt_plugin, trt_refit_check
from edgereel_export.trt_buckets import read_asked
from edgereel_export.trt_graphs import chosen
from edgereel_export.trt_job import Job
from edgereel_export.trt_options import Options, Result
from edgereel_export.trt_profiles import graph_profiles
from edgereel_export.trt_progress import Progress, Watch
from edgereel_export.trt_rows import some_rows

__all__ = ["Options", "Progress", "Result", "build"]

RECIPE = ("float16_range", "group_norm", "precision", "retype", "trt_attention", "trt_axes",
          "trt_engine", "trt_frame_norm", "trt_layout", "trt_nodes", "trt_plugin", "trt_prepare",
          "trt_ranges", "trt_video", "trt_weights")  # fmt: skip
OLDEST_CAPABILITY = 8.0  # the oldest GPUs compiled for unless asked: Ampere


@dataclass(frozen=True)
class _Task:
    """One engine to have."""

    graph: str
    source: dict[str, str]
    precision: builds.Precision
    profiles: tuple[builds.Profile, ...]
    denoise: bool
    rows: tuple[tuple[float, ...], ...]
    measured: dict[str, str]
    key: str
    bytes: int


def build(
    folder: str | Path,
    options: Options | None = None,
    *,
    graphs: Collection[str] | None = None,
    progress: Callable[[Progress], bool | None] | None = None,
) -> Result:
    """A complete build of a cascade for the installed TensorRT.

    Args:
        folder: cascade folder.
        options: None = Options().
        graphs: which graphs; None = all that a mode uses, with `plugin` all that it concerns.
        progress: called several times a second; returning False stops and leaves nothing behind.

    Raises:
        BackendUnavailable: no TensorRT, or it needs a GPU or a plugin that is not here.
        InputError: an option has a value that cannot be used.
        PlanError: the folder is wrong or a file of it was changed.
        EngineError: a graph cannot be compiled; names the graph and the node.
        Cancelled: `progress` returned False.
    """
    options = options or Options()
    trt = library(options.library)
    plan = load(folder)
    shared = _shared(trt, options)
    names = chosen(folder, graphs, plugin=options.plugin)
    if options.refit:
        trt_refit_check.check(trt, plan, names, options.refit)
    asked = read_asked(plan, options.sizes, options.buckets)
    tasks = [
        _task(plan, shared, name, options, graph_profiles(plan, name, asked)) for name in names
    ]
    key = builds.build_key({task.graph: task.key for task in tasks})
    target = plan.folder / "builds" / key
    watch = Watch({task.graph: task.bytes for task in tasks}, progress)
    with suppress(BuildMismatch):
        found = builds.read(target)
        for task in tasks:
            found.engine(task.graph)
        os.utime(target / builds.FILE)  # of builds that fit, the one asked for last is used
        watch.finish()
        return Result(found, (), (), cached=True)
    return _written(plan, tasks, shared, watch, target)


def _written(
    plan: Plan, tasks: list[_Task], shared: Mapping[str, Any], watch: Watch, target: Path
) -> Result:
    """The build, in its folder `target`, or nothing if it is stopped."""
    try:
        target.parent.mkdir(exist_ok=True)
        with all_or_nothing(target) as temp:
            temp.mkdir()
            engines, reused = _engines(plan, tasks, shared, watch, temp)
            record = builds.Record(
                key=target.name,
                backend="trt",
                graphs=engines,
                **msgspec.convert(shared, dict[str, Any]),
            )
            (temp / builds.FILE).write_bytes(builds.encode(record))
    finally:
        with suppress(OSError):
            target.parent.rmdir()  # only if it is empty
    watch.finish()
    compiled = tuple(t.graph for t in tasks if t.graph not in reused)
    return Result(builds.read(target), compiled, reused, cached=False)


def _shared(trt: Library, options: Options) -> dict[str, Any]:
    """The fields of build.json that all engines of this build share, as plain JSON values."""
    if options.precision not in ("fp16", "fp32"):
        raise InputError(
            f"precision is {options.precision!r}; expected fp16 or fp32. Choose one of these."
        )
    own = {
        "keep_float32": sorted(options.keep_float32),
        "layout": None if options.layout == "video" else options.layout,
        "optimization_level": options.optimization_level,
        "refit": sorted(options.refit),
        "weight_streaming": 1 if options.weight_streaming else None,
        "workspace_mib": options.workspace_mib,
    }
    capabilities, gpu = _gpus(trt, options.compute_capabilities)
    return {
        "format": builds.FORMAT,
        "library": {"name": trt.name, "version": trt.version},
        "compute_capabilities": capabilities,
        "options": {name: value for name, value in own.items() if value not in (None, [])},
        "recipe": _recipe(),
        "device": gpu,
        "plugin": trt_plugin.check(trt) if options.plugin else None,
    }


def _recipe() -> str:
    """Hash of the code between a graph and its engine: changed code makes other engines."""
    digest = hashlib.sha256(Path(half.__file__).read_bytes())
    for name in RECIPE:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _gpus(trt: Library, asked: tuple[str, ...] | None) -> tuple[list[str], str | None]:
    """Compute capabilities to compile for, oldest first, and the GPU used to build."""
    if not trt.builds_without_gpu:
        here = device()
        if here is None:
            raise BackendUnavailable(
                f"{trt} compiles only on the GPU it compiles for, and no CUDA GPU answers here. "
                f"Run this on that machine, or use `{LIBRARIES['tensorrt_rtx']}`, whose builder "
                "needs no GPU."
            )
        if asked not in (None, (here.capability,)):
            raise InputError(
                f"compute_capabilities is {asked}; {trt} compiles for this machine's {here} alone. "
                "Leave it out, or build on the other machine."
            )
        return [here.capability], here.name
    known = sorted(
        (f"{name[2:-1]}.{name[-1]}" for name in trt.module.ComputeCapability.__members__
         if name.startswith("SM")), key=float,
    )  # fmt: skip
    unknown = sorted(set(asked or ()) - set(known))
    if unknown or asked == ():
        raise InputError(
            f"compute_capabilities names {', '.join(unknown) or 'none'}; {trt} compiles for "
            f"{', '.join(known)}. Choose from these, or leave it out."
        )
    if asked is not None:
        return sorted(set(asked), key=float), None
    return [c for c in known if float(c) >= OLDEST_CAPABILITY], None


def _task(
    plan: Plan,
    shared: Mapping[str, Any],
    graph: str,
    options: Options,
    profiles: tuple[builds.Profile, ...],
) -> _Task:
    """What to compile for one graph; its files are compared with plan.json on the way."""
    spec = plan.graphs[graph]
    precision = spec.precision or options.precision
    rows: tuple[tuple[float, ...], ...] = ()
    measured: dict[str, str] = {}
    if options.ranges and precision == "fp16" and spec.golden is not None:
        plan.check_file(spec.golden)
        rows = some_rows(plan, graph)
        measured = {spec.golden: plan.files[spec.golden]}
        if rows:
            measured["rows"] = hashlib.sha256(msgspec.json.encode(rows)).hexdigest()
    paths = {name: plan.check_file(name) for name in (spec.file, *spec.weights)}
    source = {name: plan.files[name] for name in paths}
    return _Task(
        graph=graph,
        source=source,
        precision=precision,
        profiles=profiles,
        denoise=any(
            isinstance(op, Denoise) and op.graph == graph for op in ops(plan.modes.values())
        ),
        rows=rows,
        measured=measured,
        key=builds.engine_key(shared, source, precision, profiles, measured),
        bytes=sum(path.stat().st_size for path in paths.values()),
    )


def _engines(
    plan: Plan, tasks: list[_Task], shared: Mapping[str, Any], watch: Watch, temp: Path
) -> tuple[dict[str, builds.Engine], tuple[str, ...]]:
    """Every engine of the build, in `temp`, and the names of those that were not compiled."""
    engines: dict[str, builds.Engine] = {}
    reused = []
    for task in tasks:
        watch.begin(task.graph)
        path = temp / f"{task.graph}.engine"
        known = _known(plan.folder, task, path)
        if known is not None:
            engines[task.graph] = known
            reused.append(task.graph)
        else:
            engines[task.graph] = _compiled(plan, task, shared, watch, path)
        watch.end()
    return engines, tuple(reused)


def _known(folder: Path, task: _Task, path: Path) -> builds.Engine | None:
    """The same engine from another build, linked or copied to `path`."""
    for other in builds.find(folder):
        with suppress(BuildMismatch, OSError):
            found = builds.read(other)
            engine = found.record.graphs.get(task.graph)
            if engine is None or found.engine_key(task.graph) != task.key:
                continue
            found.engine(task.graph)
            try:
                os.link(other / engine.file, path)
            except OSError:
                shutil.copyfile(other / engine.file, path)
            return msgspec.structs.replace(engine, file=path.name)
    return None


def _compiled(
    plan: Plan, task: _Task, shared: Mapping[str, Any], watch: Watch, path: Path
) -> builds.Engine:
    """The engine a child process compiled to `path`."""
    spec, options = plan.graphs[task.graph], shared["options"]
    job = Job(
        graph=task.graph,
        source=str(plan.folder / spec.file),
        target=str(path),
        library=shared["library"]["name"],
        precision=task.precision,
        denoise=task.denoise,
        profiles=task.profiles,
        outputs=tuple(spec.outputs),
        compute_capabilities=tuple(shared["compute_capabilities"]),
        keep_float32=tuple(options.get("keep_float32", ())),
        workspace_mib=options.get("workspace_mib"),
        optimization_level=options.get("optimization_level"),
        weight_streaming="weight_streaming" in options,
        plugin=shared["plugin"] is not None,
        folded=options.get("layout") == "folded",
        golden=str(plan.folder / str(spec.golden)) if task.measured else None,
        rows=task.rows,
        refit=tuple(options.get("refit", ())),
        place=Path(spec.file).parent.as_posix(),
    )
    made = trt_child.run(job, watch.tell)
    return builds.Engine(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        source=task.source,
        precision=task.precision,
        profiles=task.profiles,
        measured=task.measured,
        **msgspec.structs.asdict(made),
    )
