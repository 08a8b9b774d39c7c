"""One denoising step of published networks on a GPU: ours beside PyTorch's, in one run.

Random weights, sizes as published (full_size.py). A step is the network on two guidance rows,
guidance and the DDIM update. Ours: the fp16 engine of TensorRT as backend trt runs it, and the
same graph as ort-cuda runs it, both through the sampling loop; theirs: the same step in PyTorch,
half precision, eager and through torch.compile; for sd15 also diffusers' UNet2DConditionModel.
Loops of --steps alternate, and the median of a step over --rounds is told.

    python benchmarks/gpu_peers.py sd15 lavie-base
    python benchmarks/gpu_peers.py small --device cpu --rounds 1 --steps 2

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import full_size
import msgspec
import numpy as np
import torch
from full_size import Network
from shapes_report import machine
from torch import nn

from edgereel import builds
from edgereel.backends import Backend, Engine, ort, ort_cuda, trt, trt_library
from edgereel.call import Steps
from edgereel.errors import BackendUnavailable, EdgereelError
from edgereel.files import sha256
from edgereel.plan import GraphSpec, Plan
from edgereel.sampling import Loop
from edgereel_export.graph import export
from edgereel_export.modules.lavie_unet import LaVieUNet
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.trt_child import run
from edgereel_export.trt_engine import Job

__all__ = ["NETWORKS", "main", "plan_of"]

Run = Callable[[int], float]  # number of steps -> seconds


def _small() -> nn.Module:
    """A network to try this program with."""
    return LaVieUNet(
        SDUNetConfig(
            in_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
        )
    )


NETWORKS = full_size.NETWORKS | {"small": Network(_small, "epsilon", (4, 8, 8), (4,))}


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a line per way to run a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", choices=tuple(NETWORKS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--skip", action="append", default=[], metavar="NAME")
    options = parser.parse_args(argv)
    results = {name: _measured(name, options) for name in options.networks}
    for network, told in results.items():
        slowest = max(seconds for seconds in told.values() if isinstance(seconds, float))
        for name, seconds in told.items():
            shown = seconds
            if isinstance(seconds, float):
                shown = f"{seconds * 1e3:9.2f} ms a step  {slowest / seconds:5.2f}x"
            print(f"{network:20} {name:16} {shown}")
    print(json.dumps({"seconds": results, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _measured(name: str, options: argparse.Namespace) -> dict[str, float | str]:
    """Seconds of a step by way, or why a way cannot be run here."""
    network, told = NETWORKS[name], dict[str, float | str]()
    ways: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        graph = full_size.denoise_graph(network)
        spec = export(graph, "unet", folder)
        theirs = _Theirs(graph.module, network, options.device)
        makers: dict[str, Callable[[], Run]] = {
            "torch eager": lambda: theirs.eager,
            "torch.compile": theirs.compiled,
            "diffusers eager": lambda: _diffusers(name, network, options.device),
        }
        if options.device == "cuda":
            makers["trt"] = lambda: _trt(network, folder, spec)
            makers["ort-cuda"] = lambda: _ort(network, folder, spec, ort_cuda.OrtCuda)
        else:
            makers["ort"] = lambda: _ort(network, folder, spec, ort.Ort)
        for way, make in makers.items():
            if way in options.skip:
                continue
            try:
                ways[way] = make()
                ways[way](2)  # kernels are chosen and compiled
            except (EdgereelError, RuntimeError) as error:
                ways.pop(way, None)
                told[way] = f"cannot: {str(error).strip().splitlines()[0]:.120}"
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, timed in ways.items():
                found[way].append(timed(options.steps) / options.steps)
    return told | {way: statistics.median(seconds) for way, seconds in found.items()}


class _Theirs:
    """The step in PyTorch: half precision on a GPU."""

    def __init__(self, module: nn.Module, network: Network, device: str) -> None:
        self._device = device
        kind = torch.float16 if device == "cuda" else torch.float32
        self._step = module.to(device)
        module.get_submodule("network").to(kind)
        for layer in module.modules():
            if hasattr(layer, "weight") and isinstance(layer.weight, torch.Tensor):
                layer.register_forward_pre_hook(_cast)
        feeds = full_size.feeds(network, network.size[0]).values()
        self._feeds = [torch.from_numpy(feed).to(device) for feed in feeds]

    def eager(self, steps: int) -> float:
        return _timed_torch(self._step, self._feeds, steps, self._device)

    def compiled(self) -> Run:
        step = torch.compile(self._step)
        return lambda steps: _timed_torch(step, self._feeds, steps, self._device)


def _cast(layer: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What a layer is given, in the type of its weight."""
    kind = layer.weight.dtype
    return tuple(x.to(kind) if x.is_floating_point() and x.dtype != kind else x for x in given)


