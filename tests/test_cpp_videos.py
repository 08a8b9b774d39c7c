"""The C++ runtime makes the videos that Python makes, and refuses what Python refuses.

Alone: `pytest tests/test_cpp_videos.py`. Videos may differ by one level of 255: noise may by 1 ulp.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cpp_probe
import numpy as np
import pytest
from cpp_probe import Made, Probe, Refused, of_other_test, sentence

import edgereel
from edgereel import noise, schedule

pytest.importorskip("onnxruntime")

DATA = Path(__file__).parent / "data"
TOY, TRACE = DATA / "toy", DATA / "trace"


def python(folder: Path, cache: dict[Path, edgereel.Cascade] = {}) -> edgereel.Cascade:  # noqa: B006
    """The cascade in Python."""
    if folder not in cache:
        cache[folder] = edgereel.load(folder, backend="ort", threads=1)
    return cache[folder]


def generated(cpp: Probe, folder: Path, place: Path, **options: Any) -> Made:
    """A video of the C++ runtime, after the one of Python was found to be the same."""
    settings = {k: v for k, v in options.items() if k not in ("mode", "noise")}
    request = {"mode": options["mode"]} if "mode" in options else {}
    request = cpp_probe.call(folder, settings, place, options.get("noise"), **request)
    found = Made(cpp.ask("generate", **request))
    given = {k: v for k, v in options.items() if "." not in k}
    video = python(folder)(params={k: v for k, v in options.items() if "." in k}, **given)
    assert found.frames.shape == video.frames.shape
    assert np.abs(found.frames.astype(int) - video.frames).max() <= 1
    assert found.fps == video.fps
    assert found.warnings == video.metadata["warnings"]
    return found


@pytest.mark.parametrize("sampler", schedule.SAMPLERS)
@pytest.mark.parametrize("options", [
    {"steps": 6, "seed": 5},
    {"negative_prompt": "blue square left", "seed": 2**63 + 5, "steps": 3, "fps": 29.0},
    {"guidance_scale": 0.0, "mode": "preview"},
    {"guidance_scale": 1, "prompt": "a red circle " * 9},
], ids=str)  # fmt: skip
def test_the_toy_makes_the_same_videos(
    cpp: Probe, tmp_path: Path, sampler: str, options: dict[str, Any]
) -> None:
    generated(cpp, TOY, tmp_path, **{"prompt": "a red circle", "sampler": sampler, **options})


@pytest.mark.parametrize("options", [
    {}, {"frames": 16, "height": 64, "width": 12, "frames_at_once": 1},
    {"drift": -0.5, "frames": 1}, {"one_noise": 0},
    {"mode": "tiles", "height": 28, "width": 24, "tile": 3, "shared_sides": 2, "shared_frames": 1},
    {"mode": "tiles", "height": 28, "width": 24, "tile": 4, "frames_at_once": 3},
    {"mode": "trace", "video": (5, 32, 20)}, {"mode": "trace", "video": (7, 24, 40), "size": 16},
    {"mode": "trace", "video": (9, 32, 32), "max_frames": 4, "frames_at_once": 3},
], ids=str)  # fmt: skip
def test_sizes_and_parts_make_the_same_videos(
    cpp: Probe, tmp_path: Path, options: dict[str, Any]
) -> None:
    if "video" in options:
        pixels = np.random.default_rng(3).integers(0, 256, (*options["video"], 3), np.uint8)
        options = {**options, "video": pixels}
    generated(cpp, TRACE, tmp_path, seed=3, steps=2, **options)


OTHERS = {
    "sizes": of_other_test("test_sizes"),
    "interpreter": of_other_test("test_interpreter"),
}


def plans() -> Iterator[tuple[str, Path, Callable[[dict[str, Any]], object], dict[str, Any]]]:
    """Plans that other tests make of the toys, each with a call."""
    sizes, interpreter = OTHERS["sizes"], OTHERS["interpreter"]
    video = {
        "mode": "trace",
        "video": np.arange(7 * 32 * 24 * 3, dtype=np.uint8).reshape(7, 32, 24, 3),
    }
    yield "led", TRACE, sizes.led, {**video, "frames_at_once": 3, "seed": 4}
    yield "two videos", TRACE, sizes.masked(), {**video, "mask": video["video"]}
    yield "ranges", TRACE, sizes.ranged, {"steps": 9, "t0": 33}
    for t in (98, 49, 0):
        yield f"split at {t}", TOY, interpreter.split_at(t), {
            "prompt": "a", "sampler": "dpmpp_2m", "steps": 7}  # fmt: skip
    yield "chunk size", TOY, interpreter.each_of({"param": "frames_at_once"}), {
        "prompt": "a", "frames_at_once": 5}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "change", "options"),
    [case[1:] for case in plans()],
    ids=[case[0] for case in plans()],
)
def test_plans_of_other_tests_make_the_same_videos(
    cpp: Probe, edit_cascade: Callable[..., Path], tmp_path: Path, source: Path,
    change: Callable[[dict[str, Any]], object], options: dict[str, Any],
) -> None:  # fmt: skip
    generated(cpp, edit_cascade(source, change), tmp_path, **options)


def test_given_noise_is_used(cpp: Probe, tmp_path: Path) -> None:
    given = {
        "decoder_noise": noise.normal(4, "decoder_noise", 0, 0, (1, 3, 6, 4, 4)),
        "lr.z[1]": noise.normal(4, "lr.z", 1, 0, (2, 3, 4, 4)),
        "sr_noise": noise.normal(4, "sr_noise", 0, 0, (3, 8, 8)),
        "sr.z.1": noise.normal(4, "sr.z", 0, 1, (3, 8, 8)),
    }
    found = generated(cpp, TOY, tmp_path, prompt="a", seed=9, noise=given)
    assert (found.frames != generated(cpp, TOY, tmp_path, prompt="a", seed=9).frames).any()


def test_steps_and_previews_are_told(cpp: Probe, tmp_path: Path) -> None:
    seen: list[str] = []
    python(TOY)(
        "a", steps=2, callback=lambda p: seen.append(f"{p.stage} {p.chunk} {p.step} {p.steps}")
    )
    found = generated(cpp, TOY, tmp_path, prompt="a", steps=2)
    assert found.steps == seen
    assert found.previews == 2 + 2 * 3


def test_a_video_file_is_read_and_one_is_written(cpp: Probe, tmp_path: Path) -> None:
    """Read as Python reads it, and written as Python writes it, byte by byte."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 48, 64, 3), np.uint8)
    path = edgereel.Video(pixels, 10.0).save(tmp_path / "in.mp4")
    edgereel.Video(pixels[:3], 10.0).save(tmp_path / "pictures")
    options = {"video_start": 0.5, "video_end": 1.5, "video_fps": 5.0, "max_frames": 3, "size": 16}
    generated(cpp, TRACE, tmp_path, mode="trace", video=path, **options)
    generated(cpp, TRACE, tmp_path, mode="trace", video=tmp_path / "pictures")
    request = cpp_probe.call(TRACE, {"height": 8, "width": 12}, tmp_path)
    found = Made(cpp.ask("generate", save=str(tmp_path / "out.mp4"), **request))
    edgereel.Video(found.frames, found.fps).save(tmp_path / "python.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "python.mp4").read_bytes()
    for name, words in (("out.webm", "suffix .webm"), ("no/out.mp4", "does not exist")):
        with pytest.raises(Refused, match=words):
            cpp.ask("generate", save=str(tmp_path / name), **request)
    assert not list(tmp_path.glob(".edgereel*"))


# Bad input

NAN = np.float32(np.nan)
CALLS: list[tuple[Path, dict[str, Any]]] = [
    (TOY, {}),
    (TOY, {"prompt": ""}),
    (TOY, {"prompt": " \u2003\n"}),
    (TOY, {"prompt": 3}),
    (TOY, {"prompt": "x", "seed": 1, "negative_prompt": 2.5}),
    *((TOY, {"prompt": "x", "steps": steps}) for steps in (0, 100_000, 101, 2.5, "many", -(2**62))),
    *((TOY, {"prompt": "x", "guidance_scale": value}) for value in (-1, 30.5, 1e300, "it's", 0)),
    *((TOY, {"prompt": "x", "seed": seed}) for seed in (-1, 1.5)),
    *((TOY, {"prompt": "x", "fps": fps}) for fps in (0, 1000, 1e-7, 0.99999)),
    *((TOY, {"prompt": "x", name: 3})
      for name in ("stebs", "guidence", "prompts", "zzz", "step", "fp", "sampler.dec")),
    (TOY, {"prompt": "x", "steps": 3, "steps.decoder": 4}),
    (TOY, {"prompt": "x", "steps": 3, "num_inference_steps": 3}),
    (TOY, {"prompt": "x", "sampler": "plms"}),
    (TOY, {"prompt": "x", "sampler": 1}),
    (TOY, {"prompt": "x", "mode": "hologram"}),
    (TOY, {"prompt": "x", "noise": {"nothing": np.zeros(3, np.float32)}}),
    (TOY, {"prompt": "x", "noise": {"sr_noise": np.zeros((3, 8, 7), np.float32)}}),
    (TOY, {"prompt": "x", "noise": {"sr.z.x": np.zeros(3, np.float32)}}),
    # not finite: what a loop begins with, and what its second step makes
    (TOY, {"prompt": "x", "noise": {"decoder_noise": np.full((1, 3, 6, 4, 4), NAN)}}),
    (TOY, {"prompt": "x", "noise": {"sr.z.1": np.full((3, 8, 8), np.inf, np.float32)}}),
    (TRACE, {"mode": "tiles", "tile": 3, "shared_sides": 3}),
    *((TRACE, {"one_noise": one, "noise": {key: np.zeros(3, np.float32)}})
      for one, key in ((0, "z"), (0, "step.z.1"), (1, "z[1]"), (1, "step.z.0[0]"))),
    (TRACE, {"mode": "trace", "video": np.zeros((2, 8, 8, 4), np.uint8)}),
    (TRACE, {"mode": "trace", "video": np.full((2, 8, 8), 1.5, np.float32)}),
    (TRACE, {"mode": "trace", "video": np.zeros((2, 8, 8), np.uint8), "video_start": 1}),
    (TRACE, {"mode": "trace", "video": str(DATA)}),
    (TRACE, {"mode": "trace", "video": str(TOY / "plan.json")}),
    *((TRACE, call) for call, _ in OTHERS["sizes"].WRONG_CALLS
      if not isinstance(call.get("video"), list)),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "options"), CALLS, ids=range(len(CALLS)))
