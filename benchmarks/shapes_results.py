"""Results that survive an interruption: one JSON line per finished clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgereel import InputError

__all__ = ["Record", "Results"]

Record = dict[str, Any]


class Results:
    """Finished clips, each kept as a line of a file at once, so that a broken run continues.

    Args:
        path: the file; None keeps results in memory only.
        key: what must be equal for results to belong together.
    """

    def __init__(self, path: Path | None, key: Record) -> None:
        self._path = path
        self.records: dict[tuple[str, int], Record] = {}
        self.check: Record | None = None
        if path is None:
            return
        if not path.exists():
            self._write({"key": key})
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if not whole or whole[0].get("key") != key:
            raise InputError(
                f"{path} holds results of another cascade or other settings. Expected those of "
                f"{key}. Give --resume another name, or delete the file."
            )
        path.write_text("".join(line for line in lines if line.endswith("\n")), encoding="utf-8")
        for entry in whole[1:]:
            self._take(entry)

    def add(self, entry: Record) -> None:
        """Keeps one clip, or the check of the mp4 as {"check": ...}."""
        self._take(entry)
        self._write(entry)

    def _take(self, entry: Record) -> None:
        if "check" in entry:
            self.check = entry["check"]
        else:
            self.records[entry["wording"], entry["seed"]] = entry

    def _write(self, entry: Record) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
