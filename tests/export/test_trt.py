"""Compiling small cascades with TensorRT. Alone: pytest tests/export/test_trt.py

With tensorrt_rtx the builder runs without a GPU, so these engines are real; none is run here.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trt_library = pytest.importorskip("edgereel.backends.trt_library")

from edgereel import builds, errors, plan  # noqa: E402
from edgereel.files import sha256  # noqa: E402
from edgereel_export import trt, trt_profiles, trt_report  # noqa: E402

pytestmark = [pytest.mark.trt, pytest.mark.torch, pytest.mark.usefixtures("engine_builder")]

C, F, HW, CONDITION = 32, 4, 8, 8


class Attention(torch.nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(channels, 3 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return x + y.transpose(1, 2).reshape(b, n, c)


class Network(torch.nn.Module):
    """A convolution, a norm, an attention over frames, and a condition."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(3, C, (1, 3, 3), padding=(0, 1, 1))
        self.norm = torch.nn.GroupNorm(4, C)
        self.condition = torch.nn.Linear(CONDITION, C)
        self.attention = Attention(C, heads)
        self.out = torch.nn.Conv3d(C, 3, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        embedding = torch.sin(t)[:, None] + self.condition(tokens)
        h = torch.nn.functional.silu(self.norm(self.conv(x))) + embedding[:, :, None, None, None]
        y = h.permute(0, 3, 4, 2, 1).reshape(-1, F, C)
        y = self.attention(y).reshape(x.shape[0], HW, HW, F, C).permute(0, 4, 3, 1, 2)
        return self.out(h + y)


class Step(torch.nn.Module):
    """A denoising step: network, guidance, update."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.network = Network(heads)

    def forward(
        self, x: torch.Tensor, row: torch.Tensor, weights: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        groups = weights.shape[0]
        out = self.network(x.expand(groups, *x.shape[1:]), row[:1].expand(groups), tokens)
        m = (out * weights.view(-1, 1, 1, 1, 1)).sum(0, keepdim=True)
        x0 = (x - row[2] * m) / row[1]
        return row[3] * x0 + row[4] * m, x0


class Encoder(torch.nn.Module):
    """Token ids to one vector per text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(32, CONDITION)
        self.norm = torch.nn.LayerNorm(CONDITION)
        self.out = torch.nn.Linear(CONDITION, CONDITION)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.table(ids))).mean(1)


