"""Reads and writes a cascade folder's plan.json, strictly, and hands out its files, checked.

`load` refuses anything it does not know, before any engine loads. The structs are in
plan_format.py and part of this module's face; the rules between them are in plan_check.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from edgereel import plan_check, plan_format
from edgereel.errors import PlanError
from edgereel.files import sha256
from edgereel.plan_format import *  # noqa: F403
from edgereel.plan_format import (
    FORMAT,
    Denoise,
    Document,
    DType,
    Filter,
    Final,
    Mode,
    Op,
    Run,
    Sampler,
    Size,
    Spacing,
    Variance,
)
from edgereel.plan_scope import cut, window_length

__all__ = ["Plan", "cut", "encode", "graphs_of", "load", "ops", "parse", "resized", "window_length"]
__all__ += plan_format.__all__

# What an error lists when the last part of its place is one of these keys.
_WORDS: dict[str, tuple[str, ...]] = {
    "op": ("tokenize", "noise", "run", "denoise", "renoise"),
    "type": ("text", "int", "float", "choice", "video"),
    "dtype": get_args(DType),
    "sampler": get_args(Sampler),
    "spacing": get_args(Spacing),
    "filter": get_args(Filter),
    "final": get_args(Final),
    "variance": get_args(Variance),
    "precision": ("fp32",),
}


def ops(modes: Iterable[Mode]) -> Iterator[Op]:
    """Every op of some modes, in order."""
    return (op for mode in modes for stage in mode.stages for op in stage.ops)


def graphs_of(called: Iterable[Op]) -> list[str]:
    """The graphs that some ops run, each once, in the order of their first call."""
    return list(dict.fromkeys(op.graph for op in called if isinstance(op, Run | Denoise)))


def resized(size: Size, number: int) -> tuple[int, int]:
    """What the symbol of `size` is for a param or symbol of `number`, and the remainder."""
    return divmod(number * size.times + size.plus, size.divide)


class Plan(Document, frozen=True, kw_only=True, dict=True):
    """A checked plan.json; one that came from `load` also knows its folder."""

    @property
    def folder(self) -> Path:
        """The cascade folder this plan was loaded from."""
        return cast(Path, self.__dict__["folder"])

    def check_file(self, rel: str) -> Path:
        """The path of a file of the folder, after comparing its sha256 once with `files`.

        Raises:
            PlanError: the file is missing, lies outside the folder, or was changed.
        """
        checked: set[str] = self.__dict__.setdefault("checked", set())
        path = _inside(self.folder, rel)
        if rel in checked:
            return path
        digest = sha256(path)
        if digest != self.files[rel]:
            raise PlanError(
                f"files.{rel}: the file has sha256 {digest[:16]}..., expected "
                f"{self.files[rel][:16]}...; it was changed or damaged. Export the cascade again, "
                f"or copy its whole folder again."
            )
        checked.add(rel)
        return path


def load(folder: str | Path) -> Plan:
    """The checked plan of a cascade folder; every file it names exists inside the folder.

    Hashes are compared later, when a file is used (`Plan.check_file`).

    Raises:
        PlanError: the folder, plan.json or a file it names is missing or wrong.
    """
    folder = Path(folder)
    path = folder / "plan.json"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"{path}: cannot be read ({error.strerror or error}); expected a cascade folder with "
            f"a plan.json. {_instead(folder)}"
        ) from None
    plan = parse(text)
    for rel in plan.files:
        _inside(folder, rel)
    plan.__dict__["folder"] = folder
    return plan


# Names and suffixes of files that tell a checkpoint.
_CHECKPOINT = frozenset(
    ("model_index.json", "config.json", "cascade.json", ".safetensors", ".ckpt", ".pt", ".bin")
)


def _instead(folder: Path) -> str:
    """What to do about a path that is no cascade folder."""
    with suppress(OSError):  # no right to look
        if folder.name == "plan.json" and folder.is_file():
            return f"Give the folder {folder.parent}."
        inside = sorted((folder if folder.is_dir() else folder.parent).iterdir())
        cascades = [
            str(path) for path in (folder.parent, *inside) if (path / "plan.json").is_file()
        ]
        if cascades:
            return f"Give one: {', '.join(cascades[:5])}."
        files = (folder,) if folder.is_file() else inside if folder.is_dir() else ()
        if any(path.name in _CHECKPOINT or path.suffix in _CHECKPOINT for path in files):
            return (
                "This is a checkpoint; a cascade is built from it: "
                f"`python export/build.py SYSTEM --checkpoint {folder}`."
            )
    return "Build one with `python export/build.py`, or correct the path."


def parse(text: bytes) -> Plan:
    """The plan written in `text`, all its rules checked, without looking at any file.

    Raises:
        PlanError: names the place, for example `modes.video.stages[2].ops[0].graph`.
    """
    document = _document(text)
    version = document.get("format", FORMAT) if isinstance(document, dict) else FORMAT
    if type(version) is int and version != FORMAT:
        raise PlanError(
            f"format: this plan has format {version}, expected {FORMAT}. Export the cascade again "
            f"with this version of Edgereel, or install the version that wrote it."
        )
    try:
        plan = msgspec.convert(document, Plan)
    except msgspec.ValidationError as error:
        raise _structure_error(document, str(error)) from None
    plan_check.check(plan)
    return plan


def encode(plan: Document) -> bytes:
    """The text of plan.json, keys in the order of the structs; a wrong plan is never written.

    `encode(parse(encode(plan))) == encode(plan)`.

    Raises:
        PlanError: the plan breaks a rule.
    """
    checked = parse(msgspec.json.encode(plan))
    return (_pretty(msgspec.to_builtins(checked)) + "\n").encode()


def _document(text: bytes) -> object:
    """`text` as JSON values; what Python's parser tolerates and JSON does not is refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            if key in entries:
                raise ValueError(f"the key {key!r} is there twice")
            entries[key] = value
        return entries

    def number(literal: str) -> float:
        if literal in ("NaN", "Infinity", "-Infinity") or abs(float(literal)) == float("inf"):
            raise ValueError(f"the number {literal} is not finite")
        return float(literal)

    try:
        document = json.loads(
            text.decode(), object_pairs_hook=unique, parse_constant=number, parse_float=number
        )
        json.dumps(document, ensure_ascii=False).encode()  # a lone surrogate is not text
    except (ValueError, RecursionError) as error:
        raise PlanError.at("plan.json", f"is not JSON ({error})", "JSON in UTF-8") from None
    return document


