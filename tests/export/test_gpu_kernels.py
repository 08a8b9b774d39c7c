"""What can be told of the kernels for GPUs where there is none.

Alone: `pytest tests/export/test_gpu_kernels.py`; on a GPU: `bash benchmarks/gpu_check.sh`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CMAKE = Path(sys.executable).with_name("cmake")
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")) or not CMAKE.is_file(),
    reason="no C++ compiler, or no cmake in the environment",
)
HEADERS = os.environ.get("TENSORRT_INCLUDE_DIR")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")


def output(*words: str | Path) -> str:
    result = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(folder: Path, target: str, told: Sequence[str], sanitize: bool = True) -> Path:
    """What CMake makes of a target of kernels/."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1" if sanitize else ""
    told = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={CMAKE.with_name('ninja')}", *told]
    told += ["-DEDGEREEL_ORT=OFF", f"-DCMAKE_CXX_FLAGS={flags}"]
    output(CMAKE, "-S", ROOT / "kernels", "-B", folder, *told)
    output(CMAKE, "--build", folder, "--target", target)
    return folder / target


@pytest.mark.slow
@needs_compiler
def test_the_kernel_for_gpus_on_this_cpu(tmp_path: Path) -> None:
    """kernels/tests/gpu_test.cc: lanes as fibers, every head size, against double precision."""
    assert "passed" in output(build(tmp_path, "gpu_test", ["-DEDGEREEL_TESTS=ON"]))


@pytest.mark.slow
@needs_nvcc
def test_no_kernel_spills() -> None:
    """The oldest and the newest GPUs; kernels/tests/registers.py by itself has them all."""
    told = output(sys.executable, ROOT / "kernels" / "tests" / "registers.py", "80", "120")
    assert told.endswith("64 kernels, 0 spill\n")


@pytest.mark.slow
@needs_compiler
@needs_nvcc
@pytest.mark.skipif(HEADERS is None, reason="TENSORRT_INCLUDE_DIR is not set; no package has them")
def test_the_plugin_as_tensorrt_asks_it(tmp_path: Path) -> None:
    """kernels/tests/plugin_test.cc; needs CUDA's and TensorRT's headers, and neither library."""
    told = ["-DEDGEREEL_TESTS=ON", "-DEDGEREEL_CUDA=OFF", f"-DTENSORRT_INCLUDE_DIR={HEADERS}"]
    assert "passed" in output(build(tmp_path, "plugin_test", told))
