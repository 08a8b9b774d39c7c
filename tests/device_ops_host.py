"""The kernels of device_ops.cu on the CPU: the same source, one thread after the other."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SOURCE", "run"]

SOURCE = Path(__file__).parents[1] / "runtime/cpp/src/device_ops.cu"
_CPU = """
#include <cmath>
struct Size { unsigned x; };
extern "C" { Size blockIdx, threadIdx, blockDim, gridDim; }
#define __global__
#include "%s"
"""


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler is here")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "cpu.cc", Path(folder) / "cpu.so"
        source.write_text(_CPU % SOURCE)
        flags = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
        subprocess.run([compiler, *flags, source, "-o", made], check=True)
        return ctypes.CDLL(str(made))


def run(kernel: str, grid: int, block: int, values: Sequence[Any], types: Sequence[Any]) -> None:
    """All threads of a launch."""
    library = _library()
    size = {name: ctypes.c_uint.in_dll(library, f"{name}Dim") for name in ("grid", "block")}
    index = [ctypes.c_uint.in_dll(library, f"{name}Idx") for name in ("block", "thread")]
    size["grid"].value, size["block"].value = grid, block
    given = [kind(value) for kind, value in zip(types, values, strict=True)]
    for index[0].value in range(grid):
        for index[1].value in range(block):
            library[kernel](*given)
