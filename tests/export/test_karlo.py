"""Karlo's cascade against diffusers' UnCLIPPipeline with the same noise, frame by frame.

Alone: pytest tests/export/test_karlo.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnxruntime")

from karlo_folder import DIM, SCALE, SIDE, pipeline, save_temporal, see  # noqa: E402
from PIL import Image  # noqa: E402
from torch_backend import TorchBackend, not_exported  # noqa: E402

from edgereel import load  # noqa: E402
from edgereel.interpreter import Interpreter  # noqa: E402
from edgereel.params import fill_params  # noqa: E402
from edgereel_export.folder import write_folder  # noqa: E402
from edgereel_export.karlo_temporal import FRAMES as PUBLISHED  # noqa: E402
from edgereel_export.karlo_temporal import IDENTITY  # noqa: E402
from edgereel_export.systems import make_a_video  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # diffusers: deprecated parts
]

# Both run networks in float32 and schedules in float64; one value of 16 off by one: 60 dB.
LEAST_PSNR = 60.0
PROMPT = "a red dot"  # shorter than the 12 tokens there are
LARGE = SIDE * SCALE
STEPS = {"prior": 5, "decoder": 6, "super_res": 4}
FRAMES, LENGTH = 3, 11  # of temporal files here; interpolation makes 5 frames of one
ALL = ("decoder", "interpolation", "super_res_first", "super_res_last")
Play = Callable[..., Any]  # (mode, noise, params) -> u8 [F, H, W, 3]


class Saved(NamedTuple):
    """diffusers' pipeline, and the folder it was saved as."""

    pipe: Any
    folder: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    place = tmp_path_factory.mktemp("karlo")
    return Saved(pipeline(place), place / "karlo")


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """The checkpoint with layers over frames that change nothing, on ONNX Runtime."""
    folder = tmp_path_factory.mktemp("exported") / "cascade"
    source = make_a_video.load(saved.folder, Extras(temporal=IDENTITY))
    write_folder(source, folder, name="karlo", system="make-a-video")
    cascade = load(folder, backend="ort", threads=1)

    def play(mode: str, noise: dict[str, Any], params: dict[str, Any]) -> Any:
        return cascade(PROMPT, mode=mode, noise=noise, params=params).frames

    return play


