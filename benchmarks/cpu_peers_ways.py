"""How a denoising step is run, by way: see cpu_peers.py."""

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
import torch
from gpu_peers import NETWORKS as OF_GPU_PEERS
from gpu_peers import plan_of
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgereel import backends
from edgereel.backends import Backend
from edgereel.plan import GraphSpec
from edgereel_export.graph import Graph, export
from edgereel_export.modules import frame_attention
from edgereel_export.modules.lavie_unet import LaVieUNet
from edgereel_export.modules.sd_config import SDUNetConfig
from edgereel_export.systems import system

__all__ = ["WORKS", "Asked", "calls", "of"]


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


NETWORKS = OF_GPU_PEERS | {
    "lavie-like": full_size.Network(_lavie_like, "epsilon", (16, 32, 32), (16,))
}
WORKS = ("shapes", *NETWORKS)
_OURS = ("ort", "openvino", "openvino-bf16")
_SHAPES = ("prior", "decoder", "interpolation", "super_res_low", "super_res_high")
Array = NDArray[Any]
Call = Callable[[], Array]  # gives x_next


class Asked(NamedTuple):
    """One way to run one work."""

    work: str
    way: str
    folder: Path
    frames: int | None  # None: as published
    threads: int


def of(work: str) -> tuple[str, ...]:
    """The ways of a work; the first is what others are compared with."""
    published = () if work == "shapes" else ("published",)
    return (*published, "torch", "torch.compile", "plain export", *_OURS)


def calls(asked: Asked) -> tuple[dict[str, Call], Backend | None]:
    """A step of every network by name, and the backend of ours."""
    if asked.way in _OURS:
        return _ours(asked)
    made = {}
    for name, graph in _graphs(asked.work).items():
        module, feeds = graph.module.eval(), _feeds(asked, name)
        if asked.way == "plain export":
            made[name] = _plain(asked, name, module, feeds)
        elif asked.way == "torch.compile":
            made[name] = _eager(torch.compile(module), feeds)
        elif asked.way == "published":
            made[name] = _eager(_published(asked.work, module), feeds, _as_published(asked.work))
        else:
            made[name] = _eager(module, feeds)
    return made, None


def _graphs(work: str) -> dict[str, Graph]:
    """Modules with their weights, and example inputs."""
    if work != "shapes":
        return {"unet": full_size.denoise_graph(NETWORKS[work])}
    make_a_video = system("make-a-video")
    graphs = make_a_video.load(make_a_video.CHECKPOINTS["shapes"]).graphs()
    return {name: graphs[name] for name in _SHAPES}


def _feeds(asked: Asked, name: str) -> dict[str, Array]:
    """Inputs of a step by name, in the order of the network's; of shapes, its reference inputs."""
    if asked.work == "shapes":
        spec = _specs(asked)[name]
        with np.load(asked.folder / str(spec.golden)) as golden:
            return {key: golden[f"in.{key}"] for key in spec.inputs}
    network = NETWORKS[asked.work]
    as_published = 8 if asked.work == "sd15" else network.size[0]
    return full_size.feeds(network, asked.frames or as_published)


def _eager(module: Any, feeds: dict[str, Array], within: Any = nullcontext) -> Call:
    given = [torch.from_numpy(feed) for feed in feeds.values()]

    def call() -> Array:
        with torch.no_grad(), within():
            made: Array = module(*given)[0].numpy()
            return made

    return call


class _CrossFrame(nn.Module):
    """diffusers' UNet as its TextToVideoZeroPipeline calls it, in the form of our networks."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """x [G, F, 4, h, w], t [G], states [G, L, D] -> as x."""
        states = states.repeat_interleave(x.shape[1], 0)
        made: Tensor = self.unet(x.flatten(0, 1), t[0], encoder_hidden_states=states).sample
        return made.reshape(x.shape)


def _published(work: str, module: nn.Module) -> nn.Module:
    """The step with the published network in it; LaVie's differs by what `_as_published` does."""
    if work != "sd15":
        return module
    import diffusers
    from diffusers.pipelines.deprecated.text_to_video_synthesis import (
        pipeline_text_to_video_zero as zero,
    )

    unet = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet.load_state_dict(module.get_submodule("network").state_dict())
    unet.set_attn_processor(zero.CrossFrameAttnProcessor2_0(batch_size=2))
    module.network = _CrossFrame(unet.eval().requires_grad_(False))
    return module


