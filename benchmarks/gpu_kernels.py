"""Attention over frames on a CUDA GPU: the kernel's proof, and what bench_kernels.py times there.

    python benchmarks/gpu_kernels.py     # proof: every number of frames, head size, way of turning

Each output lies between margins and starts as NaN, as do these; it is compared with the formula in
float64 on the same GPU. Needs torch with CUDA and edgereel-kernels built with CUDA. The last line
of the output is one JSON object.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from shapes_report import machine
from torch import Tensor
from torch.nn import functional as F

from edgereel import kernel_library
from edgereel_export.modules.frame_attention import Turns, attend_frames

__all__ = ["Case", "Launcher", "launcher", "main", "runs", "time_ms"]

# Largest error that is allowed. float32: sums of at most 160 products of normal numbers, each kept
# to 2^-22, added up by tensor cores that round towards zero; float16: turned queries and keys,
# weights and results are rounded to 2^-12 of their size.
BOUNDS = {torch.float32: 3e-5, torch.float16: 2.5e-3}
MARGIN = 4096  # values before and after an output
REPEATS = 20  # calls of one timed graph


class Case(NamedTuple):
    """Rows, frames, pixels, heads, head size; channels that are turned."""

    rows: int
    frames: int
    pixels: int
    heads: int
    width: int
    turned: int = 0
    interleaved: bool = True
    biased: bool = False


class Inputs(NamedTuple):
    """On the GPU; None where a case has none."""

    qkv: Tensor
    cos: Tensor | None
    sin: Tensor | None
    bias: Tensor | None


class Launcher:
    """The kernel, queued on PyTorch's stream."""

    def __init__(self, library: Path) -> None:
        self._call = ctypes.CDLL(str(library)).edgereel_temporal_attention
        self._call.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_float,
                               ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p]  # fmt: skip

    def __call__(self, case: Case, inputs: Inputs, out: Tensor) -> None:
        """Fills `out` [B, F, S, C]; RuntimeError with CUDA's number of an error."""
        rows, frames, pixels, heads, width, turned, interleaved, _ = case
        sizes = (ctypes.c_int64 * 7)(rows, frames, pixels, heads, width, turned, interleaved)
        tensors = (*inputs, out)
        pointers = (ctypes.c_void_p * 5)(*(None if t is None else t.data_ptr() for t in tensors))
        half = int(inputs.qkv.dtype == torch.float16)
        stream = torch.cuda.current_stream().cuda_stream
        error = self._call(half, sizes, width**-0.5, pointers, stream)
        if error:
            raise RuntimeError(f"{case}: cudaError_t {error}")


def launcher() -> Launcher | None:
    """None where there is no GPU or the kernels were built without CUDA."""
    library = kernel_library.path(cuda=True)
    return Launcher(library) if library is not None and torch.cuda.is_available() else None


