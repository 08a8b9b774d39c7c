"""What the UNet of Stable Diffusion 1.5 costs at its full size: export, engine, one step.

Random weights in the published layout (686 tensors, 859,520,964 parameters), since only their
number and shapes count here. The denoise graph is exported and checked against PyTorch, stepped
once on the CPU at 64 x 64 latents with two guidance rows, and compiled to a strongly typed fp16
engine with the static profiles of Text2Video-Zero: one frame, and a chunk of eight.

    python benchmarks/sd15_full_size.py
    python benchmarks/sd15_full_size.py --no-engine --work DIR

Needs 12 GB of memory and 10 GB of disk. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from shapes_report import machine, peak_rss_bytes

from edgereel.backends import trt_library
from edgereel_export.graph import export
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.modules.sd_unet import SDUNet
from edgereel_export.step import StepConfig, step_graph
from edgereel_export.trt_child import run
from edgereel_export.trt_engine import Job

__all__ = ["main"]

_CONFIG = SDUNetConfig(
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    cross_attention_dim=768,
)
_LATENTS = {0: "K", 2: "h", 3: "w"}


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a line per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--no-engine", action="store_true", help="leave TensorRT out")
    parser.add_argument("--compute-capability", default="8.9", metavar="X.Y")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        figures = _export(folder) | _step(folder)
        if not options.no_engine:
            figures |= _engine(folder, options.compute_capability)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps({**figures, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _export(folder: Path) -> dict[str, Any]:
    """The graph as graphs/unet.onnx; small example latents, since the free axes hold for all."""
    unet = SDUNet(_CONFIG).eval().requires_grad_(False)
    free = {"x": _LATENTS, "states": {0: "G"}}
    states = torch.randn(2, 77, _CONFIG.cross_attention_dim)
    graph = step_graph(unet, StepConfig("epsilon"), (2, 4, 8, 16), {"states": states}, free)
    started = time.perf_counter()
    export(graph, "unet", folder)
    return {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "export_seconds": round(time.perf_counter() - started, 1),
        "export_peak_gib": round(peak_rss_bytes() / 2**30, 2),
    }


def _step(folder: Path) -> dict[str, Any]:
    """One step of one frame on the CPU."""
    path = folder / "graphs" / "unet.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4, 64, 64), dtype=np.float32)
    row = np.zeros(16, np.float32)
    row[:10] = [500, 0.7, 0.714, 0.75, 0.6, 0, 0, 0, 0, 1]
    states = rng.standard_normal((2, 77, 768), dtype=np.float32)
    weights = np.array([-6.5, 7.5], np.float32)
    feeds = {"x": x, "row": row, "weights": weights, "prev": 0 * x, "noise": 0 * x}
    started = time.perf_counter()
    moved, _ = session.run(["x_next", "x0"], {**feeds, "states": states})
    assert np.isfinite(moved).all()
    return {"cpu_step_seconds": round(time.perf_counter() - started, 1)}


def _engine(folder: Path, capability: str) -> dict[str, Any]:
    """The fp16 engine, built in a process of its own."""

    def profile(frames: int) -> dict[str, Any]:
        latents = dict.fromkeys(("x", "prev", "noise"), (frames, 4, 64, 64))
        shapes = {**latents, "row": (16,), "weights": (2,), "states": (2, 77, 768)}
        return {name: (shape, shape, shape) for name, shape in shapes.items()}

    target = folder / "unet.engine"
    job = Job(
        graph="unet",
        source=str(folder / "graphs" / "unet.onnx"),
        target=str(target),
        library=trt_library.library().name,
        precision="fp16",
        denoise=True,
        profiles=(profile(1), profile(8)),
        outputs=("x_next", "x0"),
        compute_capabilities=(capability,),
    )
    made = run(job, lambda fraction, phase: None)
    return {
        "engine_seconds": made.seconds,
        "engine_peak_gib": round(made.peak_rss_bytes / 2**30, 2),
        "engine_mib": round(target.stat().st_size / 2**20),
        "engine_activations_mib": round(made.activation_bytes / 2**20),
        "engine_types": made.types,
        "decomposed_attention": len(made.decomposed_attention),
    }


if __name__ == "__main__":
    sys.exit(main())
