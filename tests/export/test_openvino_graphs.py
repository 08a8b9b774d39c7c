"""Networks on OpenVINO against PyTorch: `pytest tests/export/test_openvino_graphs.py`"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="openvino is not installed (edgereel[openvino])")

from edgereel import backends, plan


@pytest.mark.torch
@pytest.mark.parametrize(
    ("cascade", "graph"),
    [
        ("tiny_lavie", "unet"),  # attention over frames turned by interleaved pairs, and biased
        ("tiny_make_a_video", "decoder"),  # turned by halves
        ("tiny_emu_video", "video"),  # neither
    ],
)
def test_reference_vectors_pass(
    cascade: str, graph: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """1e-4 of the largest value: what float32 loses in another order."""
    folder = shutil.copytree(request.getfixturevalue(cascade).folder, tmp_path / "cascade")
    document = plan.load(folder)
    backend, _ = backends.choose("openvino", document, threads=1)
    spec = document.graphs[graph]
    golden = dict(np.load(folder / str(spec.golden)))
    outputs = {key: np.empty_like(golden[f"out.{key}"]) for key in spec.outputs}
    engine = backend.load(folder / spec.file, spec)
    engine.run({key: golden[f"in.{key}"] for key in spec.inputs}, outputs)
    for key, made in outputs.items():
        expected = golden[f"out.{key}"]
        assert np.abs(made - expected).max() <= 1e-4 * np.abs(expected).max(), key
