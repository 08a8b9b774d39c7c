"""What a user gives and gets: `pytest tests/test_pipeline.py`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import InputError, params
from edgereel.plan import FloatParam, IntParam, load

pytest.importorskip("onnxruntime")

EditToy = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture(scope="module")
def cascade() -> edgereel.Cascade:
    return edgereel.load(Path(__file__).parent / "data" / "toy", backend="ort", threads=1)


def test_public_names_are_the_documented_ones() -> None:
    names = {name for name in dir(edgereel) if not name.startswith("_")}
    modules = {name for name in names if type(getattr(edgereel, name)).__name__ == "module"}
    assert names - modules == set(edgereel.__all__)
    assert edgereel.__version__ == "0.1.0"


def test_video_and_metadata(cascade: edgereel.Cascade) -> None:
    video = cascade("a red circle", seed=7, steps=2)
    assert video.frames.shape == (6, 8, 8, 3) and video.frames.dtype == np.uint8
    assert video.fps == 8.0
    metadata = json.loads(json.dumps(video.metadata))
    assert metadata["cascade"] == "toy" and metadata["mode"] == "video"
    assert metadata["prompt"] == "a red circle" and metadata["seed"] == 7
    assert metadata["params"]["steps.decoder"] == 2
    assert metadata["backend"] == "ort" and metadata["precision"]
    assert metadata["library"].startswith("onnxruntime ")
    assert metadata["engines"]["sr"] == cascade.plan.files["graphs/sr.onnx"]
    assert set(metadata["seconds"]) == {"text", "decoder", "sr"}
    assert metadata["warnings"] == []


def test_same_call_same_video_and_a_list_is_one_after_the_other(cascade: edgereel.Cascade) -> None:
    one = cascade("a red circle", seed=3)
    many = cascade(["a red circle", "blue square"], seed=3)
    assert [video.metadata["prompt"] for video in many] == ["a red circle", "blue square"]
    np.testing.assert_array_equal(many[0].frames, one.frames)
    assert not np.array_equal(many[1].frames, one.frames)
    assert cascade([]) == []


@pytest.mark.parametrize("word", ["steps", "num_inference_steps", "steps.decoder"])
def test_every_spelling_of_a_param(cascade: edgereel.Cascade, word: str) -> None:
    video = cascade("a", params={word: 2})
    assert video.metadata["params"]["steps.decoder"] == 2
    np.testing.assert_array_equal(video.frames, cascade("a", num_inference_steps=2).frames)


def test_numbers_of_other_types_and_none(cascade: edgereel.Cascade) -> None:
    video = cascade("a", steps=np.int64(2), guidance_scale=4, fps=np.float32(9), seed=None)
    assert video.metadata["params"] == {
        "prompt": "a", "negative_prompt": "", "seed": 0, "steps.decoder": 2,
        "guidance.decoder": 4.0, "sampler.decoder": "ddim", "fps": 9.0,
    }  # fmt: skip
    json.dumps(video.metadata)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt is empty; expected a description"),
    ({"prompt": " \t\n\u3000"}, "prompt is empty; expected a description"),
    ({"prompt": None}, r"prompt \(what should be seen\) is missing; expected a text"),
    ({"prompt": 7}, "prompt is a int; expected a text"),
    ({"prompt": b"a"}, "prompt is a bytes; expected a text"),
    ({"prompt": ["a", 7]}, "prompt is a int; expected a text"),
    ({"prompt": ["a", ""]}, "prompt is empty"),
    ({"negative_prompt": 7}, "negative_prompt is a int; expected a text"),
    ({"steps": 0}, "steps is 0; expected a whole number from 1 to 100"),
    ({"steps": 101}, "steps is 101; expected a whole number from 1 to 100"),
    ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
    ({"steps": "20"}, "steps is '20'; expected a whole number"),
    ({"steps": True}, "steps is True; expected a whole number"),
    ({"steps": [20]}, r"steps is \[20\]; expected a whole number"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"seed": -1}, "seed is -1; expected a whole number from 0 to 18446744073709551615"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"guidance_scale": 30.5}, "guidance_scale is 30.5; expected a number from 0"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan; expected a number"),
    ({"guidance_scale": float("inf")}, "guidance_scale is inf; expected a number"),
    ({"fps": 0.5}, "fps is 0.5; expected a number from 1"),
    ({"sampler": "plms"}, "sampler is 'plms'; expected one of ddim, ddpm"),
    ({"sampler": ["ddim"]}, "sampler is"),
    ({"stepz": 3}, "no param 'stepz'; expected one of prompt, .*Did you mean steps?"),
    ({"zzzzzz": 3}, "no param 'zzzzzz'; expected one of prompt, .*Drop it"),
    ({"steps": 3, "num_inference_steps": 3}, "are the same setting"),
    ({"params": {"prompt": "b"}}, "prompt is given twice"),
    ({"params": {"seed": 1}, "seed": 1}, "seed is given twice"),
    ({"mode": "image"}, "mode is 'image'; expected one of video, preview"),
    ({"noise": "nowhere.npz"}, "noise 'nowhere.npz' cannot be read"),
    ({"noise": __file__}, "cannot be read"),
    ({"noise": 7}, "cannot be read"),
    ({"noise": {"nothing": np.zeros(1)}}, "noise 'nothing' is not drawn in this mode"),
    ({"noise": {"decoder.z.x": np.zeros(1)}}, "is not drawn in this mode"),
    ({"noise": {"decoder_noise": np.zeros(1)}}, r"\[1\]; expected float32 \[1, 3, 6, 4, 4\]"),
    ({"noise": {"sr_noise": np.zeros((3, 8, 8), int)}}, "int64"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "sentence"), WRONG, ids=[str(w)[:40] for w, _ in WRONG])
def test_wrong_input(cascade: edgereel.Cascade, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        cascade(**{"prompt": "a", **wrong})
    assert str(caught.value).rstrip().endswith((".", "?"))


def test_nothing_runs_before_every_prompt_is_checked(cascade: edgereel.Cascade) -> None:
    seen: list[edgereel.Progress] = []
    with pytest.raises(InputError):
        cascade(["a", ""], callback=seen.append)
    assert not seen


def test_more_steps_than_the_schedule_has(edit_toy: EditToy) -> None:
    def change(document: dict[str, Any]) -> None:
        document["modes"]["video"]["params"]["steps.decoder"]["max"] = 1000

    cascade = edgereel.load(edit_toy(change), backend="ort")
    with pytest.raises(InputError, match=r"stage 'decoder': .*101"):
        cascade("a", steps=101)


@pytest.mark.parametrize(
    "prompt", ["🙂🙃", "日本語", "a\0b", "\u202e\u05d0\u05d1", "é" * 3, "<end> <pad>", "'\";--"]
)
def test_any_text_is_a_prompt(cascade: edgereel.Cascade, prompt: str) -> None:
    assert cascade(prompt, steps=1).frames.shape == (6, 8, 8, 3)


def test_half_a_character_is_refused(cascade: edgereel.Cascade) -> None:
    with pytest.raises(InputError, match="half a character at position 2"):
        cascade("a \ud83d")


def test_long_prompt_is_cut_and_says_so_once(cascade: edgereel.Cascade) -> None:
    long = "a red circle moving " * 1000
    video = cascade(long, negative_prompt=long)
    first, second = video.metadata["warnings"]
    assert first.startswith("negative_prompt is longer than the 8 tokens")
    assert second.startswith("prompt is longer than the 8 tokens")
    # With guidance off, the negative prompt is not even read.
    assert len(cascade(long, negative_prompt=long, guidance_scale=1).metadata["warnings"]) == 1


def test_optional_prompt_may_be_empty(edit_toy: EditToy) -> None:
    def change(document: dict[str, Any]) -> None:
        document["modes"]["video"]["params"]["prompt"]["default"] = ""

    cascade = edgereel.load(edit_toy(change), backend="ort")
    np.testing.assert_array_equal(cascade().frames, cascade("").frames)


def test_guidance_that_leaves_no_row(edit_toy: EditToy) -> None:
    def change(document: dict[str, Any]) -> None:
        denoise = document["modes"]["video"]["stages"][1]["ops"][1]
        denoise["guidance"]["weights"] = [{"params": {"guidance.decoder": 1}}, {}]

    cascade = edgereel.load(edit_toy(change), backend="ort")
    with pytest.raises(InputError, match="every one of the text rows the weight 0"):
        cascade("a", guidance_scale=0)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_wrong_threads(toy: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        edgereel.load(toy, backend="ort", threads=threads)


def test_damaged_file_is_noticed_when_used(edit_toy: EditToy) -> None:
    folder = edit_toy(lambda document: None)
    path = folder / "graphs/text_encoder.data"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        edgereel.PlanError, match=r"files\.graphs/text_encoder\.data: the file has sha256"
    ):
        edgereel.load(folder, backend="ort")("a")
    assert edgereel.load(folder, backend="ort", verify_hashes=False)("a").frames.any()


@pytest.mark.parametrize("table", [np.zeros((2, 2)), np.array([0.1, 0.9]), np.array([np.nan])])
def test_schedule_that_is_none(edit_toy: EditToy, table: Any) -> None:
    folder = edit_toy(lambda document: None)
    np.save(folder / "schedules/linear.npy", table)
    cascade = edgereel.load(folder, backend="ort", verify_hashes=False)
    with pytest.raises(edgereel.PlanError, match=r"^files\.schedules/linear\.npy: "):
        cascade("a")


def test_pickled_schedule_is_not_opened(edit_toy: EditToy) -> None:
    folder = edit_toy(lambda document: None)
    np.save(folder / "schedules/linear.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(edgereel.PlanError, match="allow_pickle"):
        edgereel.load(folder, backend="ort", verify_hashes=False)("a")


def test_calls_from_threads_run_one_after_the_other(cascade: edgereel.Cascade) -> None:
    expected = [cascade("a", seed=seed).frames for seed in range(4)]
    found: dict[int, Any] = {}

    def call(seed: int) -> None:
        found[seed] = cascade("a", seed=seed).frames

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(found[seed], expected[seed])


def test_save_delegates(cascade: edgereel.Cascade, tmp_path: Path) -> None:
    target = cascade("a", steps=1).save(tmp_path / "out")
    assert len(list(target.iterdir())) == 6


def test_fill_params_without_range(toy: Path) -> None:
    mode = load(toy).modes["video"]
    assert params.fill_params(mode, {"prompt": "x"})["fps"] == 8.0
    huge = params.checked("x", IntParam(), 2**70)
    assert huge == 2**70
    with pytest.raises(InputError, match="x is 1e\\+39; expected a number"):
        params.checked("x", FloatParam(), 1e39)
    with pytest.raises(InputError, match=r"expected a number of at least 2\.0"):
        params.checked("x", FloatParam(min=2.0), 1)
    with pytest.raises(InputError, match="expected a whole number of at most 2"):
        params.checked("x", IntParam(max=2), 3)
