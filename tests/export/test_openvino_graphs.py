"""Networks on OpenVINO against PyTorch: `pytest tests/export/test_openvino_graphs.py`

Each is a test of its own, by which conftest.py sees whose cascade it needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="openvino is not installed (edgereel[openvino])")

from edgereel import backends, plan

pytestmark = pytest.mark.torch


def test_attention_over_frames_turned_in_pairs_and_biased(tiny_lavie: Any, tmp_path: Path) -> None:
    reference_vectors_pass(tiny_lavie, "unet", tmp_path)


def test_attention_over_frames_turned_in_halves(tiny_make_a_video: Any, tmp_path: Path) -> None:
    reference_vectors_pass(tiny_make_a_video, "decoder", tmp_path)


def test_attention_over_frames_alone(tiny_emu_video: Any, tmp_path: Path) -> None:
    reference_vectors_pass(tiny_emu_video, "video", tmp_path)


def reference_vectors_pass(tiny: Any, graph: str, place: Path) -> None:
    """Within 1e-4 of the largest value: what float32 loses in another order."""
    folder = shutil.copytree(tiny.folder, place / "cascade")
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
