"""Karlo checkpoints: the published sizes, and what is refused.

Alone: pytest tests/export/test_karlo_checkpoint.py
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from karlo_folder import pipeline, save_temporal, see  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from edgereel.errors import InputError  # noqa: E402
from edgereel.plan import Size  # noqa: E402
from edgereel_export import karlo_checkpoint, karlo_config  # noqa: E402
from edgereel_export.cli import main  # noqa: E402
from edgereel_export.karlo_temporal import FRAMES, IDENTITY  # noqa: E402
from edgereel_export.modules.prior import Prior  # noqa: E402
from edgereel_export.modules.text_proj import TextProj  # noqa: E402
from edgereel_export.modules.unet import UNet  # noqa: E402
from edgereel_export.systems import make_a_video  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # diffusers: deprecated parts
]

ALL = ("decoder", "interpolation", "super_res_first", "super_res_last")
BLOCKS = {"block_out_channels": [320, 640, 960, 1280], "layers_per_block": 3}
PUBLISHED: dict[str, dict[str, Any]] = {  # as diffusers' conversion of Karlo sets them
    "prior": {
        "_class_name": "PriorTransformer",
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "num_layers": 20,
        "embedding_dim": 768,
        "num_embeddings": 77,
        "additional_embeddings": 4,
        "dropout": 0.0,
    },
    "text_proj": {
        "_class_name": "UnCLIPTextProjModel",
        "clip_extra_context_tokens": 4,
        "clip_embeddings_dim": 768,
        "time_embed_dim": 1280,
        "cross_attention_dim": 1536,
    },
    "decoder": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "in_channels": 3,
        "out_channels": 6,
        "cross_attention_dim": 1536,
        "class_embed_type": "identity",
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
        **BLOCKS,
    },
    "super_res_first": {
        "_class_name": "UNet2DModel",
        "sample_size": 256,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
        "in_channels": 6,
        "out_channels": 3,
        "add_attention": False,
        **BLOCKS,
    },
}
# Keys, parameters, and a digest of the key lists of the public files.
SIZES = {
    "prior": (338, 1_022_030_080, "3140c6705ff6b7af"),
    "text_proj": (11, 7_878_400, "45a7d86303ec4677"),
    "decoder": (716, 885_439_686, "f581bbc3c1b9bf0f"),
    "super_res_first": (408, 691_579_523, "51c2894c07c3dc99"),
}


def network(folder: Path) -> Any:
    """What is made of a config.json, without values."""
    with torch.device("meta"):
        if folder.name == "prior":
            return Prior(karlo_config.prior_config(folder))
        if folder.name == "text_proj":
            return TextProj(karlo_config.text_proj_config(folder))
        return UNet(karlo_config.unet_config(folder)[0])


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_configs_make_the_published_networks(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name]))
    state = network(folder).state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    parameters = sum(value.numel() for value in state.values())
    assert (len(lines), parameters, digest) == SIZES[name]


# Small checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, beside it a file of layers over frames for every network."""
    place = tmp_path_factory.mktemp("karlo")
    pipeline(place)
    spatial = karlo_checkpoint.read(place / "karlo").unets
    save_temporal(place / "time.safetensors", spatial, ALL, frames=3, shake=0.1)
    return place


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))


def test_an_image_encoder_adds_modes_that_begin_with_pictures(folder: Path) -> None:
    checkpoint, file = folder / "karlo", str(folder / "time.safetensors")
    see(checkpoint)
    assert list(make_a_video.load(checkpoint).modes()) == ["image", "image-variation"]
    found = make_a_video.load(checkpoint, Extras(temporal=file)).modes()
    given = ["animate", "transition", "interpolate", "extend", "extend-start"]
    assert list(found) == [
        "video", "interpolated", "image", *given, "variation", "image-variation"
    ]  # fmt: skip
    extractor = checkpoint / "feature_extractor" / "preprocessor_config.json"
    extractor.write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(InputError, match=r"preprocessor_config\.json.*expected image_mean"):
        make_a_video.load(checkpoint)
    config = checkpoint / "image_encoder" / "config.json"
    config.write_text(config.read_text().replace('"projection_dim": 16', '"projection_dim": 24'))
    with pytest.raises(InputError, match="embeddings of 24 numbers; expected 16"):
        make_a_video.load(checkpoint)


