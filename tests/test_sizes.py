"""Sizes that params and videos decide, on tests/data/trace: `pytest tests/test_sizes.py`.

Tolerance of frames: one level of 255, since ONNX Runtime may order sums differently.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgereel
from edgereel import cli, cli_flags, pictures, plan, schedule
from edgereel.errors import InputError, PlanError
from edgereel.noise import normal

pytest.importorskip("onnxruntime")

Array = NDArray[Any]
DATA = Path(__file__).parent / "data"
TRACE = DATA / "trace"
TABLE = schedule.alphas_cumprod_linear(0.001, 0.04, 100)
DROP = object()
Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture(scope="module")
def cascade() -> edgereel.Cascade:
    return edgereel.load(TRACE, backend="ort", threads=1)


@pytest.fixture
def edited(edit_cascade: Callable[..., Path]) -> Edit:
    """A function that copies the cascade with its plan changed and returns the copy."""
    return partial(edit_cascade, TRACE)


def load(folder: Path) -> edgereel.Cascade:
    return edgereel.load(folder, backend="ort", threads=1)


def clip(frames: int, height: int, width: int) -> Array:
    return np.random.default_rng(3).integers(0, 256, (frames, height, width, 3), np.uint8)


# The cascade, written down a second time


def denoised(seen: Array, seed: int, steps: int, chunk: int | None = None) -> Array:
    """Frames u8 [F, 4 h, 4 w, 3] that follow what is seen, f32 [F, 3, h, w].

    All from the same noise, or each from its own of the given chunk.
    """
    shape, number = (seen.shape[1:], 0) if chunk is None else (seen.shape, chunk)
    x = np.broadcast_to(normal(seed, "z", number, 0, shape), seen.shape)
    for k, row in enumerate(schedule.sampler_rows("ddpm", TABLE, "leading", steps)):
        _, alpha, sigma, c_x0, c_eps, _, c_noise = row[:7]
        m = (x - seen) / (1 + np.abs(x - seen))
        x0 = np.clip((x - sigma * m) / alpha, -3, 3)
        eps = (x - alpha * x0) / sigma
        x = c_x0 * x0 + c_eps * eps + c_noise * normal(seed, "step.z", number, k, shape)
    large = x.repeat(4, axis=2).repeat(4, axis=3)
    levels = np.clip((large + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def painted(frames: int, height: int, width: int, drift: float, seed: int, steps: int) -> Array:
    start = normal(seed, "start", 0, 0, (3, height // 4, width // 4))
    return denoised(np.stack([start + np.float32(drift)] * frames), seed, steps)


def traced(video: Array, seed: int = 0, steps: int = 3) -> Array:
    count, height, width, _ = video.shape
    levels = video.astype(np.float64).reshape(count, height // 4, 4, width // 4, 4, 3)
    seen = (levels.mean((2, 4)) / 127.5 - 1).transpose(0, 3, 1, 2)
    return denoised(seen.astype(np.float32), seed, steps)


def close(frames: Array, expected: Array) -> bool:
    return frames.shape == expected.shape and bool(
        np.abs(frames.astype(int) - expected.astype(int)).max() <= 1
    )


# Calls


@pytest.mark.parametrize("size", [(5, 16, 24), (1, 8, 8), (16, 64, 12), (7, 20, 64)])
@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_params_decide_sizes(
    cascade: edgereel.Cascade, size: tuple[int, int, int], at_once: int
) -> None:
    """Frames, height and width are free; noise, a param as a value and chunks follow them."""
    frames, height, width = size
    video = cascade(frames=frames, height=height, width=width, drift=-0.5, seed=9, steps=2,
                    frames_at_once=at_once)  # fmt: skip
    assert close(video.frames, painted(frames, height, width, -0.5, 9, 2))


def test_a_param_decides_whether_frames_share_their_noise(cascade: edgereel.Cascade) -> None:
    """One draw for all chunks, or one for each; given noise has the key of the draw there is."""
    given = {"frames": 5, "height": 16, "width": 24, "frames_at_once": 2, "seed": 9, "steps": 2}
    start = normal(9, "start", 0, 0, (3, 4, 6)) + np.float32(0.25)
    chunks = [denoised(np.stack([start] * n), 9, 2, number) for number, n in enumerate((2, 2, 1))]
    assert close(cascade(**given, one_noise=0).frames, np.concatenate(chunks))
    assert close(cascade(**given, one_noise=1).frames, painted(5, 16, 24, 0.25, 9, 2))
    first = {"z[1]": normal(9, "z", 0, 0, (2, 3, 4, 6)), "step.z.1[1]": np.zeros((2, 3, 4, 6), "f")}
    changed = cascade(**given, one_noise=0, noise=first).frames != np.concatenate(chunks)
    assert changed.any((1, 2, 3)).tolist() == [False, False, True, True, False]
    for one_noise, key in ((0, "z"), (0, "step.z.1"), (1, "z[1]"), (1, "step.z.0[0]")):
        with pytest.raises(InputError, match="is not drawn in this mode; expected keys like start"):
            cascade(**given, one_noise=one_noise, noise={key: first["z[1]"]})


@pytest.mark.parametrize("shape", [(1, 32, 32), (5, 32, 20), (4, 12, 32)])
def test_a_video_decides_sizes(cascade: edgereel.Cascade, shape: tuple[int, int, int]) -> None:
    video = clip(*shape)
    for at_once in (1, 3, 16):
        found = cascade(mode="trace", video=video, seed=4, frames_at_once=at_once)
        assert close(found.frames, traced(video, seed=4))


def test_a_video_is_cut_resampled_and_scaled_by_params(
    cascade: edgereel.Cascade, tmp_path: Path
) -> None:
    """The graphs see exactly what pictures.read gives for the same numbers; 0 is none."""
    path = edgereel.Video(clip(20, 48, 64), 10.0).save(tmp_path / "in.mp4")
    options = {"video_start": 0.5, "video_end": 1.5, "video_fps": 5.0, "max_frames": 3, "size": 16}
    wanted = pictures.Wanted(0.5, 1.5, 5.0, 3, 16, 4)
    expected = pictures.read("video", str(path), wanted)
    assert expected.shape == (3, 12, 16, 3)
    for source in (path, str(path)):
        found = cascade(mode="trace", video=source, **options)
        assert close(found.frames, traced(expected))
        assert found.metadata["params"]["video"] == str(path)
    assert cascade(mode="trace", video=path).frames.shape == (20, 24, 32, 3)


def test_an_array_is_its_type_and_shape_in_the_metadata(cascade: edgereel.Cascade) -> None:
    found = cascade(mode="trace", video=clip(2, 32, 32))
    assert json.loads(json.dumps(found.metadata))["params"]["video"] == "uint8 [2, 32, 32, 3]"


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"height": 10}, "height is 10; expected a multiple of 4 from 8 to 64. Choose, for example, 8"),
    ({"height": 68}, "height is 68; expected a multiple of 4 from 8 to 64. Choose a number in"),
    ({"frames": 0}, "frames is 0; expected a whole number from 1 to 16"),
    ({"mode": "trace"}, r"video \(what to follow\) is missing; expected a video file"),
    ({"mode": "trace", "video": 7}, "video is a int; expected a video file"),
    ({"mode": "trace", "video": [clip(1, 8, 8)]}, "video is a list; expected a video file"),
    ({"mode": "trace", "video": " "}, "video is empty; expected a video file"),
    ({"mode": "trace", "video": "no.mp4"}, "video is 'no.mp4', and there is no such file"),
    ({"mode": "trace", "video": clip(3, 8, 8), "max_frames": 4}, "has 3 frames; expected at least"),
    ({"mode": "trace", "video": clip(3, 8, 8), "size": 15}, "size is 15; expected a multiple of 4"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_CALLS)
def test_wrong_calls(cascade: edgereel.Cascade, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        cascade(**wrong)
    assert str(caught.value).endswith(".")


def test_a_size_that_cannot_be_divided(edited: Edit) -> None:
    """The plan may leave it to the call that h = H / 4 goes even; nothing has run then."""

    def change(document: dict[str, Any]) -> None:
        del document["modes"]["paint"]["params"]["height"]["multiple"]
        video = document["modes"]["trace"]["params"]["video"]
        del video["multiple"], video["longest"], document["modes"]["trace"]["params"]["size"]

    cascade = load(edited(change))
    with pytest.raises(InputError, match=r"height is 18; expected a multiple of 4. .* 16\."):
        cascade(height=18)
    with pytest.raises(InputError, match="video is 10 pixels high; expected a multiple of 4"):
        cascade(mode="trace", video=clip(2, 10, 8))
    with pytest.raises(InputError, match=r"video is 3 pixels wide; expected a multiple of 4.* 4\."):
        cascade(mode="trace", video=clip(2, 8, 3))
    assert not cascade._interpreter.engines


def test_a_size_times_and_plus_a_number(edited: Edit, capsys: Any) -> None:
    """4n - 7 frames: 13 for 5, one for 2, none for 1."""

    def change(document: dict[str, Any]) -> None:
        document["modes"]["paint"]["sizes"]["F"] |= {"times": 4, "plus": -7}

    cascade = load(edited(change))
    assert len(cascade(frames=5).frames) == 13 and len(cascade(frames=2).frames) == 1
    with pytest.raises(InputError, match=r"frames is 1; expected .* \(n \* 4 -7\) / 1 is a whole"):
        cascade(frames=1)
    assert cli.main(["explain", str(cascade.plan.folder)]) == 0
    assert "F = (frames * 4 -7)" in capsys.readouterr().out


def masked(frames: int | str = "F", height: int | str = "H") -> Callable[[dict[str, Any]], None]:
    """Adds a second video, `mask`, that must have sizes of its own or those of the first."""

    def change(document: dict[str, Any]) -> None:
        mode = document["modes"]["trace"]
        mode["params"]["mask"] = {"type": "video"}
        mode["values"]["mask"] = {"dtype": "uint8", "shape": [frames, height, "W", 3]}
        mode["values"]["mask.small"] = {"dtype": "float32", "shape": [frames, 3, "h", "w"]}
        run = {"op": "run", "graph": "shrink", "inputs": {"frames": "mask"}}
        mode["stages"].insert(
            0, {"name": "mask", "ops": [{**run, "outputs": {"small": "mask.small"}}]}
        )

    return change


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ((3, 32, 24), "mask has 3 frames; expected 5, as video has 5 frames. "),
        ((5, 24, 24), "mask is 24 pixels high; expected 32, as video is 32 pixels high after sc"),
        ((5, 32, 32), "mask is 32 pixels wide; expected 24, as video is 24 pixels wide after sc"),
    ],
)
def test_two_videos_of_different_sizes(edited: Edit, mask: tuple[int, ...], words: str) -> None:
    cascade = load(edited(masked()))
    video = clip(5, 64, 48)
    assert cascade(mode="trace", video=video, mask=clip(5, 32, 24)).frames.shape == (5, 32, 24, 3)
    with pytest.raises(InputError, match=words):
        cascade(mode="trace", video=video, mask=clip(*mask))


def test_a_video_must_have_the_sizes_of_the_plan(edited: Edit) -> None:
    """An int in the shape, or a param through `sizes`, is met or refused."""

    def change(document: dict[str, Any]) -> None:
        masked(frames=2)(document)
        mode = document["modes"]["trace"]
        mode["params"]["height"] = {"type": "int", "default": 32, "min": 8, "max": 64}
        mode["sizes"]["H"] = {"param": "height"}

    cascade = load(edited(change))
    cascade(mode="trace", video=clip(5, 32, 24), mask=clip(2, 32, 24))
    with pytest.raises(InputError, match="mask has 3 frames; expected 2, as the cascade needs"):
        cascade(mode="trace", video=clip(5, 32, 24), mask=clip(3, 32, 24))
    with pytest.raises(
        InputError, match="video is 24 pixels high after scaling; expected 32, as height is 32"
    ):
        cascade(mode="trace", video=clip(5, 24, 32), mask=clip(2, 24, 32))


def ranged(document: dict[str, Any]) -> None:
    """Renoises from `t0` to `t1` by params, then denoises from `t1` down to `t0` only."""
    mode = document["modes"]["paint"]
    for name, default in (("t0", 40), ("t1", 60)):
        mode["params"][name] = {"type": "int", "default": default, "min": 0, "max": 99}
    mode["values"]["noisy"] = mode["values"]["z"]
    ops = mode["stages"][1]["ops"]
    ops[1].update(x="noisy", range={"from": {"param": "t1"}, "to": {"param": "t0"}})
    times = {"from": {"param": "t0"}, "to": {"param": "t1"}}
    ops.insert(1, {"op": "renoise", "x": "z", "out": "noisy", "schedule": "linear", "noise": "more",
                   **times})  # fmt: skip


def test_a_range_upside_down_is_the_users_mistake(edited: Edit) -> None:
    cascade = load(edited(ranged))
    assert cascade().frames.shape == (5, 16, 24, 3)
    for t0, t1 in ((60, 60), (70, 60)):
        words = rf"stage 'frames': t0 is {t0} and t1 is {t1}; expected the first to be the lower"
        with pytest.raises(InputError, match=words):
            cascade(t0=t0, t1=t1)

    def denoise_only(document: dict[str, Any]) -> None:
        ranged(document)
        ops = document["modes"]["paint"]["stages"][1]["ops"]
        ops[1].update({"from": None, "to": 60})
        ops[2]["range"]["from"] = 50

    cascade = load(
        edited(
            lambda document: (
                denoise_only(document),
                document["modes"]["paint"]["params"].pop("t1"),
            )
        )
    )
    with pytest.raises(InputError, match="t0 is 50 and the plan's timestep is 50; expected"):
        cascade(t0=50)


# Led chunks


def led(document: dict[str, Any]) -> None:
    """`trace` with noise of its own for every frame, each chunk led by the first frame."""
    mode = document["modes"]["trace"]
    mode["params"]["frames_at_once"]["min"] = 2
    mode["params"]["one_noise"]["default"] = 0
    mode["stages"][0]["each"]["windows"][0]["lead"] = 1


@pytest.mark.parametrize(
    ("frames", "size", "parts"),
    [
        (7, 3, [(0, 3), (3, 5), (5, 7)]),
        (6, 3, [(0, 3), (3, 5), (5, 6)]),
        (3, 3, [(0, 3)]),
        (1, 2, [(0, 1)]),
    ],
)
def test_led_chunks_leave_their_leaders_out(
    edited: Edit, frames: int, size: int, parts: list[tuple[int, int]]
) -> None:
    """The size counts the leader; what is drawn for the others is their chunk's."""
    video = clip(frames, 32, 24)
    found = load(edited(led))(mode="trace", video=video, seed=4, frames_at_once=size).frames
    small = video.astype(np.float64).reshape(frames, 8, 4, 6, 4, 3).mean((2, 4)) / 127.5 - 1
    seen = small.transpose(0, 3, 1, 2).astype(np.float32)
    expected = [denoised(seen[a:b], 4, 3, number) for number, (a, b) in enumerate(parts)]
    assert close(found, np.concatenate(expected))


