"""Profiles of graphs whose sizes a call decides: `pytest tests/export/test_trt_profiles.py`.

Only the plan is read, so this needs neither TensorRT nor torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgereel import plan
from edgereel.errors import InputError, PlanError
from edgereel_export.trt_profiles import graph_profiles
from edgereel_export.trt_sizes import read_sizes

TRACE = Path(__file__).parents[1] / "data" / "trace" / "plan.json"


def edited(change: Callable[[dict[str, Any]], object] = lambda document: None) -> plan.Plan:
    document = json.loads(TRACE.read_text())
    change(document)
    return plan.parse(json.dumps(document).encode())


def only(mode: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(modes={mode: document["modes"][mode]})


def profiles(graph: str, *words: str, mode: str | None = None) -> tuple[Any, ...]:
    found = edited(only(mode)) if mode else edited()
    return graph_profiles(found, graph, read_sizes(found, words))


def test_a_size_that_is_a_param_is_its_default() -> None:
    """Frames 1 to 16, by default 5; sides 16 by 24, of which h and w are a quarter."""
    (profile,) = profiles("drift")
    assert profile == {"x": ((5, 3, 4, 6),) * 3, "by": ((5,),) * 3}


@pytest.mark.parametrize(
    ("words", "frames", "sides"),
    [
        (["frames=7"], [(7, 7, 7)], [(4, 6)]),
        (["frames=2,9", "width=64"], [(2, 2, 2), (9, 9, 9)], [(4, 16)]),
        (["frames=2..9", "height=8,16"], [(2, 9, 9)] * 2, [(2, 6), (4, 6)]),
        (["frames=3", "frames=4"], [(3, 3, 3), (4, 4, 4)], [(4, 6)]),
    ],
)
def test_sizes_asked_for(words: list[str], frames: list[Any], sides: list[Any]) -> None:
    found = profiles("drift", *words)
    assert [tuple(shape[0] for shape in p["x"]) for p in found] == frames
    assert sorted({p["x"][2][2:] for p in found}) == sides


def test_many_sizes_become_one_range() -> None:
    (profile,) = profiles("drift", "frames=1,2,3,4,5,6,7,8,9")
    assert tuple(shape[0] for shape in profile["x"]) == (1, 9, 9)


def test_sides_of_a_video() -> None:
    """A square of 32 by default; its frames are all that it has, in chunks of up to 2."""
    (profile,) = profiles("shrink", mode="trace")
    assert profile == {"frames": ((1, 32, 32, 3), (2, 32, 32, 3), (2, 32, 32, 3))}
    (profile,) = profiles("step", mode="trace")
    assert profile["x"] == ((1, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8))
    assert profile["weights"] == ((1,), (1,), (1,))
    found = profiles("step", "video=16x32,32x16", "frames_at_once=4", mode="trace")
    assert [p["x"][2] for p in found] == [(4, 3, 4, 8), (4, 3, 8, 4)]


def test_chunks_of_a_known_length_are_static() -> None:
    """In threes: 6 frames leave no rest, 7 leave one; led by the first, 7 leave none."""

    def counts(frames: str, lead: int = 0) -> list[tuple[int, ...]]:
        def change(document: dict[str, Any]) -> None:
            only("trace")(document)
            mode = document["modes"]["trace"]
            mode["stages"][0]["each"]["windows"][0]["lead"] = lead
            mode["params"]["frames_at_once"]["min"] = 2

        found = edited(change)
        asked = read_sizes(found, [f"max_frames={frames}", "frames_at_once=3"])
        found_profiles = graph_profiles(found, "shrink", asked)
        return [tuple(shape[0] for shape in p["frames"]) for p in found_profiles]

    assert counts("6") == [(3, 3, 3)]
    assert counts("7") == [(1, 1, 1), (3, 3, 3)]
    assert counts("7", lead=1) == [(3, 3, 3)]
    assert counts("8", lead=1) == [(2, 2, 2), (3, 3, 3)]
    assert counts("2..6") == [(1, 3, 3)]
    assert counts("2") == [(2, 2, 2)]


def test_a_graph_of_two_modes_has_a_profile_for_each() -> None:
    found = profiles("pixels")
    assert {profile["clip"][2][2:] for profile in found} == {(8, 8), (4, 6)}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("depth=3", r"has no size 'depth'; expected one of frames, height, width, .*video"),
        ("steps=5", r"has no size 'steps'"),
        ("frames", r"'' is no size; expected a number or LOW\.\.HIGH"),
        ("frames=3.5", r"'3\.5' is no size"),
        ("frames=99999999999", r"is no size"),
        ("frames=17", r"does not take 17; expected numbers, 1 to 16"),
        ("frames=0", r"does not take 0"),
        ("frames=9..3", r"does not take 9\.\.3; expected numbers, 1 to 16, the smaller first"),
        ("height=9", r"does not take 9; expected multiples of 4, 8 to 64"),
        ("video=32", r"'32' is no size; expected HEIGHTxWIDTH"),
        ("video=30x32", r"does not take 30x32; expected two multiples of \d+ such as"),
    ],
)
def test_wrong_sizes_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^--profile {re.escape(word)}: .*{message}"):
        profiles("drift", word)


def unchunked(frames: object) -> Callable[[dict[str, Any]], object]:
    """Shrinks the whole video in one call."""

    def change(document: dict[str, Any]) -> None:
        only("trace")(document)
        mode = document["modes"]["trace"]
        mode["params"]["video"]["frames"] = frames
        del mode["params"]["max_frames"]
        if isinstance(frames, dict):
            mode["params"]["most"] = {"type": "int", "default": 8, "min": 1, "max": 24}
        mode["values"]["small"] = {"dtype": "float32", "shape": ["F", 3, "h", "w"]}
        run = {"op": "run", "graph": "shrink", "inputs": {"frames": "video"}}
        ops = [{**run, "outputs": {"small": "small"}}]
        mode["stages"].insert(0, {"name": "whole", "ops": ops})

    return change


@pytest.mark.parametrize(("frames", "span"), [(6, (6, 6, 6)), ({"param": "most"}, (8, 8, 8))])
def test_frames_that_a_video_is_cut_to(frames: object, span: tuple[int, int, int]) -> None:
    found = graph_profiles(edited(unchunked(frames)), "shrink")
    chunks = (2, 2, 2)  # of the stage that also uses the graph
    assert {tuple(shape[0] for shape in p["frames"]) for p in found} == {span, chunks}


@pytest.mark.parametrize(
    ("change", "graph", "words"),
    [
        (unchunked(None), "shrink", r"^modes\.trace\.values: the size 'F' is known only to a call"),
        (
            lambda d: (only("trace")(d), d["modes"]["trace"]["params"]["size"].pop("default")),
            "shrink",
            r"^modes\.trace\.values: the size 'H' is known only .*--profile",
        ),
    ],
)
def test_a_size_that_only_a_video_decides_is_refused_by_name(
    change: Callable[[dict[str, Any]], object], graph: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        graph_profiles(edited(change), graph)