class Frames(torch.nn.Module):
    """Latents to pixels, frame by frame."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def export(
    module: torch.nn.Module, path: Path, inputs: dict[str, Any], outputs: list[str], axis: str
) -> None:
    """Writes a graph; axis 0 of the inputs in capitals is the symbol `axis`."""
    free = {"weights", "tokens", "ids", "frames"}
    dim = torch.export.Dim(axis, min=1, max=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what torch uses
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=23,
            verbose=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: dim} if name in free else None for name in inputs),
        )
    program.save(str(path), external_data=True)


def make(folder: Path, heads: int = 2, seed: int = 0) -> Path:
    """A cascade folder: encoder, guided denoising step, frames in chunks of three."""
    torch.manual_seed(seed)
    (folder / "graphs").mkdir(parents=True)
    x = torch.randn(1, 3, F, HW, HW)
    two = {"weights": torch.ones(2), "tokens": torch.randn(2, CONDITION)}
    ids = torch.ones(2, 5, dtype=torch.int64)
    row = torch.full((16,), 0.5)
    step = {"x": x, "row": row, **two}
    export(Encoder(), folder / "graphs/encoder.onnx", {"ids": ids}, ["tokens"], "G")
    export(Step(heads), folder / "graphs/step.onnx", step, ["x_next", "x0"], "G")
    frames = {"frames": torch.randn(3, 3, HW, HW)}
    export(Frames(), folder / "graphs/frames.onnx", frames, ["pixels"], "K")
    write_plan(folder)
    return folder


def spec(dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape)}


def write_plan(folder: Path) -> None:
    """plan.json over whatever the graph files now are."""
    import numpy as np

    (folder / "tokenizer.json").write_text("{}")
    np.save(folder / "cosine.npy", np.linspace(0.99, 0.01, 10))
    x = spec("float32", 1, 3, F, HW, HW)
    graphs: dict[str, Any] = {
        "encoder": {"inputs": {"ids": spec("int64", "G", 5)},
                    "outputs": {"tokens": spec("float32", "G", CONDITION)}},
        "step": {"inputs": {"x": x, "row": spec("float32", 16), "weights": spec("float32", "G"),
                            "tokens": spec("float32", "G", CONDITION)},
                 "outputs": {"x_next": x, "x0": x}},
        "frames": {"inputs": {"frames": spec("float32", "K", 3, HW, HW)},
                   "outputs": {"pixels": spec("uint8", "K", HW, HW, 3)}},
    }  # fmt: skip
    for name, graph in graphs.items():
        graph["file"] = f"graphs/{name}.onnx"
        data = folder / f"graphs/{name}.onnx.data"
        graph["weights"] = [f"graphs/{data.name}"] if data.exists() else []
    used = [n for g in graphs.values() for n in (g["file"], *g["weights"])]
    text = {"param": "prompt"}, {"param": "negative_prompt"}
    document = {
        "format": 1, "name": "small", "system": "test",
        "files": {n: sha256(folder / n) for n in [*used, "tokenizer.json", "cosine.npy"]},
        "graphs": graphs,
        "schedules": {"cosine": {"file": "cosine.npy"}},
        "tokenizers": {"bpe": {"file": "tokenizer.json", "length": 5, "pad_id": 0}},
        "modes": {"video": {
            "params": {"prompt": {"type": "text"},
                       "negative_prompt": {"type": "text", "default": ""},
                       "seed": {"type": "int", "default": 0, "min": 0, "max": 2**64 - 1},
                       "guidance": {"type": "float", "default": 2.0}},
            "rows": {"text": text},
            "values": {"ids": spec("int64", "G", 5), "tokens": spec("float32", "G", CONDITION),
                       "z": x, "clip": x, "loose": spec("float32", F, 3, HW, HW),
                       "chunk": spec("float32", "K", 3, HW, HW),
                       "out": spec("uint8", "K", HW, HW, 3),
                       "video": spec("uint8", F, HW, HW, 3)},
            "stages": [
                {"name": "text", "ops": [
                    {"op": "tokenize", "tokenizer": "bpe", "rows": "text", "ids": "ids"},
                    {"op": "run", "graph": "encoder", "inputs": {"ids": "ids"},
                     "outputs": {"tokens": "tokens"}}]},
                {"name": "base", "ops": [
                    {"op": "noise", "value": "z"},
                    {"op": "noise", "value": "loose"},
                    {"op": "denoise", "graph": "step", "x": "z", "out": "clip",
                     "conditions": {"tokens": "tokens"}, "schedule": "cosine", "sampler": "ddim",
                     "spacing": "trailing", "steps": 2, "eta": 0.0, "final": "one",
                     "variance": "fixed_small",
                     "guidance": {"rows": "text", "weights": [
                         {"params": {"guidance": 1}}, {"const": 1, "params": {"guidance": -1}}]}}]},
                {"name": "frames", "each": {
                    "slices": {"chunk": "loose"}, "windows": [{"symbol": "K", "size": 3}]},
                 "collect": {"out": "video"}, "ops": [
                    {"op": "run", "graph": "frames", "inputs": {"frames": "chunk"},
                     "outputs": {"pixels": "out"}}]},
            ],
            "output": {"value": "video", "fps": 8}}},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    return make(tmp_path_factory.mktemp("trt") / "small")


@pytest.fixture(scope="module")
def built(fresh: Path) -> tuple[trt.Result, list[trt.Progress]]:
    seen: list[trt.Progress] = []
    return trt.build(fresh, progress=seen.append), seen  # type: ignore[func-returns-value]


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_profiles_are_static_buckets(fresh: Path) -> None:
    """One per number of guidance rows; one per size a chunk can have (4 frames in threes)."""
    found = plan.load(fresh)
    weights = [p["weights"] for p in trt_profiles.graph_profiles(found, "step")]
    frames = [p["frames"][0][0] for p in trt_profiles.graph_profiles(found, "frames")]
    assert weights == [((1,), (1,), (1,)), ((2,), (2,), (2,))]
    assert frames == [1, 3]


def test_a_build_holds_every_graph_in_half(built: tuple[trt.Result, list[trt.Progress]]) -> None:
    record = built[0].build.record
    assert sorted(record.graphs) == ["encoder", "frames", "step"]
    step = record.graphs["step"]
    assert step.float_type == "Half" and step.types["Half"] > step.types["Float"]
    assert {engine.precision for engine in record.graphs.values()} == {"fp16"}
    assert step.parameters > 1000 and step.nodes > 20 and step.peak_rss_bytes > 2**20
    assert step.decomposed_attention == ()
    assert all(built[0].build.engine(name) for name in record.graphs)
    assert built[0].build.folder.name == record.key and not built[0].cached


def test_progress_grows_to_one(built: tuple[trt.Result, list[trt.Progress]]) -> None:
    done = [p.done for p in built[1]]
    assert done == sorted(done) and done[-1] == 1.0 and len(set(done)) > 10
    assert {p.graph for p in built[1]} == {"encoder", "frames", "step"}


def test_report_has_a_line_per_graph(built: tuple[trt.Result, list[trt.Progress]]) -> None:
    lines = trt_report.table(built[0].build).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["graph", "encoder", "step", "frames"]
    assert "Half" in lines[2]


def test_a_second_build_does_nothing(
    built: tuple[trt.Result, list[trt.Progress]], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt.trt_child, "run", lambda *_: pytest.fail("compiled again"))
    again = trt.build(fresh)
    assert again.cached and again.build.record == built[0].build.record


def test_fewer_graphs_reuse_their_engines(
    built: tuple[trt.Result, list[trt.Progress]], fresh: Path, tmp_path: Path
) -> None:
    folder = copy(fresh, tmp_path)
    result = trt.build(folder, graphs=["encoder"])
    assert result.reused == ("encoder",) and result.compiled == ()
    assert result.build.folder.name != built[0].build.folder.name


@pytest.mark.usefixtures("built")
def test_changed_rewriting_is_another_build(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that types graphs differently must not find the old engines."""
    monkeypatch.setattr(trt, "RECIPE", ("precision",))
    result = trt.build(copy(fresh, tmp_path), graphs=["encoder"])
    assert result.compiled == ("encoder",)


