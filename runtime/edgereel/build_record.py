"""What build.json says of compiled engines; engines/README.md describes it in words."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Compiler", "Engine", "Precision", "Profile", "Record", "Refit"]

Precision = Literal["fp16", "fp32"]
Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Graph input -> its smallest, preferred and largest shape."""


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every struct of the format: immutable, named fields only, no unknown keys."""


class Compiler(_Strict, frozen=True):
    """What compiled the engines; an engine opens in exactly this version of this library."""

    name: Literal["tensorrt", "tensorrt_rtx"]
    version: str


class Refit(_Strict, frozen=True):
    """A weight of an engine that can be replaced, and where the cascade folder has it."""

    initializer: str  # name in the graph
    parts: tuple[str, ...]  # names in the checkpoint, joined along the outputs if they are several
    shape: tuple[int, ...]  # as stored
    transposed: bool  # stored as [inputs, outputs], in the checkpoint [outputs, inputs]
    file: str  # of `source`
    offset: int  # bytes into it, where float32 numbers begin
    dtype: Literal["float16", "float32"]  # as the engine takes it


class Engine(_Strict, frozen=True):
    """One compiled graph: what it was made from, what it accepts, what it is."""

    file: str
    sha256: str
    bytes: int
    source: dict[str, str]  # every file it was compiled from, relative to the folder -> sha256
    precision: Precision
    profiles: tuple[Profile, ...]  # in the engine's own order
    nodes: int
    parameters: int
    types: dict[str, int]  # element type -> number of kernels that write it
    weights_bytes: int
    activation_bytes: int
    seconds: float
    peak_rss_bytes: int
    decomposed_attention: tuple[str, ...] = ()
    kept_float32: dict[str, str] = {}  # node -> why it is not float16, beyond the usual islands
    measured: dict[str, str] = {}  # what values were measured with, in that -> sha256
    largest_float16: float | None = None  # absolute value that a float16 node made then
    refit: dict[str, Refit] = {}  # weight of the engine -> what it can be replaced by

    @property
    def float_type(self) -> str:
        """The float type that most kernels write: Half, Float or BFloat16; "-" if none does."""
        floats = {t: n for t, n in self.types.items() if t in ("Half", "Float", "BFloat16")}
        return max(floats, key=lambda t: floats[t]) if floats else "-"


class Record(_Strict, frozen=True):
    """build.json."""

    format: int
    key: str
    backend: Literal["trt"]
    library: Compiler
    compute_capabilities: tuple[str, ...]
    options: dict[str, int | str | tuple[str, ...]]
    recipe: str  # hash of the exporter's own rewriting and compiling code
    graphs: dict[str, Engine]
    device: str | None = None
    plugin: dict[str, str] | None = None