def test_renoise_goes_to_timesteps_that_are_visited(edited: Edit) -> None:
    """3 steps of 100 visit 66, 33 and 0: 60 and 40 both become 33, and no noise is added."""

    def along(document: dict[str, Any]) -> None:
        ranged(document)
        ops = document["modes"]["paint"]["stages"][1]["ops"]
        first = {**ops[2], "x": "z", "out": "before", "range": {"from": 99, "to": 60}}
        document["modes"]["paint"]["values"]["before"] = document["modes"]["paint"]["values"]["z"]
        ops[1].update(x="before", along="before")
        ops.insert(1, first)

    cascade = load(edited(along))
    nothing = np.zeros((2, 3, 4, 6), np.float32)
    given = {"frames": 2, "height": 16, "width": 24, "steps": 3}
    told = cascade(**given, noise={"more[0]": nothing}).frames
    assert np.array_equal(cascade(**given).frames, told)
    assert not np.array_equal(cascade(**given, t1=70).frames, told)


# Plans

P, T = "modes.paint", "modes.trace"
WINDOW, TILES = P + ".stages[1].each.windows[0]", "modes.tiles"
WINDOWS = TILES + ".stages[1].each.windows"
LED = {"symbol": "K", "size": 4, "lead": 1}
SIDES = [{"symbol": "th", "size": 2}, {"symbol": "tw", "size": 2}]
SLICES = TILES + ".stages[1].each.slices"
VIDEO = T + ".params.video"

