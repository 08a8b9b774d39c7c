"""The table of gpu_check.sh: one video by ONNX Runtime on the CPU and by TensorRT on the GPU.

    python benchmarks/gpu_compare.py DIR

DIR holds ort/ and trt/ (PNG frames), {ort,trt}.json (`generate --metadata`), verify.json.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def frames(folder: Path) -> np.ndarray:
    """f64 [F, H, W, 3], the PNG frames of a folder."""
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return np.stack(pictures).astype(np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR in dB of two videos of 8-bit levels; infinite if they are equal."""
    error = float(np.mean((one - other) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main(folder: Path) -> None:
    """Print the table and the JSON line."""
    told = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("ort", "trt")}
    checks = json.loads((folder / "verify.json").read_text())
    seconds = {
        name: {**run["seconds"], "all": sum(run["seconds"].values())} for name, run in told.items()
    }
    print(f"{'stage':<18}{'ort s':>9}{'trt s':>9}{'ratio':>9}")
    for stage, slow in seconds["ort"].items():
        fast = seconds["trt"][stage]
        print(f"{stage:<18}{slow:>9.3f}{fast:>9.3f}{slow / fast:>8.1f}x")
    distance = psnr(frames(folder / "ort"), frames(folder / "trt"))
    print(f"PSNR of the two videos: {distance:.1f} dB")
    result = {
        "seconds": seconds,
        "psnr_db": distance if math.isfinite(distance) else None,
        "verify": checks,
        "engines": told["trt"]["engines"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
