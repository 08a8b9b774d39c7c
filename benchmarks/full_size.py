"""What a published network costs at its full size: export, one step on the CPU, engine.

Random weights in the published layout, since only their number and shapes count here. The denoise
graph is exported and checked against PyTorch at a small example; then one step of the published
video size with two guidance rows runs on ONNX Runtime, again with Edgereel's kernels where they are
installed, and with --compare on PyTorch; then a strongly typed fp16 engine is compiled. Each is a
process of its own.

    python benchmarks/full_size.py sd15
    python benchmarks/full_size.py lavie-base --compare
    python benchmarks/full_size.py lavie-interpolation --frames 16 --no-engine --work DIR

Needs up to 20 GB of memory and 10 GB of disk. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from shapes_report import machine, peak_rss_bytes
from torch import nn

from edgereel import kernel_library, memory
from edgereel.backends import trt_library
from edgereel.backends.ort import session_options
from edgereel_export.graph import Graph, export
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet
from edgereel_export.modules.lavie_vsr import VSRConfig, VSRUNet
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.modules.sd_unet import SDUNet
from edgereel_export.step import Prediction, StepConfig, step_graph
from edgereel_export.trt_child import run
from edgereel_export.trt_job import Job

__all__ = ["NETWORKS", "Network", "denoise_graph", "feeds", "main", "profile"]


class Network(NamedTuple):
    """A network, the size of the video it was published for, and the frames of its engine."""

    make: Callable[[], nn.Module]
    prediction: Prediction
    size: tuple[int, int, int]  # frames, latent height and width
    frames: tuple[int, ...]
    width: int = 768  # of text states
    more: tuple[tuple[str, int], ...] = ()  # conditions per frame, and their channels
    level: bool = False  # whether a noise level is told


def _config(channels: int = 4) -> SDUNetConfig:
    return SDUNetConfig(
        in_channels=channels,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        cross_attention_dim=768,
    )


NETWORKS = {
    "sd15": Network(lambda: SDUNet(_config()), "epsilon", (1, 64, 64), (1, 8)),
    "lavie-base": Network(lambda: LaVieUNet(_config()), "epsilon", (16, 40, 64), (16,)),
    "lavie-interpolation": Network(
        lambda: InterpolationUNet(_config(8)), "epsilon", (61, 40, 64), (61,), more=(("copied", 4),)
    ),
    "lavie-vsr": Network(
        lambda: VSRUNet(VSRConfig()), "v", (8, 320, 512), (8,), 1024, (("low", 3),), True
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a line per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--frames", type=int, help="frames of the step (default: as published)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of the step with and without kernels"
    )
    parser.add_argument("--compare", action="store_true", help="the step on PyTorch too")
    parser.add_argument("--no-step", action="store_true", help="leave the step out")
    parser.add_argument("--no-engine", action="store_true", help="leave TensorRT out")
    parser.add_argument("--compute-capability", default="8.9", metavar="X.Y")
    options = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        frames = options.frames or NETWORKS[options.network].size[0]
        told = options.network, folder, frames
        phases: list[Callable[..., dict[str, Any]]] = [_export]
        steps = [_step, _kernels] if kernel_library.path() else [_step]
        phases += [] if options.no_step else steps * options.rounds
        phases += [_torch] if options.compare and not options.no_step else []
        for phase in phases:
            for name, value in _alone(phase, *told).items():
                # of rounds, all seconds: their ratio is what counts
                again = name.endswith("step_seconds") and name in figures
                figures[name] = f"{figures[name]}, {value}" if again else value
            print(json.dumps(figures), file=sys.stderr)
        if not options.no_engine:
            network = NETWORKS[options.network]
            figures |= _engine(network, folder, options.compute_capability)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps({**figures, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _alone(phase: Callable[..., dict[str, Any]], *told: object) -> dict[str, Any]:
    """What a phase says, run in a process of its own, so that memory is that of the phase."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(phase, *told).result()


def denoise_graph(network: Network) -> Graph:
    """The denoise graph; its weights are the same at every call."""
    torch.manual_seed(0)
    module = network.make().eval().requires_grad_(False)
    frames = {0: "F", 2: "h", 3: "w"}
    free = {"x": frames, "states": {0: "G"}, **{name: frames for name, _ in network.more}}
    conditions = {"states": torch.randn(2, 77, network.width)}
    conditions |= {name: torch.randn(2, channels, 8, 16) for name, channels in network.more}
    if network.level:
        conditions["level"] = torch.tensor([50])
    return step_graph(module, StepConfig(network.prediction), (2, 4, 8, 16), conditions, free)


