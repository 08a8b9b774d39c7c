"""Parts of axes: how they are cut, joined, and that a video in parts is the video."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgereel
from edgereel import plan
from edgereel.windows import Span, join, spans

TRACE = Path(__file__).parent / "data" / "trace"


def test_parts_without_overlap_follow_each_other() -> None:
    """61 frames in eights are seven chunks and five frames, as LaVie's super-resolution has."""
    found = spans(61, 8)
    assert [(s.start, s.stop) for s in found] == [*((i, i + 8) for i in range(0, 56, 8)), (56, 61)]
    assert spans(5, 0) == spans(5, 5) == spans(5, 9) == [Span(0, 5)]


def test_led_parts_count_what_leads_them() -> None:
    assert spans(7, 3, lead=1) == [Span(0, 3), Span(3, 5, 1), Span(5, 7, 1)]


@given(st.integers(1, 90), st.integers(1, 30), st.data())
def test_overlapping_parts_are_of_one_size_and_cover_all(total: int, size: int, data: Any) -> None:
    overlap = data.draw(st.integers(1, size)) - 1
    found = spans(total, size, overlap)
    assert found[0].start == 0 and found[-1].stop == total
    if overlap:
        assert {s.size for s in found} == {min(size, total)}
    for one, two in itertools.pairwise(found):
        assert one.stop - two.start >= overlap and one.stop < two.stop and one.start < two.start


def test_one_part_fades_into_the_next() -> None:
    """From 0 to 80 over four entries: an eighth, three eighths, … of the way."""
    for dtype in (np.float32, np.uint8):
        whole = np.zeros((2, 10), dtype)
        join(whole, np.full((2, 7), 80, dtype), 1, 3, 7)
        assert whole[1].tolist() == [0, 0, 0, 10, 30, 50, 70, 80, 80, 80]


def whole_numbers() -> Any:
    """The plan, where parts of whole numbers fade into each other."""
    document = json.loads((TRACE / "plan.json").read_text())
    document["modes"] = {"tiles": document["modes"]["tiles"]}
    document["graphs"]["pixels"]["outputs"]["frames"]["dtype"] = "int32"
    document["modes"]["tiles"]["values"]["chunk"]["dtype"] = "int32"
    return document


def test_what_fades_is_float32_or_uint8() -> None:
    with pytest.raises(edgereel.PlanError, match=r"int32.*expected float32 or uint8, as"):
        plan.parse(json.dumps(whole_numbers()).encode())


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
@pytest.mark.parametrize(("tile", "shared"), [(0, 0), (2, 1), (3, 2), (4, 0), (4, 3), (9, 2)])
def test_a_video_in_tiles_is_the_video(at_once: int, tile: int, shared: int) -> None:
    """The network of the toy sees one pixel, so nothing may change; 7 x 6 pixels and 5 frames."""
    cascade = edgereel.load(TRACE, backend="ort", threads=1)
    options: dict[str, Any] = {"height": 28, "width": 24, "steps": 2, "seed": 3}
    whole = cascade(mode="tiles", frames_at_once=16, **options).frames
    assert whole.shape == (5, 28, 24, 3) and len(np.unique(whole)) > 50
    parts = {"tile": tile, "shared_sides": shared, "frames_at_once": at_once}
    parts["shared_frames"] = at_once - 1
    np.testing.assert_array_equal(cascade(mode="tiles", **options, **parts).frames, whole)


def test_every_part_is_a_chunk_of_the_progress() -> None:
    """2 of 5 frames that share one, tiles of 4 of 7 x 6 that share 2: 4 x 3 x 2 chunks."""
    seen: list[edgereel.Progress] = []
    edgereel.load(TRACE, backend="ort")(
        mode="tiles", height=28, width=24, frames_at_once=2, shared_frames=1, tile=4,
        shared_sides=2, steps=1, callback=seen.append,
    )  # fmt: skip
    frames = [p for p in seen if p.stage == "frames" and p.step]
    assert {p.chunks for p in frames} == {24} and seen[-1].done == 1
    assert list(dict.fromkeys(p.chunk for p in frames)) == list(range(24))


def test_parts_that_never_get_on_are_refused() -> None:
    cascade = edgereel.load(TRACE, backend="ort")
    with pytest.raises(edgereel.InputError, match=r"parts of 3 that overlap by 3.*tile or shared"):
        cascade(mode="tiles", tile=3, shared_sides=3)
    assert cascade(mode="tiles", tile=0, shared_sides=3).frames.shape[0] == 5
