"""What surrounds LaVie's UNets, against diffusers and transformers; the tiny checkpoint.

Alone: pytest tests/export/test_lavie_companions.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from edgereel.errors import InputError  # noqa: E402
from edgereel_export import lavie_companions as companions  # noqa: E402
from edgereel_export.checkpoints import fill  # noqa: E402
from edgereel_export.diffusers_folder import clip_text_model  # noqa: E402
from edgereel_export.lavie_checkpoint import read_lavie, stages, vsr_config  # noqa: E402
from edgereel_export.modules.lavie_unet import InterpolationUNet, LaVieUNet  # noqa: E402
from edgereel_export.modules.lavie_vsr import VSRUNet  # noqa: E402
from edgereel_export.modules.sd_config import SDVAEConfig  # noqa: E402
from edgereel_export.modules.sd_vae import SDVAE, SDDecoder, SDEncoder  # noqa: E402
from edgereel_export.systems.lavie_tiny import write_checkpoint  # noqa: E402

pytestmark = pytest.mark.torch

UPSCALER, STABLE_DIFFUSION = "stable-diffusion-x4-upscaler", "stable-diffusion-v1-4"


def refusal(read: Callable[..., object], *given: object) -> str:
    with pytest.raises(InputError) as error:
        read(*given)
    text = str(error.value)
    assert text.startswith("checkpoint: ") and text.endswith(".") and "\n" not in text
    return text


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LaVie's layout, very small; copy it before changing it."""
    folder = tmp_path_factory.mktemp("lavie")
    write_checkpoint(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the companions to change."""
    copied = shutil.copytree(written, tmp_path / "lavie", ignore=shutil.ignore_patterns("*.pt"))
    return Path(copied)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def upscaled(tmp_path_factory: pytest.TempPathFactory, written: Path) -> tuple[Any, Path]:
    """A small x4 upscaler in diffusers, and the checkpoint in which diffusers wrote it."""
    folder = tmp_path_factory.mktemp("diffusers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(written / UPSCALER / "tokenizer")
    text = transformers.CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, hidden_act="gelu", bos_token_id=512, eos_token_id=513,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = diffusers.StableDiffusionUpscalePipeline(
            vae=diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                block_out_channels=(8, 16, 24),
                layers_per_block=2,
                norm_num_groups=4,
                scaling_factor=0.08333,
            ),
            text_encoder=transformers.CLIPTextModel(text).eval(),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(block_out_channels=(32,) * 4),
            low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear"),
            scheduler=diffusers.DDIMScheduler(
                beta_schedule="scaled_linear",
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
        )
    pipeline.save_pretrained(folder / UPSCALER)
    shutil.rmtree(folder / UPSCALER / "unet")  # not needed
    return pipeline, folder


def error(got: Any, expected: Any) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def test_the_autoencoder_of_three_levels_equals_diffusers(upscaled: tuple[Any, Path]) -> None:
    """1e-5 of the largest value: f32 sums in another order; 4 times the size, not 8."""
    pipeline, folder = upscaled
    vae = companions.read_upscaler(folder, 32).vae
    pictures = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pictures).latent_dist.mode()
        assert latents.shape == (2, 4, 5, 7)
        assert error(SDEncoder(vae)(pictures), latents) < 1e-5
        assert error(SDDecoder(vae)(latents), pipeline.vae.decode(latents).sample) < 1e-5


def test_published_sizes_of_the_upscaler(tmp_path: Path) -> None:
    """Parameters of the published files."""
    levels = {"block_out_channels": [128, 256, 512], "layers_per_block": 2}
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    }
    with torch.device("meta"):
        vae = SDVAE(SDVAEConfig.from_json(levels))
        encoder = clip_text_model(text, tmp_path)
    assert len(vae.state_dict()) == 204
    assert sum(value.numel() for value in vae.parameters()) == 55_325_927
    assert sum(value.numel() for value in encoder.parameters()) == 340_387_840


def test_the_text_tower_equals_transformers(upscaled: tuple[Any, Path]) -> None:
    """Exactly: it is the same class, whose activation and layers the folder decides."""
    pipeline, folder = upscaled
    read = companions.read_upscaler(folder, 32)
    ids = pipeline.tokenizer("blur", padding="max_length", max_length=12).input_ids
    assert ids[-1] == read.tokens.pad_id == 0 and read.tokens.length == 12
    with torch.no_grad():
        expected = pipeline.text_encoder(torch.tensor([ids])).last_hidden_state
        assert torch.equal(read.text_encoder(torch.tensor([ids])).last_hidden_state, expected)


def test_the_two_tokenizers_read_an_exclamation_mark_differently(written: Path) -> None:
    """As transformers does: where "!" is the padding, it is that in a text as well."""
    ids = {}
    for name, read in (
        (UPSCALER, companions.read_upscaler(written, 24)),
        (STABLE_DIFFUSION, companions.read_stable_diffusion(written)),
    ):
        theirs = transformers.CLIPTokenizer.from_pretrained(written / name / "tokenizer")
        ids[name] = tokenizers.Tokenizer.from_str(read.tokens.json).encode("a cat!").ids
        assert ids[name] == theirs("a cat!").input_ids
    assert ids[UPSCALER][-2] == 0 != ids[STABLE_DIFFUSION][-2]


def test_published_text_keys_are_read(upscaled: tuple[Any, Path], tmp_path: Path) -> None:
    """`text_model.` before every name, and position_ids, as in the published folder."""
    pipeline, folder = upscaled
    copied = shutil.copytree(folder, tmp_path / "copy")
    state = pipeline.text_encoder.state_dict()
    old = {f"text_model.{key.removeprefix('text_model.')}": v for key, v in state.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    place = copied / UPSCALER / "text_encoder"
    (place / "model.safetensors").unlink()
    torch.save(old, place / "pytorch_model.bin")
    filled = companions.read_upscaler(copied, 32).text_encoder
    same(dict(filled.state_dict()), {k.removeprefix("text_model."): v for k, v in state.items()})


def test_the_padding_of_the_special_tokens_wins(folder: Path) -> None:
    """In Stable Diffusion 2's published tokenizer the two files differ."""
    place = folder / UPSCALER / "tokenizer"
    change(place / "tokenizer_config.json", pad_token="<|endoftext|>")
    assert companions.read_upscaler(folder, 24).tokens.pad_id == 513
    (place / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert companions.read_upscaler(folder, 24).tokens.pad_id == 0


def test_schedules_of_super_resolution(upscaled: tuple[Any, Path]) -> None:
    """Linear betas take the place of the folder's for sampling, but not for the picture's noise.

    1e-6: diffusers has the products in f32.
    """
    pipeline, folder = upscaled
    read = companions.read_upscaler(folder, 32)
    linear = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, beta_schedule="linear")
    for found, expected in (
        (read.scheduler, linear),
        (read.low_res_scheduler, pipeline.low_res_scheduler),
    ):
        np.testing.assert_allclose(found.alphas_cumprod(), expected.alphas_cumprod, atol=1e-6)
    assert read.scheduler.prediction == "v"
    assert (read.scheduler.spacing, read.scheduler.final) == ("leading+1", "first")


def test_schedule_of_base(written: Path) -> None:
    """Stable Diffusion's file with LaVie's betas; 1e-6 as above."""
    read = companions.read_stable_diffusion(written).scheduler
    config = diffusers.PNDMScheduler.load_config(written / STABLE_DIFFUSION / "scheduler")
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    expected = diffusers.DDIMScheduler.from_config({**config, **betas})
    np.testing.assert_allclose(read.alphas_cumprod(), expected.alphas_cumprod, atol=1e-6)
    assert (read.prediction, read.spacing, read.final) == ("epsilon", "leading+1", "first")


def test_scaling_of_the_two_autoencoders(folder: Path) -> None:
    """Published folders are from before diffusers wrote the factor down."""
    config = folder / STABLE_DIFFUSION / "vae" / "config.json"
    old = json.loads(config.read_text())
    del old["scaling_factor"]
    config.write_text(json.dumps(old))
    assert companions.read_stable_diffusion(folder).vae.config.scaling_factor == 0.18215
    assert companions.read_upscaler(folder, 24).vae.config.scaling_factor == 0.08333
    change(folder / UPSCALER / "vae" / "config.json", scaling_factor=0.5)
    assert companions.read_upscaler(folder, 24).vae.config.scaling_factor == 0.5


def test_companions_that_are_something_else_are_named(folder: Path) -> None:
    def upscaler_text() -> str:
        return refusal(companions.read_upscaler, folder, 24)

    assert "of width 24; expected 16" in refusal(companions.read_upscaler, folder, 16)
    change(folder / UPSCALER / "model_index.json", low_res_scheduler=["diffusers", "DDIMScheduler"])
    assert "whose low_res_scheduler is DDIMScheduler, not DDPMScheduler" in upscaler_text()
    shutil.rmtree(folder / UPSCALER)
    text = upscaler_text()
    assert "is no folder; expected the diffusers folder of stable-diffusion-x4-upscaler" in text
    shutil.copytree(folder / STABLE_DIFFUSION, folder / UPSCALER)
    text = upscaler_text()
    assert "a StableDiffusionPipeline folder, whose low_res_scheduler is None, not DDPM" in text
    change(folder / STABLE_DIFFUSION / "unet" / "config.json", in_channels=8)
    text = refusal(companions.read_stable_diffusion, folder)
    assert "is an instruct-pix2pix model; expected Stable Diffusion 1.4" in text


@pytest.mark.parametrize("part", ["vae", "tokenizer", "scheduler", "low_res_scheduler"])
def test_missing_parts_of_the_upscaler_are_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / UPSCALER / part)
    assert f"lacks {part}; expected the folders vae, text_encoder, " in refusal(
        companions.read_upscaler, folder, 24
    )


# The tiny checkpoint


def test_the_tiny_checkpoint_fills_every_network(written: Path) -> None:
    assert stages(written) == ("base", "interpolation", "vsr", "seine")
    states = read_lavie(written, stages(written))
    unets = {
        "base": LaVieUNet(companions.unet_config(written, 4)),
        "interpolation": InterpolationUNet(companions.unet_config(written, 8)),
        "vsr": VSRUNet(vsr_config(states["vsr"], written)),
        "seine": LaVieUNet(companions.unet_config(written, 9)),
    }
    for stage, unet in unets.items():
        fill(unet, states[stage], written)  # raises where one does not fit
        assert all(value.abs().max() > 0 for value in unet.parameters())


def test_the_tiny_checkpoint_is_the_same_at_every_call(written: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {path.relative_to(written) for path in written.rglob("*") if path.is_file()}
    for stage, state in read_lavie(written, stages(written)).items():
        same(read_lavie(tmp_path, [stage])[stage], state)
    for companion in (UPSCALER, STABLE_DIFFUSION):
        for name in ("vae/diffusion_pytorch_model", "text_encoder/model"):
            place = f"{companion}/{name}.safetensors"
            assert (tmp_path / place).read_bytes() == (written / place).read_bytes()
