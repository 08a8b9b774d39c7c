"""`import edgereel` stays light; checked in a fresh interpreter: `pytest tests/test_imports.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "edgereel_export", "diffusers",
         "transformers", "huggingface_hub", "PIL", "imageio_ffmpeg")  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT / "export")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return set(done.stdout.split())


def test_import_is_light() -> None:
    assert not loaded_after("import edgereel") & set(HEAVY)


def test_reading_a_plan_is_light() -> None:
    folder = str(ROOT / "tests/data/toy")
    assert not loaded_after(f"import edgereel.plan as p; p.load({folder!r})") & set(HEAVY)


def test_compiling_a_graph_needs_no_torch() -> None:
    """Every graph has a process of its own, which would load it again."""
    pytest.importorskip("onnx_ir")
    assert "torch" not in loaded_after("import edgereel_export.trt_engine")


def test_a_video_needs_neither_torch_nor_onnx() -> None:
    pytest.importorskip("onnxruntime")
    folder = str(ROOT / "tests/data/toy")
    code = f"import edgereel; edgereel.load({folder!r}, backend='ort', threads=1)('a', steps=1)"
    assert not loaded_after(code) & (set(HEAVY) - {"onnxruntime"})
