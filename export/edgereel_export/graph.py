"""PyTorch modules to ONNX files with reference vectors, each checked against PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgereel.errors import EngineError, InputError
from edgereel.plan import DType, GraphSpec, TensorSpec

from . import drawn_weights, group_norm, plain_attention
from .activations import activations
from .exact_group_norm import exact_group_norm
from .light_decomposition import light_decomposition
from .light_rewriting import light_rewriting
from .shared_weights import SharedWeights
from .temporal_attention import define
from .work import work

__all__ = ["OPSET", "TOLERANCE", "Graph", "export", "fitting"]

OPSET = 23  # the first with the Attention op
TOLERANCE = 1e-4  # max abs difference of ONNX Runtime and PyTorch in float32


@dataclass(frozen=True)
class Graph:
    """A module, example inputs by name, output names, and names of the free axes.

    `free` maps an input to {axis: symbol}; the example decides all other sizes. An output axis of
    the size a free symbol has in the example is free too when `free` names the output. `precision`
    is for a graph whose values half precision cannot hold.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    free: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    precision: Literal["fp32"] | None = None


def export(
    graph: Graph, name: str, folder: Path, weights: SharedWeights | None = None
) -> GraphSpec:
    """The plan's entry for `graph`, written as graphs/<name>.onnx with golden/<name>.npz.

    A graph with drawn weights gets no reference vectors and is not checked: it need not fit into
    memory.

    Args:
        graph: what to export.
        name: file stem.
        folder: the cascade folder being written.
        weights: what earlier graphs of the folder stored; None = it is the only one.

    Raises:
        InputError: PyTorch cannot compute the module, as its parts do not fit together.
        EngineError: ONNX Runtime's outputs differ from PyTorch's by more than TOLERANCE.
    """
    module = graph.module.eval()
    drawn = drawn_weights.has_drawn_weights(module)
    inputs = tuple(x.to("meta") if drawn else x for x in graph.inputs.values())
    with torch.no_grad(), fitting(f"graph {name!r}"), exact_group_norm():
        out = module(*inputs)
    outputs = dict(zip(graph.outputs, out if isinstance(out, tuple) else (out,), strict=True))
    path = folder / "graphs" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    # to look up sizes that are free takes longer than to work them out again
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with _quiet(), torch.no_grad(), uncached, light_rewriting():
        try:
            with light_decomposition():
                program = _traced(graph, inputs, optimize=not drawn)
        except torch.onnx.OnnxExporterError:  # there is an operator that it leaves as it is
            program = _traced(graph, inputs, optimize=not drawn)
        if drawn:
            drawn_weights.take_from(program.model)  # or folding would hold a copy of most
            program.optimize()
            drawn_weights.put_into(program.model, module)
        group_norm.as_function(program.model)
        plain_attention.as_function(program.model)
        define(program.model)
        program.save(path, external_data=True)
    files = (weights or SharedWeights()).share(path)
    if not drawn:
        _write_golden(folder / "golden" / f"{name}.npz", graph.inputs, outputs)
        _check(path, name, graph.inputs, outputs)
    specs = _specs(graph, graph.inputs)
    inside = activations(path, specs, _example(graph))
    return GraphSpec(
        file=f"graphs/{name}.onnx",
        inputs=specs,
        outputs=_specs(graph, outputs),
        weights=tuple(f"graphs/{file}" for file in files),
        golden=None if drawn else f"golden/{name}.npz",
        precision=graph.precision,
        activations=inside.plain,
        activations_kernels=inside.kernels,
        **work(path, specs)._asdict(),
    )


def _traced(graph: Graph, inputs: tuple[Tensor, ...], *, optimize: bool) -> torch.onnx.ONNXProgram:
    """The graph's module as torch.onnx writes it; `optimize` reads weights."""
    program = torch.onnx.export(
        graph.module,
        inputs,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=_dynamic(graph),
        verbose=False,
        optimize=optimize,
    )
    assert program is not None
    return program


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Says of `what` that its sizes do not fit, where torch would raise from deep inside."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"{what} cannot be computed ({' '.join(str(error).split()):.200}); expected stages "
            f"whose sizes fit each other and the cascade. Check that every config.json of the "
            f"checkpoint belongs to this system."
        ) from error


def _dynamic(graph: Graph) -> tuple[object, ...]:
    """torch.export's dynamic_shapes; variadic inputs (conditions) go into one last tuple."""
    dims = [{axis: Dim.AUTO for axis in graph.free.get(name, {})} for name in graph.inputs]
    named = _positional(graph.module)
    return (*dims[:named], tuple(dims[named:])) if named < len(dims) else tuple(dims)


def _example(graph: Graph) -> dict[str, int]:
    """The size of every free symbol of the inputs in the example."""
    return {
        symbol: tensor.shape[axis]
        for name, tensor in graph.inputs.items()
        for axis, symbol in graph.free.get(name, {}).items()
    }


def _positional(module: nn.Module) -> int:
    """Number of named positional arguments of the module's forward."""
    code = type(module).forward.__code__
    return code.co_argcount - 1


def _specs(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    specs = {}
    for name, tensor in tensors.items():
        symbols = graph.free.get(name, {})
        shape = tuple(symbols.get(axis, size) for axis, size in enumerate(tensor.shape))
        dtype = cast(DType, str(tensor.dtype).removeprefix("torch."))
        specs[name] = TensorSpec(dtype=dtype, shape=shape)
    return specs


def _write_golden(path: Path, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"in.{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays |= {f"out.{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _check(
    path: Path, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {key: tensor.numpy() for key, tensor in inputs.items()}
    for (key, expected), got in zip(
        outputs.items(), session.run(list(outputs), feeds), strict=True
    ):
        error = np.abs(expected.numpy().astype(np.float64) - got.astype(np.float64)).max()
        limit = 1.0 if expected.dtype == torch.uint8 else TOLERANCE  # a level may round over
        if not error <= limit:
            raise EngineError(
                f"graph {name!r}: output {key!r} on ONNX Runtime differs from PyTorch by "
                f"{error:.2e}, expected at most {limit:.0e}. Report the module and the versions of "
                f"torch and onnxruntime; do not use the file."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice about its own internals, or a line per drawn weight."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnx_ir"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in levels.items():
        logger.setLevel(level)
