"""Replacing weights of an opened engine, against a fake library that keeps what it is given.

Alone: pytest tests/test_refit.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgereel import builds
from edgereel.backends.trt_library import Library
from edgereel.backends.trt_refit import Refitting
from edgereel.errors import EngineError, InputError, PlanError
from edgereel.tensor_files import read_tensors

A, B = 6, 4  # inputs and outputs of the linear layers


class FakeEngine:
    """Has the weights that it was given, each as bytes and type, and counts refits."""

    def __init__(self) -> None:
        self.weights: dict[str, tuple[str, bytes]] = {}
        self.refits = 0


class FakeRefitter:
    refused = ""  # name of a weight
    missing: tuple[str, ...] = ()

    def __init__(self, engine: FakeEngine, logger: Any) -> None:
        assert logger == "logger"
        self.engine, self.told = engine, dict[str, np.ndarray]()

    def set_named_weights(self, name: str, weights: np.ndarray) -> bool:
        self.told[name] = weights
        return name != self.refused

    def get_missing_weights(self) -> list[str]:
        return list(self.missing)

    def refit_cuda_engine(self) -> bool:
        assert all(array.flags["C_CONTIGUOUS"] for array in self.told.values())
        for name, array in self.told.items():
            self.engine.weights[name] = (array.dtype.name, array.tobytes())
        self.engine.refits += 1
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRefitter]:
    monkeypatch.setattr(FakeRefitter, "refused", "")
    monkeypatch.setattr(FakeRefitter, "missing", ())
    return FakeRefitter


def array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CONV, PACKED, OUT = array(1, 3, 2, 3, 3), array(2, A, 3 * B), array(3, A, B)


class Opened:
    """A cascade folder with three weights, and its engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "graphs").mkdir(parents=True)
        self.file = folder / "graphs/unet.onnx.data"
        content = b"\0" * 64 + b"".join(x.tobytes() for x in (CONV, PACKED, OUT))
        self.file.write_bytes(content)
        refit, offset = {}, 64
        for name, parts, stored, dtype in (
            ("conv.weight.float16", ("network.conv.weight",), CONV, "float16"),
            ("val_7.float16", tuple(f"network.attn.{p}.weight" for p in ("to_q", "to_k", "to_v")),
             PACKED, "float16"),
            ("val_8", ("network.attn.to_out.0.weight",), OUT, "float32"),
        ):  # fmt: skip
            refit[name] = builds.Refit(
                initializer=name.removesuffix(".float16"), parts=parts, shape=stored.shape,
                transposed=stored.ndim == 2, file="graphs/unet.onnx.data", offset=offset,
                dtype=dtype,
            )  # fmt: skip
            offset += stored.nbytes
        self.record = builds.Engine(
            file="unet.engine", sha256="", bytes=0, precision="fp16", profiles=(), nodes=1,
            source={"graphs/unet.onnx.data": hashlib.sha256(content).hexdigest()},
            parameters=0, types={}, weights_bytes=0, activation_bytes=0, seconds=0.0,
            peak_rss_bytes=0, refit=refit,
        )  # fmt: skip
        self.engine = FakeEngine()
        module = SimpleNamespace(Refitter=FakeRefitter, Weights=lambda array: array)
        library = Library(module, "tensorrt", "11.3")
        self.weights = Refitting(library, self.engine, self.record, folder, "logger")

    def has(self, name: str) -> np.ndarray:
        dtype, content = self.engine.weights[name]
        return np.frombuffer(content, dtype).reshape(self.record.refit[name].shape)


@pytest.fixture
def opened(fake: type[FakeRefitter], tmp_path: Path) -> Opened:
    return Opened(tmp_path / "cascade")


def test_a_b_a_is_exact(opened: Opened) -> None:
    """What was replaced is what is in the folder again, bit for bit; the rest was never touched."""
    other = array(9, 3, 2, 3, 3)
    assert opened.weights.swap({"network.conv.weight": other}) == ("network.conv.weight",)
    assert set(opened.engine.weights) == {"conv.weight.float16"}
    np.testing.assert_array_equal(opened.has("conv.weight.float16"), other.astype(np.float16))
    opened.weights.restore()
    np.testing.assert_array_equal(opened.has("conv.weight.float16"), CONV.astype(np.float16))
    opened.weights.restore()
    assert opened.engine.refits == 2 and set(opened.engine.weights) == {"conv.weight.float16"}


