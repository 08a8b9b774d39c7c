"""The networks against diffusers, against numpy, and against their published sizes.

Alone: pytest tests/export/test_modules.py
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgereel_export.modules.layers import (  # noqa: E402
    AddedKVAttention,
    TemporalAttention,
    TemporalConv,
    TimestepEmbedding,
    sinusoid,
)
from edgereel_export.modules.prior import Prior, PriorConfig  # noqa: E402
from edgereel_export.modules.text_proj import TextProj, TextProjConfig  # noqa: E402
from edgereel_export.modules.unet import UNet, UNetConfig  # noqa: E402

pytestmark = pytest.mark.torch

ROUNDING = 2e-5  # float32 sums in another order, values of size 1
WIDTHS = (32, 64, 96, 128)
T = torch.tensor([500.0, 20.0])
KARLO: dict[str, Any] = {"block_out_channels": (320, 640, 960, 1280), "layers_per_block": 3}
KARLO_D: dict[str, Any] = {"attention": (False, True, True, True), "cross_dim": 1536, **KARLO}
SMALL: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "groups": 4}
SMALL_D: dict[str, Any] = {"attention": (False, True), "cross_dim": 12, "head_dim": 8, **SMALL}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def worst(a: Any, b: Any) -> float:
    """Largest absolute difference."""
    return float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())


def shaken(module: Any, scale: float = 0.1) -> Any:
    """The module with noise on every parameter, so that nothing is zero or the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn_like(parameter)
    return module.eval()


# Against diffusers


@pytest.fixture(scope="module")
def decoder_pair() -> tuple[Any, Any]:
    """diffusers' UNet in the Karlo decoder's configuration, narrow, and ours with its weights."""
    reference = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=WIDTHS,
        layers_per_block=3,
        cross_attention_dim=64,
        attention_head_dim=16,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        norm_num_groups=8,
    )
    config = UNetConfig(3, 6, WIDTHS, 3, (False, True, True, True), 64, 16, 8, temporal=False)
    ours = UNet(config)
    ours.load_state_dict(shaken(reference, 0.02).state_dict())  # strict: the same keys and shapes
    return reference, ours.eval()


@torch.no_grad()
def test_decoder_equals_diffusers(decoder_pair: tuple[Any, Any]) -> None:
    reference, ours = decoder_pair
    x, tokens, emb = torch.randn(2, 3, 16, 16), torch.randn(2, 9, 64), torch.randn(2, 128)
    expected = reference(x, T, tokens, class_labels=emb).sample
    got = ours(x[:, :, None], T, tokens, torch.zeros(2, 9), emb)[:, :, 0]
    assert worst(got, expected) < ROUNDING


@torch.no_grad()
def test_decoder_mask_equals_karlos(decoder_pair: tuple[Any, Any]) -> None:
    # diffusers adds -10000 to the scores of masked tokens; its UNet takes their mask as
    # encoder_attention_mask, its UnCLIP pipeline as attention_mask.
    reference, ours = decoder_pair
    x, tokens, emb = torch.randn(2, 3, 16, 16), torch.randn(2, 9, 64), torch.randn(2, 128)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 6:], mask[1, 4:] = False, False
    bias = torch.where(mask, 0.0, -10000.0)
    expected = reference(x, T, tokens, class_labels=emb, encoder_attention_mask=mask).sample
    got = ours(x[:, :, None], T, tokens, bias, emb)[:, :, 0]
    assert worst(got, expected) < ROUNDING
    every = ours(x[:, :, None], T, tokens, torch.zeros(2, 9), emb)[:, :, 0]
    assert worst(every, got) > 1e-3


