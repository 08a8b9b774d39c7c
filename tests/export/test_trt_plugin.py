"""Attention over frames as TensorRT's plugin: the graph that is handed over, and refusals.

Alone: pytest tests/export/test_trt_plugin.py; no engine with it can be built without a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402

from edgereel import builds, errors, kernel_library, plan  # noqa: E402
from edgereel.backends.trt_library import Library, library  # noqa: E402
from edgereel_export import cli, precision, trt, trt_child, trt_plugin  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.frame_attention import Turns, attend_frames  # noqa: E402
from edgereel_export.trt_graphs import chosen  # noqa: E402
from edgereel_export.trt_job import Job, Made  # noqa: E402

pytestmark = pytest.mark.torch

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
TOY = Path(__file__).parents[1] / "data" / "toy"
PLUGIN = {"name": "edgereel-kernels", "version": "9.9", "sha256": "0" * 64}


class Layer(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Projections around attention over frames, with what is asked for of turning and bias."""

    def __init__(self, turned: bool, biased: bool) -> None:
        super().__init__()
        self.turned, self.biased = turned, biased
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        number = torch.arange(x.shape[1], dtype=torch.float32)[:, None]
        angle = number * torch.tensor([1.0, 0.3, 0.1, 0.03])
        turns = Turns(angle.cos(), angle.sin(), True) if self.turned else None
        scale = torch.tensor([0.1, 0.2]).view(-1, 1, 1)
        bias = -(number - number.T).abs() * scale if self.biased else None
        return self.out(attend_frames(self.qkv(x), 2, turns, bias))


def layer(folder: Path, turned: bool, biased: bool) -> Path:
    free = {0: "B", 1: "F", 2: "S"}
    torch.manual_seed(0)
    example = {"x": torch.randn(2, 5, 6, 16)}
    graph = Graph(Layer(turned, biased), example, ("out",), {"x": free, "out": free})
    return folder / export(graph, "layer", folder).file


@pytest.mark.parametrize(("turned", "biased"), [(False, False), (True, False), (True, True)])
def test_the_node_is_handed_over(tmp_path: Path, turned: bool, biased: bool) -> None:
    """One node with the inputs that there are; in half precision its tables stay float32."""
    file = layer(tmp_path, turned, biased)
    assert trt_plugin.has_op(file)
    model = precision.load(file, plugin=True)
    precision.to_float16(model)
    path = tmp_path / "typed.onnx"
    ir.save(model, path)
    model = ir.load(path)
    assert not model.functions
    (node,) = [node for node in model.graph if node.domain == "edgereel"]
    types = [value and value.dtype for value in node.inputs]
    assert types == [HALF] + [FLOAT] * (2 * turned + biased)
    assert node.outputs[0].dtype == HALF
    told = {name: attribute.value for name, attribute in node.attributes.items()}
    assert told.pop("scale") == pytest.approx(8**-0.5)
    assert told == {"heads": 2, "interleaved": int(turned), "turned": int(turned),
                    "biased": int(biased), "plugin_namespace": "edgereel",
                    "plugin_version": "1"}  # fmt: skip
    inlined = precision.load(file)
    assert not [node for node in inlined.graph if node.domain == "edgereel"]


def test_a_bias_alone_is_the_second_input(tmp_path: Path) -> None:
    model = precision.load(layer(tmp_path, False, True), plugin=True)
    (node,) = [node for node in model.graph if node.domain == "edgereel"]
    assert [value and len(value.shape or ()) for value in node.inputs] == [4, 3]


def fake(takes_plugins: bool) -> Library:
    network = SimpleNamespace(**({"add_plugin_v3": None} if takes_plugins else {}))
    return Library(SimpleNamespace(INetworkDefinition=network), "tensorrt", "11.3")


def test_what_cannot_have_the_plugin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "plugin", lambda: PLUGIN)
    assert trt_plugin.check(fake(True)) == PLUGIN
    with pytest.raises(errors.BackendUnavailable, match=r"11\.3 takes no plugins.*Leave it out"):
        trt_plugin.check(fake(False))
    monkeypatch.setattr(kernel_library, "plugin", lambda: None)
    with pytest.raises(errors.BackendUnavailable, match=r"not installed; .*pip install ./kernels"):
        trt_plugin.check(fake(True))