def test_b_to_c_leaves_nothing_of_b(opened: Opened) -> None:
    opened.weights.swap({"conv.weight": array(9, 3, 2, 3, 3), "to_out.0.weight": array(8, B, A)})
    opened.weights.swap({"to_out.0.weight": array(7, B, A)})
    np.testing.assert_array_equal(opened.has("conv.weight.float16"), CONV.astype(np.float16))
    np.testing.assert_array_equal(opened.has("val_8"), array(7, B, A).T)
    assert opened.engine.refits == 2  # both at once


def test_a_part_of_a_packed_weight(opened: Opened) -> None:
    """Keys are the second third of the columns; queries and values stay the folder's."""
    keys = array(9, B, A)
    opened.weights.swap({"attn.to_k.weight": keys})
    expected = PACKED.copy()
    expected[:, B : 2 * B] = keys.T
    np.testing.assert_array_equal(opened.has("val_7.float16"), expected.astype(np.float16))


def test_beyond_float16_is_its_end(opened: Opened) -> None:
    """As the compiler converts."""
    opened.weights.swap({"network.conv.weight": np.full((3, 2, 3, 3), -1e6, np.float32)})
    assert (opened.has("conv.weight.float16") == -65504).all()


def test_a_1x1_convolution_may_be_a_matrix(opened: Opened) -> None:
    matrix = array(9, B, A, 1, 1)
    opened.weights.swap({"attn.to_q.weight": matrix})
    np.testing.assert_array_equal(
        opened.has("val_7.float16")[:, :B], matrix[..., 0, 0].T.astype(np.float16)
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("network.none.weight", (1,), r"network\.none\.weight is none of .*network\.attn\.to_k"),
        ("weight", (1,), r"weight weight is network.*Give the whole name"),
        ("conv.weight", (3, 2, 3, 1), r"is \[3, 2, 3, 1\], expected \[3, 2, 3, 3\]"),
        ("attn.to_k.weight", (A, B), rf"is \[{A}, {B}\], expected \[{B}, {A}\]"),
    ],
)
def test_wrong_weights_are_refused(
    opened: Opened, name: str, shape: tuple[int, ...], message: str
) -> None:
    """Before any weight of the engine is changed."""
    given = {"attn.to_q.weight": array(9, B, A), name: array(9, *shape)}
    with pytest.raises(InputError, match=message):
        opened.weights.swap(given)
    assert opened.engine.refits == 0 and opened.engine.weights == {}


def test_what_is_no_number_is_refused(opened: Opened) -> None:
    with pytest.raises(InputError, match="is not finite"):
        opened.weights.swap({"attn.to_q.weight": np.full((B, A), np.nan, np.float32)})


def test_a_changed_folder_is_refused(opened: Opened) -> None:
    opened.file.write_bytes(b"\1" + opened.file.read_bytes()[1:])
    with pytest.raises(PlanError, match=r"unet\.onnx\.data: was changed .*compile again"):
        opened.weights.swap({"attn.to_q.weight": array(9, B, A)})


