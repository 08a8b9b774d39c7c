"""Memory inside a graph against closed forms and ONNX Runtime: `pytest -k activations`."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from edgereel import kernel_library  # noqa: E402
from edgereel.plan import DType, TensorSpec  # noqa: E402
from edgereel_export.activations import activations  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402

pytestmark = pytest.mark.torch
Size = int | str


def peaks(
    path: Path,
    body: str,
    sizes: dict[str, Sequence[Size]],
    names: dict[str, str],
    example: dict[str, int],
) -> list[dict[str, float]]:
    """Of a graph in ONNX's own text, whose symbols `names` renames; `sizes` of its values."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{body}')
    for name, shape in sizes.items():
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        model.graph.value_info.append(info)
    onnx.save(model, path)
    specs = {}
    dtypes: dict[int, DType] = {1: "float32", 7: "int64"}
    for given in model.graph.input:
        axes = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
        shape = tuple(names.get(axis, axis) for axis in axes)
        dtype = dtypes[given.type.tensor_type.elem_type]
        specs[given.name] = TensorSpec(dtype=dtype, shape=shape)
    return list(activations(path, specs, example).plain)


def test_kernels_hold_no_scores(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(attend(q, q, q), q, q)

    example = {"q": torch.randn(2, 3, 50, 8)}
    free = {name: {0: "B", 2: "S"} for name in ("q", "out")}
    spec = export(Graph(Twice(), example, ("out",), free), "twice", tmp_path)
    assert spec.activations == ({"B*S": 3 * 8 * 4, "B*S*S": 3 * 4},)  # a result, scores
    assert spec.activations_kernels == ({"B*S": 4 * 3 * 8 * 4},)  # copies of q, k and v


def test_a_chain_holds_what_a_node_reads_and_writes(tmp_path: Path) -> None:
    body = """chain (float[s1, 8] x, float[8, 64] p, float[64, 96] q, float[96, 16] r)
        => (float[s1, 16] y)
    {
        a = MatMul(x, p)
        b = MatMul(a, q)
        c = Relu(b)
        y = MatMul(c, r)
    }"""
    sizes = {"a": ("s1", 64), "b": ("s1", 96), "c": ("s1", 96)}
    found = peaks(tmp_path / "g.onnx", body, sizes, {"s1": "K"}, {"K": 2})
    assert found == [{"K": 4 * (64 + 96)}]  # c is written over b; x and y are values of the plan


def test_a_value_lives_until_its_last_reader_and_views_are_free(tmp_path: Path) -> None:
    body = """branch (float[s1, 8] x, int64[2] shape) => (float[s1, 8] y)
    {
        a = Softsign(x)
        wide = Concat<axis = 1>(a, a, a)
        view = Reshape(wide, shape)
        d = Softsign(view)
        e = ReduceMean<keepdims = 1>(d)
        f = Add(a, e)
        y = Softsign(f)
    }"""
    flat = ("24*s1", 1)
    sizes = {"a": ("s1", 8), "wide": ("s1", 24), "view": flat, "d": flat, "e": (1, 1),
             "f": ("s1", 8)}  # fmt: skip
    found = peaks(tmp_path / "g.onnx", body, sizes, {"s1": "K"}, {"K": 2})
    assert found == [{"K": 4 * (8 + 24 + 24)}]  # a, wide (and its view) and d


@pytest.mark.parametrize("packed", [False, True])
def test_attention_holds_its_scores(tmp_path: Path, packed: bool) -> None:
    q, k = (
        ("[s1, 4, s2, 32]", "[s1, 4, 77, 32]") if not packed else ("[s1, s2, 128]", "[s1, 77, 128]")
    )
    attributes = "<q_num_heads = 4, kv_num_heads = 4>" if packed else ""
    body = f"""attend (float{q} x, float{k} k, float{k} v) => (float{q} y)
    {{
        a = Softsign(x)
        y = Attention{attributes}(a, k, v)
    }}"""
    shape = ("s1", "s2", 128) if packed else ("s1", 4, "s2", 32)
    names, example = {"s1": "G", "s2": "h"}, {"G": 2, "h": 16}
    found = peaks(tmp_path / "g.onnx", body, {"a": shape}, names, example)
    assert found == [{"G*h": 4 * (128 + 4 * 77)}]


def test_every_point_that_can_be_the_largest_and_division(tmp_path: Path) -> None:
    body = """two (float[s1, s1] x, float[s2] z) => (float[s1] y, float[s2] w)
    {
        a = Softsign(x)
        y = ReduceMean<keepdims = 0>(a)
        b = Softsign(z)
        w = Softsign(b)
    }"""
    sizes = {"a": ("(((s1 - 1)//2)) + 1", "s1"), "b": ("((s2*s1)//s1)",)}
    names, example = {"s1": "h", "s2": "F"}, {"h": 8, "F": 8}
    found = peaks(tmp_path / "g.onnx", body, sizes, names, example)
    assert sorted(found, key=str) == [{"F": 4.0}, {"h*h": 2.0}]


MEASURE = """
import sys, numpy as np
from edgereel import plan
from edgereel.backends.ort import Ort
def high():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if "VmHWM" in l)
spec = plan.GraphSpec(file="net.onnx", inputs={"x": plan.TensorSpec(dtype="float32",
    shape=("F", 32, "h", "w"))}, outputs={"y": plan.TensorSpec(dtype="float32",
    shape=("F", 32, "h", "w"))})
p = type("P", (), {"files": {"net.onnx": "0"}})()
engine = Ort(p, 1, kernels=sys.argv[5] == "True").load(sys.argv[1], spec)
x, y = (np.ones([int(sys.argv[2]), 32, int(sys.argv[3]), int(sys.argv[4])], "f") for _ in "xy")
open("/proc/self/clear_refs", "w").write("5")
before = high()
engine.run({"x": x}, {"y": y})
print(high() - before)
"""


class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A residual block and attention over all places of a picture, as UNets have them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(4, 32)
        self.up, self.down = torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.Conv2d(64, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.down(torch.nn.functional.silu(self.up(self.norm(x)))) + x
        h = h + torch.nn.functional.silu(self.norm(h * 0.5))
        q = h.flatten(2).transpose(1, 2).unsqueeze(1)
        seen = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        return h + seen.squeeze(1).transpose(1, 2).reshape(h.shape)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_onnx_runtime_takes_what_is_predicted(tmp_path: Path, kernels: bool) -> None:
    """Within 0.85 to 1.25: its own small buffers and what its arena wastes come on top."""
    if kernels and kernel_library.path() is None:
        pytest.skip("edgereel-kernels is not installed")
    free = {0: "F", 2: "h", 3: "w"}
    graph = Graph(Net(), {"x": torch.randn(2, 32, 6, 4)}, ("y",), {"x": free, "y": free})
    spec = export(graph, "net", tmp_path)
    assert {"F", "h", "w"} >= {s for t in spec.activations for n in t for s in n.split("*") if s}
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'runtime'}", "OMP_NUM_THREADS": "1"}
    # many small pictures, where convolutions take most, and one large, where attention does
    for sizes in ({"F": 96, "h": 32, "w": 32}, {"F": 1, "h": 96, "w": 80}):
        predicted = max(
            sum(f * math.prod(sizes[s] for s in n.split("*") if s) for n, f in terms.items())
            for terms in (spec.activations_kernels if kernels else spec.activations)
        )
        words = [str(tmp_path / spec.file), *map(str, sizes.values()), str(kernels)]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *words],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        assert 0.85 < int(done.stdout) / predicted < 1.25
