"""Values that float16 does not hold although every constant fits.

They are found by running a graph on its reference inputs, in ONNX Runtime on the CPU.
Alone: pytest tests/export/test_ranges.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402

from edgereel import builds, plan, schedule  # noqa: E402
from edgereel.errors import EngineError  # noqa: E402
from edgereel.files import sha256  # noqa: E402
from edgereel_export import float16_range, precision, trt_ranges, trt_rows  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402

pytestmark = pytest.mark.torch


def swapped(x: torch.Tensor) -> torch.Tensor:
    """Both halves, the other way round.

    ONNX Runtime has this in float16 on a CPU; between products alone, which it computes in float32,
    it would leave out the rounding.
    """
    return torch.cat([x[:, 8:], x[:, :8]], 1)


class Growing(torch.nn.Module):
    """Three layers of weights up to 60, whose result reaches 2e5 and is divided down again."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=False) for _ in range(3))
        for layer in self.layers:
            torch.nn.init.orthogonal_(layer.weight, gain=60.0)
        self.last = torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for layer in self.layers:
            h = swapped(layer(h))
        return self.last(h / 1024.0 / 64.0)


class Shrinking(torch.nn.Module):
    """Numbers about 1e-6, made and used by factors that float16 holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (torch.nn.Linear(16, 16, bias=False) for _ in range(2))
        for layer in (self.first, self.last):
            torch.nn.init.orthogonal_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = swapped(self.first(x) * 1e-3 * 1e-3 * 0.1)
        return self.last(h) * 1000.0 * 1000.0 * 10.0


class Masked(torch.nn.Module):
    """Attention whose scores get -30000 where a token is no token."""

    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = ((mask - 1.0) * 30000.0)[:, None, None, :].expand(-1, 1, 6, 6)
        q = self.q(x).view(x.shape[0], 1, 6, 16)
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=bias)


class Step(torch.nn.Module):
    """What its network makes is as large as the timestep in its row."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.eye_(self.network.weight)

    def forward(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return self.network(x * row[0])


def exported(module: torch.nn.Module, inputs: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """The files of graph and reference vectors."""
    export(Graph(module, inputs, ["y"]), "graph", folder)
    return folder / "graphs/graph.onnx", folder / "golden/graph.npz"


def typed(path: Path, to: Path, ranges: Any = None) -> precision.Typed:
    model = precision.load(path)
    found = precision.to_float16(model, ranges=ranges)
    ir.save(model, to, external_data=f"{to.name}.data")
    onnx.checker.check_model(str(to), full_check=True)
    return found


def results(path: Path, inputs: dict[str, Any]) -> Any:
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return ort.InferenceSession(path).run(None, feeds)[0]


def test_an_activation_that_overflows(tmp_path: Path) -> None:
    """Without measuring it is inf and then no number; with it, within 1e-2 of values about 1."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(8, 16)}
    path, golden = exported(Growing(), inputs, tmp_path)
    assert typed(path, tmp_path / "trusting.onnx").kept == {}
    assert not np.isfinite(results(tmp_path / "trusting.onnx", inputs)).all()
    ranges = trt_ranges.measured(path, golden)
    found = typed(path, tmp_path / "half.onnx", ranges)
    mine, reference = results(tmp_path / "half.onnx", inputs), results(path, inputs)
    np.testing.assert_allclose(mine, reference, atol=1e-2)
    assert np.abs(mine - reference).max() > 0 and found.float16_nodes > 0
    reasons = " ".join(found.kept.values())
    assert "on reference inputs, float16 ends at 65504" in reasons
    assert found.largest is not None and 1 < found.largest <= 65504 / float16_range.MARGIN


def test_ranges_are_those_of_the_values(tmp_path: Path) -> None:
    """Against the values themselves, as the graph's outputs."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(8, 16)}
    path, golden = exported(Growing(), inputs, tmp_path)
    ranges = trt_ranges.measured(path, golden)
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name in ranges]
    assert "x" in ranges and len(names) >= 4
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(model.SerializeToString())
    values = session.run(names, {"x": inputs["x"].numpy()})
    for name, value in zip(names, values, strict=True):
        assert ranges[name].largest == pytest.approx(np.abs(value).max(), rel=1e-5)
        small = (np.abs(value) < 2.0**-14) & (value != 0)
        assert ranges[name].subnormal == pytest.approx(small.mean(), abs=1e-6)


def test_an_activation_that_vanishes(tmp_path: Path) -> None:
    """1e-7 is a handful of float16's smallest steps: the result is off by more than a tenth."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(8, 16)}
    path, golden = exported(Shrinking(), inputs, tmp_path)
    reference = results(path, inputs)
    typed(path, tmp_path / "trusting.onnx")
    assert np.abs(results(tmp_path / "trusting.onnx", inputs) - reference).max() > 0.1
    found = typed(path, tmp_path / "half.onnx", trt_ranges.measured(path, golden))
    np.testing.assert_allclose(results(tmp_path / "half.onnx", inputs), reference, atol=1e-2)
    assert any("too small for float16" in reason for reason in found.kept.values())


def test_a_mask_does_not_keep_attention_float32(tmp_path: Path) -> None:
    """Its large numbers stand for infinity; attention in float32 has no fused kernel."""
    inputs = {"x": torch.randn(2, 6, 16),
              "mask": torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])}  # fmt: skip
    path, golden = exported(Masked(), inputs, tmp_path)
    ranges = trt_ranges.measured(path, golden)
    assert max(found.largest for found in ranges.values()) == 30000
    found = typed(path, tmp_path / "half.onnx", ranges)
    assert found.kept == {} and found.largest is not None and found.largest < 100
    reference = results(path, inputs)
    np.testing.assert_allclose(results(tmp_path / "half.onnx", inputs), reference, atol=1e-2)


def test_a_step_is_measured_with_several_rows(tmp_path: Path) -> None:
    inputs = {"x": torch.full((2, 4), 0.5), "row": torch.full((16,), 3.0)}
    path, golden = exported(Step(), inputs, tmp_path)
    assert trt_ranges.measured(path, golden)["y"].largest == 1.5
    rows = [[t] * 16 for t in (2.0, 400.0, 9.0)]
    assert trt_ranges.measured(path, golden, rows)["y"].largest == 200.0


def test_rows_of_a_plan() -> None:
    """Those of the toy's defaults, its first and its last among them."""
    folder = Path(__file__).parents[1] / "data/toy"
    found = plan.load(folder)
    graph = next(op.graph for mode in found.modes.values() for stage in mode.stages
                 for op in stage.ops if isinstance(op, plan.Denoise))  # fmt: skip
    rows = trt_rows.some_rows(found, graph)
    times = [row[schedule.ROW.index("t")] for row in rows]
    assert 2 <= len(rows) <= len(trt_rows.PLACES) * len(found.modes)
    assert len(set(rows)) == len(rows) and all(len(row) == 16 for row in rows)
    assert max(times) > 0.7 * len(np.load(folder / next(iter(found.schedules.values())).file))
    assert trt_rows.some_rows(found, "none") == ()


def test_a_graph_that_does_not_run_is_refused(tmp_path: Path) -> None:
    path, golden = exported(torch.nn.Linear(4, 4), {"x": torch.ones(2, 4)}, tmp_path)
    with np.load(golden) as arrays:
        np.savez(golden, **{"in.x": np.ones((2, 5), np.float32), "out.y": arrays["out.y"]})
    with pytest.raises(EngineError, match=r"cannot be measured .*--no-ranges"):
        trt_ranges.measured(path, golden)


def folder_of(module: torch.nn.Module, inputs: dict[str, Any], folder: Path) -> Path:
    """A cascade folder with one graph, which one mode runs."""
    spec = export(Graph(module, inputs, ["y"]), "graph", folder)
    shapes = {name: {"dtype": "float32", "shape": list(tensor.shape)}
              for name, tensor in inputs.items()}  # fmt: skip
    y = {"dtype": "float32", "shape": list(spec.outputs["y"].shape)}
    graph = {"file": spec.file, "weights": spec.weights, "golden": spec.golden, "inputs": shapes,
             "outputs": {"y": y}}  # fmt: skip
    files = [spec.file, *spec.weights, str(spec.golden)]
    frames = {"dtype": "uint8", "shape": ["F", "H", "W", 3]}
    video = {"type": "video", "longest": 8, "multiple": 8}
    run = {"op": "run", "graph": "graph", "inputs": {"x": "x"}, "outputs": {"y": "y"}}
    mode = {"params": {"seed": {"type": "int", "default": 0, "min": 0, "max": 9}, "video": video},
            "values": {"x": shapes["x"], "y": y, "video": frames},
            "stages": [{"name": "all", "ops": [{"op": "noise", "value": "x"}, run]}],
            "output": {"value": "video", "fps": 8}}  # fmt: skip
    document = {"format": 1, "name": "grow", "system": "test", "graphs": {"graph": graph},
                "files": {name: sha256(folder / name) for name in files},
                "modes": {"video": mode}}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(document))
    return folder


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
def test_a_build_says_what_it_measured(tmp_path: Path) -> None:
    """Which nodes stay float32 and why; what was measured with is part of the key."""
    from edgereel_export import trt

    torch.manual_seed(0)
    folder = folder_of(Growing(), {"x": torch.randn(8, 16)}, tmp_path)
    options = trt.Options(compute_capabilities=("8.9",))
    result = trt.build(folder, options)
    engine = result.build.record.graphs["graph"]
    assert any("on reference inputs" in reason for reason in engine.kept_float32.values())
    assert list(engine.measured) == ["golden/graph.npz"] and engine.largest_float16 is not None
    assert trt.build(folder, options).cached
    trusting = trt.build(folder, trt.Options(compute_capabilities=("8.9",), ranges=False))
    other = trusting.build.record.graphs["graph"]
    assert other.kept_float32 == {} and other.measured == {} and other.largest_float16 is None
    assert other.types.get("Float", 0) < engine.types["Float"]
    assert trusting.build.folder != result.build.folder
    assert builds.read(result.build.folder).record == result.build.record