@pytest.mark.parametrize("kind", ["refused", "missing"])
def test_a_refusal_of_the_library_is_told(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bad: Any = "val_7.float16" if kind == "refused" else ("val_8",)
    monkeypatch.setattr(FakeRefitter, kind, bad)
    with pytest.raises(EngineError, match=r"tensorrt 11\.3 .*val_.*with `--refit`"):
        opened.weights.swap({"attn.to_q.weight": array(9, B, A)})


def test_an_engine_without_is_refused(opened: Opened) -> None:
    import msgspec

    record = msgspec.structs.replace(opened.record, refit={})
    with pytest.raises(EngineError, match=r"cannot be replaced.*--refit"):
        Refitting(opened.weights._library, opened.engine, record, opened.folder, "logger")


def write(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    """A .safetensors file, from the format's description."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (kind, numbers) in tensors.items():
        place = [len(data), len(data) + numbers.nbytes]
        header[name] = {"dtype": kind, "shape": list(numbers.shape), "data_offsets": place}
        data += numbers.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_weights_from_a_file(opened: Opened, tmp_path: Path) -> None:
    numbers = array(9, B, A)
    upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, rounded to zero
    path = write(tmp_path / "tuned.safetensors", {
        "attn.to_q.weight": ("F16", numbers.astype(np.float16)),
        "attn.to_v.weight": ("BF16", upper),
        "steps": ("I64", np.ones(1, np.int64)),
    })  # fmt: skip
    opened.weights.swap(path)
    found = opened.has("val_7.float16")
    np.testing.assert_array_equal(found[:, :B], numbers.astype(np.float16).T)
    np.testing.assert_allclose(found[:, 2 * B :], numbers.T, rtol=2.0**-7)
    assert read_tensors(path).keys() == {"attn.to_q.weight", "attn.to_v.weight"}


def lora(path: Path, **layers: tuple[np.ndarray, np.ndarray, float]) -> Path:
    """A LoRA in the naming of kohya's scripts: down, up and alpha of each layer."""
    tensors = {}
    for name, (down, up, alpha) in layers.items():
        tensors[f"{name}.lora_down.weight"] = ("F32", down)
        tensors[f"{name}.lora_up.weight"] = ("F32", up)
        tensors[f"{name}.alpha"] = ("F32", np.float32(alpha))
    return write(path, tensors)


def test_a_lora_is_merged_into_the_folders_weights(opened: Opened, tmp_path: Path) -> None:
    """W + scale * alpha / rank * up @ down in float64, of two layers; then none of it."""
    q = array(5, 2, A), array(6, B, 2), 3.0
    conv = array(7, 4, 2, 3, 3), array(8, 3, 4, 1, 1), 2.0
    text = array(5, 2, A), array(6, B, 2), 1.0
    path = lora(tmp_path / "style.safetensors", lora_unet_attn_to_q=q, lora_unet_conv=conv,
                lora_te_text_model_encoder_layers_0_self_attn_q_proj=text)  # fmt: skip
    swapped = opened.weights.swap_lora(path, 0.5)
    assert sorted(swapped) == ["network.attn.to_q.weight", "network.conv.weight"]
    expected = PACKED.astype(np.float64)
    expected[:, :B] += (0.5 * 3 / 2 * q[1].astype(np.float64) @ q[0]).T
    np.testing.assert_allclose(opened.has("val_7.float16"), expected, rtol=2.0**-11, atol=1e-6)
    added = conv[1].reshape(3, 4).astype(np.float64) @ conv[0].reshape(4, -1)
    whole = CONV + 0.5 * 2 / 4 * added.reshape(CONV.shape)
    np.testing.assert_allclose(opened.has("conv.weight.float16"), whole, rtol=2.0**-11, atol=1e-6)
    opened.weights.restore()
    np.testing.assert_array_equal(opened.has("val_7.float16"), PACKED.astype(np.float16))
    np.testing.assert_array_equal(opened.has("conv.weight.float16"), CONV.astype(np.float16))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("lora_unet_none_to_q", r"in 1 of its 1 layers \(lora_unet_none_to_q.* is not there"),
        ("lora_te_attn_to_q", r"none is of the unet"),
        ("lora_unet_attn_to_out_0", r"expected \[4, 6\]"),
    ],
)
def test_a_lora_of_another_network_is_refused(
    opened: Opened, tmp_path: Path, layer: str, message: str
) -> None:
    down = array(5, 2, A + 1 if "to_out" in layer else A)
    path = lora(tmp_path / "style.safetensors", **{layer: (down, array(6, B, 2), 1.0)})
    with pytest.raises(InputError, match=f"does not fit the engine.*{message}"):
        opened.weights.swap_lora(path)
    assert opened.engine.refits == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 20, (3).to_bytes(8, "little") + b"[1]",
     (50).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be read as weights"):
        read_tensors(path)
    with pytest.raises(InputError, match="No such file"):
        read_tensors(tmp_path / "none.safetensors")