@torch.no_grad()
def test_super_resolution_equals_diffusers() -> None:
    reference = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        block_out_channels=WIDTHS,
        layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D",) * 4,
        up_block_types=("ResnetUpsampleBlock2D",) * 4,
        norm_num_groups=8,
        norm_eps=1e-5,
        add_attention=False,
        resnet_time_scale_shift="default",
    )
    ours = UNet(UNetConfig(6, 3, WIDTHS, 3, groups=8, scale_shift=False, temporal=False)).eval()
    ours.load_state_dict(shaken(reference, 0.02).state_dict())
    x = torch.randn(2, 6, 16, 16)
    assert worst(ours(x[:, :, None], T)[:, :, 0], reference(x, T).sample) < ROUNDING


@torch.no_grad()
def test_prior_equals_diffusers() -> None:
    reference = diffusers.PriorTransformer(
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=24,
        num_embeddings=10,
    )
    ours = Prior(PriorConfig(4, 16, 2, 24, 10)).eval()
    ours.load_state_dict(shaken(reference).state_dict())
    x, embeds, states = torch.randn(2, 24), torch.randn(2, 24), torch.randn(2, 10, 24)
    mask = torch.ones(2, 10)
    mask[0, 6:], mask[1, 2:] = 0, 0
    expected = reference(x, T, embeds, states, mask.bool()).predicted_image_embedding
    assert worst(ours(x, T, embeds, states, mask), expected) < ROUNDING


@torch.no_grad()
def test_text_proj_equals_diffusers() -> None:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    reference = UnCLIPTextProjModel(
        clip_extra_context_tokens=3,
        clip_embeddings_dim=24,
        time_embed_dim=32,
        cross_attention_dim=20,
    )
    ours = TextProj(TextProjConfig(24, 24, 32, 20, 3)).eval()
    ours.load_state_dict(shaken(reference).state_dict())
    image, embeds, states = torch.randn(2, 24), torch.randn(2, 24), torch.randn(2, 7, 24)
    tokens, emb = reference(
        image_embeddings=image,
        prompt_embeds=embeds,
        text_encoder_hidden_states=states,
        do_classifier_free_guidance=False,
    )
    mask = torch.ones(2, 7)
    mask[0, 5:] = 0
    got_tokens, bias, got_emb = ours(image, embeds, states, mask)
    assert worst(got_tokens, tokens) < ROUNDING
    assert worst(got_emb, emb) < ROUNDING
    assert torch.equal(bias, torch.cat([torch.zeros(2, 3), (1 - mask) * -10000], 1))


def test_sinusoid_equals_diffusers() -> None:
    expected = diffusers.models.embeddings.get_timestep_embedding(
        T, 20, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    assert worst(sinusoid(T, 20), expected) < 1e-6


# Published sizes. The digests are of the key lists of the public Karlo files.


def on_meta(kind: Any, *arguments: Any, **named: Any) -> Any:
    with torch.device("meta"):
        return kind(*arguments, **named)


@pytest.mark.parametrize(
    ("make", "keys", "parameters", "digest"),
    [
        pytest.param(
            lambda: on_meta(Prior, PriorConfig()),
            338, 1_022_030_080, "3140c6705ff6b7af", id="prior",
        ),
        pytest.param(
            lambda: on_meta(TextProj, TextProjConfig()),
            11, 7_878_400, "45a7d86303ec4677", id="text_proj",
        ),
        pytest.param(
            lambda: on_meta(UNet, UNetConfig(3, 6, temporal=False, **KARLO_D)),
            716, 885_439_686, "f581bbc3c1b9bf0f", id="decoder",
        ),
        pytest.param(
            lambda: on_meta(UNet, UNetConfig(6, 3, scale_shift=False, temporal=False, **KARLO)),
            408, 691_579_523, "51c2894c07c3dc99", id="super_resolution",
        ),
    ],
)  # fmt: skip
def test_karlo_sizes(make: Any, keys: int, parameters: int, digest: str) -> None:
    state = make().state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    assert len(lines) == keys
    assert sum(value.numel() for value in state.values()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        pytest.param(
            UNetConfig(3, 6, fps=True, **KARLO_D),
            {"space": 885_439_686, "conv": 175_471_154, "attention": 89_831_040, "fps": 2_050_560},
            id="decoder",
        ),
        pytest.param(
            UNetConfig(7, 6, fps=True, **KARLO_D),
            {"space": 885_451_206, "conv": 175_471_154, "attention": 89_831_040, "fps": 2_050_560},
            id="interpolation",
        ),
        pytest.param(
            UNetConfig(6, 3, scale_shift=False, **KARLO),
            {"space": 691_579_523, "conv": 175_471_070},
            id="super_resolution",
        ),
    ],
)
def test_inflated_karlo_sizes(config: UNetConfig, parts: dict[str, int]) -> None:
    network = on_meta(UNet, config)
    found: Counter[str] = Counter()
    for key, value in network.named_parameters():
        kind = "attention" if "attentions_time." in key else "conv" if "_time." in key else "space"
        found["fps" if key.startswith("fps_embedding.") else kind] += value.numel()
    assert dict(found) == parts
    kinds = Counter(type(module) for module in network.modules())
    assert kinds[TemporalConv] == 74
    assert kinds[TemporalAttention] == (22 if config.cross_dim else 0)
    plain = on_meta(UNet, UNetConfig(**{**vars(config), "temporal": False, "fps": False}))
    assert network.state_dict().keys() > plain.state_dict().keys()


