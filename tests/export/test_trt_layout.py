"""Graphs whose videos stay videos against the graphs as exported, in ONNX Runtime and TensorRT.

Alone: pytest tests/export/test_trt_layout.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402

from edgereel.plan import load  # noqa: E402
from edgereel_export import precision, trt_layout  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules import lavie_vsr  # noqa: E402
from edgereel_export.modules.layers import TemporalConv  # noqa: E402
from edgereel_export.modules.sd_layers import Batch  # noqa: E402
from edgereel_export.modules.unet import UNet, UNetConfig  # noqa: E402
from edgereel_export.trt_axes import FOLDED, after, before  # noqa: E402

pytestmark = pytest.mark.torch

C = 32
CLOSE = 1e-5  # float32, sums in another order


class Chain(torch.nn.Module):
    """x + temporal k3 of 3x3 of SiLU of a group norm of each frame, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(8, C) for _ in range(2))
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(C, C, 3, padding=1) for _ in range(2))
        self.times = torch.nn.ModuleList(TemporalConv(C) for _ in range(2))
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.shape[2]
        h = x.transpose(1, 2).flatten(0, 1)
        for norm, conv, time in zip(self.norms, self.convs, self.times, strict=True):
            h = h + time(conv(torch.nn.functional.silu(norm(h))), frames)
        return h.reshape(-1, frames, *h.shape[1:]).transpose(1, 2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chain")
    free = {0: "B", 2: "F", 3: "H", 4: "W"}
    inputs = {"x": torch.randn(2, C, 4, 6, 8)}
    export(Graph(Chain(), inputs, ["y"], {"x": free, "y": free}), "chain", folder)
    return folder / "graphs/chain.onnx"


def unfolded(path: Path, to: Path) -> tuple[Any, int]:
    """The graph with videos, checked by onnx, and its number of convolutions on videos."""
    model = precision.load(path)
    count = trt_layout.unfold(model)
    ir.save(model, to, external_data=f"{to.name}.data")
    onnx.checker.check_model(str(to), full_check=True)
    return onnx.load(to), count


def outputs(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = ort.InferenceSession(path).run(None, feeds)
    return found


def agree(path: Path, moved: Path, feeds: dict[str, np.ndarray]) -> None:
    for mine, reference in zip(outputs(moved, feeds), outputs(path, feeds), strict=True):
        scale = max(1.0, float(np.abs(reference).max()))
        np.testing.assert_allclose(mine, reference, atol=CLOSE * scale)


@pytest.mark.parametrize("shape", [(1, C, 5, 4, 4), (2, C, 3, 8, 6), (3, C, 1, 2, 2)])
def test_a_chain_stays_a_video(chain: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Of any size: convolutions all have three axes, and nothing is folded but at the norms."""
    moved = tmp_path / "moved.onnx"
    model, count = unfolded(chain, moved)
    kernels = [a.ints for n in model.graph.node for a in n.attribute if a.name == "kernel_shape"]
    assert count == 4 and sorted(map(tuple, kernels)) == [(1, 3, 3)] * 2 + [(3, 1, 1)] * 2
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    agree(chain, moved, feeds)


def test_a_flat_frame_has_no_variance(chain: Path, tmp_path: Path) -> None:
    """A picture of one large number: the norm of it is its bias, to the last bit of float32."""
    moved = tmp_path / "moved.onnx"
    unfolded(chain, moved)
    feeds = {"x": np.full((1, C, 2, 4, 4), 1e3, np.float32)}
    agree(chain, moved, feeds)


def test_a_whole_network_with_attention(tmp_path: Path) -> None:
    """Resampling, skip connections, scale and shift, attention within and over frames."""
    torch.manual_seed(0)
    config = UNetConfig(3, 3, (16, 32), layers_per_block=1, attention=(False, True), cross_dim=8,
                        head_dim=16, groups=8)  # fmt: skip
    network = UNet(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    inputs = {"x": torch.randn(2, 3, 4, 8, 8), "t": torch.tensor([5.0, 900.0]),
              "tokens": torch.randn(2, 6, 8), "bias": torch.zeros(2, 6)}  # fmt: skip
    free = {name: {0: "B"} for name in [*inputs, "y"]}
    export(Graph(network, inputs, ["y"], free), "unet", tmp_path)
    moved = tmp_path / "moved.onnx"
    path = tmp_path / "graphs/unet.onnx"
    model, count = unfolded(path, moved)
    shapes = [a.ints for n in model.graph.node if n.op_type == "Conv"
              for a in n.attribute if a.name == "kernel_shape"]  # fmt: skip
    assert count == len(shapes) and all(len(shape) == 3 for shape in shapes)
    agree(path, moved, {name: tensor.numpy() for name, tensor in inputs.items()})


TEMPORAL = {  # graphs with convolutions over frames
    "make-a-video": ("decoder", "interpolation", "super_res_low"),
    "emu-video": ("video", "interpolation", "extension"),
    "lavie": ("upscaling",),
    "text2video-zero": (),
}


@pytest.mark.slow
def test_graphs_of_systems(tiny: Any, tmp_path: Path) -> None:
    """Those with convolutions over frames are unfolded and agree on their golden inputs."""
    plan = load(tiny.folder)
    for name, spec in plan.graphs.items():
        moved = tmp_path / f"{name}.onnx"
        model, count = unfolded(tiny.folder / spec.file, moved)
        assert (count > 0) == (name in TEMPORAL[tiny.system]), name
        if count and spec.golden:
            convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
            windows = [
                a.ints for n in convolutions for a in n.attribute if a.name == "kernel_shape"
            ]
            assert all(len(window) == 3 for window in windows)
            with np.load(tiny.folder / spec.golden) as golden:
                feeds = {key[3:]: golden[key] for key in golden.files if key.startswith("in.")}
            agree(tiny.folder / spec.file, moved, feeds)


def test_images_are_left_alone(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.GroupNorm(2, 8))
    export(Graph(module, {"x": torch.randn(2, 4, 8, 8)}, ["y"]), "image", tmp_path)
    model = precision.load(tmp_path / "graphs/image.onnx")
    before = [node.op_type for node in model.graph]
    assert trt_layout.unfold(model) == 0 and [node.op_type for node in model.graph] == before


SIZES = {"b": 2, "c": 8, "f": "F", "h": 4, "w": "W"}


def reshape(shape: list[int | str], to: list[int | str]) -> ir.Node:
    node = ir.node("Reshape", [ir.Value(shape=ir.Shape(shape))])
    node.outputs[0].shape = ir.Shape(to)
    return node


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ([2, "F", 8, "S"], ("b", "f", "c", "hw")),
        (["N", 8, "S"], ("bf", "c", "hw")),
        ([2, "F", 8, 4, "W"], ("b", "f", "c", "h", "w")),
        (["N", 8, 5, "W"], None),
        ([2, "E", 8, "S"], None),
        (["N", "S"], None),
    ],
)
def test_axes_of_a_reshape(shape: list[int | str], groups: Any) -> None:
    """Only what can be told: several ways to merge axes, or none, are no answer."""
    node = reshape(["N", 8, 4, "W"], shape)
    assert after(FOLDED, node, SIZES) == groups
    if groups is not None:
        assert before(groups, node, SIZES) == FOLDED


class Joint(torch.nn.Module):
    """What looks along frames in LaVie's super-resolution: its norms take all frames together."""

    def __init__(self) -> None:
        super().__init__()
        self.module = lavie_vsr._TemporalModule(128, 16, 32)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        batch = Batch(*x.shape[:2])
        return batch.split(self.module(x.flatten(0, 1), temb, batch))


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("joint")
    free = {0: "B", 1: "F", 3: "H", 4: "W"}
    inputs = {"x": torch.randn(2, 4, 128, 6, 8), "temb": torch.randn(2, 16)}
    graph = Graph(Joint(), inputs, ["y"], {"x": free, "temb": {0: "B"}, "y": free})
    export(graph, "joint", folder)
    return folder / "graphs/joint.onnx"


def test_norms_of_all_frames(joint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.onnx"
    model, count = unfolded(joint, moved)
    assert count == 5  # two over frames, two within them, one of 1x1
    norms = [node for node in model.graph.node if node.op_type == "GroupNormalization"]
    assert len(norms) == 4
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(1, 5, 128, 4, 6)), "temb": rng.normal(size=(1, 16))}
    agree(joint, moved, {name: array.astype(np.float32) for name, array in feeds.items()})


SIZES_OF = {
    "chain": ({"x": (2, C, 8, 16, 16)}, 4),
    "joint": ({"x": (2, 8, 128, 16, 16), "temb": (2, 16)}, 5),
}


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
@pytest.mark.parametrize("name", list(SIZES_OF))
def test_no_kernel_of_pure_layout_between_convolutions(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As the library lists the kernels of the engines; folded there are some."""
    from edgereel.backends.trt_library import library
    from edgereel_export.trt_engine import compile_logged
    from edgereel_export.trt_job import Job
    from edgereel_export.trt_kernels import kernels, layout_between, traffic_bytes

    shapes, convolutions = SIZES_OF[name]
    found = {}
    for folded in (False, True):
        job = Job(
            graph=name, source=str(request.getfixturevalue(name)),
            target=str(tmp_path / "engine"), library=library().name, precision="fp16",
            denoise=False, profiles=({key: (s, s, s) for key, s in shapes.items()},),
            outputs=("y",), compute_capabilities=("8.9",), folded=folded,
        )  # fmt: skip
        found[folded] = kernels(compile_logged(job, lambda *_: True)[1].layers)
        assert sum(kernel.convolves for kernel in found[folded]) == convolutions
    assert layout_between(found[False]) == [] and layout_between(found[True])
    assert traffic_bytes(found[False]) < 0.9 * traffic_bytes(found[True])
    assert not [kernel for kernel in found[False] if kernel.only_layout]
