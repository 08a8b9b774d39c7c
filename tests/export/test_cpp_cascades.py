"""Every mode of every system's tiny cascade in C++ and in Python: within one level of 255.

Alone: `pytest tests/export/test_cpp_cascades.py -k lavie`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cpp_probe
import numpy as np
import pytest
from cpp_probe import Made, Probe, Refused

import edgereel
from edgereel import kernel_library, plan

pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_every_mode_makes_the_same_video(cpp: Probe, tiny: Any, tmp_path: Path) -> None:
    """With the kernels where they are installed, as Python uses them."""
    cascade = edgereel.load(tiny.folder, backend="ort", threads=1)
    kernels = str(kernel_library.path() or "")
    made = 0
    for name, mode in cascade.plan.modes.items():
        videos = {k: p for k, p in mode.params.items() if isinstance(p, plan.VideoParam)}
        given = {
            key: np.random.default_rng(0).integers(
                0, 256, (1 if param.frames == 1 else 16, 32, 32, 3), np.uint8
            )
            for key, param in videos.items()
        }
        settings = {"prompt": "a red circle", "seed": 5, **given}
        request = cpp_probe.call(tiny.folder, settings, tmp_path, mode=name, kernels=kernels)
        if any(param.filter for param in videos.values()):
            with pytest.raises(Refused, match="Finding edges needs OpenCV"):
                cpp.ask("generate", **request)
            continue
        found = Made(cpp.ask("generate", **request))
        wanted = cascade("a red circle", mode=name, seed=5, **given)
        assert found.frames.shape == wanted.frames.shape
        assert np.abs(found.frames.astype(int) - wanted.frames).max() <= 1, name
        assert found.fps == wanted.fps and found.warnings == wanted.metadata["warnings"]
        made += 1
    assert made