def test_modes_are_those_the_weights_can_do(saved: Path, tmp_path: Path) -> None:
    checkpoint, file = saved / "karlo", tmp_path / "time.safetensors"
    assert list(make_a_video.load(checkpoint).modes()) == ["image"]
    untrained = make_a_video.load(checkpoint, Extras(temporal=IDENTITY)).modes()
    assert list(untrained) == ["video", "image"]
    assert untrained["video"].values["frames"].shape == (FRAMES, 32, 32, 3)
    whole = load_file(saved / "time.safetensors")
    for networks, names in (
        (ALL[:1], ["video", "image"]),
        (ALL[:2], ["video", "interpolated", "image"]),
    ):
        part = {key: value for key, value in whole.items() if key.partition(".")[0] in networks}
        save_file(part, file, {"frames": "4"})
        found = make_a_video.load(checkpoint, Extras(temporal=str(file))).modes()
        assert list(found) == names
        assert found["video"].values["frames"].shape == (4, 32, 32, 3)
    assert found["interpolated"].values["frames"].shape == ("F", 32, 32, 3)
    assert found["interpolated"].sizes["F"] == Size(param="skip", times=3, plus=1)
    assert found["interpolated"].params["skip"].default == 5


def test_layers_over_frames_keep_the_spatial_ones(saved: Path) -> None:
    file = saved / "time.safetensors"
    cascade = make_a_video.load(saved / "karlo", Extras(temporal=str(file)))
    found = {}
    for name, unet in cascade.timed.unets.items():
        base = cascade.parts.unets["decoder" if name == "interpolation" else name].state_dict()
        state = unet.state_dict()
        own = {f"{name}.{key}": value for key, value in state.items()}
        for key in base.keys() - {"conv_in.weight"}:
            assert torch.equal(state[key], base[key])
            own.pop(f"{name}.{key}")
        found |= own
    given = load_file(file)
    kept = {f"{name}.conv_in.weight" for name in ALL if name != "interpolation"}
    assert given.keys() - {"interpolation.conv_in.bias"} == found.keys() - kept
    assert all(torch.equal(found[key], given[key]) for key in found.keys() - kept)


def test_pickles_in_half_precision_are_read(folder: Path) -> None:
    place = folder / "karlo" / "decoder" / "diffusion_pytorch_model.safetensors"
    state = {key: value.half() for key, value in load_file(place).items()}
    torch.save(state, place.with_suffix(".bin"))
    place.unlink()
    unet = karlo_checkpoint.read(folder / "karlo").unets["decoder"]
    for key, value in unet.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[key].float())


# What is refused


def changed(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(folder: Path, temporal: str | None = None, *modes: str) -> str:
    with pytest.raises(InputError) as error:
        make_a_video.load(folder / "karlo", Extras(temporal=temporal, modes=modes))
    return str(error.value)


@pytest.mark.parametrize("part", list(karlo_checkpoint._PARTS))
def test_a_missing_folder_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / "karlo" / part)
    assert f"lacks {part}; expected the folders prior, decoder," in refused(folder)


