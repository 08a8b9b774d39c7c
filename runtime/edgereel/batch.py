"""Many clips by one cascade: what there is to make, what is there already, and making one.

Every clip is a file with its metadata beside it as JSON, which is written last: a clip whose JSON
is there is whole. Clips need not be made in order, on one machine, or by one process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereel.errors import Cancelled, EdgereelError, InputError
from edgereel.files import all_or_nothing
from edgereel.files import sha256 as hashed
from edgereel.pipeline import Cascade

__all__ = ["Clip", "Outcome", "clips", "is_done", "make"]

_SEEDS = 2**64
_LONGEST = 150  # characters of a prompt in a file name
_NOT_IN_NAMES = re.compile(r"[^\w ,.'()-]+")


@dataclass(frozen=True)
class Clip:
    """One clip to make."""

    name: str  # of its file, without suffix
    params: dict[str, object]  # with its prompt and seed, JSON values


@dataclass(frozen=True)
class Outcome:
    """What came of a clip."""

    name: str
    seconds: float = 0.0
    error: str = ""  # why it was not made
    skipped: bool = False  # it was there


def clips(
    path: Path, given: Mapping[str, object], *, samples: int = 1, by_prompt: bool = False
) -> list[Clip]:
    """The clips that a file of prompts asks for.

    Args:
        path: a text file with a prompt on every line, or .jsonl with an object of params, which
            stand above those of `given`. Empty lines are left out.
        given: params of all clips. Clip n has its `seed` + n, after the largest seed from 0 on.
        samples: clips of every prompt.
        by_prompt: names are the prompt and the number of the sample, as VBench wants them, instead
            of the number of the line.

    Raises:
        InputError: the file cannot be read, a line is wrong, or two clips have the same name.
    """
    if samples < 1:
        raise InputError(f"samples is {samples}; expected at least 1. Correct it.")
    rows = _rows(path)
    width, found = max(len(str(len(rows) - 1)), 4), dict[str, Clip]()
    for index, (line, row) in enumerate(rows):
        params = {**given, **row}
        first = params.get("seed", 0)
        if not isinstance(first, int):
            raise InputError(f"{path}, line {line}: seed is {first!r}; expected a whole number.")
        for sample in range(samples):
            number = sample if "seed" in row else index * samples + sample
            name = f"{index:0{width}}" + (f"-{sample}" if samples > 1 else "")
            if by_prompt:
                name = f"{_as_name(str(params.get('prompt', '')))}-{sample}"
            if name in found:
                raise InputError(
                    f"{path}, line {line}: another clip is named {name!r} already; expected "
                    f"prompts that differ. Remove one, or name clips by their lines."
                )
            found[name] = Clip(name, {**params, "seed": (first + number) % _SEEDS})
    return list(found.values())


def is_done(cascade: Cascade, clip: Clip, target: Path, mode: str | None) -> bool:
    """Whether the clip is there, made by this cascade from these params."""
    try:
        told = json.loads(_metadata(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("batch") == _facts(cascade, clip, mode)


def make(cascade: Cascade, clip: Clip, target: Path, mode: str | None) -> Outcome:
    """What came of making a clip; a wrong prompt or a failed graph is an outcome, not an error.

    Args:
        cascade: that makes it.
        clip: what to make.
        target: its file, or folder of PNG frames; beside it the metadata, NAME.json.
        mode: of the plan.

    Raises:
        Cancelled: the caller stopped it.
    """
    try:
        _metadata(target).unlink(missing_ok=True)  # of another clip of this name
        video = cascade(mode=mode, params=clip.params)
        video.save(target)
        told = {**video.metadata, "batch": _facts(cascade, clip, mode)}
        with all_or_nothing(_metadata(target)) as new:
            new.write_text(json.dumps(told, indent=1), encoding="utf-8")
    except Cancelled:
        raise
    except (EdgereelError, OSError) as error:
        return Outcome(clip.name, error=str(error))
    return Outcome(clip.name, sum(video.metadata["seconds"].values()))


def _facts(cascade: Cascade, clip: Clip, mode: str | None) -> dict[str, Any]:
    """What decides a clip."""
    return {
        "plan": hashed(cascade.plan.folder / "plan.json"),
        "mode": mode,
        "params": dict(clip.params),
    }


def _metadata(target: Path) -> Path:
    return target.with_name(f"{target.name.removesuffix('.mp4').removesuffix('.gif')}.json")


def _as_name(prompt: str) -> str:
    """A prompt as a part of a file name."""
    return _NOT_IN_NAMES.sub(" ", prompt).strip(" .")[:_LONGEST] or "clip"


def _rows(path: Path) -> Sequence[tuple[int, dict[str, object]]]:
    """The lines that ask for something, from 1, and what they say."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read ({reason}); expected a text file with one prompt on each "
            f"line, or .jsonl with one object of params. Check the name."
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row: object = {"prompt": line.strip()}
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except ValueError as error:
                row = f"no JSON: {error}"
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}, line {number}: {str(row)[:80]}; expected an object such as "
                    '{"prompt": "a red circle", "seed": 7}. Correct the line.'
                )
        assert isinstance(row, dict)
        found.append((number, row))
    if not found:
        raise InputError(f"{path}: has no prompts; expected one on each line. Add some.")
    return found
