"""What every graph made in one call of a cascade, in order: for comparing with another call.

Of each array only a part is kept, the same places in every trace, so that a trace of large videos
fits into memory and into a file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgereel.backends import Buffer, Engine
from edgereel.errors import EngineError, InputError
from edgereel.files import all_or_nothing
from edgereel.interpreter import Interpreter
from edgereel.pipeline import Cascade, Progress
from edgereel.plan import Plan

__all__ = ["Made", "Trace", "load", "plan_hash", "record", "save"]

KEPT = 16384
"""Numbers kept of an array: the drift of Gaussian errors is then right within about 0.6 %."""

_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class Made:
    """What one call of a graph made."""

    stage: str
    chunk: int
    step: int  # from 1, of a sampling loop of
    steps: int  # so many
    graph: str
    precision: str  # of its engine, as Engine has it
    parts: dict[str, NDArray[Any]]  # by output; of a denoising step its latents


@dataclass(frozen=True)
class Trace:
    """One call of a cascade."""

    mode: str
    params: dict[str, object]  # as they were given
    made: list[Made] = field(default_factory=list)
    frames: NDArray[np.uint8] | None = None  # [F, H, W, 3]; None if the call failed
    fps: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)  # of the video
    failed: str = ""  # why there are no frames


class _Told:
    """An engine that leaves what it made where it is found."""

    def __init__(self, engine: Engine, leave: Callable[[Mapping[str, Buffer]], None]) -> None:
        self._engine, self._leave = engine, leave
        self.sha256, self.precision = engine.sha256, engine.precision

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """As the engine's."""
        self._engine.run(inputs, outputs)
        self._leave(outputs)


class _Watched(Interpreter):
    """An interpreter that holds the last call of a graph: its name, precision and outputs."""

    last: tuple[str, str, Mapping[str, Buffer]] | None = None

    def engine(self, graph: str) -> Engine:
        """The engine, watched."""
        engine = super().engine(graph)

        def leave(outputs: Mapping[str, Buffer]) -> None:
            self.last = graph, engine.precision, outputs

        return _Told(engine, leave)


def record(
    cascade: Cascade,
    mode: str,
    params: Mapping[str, object],
    callback: Callable[[Progress], None] = lambda _: None,
    *,
    low_vram: bool = False,
) -> Trace:
    """The trace of a call; a graph that fails ends it, with what was made before.

    Args:
        cascade: its plan and backend are used; engines are loaded anew and dropped at the end.
        mode: of the plan.
        params: by name or alias.
        callback: as in a call.
        low_vram: keep the engines of one stage only.

    Raises:
        InputError: a param cannot be used, or memory would not suffice.
        PlanError: a file of the cascade is damaged.
    """
    runner = _Watched(cascade.plan, cascade.backend, low_vram=low_vram)
    made: list[Made] = []

    def told(progress: Progress) -> None:
        if runner.last is not None:  # else a stage begins
            graph, precision, outputs = runner.last
            runner.last = None
            kept = {"x_next"} & outputs.keys() or outputs.keys()
            parts = {name: _part(cascade.backend.get(outputs[name])) for name in kept}
            place = progress.stage, progress.chunk, progress.step, progress.steps
            made.append(Made(*place, graph, precision, parts))
        callback(progress)

    given = dict(params)
    try:
        watched = Cascade(cascade.plan, runner, cascade.reason)
        video = watched(mode=mode, params=given, callback=told)
    except EngineError as error:
        return Trace(mode, given, made, failed=str(error))
    return Trace(mode, given, made, video.frames, video.fps, video.metadata)


def _part(array: NDArray[Any]) -> NDArray[Any]:
    """At most KEPT numbers of an array, spread evenly and in no step with any of its axes."""
    flat = array.reshape(-1)
    if flat.size <= KEPT:
        return np.array(flat)  # a copy: buffers are written again
    places = np.arange(1, KEPT + 1) * _GOLDEN_RATIO % 1 * flat.size
    part: NDArray[Any] = flat[places.astype(np.int64)]
    return part


def plan_hash(plan: Plan) -> str:
    """sha256 of plan.json, which has the hash of every other file: what identifies a cascade."""
    return sha256((plan.folder / "plan.json").read_bytes()).hexdigest()


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """What a file of a trace says in words."""

    plan: str
    mode: str
    params: dict[str, Any]
    fps: float
    metadata: dict[str, Any]
    made: list[dict[str, Any]]


def save(trace: Trace, plan: Plan, path: Path) -> None:
    """Writes a trace that did not fail, as an .npz file.

    Raises:
        OutputError: it cannot be written.
    """
    assert trace.frames is not None
    calls, arrays = [], dict[str, NDArray[Any]](frames=trace.frames)
    for index, one in enumerate(trace.made):
        arrays |= {f"{index}.{name}": part for name, part in one.parts.items()}
        calls.append({**asdict(one), "parts": list(one.parts)})
    about = (plan_hash(plan), trace.mode, trace.params, trace.fps, trace.metadata, calls)
    header = np.frombuffer(msgspec.json.encode(_Header(*about)), np.uint8)
    with all_or_nothing(path) as temp, temp.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, header=header, **arrays)


def load(path: Path, plan: Plan) -> Trace:
    """The trace that `save` wrote, of this cascade.

    Raises:
        InputError: it is no such file, or of another cascade.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = msgspec.json.decode(file["header"].tobytes(), type=_Header)
            made = [
                Made(**{**one, "parts": {name: file[f"{index}.{name}"] for name in one["parts"]}})
                for index, one in enumerate(header.made)
            ]
            frames = file["frames"]
    except (
        *(OSError, ValueError, KeyError, TypeError, EOFError),
        *(zipfile.BadZipFile, msgspec.DecodeError),
    ) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a golden run. Write one with `edgereel "
            f"verify {plan.folder} --save-golden {path}`."
        ) from None
    if header.plan != plan_hash(plan):
        raise InputError(
            f"{path}: is a run of the cascade whose plan.json has sha256 {header.plan[:12]}; "
            f"expected {plan_hash(plan)[:12]}, that of {plan.folder}. Take the folder it was made "
            f"with, or make a run of this one with --save-golden."
        )
    return Trace(header.mode, header.params, made, frames, header.fps, header.metadata)
