"""Emu Video's network against diffusers' and its own identity, and its sizes against the paper's.

Alone: pytest tests/export/test_emu_modules.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from edgereel import schedule  # noqa: E402
from edgereel.errors import InputError  # noqa: E402
from edgereel_export.modules import emu_glue as glue  # noqa: E402
from edgereel_export.modules.emu_config import EmuConfig, from_json, to_json  # noqa: E402
from edgereel_export.modules.emu_unet import MOST_FRAMES, EmuUNet, is_spatial  # noqa: E402
from edgereel_export.step import DenoiseStep, StepConfig  # noqa: E402
from edgereel_export.systems import emu_video, emu_video_tiny  # noqa: E402

pytestmark = pytest.mark.torch

CONFIG = replace(emu_video_tiny.CONFIG, layers=(1, 2), attention=(False, True))
PUBLISHED = from_json(json.loads(emu_video.CHECKPOINTS["published"].read_text())["unet"])
ONE_TEXT = replace(CONFIG, cross_attention_dims=(16,))
LENGTHS = (5, 7)


def made(config: EmuConfig, *, temporal: bool) -> Any:
    """A network with nothing at zero."""
    torch.manual_seed(0)
    unet = EmuUNet(config, temporal=temporal).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return unet


def inputs(config: EmuConfig, rows: int, frames: int) -> tuple[Any, Any, tuple[Any, ...]]:
    """x [G, F, C, 8, 8], t [G] and text states of each encoder."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, frames, config.latent_channels, 8, 8, generator=generator)
    states = tuple(
        torch.randn(rows, length, width, generator=generator)
        for length, width in zip(LENGTHS, config.cross_attention_dims, strict=False)
    )
    return x, torch.full((rows,), 500.0), states


def same_network(config: EmuConfig) -> Any:
    """diffusers' network of these sizes; where there is a second text, block 1 attends to it."""
    values = {key: value for key, value in to_json(config).items() if key[0] != "_"}
    dims = values.pop("cross_attention_dim")
    values |= {"mid_block_type": "UNetMidBlock2DCrossAttn", "cross_attention_dim": dims[0]}
    unet = diffusers.UNet2DConditionModel(**values)
    if len(dims) == 2:
        for module in unet.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == 2:
                block = module[1]
                if type(block).__name__ == "BasicTransformerBlock":
                    inner = block.attn2.inner_dim
                    for name in ("to_k", "to_v"):
                        setattr(block.attn2, name, torch.nn.Linear(dims[1], inner, bias=False))
                    block.register_forward_pre_hook(_second_text(unet), with_kwargs=True)
    return unet.eval().requires_grad_(False)


def _second_text(unet: Any) -> Any:
    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "encoder_hidden_states": unet.second_text}

    return hook


@pytest.mark.parametrize("config", [ONE_TEXT, CONFIG], ids=["clip", "clip and t5"])
def test_the_image_network_is_that_of_diffusers(config: EmuConfig) -> None:
    """Float64: 1e-12 of the deviation is rounding; the sums are ordered differently."""
    ours, theirs = made(config, temporal=False).double(), same_network(config).double()
    theirs.load_state_dict(ours.state_dict())
    x, t, states = inputs(config, 3, 1)
    texts = tuple(s.double() for s in states)
    theirs.second_text = texts[-1]
    expected = theirs(x[:, 0].double(), t, encoder_hidden_states=texts[0]).sample
    got = ours(x.double(), t.double(), texts)[:, 0]
    assert (got - expected).abs().max() <= 1e-6 * expected.std()  # t's sinusoid is float32 in both


def inflated(image: Any) -> Any:
    """A network over frames as training begins: the image network's weights, all else as made."""
    unet = EmuUNet(image.config).eval().requires_grad_(False)
    own = unet.state_dict()
    channels = image.config.latent_channels
    for key, value in image.state_dict().items():
        if key == "conv_in.weight":
            own[key].zero_()[:, :channels] = value
        else:
            own[key] = value
    unet.load_state_dict(own)
    return unet