@pytest.mark.usefixtures("built")
def test_changed_weights_are_another_build(fresh: Path, tmp_path: Path) -> None:
    """Only the changed graph is compiled; the old build does not fit the new plan."""
    folder = copy(fresh, tmp_path)
    data = folder / "graphs/step.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(errors.PlanError, match=r"graphs/step.onnx.data.*was changed"):
        trt.build(folder)
    write_plan(folder)
    with pytest.raises(errors.BuildMismatch, match=r"graph step was compiled from .*compile"):
        builds.choose(folder, wanted(folder))
    result = trt.build(folder)
    assert result.compiled == ("step",) and set(result.reused) == {"encoder", "frames"}
    assert builds.choose(folder, wanted(folder)).folder == result.build.folder


def wanted(folder: Path, **changes: Any) -> builds.Wanted:
    found, lib = plan.load(folder), trt_library.library()
    sources = {
        name: {n: found.files[n] for n in (graph.file, *graph.weights)}
        for name, graph in found.graphs.items()
    }
    precisions = {name: graph.precision for name, graph in found.graphs.items()}
    whole = builds.Wanted(sources, {lib.name: lib.version}, "8.9", precisions)
    return replace(whole, **changes)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"libraries": {"tensorrt_rtx": "0.1"}},
            "by tensorrt_rtx .* has tensorrt_rtx 0.1",
        ),
        ({"libraries": {}}, "this machine has no TensorRT"),
        ({"capability": "5.3"}, "compute capabilities 8.0.* GPU has 5.3"),
    ],
)
def test_a_foreign_build_is_refused(fresh: Path, changes: dict[str, Any], words: str) -> None:
    """Both sides and the command are in the message."""
    command = re.escape("`python export/build.py compile ")
    with pytest.raises(errors.BuildMismatch, match=f"{words}.*{command}"):
        builds.choose(fresh, wanted(fresh, **changes))


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", ["engine", "record", "moved", "missing"])
def test_a_tampered_build_is_refused(fresh: Path, tmp_path: Path, kind: str) -> None:
    folder = copy(fresh, tmp_path)
    (build,) = builds.find(folder)
    if kind == "engine":
        (build / "step.engine").write_bytes(b"\x00" + (build / "step.engine").read_bytes()[1:])
    elif kind == "record":
        text = (build / "build.json").read_text()
        (build / "build.json").write_text(text.replace('"8.9"', '"9.0"'))
    elif kind == "moved":
        build = build.rename(build.with_name("0123456789abcdef"))
    else:
        (build / "step.engine").unlink()
    with pytest.raises(errors.BuildMismatch, match=r"run `python export/build\.py compile"):
        builds.read(build).engine("step")
    assert not trt.build(folder).cached  # it is compiled again, over the broken one


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("after", [0.0, 0.5])
def test_cancel_leaves_nothing_behind(fresh: Path, tmp_path: Path, after: float) -> None:
    folder = copy(fresh, tmp_path)
    shutil.rmtree(folder / "builds")
    before = sorted(folder.rglob("*"))
    with pytest.raises(errors.Cancelled):
        trt.build(folder, progress=lambda p: p.done < after)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_without_a_kernel_is_decomposed(tmp_path: Path, heads: int) -> None:
    """Head size 8 has no fused kernel (tensorrt_rtx 1.7), nor has one head of a batch of one.

    Head size 16 of two heads has, see the first test of a build.
    """
    result = trt.build(make(tmp_path / "small", heads=heads), graphs=["step"])
    assert len(result.build.record.graphs["step"].decomposed_attention) == 1
    assert "step: no fused attention kernel for node_" in trt_report.table(result.build)


