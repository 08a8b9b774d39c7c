"""Make-A-Video in sizes that a file gives: parameters, what has values, and the plan of it.

Alone: pytest tests/export/test_make_a_video_sizes.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from edgereel import plan  # noqa: E402
from edgereel.errors import InputError  # noqa: E402
from edgereel_export import drawn_weights  # noqa: E402
from edgereel_export.graph import Graph, _specs  # noqa: E402
from edgereel_export.systems import make_a_video  # noqa: E402
from edgereel_export.systems.make_a_video_high import Network  # noqa: E402

pytestmark = pytest.mark.torch

PUBLISHED = make_a_video.CHECKPOINTS["published"]
NETWORKS = ("prior", "decoder", "interpolation", "super_res_low", "super_res_high")


@pytest.fixture(scope="module")
def published() -> make_a_video.MakeAVideo:
    """The cascade without the values of its networks."""
    found = make_a_video.load(PUBLISHED)
    assert isinstance(found, make_a_video.MakeAVideo)
    return found


@pytest.fixture(scope="module")
def graphs(published: make_a_video.MakeAVideo) -> dict[str, Graph]:
    """Its graphs; a second call would draw large example inputs again."""
    return published.graphs()


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def flat(depth: int, widths: tuple[int, ...], attention: bool) -> Any:
    """diffusers' network of pictures in the structure of Karlo's."""
    levels = len(widths)
    more: dict[str, Any] = {"block_out_channels": widths, "layers_per_block": depth}
    if not attention:
        return diffusers.UNet2DModel(
            in_channels=6,
            out_channels=3,
            down_block_types=("ResnetDownsampleBlock2D",) * levels,
            up_block_types=("ResnetUpsampleBlock2D",) * levels,
            add_attention=False,
            **more,
        )
    return diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        cross_attention_dim=2048,
        attention_head_dim=64,
        **more,
    )


def over_time(network: Any) -> int:
    """What a network of pictures gets for frames: 3C^2 + C after every 3x3 convolution with C
    outputs, 4C^2 + 6C after every attention of C channels."""
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    wide = [m.out_channels for m in convolutions if m.kernel_size == (3, 3)]
    sites = [m.num_channels for k, m in network.named_modules() if k.endswith(".group_norm")]
    return sum(3 * c * c + c for c in wide) + sum(4 * c * c + 6 * c for c in sites)


def networks(published: make_a_video.MakeAVideo) -> dict[str, torch.nn.Module]:
    """The five."""
    high = published.high
    assert isinstance(high, Network)
    every = {**published.networks, "super_res_high": high.unet}
    return {name: every[name] for name in NETWORKS}


def test_parameters(published: make_a_video.MakeAVideo) -> None:
    counts = {name: count(network) for name, network in networks(published).items()}
    with torch.device("meta"):
        prior = diffusers.PriorTransformer(num_layers=24)
        decoder = flat(4, (512, 1024, 1536, 2048), attention=True)
        shallow = flat(3, (512, 1024, 1536, 2048), attention=True)
        low = flat(3, (320, 640, 960, 1280), attention=False)
        high = flat(2, (192, 192, 384, 384, 768, 768), attention=False)
    fps = 512 * 2048 + 2048 + 2048 * 2048 + 2048  # sinusoid to 4 x 512, and once more
    frames = count(decoder) + over_time(decoder) + fps
    given = 4 * 512 * 9  # interpolation sees four channels more
    expected = {
        "prior": count(prior),
        "decoder": frames,
        "interpolation": frames + given,
        "super_res_low": count(low) + over_time(low),
        "super_res_high": count(high),
    }
    assert counts == expected
    assert count(low) == 691_579_523 and count(shallow) == 2_238_150_659
    # arXiv:2204.06125, Table 3, in billions to one digit: how far ours may be from it.
    for network, told, near in ((prior, 1.0, 0.25), (low, 0.7, 0.02), (high, 0.3, 0.12)):
        assert count(network) / 1e9 == pytest.approx(told, rel=near)
    # arXiv:2311.10709 gives Make-A-Video 9.6 B.
    assert sum(counts.values()) / 1e9 == pytest.approx(9.6, rel=0.01)


def test_large_networks_have_no_values_and_conditions_have(
    published: make_a_video.MakeAVideo, graphs: dict[str, Graph]
) -> None:
    drawn = {n for n, g in graphs.items() if drawn_weights.has_drawn_weights(g.module)}
    assert drawn == set(NETWORKS)
    for name, network in networks(published).items():
        named = {k: p for k, p in network.named_parameters() if p.is_meta}
        assert {p.drawn_from for p in named.values()} == {f"{name}.{k}" for k in named}
        rest = {k.split(".")[0] for k, _ in network.named_parameters()}
        rest -= {k.split(".")[0] for k in named}
        told = {"prior": {"clip_mean", "clip_std"}}
        assert rest == told.get(name, {"fps_embedding"} if "super" not in name else set())


def test_plan(published: make_a_video.MakeAVideo, graphs: dict[str, Graph]) -> None:
    specs = {name: described(name, graph) for name, graph in graphs.items()}
    names = [spec.file for spec in specs.values()] + ["cosine.npy", "shifted.npy", "bpe.json"]
    tokens = published.tokenizers["bpe"]
    document = plan.Document(
        format=plan.FORMAT,
        name="published",
        system="make-a-video",
        files=dict.fromkeys(names, "0" * 64),
        graphs=specs,
        schedules={n: plan.ScheduleSpec(file=f"{n}.npy") for n in published.schedules()},
        tokenizers={"bpe": plan.TokenizerSpec(file="bpe.json", length=tokens.length, pad_id=0)},
        modes=published.modes(),
    )
    mode = plan.parse(plan.encode(document)).modes["video"]  # which check everything
    shapes = [mode.values[name].shape for name in ("clip", "small", "low_video", "frames")]
    assert shapes == [
        (1, 3, 16, 64, 64),
        (1, 3, "F", 64, 64),
        (1, 3, "F", 256, 256),
        ("F", 768, 768, 3),
    ]
    skip = mode.params["skip"]
    assert mode.sizes["F"] == plan.Size(param="skip", times=15, plus=1)
    assert isinstance(skip, plan.IntParam) and 15 * (skip.default or 0) + 1 == 76
    steps = {name: mode.params[f"steps.{name}"] for name in ("prior", "decoder", "super_res_low")}
    assert {n: p.default for n, p in steps.items() if isinstance(p, plan.IntParam)} == {
        "prior": 64,
        "decoder": 250,
        "super_res_low": 27,
    }


def described(name: str, graph: Graph) -> plan.GraphSpec:
    """What a plan would say of a graph, from shapes alone."""
    drawn = drawn_weights.has_drawn_weights(graph.module)
    inputs = (x.to("meta") if drawn else x for x in graph.inputs.values())
    with torch.no_grad():
        out = graph.module.eval()(*inputs)
    outputs = dict(zip(graph.outputs, out if isinstance(out, tuple) else (out,), strict=True))
    return plan.GraphSpec(
        file=f"graphs/{name}.onnx",
        inputs=_specs(graph, graph.inputs),
        outputs=_specs(graph, outputs),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": None}, r"not say the sizes of Make-A-Video .*prior.*that of --size published"),
        ({"upscaler": {}}, r"unknown field `upscaler`"),
        ({"cascade": {"name": "x"}}, r"missing required field .*cascade"),
        ({"decoder": {"width": 3}}, r"small.json does not describe a decoder"),
    ],
)
def test_wrong_sizes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}  # made in no time
    sizes = {**json.loads(PUBLISHED.read_text()), "text_encoder": text, **changes}
    (path := tmp_path / "small.json").write_text(json.dumps(sizes))
    with pytest.raises(InputError, match=message):
        make_a_video.load(path)
