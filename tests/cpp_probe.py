"""Builds the C++ runtime with sanitizers and asks its test program, runtime/cpp/tests/probe.cc."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgereel

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "runtime" / "cpp"
BUILD = ROOT / "build" / "cpp-test"
# What ASan finds by itself is left to it: those checks are many, and slow to compile.
CHECKS = "-fsanitize=address,undefined -fno-sanitize=null,vptr -fno-sanitize-recover=all"
KINDS = {1: "PlanError", 2: "InputError", 3: "BackendUnavailable", 4: "EngineError",
         5: "OutputError", 6: "Cancelled"}  # fmt: skip


class Refused(Exception):
    """What the C++ runtime refuses: its sentence, and the kind of error in Python's words."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = KINDS.get(status, f"status {status}")


def missing() -> str:
    """Why nothing can be built here; empty if it can."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "no C++ compiler"
    cmake = Path(sys.executable).with_name("cmake")
    return "" if cmake.is_file() else "no cmake in the environment: pip install -e '.[dev]'"


def run(*words: str | Path, **options: Any) -> str:
    """What a command writes; fails with it if the command does."""
    result = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{words}\n{result.stdout[-8000:]}{result.stderr[-8000:]}"
    return result.stdout


def tool(name: str) -> Path:
    """A program of the environment."""
    return Path(sys.executable).with_name(name)


def configured(folder: Path, *options: str) -> None:
    """Configures a build of the runtime."""
    ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    try:
        run(tool("cmake"), "-S", SOURCE, "-B", folder, *ninja, *options)
    except AssertionError as error:
        if "could not be downloaded" in " ".join(str(error).split()):
            pytest.skip("no network for the headers of Debian packages")
        raise


@contextmanager
def locked() -> Iterator[None]:
    """One process at a time builds."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built() -> Path:
    """The folder of the build; what did not change since is not made again."""
    with locked():
        flags = [f"-DCMAKE_{language}_FLAGS=-O0 -g1 {CHECKS}" for language in ("C", "CXX")]
        configured(BUILD, "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_UNITY_BUILD=ON",
                   "-DEDGEREEL_TESTS=ON", *flags)  # fmt: skip
        run(tool("cmake"), "--build", BUILD)
    return BUILD


def environment() -> dict[str, str]:
    """Where ONNX Runtime and ffmpeg of this environment are, for the library."""
    import imageio_ffmpeg

    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    return {
        **os.environ,
        "EDGEREEL_ONNXRUNTIME": str(Path(spec.origin).parent / "capi"),
        "IMAGEIO_FFMPEG_EXE": imageio_ffmpeg.get_ffmpeg_exe(),
        # What ONNX Runtime keeps to the end of a process is not ours.
        "LSAN_OPTIONS": f"suppressions={SOURCE / 'tests' / 'leaks.txt'}:print_suppressions=0",
    }


class Probe:
    """The test program at work."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(),
        )  # fmt: skip

    def ask(self, do: str, **request: Any) -> bytes:
        """The answer to a request.

        Raises:
            Refused: with the sentence of the C++ runtime.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps({"do": do, **request}, ensure_ascii=False)
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if len(answer) < 2:
            raise AssertionError(f"the program ended:\n{self.close()[1]}")
        content = bytes.fromhex(answer[2].decode()) if len(answer) > 2 else b""
        if answer[0] == b"error":
            raise Refused(int(answer[1]), content.decode(errors="replace"))
        return content

    def memory(self, name: str) -> int:
        """Bytes of its VmRSS, or VmHWM, the most of that so far."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024

    def close(self) -> tuple[int, str]:
        """Its exit code, and what the sanitizers wrote."""
        _, told = self._process.communicate(timeout=60)
        return self._process.returncode, told.decode(errors="replace")


class Made:
    """What a call of the C++ runtime made."""

    def __init__(self, answer: bytes) -> None:
        head, sizes, pixels = _split(answer)
        self.frames: NDArray[np.uint8] = np.frombuffer(pixels, np.uint8).reshape(sizes)
        lines = head.splitlines()
        self.fps = float(lines[-1].removeprefix("fps "))
        self.warnings = [w.removeprefix("warning ") for w in lines if w.startswith("warning ")]
        self.previews = next(int(w.split()[1]) for w in lines if w.startswith("previews "))
        self.steps = lines[: next(i for i, w in enumerate(lines) if w.startswith("previews "))]


def _split(answer: bytes) -> tuple[str, list[int], bytes]:
    head, _, rest = answer.partition(b"\nsizes")
    sizes, _, pixels = rest.partition(b"\n")
    return head.decode(), [int(n) for n in sizes.split()], pixels


def call(
    folder: Path,
    settings: Mapping[str, Any],
    place: Path,
    noise: Mapping[str, Any] | None = None,
    **request: Any,
) -> dict[str, Any]:
    """A request for frames; arrays of settings and noise go through files in `place`."""
    arrays = 0

    def plain(value: Any) -> Any:
        nonlocal arrays
        if not isinstance(value, np.ndarray):
            return str(value) if isinstance(value, Path) else value
        arrays += 1
        file = place / f"array{arrays}.raw"
        file.write_bytes(np.ascontiguousarray(value).tobytes())
        return {"file": str(file), "dtype": str(value.dtype), "sizes": list(value.shape)}

    request["settings"] = {name: plain(value) for name, value in settings.items()}
    request["noise"] = {name: plain(value) for name, value in (noise or {}).items()}
    return {"folder": str(folder), **request}


def of_other_test(name: str) -> Any:
    """A module of tests, for its lists."""
    spec = importlib.util.spec_from_file_location(f"lists_of_{name}", ROOT / "tests" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentence(ask: Callable[[], object]) -> str:
    """What a call is refused with, by Python or C++; empty if it is not."""
    try:
        ask()
    except (edgereel.EdgereelError, ValueError) as error:
        return str(error)
    except Refused as error:
        return str(error)
    return ""