def test_wrong_calls_are_refused_with_the_same_sentences(
    cpp: Probe, tmp_path: Path, folder: Path, options: dict[str, Any]
) -> None:
    given = {k: v for k, v in options.items() if "." not in k}
    dotted = {k: v for k, v in options.items() if "." in k}
    settings = {k: v for k, v in {**dotted, **given}.items() if k not in ("mode", "noise")}
    mode = {"mode": options["mode"]} if "mode" in options else {}
    request = cpp_probe.call(folder, settings, tmp_path, options.get("noise"), **mode)
    wanted = sentence(lambda: python(folder)(params=dotted, **given))
    assert sentence(lambda: cpp.ask("generate", **request)) == wanted


def test_a_folder_that_is_none_and_a_changed_file(
    cpp: Probe, tmp_path: Path, edit_cascade: Callable[..., Path]
) -> None:
    numbers = itertools.count()  # a folder is read again for each

    def said(folder: Path) -> tuple[str, str]:
        request = cpp_probe.call(folder, {"prompt": "a"}, tmp_path, alone=str(next(numbers)))
        return (sentence(lambda: edgereel.load(folder, backend="ort")("a")),
                sentence(lambda: cpp.ask("generate", **request)))  # fmt: skip

    wanted, found = said(tmp_path / "nowhere")
    assert "cannot be read (No such file or directory)" in wanted and found == wanted
    folder = edit_cascade(TOY, lambda document: None)
    (folder / "graphs/decoder.onnx").write_bytes(b"changed")
    wanted, found = said(folder)
    assert "has sha256" in wanted and found == wanted
    (folder / "graphs/sr.onnx").unlink()
    wanted, found = said(tmp_path / "." / "edited")
    assert "no such file" in wanted and found == wanted
    (folder / "graphs/sr.onnx").symlink_to("/etc/hostname")
    wanted, found = said(tmp_path / "edited" / "")
    assert "leads outside the folder" in wanted and found == wanted


