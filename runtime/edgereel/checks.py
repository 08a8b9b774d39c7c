"""Is a cascade right on this device: graphs against their reference vectors, a run against another.

What may differ depends on the precision of the engines; LIMITS has it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereel import likeness
from edgereel.backends import Backend
from edgereel.errors import InputError, PlanError
from edgereel.plan import GraphSpec, Plan
from edgereel.trace import Made, Trace
from edgereel.weights import weights

__all__ = ["LIMITS", "Graph", "Likeness", "Limits", "Step", "compare", "frames", "graphs", "steps"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What may differ from a reference, in one precision."""

    error: float  # largest of a graph's output, as a share of the reference's largest magnitude
    drift: float  # of what a graph makes in a run: norm of the difference by the reference's
    psnr_db: float  # of the frames, at least
    ssim: float  # of the frames, mean, at least
    flicker: float  # flicker_error of the frames, in levels of 255


# fp32: another order of summation. Edgereel's kernels beside the definitions, in the cascades of
# drawn shapes: drift of latents up to 1.2e-6, frames 89 dB apart.
# fp16: eleven bits, and errors add up through a network. Those cascades with graphs typed as for
# engines, on ONNX Runtime: drift up to 1.1e-3, frames 60 dB apart, flicker error 0.34; with too few
# steps to make a good video, 5.7e-2, 43 dB and 1.7. Published networks are deeper.
# bf16: three bits less. By OpenVINO, Emu Video and LaVie of drawn shapes: drift up to 3.5e-2,
# frames 45 and 56 dB apart, flicker error up to 1.2.
LIMITS = {
    "fp32": Limits(1e-3, 1e-2, 45.0, 0.99, 1.5),
    "fp16": Limits(3e-2, 1e-1, 30.0, 0.90, 6.0),
    "bf16": Limits(2e-1, 3e-1, 22.0, 0.75, 15.0),
}
"""By precision, from the most to the least exact."""

_WEIGHTS = {"float16": "fp16", "bfloat16": "bf16"}  # as a file stores them


@dataclass(frozen=True)
class Graph:
    """How one graph did on its reference inputs: its worst output decides.

    The errors and `psnr_db` compare with the reference, whose largest magnitude is `peak`.
    """

    graph: str
    output: str
    precision: str  # of LIMITS
    engine: str  # sha256
    max_abs: float
    mean_abs: float
    cosine: float
    psnr_db: float
    finite: bool
    peak: float
    allowed: float
    ok: bool


@dataclass(frozen=True)
class Step:
    """One call of a graph in two runs: its worst output decides."""

    stage: str
    chunk: int
    step: int
    steps: int
    graph: str
    drift: float
    cosine: float
    allowed: float  # drift
    ok: bool


@dataclass(frozen=True)
class Likeness:
    """How alike the frames of two runs are, and what their precision has to reach."""

    precision: str
    limits: Limits
    psnr_db: float
    ssim: float | None  # None: frames are smaller than its window
    psnr_by_frame: list[float]
    ssim_by_frame: list[float | None]
    flicker: float | None  # None: a single frame
    reference_flicker: float | None
    flicker_error: float | None

    @property
    def short(self) -> list[str]:
        """Where it falls short, in words."""
        limits, found = self.limits, []
        if self.psnr_db < limits.psnr_db:
            found.append(f"PSNR {self.psnr_db:.1f} dB, expected at least {limits.psnr_db:g}")
        if self.ssim is not None and self.ssim < limits.ssim:
            found.append(f"SSIM {self.ssim:.3f}, expected at least {limits.ssim:g}")
        if self.flicker_error is not None and self.flicker_error > limits.flicker:
            found.append(
                f"flicker error {self.flicker_error:.1f} levels, expected at most "
                f"{limits.flicker:g}"
            )
        return found


def graphs(
    plan: Plan,
    backend: Backend,
    tolerance: float | None = None,
    names: Collection[str] | None = None,
) -> Iterator[Graph]:
    """The comparison of each graph that comes with reference arrays, one engine at a time.

    Args:
        plan: the cascade.
        backend: where the graphs run.
        tolerance: allowed error as a share of the reference's largest magnitude; by default that
            of LIMITS for the graph's weights and its engine's arithmetic, whichever is less exact.
        names: of the graphs to check; None = all.

    Raises:
        PlanError: a reference file does not fit its graph, or a file was changed.
        EngineError: a graph does not load or run here.
    """
    for name, spec in plan.graphs.items():
        if spec.golden is None or (names is not None and name not in names):
            continue
        golden = _golden(plan.check_file(spec.golden), spec)
        for rel in spec.weights:
            plan.check_file(rel)
        engine = backend.load(plan.check_file(spec.file), spec)
        inputs = {key: backend.put(golden[f"in.{key}"]) for key in spec.inputs}
        expected = {key: golden[f"out.{key}"] for key in spec.outputs}
        outputs = {key: backend.empty(a.dtype.name, a.shape) for key, a in expected.items()}
        engine.run(inputs, outputs)
        precision = _precision(plan, name, engine.precision)
        share = LIMITS[precision].error if tolerance is None else tolerance
        about = name, precision, engine.sha256
        results = [
            compare(about, key, backend.get(buffer), expected[key], share)
            for key, buffer in outputs.items()
        ]
        yield max(results, key=lambda r: (not r.finite, not r.ok, r.max_abs / abs(r.allowed)))


