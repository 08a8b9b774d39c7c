"""Reading Stable Diffusion folders that diffusers and transformers wrote, and refusing others.

Alone: pytest tests/export/test_diffusers_folder.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from tokenizers import pre_tokenizers  # noqa: E402

from edgereel.errors import InputError  # noqa: E402
from edgereel.plan import TokenizerSpec  # noqa: E402
from edgereel.spacing import spaced_timesteps  # noqa: E402
from edgereel.tokenizer import Tokenizer  # noqa: E402
from edgereel_export.checkpoints import fill, read_weights  # noqa: E402
from edgereel_export.diffusers_folder import (  # noqa: E402
    Tokens,
    check_kind,
    component,
    controlnet,
    scheduler,
    tokenizer,
)

pytestmark = pytest.mark.torch

_WIDTH = 32
_BLOCKS: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_UNET: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": _WIDTH,
    "attention_head_dim": 4,
    **_BLOCKS,
}
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
# scheduler/scheduler_config.json of Stable Diffusion 1.5, as published
_PUBLISHED = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def unet(**changes: Any) -> Any:
    return diffusers.UNet2DConditionModel(up_block_types=_UP, **{**_UNET, **changes})


def write_tokenizer(folder: Path) -> dict[str, int]:
    """A small CLIP tokenizer in the layout of the published checkpoints; returns its vocabulary."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["l o", "lo w</w>", "e r</w>", "lo w", "low er</w>", "r e", "re d</w>"]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion as diffusers saves it; copy it before changing it."""
    folder = tmp_path_factory.mktemp("sd")
    vocabulary = write_tokenizer(folder / "vocabulary")
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **_BLOCKS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=transformers.CLIPTextModel(text),
            tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "vocabulary"),
            unet=unet(),
            scheduler=diffusers.PNDMScheduler.from_config(_PUBLISHED),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Stable Diffusion to change."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(read: Callable[..., object], *given: object) -> str:
    with pytest.raises(InputError) as error:
        read(*given)
    text = str(error.value)
    assert text.startswith("checkpoint: ") and text.endswith(".")
    return text


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert {value.dtype for value in found.values()} == {torch.float32}


# Parts


@pytest.mark.parametrize(
    ("name", "kind"), [("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")]
)
def test_parts_are_what_diffusers_reads(written: Path, name: str, kind: str) -> None:
    config, weights = component(written, name)
    assert config["_class_name"] == kind
    same(weights, getattr(diffusers, kind).from_pretrained(written / name).state_dict())


_SAVED = {
    "safetensors": {},
    "bin": {"safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "fp16 bin": {"variant": "fp16", "safe_serialization": False},
    "shards": {"max_shard_size": "60KB"},
    "shards bin": {"max_shard_size": "60KB", "safe_serialization": False},
    "shards fp16": {"max_shard_size": "30KB", "variant": "fp16"},
}


@pytest.mark.parametrize("how", list(_SAVED))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_layout_of_diffusers_is_read_as_float32(tmp_path: Path, how: str, dtype: str) -> None:
    """Values equal the saved ones exactly: widening half precision loses nothing."""
    model = unet().to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "unet", **_SAVED[how])
    names = {path.name for path in (tmp_path / "unet").iterdir()}
    assert any("-of-" in name for name in names) == how.startswith("shards")
    assert any("fp16" in name for name in names) == ("fp16" in how)
    _, weights = component(tmp_path, "unet")
    same(weights, {key: value.float() for key, value in model.state_dict().items()})