def test_float32_stays_float32(fresh: Path, tmp_path: Path) -> None:
    """A build asked for in fp32 is that of a graph that must be fp32: one key, one engine."""
    folder = copy(fresh, tmp_path)
    options = trt.Options(precision="fp32", keep_float32=("network.attention",))
    result = trt.build(folder, options, graphs=["step"])
    engine = result.build.record.graphs["step"]
    assert "Half" not in engine.types and engine.float_type == "Float"
    assert engine.precision == "fp32"
    mark(folder, step="fp32")
    again = trt.build(folder, replace(options, precision="fp16"), graphs=["step"])
    assert again.cached and again.build.record == result.build.record


def mark(folder: Path, **precisions: str) -> None:
    """States the precision of graphs in plan.json."""
    document = json.loads((folder / "plan.json").read_text())
    for name, precision in precisions.items():
        document["graphs"][name]["precision"] = precision
    (folder / "plan.json").write_text(json.dumps(document))


def engine_keys(build: builds.Build) -> dict[str, str]:
    return {name: build.engine_key(name) for name in build.record.graphs}


def test_a_marked_graph_stays_float32(
    built: tuple[trt.Result, list[trt.Progress]], fresh: Path, tmp_path: Path
) -> None:
    """In an fp16 build, where it alone has another key; the library itself reports the kernels."""
    folder = copy(fresh, tmp_path)
    unmarked = (folder / "plan.json").read_text()
    mark(folder, encoder="fp32")
    with pytest.raises(
        errors.BuildMismatch, match=r"encoder was compiled in fp16, plan\.json asks for fp32"
    ):
        builds.choose(folder, wanted(folder))
    result = trt.build(folder)
    assert result.compiled == ("encoder",) and set(result.reused) == {"step", "frames"}
    before, after = built[0].build.record.graphs, result.build.record.graphs
    assert before["encoder"].types["Half"] > 0 and "Half" not in after["encoder"].types
    assert after["encoder"].types["Float"] > 0 and after["step"].types["Half"] > 0
    assert [after[name].precision for name in ("encoder", "step", "frames")] == [
        "fp32", "fp16", "fp16"
    ]  # fmt: skip
    old, new = engine_keys(built[0].build), engine_keys(result.build)
    assert {name for name in old if old[name] != new[name]} == {"encoder"}
    assert builds.choose(folder, wanted(folder)).folder == result.build.folder
    (folder / "plan.json").write_text(unmarked)
    again = trt.build(folder)
    assert again.cached and again.build.folder.name == built[0].build.folder.name


