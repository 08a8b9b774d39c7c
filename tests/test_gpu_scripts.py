"""The programs of gpu_check.sh without a GPU: `pytest tests/test_gpu_scripts.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("psutil")
pytest.importorskip("PIL")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_conformance

    return gpu_conformance


def last(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_backend_that_is_right_passes(
    conformance: Any, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conformance.main([str(toy), "--backend", "ort", "--runs", "7"]) == 0
    checks = last(capsys)["checks"]["toy"]
    names = {"mode video", "mode preview", "all modes", "memory over many runs", "cancel"}
    assert checks.keys() == names | {"two threads", "between graphs"}


def test_each_fault_is_found(
    conformance: Any,
    toy: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames that differ, memory that grows, a cancel unheard, threads that disturb, NaN."""
    from edgereel.backends.ort import Ort
    from edgereel.pipeline import Cascade

    leak: list[Any] = []
    make = Cascade._make

    def wrong(self: Any, *words: Any) -> Any:
        self._cancelled.clear()
        leak.append(np.ones(2 << 20))
        video = make(self, *words)
        noise = np.random.default_rng(len(leak)).integers(0, 120, video.frames.shape, np.uint8)
        video.frames[:] = video.frames // 2 + noise
        return video

    monkeypatch.setattr(Cascade, "_make", wrong)
    monkeypatch.setattr(Cascade, "cancel", lambda self: None)
    monkeypatch.setattr(Ort, "is_finite", lambda *_: True)
    assert conformance.main([str(toy), "--backend", "ort", "--runs", "7"]) == 1
    checks = last(capsys)["checks"]["toy"]
    assert {name for name, (right, _) in checks.items() if right} == {"all modes"}


def test_peers_take_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_peers

    words = ["small", "--device", "cpu", "--rounds", "1", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu_peers.py", *words])
    assert gpu_peers.main([*words, "--skip", "torch.compile"]) == 0
    told = last(capsys)["seconds"]["small"]
    assert told["ort"] > 0 and told["torch eager"] > 0
    assert told["diffusers eager"] == "cannot: diffusers has no such network"