# Time


def video_inputs(frames: int) -> tuple[Any, ...]:
    """x, t, tokens, bias and emb for two videos."""
    bias = torch.zeros(2, 5)
    bias[0, 3:] = -10000
    return torch.randn(2, 3, frames, 8, 8), T, torch.randn(2, 5, 12), bias, torch.randn(2, 32)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_fresh_inflation_is_the_2d_network_on_every_frame(frames: int) -> None:
    plain = shaken(UNet(UNetConfig(3, 6, temporal=False, **SMALL_D)))
    inflated = UNet(UNetConfig(3, 6, **SMALL_D)).eval()
    missing, unknown = inflated.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unknown
    assert all("_time." in key for key in missing)
    x, *given = video_inputs(frames)
    got = inflated(x, *given)
    for frame in range(frames):
        assert worst(got[:, :, frame], plain(x[:, :, [frame]], *given)[:, :, 0]) < ROUNDING


@torch.no_grad()
def test_trained_time_layers_join_the_frames() -> None:
    network = shaken(UNet(UNetConfig(3, 6, **SMALL_D)))
    x, *given = video_inputs(4)
    before = network(x, *given)
    x[0, :, 3] += 1
    after = network(x, *given)
    assert worst(after[0, :, 0], before[0, :, 0]) > 1e-3  # another frame of the same video
    assert worst(after[1], before[1]) < ROUNDING  # never another video of the batch


@torch.no_grad()
def test_frame_rate_starts_without_effect() -> None:
    fresh = UNet(UNetConfig(3, 6, fps=True, **SMALL_D))
    told = fresh.fps_embedding(torch.tensor([4.0, 24.0]))
    assert told.shape == (2, 32) and not told.any()
    told = shaken(fresh).fps_embedding(torch.tensor([4.0, 24.0]))
    assert worst(told[0], told[1]) > 1e-3
    assert UNet(UNetConfig(6, 3, **SMALL)).fps_embedding is None


@torch.no_grad()
def test_zero_applies_to_the_last_layer_only() -> None:
    embedding = TimestepEmbedding(8, 16, zero=True)
    assert embedding.linear_1.weight.any()
    assert not embedding.linear_2.weight.any() and not embedding.linear_2.bias.any()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_temporal_conv_equals_conv1d_and_conv3d(frames: int) -> None:
    layer = shaken(TemporalConv(6), 0.5)
    video = torch.randn(2, 6, frames, 3, 5)
    got = layer(video.transpose(1, 2).flatten(0, 1), frames)
    got = got.unflatten(0, (2, frames)).transpose(1, 2)
    rows = video.permute(0, 3, 4, 1, 2).flatten(0, 2)  # [B*H*W, C, F]
    flat = F.conv1d(rows, layer.weight, layer.bias, padding=1)
    flat = flat.reshape(2, 3, 5, 6, frames).permute(0, 3, 4, 1, 2)
    solid = F.conv3d(video, layer.weight[..., None, None], layer.bias, padding=(1, 0, 0))
    assert worst(got, flat) < ROUNDING
    assert worst(got, solid) < ROUNDING


