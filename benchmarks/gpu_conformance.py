"""Whether a backend for GPUs does what ONNX Runtime on the CPU does, and keeps its promises.

For each cascade: every mode on both backends with the same noise, whose videos must be alike
(PSNR of 35 dB or more, which half precision reaches; the median over modes is told too); then of
its first mode many runs, after which no more memory may be taken than after the fifth; a call that
is cancelled at a step, which must end before two more are done; and two cascades in two threads,
whose videos must be those of one alone; what is computed between graphs must be numpy's.

    python benchmarks/gpu_conformance.py engines/shapes --backend trt
    python benchmarks/gpu_conformance.py tests/data/toy --backend ort --runs 8

Exit code 1 if something falls short. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gpu_compare import psnr
from numpy.typing import NDArray
from shapes_report import machine
from tqdm import tqdm

import edgereel
from edgereel import plan
from edgereel.backends import Backend
from edgereel.backends.on_host import OnHost

__all__ = ["main"]

PROMPT = "a small red circle moving right"
LEAST_DB = 35.0
_SETTLED = 5  # runs after which memory may not grow
_SLACK = 8 << 20  # bytes by which the device's own count moves


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every cascade is right, else 1; prints a line per check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cascades", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--backend", default="trt")
    parser.add_argument("--reference", default="ort")
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args(argv)
    results: dict[str, Any] = {}
    for folder in options.cascades:
        checks = _checks(folder, options)
        results[folder.name] = checks
        for name, (right, told) in checks.items():
            print(f"{folder.name:24} {name:24} {'ok  ' if right else 'FAIL'} {told}")
    right = all(right for checks in results.values() for right, _ in checks.values())
    print(json.dumps({"right": right, "checks": results, "machine": machine()}))
    return 0 if right else 1


def _checks(folder: Path, options: argparse.Namespace) -> dict[str, tuple[bool, str]]:
    """What was found of a cascade, by check."""
    reference = edgereel.load(folder, backend=options.reference)
    cascade = edgereel.load(folder, backend=options.backend)
    checks: dict[str, tuple[bool, str]] = {}
    alike: list[float] = []
    for mode in tqdm(reference.plan.modes, desc=f"{folder.name}: modes", leave=False):
        expected = _video(reference, mode)
        video = _video(cascade, mode)  # loads engines, and compiles them for this GPU
        video, took = _timed(cascade, mode)
        alike.append(psnr(*(v.frames.astype(float) for v in (video, expected))))
        checks[f"mode {mode}"] = (
            alike[-1] >= LEAST_DB,
            f"{alike[-1]:.1f} dB, {took:.2f} s, {_share(video)}",
        )
    checks["all modes"] = (True, f"{statistics.median(alike):.1f} dB (median)")
    mode = next(iter(reference.plan.modes))
    checks["memory over many runs"] = _growth(cascade, mode, options.runs)
    checks["cancel"] = _cancel(cascade, mode)
    checks["two threads"] = _threads(folder, options.backend, mode)
    checks["between graphs"] = _between(cascade.backend)
    return checks


def _between(backend: Backend) -> tuple[bool, str]:
    """Whether parts and added noise are numpy's to the last bit, and NaN is found."""
    host, rng, equal = OnHost(), np.random.default_rng(0), {}
    x, z = rng.standard_normal((2, 5, 70, 300)).astype(np.float32)
    mixed = backend.get(backend.mixed(backend.put(x), 0.3, z, 0.7))
    equal["noise"] = np.array_equal(mixed, host.get(host.mixed(x, 0.3, z, 0.7)))
    for whole in (x, (x * 40).astype(np.uint8)):
        part = whole[:, ::-1][:, :60].copy()
        joined, cut = backend.put(whole.copy()), backend.cut(backend.put(whole), 1, 3, 9)
        backend.join(joined, backend.put(part), 1, 10, 40)
        expected = whole.copy()
        host.join(expected, part, 1, 10, 40)
        equal[f"parts, {whole.dtype}"] = np.array_equal(backend.get(joined), expected)
        equal[f"cut, {whole.dtype}"] = np.array_equal(backend.get(cut), whole[:, 3:9])
    wrong = z.copy()
    wrong[-1, -1, -1] = np.nan
    finite = [backend.is_finite(backend.put(array)) for array in (z, wrong)]
    equal["not finite"] = finite == [True, False]
    return all(equal.values()), f"equal: {equal}"


