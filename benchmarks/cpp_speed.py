"""The C++ runtime against Python on one cascade, in turn in one run.

Each makes the same video as a process of its own, N times, in turn: seconds from the start to the
first step done, to the end with the mp4 written, and the most memory the process held. Also the
sizes of the C++ library, stripped. The example runtime/cpp/examples/generate.c is the C++ side; it
and the library are built by this script, without sanitizers.

    python export/build.py shapes
    python benchmarks/cpp_speed.py
    python benchmarks/cpp_speed.py --cascade engines/lavie-shapes --runs 5

Both use the same ONNX Runtime, the same ffmpeg and, where they are installed, the same kernels. The
output is markdown; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
PROMPT = "a red circle moving right"
SEED = "7"
# Marks every call of the callback as generate.c does, with a carriage return on stderr.
PYTHON = """
import sys, edgereel
told = lambda progress: print(end="\\r", file=sys.stderr, flush=True)
video = edgereel.load(sys.argv[1], backend="ort")(sys.argv[2], seed=int(sys.argv[4]), callback=told)
video.save(sys.argv[3])
"""
FIRST_STEP = 2  # calls of the callback: the stage begins, its first graph is done
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    options = _options(argv)
    with tempfile.TemporaryDirectory() as folder:
        program, library = _built(Path(folder))
        commands = {"C++": [str(program)], "Python": [sys.executable, "-c", PYTHON]}
        runs: dict[str, list[Result]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, command in commands.items():
                out = Path(folder) / "out.mp4"
                words = [*command, str(options.cascade), PROMPT, str(out), SEED]
                runs[name].append(_measured(words, _environment()))
                out.unlink()
        sizes = {name: path.stat().st_size for name, path in library.items()}
    _report(runs, sizes)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cascade", type=Path, default=ROOT / "engines" / "shapes")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(argv)
    if not (options.cascade / "plan.json").is_file():
        parser.error(f"{options.cascade} is no cascade. Build one: python export/build.py shapes")
    return options


def _built(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The example in C, and the library that it opens."""
    tool = Path(sys.executable).with_name
    ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    build, prefix, example = ROOT / "build" / "cpp", folder / "prefix", folder / "example"
    for words in (
        ["-S", str(ROOT / "runtime/cpp"), "-B", str(build), *ninja],
        ["--build", str(build)],
        ["--install", str(build), "--prefix", str(prefix), "--strip"],
        ["-S", str(ROOT / "runtime/cpp/examples"), "-B", str(example), *ninja,
         f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release"],
        ["--build", str(example)],
    ):  # fmt: skip
        subprocess.run([str(tool("cmake")), *words], check=True, stdout=subprocess.DEVNULL)
    library = next(path for path in prefix.rglob("libedgereel.so") if path.is_file())
    return example / "generate_c", {"libedgereel.so": library.resolve()}


def _environment() -> dict[str, str]:
    """The libraries that Python finds by itself, for the C++ runtime."""
    import imageio_ffmpeg

    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("onnxruntime is not installed: pip install 'edgereel[ort]'")
    found = {
        "EDGEREEL_ONNXRUNTIME": str(Path(spec.origin).parent / "capi"),
        "IMAGEIO_FFMPEG_EXE": imageio_ffmpeg.get_ffmpeg_exe(),
        "EDGEREEL_KERNELS": "",
    }
    if kernels := importlib.util.find_spec("edgereel_kernels"):
        folder = Path(str(kernels.origin)).parent
        found["EDGEREEL_KERNELS"] = str(next(folder.glob("libedgereel_ort.*")))
    path = os.pathsep.join([str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **found, "PYTHONPATH": path}


def _measured(words: Sequence[str], environment: Mapping[str, str]) -> Result:
    """Seconds and peak memory of a process that marks its steps."""
    started = time.monotonic()
    child = subprocess.Popen(words, stderr=subprocess.PIPE, env=environment)
    assert child.stderr is not None
    first, marks, told = None, 0, b""
    while piece := os.read(child.stderr.fileno(), 4096):
        marks, told = marks + piece.count(b"\r"), told + piece
        if first is None and marks >= FIRST_STEP:
            first = time.monotonic() - started
    _, status, usage = os.wait4(child.pid, 0)
    spent = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or first is None:
        raise SystemExit(f"{words[0]}: {told.decode(errors='replace')}")
    return {
        "first_step_seconds": round(first, 3),
        "seconds": round(spent, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def _report(runs: Mapping[str, Sequence[Result]], sizes: Mapping[str, int]) -> None:
    def median(name: str, field: str) -> float:
        return statistics.median(run[field] for run in runs[name])

    print("| | C++ | Python | C++ / Python |\n|---|--:|--:|--:|")
    for field, words, unit, scale in (
        ("first_step_seconds", "start to first step", "s", 1),
        ("seconds", "start to mp4", "s", 1),
        ("cpu_seconds", "processor time, ffmpeg's included", "s", 1),
        ("peak_rss_bytes", "most memory", "MiB", 2**20),
    ):
        one, other = median("C++", field) / scale, median("Python", field) / scale
        print(f"| {words} | {one:.2f} {unit} | {other:.2f} {unit} | {one / other:.2f} |")
    for name, size in sizes.items():
        print(f"| {name}, stripped | {size / 1024:.0f} KiB | | |")
    print(f"\nMedians of {len(runs['C++'])} runs in turn.\n")
    import shapes_report  # brings torch: only after all was measured

    facts = {"runs": runs, "sizes": sizes, **shapes_report.machine(), "command": sys.argv}
    print(json.dumps(facts))


if __name__ == "__main__":
    if shutil.which("c++") is None:
        raise SystemExit("There is no C++ compiler. Install one, for example apt-get install g++.")
    raise SystemExit(main())
