"""Buckets of sizes that engines are compiled for: `pytest tests/export/test_trt_buckets.py`.

Only the last test needs TensorRT and torch; the others read plans.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgereel import plan
from edgereel.errors import InputError
from edgereel_export.trt_buckets import read_asked
from edgereel_export.trt_profiles import MAX_STATIC_PROFILES, graph_profiles

TRACE = Path(__file__).parents[1] / "data" / "trace" / "plan.json"


def profiles(graph: str, *buckets: str, mode: str | None = None, words: Any = ()) -> Any:
    document = json.loads(TRACE.read_text())
    if mode:
        document["modes"] = {mode: document["modes"][mode]}
    found = plan.parse(json.dumps(document).encode())
    return graph_profiles(found, graph, read_asked(found, words, buckets))


def test_a_bucket_is_one_size() -> None:
    """Sides 16 by 24, of which latents are a quarter."""
    assert profiles("drift", "3x16x24") == ({"x": ((3, 3, 4, 6),) * 3, "by": ((3,),) * 3},)


def test_buckets_stay_apart() -> None:
    """As many as are asked for, none a range, the same one once."""
    count = MAX_STATIC_PROFILES + 2
    found = profiles("drift", *(f"{n}x16x24" for n in range(1, count + 1)), "1x16x24")
    assert [profile["by"] for profile in found] == [((n,),) * 3 for n in range(1, count + 1)]


def test_videos_that_a_call_gives_have_the_size_of_the_bucket() -> None:
    """Six frames in chunks of two; without a bucket their number is known only to a call."""
    found = profiles("shrink", "6x16x32", mode="trace")
    assert found == ({"frames": ((2, 16, 32, 3),) * 3},)


def test_profiles_of_other_params_go_with_a_bucket() -> None:
    found = profiles("shrink", "6x16x32", mode="trace", words=["frames_at_once=3,6"])
    assert [profile["frames"][0][0] for profile in found] == [3, 6]


@pytest.mark.parametrize(
    ("bucket", "words", "message"),
    [
        ("16x320", [], r"cannot be read; expected FRAMESxHEIGHTxWIDTH"),
        ("5x16x24x2x1", [], r"cannot be read"),
        ("17x16x24", [], r"frames does not take 17; expected numbers, 1 to 16\. Correct"),
        ("5x18x24", [], r"height does not take 18; expected multiples of 4, 8 to 64\. Correct"),
        ("5x16x24x2", [], r"has no 2 guidance rows; expected three numbers"),
        ("5x16x24", ["height=8"], r"and --profile both say height"),
    ],
)
def test_wrong_buckets_are_refused(bucket: str, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=rf"^--bucket {re.escape(bucket)}\b.*{message}"):
        profiles("drift", bucket, words=words)


def test_a_bucket_fits_the_videos_of_a_call() -> None:
    """Their sides are multiples of four; nothing else decides height and width here."""
    with pytest.raises(InputError, match="video does not take 18x24; expected two multiples of 4"):
        profiles("shrink", "5x18x24", mode="trace")


def test_a_range_is_no_bucket() -> None:
    with pytest.raises(InputError, match=r"^--bucket: graph shrink would take a range \(.* 1 to 6"):
        profiles("shrink", "6x16x32", mode="trace", words=["frames_at_once=2..6"])


def test_guidance_rows_and_fixed_sizes() -> None:
    """The toy makes one size, and its text has two rows."""
    folder = Path(__file__).parents[1] / "data/toy"
    found = plan.load(folder)
    mode = next(iter(found.modes.values()))
    frames, height, width, _ = mode.values[mode.output.value].shape
    graph = next(op.graph for stage in mode.stages for op in stage.ops
                 if isinstance(op, plan.Denoise) and op.guidance)  # fmt: skip

    def counts(bucket: str) -> list[int]:
        asked = read_asked(found, [], [bucket])
        return [profile["weights"][0][0] for profile in graph_profiles(found, graph, asked)]

    assert counts(f"{frames}x{height}x{width}") == [1, 2]
    assert counts(f"{frames}x{height}x{width}x2") == [2]
    with pytest.raises(InputError, match=rf"frames of \w+ is always {frames}"):
        counts(f"99x{height}x{width}")
    with pytest.raises(InputError, match="has no 3 guidance rows; expected 1 to 2"):
        counts(f"{frames}x{height}x{width}x3")


@pytest.mark.trt
@pytest.mark.torch
@pytest.mark.usefixtures("engine_builder")
def test_buckets_share_their_weights(tmp_path: Path) -> None:
    """The library counts the same bytes of weights for one, two and three profiles of an engine."""
    torch = pytest.importorskip("torch")
    from edgereel.backends.trt_library import library
    from edgereel_export.graph import Graph, export
    from edgereel_export.trt_engine import compile_graph
    from edgereel_export.trt_job import Job

    module = torch.nn.Sequential(
        torch.nn.Conv2d(256, 256, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(256, 256, 3)
    )
    free = {"x": {0: "B", 2: "H", 3: "W"}, "y": {0: "B"}}
    export(Graph(module, {"x": torch.randn(2, 256, 8, 8)}, ["y"], free), "graph", tmp_path)
    shapes = [(1, 256, 8, 8), (2, 256, 16, 16), (2, 256, 24, 16)]
    weights, sizes = [], []
    for count in (1, 2, 3):
        job = Job(
            graph="graph", source=str(tmp_path / "graphs/graph.onnx"),
            target=str(tmp_path / "engine"), library=library().name, precision="fp16",
            denoise=False, profiles=tuple({"x": (s, s, s)} for s in shapes[:count]),
            outputs=("y",), compute_capabilities=("8.9",),
        )  # fmt: skip
        weights.append(compile_graph(job, lambda *_: True).weights_bytes)
        sizes.append((tmp_path / "engine").stat().st_size)
    assert weights[0] > 2 * 256 * 256 * 9 and len(set(weights)) == 1
    assert sizes[2] - sizes[0] < weights[0] / 2
