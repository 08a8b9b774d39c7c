"""Emu Video's modes against loops of diffusers' schedulers over the same networks, same noise.

Alone: pytest tests/export/test_emu_video.py
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

from edgereel import load, plan  # noqa: E402
from edgereel.errors import InputError  # noqa: E402
from edgereel.tokenizer import Tokenizer  # noqa: E402
from edgereel_export.modules.sd_vae import SDDecoder, SDEncoder  # noqa: E402
from edgereel_export.systems import emu_video  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # diffusers: deprecated numpy
]

# Both run in float32; what is left are the order of sums and the cut to 255 levels, of which one
# level everywhere would be 48 dB.
LEAST_PSNR = 45.0
SIDE, LATENT, FRAMES, STEPS, CHANNELS = 16, 8, 3, 4, 8
PROMPT = "a red circle"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
Predict = Callable[[Any, Any], Any]


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def psnr(ours: Any, theirs: Any) -> float:
    """Of u8 frames, which must show something."""
    assert ours.shape == theirs.shape and theirs.std() > 10
    error = np.mean((ours.astype(np.float64) - theirs) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def states(tiny: Any, *texts: str) -> list[tuple[Any, Any]]:
    """For each text the states f32 [1, L, D] of both encoders, as the cascade makes them."""
    found = []
    for end, encoder in tiny.cascade.parts.encoders.items():
        spec = plan.load(tiny.folder).tokenizers[f"text_encoder{end}"]
        ids, _, _ = Tokenizer(tiny.folder / spec.file, spec).encode(list(texts))
        with torch.no_grad():
            out = encoder.model(input_ids=torch.from_numpy(ids)).last_hidden_state
        found.append([out[row : row + 1] for row in range(len(texts))])
    return list(zip(*found, strict=True))


def image_scheduler(kind: str) -> Any:
    if kind == "dpmpp_2m":
        return diffusers.DPMSolverMultistepScheduler(
            timestep_spacing="trailing", final_sigmas_type="zero", lower_order_final=True, **BETAS
        )  # fmt: skip
    return diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS
    )


def video_scheduler() -> Any:
    return diffusers.DDIMScheduler(
        clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing",
        prediction_type="v_prediction", **BETAS,
    )  # fmt: skip


def sampled(scheduler: Any, predict: Predict, first: Any) -> Any:
    """Latents after all steps of a scheduler of diffusers."""
    scheduler.set_timesteps(STEPS)
    x = torch.from_numpy(first)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x, return_dict=False)[0]
    return x


def drawn(tiny: Any, texts: tuple[str, str], scale: float) -> Predict:
    """The image network's prediction with guidance."""
    rows = states(tiny, *texts)
    unet = tiny.cascade.parts.unets["image"]

    def predict(x: Any, t: Any) -> Any:
        with torch.no_grad():
            out = [unet(x[None], torch.tensor([float(t)]), row)[0] for row in rows]
        return out[0] + scale * (out[1] - out[0])

    return predict


def animated(
    tiny: Any, name: str, texts: tuple[str, str], given: Any, w: tuple[float, float]
) -> Predict:
    """Section 3.1: X0 + w_i (XI - X0) + w_p (XIP - XI), three evaluations."""
    none, text = states(tiny, *texts)
    unet = tiny.cascade.parts.unets[name]

    def predict(x: Any, t: Any) -> Any:
        seen, each, known = x[None], torch.tensor([float(t)]), given[None]
        with torch.no_grad():
            neither = unet(seen, each, none, torch.zeros_like(known))[0]
            image = unet(seen, each, none, known)[0]
            both = unet(seen, each, text, known)[0]
        return neither + w[0] * (image - neither) + w[1] * (both - image)

    return predict


def first_given(latents: Any, frames: int) -> Any:
    given = torch.zeros(frames, CHANNELS + 1, LATENT, LATENT)
    given[0, :CHANNELS], given[0, CHANNELS] = latents[0], 1
    return given


def encoded(tiny: Any, pictures: Any) -> Any:
    vae = tiny.cascade.parts.vae
    unit = torch.from_numpy(pictures).float().permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return SDEncoder(vae)(unit) * vae.config.scaling_factor


def decoded(tiny: Any, latents: Any) -> Any:
    vae = tiny.cascade.parts.vae
    with torch.no_grad():
        frames = SDDecoder(vae)(latents / vae.config.scaling_factor)
    levels = ((frames / 2 + 0.5).clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).numpy()


def made(tiny: Any, mode: str, given_noise: dict[str, Any], **params: Any) -> Any:
    """Frames of a call with settings that are not the defaults."""
    values = {"height": SIDE, "width": SIDE, "negative_prompt": "blue", **params}
    known = plan.load(tiny.folder).modes[mode].params
    assert set(values) <= set(known)
    cascade = load(tiny.folder, backend="ort")
    return cascade(PROMPT, mode=mode, noise=given_noise, params=values).frames


