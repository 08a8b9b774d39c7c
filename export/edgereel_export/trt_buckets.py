"""Sizes that engines are compiled for, each alone: `--bucket FxHxW[xB]`.

    --bucket 16x320x512       16 frames of 320 x 512, with guidance and without
    --bucket 16x320x512x2     two guidance rows only

F, H and W are the params `frames`, `height` and `width`, and what decides the size of videos that a
call gives. Every bucket is a profile of its own in one engine: smallest, preferred and largest size
are the same, and TensorRT keeps the weights once for all profiles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgereel.errors import InputError
from edgereel.plan import Mode, Param, Plan, Ref, VideoParam

from .trt_sizes import Asked, Sides, Span, accepted, read_sizes, takes

__all__ = ["read_asked"]

AXES = ("frames", "height", "width")


def read_asked(plan: Plan, words: Sequence[str], buckets: Sequence[str] = ()) -> tuple[Asked, ...]:
    """Every bucket with every combination of what `--profile` names; without buckets that alone.

    Raises:
        InputError: a bucket or word cannot be read, the plan does not take its sizes, or both name
            the same param.
    """
    asked = read_sizes(plan, words)
    if not buckets:
        return asked
    found = []
    for bucket in dict.fromkeys(buckets):
        own = _read(plan, bucket)
        for other in asked:
            twice = sorted((own.ints.keys() & other.ints) | (own.sides.keys() & other.sides))
            if twice:
                raise InputError(
                    f"--bucket {bucket} and --profile both say {', '.join(twice)}; expected one "
                    "of them to. Leave it out of --profile."
                )
            found.append(own._replace(
                ints={**other.ints, **own.ints}, sides={**other.sides, **own.sides}
            ))  # fmt: skip
    return tuple(found)


def _read(plan: Plan, bucket: str) -> Asked:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})x(\d{1,9})(?:x(\d{1,9}))?", bucket.strip())
    if match is None:
        raise InputError(
            f"--bucket {bucket} cannot be read; expected FRAMESxHEIGHTxWIDTH such as 16x320x512, "
            "and perhaps x2 for the guidance rows. Correct it."
        )
    frames, height, width = (int(match[i]) for i in (1, 2, 3))
    ints: dict[str, Span] = {}
    sides: dict[str, Sides] = {}
    for axis, (name, size) in enumerate(zip(AXES, (frames, height, width), strict=True)):
        params = [m.params[name] for m in plan.modes.values() if name in m.params]
        if params:
            _check(bucket, name, size, params)
            ints[name] = (size, size, size)
        else:
            _check_fixed(plan, bucket, axis, size)
    for mode in plan.modes.values():
        for name, video in _own_sides(mode).items():
            _check(bucket, name, (height, width), [video])
            sides[name] = (height, width)
            if isinstance(video.frames, Ref) and takes(mode.params[video.frames.param], frames):
                ints.setdefault(video.frames.param, (frames,) * 3)
    return Asked(ints, sides, _rows(plan, bucket, match[4]), static=True)


def _own_sides(mode: Mode) -> Mapping[str, VideoParam]:
    """Videos of a mode that keep the shape they are given."""
    return {
        name: param
        for name, param in mode.params.items()
        if isinstance(param, VideoParam) and param.longest is not None
    }


def _check(bucket: str, name: str, size: int | Sides, params: Sequence[Param]) -> None:
    if not any(takes(param, size) for param in params):
        text = size if isinstance(size, int) else "x".join(map(str, size))
        raise InputError(
            f"--bucket {bucket}: {name} does not take {text}; expected "
            f"{accepted(params[0]).removesuffix(', the smaller first')}. Correct the size."
        )


def _check_fixed(plan: Plan, bucket: str, axis: int, size: int) -> None:
    """Nothing; InputError where no call decides an axis of the output, and it has another size."""
    sizes = [mode.values[mode.output.value].shape[axis] for mode in plan.modes.values()]
    fixed = sorted({n for n in sizes if isinstance(n, int)})
    if size not in fixed and all(isinstance(n, int) for n in sizes):
        raise InputError(
            f"--bucket {bucket}: {AXES[axis]} of {plan.name} is always "
            f"{' or '.join(map(str, fixed))}; expected that. Correct the size."
        )


def _rows(plan: Plan, bucket: str, text: str | None) -> int | None:
    """How many guidance rows a bucket names."""
    if text is None:
        return None
    most = max(
        (len(rows) for mode in plan.modes.values() for rows in mode.rows.values()), default=0
    )
    if not 1 <= int(text) <= most:
        known = f"1 to {most}, or no fourth number for each of these" if most else "three numbers"
        raise InputError(
            f"--bucket {bucket}: {plan.name} has no {text} guidance rows; expected {known}. "
            "Correct the last number, or leave it out."
        )
    return int(text)