@pytest.mark.trt
def test_tensorrt_rtx_refuses_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parser ends the process at a plugin (1.7.1), so it must never see one."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(kernel_library, "plugin", lambda: PLUGIN)
    rtx = library("tensorrt_rtx")
    if rtx.takes_plugins:
        pytest.skip(f"{rtx} takes plugins")
    monkeypatch.setattr("edgereel.backends.trt_library.library", lambda *_: rtx)
    assert cli.main(["compile", str(TOY), "--backend", "trt", "--plugin", "decoder"]) == 1
    assert "tensorrt_rtx 1" in (said := capsys.readouterr().err) and "takes no plugins" in said


def test_a_graph_without_the_operator_is_named() -> None:
    with pytest.raises(errors.InputError, match=r"names decoder; .* has with attention .* none"):
        chosen(TOY, ["decoder"], plugin=True)
    assert chosen(TOY, ["decoder"]) == ["decoder"]


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """Two graphs that a mode runs, one of which has attention over frames."""
    (tmp_path / "graphs").mkdir()
    file = layer(tmp_path, True, True)
    model = ir.load(file)
    for node in list(model.graph):
        if node.domain == "edgereel":
            node.op_type = "Other"
    ir.save(model, tmp_path / "graphs/plain.onnx")
    return tmp_path


def test_two_builds_where_some_graphs_have_it(
    cascade: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each build's key and record say whether its engines have the plugin."""
    jobs: list[Job] = []

    def compiled(job: Job, tell: Callable[[float, str], None]) -> Made:
        jobs.append(job)
        Path(job.target).write_bytes(job.graph.encode())
        return Made(nodes=1, parameters=1, types={}, weights_bytes=0, activation_bytes=0, seconds=0,
                    peak_rss_bytes=0, decomposed_attention=(), kept_float32={})  # fmt: skip

    found_plan, lib = two_graphs(cascade), fake(True)
    for where in ("edgereel_export.trt.load", "edgereel_export.trt_graphs.load"):
        monkeypatch.setattr(where, lambda _: found_plan)
    monkeypatch.setattr(trt, "_gpus", lambda *_: (["8.9"], "a GPU"))
    monkeypatch.setattr(trt_child, "run", compiled)
    for where in ("edgereel.backends.trt_library.library", "edgereel_export.trt.library"):
        monkeypatch.setattr(where, lambda *_: lib)
    monkeypatch.setattr(kernel_library, "plugin", lambda: PLUGIN)
    assert cli.main(["compile", str(cascade), "--backend", "trt", "--plugin", "layer"]) == 0
    assert [(job.graph, job.plugin) for job in jobs] == [("plain", False), ("layer", True)]
    found = {tuple(b.record.graphs): b.record for b in map(builds.read, builds.find(cascade))}
    assert found[("plain",)].plugin is None
    assert found[("layer",)].plugin == PLUGIN
    assert cli.main(["compile", str(cascade), "--backend", "trt"]) == 0
    assert [(job.graph, job.plugin) for job in jobs[2:]] == [("layer", False)]  # plain is reused
    assert cli.main(["compile", str(cascade), "--backend", "trt", "--plugin", "layer"]) == 0
    assert len(jobs) == 3
    newest = builds.read(builds.find(cascade)[0]).record
    assert newest.plugin == PLUGIN  # what was asked for last is used, compiled anew or not
    assert "nothing to compile" in capsys.readouterr().out


def two_graphs(folder: Path) -> plan.Plan:
    """A plan that runs both, without what a whole one must have besides."""
    import msgspec

    from edgereel.files import sha256

    tensor = {"dtype": "float32", "shape": ["B", "F", "S", 16]}
    value = {"dtype": "float32", "shape": [1, 5, 6, 16]}
    graphs = {"plain": "graphs/plain.onnx", "layer": "graphs/layer.onnx"}
    weights = [str(p.relative_to(folder)) for p in sorted(folder.glob("graphs/*.data"))]
    files = {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}
    run = [
        {"op": "run", "graph": name, "inputs": {"x": source}, "outputs": {"out": target}}
        for name, source, target in (("plain", "z", "a"), ("layer", "a", "b"))
    ]
    document: dict[str, Any] = {
        "format": 1, "name": "two", "system": "test", "files": files,
        "graphs": {
            name: {"file": file, "weights": weights, "inputs": {"x": tensor},
                   "outputs": {"out": tensor}}
            for name, file in graphs.items()
        },
        "modes": {"video": {
            "params": {}, "values": {"z": value, "a": value, "b": value},
            "output": {"value": "b", "fps": 8},
            "stages": [{"name": "all", "ops": run}],
        }},
    }  # fmt: skip
    made = msgspec.convert(json.loads(json.dumps(document)), plan.Plan)  # rules are not the point
    made.__dict__["folder"] = folder
    return made
