"""Programs are exported without a second trace where that changes nothing.

Alone: pytest tests/export/test_light_decomposition.py
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from edgereel_export import graph as graphs

pytestmark = pytest.mark.torch


class Sizes(nn.Module):
    """Sizes that are worked out: joined, split, halved, rounded up, of a slice, of a range."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor, cut: Tensor) -> Tensor:
        """x f32 [G, F, 3, h, w], cut u8 [N] -> f32 [G, F, S, 4]."""
        h = self.conv(x.flatten(0, 1))
        tokens = h.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
        tokens = tokens + tokens.mean(2, keepdim=True).expand(tokens.shape)
        place = torch.arange(tokens.shape[2])
        weight = cut.to(x.device, torch.float32).sum() * (
            (place > 1) & (place.to(torch.int) < x.shape[3] // 2)
        )
        return F.gelu(tokens * weight[:, None]).detach_()


class InPlace(nn.Module):
    """Changes what it made."""

    def forward(self, x: Tensor) -> Tensor:
        """f32 [N] -> f32 [N]."""
        y = x * 2
        y[:1].add_(x[:1])
        return y


class Unnamed(nn.Module):
    """Has an operator that ONNX has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        """f32 [N, M] -> f32 [M, N]."""
        return x.T


def exported(folder: Path, graph: graphs.Graph) -> Path:
    graphs.export(graph, "graph", folder)
    return folder / "graphs" / "graph.onnx"


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """The programs that were traced again."""
    found = []
    again = ExportedProgram.run_decompositions

    def spy(program: ExportedProgram, *table: object) -> ExportedProgram:
        found.append(program)
        return again(program, *table)  # type: ignore[arg-type]

    monkeypatch.setattr(ExportedProgram, "run_decompositions", spy)
    return found


def test_free_sizes_are_the_same_as_after_a_second_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traces: list[ExportedProgram]
) -> None:
    """The same operators but for sums of sizes; results at other sizes are PyTorch's."""
    free = {"x": {0: "G", 1: "F", 3: "h", 4: "w"}, "cut": {0: "N"}, "out": {0: "G", 1: "F", 2: "S"}}
    inputs = {"x": torch.randn(2, 3, 3, 10, 12), "cut": torch.arange(4, dtype=torch.uint8)}
    graph = graphs.Graph(Sizes(), inputs, ("out",), free)
    light = exported(tmp_path / "light", graph)
    assert not traces
    monkeypatch.setattr(graphs, "light_decomposition", contextlib.nullcontext)
    full = exported(tmp_path / "full", graph)
    assert len(traces) == 1
    counts = [Counter(n.op_type for n in onnx.load(path).graph.node) for path in (light, full)]
    sums = {"Add", "Div", "Mul", "Floor", "Cast"}
    assert {k: v for k, v in counts[0].items() if k not in sums} == {
        k: v for k, v in counts[1].items() if k not in sums
    }
    session = onnxruntime.InferenceSession(light, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 3, 8, 8), (3, 5, 3, 14, 6)):
        x, cut = torch.randn(shape), torch.arange(7, dtype=torch.uint8)
        (out,) = session.run(None, {"x": x.numpy(), "cut": cut.numpy()})
        with torch.no_grad():
            expected = graph.module(x, cut).numpy()
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)  # order of sums only


def test_what_is_changed_in_place_is_traced_again(
    tmp_path: Path, traces: list[ExportedProgram]
) -> None:
    graph = graphs.Graph(InPlace(), {"x": torch.randn(4)}, ("y",), {"x": {0: "N"}, "y": {0: "N"}})
    path = exported(tmp_path, graph)
    assert len(traces) == 1
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(out, [3, 4])


def test_what_has_no_word_in_onnx_is_traced_again(
    tmp_path: Path, traces: list[ExportedProgram]
) -> None:
    graph = graphs.Graph(
        Unnamed(), {"x": torch.randn(2, 3)}, ("y",), {"x": {0: "N"}, "y": {1: "N"}}
    )
    path = exported(tmp_path, graph)
    assert len(traces) == 1
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": np.ones((4, 3), np.float32)})
    assert out.shape == (3, 4)
