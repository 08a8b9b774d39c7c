"""How to compile a cascade, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgereel import builds

__all__ = ["Options", "Result"]


@dataclass(frozen=True)
class Options:
    """How to compile; all of it is part of the build's key."""

    precision: builds.Precision = "fp16"  # where plan.json does not say it of a graph
    compute_capabilities: tuple[str, ...] | None = None  # None = this GPU, or all of 8.0 and newer
    library: str | None = None  # None = what fits this machine, see trt_library.library
    keep_float32: tuple[str, ...] = ()  # op types or module paths, beyond precision.ISLANDS
    workspace_mib: int | None = None  # most scratch memory a kernel may use
    weight_streaming: bool = False  # the runtime may leave weights in host memory
    optimization_level: int | None = None  # 0 (quick build) to 5; None = the library's own
    sizes: tuple[str, ...] = ()  # what trt_sizes.read_sizes takes, such as "height=512"
    buckets: tuple[str, ...] = ()  # what trt_buckets.read_asked takes, such as "16x320x512"
    plugin: bool = False  # attention over frames by our plugin, not from its definition
    ranges: bool = True  # measure which values float16 cannot hold
    refit: tuple[str, ...] = ()  # patterns of weights that can be replaced without compiling
    layout: Literal["video", "folded"] = "video"  # of graphs with convolutions over frames


@dataclass(frozen=True)
class Result:
    """A complete build, and which part of it was there before."""

    build: builds.Build
    compiled: tuple[str, ...]
    reused: tuple[str, ...]  # engines taken from another build
    cached: bool  # the whole build was there
