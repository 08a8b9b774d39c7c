"""Weights that engines can be given later: `pytest tests/export/test_trt_weights.py`.

Which weight of a graph is which parameter is compared with PyTorch; that TensorRT knows them by
these names, with a parsed network. To build such an engine takes a GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402

from edgereel import errors  # noqa: E402
from edgereel_export import precision, trt_layout, trt_weights  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.emu_layers import TimedTransformer  # noqa: E402
from edgereel_export.modules.sd_config import SDUNetConfig  # noqa: E402
from edgereel_export.modules.sd_layers import Batch  # noqa: E402
from edgereel_export.modules.sd_unet import SDUNet  # noqa: E402
from edgereel_export.modules.unet import UNet, UNetConfig  # noqa: E402

pytestmark = pytest.mark.torch

CONFIG = UNetConfig(3, 3, (16, 32), layers_per_block=1, attention=(False, True), cross_dim=24,
                    head_dim=16, groups=8)  # fmt: skip


class Emu(torch.nn.Module):
    """A transformer within and over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TimedTransformer(32, 8, 2, (24,), 8)

    def forward(self, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        batch = Batch(states.shape[0], x.shape[0] // states.shape[0])
        return self.transformer.timed(x, (states,), batch)


UNET_INPUTS = {"x": torch.ones(2, 3, 4, 8, 8), "t": torch.ones(2), "tokens": torch.ones(2, 6, 24),
               "bias": torch.zeros(2, 6)}  # fmt: skip
SD_CONFIG = SDUNetConfig(in_channels=4, block_out_channels=(16, 32), layers_per_block=1,
                         down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                         up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8,
                         attention_head_dim=2, cross_attention_dim=24)  # fmt: skip
SD_INPUTS = {"x": torch.ones(2, 3, 4, 8, 8), "t": torch.ones(2), "states": torch.ones(2, 6, 24)}
NETWORKS: dict[str, Any] = {
    "sd": (lambda: SDUNet(SD_CONFIG), SD_INPUTS),
    "unet": (lambda: UNet(CONFIG), UNET_INPUTS),
    "emu": (Emu, {"x": torch.ones(8, 32, 4, 4), "states": torch.ones(2, 6, 24)}),
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module, and the file of its graph."""
    make, inputs = NETWORKS[request.param]
    torch.manual_seed(0)
    module = make()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    export(Graph(module, inputs, ["y"]), "graph", folder)
    return module, folder / "graphs/graph.onnx"


def test_weights_are_the_parameters_they_are_named(network: Any) -> None:
    """Bytes in the file against PyTorch's, joined and transposed as said; linear layers are all."""
    module, path = network
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    known = trt_weights.stored(path)
    for one in known.values():
        parts = [state[part] for part in one.parts]
        expected = np.concatenate(parts)
        expected = expected.T if one.transposed else expected.reshape(one.shape)
        count = int(np.prod(one.shape))
        found = np.fromfile(path.parent / one.location, "<f4", count, offset=one.offset)
        np.testing.assert_array_equal(found.reshape(one.shape), expected)
    named = {part for one in known.values() for part in one.parts}
    linear = {f"{name}.weight" for name, layer in module.named_modules()
              if isinstance(layer, torch.nn.Linear)}  # fmt: skip
    small = {name for name in linear if state[name].nbytes < 1024}  # in the .onnx file itself
    assert linear - small <= named
    packed = {len(one.parts) for one in known.values()} - {1}
    assert packed == (set() if isinstance(module, SDUNet) else {3})


def prepared(path: Path, *, folded: bool) -> Any:
    model = precision.load(path)
    if not folded:
        trt_layout.unfold(model)
    precision.to_float16(model)
    return model


@pytest.mark.parametrize("folded", [False, True])
def test_conversions_keep_the_origin(network: Any, folded: bool) -> None:
    """What was typed, or reshaped for videos, holds the numbers it is said to come from."""
    _, path = network
    known = trt_weights.stored(path)
    model = prepared(path, folded=folded)
    found = trt_weights.replaceable(model, known, "graphs", ["*"])
    assert "float16" in {one.dtype for one in found.values()}
    for name, one in found.items():
        array = model.graph.initializers[name].const_value.numpy()
        count = int(np.prod(one.shape))
        stored = np.fromfile(path.parents[1] / one.file, "<f4", count, offset=one.offset)
        np.testing.assert_array_equal(array.ravel(), stored.astype(array.dtype))
    some = trt_weights.replaceable(model, known, "graphs", ["*to_k.weight"])
    assert some and all(any("to_k" in p for p in one.parts) for one in some.values())
    assert set(some) < set(found)


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
def test_the_library_knows_them_by_name(network: Any, tmp_path: Path) -> None:
    """A parsed network lets all of them be marked, under the names that build.json will have."""
    from edgereel.backends.trt_library import library
    from edgereel_export.trt_engine import _Building
    from edgereel_export.trt_job import Job

    _, path = network
    model = prepared(path, folded=False)
    wanted = trt_weights.replaceable(model, trt_weights.stored(path), "graphs", ["*"])
    typed = tmp_path / "typed.onnx"
    ir.save(model, typed, external_data="typed.data")
    inputs = {value.name: ((1,), (1,), (1,)) for value in model.graph.inputs}
    job = Job(
        graph="graph", source=str(path), target="", library=library().name, precision="fp16",
        denoise=False, profiles=(inputs,), outputs=("y",), compute_capabilities=("8.9",),
    )  # fmt: skip
    unknown = {"none": next(iter(wanted.values()))}
    building = _Building(library(), job, lambda *_: True, {**wanted, **unknown})
    building.parsed(typed)
    assert building.refit == wanted


def test_wrong_patterns_and_machines_are_refused(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgereel_export import trt_refit_check

    path = network[1]
    spec = SimpleNamespace(file="graph")
    plan: Any = SimpleNamespace(graphs={"graph": spec}, check_file=lambda name: path)
    monkeypatch.setattr(trt_refit_check, "device", lambda: None)
    check: Any = trt_refit_check.check
    with pytest.raises(
        errors.InputError, match=r"--refit-weights nothing\* names no weight; .*[.]weight"
    ):
        check("tensorrt_rtx 1.7", plan, ["graph"], ["*", "nothing*"])
    with pytest.raises(errors.BackendUnavailable, match=r"only where a CUDA GPU is.*Leave"):
        check("tensorrt_rtx 1.7", plan, ["graph"], ["*"])
    monkeypatch.setattr(trt_refit_check, "device", lambda: "a GPU")
    check("tensorrt_rtx 1.7", plan, ["graph"], ["*"])
