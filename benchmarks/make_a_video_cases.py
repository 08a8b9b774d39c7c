"""The ways in which make_a_video_features.py calls the cascade."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["PAST", "Case", "cases"]

PAST = 16  # frames that a video is extended from
Array = NDArray[Any]


class Case(NamedTuple):
    """A way to call the cascade.

    given: numbers of the frames given, of those of the video. length: of the video.
    told: whether it gets the prompt. params: of the call, with the given frames u8 [N, H, W, 3].
    """

    mode: str
    length: int
    given: range | tuple[int, ...]
    told: bool
    params: Callable[[Array], dict[str, Any]]


def cases(frames: int) -> Iterator[tuple[str, Case]]:
    """By name: every feature, with and without a text where that decides something."""
    for skip in (2, 3, 4, 5):
        length = (PAST - 1) * skip + 1
        yield (
            f"interpolate, skip {skip}",
            Case(
                "interpolate",
                length,
                range(0, length, skip),
                False,
                lambda given, skip=skip: {"video": given, "skip": skip},
            ),
        )
    first, last = range(PAST), range(frames - PAST, frames)
    few, size = {"new_frames": frames - PAST}, {"frames": frames}
    for told in (True, False):
        end = "" if told else ", no text"
        for mode, given in (("extend", first), ("extend-start", last)):
            case = Case(mode, frames, given, told, lambda given: {"video": given, **few})
            yield f"{mode}{end}", case
        yield (
            f"animate{end}",
            Case("animate", frames, (0,), told, lambda given: {"image": given, **size}),
        )
    yield (
        "transition",
        Case(
            "transition",
            frames,
            (0, frames - 1),
            False,
            lambda given: {"image": given[:1], "last_image": given[1:], **size},
        ),
    )
    for told in (True, False):
        end = "" if told else ", no text"
        yield (
            f"variation{end}",
            Case(
                "variation",
                frames,
                (),
                told,
                lambda given: {"video": given, "frames": len(given), "skip": 3},
            ),
        )