def _timed_torch(step: Any, feeds: list[torch.Tensor], steps: int, device: str) -> float:
    x, *rest = feeds
    with torch.no_grad():
        _wait(device)
        started = time.perf_counter()
        for _ in range(steps):
            x = step(x, *rest)[0]
        _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _diffusers(name: str, network: Network, device: str) -> Run:
    """UNet2DConditionModel, two guidance rows and DDIM's update, as its pipelines have them."""
    if name != "sd15":
        raise BackendUnavailable("diffusers has no such network")
    import diffusers

    kind = torch.float16 if device == "cuda" else torch.float32
    unet = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet = unet.eval().requires_grad_(False).to(device, kind)
    scheduler = diffusers.DDIMScheduler()
    feeds = full_size.feeds(network, network.size[0])
    x0, states = (torch.from_numpy(feeds[key]).to(device, kind) for key in ("x", "states"))

    def timed(steps: int) -> float:
        scheduler.set_timesteps(steps)
        x = x0
        with torch.no_grad():
            _wait(device)
            started = time.perf_counter()
            for t in scheduler.timesteps:
                both = unet(torch.cat([x, x]), t, encoder_hidden_states=states).sample
                without, with_text = both.chunk(2)
                guided = without + 7.5 * (with_text - without)
                x = scheduler.step(guided, t, x).prev_sample
            _wait(device)
        return time.perf_counter() - started

    return timed


def _ours(backend: Backend, engine: Engine, network: Network) -> Run:
    """The sampling loop of the runtime."""
    feeds = full_size.feeds(network, network.size[0])
    row, weights = feeds.pop("row"), feeds.pop("weights")
    made = {name: feeds.pop(name) for name in ("prev", "noise")}
    x = backend.put(feeds.pop("x"))
    conditions = {name: backend.put(feed) for name, feed in feeds.items()}

    def timed(steps: int) -> float:
        rows = Steps(np.tile(row, (steps, 1)), weights, 0, row[:1])
        loop = Loop(backend, engine, rows, x, conditions, frozenset(made), None)
        start = backend.mark()
        loop.run(lambda: None, lambda _: None)
        return backend.seconds(start, backend.mark())

    return timed


def plan_of(folder: Path, *specs: GraphSpec) -> Plan:
    """A cascade of these graphs alone, without a plan.json."""
    files = {name: sha256(folder / name) for s in specs for name in _files(s)}
    graphs = {Path(spec.file).stem: spec for spec in specs}
    plan = Plan(format=1, name="step", system="step", files=files, graphs=graphs, modes={})
    plan.__dict__["folder"] = folder
    return plan


def _files(spec: GraphSpec) -> tuple[str, ...]:
    return (spec.file, *spec.weights, *([] if spec.golden is None else [spec.golden]))


def _ort(network: Network, folder: Path, spec: GraphSpec, kind: type[ort.Ort]) -> Run:
    plan = plan_of(folder, spec)
    reason = kind.unusable(plan)
    if reason is not None:
        raise BackendUnavailable(reason)
    backend = kind(plan)
    return _ours(backend, backend.load(folder / spec.file, spec), network)


def _trt(network: Network, folder: Path, spec: GraphSpec) -> Run:
    """The fp16 engine for this GPU, compiled here."""
    gpu, library = trt_library.device(), trt_library.library()
    if gpu is None:
        raise BackendUnavailable("no CUDA GPU answers here")
    profile = full_size.profile(network, network.size[0])
    target = folder / "unet.engine"
    job = Job(
        graph="unet",
        source=str(folder / spec.file),
        target=str(target),
        library=library.name,
        precision="fp16",
        denoise=True,
        profiles=(profile,),
        outputs=("x_next", "x0"),
        compute_capabilities=(gpu.capability,) if library.builds_without_gpu else (),
    )
    made = msgspec.to_builtins(run(job, lambda fraction, phase: None))
    engine = msgspec.convert(
        made
        | {
            "file": target.name,
            "sha256": sha256(target),
            "bytes": target.stat().st_size,
            "source": {},
            "precision": "fp16",
            "profiles": [profile],
        },
        builds.Engine,
    )
    record = builds.Record(
        format=builds.FORMAT,
        key="",
        backend="trt",
        library=builds.Compiler(name=library.name, version=library.version),
        compute_capabilities=(gpu.capability,),
        options={},
        recipe="",
        graphs={"unet": engine},
    )

    class Compiled(trt.Trt):
        def _build(self, graph: str) -> builds.Build:
            return builds.Build(folder, record)

    backend = Compiled(plan_of(folder, spec))
    return _ours(backend, backend.load(folder / spec.file, spec), network)


if __name__ == "__main__":
    sys.exit(main())
