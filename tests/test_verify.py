"""`edgereel verify`: what it compares, what it tells, when it falls short.

Alone: `pytest tests/test_verify.py`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from edgereel import (
    backends,
    build_record,
    checks,
    cli,
    likeness,
    pipeline,
    plan,
    report_page,
    trace,
)
from edgereel.backends import ort
from edgereel.errors import EngineError, InputError

pytest.importorskip("onnxruntime")

TOY = str(Path(__file__).parent / "data" / "toy")
ORT = ("--backend", "ort", "--threads", "1")
Out = pytest.CaptureFixture[str]
Spoil = Callable[[str, int, dict[str, Any]], None]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, ...]]:
    """A function that gives the options of a backend whose results a function changes.

    It is told the graph, the number of the call from 1, and the outputs. `precisions` are told of
    the engines.
    """

    def make(spoil: Spoil, precisions: Mapping[str, str] | None = None) -> tuple[str, ...]:
        class Engine(ort.Engine):
            calls = 0

            def run(self, inputs: Any, outputs: Any) -> None:
                super().run(inputs, outputs)
                self.calls += 1
                spoil(Path(self._file).stem, self.calls, outputs)

        class Wrong(ort.Ort):
            name = "wrong"

            def _engine(self, session: Any, file: str, sha256: str) -> ort.Engine:
                engine = Engine(session, file, sha256)
                engine.precision = (precisions or {}).get(Path(file).stem, engine.precision)
                return engine

        monkeypatch.setattr(ort, "Wrong", Wrong, raising=False)
        monkeypatch.setitem(backends.BACKENDS, "wrong", "edgereel.backends.ort:Wrong")
        return ("--backend", "wrong", "--threads", "1")

    return make


def verified(*words: str, folder: str | Path = TOY, code: int = 0) -> dict[str, Any]:
    """The JSON of a report, whose exit code is `code`."""
    told = Path("told.json")
    assert cli.main(["verify", str(folder), *words, "--json", str(told)]) == code
    found: dict[str, Any] = json.loads(told.read_text())
    assert found["ok"] is (code == 0)
    return found


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_runs_of_one_backend_do_not_drift(capsys: Out) -> None:
    found = verified(*ORT, "--no-kernels")
    run = found["run"]
    assert {step["drift"] for step in run["steps"]} == {0}
    assert {step["cosine"] for step in run["steps"]} == {1}
    assert run["frames"]["psnr_by_frame"] == [None] * 6 and run["frames"]["flicker_error"] == 0
    calls = [(step["stage"], step["graph"], step["chunk"], step["step"]) for step in run["steps"]]
    loops = [("sr", "sr", chunk, k) for chunk in (0, 1) for k in (1, 2, 3)]
    loops.insert(3, ("sr", "pixels", 0, 1))
    assert calls == [
        ("text", "text_encoder", 0, 1),
        *(("decoder", "decoder", 0, k) for k in (1, 2, 3, 4)),
        ("decoder", "to_clip", 0, 1),
        *loops,
        ("sr", "pixels", 1, 1),
    ]
    told = capsys.readouterr().out.rstrip()
    assert told.endswith("1 of 5 graphs and 14 calls of a run checked, all right on this device.")


def test_what_a_run_is_compared_in(spoiled: Any) -> None:
    """Numbers and frames of a run, against formulas and scikit-image."""

    def spoil(graph: str, _: int, outputs: dict[str, Any]) -> None:
        if graph == "to_clip":
            outputs["clip"] += np.float32(1e-4) * np.arange(6 * 48).reshape(6, 3, 4, 4)

    words = spoiled(spoil, {"to_clip": "fp16"})
    found = verified(*words, "--save-golden", "golden.npz", "--steps", "2")
    here = trace.record(
        pipeline.load(TOY, backend="wrong", threads=1), "video", found["run"]["metadata"]["params"]
    )
    golden = trace.load(Path("golden.npz"), plan.load(TOY))
    mine, its = (
        next(made.parts["clip"] for made in run.made if made.graph == "to_clip")
        for run in (here, golden)
    )
    (step,) = (step for step in found["run"]["steps"] if step["graph"] == "to_clip")
    expected = np.linalg.norm(mine - its) / np.linalg.norm(its)
    assert step["drift"] == pytest.approx(expected, rel=1e-5) and expected > 1e-3
    assert here.frames is not None and golden.frames is not None
    changes = [np.diff(run.frames.astype(float), axis=0) for run in (here, golden)]
    frames = found["run"]["frames"]
    assert frames["flicker"] == pytest.approx(np.abs(changes[0]).mean(), rel=1e-6)
    apart = np.sqrt(np.mean((changes[0] - changes[1]) ** 2))
    assert frames["flicker_error"] == pytest.approx(apart, rel=1e-6)
    assert frames["ssim"] is None  # 8 x 8 pixels are smaller than its window
    error = np.mean((here.frames.astype(float) - golden.frames) ** 2)
    assert frames["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), rel=1e-9)
    # What may drift follows the least exact engine so far.
    allowed = [step["allowed"] for step in found["run"]["steps"]]
    fp32, fp16 = (checks.LIMITS[name].drift for name in ("fp32", "fp16"))
    assert allowed == [fp32] * 3 + [fp16] * 9 and frames["precision"] == "fp16"


def test_pictures_are_compared_as_scikit_image_does() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    draw = np.random.default_rng(3)
    for shape in ((11, 11, 3), (37, 50, 3)):
        one = draw.integers(0, 256, shape, np.uint8)
        other = np.clip(one + draw.normal(0, 25, shape), 0, 255).astype(np.uint8)
        expected = metrics.structural_similarity(
            one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            channel_axis=2, data_range=255,
        )  # fmt: skip
        # Both in float64, sums in another order.
        assert likeness.ssim(one, other) == pytest.approx(expected, abs=1e-12)
        expected = metrics.peak_signal_noise_ratio(one, other)
        assert likeness.psnr(likeness.mean_square(one, other)) == pytest.approx(expected, abs=1e-9)
    assert likeness.ssim(one[:10], other[:10]) is None


def test_what_stands_still_does_not_flicker() -> None:
    draw = np.random.default_rng(4)
    video = draw.integers(20, 200, (9, 12, 12, 3), np.uint8)
    offset = draw.integers(0, 40, (12, 12, 3), np.uint8)
    assert likeness.flicker_error(video + offset, video) == 0
    fresh = draw.integers(0, 40, video.shape, np.uint8)
    # Independent errors differ by sqrt(2) times their own spread; 3888 draws give it within 5 %.
    spread = np.sqrt(2) * fresh.std()
    assert likeness.flicker_error(video + fresh, video) == pytest.approx(spread, rel=0.05)
    assert likeness.flicker(np.repeat(video[:1], 3, 0)) == 0
    assert likeness.flicker(video[:1]) is None is likeness.flicker_error(video[:1], video[:1])


def test_where_it_begins_is_named(spoiled: Any, capsys: Out) -> None:
    """A graph without reference vectors that is wrong from its third step on."""

    def spoil(graph: str, call: int, outputs: dict[str, Any]) -> None:
        if graph == "decoder" and call >= 3:
            outputs["x_next"] *= np.float32(1.5)

    found = verified(*spoiled(spoil), "--html", "out.html", code=1)
    drifts = [(step["graph"], step["step"]) for step in found["run"]["steps"] if not step["ok"]]
    assert drifts[0] == ("decoder", 3) and found["graphs"][0]["ok"]
    assert not found["run"]["frames"]["psnr_db"] > checks.LIMITS["fp32"].psnr_db
    beginning = (
        r"the run leaves the reference in stage 'decoder', step 3 of 4: graph decoder drifts"
    )
    told = capsys.readouterr().out
    assert re.search(rf"^Wrong on this device: {beginning} by 0\.\d+.*frames: PSNR", told, re.M)
    verdicts = dict(
        re.findall(r"^  (?:text|decoder|sr) +(\w+) .*  (ok|WRONG|after that)$", told, re.M)
    )
    assert verdicts == {
        "text_encoder": "ok", "decoder": "WRONG", "to_clip": "after that", "sr": "after that",
        "pixels": "after that",
    }  # fmt: skip
    page = Path("out.html").read_text()
    assert re.search(beginning, page.replace("&#x27;", "'"))
    marked = re.findall(r'r="3" fill="var\(--(good|bad)\)"><title>([^<]*)', page)
    assert [name for name, _ in marked[:4]] == ["good", "good", "good", "bad"]
    assert "stage decoder, chunk 1, step 3 of 4: graph decoder" in marked[3][1]


def test_a_wrong_graph_is_named(spoiled: Any, capsys: Out) -> None:
    def spoil(graph: str, _: int, outputs: dict[str, Any]) -> None:
        if graph == "text_encoder":
            outputs["emb"] += 0.5

    found = verified(*spoiled(spoil), "--graph", "text_encoder", code=1)
    (graph,) = found["graphs"]
    assert graph["output"] == "emb" and not graph["ok"] and found["run"] is None
    assert graph["max_abs"] == graph["mean_abs"] == 0.5  # multiples of 1/16: exact
    assert found["unchecked"] == []
    assert "Wrong on this device: graph text_encoder: emb differs by 0.5" in capsys.readouterr().out


def test_a_run_that_fails_is_told_as_far_as_it_got(spoiled: Any) -> None:
    def spoil(graph: str, call: int, outputs: dict[str, Any]) -> None:
        if graph == "sr" and call % 3 == 2:  # of the first chunk's loop, and of its repetition
            outputs["x_next"][0, 0] = np.nan

    found = verified(*spoiled(spoil), "--html", "out.html", code=1)
    assert found["run"]["frames"] is None
    first = next(step for step in found["run"]["steps"] if not step["ok"])
    assert (first["graph"], first["step"], first["drift"]) == ("sr", 2, None)
    assert len(found["run"]["steps"]) == 6 + 3  # the repetition that looks for the step is not one
    assert any("clip8 after step 2 of 3 holds values that" in words for words in found["short"])
    assert "not finite" in Path("out.html").read_text()


def test_a_run_whose_first_call_fails(spoiled: Any, capsys: Out) -> None:
    calls: list[str] = []

    def spoil(graph: str, _: int, outputs: dict[str, Any]) -> None:
        calls.append(graph)
        if calls.count("text_encoder") == 2:  # once on its reference inputs
            raise EngineError("text_encoder.onnx: out of order. Mend it.")

    found = verified(*spoiled(spoil), "--html", "out.html", code=1)
    assert found["run"]["steps"] == [] and found["graphs"][0]["ok"]
    told = capsys.readouterr().out.rstrip()
    assert told.endswith("Wrong on this device: text_encoder.onnx: out of order. Mend it.")
    assert "Mend it" in Path("out.html").read_text()


def test_a_golden_run_stands_in_for_the_reference(capsys: Out) -> None:
    words = ("--mode", "preview", "-p", "a green square", "--seed", "5", "--steps", "3")
    verified(*ORT, *words, "--save-golden", "golden.npz")
    capsys.readouterr()
    found = verified(*ORT, "--golden", "golden.npz")
    assert capsys.readouterr().err.count("a run, backend") == 1
    params = found["run"]["metadata"]["params"]
    assert (params["prompt"], params["seed"], params["steps.decoder"]) == ("a green square", 5, 3)
    assert found["run"]["metadata"]["mode"] == "preview"
    assert found["run"]["frames"]["psnr_db"] is None  # infinite


def test_large_arrays_are_compared_in_places_spread_over_all_of_them() -> None:
    whole = np.arange(3 * 64 * 64 * 64, dtype=np.int64).reshape(3, 64, 64, 64)
    part = trace._part(whole).astype(np.int64)
    assert part.size == trace.KEPT and np.unique(part).size == part.size
    for axis, size in enumerate(whole.shape):  # every index of every axis, about equally often
        counts = np.bincount(np.unravel_index(part, whole.shape)[axis], minlength=size)
        assert counts.min() > 0.5 * part.size / size and counts.max() < 1.5 * part.size / size
    draw = np.random.default_rng(5)
    here, there = draw.normal(size=(2, 10**6)).astype(np.float32)
    here = there + np.float32(0.01) * here
    found = likeness.drift(trace._part(here), trace._part(there))
    assert found == pytest.approx(likeness.drift(here, there), rel=0.03)  # five deviations


def test_the_page_holds_all_it_shows(spoiled: Any) -> None:
    def spoil(graph: str, _: int, outputs: dict[str, Any]) -> None:
        if graph == "pixels":
            outputs["frames"][..., 0] ^= 1

    verified(*spoiled(spoil), "-p", "<b>red</b> & 'blue'", "--html", "out.html", "--save-golden",
             "golden.npz")  # fmt: skip
    page = Path("out.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;red&lt;/b&gt; &amp; " in page
    assert not re.search(r"<script|<link|src=\"(?!data:)|url\(|@import", page)
    golden = trace.load(Path("golden.npz"), plan.load(TOY)).frames
    assert golden is not None
    shown = re.findall(r'alt="([^"]*), frame (\d)" src="data:image/png;base64,([^"]*)"', page)
    assert len(shown) == 3 * 5 and {name for name, *_ in shown} == {
        "reference", "here", "difference, 8 times",
    }  # fmt: skip
    for name, index, data in shown:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            picture = np.asarray(image)
        its = golden[int(index)]
        mine = its ^ np.array([1, 0, 0], np.uint8)
        wanted = {"reference": its, "here": mine}.get(name, (its ^ mine) * np.uint8(8))
        np.testing.assert_array_equal(picture, wanted)


def test_large_pictures_are_shown_smaller() -> None:
    picture = np.repeat(np.repeat(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), 100, 0), 150, 1)
    with Image.open(io.BytesIO(report_page.png(report_page._smaller(picture)))) as image:
        assert image.size == (300, 200)  # by a quarter: 1200 is above 384 times three
        np.testing.assert_array_equal(
            np.asarray(image)[12::25, 18::37][:8, :8], picture[::100, ::150]
        )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--graph", "unet"], 2, "--graph 'unet': the cascade has no such graph; expected one of"),
        (["--graph", "sr"], 2, "--graph 'sr': it has no reference vectors to compare with"),
        (["--mode", "film"], 2, "toy has no mode 'film'"),
        (["--golden", "g.npz", "-p", "a"], 2, "brings mode and parameters of its run"),
        (["--golden", "g.npz", "--no-run"], 2, "not allowed with argument"),
        (["--golden", "none.npz"], 2, "none.npz: cannot be read"),
        (["--golden", "text.npz"], 2, "text.npz: cannot be read"),
        (["--golden", "other.npz"], 2, "other.npz: cannot be read ("),
        (["--steps", "0"], 2, "Or check the graphs alone, without a run: --no-run."),
        (["--html", "nowhere/out.html"], 1, "The folder nowhere does not exist"),
        (["--json", "nowhere/out.json"], 1, "The folder nowhere does not exist"),
        (["--save-golden", "nowhere/run.npz"], 1, "The folder nowhere does not exist"),
    ],
)
def test_mistakes_are_told(words: list[str], code: int, told: str, capsys: Out) -> None:
    Path("text.npz").write_text("golden")
    np.savez("other.npz", frames=np.zeros(3))
    assert cli.main(["verify", TOY, *ORT, *words]) == code
    shown = capsys.readouterr().err
    assert told in shown and shown.count("error:") == 1


def test_a_golden_run_of_another_cascade_is_refused(edit_toy: Any, capsys: Out) -> None:
    verified(*ORT, "--save-golden", "golden.npz")
    folder = edit_toy(lambda document: document.update(description="another"))
    assert cli.main(["verify", str(folder), *ORT, "--golden", "golden.npz"]) == 2
    hashes = [trace.plan_hash(plan.load(one))[:12] for one in (TOY, folder)]
    assert re.search(rf"sha256 {hashes[0]}; expected {hashes[1]}", capsys.readouterr().err)


def test_runs_of_other_calls_are_not_compared() -> None:
    cascade = pipeline.load(TOY, backend="ort", threads=1)
    long, short = (trace.record(cascade, "preview", {"prompt": "a", "steps": n}) for n in (3, 2))
    for one, other in ((long, short), (short, long)):
        with pytest.raises(InputError, match=rf"\({len(other.made)}\) than this one"):
            checks.steps(cascade.plan, one, other)


def test_nothing_to_check_falls_short(edit_toy: Any, capsys: Out) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["graphs"]["text_encoder"]["golden"]

    folder = edit_toy(change)
    found = verified(*ORT, "--no-run", folder=folder, code=1)
    assert len(found["unchecked"]) == 5
    assert "nothing was checked: no graph has reference vectors" in capsys.readouterr().out
    assert len(verified(*ORT, folder=folder)["run"]["steps"]) == 14  # a run needs none


def test_a_reference_needs_onnx_runtime(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setitem(backends.BACKENDS, "there", "edgereel.backends.ort:There")
    there = type("There", (ort.Ort,), {"unusable": staticmethod(lambda _: None)})
    monkeypatch.setattr(ort, "There", there, raising=False)
    monkeypatch.setattr(ort.Ort, "unusable", staticmethod(lambda _: "it is not installed"))
    assert cli.main(["verify", TOY, "--backend", "there"]) == 1
    assert re.search(r"it is not installed.*--golden.*--no-run", capsys.readouterr().err)
    assert cli.main(["verify", TOY, "--backend", "there", "--no-run"]) == 0


def test_limits_are_there_for_every_precision_and_rise() -> None:
    assert {*get_args(build_record.Precision)} <= checks.LIMITS.keys()
    rows = [
        (of.error, of.drift, -of.psnr_db, -of.ssim, of.flicker) for of in checks.LIMITS.values()
    ]
    for one, other in itertools.pairwise(rows):
        assert all(a < b for a, b in zip(one, other, strict=True))


def test_black_pixels_may_be_a_level_off() -> None:
    black = np.zeros((4, 8, 8, 3), np.uint8)
    assert likeness.drift(black + np.uint8(1), black) == pytest.approx(1 / 255)
    assert likeness.drift(np.ones(4, np.float32), np.zeros(4, np.float32)) == np.inf
