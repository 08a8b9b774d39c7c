"""A backend that runs graphs by the PyTorch modules they were, or would be, exported from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgereel import plan
from edgereel.backends.on_host import OnHost
from edgereel_export.graph import Graph

__all__ = ["TorchBackend", "TorchEngine", "not_exported"]


class TorchEngine:
    """A graph run by the module it was exported from."""

    sha256, precision = "", "as exported"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        given = [torch.from_numpy(np.array(inputs[name])) for name in self.graph.inputs]
        with torch.no_grad():
            made = self.graph.module.eval()(*given)
        made = made if isinstance(made, tuple) else (made,)
        for name, tensor in zip(self.graph.outputs, made, strict=True):
            assert tensor.shape == outputs[name].shape
            outputs[name][...] = tensor.numpy()


class TorchBackend(OnHost):
    """The interpreter's backend in PyTorch; all but the graphs is as on the CPU."""

    name = "torch"

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        self.graphs = graphs

    def load(self, path: Path, spec: plan.GraphSpec) -> Any:
        return TorchEngine(self.graphs[path.stem])

    def free_memory(self) -> int | None:
        return None

    def describe(self) -> dict[str, str]:
        return {}


def not_exported(graph: Graph, name: str, folder: Path, weights: object) -> plan.GraphSpec:
    """The plan's entry for a graph, in place of `export`; its file is empty."""
    with torch.no_grad():
        made = graph.module.eval()(*graph.inputs.values())
    made = made if isinstance(made, tuple) else (made,)
    file = folder / "graphs" / f"{name}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    sides = (graph.inputs, dict(zip(graph.outputs, made, strict=True)))
    inputs, outputs = (
        {key: _spec(value, graph.free.get(key, {})) for key, value in side.items()}
        for side in sides
    )
    return plan.GraphSpec(file=f"graphs/{name}.onnx", inputs=inputs, outputs=outputs)


def _spec(tensor: torch.Tensor, symbols: Mapping[int, str]) -> plan.TensorSpec:
    shape = tuple(symbols.get(axis, size) for axis, size in enumerate(tensor.shape))
    dtype: Any = str(tensor.dtype).removeprefix("torch.")
    return plan.TensorSpec(dtype=dtype, shape=shape)
