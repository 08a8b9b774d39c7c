"""What the process that compiles one graph is told, and what it tells."""

from __future__ import annotations

import msgspec

from edgereel.builds import Precision, Profile, Refit

__all__ = ["Job", "Made"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to compile."""

    graph: str
    source: str
    target: str
    library: str
    precision: Precision
    denoise: bool
    profiles: tuple[Profile, ...]
    outputs: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    keep_float32: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    weight_streaming: bool = False  # weights may stay in host memory while it runs
    plugin: bool = False  # attention over frames by our plugin
    folded: bool = False  # frames stay in the batch, as the graph has them
    golden: str | None = None  # reference inputs to measure values with; None = do not
    rows: tuple[tuple[float, ...], ...] = ()  # of a denoising step, to measure it with
    refit: tuple[str, ...] = ()  # patterns of weights that can be replaced later
    place: str = ""  # of `source` in the cascade folder


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; the fields of builds.Engine that only the child knows."""

    nodes: int
    parameters: int
    types: dict[str, int]
    weights_bytes: int
    activation_bytes: int
    seconds: float
    peak_rss_bytes: int
    decomposed_attention: tuple[str, ...]
    kept_float32: dict[str, str]
    largest_float16: float | None = None
    refit: dict[str, Refit] = {}
