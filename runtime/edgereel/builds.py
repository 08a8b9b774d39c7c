"""Compiled engines of a cascade folder: builds/<key>/build.json, read strictly and never trusted.

An engine file is code that the GPU library executes. So it is opened only if it belongs to this
plan's graphs, this library version and this GPU, and if its bytes have the hash that was written
down when it was compiled. engines/README.md describes the format in words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgereel.build_record import Compiler, Engine, Precision, Profile, Record, Refit
from edgereel.errors import BuildMismatch

__all__ = [
    "FILE",
    "FORMAT",
    "Build",
    "Compiler",
    "Engine",
    "Precision",
    "Profile",
    "Record",
    "Refit",
    "Wanted",
    "build_key",
    "choose",
    "encode",
    "engine_key",
    "find",
    "read",
    "rebuild",
]

FORMAT = 1
FILE = "build.json"


@dataclass(frozen=True)
class Build:
    """A build folder whose build.json was read; no engine is open yet."""

    folder: Path
    record: Record

    def engine(self, graph: str) -> bytes:
        """The engine of a graph, after comparing its bytes with the hash in build.json.

        Raises:
            BuildMismatch: the build has no such graph, or the file is missing or changed.
        """
        if graph not in self.record.graphs:
            raise BuildMismatch(
                f"{self.folder}: holds engines for {', '.join(self.record.graphs)}, this mode also "
                f"needs {graph}; {rebuild(self.folder)}"
            )
        engine = self.record.graphs[graph]
        path = self.folder / engine.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BuildMismatch(
                f"{path}: cannot be read ({error.strerror or error}), build.json names it as the "
                f"engine of {graph}; {rebuild(self.folder)}"
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != engine.sha256:
            raise BuildMismatch(
                f"{path}: has sha256 {found[:12]}..., build.json expects {engine.sha256[:12]}...; "
                f"the file changed after it was compiled and is not opened; {rebuild(self.folder)}"
            )
        return content

    def engine_key(self, graph: str) -> str:
        """The key of one engine; equal keys are interchangeable engines."""
        e = self.record.graphs[graph]
        return engine_key(about(self.record), e.source, e.precision, e.profiles, e.measured)


def rebuild(build: Path) -> str:
    """What to do about an unusable build: the command that compiles its cascade again."""
    cascade = build.parent.parent
    return f"run `python export/build.py compile {cascade} --backend trt`"


def engine_key(
    about: Mapping[str, Any],
    source: Mapping[str, str],
    precision: Precision,
    profiles: Any,
    measured: Mapping[str, str] | None = None,
) -> str:
    """Hash of all that decides one engine: its build's facts and those of its own."""
    facts = {**about, "source": dict(source), "precision": precision, "profiles": profiles}
    if measured:
        facts["measured"] = dict(measured)
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))  # tuples are lists in JSON
    return hashlib.sha256(text.encode()).hexdigest()


