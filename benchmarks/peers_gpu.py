"""What peers.py needs on a GPU: PyTorch's steps in half precision, and engines of TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray
from torch import nn

from edgereel import builds
from edgereel.backends import trt, trt_library
from edgereel.errors import BackendUnavailable
from edgereel.files import sha256
from edgereel.plan import Plan
from edgereel_export.trt_child import run
from edgereel_export.trt_job import Job

__all__ = ["compiled", "to_half"]


def to_half(module: nn.Module) -> None:
    """A step on the GPU whose network computes in half precision; the update stays in float32."""
    module.to("cuda").get_submodule("network").half()
    for layer in module.modules():
        if isinstance(getattr(layer, "weight", None), torch.Tensor):
            layer.register_forward_pre_hook(_cast)


def _cast(layer: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What a layer is given, in the type of its weight."""
    kind = layer.weight.dtype
    return tuple(x.to(kind) if x.is_floating_point() else x for x in given)


def compiled(plan: Plan, feeds: Mapping[str, Mapping[str, NDArray[Any]]], name: str) -> trt.Trt:
    """Backend trt with fp16 engines for this GPU and the shapes of `feeds`.

    Engines are compiled once, and kept with their record NAME.json in the plan's folder.
    """
    gpu, library = trt_library.device(), trt_library.library()
    if gpu is None:
        raise BackendUnavailable("no CUDA GPU answers here")
    kept = plan.folder / f"trt-{name}.json"
    if not kept.is_file():
        target = (gpu.capability,)
        record = builds.Record(
            format=builds.FORMAT,
            key="",
            backend="trt",
            library=builds.Compiler(name=library.name, version=library.version),
            compute_capabilities=target,
            options={},
            recipe="",
            graphs={
                graph: _engine(plan, graph, feed, f"{graph}-{name}.engine", target)
                for graph, feed in feeds.items()
            },
        )
        kept.write_bytes(msgspec.json.encode(record))
    build = builds.Build(plan.folder, msgspec.json.decode(kept.read_bytes(), type=builds.Record))

    class Compiled(trt.Trt):
        def _build(self, graph: str) -> builds.Build:
            return build

    return Compiled(plan)


def _engine(
    plan: Plan,
    graph: str,
    feed: Mapping[str, NDArray[Any]],
    file: str,
    capabilities: tuple[str, ...],
) -> builds.Engine:
    library, target = trt_library.library(), plan.folder / file
    profile = {key: (value.shape,) * 3 for key, value in feed.items()}
    job = Job(
        graph=graph,
        source=str(plan.folder / plan.graphs[graph].file),
        target=str(target),
        library=library.name,
        precision="fp16",
        denoise=True,
        profiles=(profile,),
        outputs=("x_next", "x0"),
        compute_capabilities=capabilities if library.builds_without_gpu else (),
    )
    made = msgspec.to_builtins(run(job, lambda fraction, phase: None))
    told = {
        "file": file,
        "sha256": sha256(target),
        "bytes": target.stat().st_size,
        "source": {},
        "precision": "fp16",
        "profiles": [profile],
    }
    return msgspec.convert(made | told, builds.Engine)