# (path, new value, place the error starts with, words in it)
WRONG: list[tuple[str, object, str, str]] = [
    (P + ".params.height.multiple", 0, P + ".params.height.multiple", "at least 1"),
    (P + ".params.height.multiple", 3, P + ".params.height.default", "a multiple of 3"),
    (P + ".params.height.min", 10, P + ".params.height.min", "a multiple of 4"),
    (P + ".params.height.max", 62, P + ".params.height.max", "a multiple of 4"),
    (P + ".params.height.min", 0, P + ".sizes.H.param", "can be 0; expected at least 1"),
    (P + ".params.height.min", DROP, P + ".sizes.H.param", "can be anything"),
    (P + ".params.height.max", DROP, P + ".sizes.H.param", "has no max"),
    (P + ".sizes.H", {}, P + ".sizes.H", "either param or symbol"),
    (P + ".sizes.H.symbol", "W", P + ".sizes.H", "either param or symbol"),
    (P + ".sizes.H.divide", 0, P + ".sizes.H", "divide of at least 1"),
    (P + ".sizes.H.times", 0, P + ".sizes.H", "times and divide of at least 1"),
    (P + ".sizes.H.scale", 2, P + ".sizes.H", "unknown field `scale`"),
    (P + ".sizes.H", {"param": "drift"}, P + ".sizes.H.param", "not an int param"),
    (P + ".sizes.H", {"param": "depth"}, P + ".sizes.H.param", "'depth' is not a param"),
    (P + ".sizes.h.symbol", "w", P + ".sizes.h.symbol", "'w' has no size of its own"),
    (P + ".sizes.h.symbol", "h", P + ".sizes.h.symbol", "'h' has no size of its own"),
    (P + ".sizes.h.symbol", "K", P + ".sizes.h", "'K'; expected times and no more"),
    (P + ".sizes.h.symbol", "Z", P + ".sizes.h.symbol", "'Z' has no size of its own"),
    (P + ".sizes.Q", {"param": "height"}, P + ".sizes.Q", "is in no value's shape"),
    (P + ".sizes.h*", {"param": "height"}, P + ".sizes", "'h*' is not a symbol"),
    (P + ".sizes.F", DROP, P + ".stages[0].ops[0].value", "'F' in 'start' has no size here"),
    (P + ".sizes.K", {"param": "frames"}, WINDOW + ".symbol", "'K' has a size already"),
    (T + ".sizes.h", DROP, T + ".stages[0].ops[0].outputs.small", "'h' in 'seen' has no size here"),
    (T + ".values.video", DROP, VIDEO, "'video' is not a declared value"),
    (T + ".values.video.dtype", "float32", T + ".values.video", "expected uint8 [F, H, W, 3]"),
    (T + ".values.video.shape", ["F", "H", "W", 4], T + ".values.video", "uint8 [F, H, W, 3]"),
    (T + ".values.video.shape", ["F", "H", "W"], T + ".values.video", "uint8 [F, H, W, 3]"),
    (VIDEO + ".default", "a.mp4", VIDEO, "unknown field `default`"),
    (VIDEO + ".filter", "sobel", VIDEO + ".filter", "one of canny"),
    (VIDEO + ".multiple", 0, VIDEO + ".multiple", "at least 1"),
    (VIDEO + ".longest", DROP, VIDEO + ".multiple", "1 if nothing is scaled"),
    (VIDEO + ".longest", 0, VIDEO + ".longest", "at least 1"),
    (VIDEO + ".longest", {"param": "max_frames"}, VIDEO + ".longest", "can be 0"),
    (VIDEO + ".longest", {"param": "fps"}, VIDEO + ".longest", "not an int param"),
    (VIDEO + ".frames", 0, VIDEO + ".frames", "at least 1"),
    (VIDEO + ".frames", {"param": "video"}, VIDEO + ".frames", "not an int param"),
    (VIDEO + ".start", -1, VIDEO + ".start", "at least 0"),
    (VIDEO + ".end", 0, VIDEO + ".end", "at least 0.001"),
    (VIDEO + ".fps", 0, VIDEO + ".fps", "at least 0.001"),
    (T + ".params.video_fps.min", -1, VIDEO + ".fps", "can be -1"),
    (WINDOW + ".lead", 1, WINDOW + ".size", "can be 1; expected at least 2"),
    (WINDOW + ".lead", -1, WINDOW + ".lead", "at least 0"),
    (WINDOWS, [LED, *SIDES], WINDOWS + "[0].lead", "more than axis 0 is cut"),
    (WINDOWS, [{**LED, "overlap": 1}, *SIDES], WINDOWS + "[0].overlap", "together with lead"),
    (TILES + ".sizes.TH.times", 2, TILES + ".stages[1].collect.chunk", "h*2"),
    (TILES + ".sizes.TH.plus", 1, TILES + ".sizes.TH", "'th'; expected times and no more"),
    (TILES + ".values.z.shape", ["F", 3, "H", "w"], SLICES + ".z.part", "'th' cuts H"),
    (T + ".params.video.aliases", ["seed"], VIDEO, "belongs to param 'seed'"),
    (T + ".params.video.type", "film", T + ".params.video.type", "one of text, int, float, cho"),
]  # fmt: skip


