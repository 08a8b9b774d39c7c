"""Every system's tiny cascade: exported, then held to its PyTorch modules graph by graph and whole.

Alone: pytest tests/export/test_systems.py -k make-a-video
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.external_data_helper import ExternalDataInfo, uses_external_data  # noqa: E402
from torch import nn  # noqa: E402
from torch_backend import TorchBackend  # noqa: E402

import edgereel  # noqa: E402
from edgereel import backends, checks, plan  # noqa: E402
from edgereel.errors import EngineError, InputError  # noqa: E402
from edgereel.interpreter import Interpreter  # noqa: E402
from edgereel.params import fill_params  # noqa: E402
from edgereel_export import graph as graphs  # noqa: E402
from edgereel_export.chosen import choose  # noqa: E402
from edgereel_export.exact_group_norm import exact_group_norm  # noqa: E402
from edgereel_export.folder import write_folder  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.systems import SYSTEMS, system  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TOLERANCE = 1e-4  # max abs of ONNX Runtime against PyTorch, float32


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown system 'nothing'; expected one of .*shapes"):
        system("nothing")


def test_the_folder_is_a_whole_cascade(tiny: Any) -> None:
    document = plan.load(tiny.folder)
    files = {p.relative_to(tiny.folder).as_posix() for p in tiny.folder.rglob("*") if p.is_file()}
    assert files == {"plan.json", *document.files}
    for rel in document.files:
        document.check_file(rel)
    assert document.system in SYSTEMS
    assert document.graphs.keys() == tiny.cascade.graphs().keys()
    assert all(spec.golden for spec in document.graphs.values())
    assert plan.encode(document) == (tiny.folder / "plan.json").read_bytes()


def test_every_mode_uses_only_and_all_graphs(tiny: Any) -> None:
    document = plan.load(tiny.folder)
    used = {
        op.graph
        for mode in document.modes.values()
        for stage in mode.stages
        for op in stage.ops
        if isinstance(op, plan.Run | plan.Denoise)
    }
    assert used == document.graphs.keys()


def test_no_weight_is_stored_twice(tiny: Any) -> None:
    """Small tensors stay in the graphs; the others have one place in one file each."""
    places: dict[bytes, set[tuple[str, int]]] = {}
    files = set()
    for path in (tiny.folder / "graphs").glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        for tensor in filter(uses_external_data, model.graph.initializer):
            info = ExternalDataInfo(tensor)
            with (path.parent / info.location).open("rb") as file:
                file.seek(info.offset)
                data = file.read(info.length)
            assert len(data) == info.length > 0
            places.setdefault(data, set()).add((info.location, info.offset))
            files.add(info.location)
    assert all(len(place) == 1 for place in places.values())
    assert files == {path.name for path in (tiny.folder / "graphs").glob("*.data")}
    stored = sum((tiny.folder / "graphs" / name).stat().st_size for name in files)
    assert stored < 1.2 * sum(map(len, places)) + 1000 * len(places)


def test_only_the_modes_that_are_wanted(
    tiny_emu_video: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade, whole = tiny_emu_video.cascade, tiny_emu_video.folder

    def exported_before(_: Graph, name: str, folder: Path, weights: object) -> plan.GraphSpec:
        spec = plan.load(whole).graphs[name]
        for file in (spec.file, *spec.weights, str(spec.golden)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / file, folder / file)
        return spec

    monkeypatch.setattr("edgereel_export.folder.export", exported_before)
    modes = choose(cascade.modes(), ["image"], {"steps": 2, "image_guidance": 5.0})
    assert modes["image"].params["steps"].default == 2  # the other is a parameter of other modes
    assert choose(cascade.modes(), ["image"], {"of_a_mode_not_read": 1}).keys() == {"image"}
    written = write_folder(cascade, tmp_path / "c", name="c", system="s", modes=modes)
    assert list(written.modes) == ["image"]
    assert sorted(written.graphs) == ["decode", "image", "text_encoder", "text_encoder_2"]
    assert edgereel.load(tmp_path / "c", backend="ort")("a").frames.shape[0] == 1


@pytest.mark.parametrize(
    ("wanted", "defaults", "told"),
    [
        (
            ["image", "film"],
            {},
            "--mode film: this checkpoint has no such mode; expected one of vi",
        ),
        ([], {"masks": "a"}, "defaults.json names 'masks', which no mode has; expected some of"),
        ([], {"steps": 0}, "checkpoint: steps in defaults.json is 0; expected a whole number"),
        ([], {"height": 65}, "height in defaults.json is 65; expected a multiple of"),
        ([], {"guidance": "7"}, "guidance in defaults.json is '7'; expected a number"),
    ],
)
def test_wrong_choices_are_refused(
    tiny_text2video_zero: Any, wanted: list[str], defaults: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        choose(tiny_text2video_zero.cascade.modes(), wanted, defaults)


def test_golden_vectors_pass(tiny: Any) -> None:
    document = plan.load(tiny.folder)
    backend, _ = backends.choose("ort", document, threads=1)
    results = list(checks.graphs(document, backend))
    assert len(results) == len(document.graphs)
    for result in results:
        assert result.ok and result.finite, result
        levels = document.graphs[result.graph].outputs[result.output].dtype == "uint8"
        assert result.max_abs <= (1 if levels else TOLERANCE), result


def resized(graph: Graph, symbol: str, size: int) -> dict[str, Any]:
    """The example inputs with another size of a free axis, their rows all different."""
    generator = torch.Generator().manual_seed(size)
    inputs = {}
    for name, tensor in graph.inputs.items():
        for axis, own in graph.free.get(name, {}).items():
            if own == symbol:
                tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
                if tensor.is_floating_point() and name not in ("mask", "bias"):
                    tensor = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        inputs[name] = tensor
    return inputs


SIZES = {  # of axes that take not every number
    ("some_given", "F"): (8, 16, 24),
    ("joined", "A"): (37, 74, 111),
    ("joined_seamless", "A"): (37, 74, 111),
    ("encode_past", "F"): (16, 17, 20),
}


def test_free_axes_are_free(tiny: Any) -> None:
    """Guidance rows and chunks: graphs agree with PyTorch at sizes they were not traced at."""
    document, checked = plan.load(tiny.folder), 0
    for name, graph in tiny.cascade.graphs().items():
        symbols = {symbol for axes in graph.free.values() for symbol in axes.values()}
        symbols -= {"h", "w", "H", "W"}  # cannot change alone; the tests of their systems do it
        path = tiny.folder / document.graphs[name].file
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for symbol, size in itertools.chain.from_iterable(
            itertools.product([symbol], SIZES.get((name, symbol), (1, 2, 3)))
            for symbol in sorted(symbols)
        ):
            inputs = resized(graph, symbol, size)
            with torch.no_grad(), exact_group_norm():
                expected = graph.module(*inputs.values())
            expected = expected if isinstance(expected, tuple) else (expected,)
            feeds = {key: value.numpy() for key, value in inputs.items()}
            got = session.run(list(graph.outputs), feeds)
            for output, ours, wanted in zip(graph.outputs, got, expected, strict=True):
                error = np.abs(ours.astype(float) - wanted.numpy().astype(float)).max()
                limit = 1 if ours.dtype == np.uint8 else TOLERANCE
                assert error <= limit, (name, output, symbol, size)
                checked += 1
    assert checked


def test_videos_equal_the_modules(tiny: Any) -> None:
    document = plan.load(tiny.folder)
    cascade = edgereel.load(tiny.folder, backend="ort", threads=1)
    modules = Interpreter(document, TorchBackend(tiny.cascade.graphs()))
    for mode_name, mode in document.modes.items():
        given = {
            name: np.random.default_rng(0).integers(
                0, 256, (1 if param.frames == 1 else 16, 32, 32, 3), np.uint8
            )
            for name, param in mode.params.items()
            if isinstance(param, plan.VideoParam)
        }
        video = cascade("a red circle", mode=mode_name, seed=5, **given)
        values = fill_params(mode, {"prompt": "a red circle", "seed": 5, **given})
        with exact_group_norm():
            expected = modules.run(
                mode, values, noise={}, callback=lambda _: None, cancelled=Event()
            ).frames
        assert video.frames.shape == expected.shape and video.frames.dtype == np.uint8
        assert np.abs(video.frames.astype(int) - expected.astype(int)).max() <= 1
        assert video.frames.std() > 1  # a picture, not one colour


def test_same_seed_same_video_other_seed_other_video(tiny: Any) -> None:
    cascade = edgereel.load(tiny.folder, backend="ort", threads=1)
    first, second, other = (cascade("a", seed=seed).frames for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


# What the exporter refuses


class Fickle(nn.Module):
    """Adds something else at every call, so that its graph never agrees with it."""

    def __init__(self, start: float, step: float) -> None:
        super().__init__()
        self.value, self.step = start, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.value += self.step
        return x + self.value


@pytest.mark.parametrize("step", [1.0, 3 * TOLERANCE, float("nan")])
def test_a_graph_that_differs_from_pytorch_is_refused(tmp_path: Path, step: float) -> None:
    graph = Graph(Fickle(0.0, step), {"x": torch.rand(2, 3)}, ("y",))
    with pytest.raises(EngineError, match=r"graph 'wrong': output 'y' on ONNX Runtime differs"):
        export(graph, "wrong", tmp_path)


def test_a_graph_within_rounding_is_accepted(tmp_path: Path) -> None:
    graph = Graph(Fickle(0.0, TOLERANCE / 100), {"x": torch.rand(2, 3)}, ("y",))
    spec = export(graph, "right", tmp_path)
    assert spec.outputs["y"].shape == (2, 3)
    assert (tmp_path / spec.file).is_file()
    assert spec.golden is not None and (tmp_path / spec.golden).is_file()


def test_tolerance_of_the_exporter() -> None:
    assert graphs.TOLERANCE == TOLERANCE
