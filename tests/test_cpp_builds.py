"""The C++ runtime reads builds/ as Python does: the same build, or the same sentence.

Alone: `pytest tests/test_cpp_builds.py`. test_cpp_trt.py runs what is in them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cpp_probe import Probe, Refused
from msgspec import structs

from edgereel import builds
from edgereel.errors import BuildMismatch

SOURCE = {"graphs/é\x7f\u2028😀.onnx": "1" * 64, 'graphs/"w\\.data': "2" * 64}
CONTENT = b"an engine"
WEIGHT = builds.Refit(
    initializer="w", parts=("network.w",), shape=(2, 3), transposed=True, file="graphs/g.data",
    offset=64, dtype="float16",
)  # fmt: skip
PROFILE = {"x": ((1, 2), (1, 2), (4, 2)), "row": ((16,), (16,), (16,))}


def engine(**changes: Any) -> builds.Engine:
    facts: dict[str, Any] = {
        "file": "g.engine", "sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT),
        "source": SOURCE, "precision": "fp16", "profiles": (PROFILE,), "nodes": 1, "parameters": 0,
        "types": {"Half": 3}, "weights_bytes": 0, "activation_bytes": 9, "seconds": 0.5,
        "peak_rss_bytes": 0, "decomposed_attention": ("a",), "kept_float32": {"n": "why"},
        "measured": {"golden/g.npz": "5" * 64}, "largest_float16": 700.5, "refit": {"w": WEIGHT},
    }  # fmt: skip
    return builds.Engine(**facts | changes)


def record(**changes: Any) -> builds.Record:
    compiler = builds.Compiler(name="tensorrt", version="11.3")
    facts: dict[str, Any] = {
        "format": 1, "key": "", "backend": "trt", "library": compiler, "recipe": "äé",
        "compute_capabilities": ("8.0", "8.9"),
        "options": {"workspace_mib": 512, "keep_float32": ("Softmax", "b"), "name": "n\n\t\x01"},
        "graphs": {"g": engine(), "other": engine(file="o.engine", precision="fp32", measured={})},
    }  # fmt: skip
    made = builds.Record(**facts | changes)
    return structs.replace(made, key=builds.record_key(made))


def written(cascade: Path, made: builds.Record, age: int = 0) -> Path:
    folder = cascade / "builds" / made.key
    folder.mkdir(parents=True)
    for built in made.graphs.values():
        if "/" not in built.file and built.file not in ("", ".", ".."):
            (folder / built.file).write_bytes(CONTENT)
    (folder / builds.FILE).write_bytes(builds.encode(made))
    os.utime(folder / builds.FILE, (1e9 - age, 1e9 - age))
    return folder


def both(cpp: Probe, cascade: Path, graph: str = "g", **other: Any) -> tuple[str, str]:
    """What Python and C++ choose, or say."""
    asked = {"library": "tensorrt", "version": "11.3", "capability": "8.9"} | other
    precision = asked.get("precision")
    wanted = builds.Wanted({graph: SOURCE}, {asked["library"]: asked["version"]},
                           asked["capability"], {graph: precision})  # fmt: skip
    try:
        build = builds.choose(cascade, wanted)
        python = f"{build.folder}\n{build.engine(graph).decode()}"
    except BuildMismatch as error:
        python = str(error)
    try:
        found = cpp.ask("build", cascade=str(cascade), graph=graph, source=SOURCE, **asked).decode()
    except Refused as error:
        assert error.kind == "EngineError"
        found = str(error)
    return python, found


def test_the_newest_that_fits_is_chosen(cpp: Probe, tmp_path: Path) -> None:
    wanted = written(tmp_path, record(), age=2)
    written(tmp_path, record(recipe="older"), age=3)
    written(tmp_path, record(compute_capabilities=("9.0",)), age=1)
    (tmp_path / "builds" / ".hidden").mkdir()
    (tmp_path / "builds" / ".hidden" / builds.FILE).write_text("{}")
    (tmp_path / "builds" / "empty").mkdir()
    python, found = both(cpp, tmp_path)
    assert found == python == f"{wanted}\n{CONTENT.decode()}"
    assert len(set(both(cpp, tmp_path, "other", precision="fp32"))) == 1


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"compute_capabilities": ("8.0",)}, {}),
    ({"library": builds.Compiler(name="tensorrt", version="10.3")}, {}),
    ({"library": builds.Compiler(name="tensorrt_rtx", version="11.3")}, {}),
    ({"plugin": {"name": "edgereel-kernels", "version": "9.9", "sha256": "0"}}, {}),
    ({"format": 2}, {}),
    ({"graphs": {"other": engine()}}, {}),
    ({"graphs": {"g": engine(source={"a.onnx": "3" * 64})}}, {}),
    ({"graphs": {"g": engine(source={})}}, {}),
    ({"graphs": {"g": engine(file="../evil")}}, {}),
    ({"graphs": {"g": engine(file="")}}, {}),
    ({"graphs": {"g": engine(file="..")}}, {}),
    ({"graphs": {"g": engine(sha256="4" * 64)}}, {}),
    ({"graphs": {"g": engine(file="missing.engine")}}, {}),
    ({}, {"precision": "fp32"}),
    ({}, {"library": "tensorrt_rtx", "version": "1.7"}),
]


@pytest.mark.parametrize(("change", "asked"), CHANGES)
def test_what_does_not_fit_is_refused_with_the_same_sentence(
    cpp: Probe, tmp_path: Path, change: dict[str, Any], asked: dict[str, Any]
) -> None:
    folder = written(tmp_path, record(**change))
    (folder / "missing.engine").unlink(missing_ok=True)
    python, found = both(cpp, tmp_path, **asked)
    assert found == python and "python export/build.py compile" in found


def test_no_builds_at_all(cpp: Probe, tmp_path: Path) -> None:
    python, found = both(cpp, tmp_path)
    assert found == python and "holds no compiled engines" in found


BROKEN: list[Callable[[Path], object]] = [
    lambda folder: (folder / builds.FILE).write_bytes(b"[]"),
    lambda folder: folder.rename(folder.with_name("moved")),
    lambda folder: (folder / builds.FILE).chmod(0),
]


@pytest.mark.parametrize("change", BROKEN)
def test_broken_folders(cpp: Probe, tmp_path: Path, change: Callable[[Path], object]) -> None:
    change(written(tmp_path, record()))
    python, found = both(cpp, tmp_path)
    assert found == python


def changed(document: Any, chance: random.Random) -> None:
    """One place of the document gets another value, goes, or is joined by an unknown one."""
    nodes: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            nodes.append((node, key))
            if isinstance(value, dict | list):
                collect(value)

    collect(document)
    node, key = chance.choice(nodes)
    kind = chance.randrange(5)
    if kind == 0 and isinstance(node, dict):
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node["unknown"] = 1
    else:
        others = [None, True, -1, 0, 2.5, "", "x", [], {}, [[1]], {"a": 1}, "é", 2**40]
        node[key] = copy.deepcopy(chance.choice(others))


def test_changed_files_are_read_the_same_way(cpp: Probe, tmp_path: Path) -> None:
    """Down to the key that the changed contents have, which the sentence names."""
    folder = written(tmp_path, record())
    original = json.loads((folder / builds.FILE).read_text())
    keys, others = 0, 0
    for seed in range(400):
        document = copy.deepcopy(original)
        changed(document, random.Random(seed))
        text = json.dumps(document, ensure_ascii=seed % 2 == 0)
        (folder / builds.FILE).write_text(text)
        python, found = both(cpp, tmp_path)
        assert found == python, seed
        keys += "its contents have key" in found
        others += "expected build.json of format 1" in found
    assert keys > 30 and others > 100