def put(document: Any, path: str, value: object) -> None:
    parts = path.replace("[", ".").replace("]", "").split(".")
    for part in parts[:-1]:
        document = document[int(part) if part.isdecimal() else part]
    if value is DROP:
        del document[parts[-1]]
    else:
        document[parts[-1]] = value


@pytest.mark.parametrize(("path", "value", "place", "words"), WRONG)
def test_wrong_plan(path: str, value: object, place: str, words: str) -> None:
    document = json.loads((TRACE / "plan.json").read_text())
    put(document, path, value)
    with pytest.raises(PlanError) as caught:
        plan.parse(json.dumps(document).encode())
    assert str(caught.value).startswith(place + ": "), caught.value
    assert words in str(caught.value)


def test_trace_is_valid_and_encodes_stably() -> None:
    text = (TRACE / "plan.json").read_bytes()
    assert plan.encode(plan.load(TRACE)) == text


@pytest.mark.slow
def test_trace_folder_is_what_its_script_writes(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = os.pathsep.join(str(DATA.parents[1] / name) for name in ("runtime", "export"))
    subprocess.run(
        [sys.executable, str(DATA / "make_trace.py"), str(tmp_path)],
        check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    names = sorted(p.relative_to(TRACE).as_posix() for p in TRACE.rglob("*") if p.is_file())
    made = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names == made
    changed = [n for n in names if (TRACE / n).read_bytes() != (tmp_path / n).read_bytes()]
    assert not changed, f"run python tests/data/make_trace.py; different: {changed}"


# The command line


def test_explain_counts_with_the_default_params(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(TRACE)]) == 0
    told = capsys.readouterr().out
    assert "int 8..64, multiple of 4, default 16" in told
    assert "Sizes: F = frames; H = height; W = width; h = H / 4; w = W / 4." in told
    assert "F = 5, H = 16, W = 24, h = 4, w = 6, K = 2." in told
    assert f"start  f32 [F, 3, h, w]  {5 * 3 * 4 * 6 * 4 / 1024:.1f} KiB" in told


def test_explain_leaves_what_only_a_video_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(TRACE), "--mode", "trace"]) == 0
    told = capsys.readouterr().out
    assert "video, folder of pictures or .npz, required" in told
    assert "u8 [F, H, W, 3] at" in told
    assert "chunk  u8 [K, H, W, 3]  6 B x H x W" in told
    assert "Sizes: h = H / 4; w = W / 4; F, H, W as video has." in told
    assert "Bytes are for the defaults: K = 2." in told


def test_generate_from_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = edgereel.Video(clip(6, 32, 32), 8.0).save(tmp_path / "in.mp4")
    words = ["generate", str(TRACE), "--backend", "ort", "--mode", "trace", "--max-frames", "4",
             "-o", str(tmp_path / "out")]  # fmt: skip
    assert cli.main([*words, "--video", str(video)]) == 0
    assert "4 frames, 32 x 32" in capsys.readouterr().out
    assert cli.main([*words[:-1], str(tmp_path / "no"), "--video", "nowhere.mp4"]) == 2
    assert "video is 'nowhere.mp4'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert cli.main([*words, "-h"]) == 0
    assert "--video PATH" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("param", "text"),
    [
        (plan.VideoParam(), "video, folder of pictures or .npz, required"),
        (plan.IntParam(default=8, multiple=8), "int, multiple of 8, default 8"),
    ],
)
def test_describe(param: plan.Param, text: str) -> None:
    assert cli_flags.describe(param) == text