def test_a_precision_edited_in_the_record_is_refused(
    built: tuple[trt.Result, list[trt.Progress]], fresh: Path, tmp_path: Path
) -> None:
    """An fp16 engine that is said to be fp32 must not pass for one."""
    build = copy(fresh, tmp_path) / "builds" / built[0].build.folder.name
    text = (build / builds.FILE).read_text()
    assert text.count('"precision": "fp16"') == 3
    (build / builds.FILE).write_text(text.replace('"precision": "fp16"', '"precision": "fp32"', 1))
    with pytest.raises(errors.BuildMismatch, match="it was edited or moved"):
        builds.read(build)


@pytest.mark.parametrize("tiny", ["text2video-zero", "lavie", "emu-video"], indirect=True)
def test_every_graph_of_a_system_becomes_an_engine(tiny: Any, tmp_path: Path) -> None:
    """For sizes other than the defaults; to run them takes a GPU.

    Make-a-Video's are made from its trained networks, in test_shapes.py.
    """
    found = plan.load(copy(tiny.folder, tmp_path))
    sized = {  # what is asked for, and a graph that is to take it
        "text2video-zero": (("frames=6", "height=64", "width=64"), "unet", (6, 4, 16, 16)),
        "lavie": (("frames=6", "height=64", "width=64"), "unet", (6, 4, 16, 16)),
        "emu-video": (("frames=24", "height=32", "width=32"), "video", (24, 8, 16, 16)),
    }
    sizes, graph, shape = sized[tiny.system]
    options = trt.Options(compute_capabilities=("8.6",), sizes=sizes)
    graphs = trt.build(found.folder, options).build.record.graphs
    assert set(graphs) == set(found.graphs)
    denoising = {op.graph for m in found.modes.values() for s in m.stages for op in s.ops
                 if isinstance(op, plan.Denoise)}  # fmt: skip
    for name in denoising:
        assert graphs[name].types["Half"] > graphs[name].types["Float"]
    for name, spec in found.graphs.items():
        assert graphs[name].precision == (spec.precision or "fp16")
        assert spec.precision is None or "Half" not in graphs[name].types
    assert shape in {p["x"][2] for p in graphs[graph].profiles}


def test_an_unknown_op_is_named(fresh: Path, tmp_path: Path) -> None:
    import onnx

    folder = copy(fresh, tmp_path)
    path = folder / "graphs/encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].domain, model.graph.node[0].op_type = "nowhere", "Riddle"
    model.graph.node[0].name = "the_riddle"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, path)
    write_plan(folder)
    with pytest.raises(errors.EngineError, match=r"graph encoder: .*the_riddle.*Riddle"):
        trt.build(folder, graphs=["encoder"])


@pytest.mark.parametrize(
    ("options", "graphs", "words"),
    [
        (trt.Options(precision="int8"), None, "'int8'; expected fp16 or fp32"),  # type: ignore[arg-type]
        (trt.Options(compute_capabilities=("5.3",)), None, "5.3"),
        (trt.Options(), ["decoder"], "decoder; small has encoder, step, frames"),
    ],
)
def test_wrong_options_are_refused(
    fresh: Path, options: trt.Options, graphs: list[str] | None, words: str
) -> None:
    with pytest.raises(errors.InputError, match=words):
        trt.build(fresh, options, graphs=graphs)


def test_options_reach_the_builder(fresh: Path, tmp_path: Path) -> None:
    """Workspace and level are in the key; a network path kept float32 shows in the engine."""
    options = trt.Options(
        workspace_mib=64, optimization_level=1, keep_float32=("network.attention",)
    )
    result = trt.build(copy(fresh, tmp_path), options, graphs=["step"])
    engine = result.build.record.graphs["step"]
    assert engine.decomposed_attention  # float32 has no fused attention
    assert result.build.record.options["workspace_mib"] == 64
