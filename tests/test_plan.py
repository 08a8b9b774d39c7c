"""Every way a plan can be wrong is refused with the place: `pytest tests/test_plan.py`."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from edgereel import plan, schedule
from edgereel.errors import PlanError

DROP = object()  # as a new value: remove the key
DENOISE = "modes.video.stages[1].ops[1]"
SR_STAGE = "modes.video.stages[2]"
WINDOW = SR_STAGE + ".each.windows[0]"
SR = SR_STAGE + ".ops[2]"
TOKENIZE = "modes.video.stages[0].ops[0]"
ENCODE = "modes.video.stages[0].ops[1]"
CLIP = "modes.video.stages[1].ops[2]"
ROW = "modes.video.rows.text[0]"
VALUES = "modes.video.values"
PARAMS = "modes.video.params"


def put(document: Any, path: str, value: object) -> None:
    """Sets, or with DROP removes, what `path` leads to; keys with dots are written as ['a.b']."""
    parts = [
        int(index) if index else quoted or name
        for quoted, index, name in re.findall(r"\['([^']+)'\]|\[(\d+)\]|([^.\[\]]+)", path)
    ]
    for part in parts[:-1]:
        document = document[part]
    if value is DROP:
        del document[parts[-1]]
    else:
        document[parts[-1]] = value


def tensor(dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape)}


# (path, new value, place the error starts with, words in it)
WRONG = [
    # structure
    ("format", 2, "format", "format 2, expected 1"),
    ("format", "1", "format", "Expected `int`"),
    ("format", DROP, "plan.json", "missing required field `format`"),
    ("extra", 1, "plan.json", "unknown field `extra`"),
    ("modes", {}, "modes", "at least one mode"),
    (ENCODE + ".op", "jump", ENCODE + ".op", "one of tokenize"),
    (ENCODE + ".op", DROP, ENCODE, "field `op`"),
    (DENOISE + ".grph", "x", DENOISE, "unknown field `grph`"),
    (DENOISE + ".graph", 3, DENOISE + ".graph", "Expected `str`"),
    (DENOISE + ".sampler", "plms", DENOISE + ".sampler", "one of ddim"),
    (DENOISE + ".spacing", "odd", DENOISE + ".spacing", "one of leading"),
    (DENOISE + ".spacings", {"ddim": "odd"}, DENOISE + ".spacings.ddim", "'odd'"),
    (DENOISE + ".spacings", {"plms": "leading"}, DENOISE + ".spacings", "'plms'"),
    (SR + ".spacings", {"ddim": "leading"}, SR + ".spacings.ddim", "nobody can choose it"),
    (DENOISE + ".final", "two", DENOISE + ".final", "one of one, first"),
    (DENOISE + ".variance", "none", DENOISE + ".variance", "one of fixed_small"),
    (DENOISE + ".steps", 2.5, DENOISE + ".steps", "Expected `int | object`"),
    (VALUES + ".ids.dtype", "float64", VALUES + ".ids.dtype", "one of float32"),
    (PARAMS + ".fps.type", "image", PARAMS + ".fps.type", "one of text, int"),
    ("graphs.decoder.inputs.x.dtype", "bf16", "graphs.decoder.inputs.x.dtype", "one of float32"),
    ("graphs.decoder.precision", "fp16", "graphs.decoder.precision", "one of fp32"),
    ("graphs.decoder.precision", 32, "graphs.decoder.precision", "Expected `str | null`"),
    # names, shapes, files
    (
        "graphs['a b']",
        {"file": "tokenizer.json", "inputs": {}, "outputs": {}},
        "graphs.a b",
        "not a name",
    ),
    (VALUES + ".lr.shape", ["K", 3, 4, 0], VALUES + ".lr.shape", "0 is not a size"),
    (VALUES + ".lr.shape", ["K*2", 3, 4, 4], VALUES + ".lr.shape", "'K*2' is not a size"),
    ("files['../secret']", "0" * 64, "files.../secret", "not a plain path"),
    ("files['/etc/passwd']", "0" * 64, "files./etc/passwd", "not a plain path"),
    ("files['a\\b']", "0" * 64, "files.a\\b", "not a plain path"),
    ("files['C:x']", "0" * 64, "files.C:x", "not a plain path"),
    ("files['a//b']", "0" * 64, "files.a//b", "not a plain path"),
    ("files['tokenizer.json']", "abc", "files.tokenizer.json", "64 lowercase hex"),
    ("graphs.sr.file", "graphs/other.onnx", "graphs.sr.file", "not listed in files"),
    ("graphs.sr.weights", ["w.data"], "graphs.sr.weights[0]", "not listed in files"),
    ("graphs.sr.golden", "g.npz", "graphs.sr.golden", "not listed in files"),
    ("schedules.linear.file", "s.npy", "schedules.linear.file", "not listed in files"),
    ("tokenizers.words.file", "t.json", "tokenizers.words.file", "not listed in files"),
    ("tokenizers.words.length", 0, "tokenizers.words", "length 0"),
    ("tokenizers.words.pad_id", -1, "tokenizers.words", "pad_id -1"),
    # params
    (PARAMS + ".fps.min", 31, PARAMS + ".fps", "above max"),
    (PARAMS + ".fps.default", 99, PARAMS + ".fps.default", "out of range"),
    (PARAMS + ".seed.default", -1, PARAMS + ".seed.default", "out of range"),
    (
        PARAMS + "['sampler.decoder'].default",
        "x",
        PARAMS + ".sampler.decoder.default",
        "not a choice",
    ),
    (
        PARAMS + "['sampler.decoder'].choices",
        [],
        PARAMS + ".sampler.decoder.choices",
        "one or more",
    ),
    (PARAMS + ".fps.aliases", ["steps"], PARAMS + ".fps", "belongs to param 'steps.decoder'"),
    (PARAMS + ".fps.aliases", ["seed"], PARAMS + ".fps", "belongs to param 'seed'"),
    (PARAMS + ".fps.aliases", ["noise"], PARAMS + ".fps", "belongs to Edgereel"),
    (PARAMS + ".idle", {"type": "int", "default": 1}, PARAMS + ".idle", "nothing uses it"),
    (PARAMS + ".seed.max", 2**64, PARAMS + ".seed", "within 0 to"),
    (PARAMS + ".seed", DROP, PARAMS + ".seed", "missing"),
    (PARAMS + "['steps.decoder'].min", 0, DENOISE + ".steps", "can be 0"),
    (PARAMS + ".fps.min", DROP, "modes.video.output.fps", "can be anything"),
    # rows
    ("modes.video.rows.text", [], "modes.video.rows.text", "is empty"),
    (ROW, {}, ROW, "not a row"),
    (ROW + ".text", "x", ROW, "not a row"),
    (ROW + ".param", "seed", ROW + ".param", "not a text param"),
    (ROW + ".param", "mood", ROW + ".param", "not a text param"),
    # references
    (DENOISE + ".graph", "decodr", DENOISE + ".graph", "'decodr' is not a graph"),
    (DENOISE + ".graph", "to_clip", DENOISE + ".graph", "a graph of one step"),
    (DENOISE + ".schedule", "cosine", DENOISE + ".schedule", "not a schedule"),
    (DENOISE + ".sampler", {"param": "fps"}, DENOISE + ".sampler", "can be something else"),
    (DENOISE + ".steps", {"param": "fps"}, DENOISE + ".steps", "not an int param"),
    (DENOISE + ".eta", {"param": "prompt"}, DENOISE + ".eta", "not a numeric param"),
    (DENOISE + ".eta", {"param": "none"}, DENOISE + ".eta", "'none' is not a param"),
    (DENOISE + ".eta", -1, DENOISE + ".eta", "at least 0"),
    (DENOISE + ".steps", 0, DENOISE + ".steps", "at least 1"),
    (DENOISE + ".range", {"from": -1}, DENOISE + ".range.from", "at least 0"),
    (DENOISE + ".range", {"from": 9, "to": 9}, DENOISE + ".range.to", "less noisy"),
    (SR + ".noise", "decoder.z", SR + ".noise", "drawn already"),
    (DENOISE + ".noise", DROP, DENOISE + ".noise", "exactly if the graph reads noise"),
    (DENOISE + ".noise", "decoder_noise", DENOISE + ".noise", "drawn already"),
    (DENOISE + ".guidance.rows", "texts", DENOISE + ".guidance.rows", "not a rows list"),
    (
        DENOISE + ".guidance.weights",
        [{"const": 1}],
        DENOISE + ".guidance.weights",
        "2, one per row",
    ),
    (
        DENOISE + ".guidance.weights[0].params",
        {"seeds": 1},
        DENOISE + ".guidance.weights[0].params.seeds",
        "not a param",
    ),
    (DENOISE + ".guidance", DROP, DENOISE + ".conditions.emb", "G = 1"),
    (TOKENIZE + ".tokenizer", "bpe", TOKENIZE + ".tokenizer", "not a tokenizer"),
    (TOKENIZE + ".rows", "t", TOKENIZE + ".rows", "not a rows list"),
    (
        "modes.video.output.fps",
        {"param": "prompt"},
        "modes.video.output.fps",
        "not a numeric param",
    ),
    ("modes.video.output.value", "clip4", "modes.video.output.value", "uint8 [F, H, W, 3]"),
    ("modes.video.stages[1].name", "text", "modes.video.stages", "two stages"),
    # flow
    (CLIP + ".inputs", {"x": "clip4"}, CLIP + ".inputs.x", "not made yet"),
    (CLIP + ".inputs", {"x": "frames"}, CLIP + ".inputs.x", "not made yet"),
    (CLIP + ".inputs", {"x": "nothing"}, CLIP + ".inputs.x", "not a declared value"),
    (CLIP + ".inputs", {}, CLIP + ".inputs.x", "not given a value"),
    (CLIP + ".inputs.y", "latent", CLIP + ".inputs.y", "not one of the graph's"),
    (CLIP + ".inputs.x", "emb", CLIP + ".inputs.x", "'emb' is float32 [G, 4]"),
    (CLIP + ".outputs.clip", "latent", CLIP + ".outputs.clip", "made twice"),
    (CLIP + ".outputs.clip", "fps", CLIP + ".outputs.clip", "made twice"),
    (CLIP + ".outputs", {}, CLIP + ".outputs.clip", "not given a value"),
    ("modes.video.output.value", "chunk", "modes.video.output.value", "not visible here"),
    (VALUES + ".idle", tensor("float32", 1), VALUES + ".idle", "no op makes it"),
    (VALUES + ".prompt", tensor("int64", 1), VALUES + ".prompt", "cannot be int64"),
    (VALUES + ".fps", tensor("int64", 1), VALUES + ".fps", "cannot be int64"),
    (VALUES + ".seed", tensor("int64", 1), VALUES + ".seed", "cannot be int64"),
    (VALUES + ".emb", DROP, ENCODE + ".outputs.emb", "not a declared value"),
    (VALUES + ".emb.dtype", "float16", ENCODE + ".outputs.emb", "float16"),
    (VALUES + ".emb.shape", ["G", 5], ENCODE + ".outputs.emb", "[G, 5]"),
    (VALUES + ".emb.shape", ["G", 4, 1], ENCODE + ".outputs.emb", "[G, 4, 1]"),
    (VALUES + ".emb.shape", ["Q", 4], ENCODE + ".outputs.emb", "'Q' in 'emb' has no size"),
    (VALUES + ".ids.shape", [], TOKENIZE + ".ids", "axis 0 is 0"),
    (VALUES + ".ids.shape", [2, 8], TOKENIZE + ".mask", "'G' in 'mask' has no size"),
    (VALUES + ".ids.shape", [3, 8], TOKENIZE + ".ids", "or 2 as rows has"),
    (VALUES + ".ids.shape", ["G", 9], TOKENIZE + ".ids", "[G, 8]"),
    (VALUES + ".mask.dtype", "int32", TOKENIZE + ".mask", "int32"),
    (VALUES + ".row.shape", ["G", 1], TOKENIZE + ".row", "[G, 1]"),
    (VALUES + ".decoder_noise.dtype", "float16", "modes.video.stages[1].ops[0].value", "float16"),
    (VALUES + ".latent.shape", [1, 3, 6, 4, 5], DENOISE + ".out", "[1, 3, 6, 4, 5]"),
    # chunks
    (SR_STAGE + ".collect", DROP, SR_STAGE, "both or neither"),
    (SR_STAGE + ".each", DROP, SR_STAGE, "both or neither"),
    (SR_STAGE + ".each.slices.lr", "clip", SR_STAGE + ".each.slices.lr", "not a declared value"),
    (WINDOW + ".size", 0, WINDOW + ".size", "at least 1"),
    (WINDOW + ".size", {"param": "fps"}, WINDOW + ".size", "not an int param"),
    (WINDOW + ".overlap", -1, WINDOW + ".overlap", "at least 0"),
    (WINDOW + ".symbol", "G", WINDOW + ".symbol", "'G' has a size already"),
    (WINDOW + ".symbol", "Z", SR_STAGE + ".each.slices.lr", "'K' in 'lr' has no size here"),
    (WINDOW, DROP, SR_STAGE + ".each.slices.lr", "'K' in 'lr' has no size here"),
    (
        SR_STAGE + ".each.windows",
        [{"symbol": "K", "size": 4}, {"symbol": "Z", "size": 2}],
        SR_STAGE + ".each.windows[1]",
        "cuts no slice",
    ),
    (SR_STAGE + ".each.slices.emb", "clip4", SR_STAGE + ".each.slices.emb", "made twice"),
    (SR_STAGE + ".collect", {"lr_": "frames"}, SR_STAGE + ".collect.lr_", "not made in this stage"),
    (SR_STAGE + ".collect", {"chunk": "emb"}, SR_STAGE + ".collect.chunk", "made twice"),
    (VALUES + ".lr.shape", [4, 3, 4, 4], SR_STAGE + ".each.slices.lr", "is not cut"),
    (VALUES + ".lr.shape", ["K", 3, 4, 5], SR_STAGE + ".each.slices.lr", "[K, 3, 4, 4]"),
    (SR_STAGE + ".collect", {"sr_noise": "frames"}, SR_STAGE + ".collect.sr_noise", "[6, 3, 8, 8]"),
    (VALUES + ".frames.shape", [5, 8, 8, 3], SR_STAGE + ".collect.chunk", "[6, 8, 8, 3]"),
    (SR_STAGE + ".ops[0].from", 20, SR_STAGE + ".ops[0].to", "noisier"),
    (SR_STAGE + ".ops[0].to", {"param": "fps"}, SR_STAGE + ".ops[0].to", "not an int param"),
    (SR_STAGE + ".ops[0].noise", "decoder.z", SR_STAGE + ".ops[0].noise", "drawn already"),
    (SR_STAGE + ".ops[0].noise", "sr_noise", SR_STAGE + ".ops[1].value", "drawn already"),
    (SR + ".conditions", {"low_res": "clip4"}, SR + ".conditions.low_res", "[6, 3, 4, 4]"),
]


@pytest.mark.parametrize(("path", "value", "place", "words"), WRONG)
def test_wrong_plan(toy: Path, path: str, value: object, place: str, words: str) -> None:
    document = json.loads((toy / "plan.json").read_text())
    put(document, path, value)
    with pytest.raises(PlanError) as caught:
        plan.parse(json.dumps(document).encode())
    assert str(caught.value).startswith(place + ": "), caught.value
    assert words in str(caught.value)
    assert re.search(r"\. (Correct|Export)", str(caught.value))


def test_tokenize_in_chunks_is_refused(toy: Path) -> None:
    document = json.loads((toy / "plan.json").read_text())
    stages = document["modes"]["video"]["stages"]
    stages[2]["ops"].append(stages[0]["ops"][0])
    with pytest.raises(PlanError, match=r"stages\[2\].ops\[4\].op: tokenize once per chunk"):
        plan.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}',
        b'{"format": 1, "format": 1}', b'{"format": 1e999}', b'{"name": "\\ud800"}',
        b'{"format": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_not_even_a_plan(text: bytes) -> None:
    with pytest.raises(PlanError, match=r"^(plan\.json|format)"):
        plan.parse(text)


def test_toy_is_valid_and_encodes_stably(toy: Path) -> None:
    loaded = plan.load(toy)
    assert loaded.folder == toy
    text = (toy / "plan.json").read_bytes()
    assert plan.encode(loaded) == text
    assert plan.encode(plan.parse(text)) == text


def test_encode_refuses_a_wrong_plan(toy: Path) -> None:
    wrong = plan.Plan(
        format=1, name="n", system="s", files={}, graphs={}, modes={}, schedules={}, tokenizers={}
    )
    with pytest.raises(PlanError, match="modes"):
        plan.encode(wrong)


def test_words_of_the_format_are_those_of_the_schedules() -> None:
    assert get_args(plan.Sampler) == tuple(schedule.SAMPLERS)
    assert get_args(plan.Spacing) == tuple(schedule.SPACINGS)
    assert get_args(plan.Final) == tuple(schedule.FINALS)
    assert get_args(plan.Variance) == tuple(schedule.VARIANCES)


def test_missing_folder_and_file(tmp_path: Path, edit_toy: Callable[..., Path]) -> None:
    with pytest.raises(PlanError, match=r"nowhere.plan\.json: cannot be read"):
        plan.load(tmp_path / "nowhere")
    folder = edit_toy(lambda document: None)
    (folder / "graphs/sr.onnx").unlink()
    with pytest.raises(PlanError, match=r"^files\.graphs/sr\.onnx: there is no such file"):
        plan.load(folder)
    (folder / "graphs/sr.onnx").mkdir()
    with pytest.raises(PlanError, match=r"^files\.graphs/sr\.onnx: there is no such file"):
        plan.load(folder)


def test_links_may_not_leave_the_folder(tmp_path: Path, edit_toy: Callable[..., Path]) -> None:
    folder = edit_toy(lambda document: None)
    outside = tmp_path / "outside.onnx"
    (folder / "graphs/sr.onnx").rename(outside)
    (folder / "graphs/sr.onnx").symlink_to(outside)
    with pytest.raises(PlanError, match="leads outside the folder"):
        plan.load(folder)
    (folder / "graphs/sr.onnx").unlink()
    (folder / "graphs/sr.onnx").symlink_to("sr.onnx")
    with pytest.raises(PlanError, match=r"^files\.graphs/sr\.onnx"):
        plan.load(folder)


def test_a_changed_file_is_refused_when_used(edit_toy: Callable[..., Path]) -> None:
    folder = edit_toy(lambda document: None)
    loaded = plan.load(folder)
    assert loaded.check_file("tokenizer.json") == folder / "tokenizer.json"
    (folder / "graphs/sr.onnx").write_bytes(b"changed")
    with pytest.raises(PlanError, match=r"^files\.graphs/sr\.onnx: the file has sha256"):
        loaded.check_file("graphs/sr.onnx")


@pytest.mark.slow
def test_toy_folder_is_what_its_script_writes(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    spec = importlib.util.spec_from_file_location("make_toy", toy.parent / "make_toy.py")
    assert spec is not None and spec.loader is not None
    make_toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_toy)
    make_toy.build(tmp_path)
    names = sorted(p.relative_to(toy).as_posix() for p in toy.rglob("*") if p.is_file())
    assert names == sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()
    )
    changed = [
        name for name in names if (toy / name).read_bytes() != (tmp_path / name).read_bytes()
    ]
    assert not changed, f"run python tests/data/make_toy.py; different: {changed}"


def test_golden_of_the_text_encoder_is_what_the_graph_gives(toy: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(toy / "graphs/text_encoder.onnx"))
    golden = np.load(toy / "golden/text_encoder.npz")
    inputs = {name[3:]: golden[name] for name in golden if name.startswith("in.")}
    for name, array in zip(("tokens", "emb"), session.run(["tokens", "emb"], inputs), strict=True):
        np.testing.assert_array_equal(array, golden[f"out.{name}"])
