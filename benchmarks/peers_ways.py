"""How a denoising step is run, by way: see peers.py."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import full_size
import msgspec
import numpy as np
import peers_gpu
import torch
from numpy.typing import NDArray
from peers_published import as_published, published
from torch import Tensor, nn

from edgereel import backends
from edgereel.backends import Backend, Engine
from edgereel.call import Steps
from edgereel.errors import BackendUnavailable
from edgereel.files import sha256
from edgereel.plan import GraphSpec, Plan
from edgereel.sampling import Loop
from edgereel_export.graph import Graph, export
from edgereel_export.modules import frame_attention
from edgereel_export.modules.lavie_unet import LaVieUNet
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.systems import system

__all__ = ["DEVICES", "WORKS", "Asked", "calls", "of"]


def _small() -> nn.Module:
    """A network to try the program with."""
    config = SDUNetConfig(
        in_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
    )
    return LaVieUNet(config)


def _lavie_like() -> nn.Module:
    """LaVie's base network at a fifth of its widths and with a level less."""
    config = SDUNetConfig(
        in_channels=4,
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
    )
    return LaVieUNet(config)


NETWORKS = full_size.NETWORKS | {
    "lavie-like": full_size.Network(_lavie_like, "epsilon", (16, 32, 32), (16,)),
    "small": full_size.Network(_small, "epsilon", (4, 8, 8), (4,)),
}
WORKS = ("shapes", *NETWORKS)
_OURS = {"cpu": ("ort", "openvino", "openvino-bf16"), "cuda": ("trt", "ort-cuda")}
DEVICES = tuple(_OURS)
_SHAPES = ("prior", "decoder", "interpolation", "super_res_low", "super_res_high")
Array = NDArray[Any]
Call = Callable[[int], Array]  # x_next of the last of so many steps


class Asked(NamedTuple):
    """One way to run one work."""

    work: str
    way: str
    folder: Path
    frames: int | None  # None: as published
    threads: int
    device: str  # of DEVICES


def of(work: str, device: str) -> tuple[str, ...]:
    """The ways of a work on a device; the first is what others are compared with."""
    first = () if work == "shapes" else ("published",)
    return (*first, "torch", "torch.compile", "plain export", *_OURS[device])


def calls(asked: Asked) -> tuple[dict[str, Call], Backend | None]:
    """A step of every network by name, and the backend of ours."""
    if asked.way in _OURS[asked.device]:
        return _ours(asked)
    made = {}
    for name, graph in _graphs(asked.work).items():
        module, feeds = graph.module.eval(), _feeds(asked, name)
        if asked.way == "plain export":
            made[name] = _plain(asked, name, module, feeds)
            continue
        within: Any = nullcontext
        if asked.way == "published":
            module, within = published(asked.work, module), as_published(asked.work)
        if asked.device == "cuda":
            peers_gpu.to_half(module)
        step = torch.compile(module) if asked.way == "torch.compile" else module
        made[name] = _torch(step, feeds, asked.device, within)
    return made, None


def _graphs(work: str) -> dict[str, Graph]:
    """Modules with their weights, and example inputs."""
    if work != "shapes":
        return {"unet": full_size.denoise_graph(NETWORKS[work])}
    make_a_video = system("make-a-video")
    graphs = make_a_video.load(make_a_video.CHECKPOINTS["shapes"]).graphs()
    return {name: graphs[name] for name in _SHAPES}


def _feeds(asked: Asked, name: str) -> dict[str, Array]:
    """Inputs of a step by name, in the order of the network's; of shapes, its reference inputs.

    But prev and noise are zero, as a loop begins.
    """
    if asked.work == "shapes":
        spec = _specs(asked)[name]
        with np.load(asked.folder / str(spec.golden)) as golden:
            feeds = {key: golden[f"in.{key}"] for key in spec.inputs}
        return feeds | {key: 0 * feeds[key] for key in ("prev", "noise") if key in feeds}
    network = NETWORKS[asked.work]
    frames = 8 if asked.work == "sd15" else network.size[0]
    return full_size.feeds(network, asked.frames or frames)


def _chained(step: Callable[[dict[str, Any]], Any], feeds: dict[str, Any], steps: int) -> Any:
    """x_next of the last step; each begins with what the one before made, as a loop does."""
    given = dict(feeds)
    for _ in range(steps):
        x, x0 = step(given)[:2]
        given["x"] = x
        if "prev" in given:
            given["prev"] = x0
    return given["x"]