def test_without_training_one_frame_is_the_image_bit_for_bit() -> None:
    image = made(CONFIG, temporal=False)
    x, t, states = inputs(CONFIG, 2, 1)
    given = torch.zeros(2, 1, CONFIG.latent_channels + 1, 8, 8)
    assert torch.equal(inflated(image)(x, t, states, given), image(x, t, states))


def test_without_training_frames_are_images() -> None:
    """Whatever is given: its channels have no weight yet. 1e-5 is the rounding of batch sizes."""
    image = made(CONFIG, temporal=False)
    frames = 4
    x, t, states = inputs(CONFIG, 2, frames)
    given = torch.randn(2, frames, CONFIG.latent_channels + 1, 8, 8)
    got = inflated(image)(x, t, states, given)
    for frame in range(frames):
        alone = image(x[:, frame : frame + 1], t, states)
        assert (got[:, frame : frame + 1] - alone).abs().max() <= 1e-5 * alone.std()


def test_frames_see_each_other_in_order() -> None:
    unet = made(CONFIG, temporal=True)
    x, t, states = inputs(CONFIG, 1, 5)
    given = torch.randn(1, 5, CONFIG.latent_channels + 1, 8, 8)
    out = unet(x, t, states, given)
    changed = x.clone()
    changed[:, 4] += 1
    assert (unet(changed, t, states, given)[:, 0] - out[:, 0]).abs().max() > 1e-4
    turned = unet(x.flip(1), t, states, given.flip(1)).flip(1)
    assert (turned - out).abs().max() > 1e-3


def test_parameters_are_those_of_the_paper() -> None:
    """Appendix: 2.7 B frozen and 1.7 B over frames; systems notes: 2.6627 B and 1.6562 B fit.

    Ours has 31,104 more in conv_in, and one vector per frame and attention over frames.
    """
    with torch.device("meta"):
        image, video = EmuUNet(PUBLISHED, temporal=False), EmuUNet(PUBLISHED)
    spatial = sum(p.numel() for p in image.parameters())
    total = sum(p.numel() for p in video.parameters())
    assert spatial == 2_662_694_024
    places = sum(p.numel() for n, p in video.named_parameters() if n.endswith(".position"))
    assert total - spatial - places == pytest.approx(1.6562e9, rel=1e-4)
    sites = sum(name.endswith("proj_in") for name, _ in video.named_modules())
    assert sites == 26
    assert places == sum(2 * MOST_FRAMES * width for width in _site_widths(video))
    assert {key for key in image.state_dict()} == {k for k in video.state_dict() if is_spatial(k)}
    names = video.state_dict()
    assert names["conv_in.weight"].shape == (384, 17, 3, 3)
    assert names["time_embedding.linear_1.weight"].shape == (1536, 384)
    key = "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k.weight"
    assert names[key].shape == (1536, 2048)
    assert names["down_blocks.0.resnets.0.conv1_time.weight"].shape == (384, 384, 3)


def _site_widths(unet: Any) -> list[int]:
    return [m.out_channels for name, m in unet.named_modules() if name.endswith("proj_in")]


def test_v_prediction_at_pure_noise_is_finite() -> None:
    """Zero terminal SNR: alpha is 0 at timestep 999, x0 is -v."""
    table = schedule.rescale_zero_terminal_snr(
        schedule.alphas_cumprod_scaled_linear(0.00085, 0.012)
    )
    rows = schedule.sampler_rows("ddim", table, "trailing", 4)
    assert rows[0, 0] == 999 and rows[0, 1] == 0
    v = torch.randn(2, 3)
    step = DenoiseStep(_Constant(v), StepConfig("v"))
    x = torch.randn(2, 3)
    zeros = torch.zeros_like(x)
    after, x0 = step(x, torch.from_numpy(rows[0]), torch.ones(1), zeros, zeros)
    assert torch.equal(x0, -v) and after.isfinite().all()


