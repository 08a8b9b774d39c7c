"""The OpenVINO backend: in place, refusals, what is kept, the gate. `pytest tests/test_openvino.py`

Without openvino only its absence is tested. Cascades run in tests/export/test_openvino_graphs.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import backends, plan
from edgereel.plan import GraphSpec, TensorSpec

installed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="openvino is not installed (edgereel[openvino])",
)


@pytest.fixture
def cascade(toy: Path, tmp_path: Path) -> plan.Plan:
    """The toy in a folder where compiled graphs can be kept."""
    return plan.load(shutil.copytree(toy, tmp_path / "toy"))


def loaded(cascade: plan.Plan, graph: str, name: str = "openvino") -> Any:
    backend, _ = backends.choose(name, cascade, threads=1)
    spec = cascade.graphs[graph]
    return backend.load(cascade.check_file(spec.file), spec)


@installed
def test_outputs_are_written_in_place_and_slices_are_views(cascade: plan.Plan) -> None:
    engine = loaded(cascade, "pixels")
    clip = np.linspace(-1, 1, 3 * 3 * 2 * 2, dtype=np.float32).reshape(3, 3, 2, 2)
    clip.flags.writeable = False
    whole = np.zeros((3, 2, 2, 3), np.uint8)
    expected = np.clip((clip + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    for _ in range(2):  # shapes not seen before, and then known ones
        whole[:] = 0
        engine.run({"clip": clip[0:1]}, {"frames": whole[0:1]})
        engine.run({"clip": clip[1:3]}, {"frames": whole[1:3]})
        np.testing.assert_array_equal(whole, expected)


@installed
@pytest.mark.parametrize("shape", [(2, 3, 2, 3), (2, 2, 2, 4), (1, 2, 2, 3)])
def test_output_of_the_wrong_shape(cascade: plan.Plan, shape: tuple[int, ...]) -> None:
    engine, clip = loaded(cascade, "pixels"), np.zeros((2, 3, 2, 2), np.float32)
    engine.run({"clip": clip}, {"frames": np.empty((2, 2, 2, 3), np.uint8)})
    with pytest.raises(edgereel.EngineError, match=r"frames is uint8 \[2, 2, 2, 3\]"):
        engine.run({"clip": clip}, {"frames": np.empty(shape, np.uint8)})
    with pytest.raises(edgereel.EngineError, match=r"pixels\.onnx: OpenVINO failed"):
        engine.run({"clip": clip[:, :2]}, {"frames": np.empty(shape, np.uint8)})


@installed
def test_a_video_is_that_of_onnx_runtime(cascade: plan.Plan) -> None:
    """float32 in another order moves a value over the edge to the next of 256 levels at most."""
    ours, theirs = (
        edgereel.load(cascade.folder, backend=name, threads=1, low_vram=True)("a red circle")
        for name in ("openvino", "ort")
    )
    assert np.abs(ours.frames.astype(int) - theirs.frames).max() <= 1
    assert theirs.frames.std() > 1 and ours.metadata["precision"] == "fp32"


@installed
def test_graph_that_is_not_as_declared_or_damaged(cascade: plan.Plan) -> None:
    backend, _ = backends.choose("openvino", cascade)
    pixels, other = cascade.graphs["pixels"], cascade.graphs["to_clip"]
    with pytest.raises(edgereel.EngineError, match=r"its inputs are clip float32 .*; expected x "):
        backend.load(cascade.folder / pixels.file, other)
    (cascade.folder / pixels.file).write_bytes(b"not a graph")
    with pytest.raises(edgereel.EngineError, match=r"OpenVINO cannot load it .* --backend ort"):
        backend.load(cascade.folder / pixels.file, pixels)


@installed
def test_what_was_compiled_is_kept_until_something_changes(
    cascade: plan.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    compiled: list[Any] = []
    compile_model = openvino.Core.compile_model

    def noted(*args: Any) -> Any:
        compiled.append(compile_model(*args))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", noted)

    def is_kept() -> Any:
        frames = np.empty((1, 2, 2, 3), np.uint8)
        loaded(cascade, "pixels").run(
            {"clip": np.ones((1, 3, 2, 2), np.float32)}, {"frames": frames}
        )
        assert (frames == 255).all()
        return compiled[-1].get_property("LOADED_FROM_CACHE")

    assert not is_kept() and is_kept()
    (kept,) = (cascade.folder / "builds" / "openvino").iterdir()
    (file,) = kept.iterdir()
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:100])
    assert not is_kept() and is_kept()
    os.utime(cascade.folder / "graphs/pixels.onnx", ns=(1, 1))
    assert not is_kept()
    (fresh,) = (cascade.folder / "builds" / "openvino").iterdir()
    assert fresh != kept


def _graph(folder: Path, name: str, body: str) -> GraphSpec:
    """A graph of text, and as its reference twice what it is given."""
    onnx = pytest.importorskip("onnx")
    head = '<ir_version: 10, opset_import: ["": 23]>'
    text = f"{head}\n{name} (float[N,2] x) => (float[N,2] y) {{{body}}}"
    (folder / f"{name}.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    x = np.random.default_rng(0).standard_normal((100, 2), dtype=np.float32)
    np.savez(folder / f"{name}.npz", **{"in.x": x, "out.y": 2 * x})
    x_spec = TensorSpec(dtype="float32", shape=("N", 2))
    return GraphSpec(
        file=f"{name}.onnx", inputs={"x": x_spec}, outputs={"y": x_spec}, golden=f"{name}.npz"
    )


@installed
def test_a_graph_that_bfloat16_breaks_runs_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`lossy` multiplies x + 1000 and takes 2000 away: of 8 bits nothing of x is left."""
    from edgereel.backends.openvino import OpenVinoBf16

    if reason := OpenVinoBf16.unusable(None):  # type: ignore[arg-type]
        pytest.skip(reason)
    two = "two = Constant<value = float[2,2] {2.0, 0.0, 0.0, 2.0}>()"
    fine = _graph(tmp_path, "fine", f"{two} y = MatMul(x, two)")
    large, twice = (
        f"{n} = Constant<value_float={v}>()" for n, v in [("large", 1e3), ("twice", 2e3)]
    )
    added = "more = Add(x, large) product = MatMul(more, two) y = Sub(product, twice)"
    lossy = _graph(tmp_path, "lossy", f"{large} {twice} {two} {added}")
    unchecked = _graph(tmp_path, "unchecked", "y = Add(x, x)")
    unchecked = GraphSpec(file=unchecked.file, inputs=unchecked.inputs, outputs=unchecked.outputs)
    files = {path.name: "0" for path in tmp_path.iterdir()}
    cascade = SimpleNamespace(folder=tmp_path, files=files, check_file=lambda rel: tmp_path / rel)
    backend = OpenVinoBf16(cascade, threads=1)  # type: ignore[arg-type]
    specs = (fine, lossy, unchecked)
    found = [backend.load(tmp_path / spec.file, spec).precision for spec in specs]
    assert found == ["bf16", "fp32", "fp32"]
    told = backend.describe()["precision"]
    assert told.startswith("bf16; fp32: lossy.onnx (bfloat16 has ") and "unchecked.onnx" in told
    assert "fine" not in told and "expected at least 40 dB" in caplog.text


@pytest.mark.parametrize("name", ["openvino", "openvino-bf16"])
def test_without_openvino(toy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    find_spec: Callable[[str], object] = importlib.util.find_spec
    hidden = lambda name: None if name == "openvino" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(edgereel.BackendUnavailable, match=r"pip install 'edgereel\[openvino\]'"):
        edgereel.load(toy, backend=name)


@installed
def test_a_cpu_without_bfloat16(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(edgereel.BackendUnavailable, match="no instructions for bfloat16"):
        edgereel.load(toy, backend="openvino-bf16")