def _given(cascade: edgereel.Cascade, mode: str) -> dict[str, NDArray[np.uint8]]:
    """Frames for every video param: a bright square that moves over a grey ramp."""
    found = {}
    for name, param in cascade.plan.modes[mode].params.items():
        if isinstance(param, plan.VideoParam):
            frames = np.zeros((1 if param.frames == 1 else 16, 128, 128, 3), np.uint8)
            frames += np.arange(128, dtype=np.uint8)[:, None]
            for index, frame in enumerate(frames):
                frame[40:80, 20 + 4 * index : 60 + 4 * index] = (220, 40, 60)
            found[name] = frames
    return found


def _video(cascade: edgereel.Cascade, mode: str, **options: Any) -> edgereel.Video:
    return cascade(PROMPT, mode=mode, seed=7, params=_given(cascade, mode), **options)


def _timed(cascade: edgereel.Cascade, mode: str) -> tuple[edgereel.Video, float]:
    started = time.perf_counter()
    return _video(cascade, mode), time.perf_counter() - started


def _share(video: edgereel.Video) -> str:
    """The stage that takes longest."""
    seconds = video.metadata["seconds"]
    stage = max(seconds, key=lambda name: seconds[name])
    return f"{seconds[stage] / max(sum(seconds.values()), 1e-9):.0%} of it in {stage}"


def _growth(cascade: edgereel.Cascade, mode: str, runs: int) -> tuple[bool, str]:
    """Whether memory stays what it was after the first few runs, the host's and the device's."""
    process, on_device = psutil.Process(), cascade.backend.name != "ort"
    taken: list[tuple[int, int]] = []
    for _ in tqdm(range(runs), desc="runs", leave=False):
        _video(cascade, mode)
        free = cascade.backend.free_memory() if on_device else 0
        taken.append((process.memory_info().rss, -(free or 0)))
    host, device = np.subtract(taken[-1], taken[min(_SETTLED, runs) - 1])
    told = f"host {host / 2**20:+.1f} MiB, device {device / 2**20:+.1f} MiB"
    return bool(max(host, device) <= _SLACK), f"{told} from run {_SETTLED} to {runs}"


def _cancel(cascade: edgereel.Cascade, mode: str) -> tuple[bool, str]:
    """Whether a call ends soon after it was told to."""
    ends: list[float] = []
    steps: list[float] = []
    last = math.nan

    def stop(progress: edgereel.Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        if progress.step > 1:
            steps.append(now - last)
        last = now
        if progress.step == 4:
            ends.append(now)
            cascade.cancel()

    try:
        _video(cascade, mode, callback=stop)
    except edgereel.Cancelled:
        took, step = time.perf_counter() - ends[0], statistics.median(steps)
        return took <= 2 * step + 0.05, f"after {took * 1e3:.1f} ms; a step takes {step * 1e3:.1f}"
    return False, "the call ran to its end"


def _threads(folder: Path, backend: str, mode: str) -> tuple[bool, str]:
    """Whether two cascades at the same time make what one makes."""
    cascades = [edgereel.load(folder, backend=backend) for _ in range(2)]
    expected = _video(cascades[0], mode).frames
    with ThreadPoolExecutor(2) as pool:
        videos = list(pool.map(lambda cascade: _video(cascade, mode).frames, cascades))
    equal = [bool(np.array_equal(frames, expected)) for frames in videos]
    return all(equal), f"equal: {equal}"


if __name__ == "__main__":
    sys.exit(main())