@pytest.mark.parametrize("how", [{}, {"variant": "fp16"}, {"max_shard_size": "20KB"}])
def test_every_layout_of_transformers_is_read(
    written: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    model = transformers.CLIPTextModel.from_pretrained(written / "text_encoder")
    model.save_pretrained(tmp_path / "text_encoder", **how)
    same(component(tmp_path, "text_encoder")[1], model.state_dict())


def test_text_encoder_of_an_older_layout_fills_the_model_of_today(
    written: Path, tmp_path: Path
) -> None:
    """`text_model.` and position_ids, as in the published folders; states equal exactly."""
    model = transformers.CLIPTextModel.from_pretrained(written / "text_encoder").eval()
    old = {f"text_model.{key}": value for key, value in model.state_dict().items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    place = tmp_path / "text_encoder"
    place.mkdir()
    torch.save(old, place / "pytorch_model.bin")
    shutil.copy(written / "text_encoder" / "config.json", place)
    config, weights = component(tmp_path, "text_encoder")
    filled = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
    fill(filled, weights, place)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(filled(ids).last_hidden_state, model(ids).last_hidden_state)


def test_full_precision_is_preferred(tmp_path: Path) -> None:
    for name, value in (("model.fp16.safetensors", 1), ("pytorch_model.bin", 2)):
        save = torch.save if name.endswith("bin") else safetensors.save_file
        save({"a": torch.full((1,), float(value))}, tmp_path / name)
    assert read_weights(tmp_path)["a"].item() == 2


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "unet", max_shard_size="60KB")
    shard = sorted((tmp_path / "unet").glob("*-of-*"))[1]
    shard.unlink()
    assert shard.name in refusal(component, tmp_path, "unet")


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}]
    + [{"weight_map": {"a": place}} for place in ("../a.safetensors", "/etc/passwd", "b/a.bin")],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: dict[str, Any]) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is no index of shards" in refusal(read_weights, tmp_path)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_is_explained(tmp_path: Path, name: str) -> None:
    """What `git clone` leaves without Git LFS; it happens to many."""
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:19da7aaa\nsize 3438167540\n"
    (tmp_path / name).write_text(note)
    text = refusal(read_weights, tmp_path)
    assert "Git LFS pointer" in text and "git lfs pull" in text


def test_missing_parts_are_named(folder: Path) -> None:
    for name in ("vae", "scheduler"):
        shutil.rmtree(folder / name)
    assert "lacks vae, scheduler; expected the folders unet, vae, " in refusal(check_kind, folder)
    assert "vae" in refusal(component, folder, "vae")


# What a checkpoint is