def _torch(module: Any, feeds: dict[str, Array], device: str, within: Any) -> Call:
    given = {name: torch.from_numpy(feed).to(device) for name, feed in feeds.items()}

    def call(steps: int) -> Array:
        with torch.no_grad(), within():
            made: Tensor = _chained(lambda feed: module(*feed.values()), given, steps)
            return made.cpu().numpy()

    return call


class _NotExporting:
    """torch, but for frame_attention.py, which then does not put our operator into a graph."""

    class compiler:
        is_exporting = staticmethod(lambda: False)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _apart(work: Callable[..., None], *args: object) -> None:
    """In a process of its own, as it takes memory."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    process.start()
    process.join()


def _plain(asked: Asked, name: str, module: nn.Module, feeds: dict[str, Array]) -> Call:
    """The first way of a work, exported as a user would, on ONNX Runtime's defaults."""
    import onnxruntime

    providers = ["CUDAExecutionProvider"] if asked.device == "cuda" else []
    if not set(providers) <= set(onnxruntime.get_available_providers()):
        raise BackendUnavailable("this onnxruntime has no CUDA, that of extra ort-gpu has")
    providers.append("CPUExecutionProvider")
    path = asked.folder / f"plain-{name}-{asked.frames}.onnx"
    if not path.is_file():
        _apart(_export_plain, asked, name, path)
    del module
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    wanted = {tensor.name for tensor in session.get_inputs()}

    def step(given: dict[str, Array]) -> Any:
        taken = {key: feed for key, feed in given.items() if key in wanted}
        return session.run(["x_next", "x0"], taken)

    return lambda steps: _chained(step, feeds, steps)  # type: ignore[no-any-return]


def _export_plain(asked: Asked, name: str, path: Path) -> None:
    module = published(asked.work, _graphs(asked.work)[name].module.eval())
    feeds = _feeds(asked, name)
    with ExitStack() as within:
        within.enter_context(torch.no_grad())
        within.enter_context(as_published(asked.work)())
        within.enter_context(mock.patch.object(frame_attention, "torch", _NotExporting()))
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(feed) for feed in feeds.values()),
            dynamo=True,
            opset_version=18,
            input_names=list(feeds),
            output_names=["x_next", "x0"],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=True)


def _ours(asked: Asked) -> tuple[dict[str, Call], Backend]:
    specs = _specs(asked)
    plan = _plan_of(asked.folder, *specs.values())
    feeds = {name: _feeds(asked, name) for name in specs}
    if asked.way == "trt":
        backend = peers_gpu.compiled(plan, feeds, str(asked.frames))
    else:
        backend, _ = backends.choose(asked.way, plan, threads=asked.threads)
    made = {}
    for name, spec in specs.items():
        made[name] = _loop(backend, backend.load(asked.folder / spec.file, spec), feeds[name])
    return made, backend


def _plan_of(folder: Path, *specs: GraphSpec) -> Plan:
    """A cascade of these graphs alone, without a plan.json."""
    files = {name: sha256(folder / name) for spec in specs for name in _files(spec)}
    graphs = {Path(spec.file).stem: spec for spec in specs}
    plan = Plan(format=1, name="step", system="step", files=files, graphs=graphs, modes={})
    plan.__dict__["folder"] = folder
    return plan


def _files(spec: GraphSpec) -> tuple[str, ...]:
    return (spec.file, *spec.weights, *([] if spec.golden is None else [spec.golden]))


def _loop(backend: Backend, engine: Engine, feeds: dict[str, Array]) -> Call:
    """The sampling loop of the runtime."""
    feeds = dict(feeds)
    row, weights, x = feeds.pop("row"), feeds.pop("weights"), backend.put(feeds.pop("x"))
    made = frozenset(name for name in ("prev", "noise") if feeds.pop(name, None) is not None)
    conditions = {name: backend.put(feed) for name, feed in feeds.items()}

    def call(steps: int) -> Array:
        rows = Steps(np.tile(row, (steps, 1)), weights, 0, row[None])
        loop = Loop(backend, engine, rows, x, conditions, made, None)
        return backend.get(loop.run(lambda: None, lambda _: None))

    return call


def _specs(asked: Asked) -> dict[str, GraphSpec]:
    """Our graphs of a work, exported once."""
    kept = asked.folder / "specs.json"
    if not kept.is_file():
        _apart(_export_ours, asked.work, asked.folder)
    return msgspec.json.decode(kept.read_bytes(), type=dict[str, GraphSpec])


def _export_ours(work: str, folder: Path) -> None:
    specs = {name: export(graph, name, folder) for name, graph in _graphs(work).items()}
    (folder / "specs.json").write_bytes(msgspec.json.encode(specs))
