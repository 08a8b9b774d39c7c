"""Group norm in exported graphs: right for flat pictures too, and TensorRT's own op again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402

from edgereel_export import precision  # noqa: E402
from edgereel_export.exact_group_norm import exact_group_norm  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402

pytestmark = pytest.mark.torch
GROUPS, CHANNELS = 4, 16


@pytest.fixture(scope="module")
def norm() -> torch.nn.GroupNorm:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(GROUPS, CHANNELS, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm.eval().requires_grad_(False)


@pytest.fixture(
    scope="module", params=[(2, CHANNELS, 8, 12), (2, CHANNELS, 3, 4, 6), (3, CHANNELS)]
)
def exported(request: pytest.FixtureRequest, norm: torch.nn.GroupNorm, tmp_path_factory):  # type: ignore[no-untyped-def]
    """The path of a graph of one group norm of pictures, clips or vectors, and its shape."""
    folder, shape = tmp_path_factory.mktemp("norm"), request.param
    free = {"x": {0: "N"}, "y": {0: "N"}}
    export(Graph(norm, {"x": torch.randn(shape)}, ("y",), free), "norm", folder)
    return folder / "graphs" / "norm.onnx", shape


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 0.0])
def test_flat_pictures_have_a_norm(exported, norm: torch.nn.GroupNorm, spread: float) -> None:  # type: ignore[no-untyped-def]
    """Values of 5 +- spread, against float64; eps 1e-6.

    A rounding error of x, 5 * 2^-24, is multiplied by the weight / sqrt(spread^2 + eps); ten are
    allowed. mean(x^2) - mean(x)^2 would be off by 25 * 2^-24: for a spread of 1e-4 more than the
    variance itself, and not a number where that makes it less than zero.
    """
    path, shape = exported
    rng = np.random.default_rng(0)
    x = (5 + spread * rng.standard_normal((4, *shape[1:]))).astype(np.float32)
    with torch.no_grad():
        expected = norm.double()(torch.from_numpy(x).double()).numpy()
        norm.float()
    factor = float(norm.weight.abs().max()) / np.sqrt(spread**2 + 1e-6)
    limit = 10 * 5 * 2.0**-24 * factor + 2e-6
    assert np.abs(run(path, x) - expected).max() < limit


def test_the_reference_is_exact_for_flat_pictures(norm: torch.nn.GroupNorm) -> None:
    """Values of 5 +- 1e-4 against float64 throughout; only the result is rounded to float32."""
    x = 5 + 1e-4 * torch.randn(2, CHANNELS, 32, 32, generator=torch.Generator().manual_seed(0))
    with exact_group_norm():
        found = norm(x)
    expected = norm.double()(x.double()).float()
    norm.float()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_tensorrt_is_given_the_standard_op(exported) -> None:  # type: ignore[no-untyped-def]
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(n.domain, n.op_type) for n in model.graph.node] == [("edgereel", "GroupNorm")]
    (node,) = precision.load(path).graph
    assert (node.domain, node.op_type) == ("", "GroupNormalization")
    assert node.attributes["num_groups"].as_int() == GROUPS
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-6)
