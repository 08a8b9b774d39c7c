"""What the builder is told beside the graph: `pytest tests/export/test_trt_flags.py`."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

from edgereel.backends.trt_library import library
from edgereel.errors import OutputError
from edgereel_export import trt
from edgereel_export.trt_engine import _Building
from edgereel_export.trt_job import Job

pytestmark = pytest.mark.usefixtures("engine_builder")


@pytest.mark.parametrize("streaming", [False, True])
def test_memory_is_ours_or_weights_may_stream(streaming: bool) -> None:
    """TensorRT-RTX captures no CUDA graph of an engine that takes memory itself, as streaming
    does: an engine with both flags is refused."""
    trt_rtx = library("tensorrt_rtx")
    shape = (1, 2)
    job = Job(
        graph="a", source="a.onnx", target="/dev/full", library="tensorrt_rtx", precision="fp16",
        denoise=False, profiles=({"x": (shape, shape, shape)},), outputs=("y",),
        compute_capabilities=("8.9",), weight_streaming=streaming,
    )  # fmt: skip
    building = _Building(trt_rtx, job, lambda *_: True)
    config: Any = building._config()
    flags = trt_rtx.module.BuilderFlag
    assert config.get_flag(flags.REQUIRE_USER_ALLOCATION) is not streaming
    assert not config.get_flag(flags.TF32)
    assert config.get_flag(flags.WEIGHT_STREAMING) is streaming
    shared = trt._shared(trt_rtx, trt.Options(weight_streaming=streaming))
    assert shared["options"] == ({"weight_streaming": 1} if streaming else {})
    network = building._network()
    x = network.add_input("x", trt_rtx.module.float16, shape)
    network.mark_output(network.add_activation(x, trt_rtx.module.ActivationType.RELU).get_output(0))
    assert building.builder.build_serialized_network(network, config) is not None
    with pytest.raises(OutputError, match=r"full cannot be written \(No space left on device\)"):
        building._write(network, building._config())
