"""Text2Video-Zero against diffusers' pipelines, with the same weights and the same noise.

Alone: pytest tests/export/test_text2video_zero.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.pipelines.deprecated.text_to_video_synthesis import (  # noqa: E402
    pipeline_text_to_video_zero as reference,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

from edgereel import load  # noqa: E402
from edgereel_export import trt  # noqa: E402
from edgereel_export.folder import write_folder  # noqa: E402
from edgereel_export.modules import sd_glue  # noqa: E402
from edgereel_export.systems import text2video_zero  # noqa: E402
from edgereel_export.systems.text2video_zero_given import CONTROLS  # noqa: E402
from edgereel_export.systems.text2video_zero_tiny import write_checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the reference is old code, and says so at every call
]

SIDE, LATENT, FRAMES = 64, 16, 5
PROMPT = "a red circle"
CHUNKS = [(0, 0, 3), (1, 3, 5)]  # index, first and last frame
# Both run in float32; what is left are the order of sums and the cut to 255 levels, of which one
# level everywhere would be 48 dB.
LEAST_PSNR = 45.0


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An InstructPix2Pix checkpoint and its cascade."""
    place = tmp_path_factory.mktemp("pix2pix")
    write_checkpoint(place / "checkpoint", channels=8)
    cascade = text2video_zero.load(place / "checkpoint")
    write_folder(cascade, place / "cascade", name="edit", system="text2video-zero")
    return place / "checkpoint", place / "cascade"


def parts(folder: Path) -> dict[str, Any]:
    """The parts of a pipeline as diffusers and transformers read them."""
    return {
        "vae": diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "unet": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        "safety_checker": None,
        "feature_extractor": None,
    }


def ddim(folder: Path) -> Any:
    return diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def psnr(ours: Any, theirs: Any) -> float:
    """Of our levels against diffusers' frames in 0..1, which must show something."""
    theirs = np.asarray(theirs) * 255
    assert theirs.std() > 10
    error = np.mean((ours + 0.5 - theirs) ** 2)  # levels are cut, so half a level too low
    return float(10 * np.log10(255**2 / error))


