"""OpenVINO on the CPU: runs the .onnx files themselves, in float32 or, checked, in bfloat16.

Buffers are numpy arrays, lent to OpenVINO, so an engine reads and writes them without a copy.
`openvino` computes in float32. `openvino-bf16` computes a graph in bfloat16 if its outputs for its
reference inputs are near enough to PyTorch's in float32, and in float32 otherwise.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from edgereel import files
from edgereel.backends import Array, Buffer
from edgereel.backends.on_host import OnHost, check_declaration, give_back
from edgereel.errors import EngineError, OutputError
from edgereel.plan import GraphSpec, Plan

__all__ = ["NEAR_DB", "Engine", "OpenVino", "OpenVinoBf16"]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_KEPT_BYTES = 1 << 29  # of a graph with its weights

NEAR_DB = 40.0
"""PSNR that every output of a graph needs in bfloat16: a mean error of 1 % of the largest value.

bfloat16 has 8 bits, an error of 0.2 % for each result, and errors add up: of the 36 graphs of the
four trained cascades the worst has 43.6 dB. A graph that loses small differences of large numbers
comes out far below.
"""


class OpenVino(OnHost):
    """The `openvino` backend."""

    name = "openvino"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        import openvino

        from edgereel.backends.openvino_operators import reader

        self._plan, self._threads = plan, threads
        self._version = openvino.__version__
        self._core = reader()

    @classmethod
    def unusable(cls, plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install 'edgereel[openvino]'"
        return None

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The .onnx file, compiled for this CPU."""
        return self._engine(path, spec, "f32")

    def describe(self) -> dict[str, str]:
        """Library, device and precision."""
        return {
            "library": f"openvino {self._version}",
            "device": "CPU" + (f", {self._threads} threads" if self._threads else ""),
            "precision": "fp32",
        }

    def _engine(self, path: Path, spec: GraphSpec, precision: str) -> Engine:
        try:
            model = self._core.read_model(path)
        except Exception as error:  # OpenVINO raises plain RuntimeErrors, and others of Python
            raise EngineError(
                f"{spec.file}: OpenVINO cannot load it ({_said(error)}); expected a graph for "
                f"openvino {self._version}. Use --backend ort, or another version of openvino."
            ) from error
        for side in ("inputs", "outputs"):
            found = {
                port.any_name: (port.element_type.to_dtype().name, len(port.partial_shape))
                for port in getattr(model, side)
            }
            check_declaration(spec, side, found)
        compiler = partial(self._compiled, model, self._kept(spec, precision), precision)
        return Engine(compiler, spec.file, self._plan.files[spec.file], precision)

    def _compiled(self, model: Any, kept: Path | None, precision: str, shapes: Shapes) -> Any:
        """A graph compiled for these shapes; OpenVINO keeps it in a folder, whole or not at all."""
        give_back()  # what dropped engines had
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        options = self._options(precision)
        if kept is None:
            return self._core.compile_model(model, "CPU", options)
        place = kept.with_name(f"{kept.name}-{_key(shapes)}")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_dir():
                files.check_place(place)
        except (OSError, OutputError):  # nothing can be written there: compiled each time
            return self._core.compile_model(model, "CPU", options)
        if place.is_dir():
            return self._core.compile_model(model, "CPU", options | {"CACHE_DIR": str(place)})
        with files.all_or_nothing(place) as unfinished:
            options = options | {"CACHE_DIR": str(unfinished)}
            compiled = self._core.compile_model(model, "CPU", options)
        for old in kept.parent.glob(f"{kept.name.rpartition('-')[0]}-*"):
            if not old.name.startswith(kept.name):
                files.remove(old)
        give_back()
        return compiled

    def _kept(self, spec: GraphSpec, precision: str) -> Path | None:
        """Where compiled graphs are kept, without their shapes; it changes with the rest.

        None for large graphs: OpenVINO keeps their weights for all shapes they are compiled for.
        """
        sizes = [(self._plan.folder / name).stat().st_size for name in (spec.file, *spec.weights)]
        if sum(sizes) > _KEPT_BYTES:
            return None
        facts: list[Any] = [self._version, self._core.get_property("CPU", "FULL_DEVICE_NAME")]
        facts += [files.sha256(Path(__file__).with_name("openvino_operators.py"))]
        for name in (spec.file, *spec.weights):
            at = (self._plan.folder / name).stat()  # hashes may not have been compared
            facts += [self._plan.files[name], at.st_size, at.st_mtime_ns]
        name = f"{Path(spec.file).stem}-{precision}-{_key(facts)}"
        return self._plan.folder / "builds" / "openvino" / name

    def _options(self, precision: str) -> dict[str, Any]:
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if precision == "f32":
            # Without snippets, kernels it fuses while it compiles: with them 2026.4 crashes on the
            # interpolation of `shapes`. They save a tenth of the time here, a fifth in bfloat16.
            options["SNIPPETS_MODE"] = "DISABLE"
        return options | ({"INFERENCE_NUM_THREADS": self._threads} if self._threads else {})


