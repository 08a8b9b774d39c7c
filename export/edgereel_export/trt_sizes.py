"""Which sizes engines are compiled for: `--profile PARAM=SIZES`.

    --profile height=512              one size
    --profile frames=16,24            each of them
    --profile frames=8..32            any from 8 to 32, a little slower than one size
    --profile control_video=288x512   height and width of a video, after scaling

What is not named keeps its default.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgereel.errors import InputError
from edgereel.plan import IntParam, Param, Plan, Ref, VideoParam

__all__ = ["DEFAULTS", "Asked", "Sides", "Span", "accepted", "read_sizes", "takes"]

Span = tuple[int, int, int]  # smallest, preferred, largest
Sides = tuple[int, int]  # height, width


class Asked(NamedTuple):
    """Sizes asked for: of int params, and of videos by the name of their param."""

    ints: Mapping[str, Span]
    sides: Mapping[str, Sides]
    rows: int | None = None  # guidance rows; None = every number of them
    static: bool = False  # whether every size must be one number


DEFAULTS = Asked({}, {})


def read_sizes(plan: Plan, words: Sequence[str]) -> tuple[Asked, ...]:
    """Every combination of the sizes in words such as "height=512" or "frames=16,24".

    Raises:
        InputError: a word names no param that has a size, or a size the param does not take.
    """
    known = _names(plan)
    found: dict[str, list[Span | Sides]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in known:
            raise InputError(
                f"--profile {word}: {plan.name} has no size {name!r}; expected one of "
                f"{', '.join(known) or 'none, it has one size'}. Correct the name."
            )
        given = [mode.params.get(name) for mode in plan.modes.values()]
        sized = [param for param in given if isinstance(param, IntParam | VideoParam)]
        for value in values.split(","):
            size = _read(word, value, sized[0])
            if not any(takes(param, size) for param in sized):
                raise InputError(
                    f"--profile {word}: {name} does not take {value}; expected "
                    f"{accepted(sized[0])}. Correct the size."
                )
            found.setdefault(name, []).append(size)
    return tuple(
        _asked(dict(zip(found, c, strict=True))) for c in itertools.product(*found.values())
    )


def _names(plan: Plan) -> list[str]:
    """Params of the plan that decide the size of a value, and videos that decide their own."""
    found: list[str | None] = []
    for mode in plan.modes.values():
        videos = {
            name: param
            for name, param in mode.params.items()
            if isinstance(param, VideoParam) and mode.values[name].shape[1] not in mode.sizes
        }
        stages = [stage.each for stage in mode.stages if stage.each is not None]
        numbers = [window.size for each in stages for window in each.windows]
        numbers += [n for p in videos.values() for n in (p.frames, p.longest) if n is not None]
        found += [size.param for size in mode.sizes.values()]
        found += [*videos, *(number.param for number in numbers if isinstance(number, Ref))]
    return [name for name in dict.fromkeys(found) if name is not None]


def _read(word: str, text: str, param: Param) -> Span | Sides:
    """The size in "16", "8..32" or, of a video, "288x512"."""
    form = (
        r"(\d{1,9})x(\d{1,9})" if isinstance(param, VideoParam) else r"(\d{1,9})(?:\.\.(\d{1,9}))?"
    )
    match = re.fullmatch(form, text.strip())
    if match is None:
        wanted = "HEIGHTxWIDTH" if isinstance(param, VideoParam) else "a number or LOW..HIGH"
        raise InputError(
            f"--profile {word}: {text!r} is no size; expected {wanted}, or several with commas. "
            f"Correct it."
        )
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if isinstance(param, VideoParam) else (first, last, last)


def takes(param: Param, size: int | Span | Sides) -> bool:
    """Whether a param can have this size; zero is never one."""
    size = (size,) * 3 if isinstance(size, int) else size
    if isinstance(param, VideoParam):
        return all(side > 0 and side % param.multiple == 0 for side in size)
    assert isinstance(param, IntParam)
    low, high = max(param.min or 1, 1), param.max
    return (
        low <= size[0] <= size[-1]
        and (high is None or size[-1] <= high)
        and not any(n % param.multiple for n in size)
    )


def accepted(param: Param) -> str:
    """The sizes that a param takes, in words."""
    assert isinstance(param, IntParam | VideoParam)
    unit = f"multiples of {param.multiple}" if param.multiple > 1 else "numbers"
    if isinstance(param, VideoParam):
        return f"two {unit} such as {param.multiple * 2}x{param.multiple * 3}"
    high = f"{max(param.min or 1, 1)} to {param.max}" if param.max else f"{param.min or 1} or more"
    return f"{unit}, {high}, the smaller first"


def _asked(sizes: Mapping[str, Span | Sides]) -> Asked:
    ints = {name: size for name, size in sizes.items() if len(size) == 3}
    return Asked(ints, {name: size for name, size in sizes.items() if len(size) == 2})
