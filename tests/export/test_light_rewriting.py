"""The optimiser of exported graphs passes over nodes that a rule cannot begin with.

Alone: pytest tests/export/test_light_rewriting.py
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from onnxscript.rewriter._matcher import SimplePatternMatcher  # noqa: E402

from edgereel_export import graph as graphs  # noqa: E402

pytestmark = pytest.mark.torch


class Halves(torch.nn.Module):
    """Slices that onnxscript makes one Split of, beside others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f32 [F, 8] -> f32 [F, 4]."""
        return x[:, :4] * torch.sigmoid(x[:, 4:]) + x[:, 2:6]


def test_graphs_stay_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Byte for byte; the costly search begins at slices only, which its rule begins with."""
    tried: list[str] = []
    plain = SimplePatternMatcher.match

    def match(self: SimplePatternMatcher, model: object, graph: object, node: object, **o: object):  # type: ignore[no-untyped-def]
        if not self.pattern.has_single_output_node:
            tried.append(node.op_type)  # type: ignore[attr-defined]
        return plain(self, model, graph, node, **o)  # type: ignore[arg-type]

    monkeypatch.setattr(SimplePatternMatcher, "match", match)
    free = {"x": {0: "F"}, "y": {0: "F"}}
    files = []
    for name in ("light", "plain"):
        if name == "plain":
            monkeypatch.setattr(graphs, "light_rewriting", contextlib.nullcontext)
        graph = graphs.Graph(Halves(), {"x": torch.randn(3, 8)}, ("y",), free)
        files.append(tmp_path / name / graphs.export(graph, "net", tmp_path / name).file)
        kinds, tried = set(tried), []
        assert "Slice" in kinds
        assert (kinds == {"Slice"}) is (name == "light")
    assert files[0].read_bytes() == files[1].read_bytes()