def test_kinds_of_stable_diffusion_1(folder: Path) -> None:
    assert check_kind(folder) == "text-to-image"
    change(folder / "unet" / "config.json", in_channels=8)
    assert check_kind(folder) == "instruct-pix2pix"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cross_attention_dim": 1024, "use_linear_projection": True}, "is Stable Diffusion 2.x;"),
        ({"addition_embed_type": "text_time"}, "is Stable Diffusion XL;"),
        ({"cross_attention_dim": 2048}, "is Stable Diffusion XL;"),
        ({"in_channels": 9}, "is an inpainting model (its UNet has 9 input channels);"),
        ({"in_channels": 5}, "is a model of another kind (its UNet has 5 input channels);"),
        ({"cross_attention_dim": 768}, "gives states of width 32; expected 768"),
    ],
)
def test_unets_of_another_family_are_named(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    change(folder / "unet" / "config.json", **changes)
    assert told in refusal(check_kind, folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"_class_name": "TextToVideoSDPipeline", "unet": ["diffusers", "UNet3DConditionModel"]},
            "is a TextToVideoSDPipeline folder, whose unet is UNet3DConditionModel, not UNet2D",
        ),
        (
            {"_class_name": "FluxPipeline", "unet": None},
            "a FluxPipeline folder, whose unet is None",
        ),
        (
            {"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]},
            "whose text_encoder is RobertaSeriesModelWithTransformation, not CLIPTextModel",
        ),
        ({"vae": ["diffusers", "FlaxAutoencoderKL"]}, "whose vae is FlaxAutoencoderKL"),
        ({"tokenizer": ["transformers", "BertTokenizer"]}, "whose tokenizer is BertTokenizer"),
    ],
)
def test_pipelines_of_another_kind_are_named(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    change(folder / "model_index.json", **changes)
    assert told in refusal(check_kind, folder)


@pytest.mark.parametrize(
    ("name", "told", "remedy"),
    [
        ("cascade.json", "is a Make-A-Video checkpoint", "make-a-video"),
        ("plan.json", "is a cascade that is exported already", "edgereel generate"),
        ("adapter_config.json", "is a LoRA", "base model"),
        ("pytorch_lora_weights.safetensors", "is a LoRA", "base model"),
        ("snapshots", "is a cache folder of Hugging Face", "snapshots/"),
        ("config.json", "is one part of a pipeline", "whole pipeline"),
        ("readme.txt", "is a folder of something else", "Correct the path"),
    ],
)
def test_other_folders_are_named(tmp_path: Path, name: str, told: str, remedy: str) -> None:
    (tmp_path / name).write_text("{}")
    text = refusal(check_kind, tmp_path)
    assert told in text and remedy in text and "Stable Diffusion 1.x, with model_index.json" in text


@pytest.mark.parametrize("read", [check_kind, controlnet])
def test_paths_that_are_no_folder_are_told(tmp_path: Path, read: Callable[..., object]) -> None:
    single = tmp_path / "v1-5-pruned.safetensors"
    single.write_bytes(b"")
    text = refusal(read, single)
    assert "is a single file" in text and "from_single_file" in text
    reader = text.split("diffusers.")[-1].split(".from_single_file")[0]
    assert hasattr(getattr(diffusers, reader), "from_single_file")  # the advice can be followed
    assert "is no folder" in refusal(read, tmp_path / "nowhere")


# ControlNet


def small_controlnet(**changes: Any) -> Any:
    own = {"conditioning_embedding_out_channels": (8, 16), **changes}
    return diffusers.ControlNetModel(**{**_UNET, **own})


def test_a_controlnet_is_what_diffusers_reads(tmp_path: Path) -> None:
    model = small_controlnet().half()
    model.save_pretrained(tmp_path, variant="fp16")
    config, weights = controlnet(tmp_path)
    assert config["conditioning_embedding_out_channels"] == [8, 16]
    same(weights, {key: value.float() for key, value in model.state_dict().items()})


def test_what_is_no_controlnet_of_stable_diffusion_1_is_named(
    written: Path, tmp_path: Path
) -> None:
    assert "is a whole pipeline;" in refusal(controlnet, written)
    assert "is a UNet2DConditionModel folder;" in refusal(controlnet, written / "unet")
    small_controlnet(cross_attention_dim=1024).save_pretrained(tmp_path)
    assert "is a ControlNet for Stable Diffusion 2.x;" in refusal(controlnet, tmp_path)
    change(tmp_path / "config.json", cross_attention_dim=2048)
    assert "is a ControlNet for Stable Diffusion XL;" in refusal(controlnet, tmp_path)


# Tokenizer

_PROMPTS = [
    "low lower red",
    "LOWER",
    "",
    "  a\tred\n circle, moving 42 right! ",
    "don't they're I'll",
    "é ü ß 红色 🔴",
    "lower " * 200,
    "<|endoftext|> low",
]


def saved(folder: Path, found: Tokens) -> Path:
    """The tokenizer as a cascade folder has it."""
    (folder / "saved.json").write_text(found.json, encoding="utf-8")
    return folder / "saved.json"


@pytest.mark.parametrize("layout", ["vocabulary", "pipeline"])
def test_ids_are_those_of_transformers(written: Path, tmp_path: Path, layout: str) -> None:
    """The runtime reads our file; transformers pads and cuts by its own rules."""
    source = tmp_path / "checkpoint"
    place = written / "tokenizer" if layout == "pipeline" else written.parent / "vocabulary"
    assert (place / "tokenizer.json").is_file() == (layout == "pipeline")
    shutil.copytree(place, source / "tokenizer")
    shutil.copytree(written / "text_encoder", source / "text_encoder")
    found = tokenizer(source)
    spec = TokenizerSpec(file="tokenizer.json", length=found.length, pad_id=found.pad_id)
    reference = transformers.CLIPTokenizer.from_pretrained(place)
    expected = reference(_PROMPTS, padding="max_length", truncation=True, max_length=77)
    ids, mask, cut = Tokenizer(saved(tmp_path, found), spec).encode(_PROMPTS)
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["attention_mask"]
    assert cut == [6]


def test_ids_by_hand(tmp_path: Path, written: Path) -> None:
    """Merges in their order: low = lo + w</w>; lower = l o w e r -> low + er</w>."""
    vocabulary = write_tokenizer(tmp_path / "tokenizer")
    shutil.copytree(written / "text_encoder", tmp_path / "text_encoder")
    found = tokenizer(tmp_path)
    assert (found.length, found.pad_id) == (77, vocabulary["<|endoftext|>"])
    spec = TokenizerSpec(file="tokenizer.json", length=8, pad_id=found.pad_id)
    ids, _, _ = Tokenizer(saved(tmp_path, found), spec).encode(["low Lower re"])
    words = ["<|startoftext|>", "low</w>", "lower</w>", "r", "e</w>", *["<|endoftext|>"] * 3]
    assert ids[0].tolist() == [vocabulary[word] for word in words]


def test_padding_and_length_come_from_the_files(folder: Path) -> None:
    """special_tokens_map.json wins over tokenizer_config.json, as in transformers."""
    shutil.rmtree(folder / "tokenizer")
    vocabulary = write_tokenizer(folder / "tokenizer")
    change(folder / "tokenizer" / "special_tokens_map.json", pad_token="!")
    assert tokenizer(folder).pad_id == vocabulary["!"]
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=30)
    assert tokenizer(folder).length == 30
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=int(1e30))
    change(folder / "text_encoder" / "config.json", max_position_embeddings=40)
    assert tokenizer(folder).length == 40