class OpenVinoBf16(OpenVino):
    """The `openvino-bf16` backend."""

    name = "openvino-bf16"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        super().__init__(plan, threads, kernels)
        self._exact: dict[str, str] = {}  # graphs in float32, and why

    @classmethod
    def unusable(cls, plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        reason = super().unusable(plan)
        if reason is None:
            import openvino

            if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                return "this CPU has no instructions for bfloat16; --backend openvino runs here"
        return reason

    def load(self, path: Path, spec: GraphSpec) -> Engine:
        """The .onnx file, compiled in bfloat16 if that is near enough, else in float32."""
        reason = "plan.json asks for it" if spec.precision == "fp32" else None
        if reason is None and spec.golden is None:
            reason = "no reference vectors to check it with"
        if reason is None:
            near = self._psnr_db(self._engine(path, spec, "bf16"), spec)
            if near >= NEAR_DB:
                return self._engine(path, spec, "bf16")  # without what was made for these shapes
            reason = f"bfloat16 has {near:.1f} dB, expected at least {NEAR_DB:g} dB"
        self._exact[spec.file] = reason
        logging.getLogger(__name__).warning("%s: in float32: %s", spec.file, reason)
        return self._engine(path, spec, "f32")

    def describe(self) -> dict[str, str]:
        """Library, device and precision, with the graphs that are in float32."""
        exact = "".join(f"; fp32: {file} ({why})" for file, why in self._exact.items())
        return super().describe() | {"precision": f"bf16{exact}"}

    def _psnr_db(self, engine: Engine, spec: GraphSpec) -> float:
        """Of the worst output for the reference inputs; -inf if one is not finite."""
        with np.load(self._plan.check_file(cast(str, spec.golden)), allow_pickle=False) as file:
            golden = dict(file)
        outputs = {name: np.empty_like(golden[f"out.{name}"]) for name in spec.outputs}
        engine.run({name: golden[f"in.{name}"] for name in spec.inputs}, outputs)
        return min(_psnr_db(outputs[name], golden[f"out.{name}"]) for name in outputs)


class Engine:
    """One graph, compiled for the shapes it is called with: faster than once for all shapes.

    A LaVie-like step took 0.83 of the time so, 0.63 in bfloat16.
    """

    def __init__(
        self, compiled: Callable[[Shapes], Any], file: str, sha256: str, precision: str
    ) -> None:
        self.sha256 = sha256
        self.precision = {"f32": "fp32"}.get(precision, precision)
        self._compiled, self._file = compiled, file
        self._requests: dict[str, Any] = {}  # by shapes of inputs, the latest last
        self._fitting: set[str] = set()  # shapes that were seen to fit each other

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """One call of the graph."""
        given, made = ({n: b.shape for n, b in side.items()} for side in (inputs, outputs))
        try:
            request = self._request(given)
            fitting = _key([given, made])
            if fitting in self._fitting:
                self._infer(request, {**inputs, **outputs})
            else:
                self._run_first(given, inputs, outputs)
                self._fitting.add(fitting)
        except Exception as error:  # as in _engine
            raise EngineError(
                f"{self._file}: OpenVINO failed to run it ({_said(error)}); expected it to fill "
                f"outputs of the shapes in plan.json. Export the cascade again; if memory ran "
                f"out, use a smaller size or chunk."
            ) from error

    def _request(self, shapes: Shapes) -> Any:
        """For these shapes; the three latest are kept: a first frame, a chunk and the last one."""
        key = _key(shapes)
        if key not in self._requests:
            while len(self._requests) > 2:
                del self._requests[next(iter(self._requests))]
            self._requests[key] = self._compiled(shapes).create_infer_request()
        return self._requests[key]

    def _run_first(
        self, shapes: Shapes, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> None:
        """A call with outputs of OpenVINO's own: it leaves one that is too small as it is."""
        request = self._request(shapes).get_compiled_model().create_infer_request()
        self._infer(request, inputs)
        for name, buffer in outputs.items():
            made = request.get_tensor(name).data
            if made.shape != buffer.shape or made.dtype != buffer.dtype:
                raise ValueError(f"{name} is {made.dtype} {list(made.shape)}")
            np.copyto(cast(Array, buffer), made)

    def _infer(self, request: Any, buffers: Mapping[str, Buffer]) -> None:
        for name, buffer in buffers.items():
            request.set_tensor(name, _lent(cast(Array, buffer)))
        request.infer()


def _key(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _lent(array: Array) -> Any:
    """The array as OpenVINO's, without a copy; what may not be written to is copied."""
    import openvino

    return openvino.Tensor(array, shared_memory=array.flags.writeable)


def _psnr_db(found: Array, expected: Array) -> float:
    """Against the largest value; of uint8, against 255."""
    wanted = expected.astype(np.float64)
    error = float(np.mean((found - wanted) ** 2))
    peak = 255.0 if expected.dtype == np.uint8 else float(np.abs(wanted).max())
    if not math.isfinite(error):
        return -math.inf
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error + 1e-30)


def _said(error: Exception) -> str:
    """What OpenVINO says, without its source files."""
    lines = [line for line in str(error).splitlines() if ".cpp:" not in line]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__