def build_key(engine_keys: Mapping[str, str]) -> str:
    """Name of a build folder: 16 hex digits over the engine keys of its graphs."""
    text = json.dumps(dict(engine_keys), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def about(record: Record) -> dict[str, Any]:
    """The facts of a build that all its engines share, as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return {name: plain[name] for name in plain.keys() - {"key", "backend", "graphs"}}


def record_key(record: Record) -> str:
    """The key that a record's own contents lead to."""
    shared = about(record)
    return build_key(
        {
            name: engine_key(shared, e.source, e.precision, e.profiles, e.measured)
            for name, e in record.graphs.items()
        }
    )


def encode(record: Record) -> bytes:
    """The text of build.json."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read(folder: Path) -> Build:
    """The build in builds/<key>/.

    Raises:
        BuildMismatch: build.json is missing or malformed, or describes another build.
    """
    path = folder / FILE
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as error:
        raise BuildMismatch(
            f"{path}: cannot be read ({error.strerror or error}), every build has one; "
            f"{rebuild(folder)}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BuildMismatch(
            f"{path}: {error}; expected build.json of format {FORMAT}; {rebuild(folder)}"
        ) from None
    if record.format != FORMAT:
        raise BuildMismatch(
            f"{path}: has format {record.format}, this version reads {FORMAT}; {rebuild(folder)}"
        )
    found = record_key(record)
    if found != record.key or record.key != folder.name:
        raise BuildMismatch(
            f"{path}: its contents have key {found}, it says {record.key} in a folder named "
            f"{folder.name}; it was edited or moved; {rebuild(folder)}"
        )
    for graph, engine in record.graphs.items():
        if Path(engine.file).name != engine.file or engine.file in ("", ".", ".."):
            raise BuildMismatch(
                f"{path}: graph {graph} names the file {engine.file!r}, expected a plain file name "
                f"inside the build; {rebuild(folder)}"
            )
    return Build(folder, record)


def find(cascade: Path) -> list[Path]:
    """Folders in builds/ that have a build.json, the newest first."""
    files = sorted(
        (cascade / "builds").glob(f"[!.]*/{FILE}"),
        key=lambda path: (-path.stat().st_mtime, path.parent.name),
    )
    return [path.parent for path in files]


@dataclass(frozen=True)
class Wanted:
    """What an engine must have been made from and for, to be used here."""

    sources: Mapping[str, Mapping[str, str]]  # graph -> its files -> sha256, as in plan.json
    libraries: Mapping[str, str]  # installed library -> version
    capability: str | None  # of this machine's GPU; None = do not ask
    precisions: Mapping[str, Precision | None]  # graph -> as in plan.json; None = any
    plugin: Mapping[str, str] | None = None  # installed, as build.json names it


def choose(cascade: Path, wanted: Wanted) -> Build:
    """The newest build that fits.

    Raises:
        BuildMismatch: none does; the message names both sides for the newest one.
    """
    problems = []
    for folder in find(cascade):
        try:
            build = read(folder)
        except BuildMismatch as error:
            problems.append(str(error))
            continue
        problem = next(iter(_problems(build, wanted)), None)
        if problem is None:
            return build
        problems.append(f"{folder}: {problem}; {rebuild(folder)}")
    if problems:
        raise BuildMismatch(problems[0])
    raise BuildMismatch(
        f"{cascade / 'builds'}: holds no compiled engines, backend trt needs them; "
        f"{rebuild(cascade / 'builds' / 'none')}"
    )


def _problems(build: Build, wanted: Wanted) -> Iterable[str]:
    """Why a build does not fit, each naming both sides."""
    record = build.record
    for graph, files in wanted.sources.items():
        if graph not in record.graphs:
            yield f"has engines for {', '.join(record.graphs)}, this mode also needs {graph}"
            continue
        source = record.graphs[graph].source
        for name in sorted({*files, *source}):
            mine, its = files.get(name, "none"), source.get(name, "none")
            if mine != its:
                yield (
                    f"graph {graph} was compiled from {name} with sha256 {its[:12]}, plan.json "
                    f"names {mine[:12]}"
                )
        made, asked = record.graphs[graph].precision, wanted.precisions[graph]
        if asked and asked != made:
            yield f"graph {graph} was compiled in {made}, plan.json asks for {asked}"
    version = wanted.libraries.get(record.library.name)
    if version != record.library.version:
        yield (
            f"was compiled by {record.library.name} {record.library.version}, this machine has "
            + (", ".join(f"{n} {v}" for n, v in wanted.libraries.items()) or "no TensorRT")
        )
    if record.plugin is not None:
        its, mine = (_plugin(plugin) for plugin in (record.plugin, wanted.plugin))
        if its != mine:
            yield f"was compiled with --plugin and needs that of {its}, this machine has {mine}"
    if wanted.capability and wanted.capability not in record.compute_capabilities:
        yield (
            f"was compiled for compute capabilities {', '.join(record.compute_capabilities)}, this "
            f"GPU has {wanted.capability}"
        )


def _plugin(plugin: Mapping[str, str] | None) -> str:
    """Name and version; a library compiled on another machine has other bytes and does the same."""
    return "none" if plugin is None else f"{plugin.get('name')} {plugin.get('version')}"
