"""Cascades on OpenVINO against PyTorch and ONNX Runtime: `pytest tests/export -k openvino`

LaVie's attention over frames is turned by interleaved pairs and biased, Make-A-Video's turned by
halves, Emu Video's neither; all have group norms.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="openvino is not installed (edgereel[openvino])")

import edgereel
from edgereel import backends, plan


def _copied(tiny: Any, place: Path) -> Path:
    """The folder where compiled graphs can be kept."""
    return shutil.copytree(tiny.folder, place / "cascade")


@pytest.mark.torch
@pytest.mark.parametrize("name", ["tiny_lavie", "tiny_make_a_video", "tiny_emu_video"])
def test_reference_vectors_pass(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """1e-4 of the largest value, or a level of 256: what float32 loses in another order."""
    document = plan.load(_copied(request.getfixturevalue(name), tmp_path))
    backend, _ = backends.choose("openvino", document, threads=1)
    for graph, spec in document.graphs.items():
        golden = dict(np.load(document.folder / str(spec.golden)))
        outputs = {key: np.empty_like(golden[f"out.{key}"]) for key in spec.outputs}
        engine = backend.load(document.folder / spec.file, spec)
        engine.run({key: golden[f"in.{key}"] for key in spec.inputs}, outputs)
        for key, made in outputs.items():
            expected = golden[f"out.{key}"].astype(np.float64)
            allowed = 1.0 if made.dtype == np.uint8 else 1e-4 * np.abs(expected).max()
            assert np.abs(made - expected).max() <= allowed, (graph, key)


@pytest.mark.torch
def test_a_video_is_that_of_onnx_runtime(tiny_lavie: Any, tmp_path: Path) -> None:
    """float32 in another order moves a value over the edge to the next of 256 levels at most."""
    folder = _copied(tiny_lavie, tmp_path)
    words, exact = {"prompt": "a", "seed": 3, "mode": "video"}, []
    for name in ("ort", "openvino"):
        frames = edgereel.load(folder, backend=name, threads=1, low_vram=True)(**words).frames
        exact.append(frames.astype(np.int64))
    assert np.abs(exact[0] - exact[1]).max() <= 1
    assert exact[0].std() > 1
