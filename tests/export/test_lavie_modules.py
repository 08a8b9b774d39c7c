"""LaVie's networks against diffusers with the temporal layers written out, and as ONNX graphs.

Alone: pytest tests/export/test_lavie_modules.py
"""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from torch.nn import functional as F  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from edgereel_export.modules.lavie_layers import (  # noqa: E402
    FrameAttention,
    RelativeFrameAttention,
    Rotary,
)
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet  # noqa: E402
from edgereel_export.modules.lavie_vsr import VSRConfig, VSRUNet  # noqa: E402
from edgereel_export.modules.sd_config import SDUNetConfig  # noqa: E402

pytestmark = pytest.mark.torch

# Float32 sums in another order, over the standard deviation of what is expected; measured: 6e-6.
ROUNDING = 2e-5
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
# Stable Diffusion 1.x and x4 upscaler, from their published config.json.
SD: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
    "up_block_types": (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
X4: dict[str, Any] = {
    "in_channels": 7,
    "block_out_channels": (256, 512, 512, 1024),
    "layers_per_block": 2,
    "down_block_types": (PLAIN, CROSS, CROSS, CROSS),
    "up_block_types": (CROSS_UP, CROSS_UP, CROSS_UP, PLAIN_UP),
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, True, False),
}
SMALL: dict[str, Any] = {
    "block_out_channels": (32, 96),  # heads of 16 and of 48 channels: below and above 32
    "layers_per_block": 1,
    "down_block_types": (CROSS, CROSS),
    "up_block_types": (CROSS_UP, CROSS_UP),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
SMALL_X4 = SMALL | {
    "in_channels": 7,
    "block_out_channels": (32, 64, 96),
    "down_block_types": (PLAIN, CROSS, CROSS),
    "up_block_types": (CROSS_UP, CROSS_UP, PLAIN_UP),
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, False),
}
KINDS = {
    "base": (LaVieUNet, SMALL),
    "seine": (LaVieUNet, SMALL | {"in_channels": 9}),
    "interpolation": (InterpolationUNet, SMALL | {"in_channels": 8}),
    "vsr": (VSRUNet, SMALL_X4),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def error(got: Any, expected: Any) -> float:
    """Largest absolute difference, in standard deviations of what is expected."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.std())


def network(name: str, changes: dict[str, Any] | None = None) -> Any:
    """A small network of ours, all weights shaken."""
    kind, sizes = KINDS[name]
    sizes = sizes | (changes or {})
    config = VSRConfig(**sizes) if kind is VSRUNet else SDUNetConfig(**sizes)
    ours = kind(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return ours


def reference(name: str, ours: Any) -> Any:
    """diffusers' network of images with our weights."""
    x4 = {"use_linear_projection": True} if name == "vsr" else {}
    unet = diffusers.UNet2DConditionModel(**KINDS[name][1] | x4).eval()
    state = ours.state_dict()
    unet.load_state_dict({key: state[key] for key in unet.state_dict()})
    return unet


def inputs(name: str, rows: int, frames: int, h: int = 8, w: int = 12) -> dict[str, Any]:
    """Example inputs of a network, by name."""
    given = {
        "x": torch.randn(rows, frames, 4, h, w),
        "t": torch.full((rows,), 321.0),
        "states": torch.randn(rows, 7, 16),
    }
    more = {"base": {}, "seine": {"given": 5}, "interpolation": {"copied": 4}, "vsr": {"low": 3}}
    given |= {key: torch.randn(frames, channels, h, w) for key, channels in more[name].items()}
    return given | ({"level": torch.tensor([50])} if name == "vsr" else {})


def expected(unet: Any, given: dict[str, Any]) -> Any:
    """What `unet` makes of each row by itself, every frame with its own copy of the text."""
    frames = given["x"].shape[1]
    beside = [given[key] for key in ("given", "copied", "low") if key in given]
    level = given["level"].long().expand(frames) if "level" in given else None
    rows = []
    for x, text in zip(given["x"], given["states"], strict=True):
        states = text.expand(frames, -1, -1)
        rows.append(unet(torch.cat([x, *beside], 1), 321, states, class_labels=level).sample)
    return torch.stack(rows)


# Names, at the published sizes


def temporal_entries(state: dict[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    """What the published code adds to the entries of diffusers' network, from its description."""
    found: dict[str, tuple[int, ...]] = {}
    suffix = "temporal" if name == "vsr" else "temp"
    for key in [key for key in state if key.endswith("transformer_blocks.0.norm1.weight")]:
        block, c = key.removesuffix("norm1.weight"), state[key].shape[0]
        found |= {f"{block}attn_{suffix}.to_{part}.weight": (c, c) for part in ("q", "k", "v")}
        found |= {f"{block}attn_{suffix}.to_out.0.weight": (c, c)}
        found |= {f"{block}attn_{suffix}.to_out.0.bias": (c,)}
        found |= {f"{block}norm_{suffix}.{part}": (c,) for part in ("weight", "bias")}
        if name != "interpolation":
            bias = f"{block}attn_{suffix}.time_rel_pos_bias.relative_attention_bias.weight"
            found |= {bias: (32, 8), f"{block}attn_{suffix}.rotary_emb.freqs": (16,)}
        if name == "vsr":
            resnet = block.replace("transformer_blocks.0", "resblock_temporal")
            found |= resnet_entries(resnet, c, {"conv1": (3, 1, 1), "conv2": (3, 1, 1)})
    if name == "vsr":
        found["temporal_rotary_emb.freqs"] = (16,)
        widths = {"mid_temporal_block.": 1024}
        widths |= {f"down_temporal_blocks.{i}.": c for i, c in enumerate((256, 512, 512, 1024))}
        widths |= {f"up_temporal_blocks.{i}.": c for i, c in enumerate((1024, 512, 512, 256))}
        for module, c in widths.items():
            kernels = {"t": {"conv1": (5, 1, 1), "conv2": (3, 1, 1)}}
            kernels["s"] = {"conv1": (3, 3), "conv2": (3, 3)}
            for part, kernel in kernels.items():
                resnet = f"{module}resblocks_3d_{part}."
                found |= resnet_entries(resnet, c, kernel)
                found |= {f"{resnet}time_emb_proj.weight": (c, 1024)}
                found |= {f"{resnet}time_emb_proj.bias": (c,)}
            found |= {f"{module}shift_conv.weight": (c, c, 1, 1), f"{module}shift_conv.bias": (c,)}
    return found


def resnet_entries(prefix: str, c: int, kernels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for index, (conv, kernel) in enumerate(kernels.items(), 1):
        found |= {f"{prefix}norm{index}.{part}": (c,) for part in ("weight", "bias")}
        found |= {f"{prefix}{conv}.weight": (c, c, *kernel), f"{prefix}{conv}.bias": (c,)}
    return found


@pytest.mark.parametrize(
    ("name", "channels", "entries", "parameters"),
    [
        ("base", 4, 830, 909_124_116),
        ("base", 9, 830, 909_138_516),  # SEINE
        ("interpolation", 8, 798, 909_131_524),
        ("vsr", 7, 1158, 691_036_436),
    ],
)
def test_published_names_shapes_and_counts(
    name: str, channels: int, entries: int, parameters: int
) -> None:
    with torch.device("meta"):
        if name == "vsr":
            ours: Any = VSRUNet(VSRConfig())
            theirs = diffusers.UNet2DConditionModel(**X4, use_linear_projection=True)
        else:
            config = SD | {"in_channels": channels}
            ours = KINDS[name][0](SDUNetConfig(**config))  # type: ignore[arg-type]
            theirs = diffusers.UNet2DConditionModel(**config)
    state = theirs.state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert not shapes.keys() & temporal_entries(state, name).keys()
    shapes |= temporal_entries(state, name)
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes
    assert len(shapes) == entries
    assert sum(value.numel() for value in ours.parameters()) == parameters


# Against diffusers, with what looks along the frames written out and hooked in


def bucket(distance: int) -> int:
    """T5's bucket of key frame minus query frame, up to distance 32, as a table."""
    runs = [1] * 8 + [2, 2, 2, 2, 4, 3, 4]  # how many distances share a bucket, from 0 on
    table = [number for number, run in enumerate(runs) for _ in range(run)]
    return (16 if distance > 0 else 0) + (
        table[abs(distance)] if abs(distance) < len(table) else 15
    )


def over_frames(weights: dict[str, Any], x: Any, heads: int = 2) -> Any:
    """Attention over frames of x [F, S, C], pixel by pixel and head by head, in float64."""
    weights = {key: value.double() for key, value in weights.items()}
    q, k, v = (x.double() @ weights[f"to_{part}.weight"].T for part in ("q", "k", "v"))
    frames, pixels, size = x.shape[0], x.shape[1], x.shape[2] // heads
    out = torch.zeros_like(q)
    for pixel in range(pixels):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            a, b = q[:, pixel, part], k[:, pixel, part]
            scores = torch.zeros(frames, frames, dtype=torch.float64)
            if "rotary_emb.freqs" in weights:
                a, b = (turned(one, weights["rotary_emb.freqs"]) for one in (a, b))
                bias = weights["time_rel_pos_bias.relative_attention_bias.weight"][:, head]
                buckets = [[bucket(j - i) for j in range(frames)] for i in range(frames)]
                scores += bias[torch.tensor(buckets)]
            scores += a @ b.T / math.sqrt(size)
            out[:, pixel, part] = scores.softmax(1) @ v[:, pixel, part]
    return (out @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]).to(x.dtype)


def turned(x: Any, freqs: Any) -> Any:
    """x [F, d] with neighbouring channels as complex numbers times exp(i * frame * frequency)."""
    count = min(32, x.shape[1]) // 2
    numbers = torch.view_as_complex(x[:, : 2 * count].reshape(len(x), count, 2).contiguous())
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * freqs[:count]
    numbers = numbers * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([torch.view_as_real(numbers).flatten(1), x[:, 2 * count :]], 1)


def entries(ours: Any, prefix: str) -> dict[str, Any]:
    state = ours.state_dict()
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def resnet3d(weights: dict[str, Any], x: Any, temb: Any = None, groups: int = 8) -> Any:
    """A resnet on x [1, C, F, h, w]; its kernels have 5 axes, or 4 and see single frames."""

    def convolved(name: str, h: Any) -> Any:
        kernel = weights[f"{name}.weight"]
        kernel = kernel if kernel.ndim == 5 else kernel[:, :, None]
        return F.conv3d(h, kernel, weights[f"{name}.bias"], padding="same")

    def normed(name: str, h: Any) -> Any:
        return F.silu(
            F.group_norm(h, groups, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)
        )

    h = convolved("conv1", normed("norm1", x))
    if temb is not None:
        more = F.silu(temb[:1]) @ weights["time_emb_proj.weight"].T + weights["time_emb_proj.bias"]
        h = h + more[:, :, None, None, None]
    return x + convolved("conv2", normed("norm2", h))


def images(x: Any) -> Any:
    """[1, C, F, h, w] -> [F, C, h, w]; `video` is the way back."""
    return x[0].transpose(0, 1)


def video(x: Any) -> Any:
    return x.transpose(0, 1)[None]


class Joint(torch.nn.Module):  # type: ignore[misc]
    """A group norm over the frames of one video together, as torch has it for 5 axes."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Any) -> Any:
        return images(self.norm(video(x)))


class SparseCausal:
    """Attention processor: each frame in turn, to the first frame and to the one before."""

    def __call__(self, attn: Any, x: Any, **_: Any) -> Any:
        out = []
        for number in range(len(x)):
            seen = torch.cat([x[0], x[max(number - 1, 0)]])
            parts = (attn.to_q(x[number]), attn.to_k(seen), attn.to_v(seen))
            q, k, v = (part.unflatten(1, (attn.heads, -1)).transpose(0, 1) for part in parts)
            scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(2)
            out.append(attn.to_out[0]((scores @ v).transpose(0, 1).flatten(1)))
        return torch.stack(out)


def inflate(unet: Any, name: str, ours: Any) -> Any:
    """diffusers' network, run on the frames of one video, with all that looks along them."""
    for module in unet.modules():
        if type(module).__name__ == "ResnetBlock2D":
            module.norm1, module.norm2 = Joint(module.norm1), Joint(module.norm2)
    unet.conv_norm_out = Joint(unet.conv_norm_out)
    suffix = "temporal" if name == "vsr" else "temp"
    for path, module in unet.named_modules():
        if type(module).__name__ == "BasicTransformerBlock":
            norm = entries(ours, f"{path}.norm_{suffix}.")
            attention = entries(ours, f"{path}.attn_{suffix}.")
            hook_attention(module, norm, attention, last=name == "interpolation")
            if name == "interpolation":
                module.attn1.set_processor(SparseCausal())
    if name == "vsr":
        hook_convolutions(unet, ours)
    return unet


def hook_attention(
    block: Any, norm: dict[str, Any], attention: dict[str, Any], *, last: bool
) -> None:
    """Adds the attention over frames after `attn2` or, for the interpolation, after everything."""

    def more(x: Any) -> Any:
        return over_frames(attention, F.layer_norm(x, x.shape[2:], norm["weight"], norm["bias"]))

    if last:
        block.register_forward_hook(lambda _module, _given, x: x + more(x))
        return
    before = []
    block.norm2.register_forward_pre_hook(lambda _module, given: before.append(given[0]))
    block.attn2.register_forward_hook(
        lambda _module, _given, told: told + more(before.pop() + told)
    )


def hook_convolutions(unet: Any, ours: Any) -> None:
    """Adds what the super-resolution has at the entry of transformers and after blocks."""
    for path, module in unet.named_modules():
        if type(module).__name__ == "Transformer2DModel":
            weights = entries(ours, f"{path}.resblock_temporal.")
            module.register_forward_pre_hook(
                lambda _module, given, weights=weights: (
                    images(resnet3d(weights, video(given[0]))),
                    *given[1:],
                )
            )

    def corrected(prefix: str, x: Any, temb: Any) -> Any:
        h = resnet3d(entries(ours, f"{prefix}.resblocks_3d_t."), video(x), temb)
        h = images(resnet3d(entries(ours, f"{prefix}.resblocks_3d_s."), h, temb))
        last = entries(ours, f"{prefix}.shift_conv.")
        return x + F.conv2d(h, last["weight"], last["bias"])

    def hook(block: Any, prefix: str) -> None:
        def after(_module: Any, given: Any, named: Any, out: Any) -> Any:
            temb = named["temb"] if "temb" in named else given[1]
            if isinstance(out, tuple):  # of the way down; the skips stay as they were
                return corrected(prefix, out[0], temb), out[1]
            return corrected(prefix, out, temb)

        block.register_forward_hook(after, with_kwargs=True)

    hook(unet.mid_block, "mid_temporal_block")
    for half in ("down", "up"):
        for index, block in enumerate(getattr(unet, f"{half}_blocks")):
            hook(block, f"{half}_temporal_blocks.{index}")


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("rows", "frames"), [(2, 1), (2, 3), (1, 2), (3, 4)])
def test_network_equals_diffusers_inflated(name: str, rows: int, frames: int) -> None:
    ours, given = network(name), inputs(name, rows, frames)
    unet = inflate(reference(name, ours), name, ours)
    assert error(ours(**given), expected(unet, given)) < ROUNDING


@torch.no_grad()
@pytest.mark.parametrize(("h", "w"), [(7, 13), (5, 6), (9, 9)])
def test_super_resolution_of_any_size(h: int, w: int) -> None:
    ours, given = network("vsr"), inputs("vsr", 2, 2, h, w)
    unet = inflate(reference("vsr", ours), "vsr", ours)
    assert error(ours(**given), expected(unet, given)) < ROUNDING
    given["level"] = given["level"].float()  # as a plan's parameters may come
    assert error(ours(**given), expected(unet, given)) < ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_silent_temporal_layers_leave_diffusers_network(name: str) -> None:
    ours, given = network(name), inputs(name, 2, 1)
    unet = reference(name, ours)
    assert error(ours(**given), expected(unet, given)) > 0.01
    for key, value in ours.state_dict().items():
        if any(part in key for part in ("temp.to_out", "temporal.to_out", "shift_conv")):
            value.zero_()
        if "resblock_temporal.conv2" in key:
            value.zero_()
    assert error(ours(**given), expected(unet, given)) < ROUNDING


@torch.no_grad()
def test_base_without_time_is_the_image_network() -> None:
    ours = network("base")
    picture = LaVieUNet(SDUNetConfig(**SMALL), temporal=False).eval()
    picture.load_state_dict(ours.state_dict())
    given = inputs("base", 2, 1)
    assert error(picture(**given), expected(reference("base", ours), given)) < ROUNDING
    assert error(picture(**given), ours(**given)) > 0.01


# Layers


def test_buckets_are_those_of_t5() -> None:
    distances = torch.arange(-70, 71)
    theirs = T5Attention._relative_position_bucket(distances, True, 32, 32)
    assert [bucket(int(d)) for d in distances] == theirs.tolist()


@torch.no_grad()
@pytest.mark.parametrize("channels", [16, 64, 80])  # heads of 8, 32 and 40 channels
@pytest.mark.parametrize("frames", [1, 2, 33])  # 33 frames are as far apart as all buckets
def test_attention_over_frames_equals_the_loop(channels: int, frames: int) -> None:
    relative = RelativeFrameAttention(channels, 2, Rotary())
    relative.rotary_emb.freqs += 0.1 * torch.rand(16)  # they are the checkpoint's
    x = torch.randn(2, frames, 3, channels)
    for layer in (relative, FrameAttention(channels, 2)):
        torch.nn.init.normal_(layer.to_q.weight)
        wanted = torch.stack([over_frames(layer.state_dict(), row) for row in x])
        assert error(layer(x), wanted) < ROUNDING
    assert torch.allclose(Rotary().freqs, 1 / 10000 ** (torch.arange(16) / 16))


@torch.no_grad()
def test_text_and_frames_are_projected_once() -> None:
    ours, seen = network("interpolation"), {}
    for part in ("attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v"):
        layer = ours.get_submodule(f"mid_block.attentions.0.transformer_blocks.0.{part}")
        layer.register_forward_hook(
            lambda _module, given, _out, part=part: seen.setdefault(part, []).append(
                math.prod(given[0].shape[:-1])
            )
        )
    ours(**inputs("interpolation", rows=2, frames=3, h=8, w=12))
    pixels, text = 4 * 6, 7
    assert seen == {
        **{key: [2 * 3 * pixels] for key in ("attn1.to_k", "attn1.to_v")},
        **{key: [2 * text] for key in ("attn2.to_k", "attn2.to_v")},
    }