def test_temporal_conv_starts_as_the_identity() -> None:
    x = torch.randn(6, 4, 2, 3)
    assert torch.equal(TemporalConv(4)(x, 3), x)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def group_norm(x: np.ndarray, groups: int, layer: nn.GroupNorm) -> np.ndarray:
    """x [N, C, H, W] normalised per row and group."""
    rows = x.reshape(len(x), groups, -1)
    rows = rows - rows.mean(-1, keepdims=True)
    rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5)
    weight, bias = (p.detach().double().numpy()[:, None, None] for p in layer.parameters())
    return rows.reshape(x.shape) * weight + bias


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


@torch.no_grad()
def test_temporal_attention_equals_numpy() -> None:
    channels, head_dim, frames, groups = 12, 6, 5, 3
    layer = shaken(TemporalAttention(channels, head_dim, groups), 0.3)
    x = torch.randn(2 * frames, channels, 2, 3)
    normed = group_norm(x.double().numpy(), groups, layer.group_norm)  # per frame
    expected = x.double().numpy().copy()
    half = head_dim // 2
    angle = np.arange(frames)[:, None] * 10000.0 ** (-np.arange(half) / half)
    turn = np.exp(1j * angle)  # RoPE as a complex rotation of the pairs (i, i + half)
    for video in range(2):
        rows = slice(video * frames, (video + 1) * frames)
        for h in range(2):
            for w in range(3):
                y = normed[rows, :, h, w]  # [F, C]
                heads = []
                for start in range(0, channels, head_dim):
                    part = slice(start, start + head_dim)
                    q, k, v = (
                        linear(one, y)[:, part] for one in (layer.to_q, layer.to_k, layer.to_v)
                    )
                    q = (q[:, :half] + 1j * q[:, half:]) * turn
                    k = (k[:, :half] + 1j * k[:, half:]) * turn
                    scores = (q @ k.conj().T).real / np.sqrt(head_dim)
                    heads.append(softmax(scores) @ v)
                expected[rows, :, h, w] += linear(layer.to_out[0], np.concatenate(heads, -1))
    assert worst(layer(x, frames), expected) < ROUNDING


def test_temporal_attention_starts_as_the_identity() -> None:
    x = torch.randn(6, 8, 2, 3)
    assert torch.equal(TemporalAttention(8, 4, 2)(x, 3), x)


@torch.no_grad()
def test_added_tokens_come_first_and_masked_ones_count_for_nothing() -> None:
    layer = shaken(AddedKVAttention(8, 4, 6, 2), 0.3)
    x, tokens = torch.randn(4, 8, 3, 2), torch.randn(2, 5, 6)  # two videos of two frames
    bias = torch.zeros(2, 5)
    bias[:, 3:] = -10000
    masked = layer(x, tokens, bias, 2)
    assert worst(masked, layer(x, tokens[:, :3], bias[:, :3], 2)) < ROUNDING
    other = tokens.clone()
    other[:, 3:] = 7
    assert worst(masked, layer(x, other, bias, 2)) < ROUNDING
    assert worst(masked, layer(x, tokens, torch.zeros(2, 5), 2)) > 1e-3
    other = tokens.clone()
    other[1] += 1  # video 1's tokens reach both frames of video 1 and nothing of video 0
    moved = (layer(x, other, bias, 2) - masked).flatten(1).abs().amax(1)
    assert moved[:2].max() == 0 and moved[2:].min() > 1e-4