TEXTS = ("blue", PROMPT)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_text_to_image(tiny_emu_video: Any, sampler: str) -> None:
    first = noise(1, CHANNELS, LATENT, LATENT)
    predict = drawn(tiny_emu_video, TEXTS, 3.0)
    theirs = decoded(tiny_emu_video, sampled(image_scheduler(sampler), predict, first))
    ours = made(
        tiny_emu_video, "image", {"picture.x_T": first}, steps=STEPS, sampler=sampler, guidance=3.0
    )
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_text_to_image_to_video(tiny_emu_video: Any) -> None:
    """The whole factorised path: F without and then with its layers over frames."""
    picture = noise(1, CHANNELS, LATENT, LATENT)
    first = noise(FRAMES, CHANNELS, LATENT, LATENT, seed=1)
    start = sampled(image_scheduler("ddim"), drawn(tiny_emu_video, TEXTS, 3.0), picture)
    predict = animated(tiny_emu_video, "video", TEXTS, first_given(start, FRAMES), (2.0, 5.0))
    theirs = decoded(tiny_emu_video, sampled(video_scheduler(), predict, first))
    ours = made(
        tiny_emu_video,
        "video",
        {"picture.x_T": picture, "x_T": first},
        frames=FRAMES,
        guidance=5.0,
        image_guidance=2.0,
        steps=STEPS,
        **{"steps.picture": STEPS, "guidance.picture": 3.0},
    )
    assert psnr(ours, theirs) >= LEAST_PSNR


def pictures(count: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("weights", [(2.0, 7.5), (1.0, 1.0), (0.0, 0.0)])
def test_a_picture_is_animated(tiny_emu_video: Any, weights: tuple[float, float]) -> None:
    """Both weights 1 are the network's own prediction, both 0 that without picture and text."""
    image, first = pictures(1), noise(FRAMES, CHANNELS, LATENT, LATENT)
    given = first_given(encoded(tiny_emu_video, image), FRAMES)
    unet = tiny_emu_video.cascade.parts.unets["video"]
    none, text = states(tiny_emu_video, *TEXTS)
    alone = {(1.0, 1.0): (text, given), (0.0, 0.0): (none, torch.zeros_like(given))}.get(weights)
    if alone is None:
        predict = animated(tiny_emu_video, "video", TEXTS, given, weights)
    else:
        row, seen = alone

        def predict(x: Any, t: Any) -> Any:
            with torch.no_grad():
                return unet(x[None], torch.tensor([float(t)]), row, seen[None])[0]

    theirs = decoded(tiny_emu_video, sampled(video_scheduler(), predict, first))
    ours = made(
        tiny_emu_video,
        "animate",
        {"x_T": first},
        image=image,
        frames=FRAMES,
        steps=STEPS,
        image_guidance=weights[0],
        guidance=weights[1],
    )
    assert psnr(ours, theirs) >= LEAST_PSNR


@pytest.mark.parametrize("seamless", [False, True])
def test_sixteen_frames_are_interpolated_in_two_groups(tiny_emu_video: Any, seamless: bool) -> None:
    """Noise of timestep 100 on the rescaled schedule; 37 frames twice, joined to 65 or 69."""
    video = pictures(16)
    known = encoded(tiny_emu_video, video)
    z, first = noise(*known.shape, seed=4), noise(74, CHANNELS, LATENT, LATENT, seed=5)
    noisy = 0.941680 * known + 0.336510 * torch.from_numpy(z)  # common notes, section 14
    runs = []
    for group in range(2):
        given = torch.zeros(37, CHANNELS + 1, LATENT, LATENT)
        given[4:33:4, :CHANNELS] = noisy[8 * group :][:8]
        given[4:33:4, CHANNELS] = 1
        predict = animated(tiny_emu_video, "interpolation", TEXTS, given, (2.0, 7.5))
        runs.append(sampled(video_scheduler(), predict, first[37 * group :][:37]))
    kept = 36 if seamless else 32
    theirs = decoded(tiny_emu_video, torch.cat([runs[0][:kept], runs[1][4:]]))
    ours = made(
        tiny_emu_video,
        "interpolate-seamless" if seamless else "interpolate",
        {"noisy.z": z, "more.x_T": first},
        video=video,
        frames=16,
        **{"steps.interpolation": STEPS},
    )
    assert len(ours) == (69 if seamless else 65)
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_a_video_goes_on(tiny_emu_video: Any) -> None:
    """From the last 16 frames, aligned by channels; what was given stays in front."""
    video, first = pictures(18), noise(16, CHANNELS, LATENT, LATENT)
    past = encoded(tiny_emu_video, video[2:])
    given = torch.cat([past, torch.ones(16, 1, LATENT, LATENT)], 1)
    predict = animated(tiny_emu_video, "extension", TEXTS, given, (2.0, 7.5))
    theirs = decoded(tiny_emu_video, sampled(video_scheduler(), predict, first))
    ours = made(tiny_emu_video, "extend", {"x_T": first}, video=video, frames=18, steps=STEPS)
    assert np.array_equal(ours[:18], video)
    assert psnr(ours[18:], theirs) >= LEAST_PSNR


def test_more_frames_of_a_text(tiny_emu_video: Any) -> None:
    ours = made(
        tiny_emu_video,
        "interpolated",
        {},
        frames=8,
        steps=2,
        **{"steps.picture": 2, "steps.interpolation": 2},
    )
    assert ours.shape == (37, SIDE, SIDE, 3)


def test_spatial_weights_are_stored_once(tiny_emu_video: Any) -> None:
    graphs = plan.load(tiny_emu_video.folder).graphs
    size = {
        rel: (tiny_emu_video.folder / rel).stat().st_size
        for g in graphs.values()
        for rel in g.weights
    }
    image = set(graphs["image"].weights)
    shared = image & set(graphs["video"].weights) & set(graphs["interpolation"].weights)
    assert sum(size[rel] for rel in image - shared) < 0.05 * sum(size[rel] for rel in image)


# What users get wrong


def test_a_mode_needs_its_folder(tiny_emu_video: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_emu_video.checkpoint, checkpoint)
    shutil.rmtree(checkpoint / "extension")
    shutil.rmtree(checkpoint / "interpolation")
    assert set(emu_video.load(checkpoint).modes()) == {"video", "image", "animate"}
    with pytest.raises(InputError, match="has no extension, which the mode extend needs"):
        emu_video.load(checkpoint, Extras(modes=("extend",)))
    found = emu_video.load(checkpoint, Extras(modes=("image",)))
    assert set(found.modes()) == {"image"} and set(found.schedules()) == {"image"}


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: _change(
                c / "video_scheduler" / "scheduler_config.json", prediction_type="epsilon"
            ),
            "rescale_betas_zero_snr leaves epsilon undefined",
        ),
        (lambda c: shutil.rmtree(c / "video_scheduler"), "scheduler_config.json cannot be read"),
        (lambda c: (c / "tokenizer_2" / "tokenizer.json").unlink(), "expected T5's tokenizer"),
        (lambda c: shutil.rmtree(c / "text_encoder_2"), "cannot be read"),
        (
            lambda c: _change(c / "text_encoder_2" / "config.json", d_model=0),
            "does not describe a T5 encoder",
        ),
        (
            lambda c: _change(c / "unet" / "config.json", cross_attention_dim=[16, 25]),
            "expected \\[16, 25\\]|do not fit",
        ),
        (lambda c: _change(c / "vae" / "config.json", latent_channels=4), "latent_channels 8"),
        (
            lambda c: shutil.copy(
                c / "unet" / "diffusion_pytorch_model.safetensors",
                c / "video" / "diffusion_pytorch_model.safetensors",
            ),
            "which the UNet has already",
        ),
    ],
)
def test_damaged_checkpoints_are_one_sentence(
    tiny_emu_video: Any, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_emu_video.checkpoint, checkpoint)
    change(checkpoint)
    with pytest.raises(InputError, match=words):
        emu_video.load(checkpoint)