def test_video_equals_the_published_pipeline(
    tiny_text2video_zero: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = noise(1, 4, LATENT, LATENT), noise(FRAMES, 4, LATENT, LATENT, seed=1)
    folder = tiny_text2video_zero.checkpoint / "base"
    pipeline = reference.TextToVideoZeroPipeline(
        **parts(folder), scheduler=ddim(folder), requires_safety_checker=False
    )
    monkeypatch.setattr(reference, "randn_tensor", lambda *_, **__: torch.from_numpy(again[1:]))
    theirs = pipeline(
        PROMPT,
        video_length=FRAMES,
        height=SIDE,
        width=SIDE,
        latents=torch.from_numpy(first),
        motion_field_strength_x=40,
        motion_field_strength_y=-25,
        negative_prompt="blue",
    ).images
    ours = load(tiny_text2video_zero.folder, backend="ort")(
        PROMPT,
        frames=FRAMES,
        height=SIDE,
        width=SIDE,
        motion_x=40,
        motion_y=-25,
        negative_prompt="blue",
        noise={"x_T": first, "motion.z": again},
    ).frames
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_only_five_evaluations_of_the_anchor_are_made(tiny_text2video_zero: Any) -> None:
    """Two steps down to t1 and three to t0, then 48 of all frames."""
    seen = set()
    cascade = load(tiny_text2video_zero.folder, backend="ort")
    cascade(PROMPT, frames=2, callback=lambda now: seen.add((now.stage, now.steps)))
    assert {steps for stage, steps in seen if stage == "anchor"} == {1, 2, 3}  # 1: the stage began
    assert ("frames", 48) in seen


def test_control_equals_the_published_pipeline(tiny_text2video_zero: Any) -> None:
    """The given maps go through `depth`'s twin of `canny`: edges of edges would be nothing new."""
    maps = np.random.default_rng(3).integers(0, 2, (FRAMES, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    maps = (maps * 255).astype(np.uint8)
    first = noise(4, LATENT, LATENT)
    folder = tiny_text2video_zero.checkpoint
    controlnet = diffusers.ControlNetModel.from_pretrained(folder / "depth")
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **parts(folder / "base"),
        controlnet=controlnet,
        scheduler=ddim(folder / "base"),
        requires_safety_checker=False,
    )
    for network in (pipeline.unet, pipeline.controlnet):
        network.set_attn_processor(reference.CrossFrameAttnProcessor2_0(batch_size=2))
    theirs = pipeline(
        [PROMPT + CONTROLS["depth"].append] * FRAMES,
        image=list(torch.from_numpy(maps).permute(0, 3, 1, 2).float() / 255),
        num_inference_steps=20,
        guidance_scale=9.0,
        negative_prompt=["blue"] * FRAMES,
        latents=torch.from_numpy(first).repeat(FRAMES, 1, 1, 1),
        controlnet_conditioning_scale=0.7,
        output_type="np",
    ).images
    cascade = load(tiny_text2video_zero.folder, backend="ort")
    given = {"negative_prompt": "blue", "conditioning_scale": 0.7, "noise": {"x_T": first}}
    ours = [
        cascade(PROMPT, mode="depth", control_video=maps, resolution=SIDE, chunk_size=c, **given)
        for c in (8, 2)
    ]
    assert psnr(ours[0].frames, theirs) >= LEAST_PSNR
    # another chunk size only changes the shapes of matrix products, and so the order of sums
    assert np.abs(ours[0].frames.astype(int) - ours[1].frames).max() <= 1


def test_edit_equals_the_published_pipeline(
    pix2pix: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, folder = pix2pix
    video = np.random.default_rng(3).integers(0, 256, (FRAMES, 8, 8, 3), dtype=np.uint8)
    video = video.repeat(8, 1).repeat(8, 2)
    steps, shape = 10, (FRAMES, 4, LATENT, LATENT)
    given = {"x_T[0]": noise(*shape)} | {f"z.{k}[0]": noise(*shape, seed=k) for k in range(steps)}
    draws = iter([torch.from_numpy(given[f"z.{k}[0]"]) for k in range(steps)])
    monkeypatch.setattr(ancestral, "randn_tensor", lambda *_, **__: next(draws))
    scheduler = diffusers.EulerAncestralDiscreteScheduler.from_pretrained(
        checkpoint / "scheduler", timestep_spacing="linspace"
    )
    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(
        **parts(checkpoint), scheduler=scheduler, requires_safety_checker=False
    )
    pipeline.unet.set_attn_processor(reference.CrossFrameAttnProcessor2_0(batch_size=3))
    theirs = pipeline(
        [PROMPT] * FRAMES,
        image=torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255,
        num_inference_steps=steps,
        guidance_scale=7.5,
        image_guidance_scale=1.4,
        latents=torch.from_numpy(given["x_T[0]"]),
        output_type="np",
    ).images
    ours = load(folder, backend="ort")(
        PROMPT, video=video, resolution=SIDE, steps=steps, image_guidance=1.4, noise=given
    ).frames
    assert psnr(ours, theirs) >= LEAST_PSNR
    # in chunks of three, the second led by frame 0: the same, if the leader gets its own noise
    parts_of = {f"{key[:-3]}[{c}]": given[key][a:b] for key in given for c, a, b in CHUNKS}
    chunked = load(folder, backend="ort")(
        PROMPT,
        video=video,
        resolution=SIDE,
        steps=steps,
        image_guidance=1.4,
        chunk_size=3,
        noise=parts_of,
    ).frames
    assert np.abs(ours.astype(int) - chunked).max() <= 1


@pytest.mark.trt
@pytest.mark.usefixtures("engine_builder")
def test_editing_becomes_engines_for_videos_of_another_shape(
    pix2pix: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(pix2pix[1], tmp_path / "edit")
    options = trt.Options(compute_capabilities=("8.6",), sizes=("video=32x64", "frames=5"))
    graphs = trt.build(folder, options).build.record.graphs
    assert set(graphs) == {"text_encoder", "encode", "unet", "decode"}
    assert {p["x"][2] for p in graphs["unet"].profiles} == {(5, 4, 8, 16)}
    assert {p["frames"][2] for p in graphs["encode"].profiles} == {(5, 32, 64, 3)}


def test_image_equals_the_published_pipeline(tiny_text2video_zero: Any) -> None:
    first = noise(1, 4, LATENT, LATENT)
    folder = tiny_text2video_zero.checkpoint / "base"
    pipeline = diffusers.StableDiffusionPipeline(
        **parts(folder), scheduler=ddim(folder), requires_safety_checker=False
    )
    theirs = pipeline(
        PROMPT,
        height=SIDE,
        width=SIDE,
        num_inference_steps=12,
        latents=torch.from_numpy(first),
        output_type="np",
    ).images
    ours = load(tiny_text2video_zero.folder, backend="ort")(
        PROMPT, mode="image", steps=12, height=SIDE, width=SIDE, noise={"x_T": first}
    ).frames
    assert psnr(ours, theirs) >= LEAST_PSNR


# What the published numbers say (systems: Text2Video-Zero 1.2, 1.4)


def test_the_shift_table_is_the_published_one() -> None:
    shifts = torch.arange(9) * 12.0
    sources = sd_glue._sources(64, shifts)
    assert sources[:, 20].sub(20).tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12]
    assert sources[3, -6:].tolist() == [62, 63, 63, 62, 61, 60]  # mirrored, edge repeated
    back = sd_glue._sources(64, -shifts)
    assert back[2, :4].tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("side", [48, 64, 96])
@pytest.mark.parametrize("strength", [12.0, 7.31, -31.0])
def test_the_motion_field_equals_the_published_warp(side: int, strength: float) -> None:
    """grid_sample over a flow of 512 x 512, bit for bit: it only moves numbers.

    Where a source lies just between two pixels, the reference's rounding errors decide; the chosen
    strengths have no such case.
    """
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    theirs = reference.create_motion_field_and_warp_latents(
        strength, -strength, list(range(9)), x.repeat(9, 1, 1, 1)
    )
    strengths = torch.full((9,), strength)
    ours = sd_glue.MotionField()(x, strengths, -strengths)
    assert torch.equal(ours, theirs)


def test_noise_is_added_again_by_the_published_coefficient(tiny_text2video_zero: Any) -> None:
    table = tiny_text2video_zero.cascade.schedules()["entering"]
    assert table[941] / table[881] == pytest.approx(0.531064, abs=1e-6)
