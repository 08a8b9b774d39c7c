"""The C++ runtime's provider trt on a GPU that is none: runtime/cpp/tests/fake_gpu.hpp.

Alone: `TENSORRT_INCLUDE_DIR=DIR pytest tests/test_cpp_trt.py`. Needs CUDA's and TensorRT's headers,
and neither library.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cpp_probe
import pytest
from cpp_probe import CHECKS, Probe, Refused, tool
from msgspec import structs

from edgereel import builds, plan

HEADERS = os.environ.get("TENSORRT_INCLUDE_DIR")
DATA = Path(__file__).parent / "data"
TYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32",
         "uint8": "UINT8", "bool": "BOOL"}  # fmt: skip
# How sizes of the trace's outputs follow from those of its inputs.
GROWN: dict[int | str, str] = {"h": "H/4", "w": "W/4", "H": "h*4", "W": "w*4"}


def engine_of(spec: plan.GraphSpec) -> bytes:
    """The plan of a fake engine, as fake_tensorrt.cc reads it."""
    lines = ["scratch 512"]
    known = {axis for tensor in spec.inputs.values() for axis in tensor.shape}
    for side, tensors in (("in", spec.inputs), ("out", spec.outputs)):
        for name, tensor in tensors.items():
            axes = [axis if axis in known else GROWN.get(axis, axis) for axis in tensor.shape]
            lines.append(" ".join([name, TYPES[tensor.dtype], side, *map(str, axes)]))
    return "\n".join(lines).encode()


def profile_of(spec: plan.GraphSpec) -> builds.Profile:
    """All shapes that there can be."""
    spans = {}
    for name, tensor in spec.inputs.items():
        low = tuple(size if isinstance(size, int) else 1 for size in tensor.shape)
        high = tuple(size if isinstance(size, int) else 4096 for size in tensor.shape)
        spans[name] = (low, low, high)
    return spans


def compiled(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a cascade with a build of fake engines; `content` changes those."""
    shutil.copytree(source, folder)
    content, weights_bytes = changes.pop("content", None), changes.pop("weights_bytes", 0)
    loaded = plan.load(folder)
    engines, contents = {}, {}
    for name, spec in loaded.graphs.items():
        contents[name] = content or engine_of(spec)
        engines[name] = builds.Engine(
            file=f"{name}.engine", sha256=hashlib.sha256(contents[name]).hexdigest(), bytes=1,
            source={file: loaded.files[file] for file in (spec.file, *spec.weights)},
            precision=spec.precision or "fp16", profiles=(profile_of(spec),), nodes=1,
            parameters=0, types={}, weights_bytes=weights_bytes, activation_bytes=0, seconds=0.0,
            peak_rss_bytes=0,
        )  # fmt: skip
    facts: dict[str, Any] = {
        "format": 1, "key": "", "backend": "trt", "compute_capabilities": ("8.9",), "recipe": "",
        "library": builds.Compiler(name="tensorrt", version="11.3.0"), "options": {},
    } | changes  # fmt: skip
    record = builds.Record(graphs=engines, **facts)
    record = structs.replace(record, key=builds.record_key(record))
    build = folder / "builds" / record.key
    build.mkdir(parents=True)
    for name, built in engines.items():
        (build / built.file).write_bytes(contents[name])
    (build / builds.FILE).write_bytes(builds.encode(record))
    return folder


@pytest.fixture(scope="module")
def program() -> Path:
    """The test program, built with sanitizers."""
    if reason := cpp_probe.missing():
        pytest.skip(reason)
    if HEADERS is None:
        pytest.skip("TENSORRT_INCLUDE_DIR is not set; no package has TensorRT's headers")
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not here, which CMake finds CUDA's headers by")
    build = cpp_probe.BUILD.with_name("cpp-trt")
    cpp_probe.configured(
        build, "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_UNITY_BUILD=ON", "-DEDGEREEL_TESTS=ON",
        "-DEDGEREEL_TENSORRT=ON", f"-DTENSORRT_INCLUDE_DIR={HEADERS}",
        f"-DCMAKE_CXX_FLAGS=-O0 -g1 {CHECKS}",
    )  # fmt: skip
    cpp_probe.run(tool("cmake"), "--build", build, "--target", "trt_test")
    return build / "trt_test"


