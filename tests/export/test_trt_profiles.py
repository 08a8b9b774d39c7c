"""Profiles of graphs whose sizes a call decides: `pytest tests/export/test_trt_profiles.py`.

Only the plan is read, so this needs neither TensorRT nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgereel import plan
from edgereel.errors import PlanError
from edgereel_export.trt_profiles import graph_profiles

TRACE = Path(__file__).parents[1] / "data" / "trace" / "plan.json"


def edited(change: Callable[[dict[str, Any]], object] = lambda document: None) -> plan.Plan:
    document = json.loads(TRACE.read_text())
    change(document)
    return plan.parse(json.dumps(document).encode())


def only(mode: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(modes={mode: document["modes"][mode]})


def test_a_size_that_is_a_param_is_its_range() -> None:
    """Frames 1 to 16, by default 5; sides 8 to 64, by default 16 by 24, of which h and w are a
    quarter."""
    (profile,) = graph_profiles(edited(), "drift")
    assert profile == {
        "x": ((1, 3, 2, 2), (5, 3, 4, 6), (16, 3, 16, 16)),
        "by": ((1,), (5,), (16,)),
    }


def test_sides_of_a_video_are_a_fixed_square() -> None:
    """32 by default, in chunks of 1 to 16 frames, by default 2."""
    (profile,) = graph_profiles(edited(only("trace")), "shrink")
    assert profile == {"frames": ((1, 32, 32, 3), (2, 32, 32, 3), (16, 32, 32, 3))}
    (profile,) = graph_profiles(edited(only("trace")), "step")
    assert profile["x"] == ((1, 3, 8, 8), (2, 3, 8, 8), (16, 3, 8, 8))
    assert profile["weights"] == ((1,), (1,), (1,))


def test_a_graph_of_two_modes_has_a_profile_for_each() -> None:
    found = graph_profiles(edited(), "pixels")
    assert {profile["clip"][2] for profile in found} == {(16, 3, 8, 8), (16, 3, 16, 16)}


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


@pytest.mark.parametrize(("frames", "span"), [(6, (6, 6, 6)), ({"param": "most"}, (1, 8, 24))])
def test_frames_that_a_video_is_cut_to(frames: object, span: tuple[int, int, int]) -> None:
    found = graph_profiles(edited(unchunked(frames)), "shrink")
    chunks = (1, 2, 16)  # of the stage that also uses the graph
    assert {tuple(shape[0] for shape in p["frames"]) for p in found} == {span, chunks}


@pytest.mark.parametrize(
    ("change", "graph", "words"),
    [
        (unchunked(None), "shrink", r"^modes\.trace\.params\.video\.frames: 'F' is known only"),
        (
            lambda d: (only("trace")(d), d["modes"]["trace"]["params"]["size"].pop("default")),
            "shrink",
            r"^modes\.trace\.params\.video\.longest: 'H' is known only",
        ),
    ],
)
def test_a_size_that_only_a_video_decides_is_refused_by_name(
    change: Callable[[dict[str, Any]], object], graph: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        graph_profiles(edited(change), graph)
