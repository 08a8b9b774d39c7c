"""Networks of sizes that a file gives, with drawn weights.

Alone: pytest tests/export/test_emu_sizes.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from edgereel.errors import InputError  # noqa: E402
from edgereel_export import drawn_weights, emu_sizes  # noqa: E402
from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.emu_config import to_json  # noqa: E402
from edgereel_export.modules.lavie_layers import FrameAttention  # noqa: E402
from edgereel_export.shared_weights import SharedWeights  # noqa: E402
from edgereel_export.systems import emu_video, emu_video_tiny  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402

pytestmark = pytest.mark.torch

PUBLISHED = emu_video.CHECKPOINTS["published"]


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Writes the published sizes with small ones in their place, and other changes."""

    def write(**changes: Any) -> Path:
        sizes = json.loads(PUBLISHED.read_text())
        sizes["unet"] = to_json(emu_video_tiny.CONFIG)
        sizes["vae"] |= {"block_out_channels": [8, 8], "norm_num_groups": 4}
        for way in ("Down", "Up"):
            coder = "Encoder" if way == "Down" else "Decoder"
            sizes["vae"][f"{way.lower()}_block_types"] = [f"{way}{coder}Block2D"] * 2
        text = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        sizes["text_encoder"] |= {**text, "num_hidden_layers": 1}
        heads = {"d_model": 24, "d_kv": 8, "num_heads": 3}
        sizes["text_encoder_2"] |= {**heads, "d_ff": 32, "num_layers": 1}
        path = tmp_path / "small.json"
        path.write_text(json.dumps({**sizes, **changes}))
        return path

    return write


class _Net(torch.nn.Module):
    """Some layers, the first of which another network can have too; axis 0 of x are frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, 16)
        self.frames = FrameAttention(16, 2)
        self.own = torch.nn.Conv2d(16, width, 1)

    def forward(self, x: Any) -> Any:
        h = self.norm(self.shared(x))
        tokens = self.frames(h.flatten(2).transpose(1, 2)[None])[0]
        return self.own(h + tokens.transpose(1, 2).reshape(h.shape))


def _drawn(name: str, width: int) -> _Net:
    with torch.device("meta"):
        net = _Net(width).eval().requires_grad_(False)
    drawn_weights.name_weights(net, lambda key: key if key.startswith("shared") else name + key)
    return net


def test_an_exported_network_has_the_weights_that_its_names_say(tmp_path: Path) -> None:
    shared, x = SharedWeights(), torch.randn(2, 3, 8, 8)
    specs = {}
    for name, width in (("one", 5), ("two", 7)):
        graph = Graph(_drawn(name, width), {"x": x}, ("y",), {"x": {0: "K"}, "y": {0: "K"}})
        specs[name] = export(graph, name, tmp_path, shared)
        net = _Net(width).eval()
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                source = key if key.startswith("shared") else name + key
                drawn = drawn_weights.draw(source, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(drawn))
            expected = net(x).numpy()
        path = tmp_path / "graphs" / f"{name}.onnx"
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        got = session.run(None, {"x": x.numpy()})[0]
        assert np.abs(got - expected).max() <= 1e-5
    assert specs["two"].golden is None  # nothing to compare with where memory is scarce
    assert specs["one"].outputs["y"].shape == ("K", 5, 8, 8)
    assert specs["two"].weights == ("graphs/two.onnx.data", "graphs/one.onnx.data")


def test_draws() -> None:
    one = drawn_weights.draw("a.weight", (64, 32, 3, 3))
    assert one.dtype == np.float32 and np.array_equal(
        one, drawn_weights.draw("a.weight", one.shape)
    )
    assert not np.array_equal(one, drawn_weights.draw("b.weight", one.shape))
    assert one.std() * np.sqrt(32 * 9) == pytest.approx(1, rel=0.02)
    assert drawn_weights.draw("norm.weight", (4,)).tolist() == [1.0] * 4
    assert drawn_weights.draw("norm.bias", (4,)).tolist() == [0.0] * 4


def test_the_image_network_shares_its_layers(small: Callable[..., Path]) -> None:
    parts = emu_sizes.make(small(), ("video", "interpolation"))
    names = {
        network: {key: p.drawn_from for key, p in unet.named_parameters()}
        for network, unet in parts.unets.items()
    }
    own = {key for key, name in names["video"].items() if name.startswith("video.")}
    assert "conv_in.weight" in own and "mid_block.resnets.0.conv1_time.weight" in own
    for network in ("video", "interpolation"):
        spatial = {k: v for k, v in names[network].items() if k not in own}
        assert spatial == {k: v for k, v in names["image"].items() if k in spatial}
        assert spatial and all(names[network][key] == f"{network}.{key}" for key in own)
    assert all(p.is_meta for p in parts.unets["video"].parameters())
    assert parts.video is not None and parts.video.alphas_cumprod()[-1] == 0
    assert {end: e.width for end, e in parts.encoders.items()} == {"": 16, "_2": 24}


def test_modes_need_the_networks_that_a_file_lists(small: Callable[..., Path]) -> None:
    path = small(networks=["video"])
    cascade = emu_video.load(path)
    assert set(cascade.modes()) == {"video", "image", "animate"}
    assert {"image", "video", "text_encoder_2"} <= cascade.graphs().keys()
    with pytest.raises(InputError, match=r"no interpolation, which the mode interpolated needs"):
        emu_video.load(path, Extras(modes=("interpolated",)))


def test_published_sizes() -> None:
    sizes = emu_sizes.read_sizes(PUBLISHED)
    assert sizes.networks == ("video", "interpolation", "extension")
    with torch.device("meta"):  # T5-XL, systems/emu_video.md: 1,223,527,424
        t5 = emu_sizes.t5_encoder(sizes.text_encoder_2, PUBLISHED)
    assert sum(p.numel() for p in t5.parameters()) == 1_223_527_424
    assert sizes.text_encoder["hidden_size"] == 768 and t5.config.d_model == 2048


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": None}, r"does not say the sizes of Emu Video .*unet.*that of --size published"),
        ({"networks": ["long"]}, r"Invalid enum value 'long'"),
        ({"weights": {}}, r"unknown field `weights`"),
        ({"text_encoder_2": {"d_model": 32, "d_kv": 8, "num_heads": 4}}, r"width 32; expected 24"),
        ({"text_encoder": {"hidden_size": 15}}, r"does not describe a CLIP text model"),
    ],
)
def test_wrong_sizes(small: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        emu_video.load(small(**changes))