class _Constant(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Any, t: Any) -> Any:
        return self.out


# What happens between the networks


def test_the_first_frame_is_given_with_a_mask() -> None:
    first, like = torch.randn(1, 4, 2, 3), torch.zeros(5, 4, 2, 3)
    given = glue.FirstGiven()(first, like)
    assert given.shape == (5, 5, 2, 3)
    assert torch.equal(given[0, :4], first[0]) and (given[0, 4] == 1).all()
    assert not given[1:].any()


def test_eight_frames_lie_among_37() -> None:
    """Positions 4, 8, ..., 32 of each group, as in the paper's appendix."""
    known = torch.randn(16, 2, 1, 1)
    given = glue.SomeGiven()(known).unflatten(0, (2, MOST_FRAMES))
    for group in range(2):
        places = given[group, :, 2, 0, 0].nonzero().flatten().tolist()
        assert places == list(range(4, 33, 4))
        assert torch.equal(given[group, places, :2], known[8 * group :][:8])
        others = [place for place in range(MOST_FRAMES) if place not in places]
        assert not given[group, others].any()


@pytest.mark.parametrize(("seamless", "count"), [(False, 65), (True, 69)])
def test_two_groups_are_joined(seamless: bool, count: int) -> None:
    """Literal: the last five of the first and the first four of the second are dropped."""
    frames = torch.arange(2 * MOST_FRAMES).float().view(-1, 1, 1, 1)
    got = glue.Joined(seamless=seamless)(frames).flatten().tolist()
    kept = MOST_FRAMES - (1 if seamless else 5)
    assert got == [*range(kept), *range(MOST_FRAMES + 4, 2 * MOST_FRAMES)]
    assert len(got) == count
    once = glue.Joined(seamless=seamless)(frames[:MOST_FRAMES])
    assert torch.equal(once, frames[:MOST_FRAMES])


def test_row_0_is_not_told_what_is_given() -> None:
    seen: list[Any] = []

    class Spy(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: Any, t: Any, states: Any, given: Any) -> Any:
            seen.append(given)
            return x

    given = torch.randn(4, 5, 2, 2)
    for index in ([0, 1, 2], [1, 2], [2]):
        x = torch.zeros(len(index), 4, 4, 2, 2)
        glue.Animated(Spy())(x, torch.zeros(len(x)), given, torch.tensor(index), torch.zeros(1))
        for row, number in zip(seen.pop(), index, strict=True):
            assert torch.equal(row, given if number else torch.zeros_like(given))


# config.json


def test_sizes_come_back_from_json() -> None:
    assert from_json(to_json(PUBLISHED)) == PUBLISHED
    stable = {
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "cross_attention_dim": 768,
        "sample_size": None,
    }
    found = from_json(stable)
    assert found.layers == (2,) * 4 and found.heads == (8,) * 4 and found.latent_channels == 4
    assert found.cross_attention_dims == (768,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"in_channels": 9}, "9 input and 8 output channels"),
        ({"layers_per_block": [1]}, "1 entries of layers_per_block; expected 2"),
        ({"attention_head_dim": [3, 4]}, "a width of 8; expected a multiple of its 3 heads"),
        ({"down_block_types": ["DownBlock2D"]}, "1 entries of down_block_types"),
        ({"transformer_layers_per_block": 3}, "expected 2, one for each entry"),
        ({"block_out_channels": "wide"}, "the fields that diffusers writes"),
        ({"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
    ],
)
def test_other_networks_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_json(to_json(CONFIG) | change)


def test_published_key_names_and_sizes_are_kept() -> None:
    assert np.array(PUBLISHED.block_out_channels).tolist() == [384, 768, 1536, 1536]
    assert [w // h for w, h in zip(PUBLISHED.block_out_channels, PUBLISHED.heads, strict=True)] == [
        64
    ] * 4