def in_torch(
    saved: Saved, place: Path, networks: tuple[str, ...], shake: float, folder: Path | None = None
) -> Play:
    """The checkpoint with the layers over frames of a file, its modules run as they are."""
    folder = folder or saved.folder
    file = place / "temporal.safetensors"
    spatial = make_a_video.load(folder).parts.unets
    save_temporal(file, spatial, networks, frames=FRAMES, shake=shake)
    source = make_a_video.load(folder, Extras(temporal=str(file)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgereel_export.folder.export", not_exported)
        document = write_folder(source, place / "cascade", name="karlo", system="make-a-video")
    modules = Interpreter(document, TorchBackend(source.graphs()))

    def play(mode: str, noise: dict[str, Any], params: dict[str, Any]) -> Any:
        program = document.modes[mode]
        values = fill_params(program, {"prompt": PROMPT, **params})
        return modules.run(
            program, values, noise=noise, callback=lambda _: None, cancelled=Event()
        ).frames

    return play


@pytest.fixture(scope="module")
def unchanging(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """All networks over frames, with layers that change nothing."""
    return in_torch(saved, tmp_path_factory.mktemp("unchanging"), ALL, 0.0)


# Noise


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


class Noise(NamedTuple):
    """Draws of one frame: of each stage the first, and one for every step but the last."""

    first: dict[str, Any]
    steps: dict[str, list[Any]]


def drawn(frame: int, shared: int | None = None) -> Noise:
    """All frames share the prior's, and super-resolution's if `shared` names a frame."""
    shapes = {"prior": (1, DIM), "decoder": (1, 3, SIDE, SIDE), "super_res": (1, 3, LARGE, LARGE)}
    large = frame if shared is None else shared
    seeds = {"prior": 7, "decoder": 100 + frame, "super_res": 200 + large}
    return Noise(
        {stage: normal(seeds[stage], *shape) for stage, shape in shapes.items()},
        {
            stage: [normal(1000 * (k + 1) + seeds[stage], *shape) for k in range(STEPS[stage] - 1)]
            for stage, shape in shapes.items()
        },
    )


NAMES = {
    "prior": ("image_noise", "prior.z"),
    "decoder": ("clip_noise", "decoder.z"),
    "super_res": ("super_res_noise", "super_res.z"),
}


def named(of: dict[str, list[Noise]], *, video: bool) -> dict[str, Any]:
    """The draws of every stage by the names that a cascade gives them."""
    found = {}
    for stage, frames in of.items():
        first, step = NAMES[stage]
        found[first] = joined([one.first[stage] for one in frames], stage, video)
        for k in range(STEPS[stage] - 1):
            found[f"{step}.{k}"] = joined([one.steps[stage][k] for one in frames], stage, video)
    return found


def joined(arrays: list[Any], stage: str, video: bool) -> Any:
    """[1, C, F, H, W] of frames; of one that all share, [C, H, W]."""
    if stage == "prior" or not video:
        return arrays[0]
    return np.stack(arrays, 2) if len(arrays) > 1 else arrays[0][0]


# Both sides


def theirs(pipe: Any, given: Noise, prior: float, decoder: float, patch: Any) -> Any:
    """u8 [1, H, W, 3] by diffusers."""
    draws: Iterator[Any] = (torch.from_numpy(z) for stage in STEPS for z in given.steps[stage])
    patch.setattr(
        "diffusers.schedulers.scheduling_unclip.randn_tensor",
        lambda shape, **_: next(draws).reshape(shape),
    )
    images = pipe(
        PROMPT,
        prior_guidance_scale=prior,
        decoder_guidance_scale=decoder,
        output_type="np",
        **{f"{stage}_num_inference_steps": count for stage, count in STEPS.items()},
        **{f"{stage}_latents": torch.from_numpy(x) for stage, x in given.first.items()},
    ).images
    assert next(draws, None) is None
    return (images * 255).round().astype(np.uint8)


def ours(play: Play, mode: str, given: dict[str, Any], prior: float, decoder: float) -> Any:
    params: dict[str, Any] = {f"steps.{stage}": count for stage, count in STEPS.items()}
    params |= {"guidance.prior": prior, "guidance.decoder": decoder}
    if mode == "interpolated":
        params["steps.interpolation"] = STEPS["decoder"]
    return play(mode, given, params)


def psnr(ours: Any, theirs: Any) -> float:
    """Of u8 frames, which must show something."""
    assert ours.shape == theirs.shape and theirs.std() > 10
    error = np.mean((ours.astype(np.float64) - theirs) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("scales", [(4.0, 8.0), (1.0, 8.0), (3.0, 1.0), (1.0, 1.0)])
def test_a_picture_equals_karlos(
    saved: Saved, exported: Play, scales: tuple[float, float], monkeypatch: Any
) -> None:
    one = drawn(0)
    picture = ours(
        exported, "image", named({stage: [one] for stage in STEPS}, video=False), *scales
    )
    assert psnr(picture, theirs(saved.pipe, one, *scales, monkeypatch)) >= LEAST_PSNR


def test_layers_that_change_nothing_make_karlos_pictures(
    saved: Saved, exported: Play, monkeypatch: Any
) -> None:
    """Of one draw of the prior, enlarged with the same noise."""
    frames = [drawn(frame, shared=0) for frame in range(PUBLISHED)]
    given = {"prior": frames[:1], "decoder": frames, "super_res": frames[:1]}
    video = ours(exported, "video", named(given, video=True), 4.0, 8.0)
    assert len(video) == PUBLISHED
    for frame, own in zip(video, frames, strict=True):
        assert psnr(frame[None], theirs(saved.pipe, own, 4.0, 8.0, monkeypatch)) >= LEAST_PSNR
    assert np.abs(video[0].astype(int) - video[1]).max() > 10


def test_super_resolution_over_frames_begins_as_karlos(
    saved: Saved, unchanging: Play, monkeypatch: Any
) -> None:
    """Then each frame has noise of its own."""
    frames = [drawn(frame) for frame in range(FRAMES)]
    given = {"prior": frames[:1], "decoder": frames, "super_res": frames}
    video = ours(unchanging, "video", named(given, video=True), 4.0, 8.0)
    for frame, own in zip(video, frames, strict=True):
        assert psnr(frame[None], theirs(saved.pipe, own, 4.0, 8.0, monkeypatch)) >= LEAST_PSNR


def test_interpolation_begins_as_karlos_decoder(
    saved: Saved, unchanging: Play, monkeypatch: Any
) -> None:
    """Given frames stay; the others are the decoder's without guidance."""
    frames = [drawn(frame) for frame in range(LENGTH)]
    known = [drawn(50 + frame) for frame in range(FRAMES)]
    stages = {"prior": frames[:1], "decoder": known, "super_res": frames}
    given = named(stages, video=True)
    more = named({"decoder": frames}, video=True)
    given["video_noise"] = more.pop("clip_noise")
    given |= {key.replace("decoder", "interpolation"): z for key, z in more.items()}
    video = ours(unchanging, "interpolated", given, 4.0, 8.0)
    assert len(video) == LENGTH
    for index in (0, 1, 4, 5, 10):
        own, scale = frames[index], 1.0
        if index % 5 == 0:
            decoder, scale = known[index // 5], 8.0
            own = Noise(
                {**decoder.first, "super_res": own.first["super_res"]},
                {**decoder.steps, "super_res": own.steps["super_res"]},
            )
        picture = theirs(saved.pipe, own, 4.0, scale, monkeypatch)
        assert psnr(video[index][None], picture) >= LEAST_PSNR


def test_a_variation_equals_karlos(saved: Saved, tmp_path: Path, monkeypatch: Any) -> None:
    """Every frame is a variation of the picture with noise of its own."""
    karlo = Path(shutil.copytree(saved.folder, tmp_path / "karlo"))
    encoder, processor = see(karlo)
    shared = ("decoder", "text_encoder", "tokenizer", "text_proj")
    large = ("super_res_first", "super_res_last", "decoder_scheduler", "super_res_scheduler")
    pipe = diffusers.UnCLIPImageVariationPipeline(
        feature_extractor=processor,
        image_encoder=encoder,
        **{name: getattr(saved.pipe, name) for name in (*shared, *large)},
    )
    pipe.set_progress_bar_config(disable=True)
    play = in_torch(saved, tmp_path, ALL[:1], 0.0, karlo)
    picture = np.random.default_rng(4).integers(0, 256, (1, LARGE, LARGE, 3), np.uint8)
    frames = [drawn(frame, shared=0) for frame in range(FRAMES)]
    given = named({"decoder": frames, "super_res": frames[:1]}, video=True)
    steps = {f"steps.{stage}": STEPS[stage] for stage in ("decoder", "super_res")}
    video = play("variation", given, {**steps, "prompt": "", "video": picture, "num_frames": 1})
    assert len(video) == FRAMES
    for frame, own in zip(video, frames, strict=True):
        draws = iter([*own.steps["decoder"], *own.steps["super_res"]])
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_unclip.randn_tensor",
            lambda shape, draws=draws, **_: torch.from_numpy(next(draws)).reshape(shape),
        )
        images = pipe(
            image=Image.fromarray(picture[0]),
            output_type="np",
            **{f"{stage}_num_inference_steps": STEPS[stage] for stage in ("decoder", "super_res")},
            **{
                f"{stage}_latents": torch.from_numpy(own.first[stage])
                for stage in ("decoder", "super_res")
            },
        ).images
        assert psnr(frame[None], (images * 255).round().astype(np.uint8)) >= LEAST_PSNR


# What the params do


def test_chunks_do_not_change_the_video(exported: Play) -> None:
    few = {"steps": 2, "steps.prior": 2, "steps.super_res": 2}
    frames = [exported("video", {}, {**few, "chunk_size": size}) for size in (1, 5, 16)]
    for other in frames[1:]:
        assert np.abs(other.astype(int) - frames[0]).max() <= 1
    assert frames[0].std() > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("negative_prompt", "blue"),
        ("steps.super_res", 3),
        ("sampler", "ddim"),
        ("sampler", "euler"),
        ("sampler", "euler_ancestral"),
        ("sampler", "dpmpp_2m"),
    ],
)
def test_each_param_changes_the_picture(unchanging: Play, name: str, value: Any) -> None:
    params = {"steps.prior": 4, "steps.decoder": 4}
    plain = unchanging("image", {}, params).astype(int)
    assert np.abs(unchanging("image", {}, {**params, name: value}) - plain).max() > 3


@pytest.fixture(scope="module")
def trained(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """All networks over frames, with layers that do something."""
    return in_torch(saved, tmp_path_factory.mktemp("trained"), ALL, 0.03)


@pytest.mark.parametrize(
    ("mode", "noise"),
    [("video", "clip"), ("interpolated", "video"), ("interpolated", "super_res")],
)
def test_trained_layers_join_the_frames(trained: Play, mode: str, noise: str) -> None:
    """Other noise in the last frame reaches the frame before it."""
    frames = FRAMES if mode == "video" else LENGTH
    side = LARGE if noise == "super_res" else SIDE
    params = {"steps.prior": 2, "steps.decoder": 2, "steps.super_res": 2}
    made = []
    for seed in (1, 2):
        first = normal(0, 1, 3, frames, side, side)
        first[:, :, -1] = normal(seed, 1, 3, side, side)
        made.append(trained(mode, {f"{noise}_noise": first}, params).astype(int))
    assert len(made[0]) == frames
    assert np.abs(made[0][-2] - made[1][-2]).max() > 3


def test_frame_rate_reaches_trained_layers(trained: Play) -> None:
    params = {"steps.prior": 2, "steps.decoder": 4, "steps.super_res": 2}
    slow, fast = (trained("video", {}, {**params, "fps": fps}).astype(int) for fps in (2.0, 24.0))
    assert np.abs(slow - fast).max() > 3
