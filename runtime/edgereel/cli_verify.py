"""Runs the reference vectors of a cascade on this device and compares: is it right here?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereel.backends import Backend
from edgereel.cli_table import table
from edgereel.errors import PlanError
from edgereel.plan import GraphSpec, Plan
from edgereel.weights import weights

__all__ = ["Result", "compare", "report", "verify"]

Array = npt.NDArray[Any]

# Largest error allowed, as a share of the reference's largest magnitude. float32 leaves room for
# another order of summation; half precision has eleven bits, and errors add up through a network.
_TOLERANCE_FP32 = 1e-3
_TOLERANCE_FP16 = 3e-2


@dataclass(frozen=True)
class Result:
    """How one graph did: its worst output decides.

    `max_abs` and `psnr_db` compare with the reference, whose largest magnitude is `peak`.
    """

    graph: str
    output: str
    max_abs: float
    psnr_db: float
    finite: bool
    peak: float
    allowed: float
    ok: bool

    def as_json(self) -> dict[str, object]:
        """The fields; null for an infinite error or PSNR, which JSON cannot say."""
        fields = asdict(self)
        return {
            key: None if value in (math.inf, -math.inf) else value for key, value in fields.items()
        }


def verify(plan: Plan, backend: Backend, tolerance: float | None = None) -> Iterator[Result]:
    """The comparison of each graph that comes with reference arrays, one engine at a time.

    Args:
        plan: the cascade.
        backend: where the graphs run.
        tolerance: allowed error as a share of the reference's largest magnitude; by default
            1e-3, or 3e-2 where the graph's weights or its engine's arithmetic are float16.

    Raises:
        PlanError: a reference file does not fit its graph, or a file was changed.
        EngineError: a graph does not load or run here.
    """
    for name, spec in plan.graphs.items():
        if spec.golden is None:
            continue
        golden = _golden(plan.check_file(spec.golden), spec)
        got, precision = _outputs(plan, spec, backend, golden)
        exact = precision in ("as exported", "fp32")
        half = not exact or "float16" in weights(plan.folder / spec.file)
        default = _TOLERANCE_FP16 if half else _TOLERANCE_FP32
        share = default if tolerance is None else tolerance
        results = [compare(name, k, array, golden[f"out.{k}"], share) for k, array in got.items()]
        yield max(results, key=lambda r: (not r.finite, not r.ok, r.max_abs / abs(r.allowed)))


def _outputs(
    plan: Plan, spec: GraphSpec, backend: Backend, golden: dict[str, Array]
) -> tuple[dict[str, Array], str]:
    """What the graph makes of the reference inputs here, and its engine's precision."""
    for rel in spec.weights:
        plan.check_file(rel)
    engine = backend.load(plan.check_file(spec.file), spec)
    inputs = {key: backend.put(golden[f"in.{key}"]) for key in spec.inputs}
    expected = {key: golden[f"out.{key}"] for key in spec.outputs}
    outputs = {key: backend.empty(a.dtype.name, a.shape) for key, a in expected.items()}
    engine.run(inputs, outputs)
    return {key: backend.get(buffer) for key, buffer in outputs.items()}, engine.precision


def compare(graph: str, output: str, got: Array, expected: Array, share: float) -> Result:
    """How far `got` is from `expected`; uint8 may always differ by one level."""
    wanted = expected.astype(np.float64)
    found = got.astype(np.float64)
    finite = bool(np.isfinite(found).all())
    error = np.abs(found - wanted)
    max_abs = float(error.max()) if finite else math.inf
    mean_square = float(np.mean(error**2)) if finite else math.inf
    peak = 255.0 if expected.dtype == np.uint8 else float(np.abs(wanted).max())
    least = 1.0 if expected.dtype == np.uint8 else float(np.finfo(np.float32).tiny)
    allowed = max(share * peak, least)
    psnr = math.inf if mean_square == 0 else 10 * math.log10(peak**2 / mean_square + 1e-30)
    return Result(graph, output, max_abs, psnr, finite, peak, allowed, max_abs <= allowed)


def report(plan: Plan, results: Sequence[Result]) -> list[str]:
    """The results as a table, and a verdict on its last line."""
    rows = [("graph", "worst output", "max error", "allowed", "PSNR", "verdict")]
    for r in results:
        verdict = "ok" if r.ok else "WRONG" if r.finite else "WRONG: not finite"
        psnr = "exact" if r.max_abs == 0 else f"{r.psnr_db:.1f} dB"
        rows.append((r.graph, r.output, f"{r.max_abs:.3g}", f"{r.allowed:.3g}", psnr, verdict))
    unchecked = [name for name, spec in plan.graphs.items() if spec.golden is None]
    rows += [(name, "", "", "", "", "not checked: no reference vectors") for name in unchecked]
    bad = [r.graph for r in results if not r.ok]
    if bad:
        end = f"Wrong on this device: {', '.join(bad)}."
    else:
        end = f"{len(results)} of {len(plan.graphs)} graphs checked, all of them right here."
    return [*table(rows), end]


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