def told(program: Path, *words: str | Path) -> list[str]:
    """The lines that it says; it ends well, and leaks nothing."""
    result = subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=300, env=cpp_probe.environment()
    )
    assert result.returncode == 0 and not result.stderr, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_the_parts(program: Path) -> None:
    assert told(program) == ["passed"]


CALLS = [
    ("toy", "video", ["prompt=a red circle", "seed=3"], 3),
    ("toy", "preview", ["prompt=a"], 1),
    ("trace", "paint", ["frames=16", "height=64", "width=64", "frames_at_once=3"], 6),
    ("trace", "tiles", ["frames=9", "height=64", "width=12", "tile=2", "shared_sides=1"], 150),
]


@pytest.mark.parametrize(("name", "mode", "settings", "loops"), CALLS)
def test_a_cascade_makes_what_it_makes_in_host_memory(
    program: Path, tmp_path: Path, name: str, mode: str, settings: list[str], loops: int
) -> None:
    """With engines kept, and dropped after every stage; nothing is left on the device."""
    lines = told(program, compiled(DATA / name, tmp_path / name), mode, *settings)
    assert [line.split()[0] for line in lines] == ["equal", "equal", "blocks"], lines
    assert lines[-1] == "blocks 0 graphs 0 pinned 0"
    for line in lines[:2]:  # beside the frames, one answer comes back of each loop
        told_of = line.split()
        assert 0 < int(told_of[told_of.index("fetched") + 1]) == 4 * loops


def test_a_loop_is_not_waited_for(program: Path, tmp_path: Path) -> None:
    """More steps are more calls that are played, and no more waits."""
    folder = compiled(DATA / "toy", tmp_path / "toy")
    found = []
    for steps in (4, 12):
        line = told(program, folder, "preview", "prompt=a", f"steps.decoder={steps}")[0].split()
        found.append(dict(zip(line[1::2], map(int, line[2::2]), strict=True)))
    few, many = found
    assert many["steps"] == few["steps"] + 8 and many["waits"] == few["waits"]
    assert many["played"] == few["played"] + 8


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"compute_capabilities": ("8.0",)}, "compute capabilities 8.0, this GPU has 8.9"),
    ({"library": builds.Compiler(name="tensorrt", version="10.3")},
     "was compiled by tensorrt 10.3, this machine has tensorrt 11.3"),
    ({"plugin": {"name": "k", "version": "1"}}, "needs that of k 1, this machine has none"),
    ({"content": b"refused"}, "tensorrt 11.3.0 cannot open its engine in "),
    ({"content": b"refused"}, "(the plan is of another kind); expected an engine for Fake GPU "
     "(compute capability 8.9); run `python export/build.py compile"),
    # of the engine of the first stage, and of the two of the next, which load while it runs
    ({"weights_bytes": 2**33}, "stage 'text' needs 24 GiB of memory, 24 GiB of it for weights; "
     "expected at most the 4 GiB that are free."),
    ({"content": b"x HALF in 2"}, ": the engine has {'x': 'HALF'}, plan.json says {'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_what_does_not_fit_is_refused(
    program: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = compiled(DATA / "toy", tmp_path / "toy", **change)
    (line,) = told(program, folder, "video", "prompt=a")
    assert words in line


def test_builds_numbered_to_the_last_place_are_taken(program: Path, tmp_path: Path) -> None:
    compiler = builds.Compiler(name="tensorrt", version="11.3.0.12")
    folder = compiled(DATA / "toy", tmp_path / "toy", library=compiler)
    assert told(program, folder, "video", "prompt=a")[0].startswith("equal")


def test_without_tensorrt_the_provider_is_refused(cpp: Probe) -> None:
    """By the library of the other tests."""
    with pytest.raises(Refused, match=r"built without TensorRT; .*-DEDGEREEL_TENSORRT=ON") as error:
        cpp.ask("generate", folder=str(DATA / "toy"), settings={}, provider="trt", alone="trt")
    assert error.value.kind == "BackendUnavailable"