def test_a_provider_that_is_not_there(cpp: Probe, tmp_path: Path) -> None:
    request = cpp_probe.call(TOY, {"prompt": "a"}, tmp_path, alone="provider")
    with pytest.raises(Refused, match="expected cpu, cuda, tensorrt, tensorrt-rtx"):
        cpp.ask("generate", provider="abacus", **request)
    with pytest.raises(Refused, match=r"has the providers .*; expected CUDAExec") as caught:
        cpp.ask("generate", provider="cuda", **request)
    assert caught.value.kind == "BackendUnavailable"


# Threads


def test_cancelling_from_another_thread_and_from_a_callback(cpp: Probe, tmp_path: Path) -> None:
    request = cpp_probe.call(TOY, {"prompt": "a", "steps": 9}, tmp_path)
    wanted = generated(cpp, TOY, tmp_path, prompt="a", steps=9).frames
    for cancel_at in (2, -4):
        with pytest.raises(Refused, match="The call was cancelled; nothing was written") as caught:
            cpp.ask("generate", cancel_at=cancel_at, **request)
        assert caught.value.kind == "Cancelled"
    np.testing.assert_array_equal(Made(cpp.ask("generate", **request)).frames, wanted)


@pytest.mark.parametrize("alone", ["", "another"])
def test_two_threads(cpp: Probe, tmp_path: Path, alone: str) -> None:
    """Of one cascade, whose calls wait for each other, and of two."""
    calls = [cpp_probe.call(TOY, {"prompt": "a", "seed": seed}, tmp_path, alone=name)
             for seed, name in ((1, ""), (2, alone))]  # fmt: skip
    length, _, rest = cpp.ask("threads", calls=calls).partition(b"\n")
    for seed, answer in zip((1, 2), (rest[: int(length)], rest[int(length) :]), strict=True):
        frames = python(TOY)("a", seed=seed).frames
        assert np.abs(Made(answer).frames.astype(int) - frames).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_scratch_of_graphs_is_given_back(
    cpp: Probe, edit_cascade: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of over 100 MB that graphs take while they run, nothing is held after their stage.

    In a program of its own, whose sanitizers give freed memory back at once.
    """

    def larger(plan: dict[str, Any]) -> None:
        for side in ("height", "width"):
            plan["modes"]["paint"]["params"][side]["max"] = 512

    monkeypatch.setenv("ASAN_OPTIONS", "quarantine_size_mb=0")
    probe = Probe(cpp_probe.built() / "probe")
    folder = edit_cascade(TRACE, larger)

    def generate(size: int) -> None:
        given = {"frames": 16, "height": size, "width": size, "frames_at_once": 16, "steps": 1}
        probe.ask("generate", **cpp_probe.call(folder, given, tmp_path))

    generate(16)
    before = probe.memory("VmRSS")
    generate(512)
    assert probe.memory("VmHWM") - before > 100e6
    assert probe.memory("VmRSS") - before < 20e6
    assert probe.close()[0] == 0
