"""A checkpoint of Emu Video in our layout, very small, with random weights, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from edgereel_export.emu_checkpoint import NETWORKS
from edgereel_export.modules.emu_config import EmuConfig, to_json
from edgereel_export.modules.emu_unet import EmuUNet, is_own
from edgereel_export.modules.sd_config import SDVAEConfig
from edgereel_export.modules.sd_config import to_json as vae_json
from edgereel_export.modules.sd_vae import SDVAE

from .text2video_zero_tiny import write_json, write_part, write_tokenizer

__all__ = ["CONFIG", "write_checkpoint"]

CONFIG = EmuConfig(  # attention in the middle only, as every one makes an export longer
    latent_channels=8,
    block_out_channels=(8, 16),
    layers=(1, 1),
    attention=(False, False),
    heads=(2, 4),
    cross_attention_dims=(16, 24),
    norm_num_groups=4,
    sample_size=8,
)
_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
}
_SCHEDULERS = {
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **_BETAS,
    },
    "video_scheduler": {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        **_BETAS,
    },
}
_CLASSES = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}


def write_checkpoint(folder: Path) -> None:
    """Write all parts and all networks, the same at every call."""
    vae = SDVAEConfig(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=8
    )
    clip = CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    t5 = T5Config(
        vocab_size=300,
        d_model=24,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_part(folder / "vae", SDVAE(vae), vae_json(vae))
        write_part(folder / "text_encoder", CLIPTextModel(clip), clip.to_diff_dict())
        write_part(folder / "text_encoder_2", T5EncoderModel(t5), t5.to_diff_dict())
        write_part(folder / "unet", EmuUNet(CONFIG, temporal=False), to_json(CONFIG))
        for network in NETWORKS:
            _write_network(folder / network)
    write_json(folder / "model_index.json", _CLASSES)
    for name, values in _SCHEDULERS.items():
        write_json(folder / name / "scheduler_config.json", values)
    write_tokenizer(folder / "tokenizer")
    _write_t5_tokenizer(folder / "tokenizer_2" / "tokenizer.json")


def _write_network(folder: Path) -> None:
    """The layers over frames and conv_in, none of them at its identity."""
    state = {
        key: value + 0.03 * torch.randn_like(value)
        for key, value in EmuUNet(CONFIG).state_dict().items()
        if is_own(key)
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")


def _write_t5_tokenizer(path: Path) -> None:
    """T5's kind of tokenizer, a unigram model that ends a text with </s>, over single letters."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in letters] + [("\u2581a", -2.5), ("re", -3.5)]
    tokens = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    tokens.decoder = decoders.Metaspace()
    tokens.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens.save(str(path))