def _as_published(work: str) -> Callable[[], Any]:
    """What to run a published step within."""
    if work in ("sd15", "shapes"):
        return nullcontext
    return lambda: mock.patch.object(F, "scaled_dot_product_attention", _attention)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, scale: Any = None) -> Tensor:
    """With scores in memory, by the operators of the published code."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, keys, values = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    if torch.compiler.is_exporting():  # or the unused tensor becomes a constant of gigabytes
        scores = torch.bmm(rows, keys.transpose(1, 2)) * scale
    else:
        blank = torch.empty(rows.shape[0], rows.shape[1], keys.shape[1], dtype=q.dtype)
        scores = torch.baddbmm(blank, rows, keys.transpose(1, 2), beta=0, alpha=scale)
    if attn_mask is not None:
        scores = (scores.reshape(*q.shape[:-1], -1) + attn_mask).reshape(scores.shape)
    return torch.bmm(scores.softmax(-1), values).reshape(*q.shape[:-1], v.shape[-1])


class _NotExporting:
    """torch, but for frame_attention.py, which then does not put our operator into a graph."""

    class compiler:
        is_exporting = staticmethod(lambda: False)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _plain(asked: Asked, name: str, module: nn.Module, feeds: dict[str, Array]) -> Call:
    """The first way of a work, exported as a user would, on ONNX Runtime's defaults."""
    import onnxruntime

    path = asked.folder / f"plain-{name}-{asked.frames}.onnx"
    if not path.is_file():
        export = multiprocessing.get_context("spawn").Process(
            target=_export_plain, args=(asked, name, path)
        )
        export.start()
        export.join()
    del module
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {tensor.name for tensor in session.get_inputs()}
    given = {key: feed for key, feed in feeds.items() if key in wanted}
    return lambda: session.run(["x_next"], given)[0]  # type: ignore[no-any-return]


def _export_plain(asked: Asked, name: str, path: Path) -> None:
    module = _published(asked.work, _graphs(asked.work)[name].module.eval())
    feeds = _feeds(asked, name)
    with ExitStack() as within:
        within.enter_context(torch.no_grad())
        within.enter_context(_as_published(asked.work)())
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
    plan = plan_of(asked.folder, *specs.values())
    backend, _ = backends.choose(asked.way, plan, threads=asked.threads)
    made = {}
    for name, spec in specs.items():
        engine, feeds = backend.load(asked.folder / spec.file, spec), _feeds(asked, name)
        outputs = {key: backend.put(np.empty_like(feeds["x"])) for key in ("x_next", "x0")}
        inputs = {key: backend.put(feeds[key]) for key in spec.inputs}

        def call(engine: Any = engine, inputs: Any = inputs, outputs: Any = outputs) -> Array:
            engine.run(inputs, outputs)
            return backend.get(outputs["x_next"])

        made[name] = call
    return made, backend


def _specs(asked: Asked) -> dict[str, GraphSpec]:
    """Our graphs of a work, exported once, in a process of its own as it takes memory."""
    kept = asked.folder / "specs.json"
    if not kept.is_file():
        export = multiprocessing.get_context("spawn").Process(
            target=_export_ours, args=(asked.work, asked.folder)
        )
        export.start()
        export.join()
    return msgspec.json.decode(kept.read_bytes(), type=dict[str, GraphSpec])


def _export_ours(work: str, folder: Path) -> None:
    specs = {name: export(graph, name, folder) for name, graph in _graphs(work).items()}
    (folder / "specs.json").write_bytes(msgspec.json.encode(specs))