def _export(name: str, folder: Path, frames: int) -> dict[str, Any]:
    """The graph as graphs/unet.onnx; small example latents, since the free axes hold for all."""
    network, started = NETWORKS[name], time.perf_counter()
    graph = denoise_graph(network)
    spec = export(graph, "unet", folder)
    size = {"G": 2, "F": frames, "h": network.size[1], "w": network.size[2]}
    predicted = (memory.evaluated(terms, size) for terms in spec.activations)
    return {
        "parameters": sum(p.numel() for p in graph.module.parameters()),
        "export_seconds": round(time.perf_counter() - started, 1),
        "export_peak_gib": round(peak_rss_bytes() / 2**30, 2),
        "predicted_activations_gib": round(max(predicted) / 2**30, 2),
    }


def feeds(network: Network, frames: int) -> dict[str, NDArray[Any]]:
    """Inputs of one step in the middle of a trajectory, in the order of the graph's."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    side = network.size[1:]
    row = np.zeros(16, np.float32)
    row[:10] = [500, 0.7, 0.714, 0.75, 0.6, 0, 0, 0, 0, 1]
    x = normal(frames, 4, *side)
    made = {"x": x, "row": row, "weights": np.array([-6.5, 7.5], np.float32)}
    made |= {"prev": 0 * x, "noise": 0 * x, "states": normal(2, 77, network.width)}
    made |= {name: normal(frames, channels, *side) for name, channels in network.more}
    return made | ({"level": np.array([50])} if network.level else {})


def profile(network: Network, frames: int) -> dict[str, Any]:
    """Of an engine for the sizes of a step."""
    shapes = {name: feed.shape for name, feed in feeds(network, frames).items()}
    return {name: (shape, shape, shape) for name, shape in shapes.items()}


def _step(name: str, folder: Path, frames: int) -> dict[str, Any]:
    """One step on the CPU, all operators ONNX Runtime's own; x_next as moved.npy."""
    moved, figures = _on_cpu(name, folder, frames, None)
    np.save(folder / "moved.npy", moved)
    figures = {f"cpu_step_{key}": value for key, value in figures.items()}
    return {"step_frames": frames, **figures}


def _kernels(name: str, folder: Path, frames: int) -> dict[str, Any]:
    """The same step with our kernels, and how far its result is from moved.npy."""
    moved, figures = _on_cpu(name, folder, frames, kernel_library.path())
    figures["max_abs_difference"] = float(np.abs(np.load(folder / "moved.npy") - moved).max())
    return {f"kernels_step_{key}": value for key, value in figures.items()}


def _on_cpu(
    name: str, folder: Path, frames: int, kernels: Path | None
) -> tuple[NDArray[Any], dict[str, Any]]:
    """x_next of one step, and what it took."""
    session = onnxruntime.InferenceSession(
        folder / "graphs" / "unet.onnx",
        session_options(None, kernels),
        providers=["CPUExecutionProvider"],
    )
    started = time.perf_counter()
    moved = session.run(["x_next"], feeds(NETWORKS[name], frames))[0]
    seconds = time.perf_counter() - started
    assert np.isfinite(moved).all()
    peak = round(peak_rss_bytes() / 2**30, 2)
    return moved, {"seconds": round(seconds, 1), "peak_gib": peak}


def _torch(name: str, folder: Path, frames: int) -> dict[str, Any]:
    """The same step in PyTorch, and how far its result is from moved.npy."""
    module, given = denoise_graph(NETWORKS[name]).module, feeds(NETWORKS[name], frames)
    started = time.perf_counter()
    with torch.no_grad():
        theirs = module(*(torch.from_numpy(feed) for feed in given.values()))[0].numpy()
    return {
        "torch_step_seconds": round(time.perf_counter() - started, 1),
        "torch_step_peak_gib": round(peak_rss_bytes() / 2**30, 2),
        "max_abs_difference": float(np.abs(np.load(folder / "moved.npy") - theirs).max()),
        "deviation_of_result": float(theirs.std()),
    }


def _engine(network: Network, folder: Path, capability: str) -> dict[str, Any]:
    """The fp16 engine, built in a process of its own."""
    target = folder / "unet.engine"
    job = Job(
        graph="unet",
        source=str(folder / "graphs" / "unet.onnx"),
        target=str(target),
        library=trt_library.library().name,
        precision="fp16",
        denoise=True,
        profiles=tuple(profile(network, frames) for frames in network.frames),
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