@pytest.mark.parametrize(
    ("file", "fields", "told"),
    [
        (
            "model_index.json",
            {"_class_name": "UnCLIPImageVariationPipeline", "prior": None},
            "a UnCLIPImageVariationPipeline folder, whose prior is None, not PriorTransformer",
        ),
        (
            "decoder/config.json",
            {"_class_name": "UNet2DModel"},
            "has _class_name UNet2DModel; expected _class_name UNet2DConditionModel",
        ),
        ("decoder/config.json", {"out_channels": 3}, "has out_channels 3; expected out_channels 6"),
        ("decoder/config.json", {"attention_head_dim": 5}, "has block_out_channels [8, 16]; exp"),
        (
            "decoder/config.json",
            {"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 2},
            "has the blocks SimpleCrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D, Simple",
        ),
        ("decoder/config.json", {"layers_per_block": 0}, "cannot be used (Expected `int` >= 1"),
        ("super_res_last/config.json", {"add_attention": True}, "has add_attention True; expected"),
        ("super_res_last/config.json", {"sample_size": 64}, "8, 32 and 64 pixels (sample_size of"),
        ("prior/config.json", {"added_emb_type": None}, "has added_emb_type None; expected added"),
        ("prior/config.json", {"num_embeddings": 77}, "have 12 tokens by the tokenizer and 77 by"),
        (
            "text_encoder/config.json",
            {"architectures": ["CLIPTextModel"]},
            "has architectures ['CLIPTextModel']; expected architectures ['CLIPTextModelWithProj",
        ),
        (
            "decoder_scheduler/scheduler_config.json",
            {"variance_type": "fixed_small_log"},
            "has variance_type fixed_small_log; expected learned_range, which the network",
        ),
        (
            "prior_scheduler/scheduler_config.json",
            {"beta_schedule": "linear"},
            "has beta_schedule linear; expected beta_schedule squaredcos_cap_v2",
        ),
    ],
)
def test_a_config_of_something_else_is_refused(
    folder: Path, file: str, fields: dict[str, Any], told: str
) -> None:
    changed(folder / "karlo" / file, **fields)
    assert told in refused(folder)


def test_every_wrong_key_is_named(folder: Path) -> None:
    place = folder / "karlo" / "super_res_first" / "diffusion_pytorch_model.safetensors"
    state = load_file(place)
    state["conv_out.other"] = state.pop("conv_out.bias")
    state["conv_in.bias"] = state["conv_in.bias"][1:].contiguous()
    save_file(state, place)
    told = refused(folder)
    assert "missing keys: conv_out.bias; unknown keys: conv_out.other; wrong shapes: co" in told
    assert "conv_in.bias is [7], expected [8]" in told and str(place.parent) in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: s.update({"prior.x": torch.ones(1)}),
            "has prior.x; expected keys that begin with a net",
        ),
        (
            lambda s: s.update({"conv": torch.ones(1)}),
            "has conv; expected keys that begin with a net",
        ),
        (
            lambda s: s.update({"decoder.conv_in.bias": torch.ones(8)}),
            "has decoder.conv_in.bias, which is no layer over frames; expected layers over frames",
        ),
        (
            lambda s: s.update({"super_res_first.mid_block.attentions_time.0.x": torch.ones(1)}),
            "unknown keys: mid_block.attentions_time.0.x. Check",
        ),
        (
            lambda s: s.pop("decoder.conv_in_time.weight"),
            "(decoder) do not fit UNet: missing keys: conv_in_time.weight",
        ),
        (
            lambda s: s.update({"interpolation.conv_in.weight": torch.ones(8, 4, 3, 3)}),
            "wrong shapes: conv_in.weight is [8, 4, 3, 3], expected [8, 7, 3, 3]",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("decoder.")],
            "has no layers of the decoder; expected keys that begin with decoder.",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("super_res_last.")],
            "has no layers of super_res_last; expected both of super-resolution, or none",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(folder: Path, change: Any, told: str) -> None:
    file = folder / "time.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert told in refused(folder, str(file))


@pytest.mark.parametrize("frames", ["1", "many", "1000"])
def test_a_wrong_number_of_frames_is_refused(folder: Path, frames: str) -> None:
    file = folder / "time.safetensors"
    save_file(load_file(file), file, {"frames": frames})
    assert f"has frames {frames!r} in its metadata; expected 2 to" in refused(folder, str(file))


def test_a_mode_without_its_weights_is_refused(folder: Path) -> None:
    assert "--mode video needs layers over frames, which Karlo has not; exp" in refused(
        folder, None, "image", "video"
    )
    assert "--mode interpolated needs interpolation, which identity has not; expected keys" in (
        refused(folder, IDENTITY, "interpolated")
    )
    assert "nowhere.safetensors cannot be read" in refused(folder, "nowhere.safetensors")


@pytest.mark.parametrize(
    "command", [["lavie"], ["emu-video"], ["text2video-zero"], ["make-a-video", "--size", "shapes"]]
)
def test_other_checkpoints_take_no_layers_over_frames(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    given = command if len(command) > 1 else [*command, "--checkpoint", str(tmp_path)]
    assert main([*given, "--temporal", "time.safetensors"]) == 2
    told = capsys.readouterr().err
    assert "--temporal time.safetensors has no meaning with" in told
    assert "expected it with make-a-video and a checkpoint of Karlo" in told