def test_a_tokenizer_with_missing_files_is_told(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    text = refusal(tokenizer, folder)
    assert "lacks vocab.json and merges.txt; expected tokenizer.json, or" in text


@pytest.mark.parametrize(("name", "text"), [("vocab.json", "{"), ("vocab.json", '{"a": "b"}')])
def test_a_damaged_tokenizer_is_told(folder: Path, name: str, text: str) -> None:
    shutil.rmtree(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer")
    (folder / "tokenizer" / name).write_text(text)
    assert "tokenizer cannot be read" in refusal(tokenizer, folder)


def test_more_tokens_than_embeddings_are_told(folder: Path) -> None:
    change(folder / "text_encoder" / "config.json", vocab_size=100)
    assert "expected less than the text encoder's 100" in refusal(tokenizer, folder)


# Scheduler


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps_offset": 0, "set_alpha_to_one": True},
        {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"timestep_spacing": "linspace", "num_train_timesteps": 500},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
)
def test_schedules_are_those_of_diffusers_ddim(folder: Path, changes: dict[str, Any]) -> None:
    """DDIMScheduler.from_config of the same file; it keeps its tables in float32: 2e-6."""
    values = {**_PUBLISHED, **changes}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))
    found, reference = scheduler(folder), diffusers.DDIMScheduler.from_config(values)
    table = found.alphas_cumprod()
    assert table.dtype == np.float64
    np.testing.assert_allclose(table, reference.alphas_cumprod.numpy(), rtol=0, atol=2e-6)
    final = {"one": 1.0, "first": table[0]}[found.final]
    assert abs(final - float(reference.final_alpha_cumprod)) < 2e-6
    for steps in (20, 50):
        reference.set_timesteps(steps)
        timesteps = spaced_timesteps(found.spacing, steps, len(table))
        assert timesteps.tolist() == reference.timesteps.tolist()
    assert found.clip_sample == reference.config.clip_sample
    names = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
    assert names[found.prediction] == reference.config.prediction_type


def test_a_written_scheduler_is_read(written: Path) -> None:
    found = scheduler(written)
    assert (found.spacing, found.final, found.prediction) == ("leading+1", "first", "epsilon")


def test_missing_fields_have_the_defaults_of_ddim(folder: Path) -> None:
    betas = {key: value for key, value in _PUBLISHED.items() if key.startswith("beta")}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(betas))
    found, reference = scheduler(folder), diffusers.DDIMScheduler.from_config(betas)
    for name in type(found).__struct_fields__:
        assert getattr(found, name) == reference.config[name]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"beta_schedule": "sigmoid"}, "Invalid enum value 'sigmoid'"),
        ({"prediction_type": "flow_prediction"}, "Invalid enum value 'flow_prediction'"),
        ({"timestep_spacing": "sqrt"}, "Invalid enum value 'sqrt'"),
        ({"steps_offset": 2}, "`int` <= 1 - at `$.steps_offset`"),
        ({"trained_betas": [0.1, 0.2]}, "`$.trained_betas`"),
        ({"beta_end": 1.5}, "`$.beta_end`"),
        ({"beta_start": float("nan")}, "`$.beta_start`"),
        ({"thresholding": True}, "thresholding is true"),
        ({"rescale_betas_zero_snr": True}, "leaves epsilon undefined"),
    ],
)
def test_schedulers_that_cannot_be_done_are_refused(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **changes)
    text = refusal(scheduler, folder)
    assert told in text and "scheduler_config.json" in text


def test_a_scheduler_without_betas_is_refused(folder: Path) -> None:
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    assert "missing required field `beta_schedule`" in refusal(scheduler, folder)
