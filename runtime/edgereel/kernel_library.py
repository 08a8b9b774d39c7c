"""Edgereel's own kernels for ONNX Runtime: the package `edgereel-kernels`, made from kernels/.

A cascade's graphs hold the definitions of the operators that these compute, so all of them run
without it.
"""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from pathlib import Path

__all__ = ["name", "path"]


@functools.cache
def path() -> Path | None:
    """The library, if it is installed."""
    try:
        library: Path = importlib.import_module("edgereel_kernels").LIBRARY
    except ImportError:
        return None
    return library


def name(library: Path | None) -> str:
    """What is said of it to people."""
    if library is None:
        return "none: standard operators"
    return f"edgereel-kernels {metadata.version('edgereel-kernels')}"
