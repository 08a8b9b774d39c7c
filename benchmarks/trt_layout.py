"""What videos save in TensorRT engines: kernels and memory traffic, frames in the batch or not.

Every graph is compiled twice in fp16, as exported (folded) and with its videos unfolded
(edgereel_export/trt_layout.py), for one size. Counted is what TensorRT lists of the finished
engine: kernels, bytes that they read and write (weights left out, no cache), and the part of both
that only moves numbers. Nothing is run, so no GPU is needed, and no time is measured.

The graphs are a chain of 320 channels, [group norm of a frame, SiLU, 3x3, k3 over frames, + x] x 4,
two of the modules of LaVie's super-resolution that look along frames, with 128 channels, and the
graphs with convolutions over frames of the small random systems that the tests use.

    python benchmarks/trt_layout.py
    python benchmarks/trt_layout.py --only chain --only lavie --work DIR

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from shapes_report import machine
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel.backends.trt_library import library
from edgereel.builds import Profile
from edgereel.plan import GraphSpec, load
from edgereel_export.folder import write_folder
from edgereel_export.graph import Graph, export
from edgereel_export.modules import lavie_vsr
from edgereel_export.modules.layers import TemporalConv
from edgereel_export.modules.sd_layers import Batch
from edgereel_export.systems import system
from edgereel_export.trt_engine import compile_logged
from edgereel_export.trt_job import Job
from edgereel_export.trt_kernels import kernels, traffic_bytes

__all__ = ["main"]

SYSTEMS = {  # system: its graphs, and the sizes of their symbols
    "make-a-video": (("decoder", "super_res_low"), {"G": 2}),
    "emu-video": (("video",), {"G": 2, "F": 16, "h": 32, "w": 32}),
    "lavie": (("upscaling",), {"G": 2, "F": 8, "H": 64, "W": 64}),
}


class _Case(NamedTuple):
    name: str
    path: Path
    spec: GraphSpec
    profile: Profile


class _Chain(nn.Module):
    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(count))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.norms)
        self.times = nn.ModuleList(TemporalConv(channels) for _ in self.norms)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.03)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        h = x.transpose(1, 2).flatten(0, 1)
        for norm, conv, time in zip(self.norms, self.convs, self.times, strict=True):
            h = h + time(conv(F.silu(norm(h))), frames)
        return h.reshape(-1, frames, *h.shape[1:]).transpose(1, 2)


class _Modules(nn.Module):
    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        modules = (lavie_vsr._TemporalModule(channels, 64, 32) for _ in range(count))
        self.modules_ = nn.ModuleList(modules)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.03)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        batch = Batch(*x.shape[:2])
        h = x.flatten(0, 1)
        for module in self.modules_:
            h = module(h, temb, batch)
        return batch.split(h)


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("chain", "modules", *SYSTEMS)
    parser.add_argument("--only", action="append", choices=names, help="repeatable (default: all)")
    parser.add_argument(
        "--work", type=Path, help="where cascades are or are put (default: nowhere)"
    )
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or names:
            work = options.work or Path(scratch)
            for case in _system(name, work) if name in SYSTEMS else _part(name, work):
                rows.append({"graph": case.name, **_measured(case, Path(scratch))})
                print(json.dumps(rows[-1]), file=sys.stderr)
    print(_table(rows))
    print(json.dumps({"graphs": rows, "library": str(library()), "machine": machine(),
                      "command": " ".join(sys.argv)}))  # fmt: skip
    return 0


def _part(name: str, work: Path) -> Iterator[_Case]:
    torch.manual_seed(0)
    if name == "chain":
        free = {0: "B", 2: "F", 3: "H", 4: "W"}
        inputs = {"x": torch.randn(2, 320, 4, 8, 8)}
        graph = Graph(_Chain(320, 4), inputs, ["y"], {"x": free, "y": free})
    else:
        free = {0: "B", 1: "F", 3: "H", 4: "W"}
        inputs = {"x": torch.randn(2, 4, 128, 8, 8), "temb": torch.randn(2, 64)}
        graph = Graph(_Modules(128, 2), inputs, ["y"], {"x": free, "temb": {0: "B"}, "y": free})
    spec = export(graph, name, work / name)
    yield _case(name, work / name, spec, {"B": 2, "F": 16, "H": 64, "W": 64})


def _system(name: str, work: Path) -> Iterator[_Case]:
    folder, (graphs, sizes) = work / name / "cascade", SYSTEMS[name]
    if not folder.exists():
        cascade = system(name).tiny(work / name / "checkpoint")
        write_folder(cascade, folder, name=name, system=name, modes=cascade.modes())
    plan = load(folder)
    for graph in graphs:
        yield _case(f"{name} {graph}", folder, plan.graphs[graph], sizes)


def _case(name: str, folder: Path, spec: GraphSpec, sizes: Mapping[str, int]) -> _Case:
    profile = {}
    for key, tensor in spec.inputs.items():
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in tensor.shape)
        profile[key] = (shape, shape, shape)
    return _Case(name, folder / spec.file, spec, profile)


def _measured(case: _Case, scratch: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for layout in ("folded", "video"):
        job = Job(
            graph=case.name,
            source=str(case.path),
            target=str(scratch / "engine"),
            library=library().name,
            precision="fp16",
            denoise="row" in case.spec.inputs,
            profiles=(case.profile,),
            outputs=tuple(case.spec.outputs),
            compute_capabilities=("8.9",),
            folded=layout == "folded",
        )
        made, log = compile_logged(job, lambda *_: True)
        found = kernels(log.layers)
        moving = [kernel for kernel in found if kernel.only_layout]
        figures[layout] = {
            "kernels": len(found),
            "mb": round(traffic_bytes(found) / 1e6, 2),
            "layout_kernels": len(moving),
            "layout_mb": round(traffic_bytes(moving) / 1e6, 2),
            "activation_mib": round(made.activation_bytes / 2**20, 1),
        }
    return figures


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'graph':28} {'layout':7} {'kernels':>8} {'MB':>10} {'of these only moving':>24}"]
    for row in rows:
        for layout in ("folded", "video"):
            f = row[layout]
            moving = f"{f['layout_kernels']} kernels {f['layout_mb']:.2f} MB"
            lines.append(
                f"{row['graph']:28} {layout:7} {f['kernels']:8} {f['mb']:10.2f} {moving:>24}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
