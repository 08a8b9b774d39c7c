"""float16 graphs against their float32 originals, in ONNX Runtime on the CPU.

Alone: pytest tests/export/test_precision.py
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402

from edgereel.errors import EngineError  # noqa: E402
from edgereel_export import precision, trt_prepare  # noqa: E402

pytestmark = pytest.mark.torch

C = 32
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(C)
        self.qkv, self.out = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return x + self.out(y.transpose(1, 2).reshape(b, n, c))


class Network(torch.nn.Module):
    """Sinusoids of t, a pseudo-3D convolution, norms, spatial and temporal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.space = torch.nn.Conv3d(3, C, (1, 3, 3), padding=(0, 1, 1))
        self.time = torch.nn.Conv3d(C, C, (3, 1, 1), padding=(1, 0, 0))
        self.norm = torch.nn.GroupNorm(8, C)
        self.embed = torch.nn.Sequential(
            torch.nn.Linear(C, C), torch.nn.SiLU(), torch.nn.Linear(C, C)
        )
        self.condition = torch.nn.Linear(8, C)
        self.spatial, self.temporal = Attention(), Attention()
        self.out = torch.nn.Conv3d(C, 3, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(torch.arange(C // 2) * (-math.log(10000) / (C // 2)))
        angles = t[:, None] * frequencies[None]
        e = self.embed(torch.cat([angles.cos(), angles.sin()], -1)) + self.condition(tokens)
        h = torch.nn.functional.silu(self.norm(self.time(self.space(x))))
        h = h + e[:, :, None, None, None]
        g, c, f, height, width = h.shape
        y = self.spatial(h.permute(0, 2, 3, 4, 1).reshape(g * f, height * width, c))
        y = y.reshape(g, f, height * width, c).transpose(1, 2).reshape(-1, f, c)
        y = self.temporal(y).reshape(g, height, width, f, c).permute(0, 4, 3, 1, 2)
        return self.out(h + y)


class Step(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(
        self, x: torch.Tensor, row: torch.Tensor, weights: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        g = weights.shape[0]
        out = self.network(x.expand(g, *x.shape[1:]), row[:1].expand(g), tokens)
        m = (out * weights.view(-1, 1, 1, 1, 1)).sum(0, keepdim=True)
        x0 = ((x - row[2] * m) / row[1]).clamp(-1, 1)
        return row[3] * x0 + row[4] * (x - row[1] * x0) / row[2], x0


def export(module: torch.nn.Module, path: Path, inputs: dict[str, Any], free: set[str]) -> Path:
    dim = torch.export.Dim("G", min=1, max=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what torch uses
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=23,
            verbose=False,
            input_names=list(inputs),
            dynamic_shapes=tuple({0: dim} if name in free else None for name in inputs),
        )
    program.save(str(path), external_data=True)
    return path


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(1, 3, 4, 8, 8),
        "row": torch.rand(16) + 0.1,
        "weights": torch.ones(2),
        "tokens": torch.randn(2, 8),
    }
    path = tmp_path_factory.mktemp("precision") / "step.onnx"
    return export(Step(), path, inputs, {"weights", "tokens"})


def rewritten(path: Path, to: Path, **options: Any) -> tuple[Any, precision.Typed]:
    """The float16 graph, checked by onnx, with its counts."""
    model = precision.load(path)
    typed = precision.to_float16(model, **options)
    ir.save(model, to, external_data=f"{to.name}.data")
    onnx.checker.check_model(str(to), full_check=True)
    return onnx.load(to), typed


def element_types(model: Any) -> dict[str, int]:
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    return types | {i.name: i.data_type for i in graph.initializer}


def inputs(groups: int, t: float = 777.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(groups)
    row = rng.uniform(0.2, 1, 16)
    row[0] = t
    feed = {
        "x": rng.normal(size=(1, 3, 4, 8, 8)),
        "row": row,
        "weights": np.linspace(-1, 2, groups) if groups > 1 else np.ones(1),
        "tokens": rng.normal(size=(groups, 8)),
    }
    return {name: array.astype(np.float32) for name, array in feed.items()}


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_step_agrees_with_float32(step: Path, tmp_path: Path, groups: int) -> None:
    """Within 1e-2 for values about 1: float16 has 3 digits, guidance multiplies the error."""
    half = tmp_path / "half.onnx"
    rewritten(step, half, denoise=True)
    feed = inputs(groups)
    for mine, reference in zip(
        ort.InferenceSession(half).run(None, feed),
        ort.InferenceSession(step).run(None, feed),
        strict=True,
    ):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, reference, atol=1e-2)
        assert np.abs(mine - reference).max() > 0  # it did compute in float16


def test_update_and_interfaces_stay_float32(step: Path, tmp_path: Path) -> None:
    model, _ = rewritten(step, tmp_path / "half.onnx", denoise=True)
    types = element_types(model)
    interface = [*model.graph.input, *model.graph.output]
    assert all(types[v.name] == FLOAT for v in interface)
    for node in model.graph.node:
        scopes = {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        if scopes and "network" not in scopes:
            assert all(types.get(name) != HALF for name in [*node.input, *node.output])


def test_islands(step: Path, tmp_path: Path) -> None:
    """Layer norms and the path from t to its sines are float32, of group norms only the sums."""
    model, typed = rewritten(step, tmp_path / "half.onnx", denoise=True)
    types = element_types(model)
    written = {
        op: {types[n.output[0]] for n in model.graph.node if n.op_type == op}
        for op in ("GroupNormalization", "LayerNormalization", "Sin", "Cos", "Attention", "Conv",
                   "Gemm", "MatMul")
    }  # fmt: skip
    for op in ("LayerNormalization", "Sin", "Cos"):
        assert written[op] == {FLOAT}, op
    for op in ("Attention", "Conv", "Gemm", "GroupNormalization", "MatMul"):
        assert written[op] == {HALF}, op
    told = [a for n in model.graph.node for a in n.attribute if a.name == "stash_type"]
    assert all(attribute.i == FLOAT for attribute in told)  # as it is where nothing is told
    made = {name: node for node in model.graph.node for name in node.output}
    angle = next(n for n in model.graph.node if n.op_type == "Sin").input[0]
    while angle in made:  # upstream to the row
        assert types[angle] == FLOAT
        angle = made[angle].input[0]
    assert typed.float16_nodes > typed.float32_nodes > 0 and typed.kept == {}


def test_keep_by_path_and_by_op(step: Path, tmp_path: Path) -> None:
    options = {"denoise": True, "keep": ("network.temporal", "Conv")}
    model, _ = rewritten(step, tmp_path / "half.onnx", **options)
    types = element_types(model)
    attention = [types[n.output[0]] for n in model.graph.node if n.op_type == "Attention"]
    convolutions = {types[n.output[0]] for n in model.graph.node if n.op_type == "Conv"}
    assert attention == [HALF, FLOAT] and convolutions == {FLOAT}


def test_a_denoise_graph_needs_its_network(tmp_path: Path) -> None:
    path = export(torch.nn.Linear(4, 4), tmp_path / "a.onnx", {"x": torch.randn(2, 4)}, {"x"})
    with pytest.raises(EngineError, match=r"self\.network"):
        precision.to_float16(precision.load(path), denoise=True)


class RootMeanSquare(torch.nn.Module):
    """T5's norm written out, fed with numbers whose squares float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x) * 1000.0
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Masked(torch.nn.Module):
    """Attention with a float mask of the most negative number."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = (1.0 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
        bias = bias.expand(-1, 1, 6, 6)  # ONNX Runtime does not broadcast the query axis
        q = x.view(x.shape[0], 1, 6, 16)
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=bias)


class Constants(torch.nn.Module):
    """Constants that float16 cannot hold: 1e5 is beyond it, 1e-7 below it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ torch.eye(8)
        return (x * 1e5).clamp(-3e5, 3e5) / (x.abs() * 0 + 1e5) + x / (x.abs() + 1e-7)


class Counting(torch.nn.Module):
    """Positions become floats past 2048, where float16 skips whole numbers."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.sin((ids + 3001).float() * 0.001) @ torch.eye(8)


@pytest.mark.parametrize(
    ("module", "feed"),
    [
        (RootMeanSquare(), {"x": torch.linspace(-2, 2, 16).view(2, 8)}),
        (Masked(), {"x": torch.linspace(-1, 1, 192).view(2, 6, 16),
                    "mask": torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])}),
        (Constants(), {"x": torch.linspace(0.1, 2, 16).view(2, 8)}),
        (Counting(), {"ids": torch.arange(16).view(2, 8)}),
    ],
)  # fmt: skip
def test_numbers_float16_cannot_hold(module: Any, feed: dict[str, Any], tmp_path: Path) -> None:
    """Within 1e-2 of float32 for results about 1; no overflow, no NaN."""
    path = export(module, tmp_path / "full.onnx", feed, set(feed))
    half = tmp_path / "half.onnx"
    rewritten(path, half)
    arrays = {name: tensor.numpy() for name, tensor in feed.items()}
    (mine,) = ort.InferenceSession(half).run(None, arrays)
    (reference,) = ort.InferenceSession(path).run(None, arrays)
    np.testing.assert_allclose(mine, reference, atol=1e-2)


def test_a_constant_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    path = export(Constants(), tmp_path / "full.onnx", {"x": torch.ones(2, 8)}, {"x"})
    _, typed = rewritten(path, tmp_path / "half.onnx")
    reasons = " ".join(typed.kept.values())
    assert "reaches 100000" in reasons and "1e-07, too small" in reasons


class Pixels(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)[:, 1:]


def test_a_graph_without_products_stays_float32(tmp_path: Path) -> None:
    """float16 would cost pixels their last level and save nothing."""
    path = export(Pixels(), tmp_path / "a.onnx", {"x": torch.randn(2, 3, 4, 4)}, {"x"})
    _, typed = rewritten(path, tmp_path / "b.onnx")
    assert (typed.float16_nodes, typed.casts) == (0, 0) and typed.float32_nodes > 3


def test_uint8_is_cast_last(tmp_path: Path) -> None:
    """The same pixels, with the cast at the end."""
    feed = {"x": torch.randn(2, 3, 4, 4)}
    path, moved = export(Pixels(), tmp_path / "a.onnx", feed, {"x"}), tmp_path / "b.onnx"
    model = precision.load(path)
    assert trt_prepare.prepare(model) == 1
    assert trt_prepare.prepare(model) == 0
    ir.save(model, moved)
    onnx.checker.check_model(str(moved), full_check=True)
    arrays = {"x": feed["x"].numpy()}
    (mine,) = ort.InferenceSession(moved).run(None, arrays)
    (reference,) = ort.InferenceSession(path).run(None, arrays)
    np.testing.assert_array_equal(mine, reference)
    assert [n.op_type for n in model.graph][-1] == "Cast"
