"""Edgereel's own kernels: the package `edgereel-kernels`, made from kernels/.

A cascade's graphs hold the definitions of the operators that these compute, so all of them run
without it. A TensorRT engine that was compiled with its plugin does not.
"""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

from edgereel.errors import BackendUnavailable
from edgereel.files import sha256

__all__ = ["INSTALL_PLUGIN", "name", "path", "plugin", "register_plugin"]

INSTALL_PLUGIN = (
    "Run `pip install ./kernels -C cmake.define.EDGEREEL_CUDA=ON "
    "-C cmake.define.TENSORRT_INCLUDE_DIR=DIR` with the folder of TensorRT's headers"
)


@functools.cache
def path(*, cuda: bool = False) -> Path | None:
    """The library for ONNX Runtime on a CPU or on a GPU, if it is installed."""
    name = "CUDA_LIBRARY" if cuda else "LIBRARY"
    try:
        library: Path | None = getattr(importlib.import_module("edgereel_kernels"), name, None)
    except ImportError:
        return None
    return library


def name(library: Path | None) -> str:
    """What is said of it to people."""
    if library is None:
        return "none: standard operators"
    return f"edgereel-kernels {metadata.version('edgereel-kernels')}"


@functools.cache
def plugin() -> dict[str, str] | None:
    """The plugin for TensorRT, as build.json names it; None where it is not installed."""
    try:
        library: Path | None = getattr(importlib.import_module("edgereel_kernels"), "PLUGIN", None)
    except ImportError:
        return None
    if library is None:
        return None
    version = metadata.version("edgereel-kernels")
    return {"name": "edgereel-kernels", "version": version, "sha256": sha256(library)}


def register_plugin(tensorrt: Any) -> None:
    """Tells a TensorRT of the plugin; before an engine that has it is built or opened.

    Raises:
        BackendUnavailable: it is not installed, or this TensorRT cannot load it.
    """
    try:
        importlib.import_module("edgereel_kernels").register_plugin(tensorrt)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise BackendUnavailable(
            f"The plugin of edgereel-kernels cannot be used ({error}); an engine compiled with "
            f"--plugin expects it. {INSTALL_PLUGIN}, or compile without --plugin."
        ) from error
