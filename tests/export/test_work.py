"""Arithmetic of a graph, counted in its file and by PyTorch: `pytest tests/export/test_work.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgereel.memory import evaluated  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.lavie_layers import FrameAttention  # noqa: E402
from edgereel_export.work import work  # noqa: E402

pytestmark = pytest.mark.torch


class Net(torch.nn.Module):
    """One of each operator that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 16, 3, stride=2, padding=1, groups=2)
        self.up = torch.nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.line = torch.nn.Linear(8, 24)
        self.frames = FrameAttention(24, 3)

    def forward(self, x: Any, text: Any) -> Any:
        h = self.up(self.conv(x))
        tokens = self.line(h.flatten(2).transpose(1, 2))  # [F, h*w, 24]
        tokens = tokens + self.frames(tokens[None])[0]
        heads = tokens.unflatten(2, (3, 8)).transpose(1, 2)
        states = text.unflatten(2, (3, 8)).transpose(1, 2).expand(heads.shape[0], -1, -1, -1)
        return F.scaled_dot_product_attention(heads, states, states) @ states.transpose(2, 3)


@pytest.mark.parametrize("size", [(2, 4, 6), (5, 8, 4)])
def test_flops_are_those_that_torch_counts(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Of sizes other than the example's too; equal, as both count the same operators."""
    net = Net().eval()
    inputs = {"x": torch.randn(2, 4, 4, 6), "text": torch.randn(1, 7, 24)}
    free = {"x": {0: "F", 2: "h", 3: "w"}, "y": {0: "F"}}
    spec = export(Graph(net, inputs, ("y",), free), "net", tmp_path)
    found = work(tmp_path / spec.file, spec.inputs)
    frames, height, width = size
    given = torch.randn(frames, 4, height, width)
    # attention as two products: torch does not count its kernel for CPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net(given, inputs["text"])
    sizes = {"F": frames, "h": height, "w": width}
    assert evaluated(found.flops, sizes) == counter.get_total_flops()
    assert found.flops == spec.flops and found.traffic == spec.traffic


def test_traffic_is_what_is_read_and_written(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 8, 3, padding=1).eval()
    free = {0: "F", 2: "h", 3: "w"}
    graph = Graph(net, {"x": torch.randn(2, 3, 4, 6)}, ("y",), {"x": free, "y": free})
    spec = export(graph, "net", tmp_path)
    weights = 4 * (8 * 3 * 9 + 8)
    assert spec.traffic == {"": weights, "F*h*w": 4 * (3 + 8)}
    assert spec.flops == {"F*h*w": 2 * 8 * 27}