def test_too_short_a_video_is_said(tiny_emu_video: Any) -> None:
    with pytest.raises(InputError, match="video has 15 frames; expected at least 16"):
        made(tiny_emu_video, "extend", {}, video=pictures(15), steps=2)


def test_a_video_in_place_of_a_picture_is_said(tiny_emu_video: Any) -> None:
    with pytest.raises(InputError, match="image has 2 frames; expected one picture"):
        made(tiny_emu_video, "animate", {}, image=pictures(2), steps=2)


def test_nine_frames_make_no_groups_of_eight(tiny_emu_video: Any) -> None:
    with pytest.raises(InputError, match="frames is 9; expected a multiple of 8"):
        made(tiny_emu_video, "interpolate", {}, video=pictures(9), frames=9)


def test_an_animation_is_continued(tiny_emu_video: Any) -> None:
    """The first frame of a network's clip is its own, so the second clip leaves it out."""
    cascade = load(tiny_emu_video.folder, backend="ort")
    values = {"height": SIDE, "width": SIDE, "frames": FRAMES, "steps": 2}
    image = np.repeat(pictures(1), 2, axis=2)  # twice as wide: cut around the middle
    clips = [
        clip.frames
        for clip in cascade.continued(PROMPT, times=1, mode="animate", image=image, params=values)
    ]
    assert [clip.shape for clip in clips] == [(n, SIDE, SIDE, 3) for n in (FRAMES, FRAMES - 1)]
    alone = cascade(PROMPT, mode="animate", image=image[:, :, 8:24], params=values).frames
    assert np.array_equal(clips[0], alone)