def _structure_error(document: Any, message: str) -> PlanError:
    """msgspec's message about the structure, with the place named as a person would."""
    problem, _, path = message.partition(" - at ")
    place = _place(document, path.strip("`"), message) or "plan.json"
    words = _WORDS.get(place.rpartition(".")[2])
    if words and "Invalid" in problem:
        return PlanError.at(place, problem, "one of " + ", ".join(words))
    return PlanError.at(place, problem)


def _place(document: Any, path: str, message: str) -> str:
    """`path` with the keys that msgspec writes as [...]; leaves `document` cut down to them.

    msgspec reports the first error, so the key is the one that alone still gives that error.
    """
    node, place = document, ""
    for field, index, anyone in re.findall(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])", path):
        if anyone:
            entries = dict(node)
            for key, value in entries.items():
                node.clear()
                node[key] = value
                if _error_of(document) == message:
                    break
            node, place = value, f"{place}.{key}"
        elif index:
            node, place = node[int(index)], f"{place}[{index}]"
        else:
            node = node.get(field) if isinstance(node, dict) else None
            place = f"{place}.{field}"
    return place.lstrip(".")


def _error_of(document: object) -> str:
    """The message msgspec gives for `document`, or nothing."""
    try:
        msgspec.convert(document, Plan)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _inside(folder: Path, rel: str) -> Path:
    """The path of `rel`, a file that lies in `folder` even when links are followed."""
    path = folder / rel
    try:
        whole, real = folder.resolve(), path.resolve()
        found = real.is_file()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name no system takes
        raise PlanError.at(f"files.{rel}", "cannot be followed", "a file") from None
    if whole not in real.parents:
        raise PlanError.at(
            f"files.{rel}", f"leads outside the folder, to {real}", f"a file inside {whole}"
        )
    if not found:
        raise PlanError(
            f"files.{rel}: there is no such file in {folder}, expected one because plan.json names "
            f"it. Copy the whole folder again, or export the cascade again."
        )
    return path


def _pretty(node: Any, indent: str = "") -> str:
    """JSON where whatever fits into 100 columns stands on one line."""
    line = json.dumps(node, ensure_ascii=False)
    if len(indent) + len(line) <= 100 or not node or not isinstance(node, (dict, list, tuple)):
        return line
    deeper = indent + "  "
    if isinstance(node, dict):
        parts = [
            f"{deeper}{json.dumps(k, ensure_ascii=False)}: {_pretty(v, deeper)}"
            for k, v in node.items()
        ]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _pretty(v, deeper) for v in node) + f"\n{indent}]"