def make(case: Case, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Normal numbers, and angles that grow with the frame."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda")

    channels = case.heads * case.width
    qkv = normal(case.rows, case.frames, case.pixels, 3 * channels).to(dtype)
    angle = torch.arange(case.frames, device="cuda")[:, None] * normal(case.turned // 2)
    cos, sin = (angle.cos(), angle.sin()) if case.turned else (None, None)
    bias = normal(case.heads, case.frames, case.frames) if case.biased else None
    return Inputs(qkv, cos, sin, bias)


def reference(case: Case, inputs: Inputs) -> Tensor:
    """The formula in float64."""
    qkv, cos, sin, bias = (None if t is None else t.double() for t in inputs)
    assert qkv is not None
    parts = qkv.unflatten(-1, (3, case.heads, case.width)).permute(3, 0, 2, 4, 1, 5)
    q, k, v = parts.unbind()  # [B, S, heads, F, d]
    if cos is not None and sin is not None:
        q, k = (_turned(x, case, torch.complex(cos, sin)) for x in (q, k))
    scores = q @ k.mT * case.width**-0.5
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (weights @ v).permute(0, 3, 1, 2, 4).flatten(-2)


def _turned(x: Tensor, case: Case, turn: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, turned."""
    step, half = (2, 1) if case.interleaved else (1, case.turned // 2)
    ones = torch.arange(case.turned // 2, device=x.device) * step
    both = torch.complex(x[..., ones], x[..., ones + half]) * turn
    x = x.clone()
    x[..., ones], x[..., ones + half] = both.real, both.imag
    return x


def error(launch: Launcher, case: Case, dtype: torch.dtype) -> float:
    """The largest error; infinite where a value is missing or one was written outside."""
    inputs = make(case, dtype)
    shape = (case.rows, case.frames, case.pixels, case.heads * case.width)
    size = torch.Size(shape).numel()
    memory = torch.full((size + 2 * MARGIN,), torch.nan, dtype=dtype, device="cuda")
    out = memory[MARGIN : MARGIN + size].view(shape)
    launch(case, inputs, out)
    torch.cuda.synchronize()
    outside = torch.cat([memory[:MARGIN], memory[-MARGIN:]])
    if out.isnan().any() or not outside.isnan().all():
        return float("inf")
    return float((out.double() - reference(case, inputs)).abs().max())


def cases() -> Iterator[Case]:
    """One, primes, and one past half a tile, a tile, and more; every head size; LaVie's own."""
    for frames in (1, 2, 7, 8, 9, 13, 16, 17, 31, 33, 61, 76, 127, 128):
        for width, biased in itertools.product(range(8, 161, 8), (False, True)):
            yield Case(1, frames, 3, 3, width, 0, True, biased)
            yield Case(2, frames, 5, 2, width, width - 2, True, biased)
            yield Case(2, frames, 1, 3, width, width, False, biased)
    for pixels, width in ((2560, 40), (640, 80), (160, 160), (40, 160)):
        yield Case(2, 16, pixels, 8, width, 32, True, True)
        yield Case(1, 61, pixels, 8, width)


def runs(
    launch: Launcher, case: Case, dtype: torch.dtype
) -> tuple[dict[str, Callable[[], Any]], int]:
    """What is timed for a case, and the bytes that have to be read and written."""
    inputs = make(case, dtype)
    channels = case.heads * case.width
    out = torch.empty((*inputs.qkv.shape[:3], channels), dtype=dtype, device="cuda")
    turns = None
    if inputs.cos is not None and inputs.sin is not None:
        turns = Turns(inputs.cos, inputs.sin, case.interleaved)
    shape = (3, case.rows * case.pixels, case.heads, case.frames, case.width)
    q, k, v = torch.randn(shape, dtype=dtype, device="cuda")
    mask = None if inputs.bias is None else inputs.bias[None].to(dtype)
    size = inputs.qkv.nbytes + out.nbytes
    source, target = torch.ones(2, size // 8, device="cuda")
    return {
        "kernel": lambda: launch(case, inputs, out),
        "PyTorch": lambda: attend_frames(inputs.qkv, case.heads, turns, inputs.bias),
        "SDPA alone": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "copy": lambda: target.copy_(source),
    }, size


@torch.no_grad()
def time_ms(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the least of all rounds; each round runs all in turn.

    Calls are recorded as a CUDA graph of REPEATS, so that the host's time is not measured.
    """
    graphs = {}
    for name, call in calls.items():
        call()
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            for _ in range(REPEATS):
                call()
        graphs[name].replay()
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            least[name] = min(least[name], start.elapsed_time(end) / REPEATS)
    return {name: round(value, 4) for name, value in least.items()}


@torch.no_grad()
def main() -> int:
    """0; 1 where an error is too large; 2 without a GPU or kernels for it."""
    launch = launcher()
    if launch is None:
        print("no CUDA GPU, or the kernels were built without CUDA: pip install ./kernels "
              "-C cmake.define.EDGEREEL_CUDA=ON", file=sys.stderr)  # fmt: skip
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    worst = dict.fromkeys(BOUNDS, 0.0)
    failed, count = 0, 0
    for case, dtype in itertools.product(cases(), BOUNDS):
        found = error(launch, case, dtype)
        worst[dtype] = max(worst[dtype], found)
        count += 1
        if not found <= BOUNDS[dtype]:
            failed += 1
            print(f"{case}, {dtype}: error {found:g}, at most {BOUNDS[dtype]:g} allowed")
    errors = {str(dtype).removeprefix("torch."): value for dtype, value in worst.items()}
    print(f"{count} cases, {failed} failed; largest errors {errors}")
    print(json.dumps({"cases": count, "failed": failed, "errors": errors,
                      "gpu": torch.cuda.get_device_name(), "machine": machine()}))  # fmt: skip
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