def _precision(plan: Plan, graph: str, of_engine: str) -> str:
    """The key in LIMITS: the less exact of a graph's stored weights and its arithmetic."""
    stored = weights(plan.folder / plan.graphs[graph].file)
    found = {_WEIGHTS[dtype] for dtype in stored if dtype in _WEIGHTS}
    return _least_exact({"fp32" if of_engine == "as exported" else of_engine, *found})


def _precisions(plan: Plan, trace: Trace) -> dict[str, str]:
    """The key in LIMITS of every graph that a run called."""
    engines = {made.graph: made.precision for made in trace.made}
    return {graph: _precision(plan, graph, of_engine) for graph, of_engine in engines.items()}


def _least_exact(precisions: Collection[str]) -> str:
    return max(precisions, key=list(LIMITS).index)


def compare(
    about: tuple[str, str, str], output: str, got: Array, expected: Array, share: float
) -> Graph:
    """How far `got` is from `expected`; uint8 may always differ by one level.

    Args:
        about: name of the graph, precision and sha256 of its engine.
        output: its name.
        got: what was computed here.
        expected: the reference.
        share: allowed error, of the reference's largest magnitude.
    """
    wanted, found = expected.astype(np.float64), got.astype(np.float64)
    finite = bool(np.isfinite(found).all())
    error = np.abs(found - wanted) if finite else np.full((), math.inf)
    peak = 255.0 if expected.dtype == np.uint8 else float(np.abs(wanted).max())
    least = 1.0 if expected.dtype == np.uint8 else float(np.finfo(np.float32).tiny)
    allowed, max_abs = max(share * peak, least), float(error.max())
    return Graph(
        *(about[0], output, about[1], about[2], max_abs, float(error.mean())),
        cosine=likeness.cosine(found, wanted),
        psnr_db=likeness.psnr(likeness.mean_square(found, wanted), peak),
        finite=finite,
        peak=peak,
        allowed=allowed,
        ok=max_abs <= allowed and finite,
    )


def steps(plan: Plan, trace: Trace, reference: Trace) -> list[Step]:
    """Every call of a graph in a run beside the same call in the reference run.

    Each call goes on from what its own run made. So the first that drifts too far is where
    something is wrong, and what comes after it says nothing about its own graph. What may drift
    is that of the least exact graph up to the call. A run that failed is compared as far as it got.

    Raises:
        InputError: the runs are not of the same calls.
    """
    found, precisions, precision = list[Step](), _precisions(plan, trace), next(iter(LIMITS))
    golden = reference.made[: len(trace.made)] if trace.failed else reference.made
    if [_call(made) for made in trace.made] != [_call(made) for made in golden]:
        raise InputError(
            f"The run to compare with made other calls of graphs ({len(golden)}) than this one "
            f"({len(trace.made)}), or of other sizes; expected the same. Give it the same videos, "
            f"and make it with this version of Edgereel: --save-golden."
        )
    for mine, its in zip(trace.made, golden, strict=True):
        precision = _least_exact({precision, precisions[mine.graph]})
        allowed = LIMITS[precision].drift
        pairs = [(mine.parts[name], its.parts[name]) for name in its.parts]
        drift = max(likeness.drift(*pair) for pair in pairs)
        cosine = min(likeness.cosine(*pair) for pair in pairs)
        place = mine.stage, mine.chunk, mine.step, mine.steps, mine.graph
        found.append(Step(*place, drift, cosine, allowed, drift <= allowed))
    return found


def _call(made: Made) -> tuple[object, ...]:
    """What is the same in two runs: the place of a call, and the sizes of what it made."""
    sizes = sorted((name, part.size) for name, part in made.parts.items())
    return made.stage, made.chunk, made.step, made.steps, made.graph, sizes


def frames(plan: Plan, trace: Trace, reference: Trace) -> Likeness:
    """How alike the frames of two runs are that did not fail."""
    assert trace.frames is not None and reference.frames is not None
    pairs = list(zip(trace.frames, reference.frames, strict=True))
    precision = _least_exact(_precisions(plan, trace).values())
    squares = [likeness.mean_square(mine, its) for mine, its in pairs]
    by_frame = [likeness.ssim(mine, its) for mine, its in pairs]
    known = [value for value in by_frame if value is not None]
    return Likeness(
        precision,
        LIMITS[precision],
        psnr_db=likeness.psnr(sum(squares) / len(squares)),
        ssim=sum(known) / len(known) if known else None,
        psnr_by_frame=[likeness.psnr(square) for square in squares],
        ssim_by_frame=by_frame,
        flicker=likeness.flicker(trace.frames),
        reference_flicker=likeness.flicker(reference.frames),
        flicker_error=likeness.flicker_error(trace.frames, reference.frames),
    )


def _golden(path: Path, spec: GraphSpec) -> dict[str, Array]:
    """The arrays of a reference file, all of the graph's inputs and outputs among them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path}: cannot be read ({error}); expected an .npz of reference arrays. "
            "Export the cascade again."
        ) from error
    wanted = {f"in.{key}" for key in spec.inputs} | {f"out.{key}" for key in spec.outputs}
    if missing := sorted(wanted - arrays.keys()):
        raise PlanError(
            f"{path}: lacks {', '.join(missing)}; expected every input and output of the graph. "
            "Export the cascade again."
        )
    return arrays
