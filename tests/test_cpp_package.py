"""The C++ runtime as others get it: installed, used from C and C++.

Alone: `pytest tests/test_cpp_package.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cpp_probe
import numpy as np
import pytest
from cpp_probe import CHECKS, SOURCE, Probe, tool

import edgereel
from edgereel import pictures

pytest.importorskip("onnxruntime")

TOY = Path(__file__).parent / "data" / "toy"


@pytest.fixture(scope="module")
def prefix(cpp: Probe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is installed, as tests build it."""
    place = tmp_path_factory.mktemp("prefix")
    cpp_probe.run(tool("cmake"), "--install", cpp_probe.BUILD, "--prefix", place)
    return place


def generated(program: Path, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """An example at work on the toy cascade."""
    words = [program, TOY, "a red circle", place / "out.mp4", "18446744073709551615"]
    environment = cpp_probe.environment() | variables
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)


def check_video(place: Path) -> None:
    """The mp4 is that of Python, which writes it with the same ffmpeg."""
    video = edgereel.load(TOY, backend="ort", threads=1)("a red circle", seed=2**64 - 1)
    video.save(place / "python.mp4")
    made, wanted = (pictures.read("v", str(place / name), pictures.Wanted())
                    for name in ("out.mp4", "python.mp4"))  # fmt: skip
    # one level of difference before the codec is a few behind it
    assert made.shape == wanted.shape and np.abs(made.astype(int) - wanted).max() <= 8


def test_examples_use_the_installed_package(prefix: Path, tmp_path: Path) -> None:
    """As the README says it, with the flags of the library under test."""
    flags = [
        f"-DCMAKE_{language}_FLAGS=-g1 {CHECKS} -Wall -Wextra -Werror" for language in ("C", "CXX")
    ]
    ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    cpp_probe.run(tool("cmake"), "-S", SOURCE / "examples", "-B", tmp_path / "build",
                  f"-DCMAKE_PREFIX_PATH={prefix}", *ninja, *flags)  # fmt: skip
    cpp_probe.run(tool("cmake"), "--build", tmp_path / "build")
    for name in ("generate_c", "generate_cpp"):
        result = generated(tmp_path / "build" / name, tmp_path)
        assert result.returncode == 0, result.stderr
        assert "100 %" in result.stderr
        check_video(tmp_path)
        (tmp_path / "out.mp4").unlink()
        result = generated(tmp_path / "build" / name, tmp_path, EDGEREEL_ONNXRUNTIME="/nowhere.so")
        assert result.returncode == 1
        assert "ONNX Runtime does not load" in result.stderr and "pip install" in result.stderr


def test_pkg_config_finds_it(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    folder = next(prefix.rglob("edgereel.pc")).parent
    flags = cpp_probe.run("pkg-config", "--cflags", "--libs", "edgereel",
                          env={**os.environ, "PKG_CONFIG_PATH": str(folder)}).split()  # fmt: skip
    command = ["cc", *CHECKS.split(), SOURCE / "examples/generate.c", *flags,
               f"-Wl,-rpath,{folder.parent}", "-o", tmp_path / "app"]  # fmt: skip
    cpp_probe.run(*command)
    result = generated(tmp_path / "app", tmp_path)
    assert result.returncode == 0, result.stderr


def test_only_the_c_interface_is_visible(prefix: Path) -> None:
    library = next(prefix.rglob("libedgereel.so"))
    lines = cpp_probe.run("nm", "-D", "--defined-only", library).splitlines()
    ours = {line.split()[-1] for line in lines if "edgereel" in line.split()[-1]}
    header = (SOURCE / "include/edgereel.h").read_text()
    assert len(ours) == header.count("EDGEREEL_API ") - header.count("#define EDGEREEL_API ")
    assert all(name.startswith("edgereel_") for name in ours)
