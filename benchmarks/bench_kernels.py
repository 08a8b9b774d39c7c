"""Edgereel's operators: the kernel, its definition, PyTorch and the memory's own speed, in one run.

    python benchmarks/bench_kernels.py
    python benchmarks/bench_kernels.py --threads 1 --rounds 20

Per shape, in turn and again: attention over frames (or within them, to a text, or a group norm) by
the kernel in ONNX Runtime, by its definition there, by PyTorch with what stands around it (turning,
bias, transposes), by PyTorch's scaled_dot_product_attention alone on tensors that lie as it wants
them, and a copy of as many bytes as the kernel has to read and write. The time of each is the least
of all rounds.

Where there is a CUDA GPU and the kernels were built with CUDA, the same of attention there, in both
precisions, timed by CUDA events on recorded graphs, without ONNX Runtime.

Needs the `export` and `ort` extras and `pip install ./kernels`. The last line of the output is one
JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gpu_kernels
import numpy as np
import onnx
import onnxruntime
import torch
from shapes_report import machine
from torch.nn import functional as F
from tqdm import tqdm

from edgereel import kernel_library
from edgereel.backends.ort import session_options
from edgereel_export import group_norm, plain_attention, temporal_attention
from edgereel_export.modules.frame_attention import Turns, attend_frames

__all__ = ["main"]

Runs = dict[str, Callable[[], object]]


class _Attention(NamedTuple):
    """Rows of guidance, frames, pixels, channels, heads; channels of a head that are turned."""

    rows: int
    frames: int
    pixels: int
    channels: int
    heads: int
    turned: int
    interleaved: bool = True


_ATTENTIONS = {
    "LaVie base, 40 x 64": _Attention(2, 16, 2560, 320, 8, 32),
    "LaVie base, 20 x 32": _Attention(2, 16, 640, 640, 8, 32),
    "LaVie base, 10 x 16": _Attention(2, 16, 160, 1280, 8, 32),
    "LaVie base, 5 x 8": _Attention(2, 16, 40, 1280, 8, 32),
    "LaVie interpolation, 40 x 64": _Attention(1, 61, 2560, 320, 8, 0),
    "shapes decoder, 32 x 32": _Attention(2, 16, 1024, 48, 3, 16, False),
    "shapes decoder, 16 x 16": _Attention(2, 16, 256, 96, 6, 16, False),
    "shapes LaVie, 8 x 8": _Attention(2, 16, 64, 64, 2, 32),
}
_PLAIN = {  # rows, heads, places, places that are looked at, channels of a head
    "within 4 frames, LaVie base, 40 x 64": (4, 8, 2560, 2560, 40),
    "within 32 frames, LaVie base, 20 x 32": (32, 8, 640, 640, 80),
    "of 32 frames to a text, LaVie base, 40 x 64": (32, 8, 2560, 77, 40),
}
_NORMS = {  # rows, channels, frames, pixels: all frames of a row together; 32 groups
    "LaVie base, 40 x 64": (2, 320, 16, 2560),
    "LaVie base, 10 x 16": (2, 1280, 16, 160),
}


def main(argv: Sequence[str] | None = None) -> int:
    """0; 2 where the kernels are not installed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    library = kernel_library.path()
    if library is None:
        print("the kernels are not installed: pip install ./kernels", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    found: list[dict[str, Any]] = []
    kinds: list[tuple[str, Callable[..., tuple[Runs, int]], Mapping[str, Any]]] = [
        ("attention", _attention, _ATTENTIONS),
        ("attention", _plain, _PLAIN),
        ("group norm", _norm, _NORMS),
    ]
    cases = [
        (what, name, make, shape) for what, make, shapes in kinds for name, shape in shapes.items()
    ]
    for what, name, make, shape in tqdm(cases, unit="shape"):
        runs, size = make(shape, options.threads)
        found.append({"what": what, "shape": name, "bytes": size, **_least(runs, options.rounds)})
    found += _on_gpu(options.rounds)
    print(_table(found))
    print(json.dumps({"results": found, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _on_gpu(rounds: int) -> list[dict[str, Any]]:
    """Attention on a GPU; nothing where there is none."""
    launch = gpu_kernels.launcher()
    if launch is None:
        return []
    found = []
    for dtype, (name, shape) in itertools.product((torch.float16, torch.float32),
                                                  _ATTENTIONS.items()):  # fmt: skip
        width = shape.channels // shape.heads
        if width % 8:
            continue
        case = gpu_kernels.Case(shape.rows, shape.frames, shape.pixels, shape.heads, width,
                                shape.turned, shape.interleaved, shape.turned == 32)  # fmt: skip
        runs, size = gpu_kernels.runs(launch, case, dtype)
        what = f"attention, {torch.cuda.get_device_name()}, {str(dtype).removeprefix('torch.')}"
        least = gpu_kernels.time_ms(runs, rounds)
        found.append({"what": what, "shape": name, "bytes": size, **least})
    return found


def _session(node: Any, body: str, feeds: dict[str, Any], threads: int, kernels: bool) -> Any:
    """A graph of one operator."""
    values = [onnx.helper.make_tensor_value_info(key, 1, None) for key in feeds]
    out = onnx.helper.make_tensor_value_info("out", 1, None)
    graph = onnx.helper.make_graph([node], "graph", values, [out])
    versions = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("edgereel", 1)]
    functions = [onnx.parser.parse_function(body)]
    model = onnx.helper.make_model(
        graph, functions=functions, opset_imports=versions, ir_version=10
    )
    options = session_options(threads, kernel_library.path() if kernels else None)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def _in_onnx_runtime(node: Any, body: str, feeds: dict[str, Any], out: Any, threads: int) -> Runs:
    """Both ways to run it, into the same output."""
    runs: Runs = {}
    for name in ("kernel", "definition"):
        binding = (session := _session(node, body, feeds, threads, name == "kernel")).io_binding()
        for key, value in feeds.items():
            binding.bind_cpu_input(key, value)
        binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
        kept = session, binding, feeds, out  # a binding holds addresses only
        runs[name] = lambda kept=kept: kept[0].run_with_iobinding(kept[1])  # type: ignore[misc]
    return runs


def _attention(shape: _Attention, threads: int) -> tuple[Runs, int]:
    """What is run for a shape, and the bytes that have to be read and written."""
    rng = np.random.default_rng(0)
    rows, frames, pixels, channels, heads, turned, interleaved = shape
    qkv = rng.standard_normal((rows, frames, pixels, 3 * channels), np.float32)
    feeds, turns, bias = {"qkv": qkv}, None, None
    if turned:
        angle = np.arange(frames)[:, None] * 10000.0 ** (-np.arange(turned // 2) * 2 / turned)
        feeds |= {"cos": np.cos(angle).astype("f"), "sin": np.sin(angle).astype("f")}
        turns = Turns(*(torch.from_numpy(feeds[k]) for k in ("cos", "sin")), interleaved)
    if turned == 32:  # as in LaVie
        feeds["bias"] = rng.standard_normal((heads, frames, frames), np.float32)
        bias = torch.from_numpy(feeds["bias"])
    width = channels // heads
    given = [key if key in feeds else "" for key in ("qkv", "cos", "sin", "bias")]
    attributes = {"heads": heads, "interleaved": int(interleaved), "scale": width**-0.5}
    node = onnx.helper.make_node(
        "TemporalAttention", given, ["out"], domain="edgereel", **attributes
    )
    body = temporal_attention.body(
        turned=turned > 0, biased=bias is not None, interleaved=interleaved
    )
    out = np.empty((rows, frames, pixels, channels), np.float32)
    runs = _in_onnx_runtime(node, body, feeds, out, threads)
    told = torch.from_numpy(qkv)
    q, k, v = torch.randn(3, rows * pixels, heads, frames, width)
    mask = None if bias is None else bias[None]
    runs["PyTorch"] = lambda: attend_frames(told, heads, turns, bias)
    runs["SDPA alone"] = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return _with_copy(runs, qkv.nbytes + out.nbytes)


def _plain(shape: tuple[int, int, int, int, int], threads: int) -> tuple[Runs, int]:
    """As _attention, of attention without a mask."""
    rng = np.random.default_rng(0)
    rows, heads, places, others, width = shape
    sizes = {"q": places, "k": others, "v": others}
    feeds = {
        name: rng.standard_normal((rows, heads, size, width), np.float32)
        for name, size in sizes.items()
    }
    node = onnx.helper.make_node("Attention", list(feeds), ["out"], domain="edgereel")
    out = np.empty_like(feeds["q"])
    runs = _in_onnx_runtime(node, plain_attention.BODY, feeds, out, threads)
    q, k, v = (torch.from_numpy(feed) for feed in feeds.values())
    runs["SDPA alone"] = lambda: F.scaled_dot_product_attention(q, k, v)
    return _with_copy(runs, sum(feed.nbytes for feed in feeds.values()) + out.nbytes)


def _norm(shape: tuple[int, ...], threads: int) -> tuple[Runs, int]:
    """As _attention, of a group norm."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    ones = np.ones(shape[1], np.float32)
    feeds = {"x": x, "scale": ones, "bias": ones}
    node = onnx.helper.make_node(
        "GroupNorm", list(feeds), ["out"], domain="edgereel", num_groups=32, epsilon=1e-5
    )
    runs = _in_onnx_runtime(node, group_norm.BODY, feeds, np.empty_like(x), threads)
    told, one = torch.from_numpy(x), torch.from_numpy(ones)
    runs["PyTorch"] = lambda: F.group_norm(told, 32, one, one)
    return _with_copy(runs, 2 * x.nbytes)


def _with_copy(runs: Runs, size: int) -> tuple[Runs, int]:
    """A copy reads and writes together as many bytes."""
    source, target = torch.ones(2, size // 8)
    return runs | {"copy": lambda: target.copy_(source)}, size


@torch.no_grad()
def _least(runs: Runs, rounds: int) -> dict[str, float]:
    """Milliseconds of each, the least of all rounds; each round runs all in turn."""
    least = dict.fromkeys(runs, float("inf"))
    for call in runs.values():
        call()
    for _ in range(rounds):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            least[name] = min(least[name], (time.perf_counter() - started) * 1e3)
    return {name: round(value, 3) for name, value in least.items()}


def _table(found: list[dict[str, Any]]) -> str:
    """Milliseconds, and how many times the kernel's the others are."""
    others = ("definition", "PyTorch", "SDPA alone", "copy")
    lines = ["| | | kernel, ms | " + " | ".join(others) + " |", "|---|---|" + "--:|" * 5]
    for one in found:
        cells = [
            f"{one[name]:.4g} ({one[name] / one['kernel']:.2f}x)" if name in one else ""
            for name in others
        ]
        lines.append(
            f"| {one['what']} | {one['shape']} | {one['kernel']:.4g} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
