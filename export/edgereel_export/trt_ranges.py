"""How large the values inside a graph become on its reference inputs, for float16.

The graph runs in ONNX Runtime with two more nodes per value that leave numbers of it, so that no
value has to be kept. A denoising step runs once for each of several rows of its table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgereel.errors import EngineError
from edgereel_export.float16_range import Range
from edgereel_export.retype import MIN_NORMAL_FLOAT16

__all__ = ["measured"]

Feeds = Mapping[str, NDArray[Any]]


def measured(path: Path, golden: Path, rows: Sequence[Sequence[float]] = ()) -> dict[str, Range]:
    """The range of every float32 value of a graph, by name.

    Args:
        path: the .onnx file, its weights beside it.
        golden: .npz with the inputs as in.<name>.
        rows: what to put for `row`, one run each; none = as in `golden`.

    Raises:
        EngineError: ONNX Runtime cannot run it.
    """
    model = onnx.load(path, load_external_data=False)
    names = list(_floats(model))
    _add_numbers(model, names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    place = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(place, str(path.resolve().parent))
    found = np.zeros((len(names), 2))
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for feeds in _feeds(golden, rows):
            numbers = session.run([f"range:{name}" for name in names], feeds)
            found = np.maximum(found, np.nan_to_num(np.stack(numbers), nan=np.inf))
    except Exception as error:  # ONNX Runtime has no base class of its own
        raise EngineError(
            f"its values cannot be measured ({' '.join(str(error).split()):.200}); expected the "
            f"graph to run on its reference inputs in ONNX Runtime. Export the cascade again, or "
            f"compile with --no-ranges, which takes float16's range on trust"
        ) from None
    return {name: Range(*map(float, pair)) for name, pair in zip(names, found, strict=True)}


def _floats(model: Any) -> Iterator[str]:
    """Names of the float32 values that the nodes of the graph make, and of its float32 inputs."""
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    made = (name for node in graph.node for name in node.output)
    for name in (*(value.name for value in graph.input), *made):
        if kinds.get(name) == TensorProto.FLOAT:
            yield name


def _add_numbers(model: Any, names: Sequence[str]) -> None:
    """Lets the model give f32 [2] of each value, named range:<value>, and nothing else."""
    graph = model.graph
    del graph.output[:]
    bounds = {"zero": 0.0, "normal": MIN_NORMAL_FLOAT16}
    one = helper.make_tensor("range:shape", TensorProto.INT64, [1], [1])
    graph.initializer.append(one)
    for name, number in bounds.items():
        graph.initializer.append(
            helper.make_tensor(f"range:{name}", TensorProto.FLOAT, [], [number])
        )

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    for name in names:
        own = f"range:{name}"
        size = add("Abs", [name], f"{own}:size")
        low = add("Less", [size, "range:normal"], f"{own}:low")
        there = add("Greater", [size, "range:zero"], f"{own}:there")
        both = add("And", [low, there], f"{own}:both")
        count = add("Cast", [both], f"{own}:count", to=TensorProto.FLOAT)
        pair = []
        for op, value in (("ReduceMax", size), ("ReduceMean", count)):
            single = add(op, [value], f"{own}:{op}", keepdims=0)
            pair.append(add("Reshape", [single, "range:shape"], f"{own}:{op}1"))
        add("Concat", pair, own, axis=0)
        graph.output.append(helper.make_tensor_value_info(own, TensorProto.FLOAT, [2]))


def _feeds(golden: Path, rows: Sequence[Sequence[float]]) -> Iterator[Feeds]:
    with np.load(golden) as arrays:
        feeds = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in.")}
    if not rows:
        yield feeds
    for row in rows:
        yield {**feeds, "row": np.array(row, np.float32)}
