"""Edgereel's operators: kernels against their definitions, PyTorch and double precision.

Alone: `pytest tests/export/test_kernels.py`; what the kernels do inside is kernels/tests/.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from edgereel import kernel_library  # noqa: E402
from edgereel.backends.ort import session_options  # noqa: E402
from edgereel.errors import EngineError  # noqa: E402
from edgereel_export import (  # noqa: E402
    group_norm,
    plain_attention,
    precision,
    temporal_attention,
)
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.frame_attention import Turns, attend_frames  # noqa: E402

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
LIBRARY = kernel_library.path()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="edgereel-kernels is not installed")
Feeds = Mapping[str, NDArray[Any]]

# frames, pixels, heads, width, turned, interleaved, bias: one, primes, one past a tile of 16
CASES = [
    (1, 1, 1, 1, 0, True, False),
    (1, 7, 2, 8, 4, True, True),
    (16, 5, 8, 40, 32, True, True),
    (17, 3, 3, 8, 8, False, False),
    (31, 17, 2, 16, 16, False, True),
    (61, 2, 2, 80, 32, True, True),
    (128, 2, 1, 160, 0, True, False),
]


def model(name: str, body: str, attributes: Mapping[str, Any], kinds: Mapping[str, int]) -> bytes:
    """A graph of one node with its definition; `kinds` are ONNX types of its inputs."""
    values = [onnx.helper.make_tensor_value_info(key, kind, None) for key, kind in kinds.items()]
    first = next(iter(kinds.values()))
    out = onnx.helper.make_tensor_value_info("out", first, None)
    order = ("qkv", "cos", "sin", "bias") if name == "TemporalAttention" else tuple(kinds)
    given = [key if key in kinds else "" for key in order]
    node = onnx.helper.make_node(name, given, ["out"], "the_node", domain="edgereel", **attributes)
    graph = onnx.helper.make_graph([node], "graph", values, [out])
    versions = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("edgereel", 1)]
    made = onnx.helper.make_model(
        graph, functions=[onnx.parser.parse_function(body)], opset_imports=versions, ir_version=10
    )
    data: bytes = made.SerializeToString()
    return data


def run(data: bytes, feeds: Feeds, *, kernels: bool) -> NDArray[Any]:
    """The output, which begins as NaN."""
    session = onnxruntime.InferenceSession(data, session_options(2, LIBRARY if kernels else None))
    return run_session(session, feeds)


def run_session(session: Any, feeds: Feeds) -> NDArray[Any]:
    first = next(iter(feeds.values()))
    shape = list(first.shape)
    if "qkv" in feeds:
        shape[3] //= 3
    out = np.full(shape, np.nan, first.dtype)
    binding = session.io_binding()
    for key, value in feeds.items():
        binding.bind_cpu_input(key, value)
    binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)
    return out


def attention_feeds(case: tuple[Any, ...], dtype: str, rows: int = 2) -> dict[str, NDArray[Any]]:
    frames, pixels, heads, width, turned, _, biased = case
    rng = np.random.default_rng(0)
    feeds = {"qkv": rng.standard_normal((rows, frames, pixels, 3 * heads * width)).astype(dtype)}
    if turned:
        angle = np.arange(frames)[:, None] * rng.random(turned // 2)
        feeds |= {"cos": np.cos(angle).astype("f4"), "sin": np.sin(angle).astype("f4")}
    if biased:
        feeds["bias"] = rng.standard_normal((heads, frames, frames)).astype("f4")
    return feeds


def attention_model(case: tuple[Any, ...], feeds: Feeds) -> bytes:
    heads, width, turned, interleaved, biased = case[2:]
    body = temporal_attention.body(turned=turned > 0, biased=biased, interleaved=interleaved)
    attributes = {"heads": heads, "interleaved": int(interleaved), "scale": width**-0.5}
    kinds = {key: onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for key, v in feeds.items()}
    return model("TemporalAttention", body, attributes, kinds)


def attention_reference(case: tuple[Any, ...], feeds: Feeds) -> NDArray[np.float64]:
    """The formula in float64: one pixel, one head at a time."""
    heads, width, turned, interleaved, biased = case[2:]
    qkv = feeds["qkv"].astype(np.float64)
    rows, frames, pixels, _ = qkv.shape
    parts = qkv.reshape(rows, frames, pixels, 3, heads, width)
    out = np.zeros((rows, frames, pixels, heads, width))
    for row, pixel, head in np.ndindex(rows, pixels, heads):
        q, k, v = (parts[row, :, pixel, which, head].copy() for which in range(3))
        if turned:
            turn = feeds["cos"].astype(np.float64) + 1j * feeds["sin"].astype(np.float64)
            half = turned // 2
            ones, twos = (
                (np.arange(0, turned, 2), np.arange(1, turned, 2))
                if interleaved
                else (np.arange(half), np.arange(half, turned))
            )
            for x in (q, k):
                both = (x[:, ones] + 1j * x[:, twos]) * turn
                x[:, ones], x[:, twos] = both.real, both.imag
        scores = q @ k.T / np.sqrt(width) + (feeds["bias"][head] if biased else 0)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[row, :, pixel, head] = weights / weights.sum(-1, keepdims=True) @ v
    return out.reshape(rows, frames, pixels, -1)


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=needs_library)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_equals_float64(case: tuple[Any, ...], kernels: bool) -> None:
    feeds = attention_feeds(case, "f4")
    found = run(attention_model(case, feeds), feeds, kernels=kernels)
    # sums of at most 160 products of normal numbers, each rounded to 2^-24 of its size
    assert np.abs(found - attention_reference(case, feeds)).max() < 1e-5


@needs_library
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_in_half_precision_is_computed_in_float(case: tuple[Any, ...]) -> None:
    feeds = attention_feeds(case, "f2")
    found = run(attention_model(case, feeds), feeds, kernels=True)
    assert found.dtype == np.float16
    # means of values below 5, rounded once to 2^-11 of their size
    assert np.abs(found - attention_reference(case, feeds)).max() < 2.5e-3


@needs_library
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bias": np.zeros((8, 16, 15), "f4")}, r"bias is \[8, 16, 15\]; expected \[8, 16, 16\]"),
        ({"cos": np.zeros((15, 16), "f4")}, r"cos is \[15, 16\].*16 frames, at most 20"),
        ({"cos": np.zeros((16, 21), "f4"), "sin": np.zeros((16, 21), "f4")}, "cos is .* most 20"),
        ({"qkv": np.zeros((1, 16, 2, 100), "f4")}, r"qkv is \[1, 16, 2, 100\].*8 heads"),
        ({"qkv": np.zeros((16, 2, 960), "f4")}, r"qkv is \[16, 2, 960\]; expected \[B, F, S"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: Feeds, told: str) -> None:
    feeds = attention_feeds(CASES[2], "f4")
    data = attention_model(CASES[2], feeds)
    session = onnxruntime.InferenceSession(data, session_options(1, LIBRARY))
    with pytest.raises(Exception, match=f"the_node: {told}"):
        session.run(None, feeds | change)


@needs_library
@pytest.mark.parametrize(
    ("shapes", "kind", "told"),
    [
        ({"qkv": ("B", 16, "S", 961)}, 1, r"qkv is \[\?, 16, \?, 961\]; expected .* 8 heads"),
        ({"bias": (8, 16, 15)}, 1, r"bias is \[8, 16, 15\]; expected \[8, 16, 16\]"),
        ({"cos": (15, 16), "sin": (15, 16)}, 1, r"cos is \[15, 16\].*expected both \[16 frames"),
        ({}, 11, r"tensor\(double\).*TemporalAttention.*the_node"),
    ],
)
def test_a_session_is_refused_where_the_file_tells(
    shapes: Mapping[str, tuple[int | str, ...]], kind: int, told: str
) -> None:
    feeds = attention_feeds(CASES[2], "f4")
    made = onnx.load_from_string(attention_model(CASES[2], feeds))
    of = {k: v.shape for k, v in feeds.items()} | {"qkv": ("B", 16, "S", 960)} | shapes
    values = [
        onnx.helper.make_tensor_value_info(k, kind if k == "qkv" else 1, v) for k, v in of.items()
    ]
    del made.graph.input[:]
    made.graph.input.extend(values)
    made.graph.output[0].type.tensor_type.elem_type = kind
    with pytest.raises(Exception, match=told) as error:
        onnxruntime.InferenceSession(made.SerializeToString(), session_options(1, LIBRARY))
    assert "the_node" in str(error.value)


@needs_library
def test_halves_are_those_of_whole_heads() -> None:
    case = (17, 3, 3, 8, 8, False, False)
    feeds = attention_feeds(case, "f4")
    session = onnxruntime.InferenceSession(
        attention_model(case, feeds), session_options(1, LIBRARY)
    )
    with pytest.raises(Exception, match=r"cos is \[17, 2\].*expected both \[17 frames, 4\]"):
        session.run(None, feeds | {k: feeds[k][:, :2] for k in ("cos", "sin")})


@needs_library
def test_no_pixels_give_nothing() -> None:
    feeds = attention_feeds(CASES[2], "f4")
    session = onnxruntime.InferenceSession(
        attention_model(CASES[2], feeds), session_options(1, LIBRARY)
    )
    none = feeds | {"qkv": np.zeros((1, 16, 0, 960), "f4")}
    assert session.run(None, none)[0].shape == (1, 16, 0, 320)


NORMS = [((2, 32, 5, 7), 8), ((1, 3, 1), 3), ((3, 64, 17, 31, 2), 32), ((1, 6, 4099), 1)]


@needs_library
@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize(("shape", "groups"), NORMS)
def test_group_norm_equals_float64(shape: tuple[int, ...], groups: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": (rng.standard_normal(shape) + 3).astype(dtype)}
    feeds |= {key: rng.standard_normal(shape[1]).astype(dtype) for key in ("scale", "bias")}
    kind = onnx.helper.np_dtype_to_tensor_dtype(feeds["x"].dtype)
    attributes = {"num_groups": groups, "epsilon": 1e-5}
    data = model("GroupNorm", group_norm.BODY, attributes, dict.fromkeys(feeds, kind))
    found = run(data, feeds, kernels=True)
    x = feeds["x"].astype(np.float64).reshape(shape[0], groups, -1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    by_channel = (1, -1, *[1] * (len(shape) - 2))
    scale, bias = (feeds[k].astype(np.float64).reshape(by_channel) for k in ("scale", "bias"))
    # float32: a mean of 3 is off by 2^-23 of it; float16: results below 16 by 2^-11 of their size
    bound = 1e-5 if dtype == "f4" else 1e-2
    assert np.abs(found - (x.reshape(shape) * scale + bias)).max() < bound


@needs_library
def test_a_flat_picture_is_not_divided_by_rounding_errors() -> None:
    feeds = {"x": np.full((1, 8, 64, 64), 0.1, "f4"), "scale": np.ones(8, "f4")}
    feeds["bias"] = np.zeros(8, "f4")
    attributes = {"num_groups": 2, "epsilon": 1e-6}
    data = model("GroupNorm", group_norm.BODY, attributes, dict.fromkeys(feeds, 1))
    assert np.abs(run(data, feeds, kernels=True)).max() < 1e-4  # a rounding of 0.1, over 1e-3


# rows, heads, queries, keys, width: one, a text's tokens, more than a block of queries and keys
PLAIN = [(1, 1, 1, 1, 1), (2, 8, 160, 77, 40), (3, 1, 1030, 1030, 64)]


def plain_feeds(case: tuple[int, ...], dtype: str) -> dict[str, NDArray[Any]]:
    rows, heads, queries, keys, width = case
    rng, lengths = np.random.default_rng(0), {"q": queries, "k": keys, "v": keys}
    return {
        name: rng.standard_normal((rows, heads, length, width)).astype(dtype)
        for name, length in lengths.items()
    }


def plain_model(feeds: Feeds) -> bytes:
    kinds = {key: onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for key, v in feeds.items()}
    return model("Attention", plain_attention.BODY, {}, kinds)


@needs_library
@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("case", PLAIN)
def test_plain_attention_equals_float64(case: tuple[int, ...], dtype: str) -> None:
    feeds = plain_feeds(case, dtype)
    q, k, v = (x.astype(np.float64) for x in feeds.values())
    scores = np.exp(q @ k.swapaxes(-1, -2) / case[-1] ** 0.5)
    expected = scores / scores.sum(-1, keepdims=True) @ v
    # sums of up to 1030 products; half precision has 11 bits, of results below 4
    bound = 2e-6 if dtype == "f4" else 5e-3
    for kernels in (True, False):
        assert np.abs(run(plain_model(feeds), feeds, kernels=kernels) - expected).max() < bound


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory is read from /proc")
def test_plain_attention_never_holds_all_scores() -> None:
    """Which are 4 * 3000 * 3000 floats, 137 MiB; without kernels they are all there."""

    def most() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1024

    feeds, taken = plain_feeds((1, 4, 3000, 3000, 16), "f4"), {}
    for kernels in (True, False):
        session = onnxruntime.InferenceSession(
            plain_model(feeds), session_options(1, LIBRARY if kernels else None)
        )
        Path("/proc/self/clear_refs").write_text("5")
        before = most()
        run_session(session, feeds)
        taken[kernels] = most() - before
    assert taken[True] < 30e6 and taken[False] > 130e6, taken


@needs_library
def test_plain_attention_refuses_other_ranks_and_takes_nothing() -> None:
    feeds = plain_feeds((1, 2, 3, 4, 5), "f4")
    session = onnxruntime.InferenceSession(plain_model(feeds), session_options(1, LIBRARY))
    with pytest.raises(Exception, match=r"the_node: q, k or v is \[2, 3, 5\]; expected \[B"):
        session.run(None, feeds | {"q": feeds["q"][0]})
    none = session.run(None, feeds | {"q": np.zeros((1, 2, 0, 5), "f4")})
    assert none[0].shape == (1, 2, 0, 5)


class Look(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Attention without a mask, then with one."""

    def forward(self, q: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(attend(q, q, q), q, q, attn_mask=bias)


def test_attention_without_a_mask_is_a_call_of_the_function(tmp_path: Path) -> None:
    """And TensorRT is given the standard's operator."""
    example = {"q": torch.randn(2, 3, 5, 8), "bias": torch.randn(5, 5)}
    free = {"q": {0: "B"}, "out": {0: "B"}}
    spec = export(Graph(Look(), example, ("out",), free), "look", tmp_path)
    file = tmp_path / spec.file
    onnx.checker.check_model(onnx.load(file))
    nodes = [node for node in onnx.load(file).graph.node if node.op_type == "Attention"]
    assert [node.domain for node in nodes] == ["edgereel", ""]
    nodes = [node for node in precision.load(file).graph if node.op_type == "Attention"]
    assert [node.domain for node in nodes] == ["", ""]
    assert spec.flops  # of both


class Attend(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Attention over frames as a graph; its tables depend on the number of frames."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        number = torch.arange(qkv.shape[1], dtype=torch.float32)[:, None]
        angle = number * torch.tensor([1.0, 0.3, 0.1, 0.03])
        bias = -(number - number.T).abs() * torch.tensor([0.1, 0.2]).view(-1, 1, 1)
        return attend_frames(qkv, 2, Turns(angle.cos(), angle.sin(), self.interleaved), bias)


@pytest.mark.parametrize("interleaved", [False, True])
def test_an_export_is_one_node_with_its_definition(tmp_path: Path, interleaved: bool) -> None:
    torch.manual_seed(0)
    free = {0: "B", 1: "F", 2: "S"}
    example = {"qkv": torch.randn(2, 5, 6, 48)}
    graph = Graph(Attend(interleaved), example, ("out",), {"qkv": free, "out": free})
    spec = export(graph, "attend", tmp_path)  # which checks it against PyTorch
    file = tmp_path / spec.file
    nodes = [node for node in onnx.load(file).graph.node if node.domain == "edgereel"]
    assert [node.op_type for node in nodes] == ["TemporalAttention"]
    qkv = torch.randn(1, 9, 4, 48)
    expected = graph.module(qkv).numpy()
    for library in {None, LIBRARY}:
        session = onnxruntime.InferenceSession(str(file), session_options(1, library))
        found = session.run(None, {"qkv": qkv.numpy()})[0]
        assert np.abs(found - expected).max() < 1e-5  # as above
    assert "B*F*F*S" in spec.activations[0]  # scores


def test_one_file_has_one_definition() -> None:
    import onnx_ir as ir

    text = """<ir_version: 10, opset_import: ["" : 23, "edgereel" : 1]>
    two (float[b, f, s, 48] x, float[2, f, f] bias) => (float[b, f, s, 16] y, float[b, f, s, 16] z)
    {
        y = edgereel.TemporalAttention<heads = 2, interleaved = 1, scale = 0.3>(x)
        z = edgereel.TemporalAttention<heads = 2, interleaved = 1, scale = 0.3>(x, , , bias)
    }"""
    made = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    with pytest.raises(EngineError, match="different inputs; expected all with the same"):
        temporal_attention.define(made)


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "libedgereel_ort.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(EngineError, match=r"libedgereel_ort\.so.*pip install.*--no-kernels"):
        session_options(1, broken)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_inner_loops_at_every_level(tmp_path: Path, sanitizer: str) -> None:
    """kernels/tests/cpu_test.cc: every level of vector units, in threads, under sanitizers."""
    cmake = Path(sys.executable).with_name("cmake")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")) or not cmake.is_file():
        pytest.skip("no C++ compiler, or no cmake in the environment")
    flags = f"-fsanitize={sanitizer} -fno-sanitize-recover=all -g1"
    told = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={cmake.with_name('ninja')}"]
    told += ["-DEDGEREEL_ORT=OFF", "-DEDGEREEL_TESTS=ON", f"-DCMAKE_CXX_FLAGS={flags}"]
    for words in (
        [str(cmake), "-S", str(ROOT / "kernels"), "-B", str(tmp_path), *told],
        [str(cmake), "--build", str(tmp_path)],
        [str(tmp_path / "cpu_test")],
    ):
        result = subprocess.run(words, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout
