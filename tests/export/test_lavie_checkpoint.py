"""LaVie's files as published: what is read, which network it is, and what is refused.

Alone: pytest tests/export/test_lavie_checkpoint.py
"""

from __future__ import annotations

import argparse
import fractions
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")

from edgereel.errors import InputError  # noqa: E402
from edgereel_export.checkpoints import read_values  # noqa: E402
from edgereel_export.lavie_checkpoint import read_lavie, stages, vsr_config  # noqa: E402
from edgereel_export.modules.lavie_vsr import VSRConfig  # noqa: E402

pytestmark = pytest.mark.torch

FILES = {
    "base": "lavie_base.pt",
    "interpolation": "lavie_interpolation.pt",
    "vsr": "lavie_vsr.pt",
    "seine": "seine.pt",
}
# vsr/configs/unet_3d_config.json of the published code: what is not temporal
PUBLISHED_VSR: dict[str, Any] = {
    "in_channels": 7,
    "block_out_channels": (256, 512, 512, 1024),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
    "layers_per_block": 2,
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, True, False),
    "use_linear_projection": True,
}
BLOCK = "mid_block.attentions.0.transformer_blocks.0"


def weights(stage: str) -> dict[str, Any]:
    """A few keys of a network as published; the copies of `freqs` share their memory."""
    freqs = torch.arange(16.0)
    temporal = "attn_temporal" if stage == "vsr" else "attn_temp"
    channels = {"base": 4, "interpolation": 8, "vsr": 7, "seine": 9, "image": 4}[stage]
    state = {
        "conv_in.weight": torch.full((32, channels, 3, 3), float(channels)),
        "time_embedding.linear_1.weight": torch.ones(128, 32),
        f"{BLOCK}.attn1.to_q.weight": torch.ones(64, 64),
    }
    if stage == "image":
        return state
    state[f"{BLOCK}.{temporal}.to_q.weight"] = torch.ones(64, 64)
    if stage != "interpolation":
        bias = "time_rel_pos_bias.relative_attention_bias.weight"
        state[f"{BLOCK}.{temporal}.{bias}"] = torch.ones(32, 8)
        for place in (BLOCK, "up_blocks.0.attentions.0.transformer_blocks.0"):
            state[f"{place}.{temporal}.rotary_emb.freqs"] = freqs
    return state


def training(state: dict[str, Any]) -> dict[str, Any]:
    """What a training script saves: averaged and present weights, optimiser, arguments."""
    module = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=1e-4, betas=(0.9, 0.999), nested=argparse.Namespace(a=None))
    return {
        "model": {key: value + 1 for key, value in state.items()},
        "ema": state,
        "opt": optimizer.state_dict(),
        "args": arguments,
        "epoch": 3,
    }


def refusal(read: Callable[..., object], *given: object) -> str:
    with pytest.raises(InputError) as error:
        read(*given)
    text = str(error.value)
    assert text.startswith("checkpoint: ") and text.endswith(".") and "\n" not in text
    return text


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


# Layouts


@pytest.mark.parametrize("stage", list(FILES))
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", ["ema", "training", "raw", "safetensors"])
def test_every_layout_gives_the_averaged_weights(
    tmp_path: Path, stage: Any, layout: str, zipped: bool
) -> None:
    state = weights(stage)
    path = tmp_path / FILES[stage]
    if layout == "safetensors":
        clones = {key: value.clone() for key, value in state.items()}
        safetensors.save_file(clones, path.with_suffix(".safetensors"))
    else:
        held = {"ema": {"ema": state}, "training": training(state), "raw": state}[layout]
        torch.save(held, path, _use_new_zipfile_serialization=zipped)
    if (stage, layout) == ("vsr", "raw"):
        text = refusal(read_lavie, tmp_path, ["vsr"])
        assert "lavie_vsr.pt has no entry `ema`; expected averaged weights" in text
        return
    assert stages(tmp_path) == (stage,)
    same(read_lavie(tmp_path, [stage])[stage], state)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    torch.save({"ema": weights("base")}, tmp_path / "lavie_base.pt")
    chosen = {key: value.clone() + 1 for key, value in weights("base").items()}
    safetensors.save_file(chosen, tmp_path / "lavie_base.safetensors")
    same(read_lavie(tmp_path, ["base"])["base"], chosen)


def test_what_is_not_used_takes_no_memory(tmp_path: Path) -> None:
    """The state of an optimiser is twice the size of its network."""
    process = pytest.importorskip("psutil").Process()
    path, unused = tmp_path / "lavie_base.pt", 100 << 20
    torch.save(training(weights("base")) | {"opt": torch.ones(unused // 4)}, path)
    before = process.memory_info().rss
    values: Any = read_values(path, argparse.Namespace)
    assert process.memory_info().rss - before < unused / 2
    assert values["opt"].nbytes == unused
    same(values["ema"], weights("base"))


# What a file holds


NAMES = {
    "base": "LaVie's base UNet",
    "interpolation": "LaVie's interpolation UNet",
    "vsr": "LaVie's super-resolution UNet",
    "seine": "SEINE's UNet",
}


@pytest.mark.parametrize("stage", list(FILES))
@pytest.mark.parametrize("given", list(FILES))
def test_a_file_of_another_stage_is_named(tmp_path: Path, stage: str, given: str) -> None:
    torch.save({"ema": weights(given)}, tmp_path / FILES[stage])
    if given == stage:
        assert list(read_lavie(tmp_path, [stage])) == [stage]
        return
    text = refusal(read_lavie, tmp_path, [stage])
    assert f"{FILES[stage]} holds {NAMES[given]}; expected {NAMES[stage]}. " in text
    assert f"Name it {FILES[given]} and download {FILES[stage]} from https://" in text


def image_unet(**changes: Any) -> dict[str, Any]:
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    more = {"cross_attention_dim": 8, "attention_head_dim": 2, **sizes, **changes}
    unet = diffusers.UNet2DConditionModel(down_block_types=down, up_block_types=up, **more)
    return dict(unet.state_dict())


@pytest.mark.parametrize("stage", list(FILES))
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (image_unet, "the UNet of a Stable Diffusion for images"),
        (
            lambda: image_unet(in_channels=7, num_class_embeds=20),
            "the UNet of the Stable Diffusion x4 upscaler for images",
        ),
        (lambda: image_unet(in_channels=8), "the UNet of InstructPix2Pix for images"),
        (
            lambda: image_unet(in_channels=9),
            "the UNet of a Stable Diffusion that inpaints images",
        ),
        (
            lambda: weights("interpolation") | {"conv_in.weight": torch.ones(32, 9, 3, 3)},
            "a UNet with 9 input channels and temporal attention without positions",
        ),
        (
            lambda: image_unet() | {"down_blocks.0.temp_attentions.0.norm.weight": torch.ones(8)},
            "a UNet with 4 input channels and temporal attention of another kind",
        ),
        (
            lambda: {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3)},
            "a whole Stable Diffusion in one file",
        ),
        (lambda: {"encoder.conv_in.weight": torch.ones(8, 3, 3, 3)}, "no UNet of diffusers"),
        (dict, "no UNet of diffusers"),
    ],
)
def test_other_networks_are_named(
    tmp_path: Path, stage: str, make: Callable[[], dict[str, Any]], told: str
) -> None:
    torch.save({"ema": make()}, tmp_path / FILES[stage])
    text = refusal(read_lavie, tmp_path, [stage])
    assert f"{FILES[stage]} holds {told}; expected {NAMES[stage]}. Download {FILES[stage]}" in text


# Damaged files


@pytest.mark.parametrize("name", ["lavie_vsr.pt", "lavie_vsr.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_half_downloaded_files_are_told(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(training(weights("vsr")), path)
    else:
        safetensors.save_file({key: value.clone() for key, value in weights("vsr").items()}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    text = refusal(read_lavie, tmp_path, ["vsr"])
    assert f"{name} cannot be read" in text and "It may be half downloaded" in text


def test_objects_of_other_classes_are_named_and_not_made(tmp_path: Path) -> None:
    """Arguments that are no argparse.Namespace; torch would name the class on its fifth line."""
    held = training(weights("base")) | {"args": fractions.Fraction(1, 3)}
    torch.save(held, tmp_path / "lavie_base.pt")
    text = refusal(read_lavie, tmp_path, ["base"])
    assert "is not a file of tensors only (it holds fractions.Fraction). Convert it" in text


def test_arguments_cannot_hold_objects_of_other_classes(tmp_path: Path) -> None:
    arguments = argparse.Namespace(lr=fractions.Fraction(1, 3))
    torch.save({"ema": weights("base"), "args": arguments}, tmp_path / "lavie_base.pt")
    assert "it holds fractions.Fraction" in refusal(read_lavie, tmp_path, ["base"])


def test_a_checkpoint_without_averages_is_told(tmp_path: Path) -> None:
    held = training(weights("base"))
    del held["ema"]
    torch.save(held, tmp_path / "lavie_base.pt")
    text = refusal(read_lavie, tmp_path, ["base"])
    assert "lavie_base.pt holds model, opt, args, epoch but not `ema`; expected" in text


@pytest.mark.parametrize("held", [{"ema": 3}, {"ema": {"a": 1}}, {"ema": [torch.ones(1)]}, [1], 3])
def test_values_that_are_no_state_dict_are_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "lavie_base.pt")
    assert "is not a file of tensors only" in refusal(read_lavie, tmp_path, ["base"])


# Folders


def test_a_missing_stage_costs_its_modes_only(tmp_path: Path) -> None:
    for stage in ("vsr", "base"):
        torch.save({"ema": weights(stage)}, tmp_path / FILES[stage])
    assert stages(tmp_path) == ("base", "vsr")
    assert list(read_lavie(tmp_path, ["vsr"])) == ["vsr"]
    for stage, costs in (("interpolation", "four times the frames"), ("seine", "picture to video")):
        text = refusal(read_lavie, tmp_path, ["base", stage])
        assert f"lacks {FILES[stage]}; expected it for the modes that need it ({costs})." in text
        assert "https://huggingface.co/" in text


def test_folders_that_are_no_checkpoint_are_told(tmp_path: Path) -> None:
    single = tmp_path / "lavie_base.pt"
    assert "holds none of them; expected a folder with lavie_base.pt, lavie_" in refusal(
        stages, tmp_path
    )
    assert "is no folder" in refusal(stages, single)
    single.touch()
    assert "is a single file" in refusal(stages, single)
    (tmp_path / "clone" / "pretrained_models").mkdir(parents=True)
    assert "Give its pretrained_models folder." in refusal(stages, tmp_path / "clone")
    companion = tmp_path / "stable-diffusion-v1-4"
    companion.mkdir()
    (companion / "model_index.json").write_text("{}")
    assert "Give the folder above it." in refusal(stages, companion)


# Sizes of super-resolution


def upscaler_shapes(**sizes: Any) -> dict[str, Any]:
    """Weights without memory of diffusers' x4 upscaler, and the one temporal weight that tells."""
    with torch.device("meta"):
        state = dict(diffusers.UNet2DConditionModel(**sizes).state_dict())
        bias = torch.empty(32, sizes["attention_head_dim"])
    key = f"{BLOCK}.attn_temporal.time_rel_pos_bias.relative_attention_bias.weight"
    return state | {key: bias}


def test_published_sizes_of_super_resolution_are_read_from_its_weights(tmp_path: Path) -> None:
    state = upscaler_shapes(**PUBLISHED_VSR)
    assert len(state) == 687 + 1
    assert vsr_config(state, tmp_path) == VSRConfig()
    told = vars(vsr_config(state, tmp_path)).items() & PUBLISHED_VSR.items()
    assert dict(told) == {k: v for k, v in PUBLISHED_VSR.items() if k != "use_linear_projection"}


def test_other_sizes_of_super_resolution_are_read_from_its_weights(tmp_path: Path) -> None:
    sizes = PUBLISHED_VSR | {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "only_cross_attention": (True, False),
        "layers_per_block": 3,
        "cross_attention_dim": 48,
        "attention_head_dim": 4,
        "num_class_embeds": 400,
    }
    del sizes["use_linear_projection"]
    found = vsr_config(upscaler_shapes(**sizes, use_linear_projection=True), tmp_path)
    assert found == VSRConfig(**sizes)


@pytest.mark.parametrize("lost", ["class_embedding.weight", f"{BLOCK}.attn2.to_k.weight"])
def test_a_missing_weight_that_tells_a_size_is_named(tmp_path: Path, lost: str) -> None:
    state = upscaler_shapes(**PUBLISHED_VSR)
    del state[lost]
    assert f"lacks {lost}; expected all weights" in refusal(vsr_config, state, tmp_path)
