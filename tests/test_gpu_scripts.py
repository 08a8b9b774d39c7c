"""The programs of gpu_check.sh without a GPU: `pytest tests/test_gpu_scripts.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
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


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, whose ways share this process, as each would load torch anew."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers
    import peers_ways

    def told(asked: Any, steps: tuple[int, bool], limit: float) -> Any:
        sent: list[Any] = []
        peers._child(SimpleNamespace(send=sent.append), asked, *steps)
        return sent[0]

    monkeypatch.setattr(peers, "_alone", told)
    monkeypatch.setattr(peers_ways, "_apart", lambda work, *args: work(*args))
    monkeypatch.setattr(sys, "argv", ["peers.py"])
    return peers


def test_peers_take_turns(peers: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What every way makes of two steps is near what the published code makes of them.

    float32 in another order of operations is 130 dB from it, a wrong step below 40. Without a GPU
    each way on one says why it cannot.
    """
    import torch

    words = ["small", "--frames", "2", "--steps", "2", "--work", str(tmp_path)]
    slow = "torch.compile", "plain export", "openvino-bf16"
    skip = [word for way in slow for word in ("--skip", way)]
    assert peers.main([*words, *skip]) == 0
    told = last(capsys)["works"]["small"]
    told.pop("openvino")
    assert {one.get("cannot") for one in told.values()} == {None}
    assert set(told) == {"published", "torch", "ort"}
    assert all(one["seconds"] > 0 and one["psnr_db"] > 110 for one in told.values())
    if not torch.cuda.is_available():
        assert peers.main([*words, *skip, "--device", "cuda"]) == 0
        told = last(capsys)["works"]["small"]
        assert "no CUDA GPU" in told["trt"]["cannot"]
        assert all("cannot" in one for one in told.values())


def test_peers_of_the_trained_cascade(
    peers: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its smallest network, whose step reads what the one before predicted."""
    import peers_ways

    monkeypatch.setattr(peers_ways, "_SHAPES", ("prior",))
    others = "torch.compile", "plain export", "openvino", "openvino-bf16"
    skip = [word for way in others for word in ("--skip", way)]
    assert peers.main(["shapes", "--steps", "2", "--work", str(tmp_path), *skip]) == 0
    told = last(capsys)["works"]["shapes"]
    assert told["ort"]["psnr_db"] > 110
