"""LaVie's modes against loops of diffusers' schedulers over the same networks, with the same noise.

Alone: pytest tests/export/test_lavie.py
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.schedulers import scheduling_ddpm  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from edgereel import load, plan  # noqa: E402
from edgereel.errors import InputError  # noqa: E402
from edgereel.tokenizer import Tokenizer  # noqa: E402
from edgereel_export.exact_group_norm import exact_group_norm  # noqa: E402
from edgereel_export.graph import TOLERANCE  # noqa: E402
from edgereel_export.systems import lavie  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # diffusers: deprecated numpy
]

# Both run in float32; what is left are the order of sums and the cut to 255 levels, of which one
# level everywhere would be 48 dB.
LEAST_PSNR = 45.0
SIDE, LATENT, FRAMES, STEPS = 64, 16, 3, 4
PROMPT = "a red circle"
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
Network = Callable[[Any, Any, Any], Any]
Array = np.ndarray[Any, Any]


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def psnr(ours: Any, theirs: Any) -> float:
    """Of u8 frames, which must show something."""
    assert ours.shape == theirs.shape and theirs.std() > 10
    error = np.mean((ours.astype(np.float64) - theirs) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def states(tiny: Any, encoder: str, *texts: str) -> Any:
    """Text states f32 [2, L, D] as the cascade makes them."""
    spec = plan.load(tiny.folder).tokenizers[encoder]
    ids, _, _ = Tokenizer(tiny.folder / spec.file, spec).encode(list(texts))
    part = tiny.cascade.upscaler if encoder.startswith("up") else tiny.cascade.around
    with torch.no_grad():
        return part.text_encoder(input_ids=torch.from_numpy(ids)).last_hidden_state


def guided(network: Network, text: Any, scale: float) -> Callable[[Any, Any], Any]:
    """The network's prediction for frames x [F, ...], its two guidance rows one after the other."""

    def predict(x: Any, t: Any) -> Any:
        now = torch.full((1,), float(t))
        with torch.no_grad():
            rows = [network(x[None], now, text[row : row + 1])[0] for row in range(2)]
        return rows[0] + scale * (rows[1] - rows[0])

    return predict


def sampled(scheduler: Any, predict: Any, x: Any) -> Any:
    """Latents after all steps of a scheduler of diffusers."""
    scheduler.set_timesteps(STEPS)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        x = scheduler.step(predict(seen, t), t, x, return_dict=False)[0]
    return x


def pictures(vae: Any, latents: Any, offset: float) -> Any:
    """u8 [F, H, W, 3] by the autoencoder in PyTorch."""
    from edgereel_export.modules.sd_vae import SDDecoder

    with torch.no_grad():
        frames = SDDecoder(vae)(latents / vae.config.scaling_factor)
    levels = ((frames / 2 + 0.5).clamp(0, 1) * 255 + offset).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler"])
def test_the_base_follows_its_samplers(
    tiny_lavie: Any, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published: ddpm at 750, 500, 250, 0 for four steps, ddim one higher, euler 999 to 0."""
    first = noise(FRAMES, 4, LATENT, LATENT)
    fresh = [noise(*first.shape, seed=k + 1) for k in range(STEPS)]
    scheduler = {
        "ddpm": diffusers.DDPMScheduler(clip_sample=False, **BETAS),
        "ddim": diffusers.DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS
        ),
        "euler": diffusers.EulerDiscreteScheduler(timestep_spacing="linspace", **BETAS),
    }[sampler]
    draws: Iterator[Any] = iter(fresh)
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda *_, **__: torch.from_numpy(next(draws))
    )
    text = states(tiny_lavie, "text_encoder", "blue", PROMPT)
    predict = guided(tiny_lavie.cascade.unets["base"], text, 3.0)
    latents = sampled(scheduler, predict, torch.from_numpy(first))
    theirs = pictures(tiny_lavie.cascade.around.vae, latents, 0.5)
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT,
        negative_prompt="blue",
        sampler=sampler,
        steps=STEPS,
        guidance=3.0,
        frames=FRAMES,
        height=SIDE,
        width=SIDE,
        decode_chunk=2,
        noise={"x_T": first, **{f"z.{k}": array for k, array in enumerate(fresh)}},
    ).frames
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_a_picture_passes_by_the_attention_over_frames(tiny_lavie: Any) -> None:
    first = noise(1, 4, LATENT, LATENT)
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS
    )
    text = states(tiny_lavie, "text_encoder", "", PROMPT)
    vae, found = tiny_lavie.cascade.around.vae, {}
    for name, unet in (
        ("image", tiny_lavie.cascade.image),
        ("video", tiny_lavie.cascade.unets["base"]),
    ):
        latents = sampled(scheduler, guided(unet, text, 7.5), torch.from_numpy(first))
        found[name] = pictures(vae, latents, 0.5)
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="image", sampler="ddim", steps=STEPS, height=SIDE, width=SIDE,
        noise={"x_T": first},
    ).frames  # fmt: skip
    assert psnr(ours, found["image"]) >= LEAST_PSNR
    assert psnr(ours, found["video"]) < 40


def test_the_picture_network_has_no_weights_of_its_own(tiny_lavie: Any) -> None:
    graphs = plan.load(tiny_lavie.folder).graphs
    video, image = graphs["unet"].weights, graphs["unet_image"].weights
    assert set(video) & set(image)
    own = set(image) - set(video)
    size = {rel: (tiny_lavie.folder / rel).stat().st_size for rel in {*video, *image}}
    assert sum(size[rel] for rel in own) < 0.05 * sum(size[rel] for rel in video)


def test_interpolation_follows_the_published_list_and_copies(tiny_lavie: Any) -> None:
    """Timesteps round(k 999 / (n - 1)), alphas in float64; frame j copies given frame (j+1)//4."""
    given = np.random.default_rng(7).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
    count = 4 * FRAMES - 3
    posterior, first = noise(FRAMES, 4, LATENT, LATENT), noise(count, 4, LATENT, LATENT, seed=1)
    cascade = tiny_lavie.cascade
    unit = torch.from_numpy(given).float().permute(0, 3, 1, 2) / 127.5 - 1
    vae = cascade.around.vae
    with torch.no_grad():
        mean, logvar = vae.quant_conv(vae.encoder(unit)).chunk(2, 1)
    encoded = (mean + (logvar / 2).exp() * torch.from_numpy(posterior)) * vae.config.scaling_factor
    copied = torch.stack([encoded[j // 4] for j in range(1, count + 1)])
    text = states(tiny_lavie, "text_encoder", "None", PROMPT + ", 4k.")
    unet = cascade.unets["interpolation"]
    predict = guided(lambda x, t, s: unet(x, t, s, copied), text, 4.0)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    x = torch.from_numpy(first)
    kept = [0, 333, 666, 999]
    for at in reversed(range(STEPS)):
        now, after = alphas[kept[at]], alphas[kept[at - 1]] if at else 1.0
        e = predict(x, kept[at])
        x0 = (x - (1 - now) ** 0.5 * e) / now**0.5
        x = after**0.5 * x0 + (1 - after) ** 0.5 * e
    theirs = pictures(vae, x, 0.5)
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="interpolate", video=given, frames=FRAMES, resolution=SIDE, decode_chunk=2,
        noise={"posterior.z": posterior, "more.x_T": first},
        **{"steps.interpolation": STEPS},
    ).frames  # fmt: skip
    assert psnr(ours, theirs) >= LEAST_PSNR


LEVEL = 50


def upscaled(tiny_lavie: Any, low: Array, first: Array) -> Any:
    """Super-resolution of noisy pictures f32 [K, 3, H, W] as diffusers' DDIM does it: latents."""
    text = states(tiny_lavie, "upscaling_text_encoder", "blur, worst quality", PROMPT)
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        prediction_type="v_prediction", **BETAS,
    )  # fmt: skip
    seen = torch.from_numpy(np.ascontiguousarray(low))

    def network(x: Any, t: Any, s: Any) -> Any:
        return tiny_lavie.cascade.unets["vsr"](x, t, s, seen, torch.tensor([LEVEL]))

    x = torch.from_numpy(np.ascontiguousarray(first))
    return sampled(scheduler, guided(network, text, 5.0), x)


@pytest.fixture(scope="module")
def small_video() -> tuple[Array, dict[str, Array], Array]:
    """Pictures, noise for them, and the noisy pictures f32 by the upscaler's own schedule."""
    small = np.random.default_rng(8).integers(0, 256, (FRAMES, 16, 24, 3), np.uint8)
    pictures = torch.from_numpy(small).float().permute(0, 3, 1, 2) / 127.5 - 1
    given = {"low.z": noise(*pictures.shape), "large.x_T": noise(FRAMES, 4, 16, 24, seed=5)}
    noisier = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02)
    level = torch.tensor([LEVEL])
    noisy = noisier.add_noise(pictures, torch.from_numpy(given["low.z"]), level)
    return small, given, noisy.numpy()


def test_upscaling_follows_the_published_chunks(tiny_lavie: Any, small_video: Any) -> None:
    """v-prediction; each chunk of frames on its own."""
    small, given, noisy = small_video
    chunks = [
        upscaled(tiny_lavie, noisy[a : a + 2], given["large.x_T"][a : a + 2])
        for a in range(0, FRAMES, 2)
    ]
    theirs = pictures(tiny_lavie.cascade.upscaler.vae, torch.cat(chunks), 0.0)
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="upscale", video=small, frames=FRAMES, resolution=24, upscaling_chunk=2,
        noise=given,
        **{"steps.upscaling": STEPS},
    ).frames  # fmt: skip
    assert ours.shape == (FRAMES, 64, 96, 3)
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_chunks_of_upscaling_can_fade_into_each_other(tiny_lavie: Any, small_video: Any) -> None:
    """Two frames that share one: frame k is half of the chunk that ends and half of the next."""
    small, given, noisy = small_video
    parts = [
        upscaled(tiny_lavie, noisy[a : a + 2], given["large.x_T"][a : a + 2])
        for a in range(FRAMES - 1)
    ]
    between = [(one[1:] + two[:1]) / 2 for one, two in itertools.pairwise(parts)]
    latents = torch.cat([parts[0][:1], *between, parts[-1][1:]])
    theirs = pictures(tiny_lavie.cascade.upscaler.vae, latents, 0.0)
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="upscale", video=small, frames=FRAMES, resolution=24, upscaling_chunk=2,
        upscaling_overlap=1, noise=given,
        **{"steps.upscaling": STEPS},
    ).frames  # fmt: skip
    assert psnr(ours, theirs) >= LEAST_PSNR


def test_upscaling_in_tiles_needs_no_large_tensor(tiny_lavie: Any, tmp_path: Path) -> None:
    """Tiles of 24 that share 16 of pictures of 40 x 32: the same video, but for the seams' sides.

    A tile of this random network sees less of the picture, in group norms above all, so only
    that it is the same picture can be asked for, not the same numbers.
    """
    cascade = load(tiny_lavie.folder, backend="ort")
    video = np.random.default_rng(8).integers(0, 256, (2, 40, 32, 3), np.uint8)
    told = {"mode": "upscale", "video": video, "frames": 2, "resolution": 40, "noise_level": 0}
    whole = cascade(PROMPT, **told, **{"steps.upscaling": 1}).frames
    engines = cascade._interpreter.engines
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name in ("upscaling", "upscaling_decode"):
        engines[name] = Noted(engines[name], shapes.setdefault(name, set()))
    tiles = {"upscaling_tile": 24, "upscaling_decode_tile": 24, "steps.upscaling": 1}
    tiled = cascade(PROMPT, **told, **tiles).frames
    assert shapes == {name: {(2, 4, 24, 24)} for name in shapes}
    assert tiled.shape == whole.shape == (2, 160, 128, 3)
    assert psnr(tiled, whole) >= 20


class Noted:
    """An engine that notes the shapes of x."""

    def __init__(self, engine: Any, shapes: set[tuple[int, ...]]) -> None:
        self.engine, self.shapes, self.sha256 = engine, shapes, engine.sha256

    def run(self, inputs: Any, outputs: Any) -> None:
        self.shapes.add(inputs["x"].shape)
        self.engine.run(inputs, outputs)


@pytest.mark.parametrize("mode", ["animate", "transition"])
def test_given_pictures_are_animated_as_seine_does(tiny_lavie: Any, mode: str) -> None:
    """Ancestral steps over kept timesteps, with the large variance of the kept schedule."""
    rng = np.random.default_rng(9)
    names = ["image"] if mode == "animate" else ["image", "last_image"]
    given = {name: rng.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8) for name in names}
    posterior, first = noise(FRAMES, 4, LATENT, LATENT), noise(FRAMES, 4, LATENT, LATENT, seed=1)
    fresh = [noise(*first.shape, seed=k + 2) for k in range(STEPS)]
    cascade, vae = tiny_lavie.cascade, tiny_lavie.cascade.around.vae
    clip, mask = torch.zeros(FRAMES, 3, SIDE, SIDE), torch.ones(FRAMES, 1, LATENT, LATENT)
    for place, frame in zip((0, -1), given.values(), strict=False):
        clip[place] = torch.from_numpy(frame[0]).permute(2, 0, 1) / 127.5 - 1
        mask[place] = 0
    with torch.no_grad():
        mean, logvar = vae.quant_conv(vae.encoder(clip)).chunk(2, 1)
    seen = (mean + (logvar / 2).exp() * torch.from_numpy(posterior)) * vae.config.scaling_factor
    told = PROMPT + (", slow motion." if mode == "animate" else "smooth transition.")
    text = states(tiny_lavie, "text_encoder", "", told)
    beside = torch.cat([mask, seen], 1)
    predict = guided(lambda x, t, s: cascade.unets["seine"](x, t, s, beside), text, 8.0)
    kept = [0, 333, 666, 999]
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))[kept]
    x = torch.from_numpy(first)
    for at in reversed(range(STEPS)):
        now, before = table[at], table[at - 1] if at else 1.0
        beta = 1 - now / before
        x0 = (x - (1 - now) ** 0.5 * predict(x, kept[at])) / now**0.5
        mean = (before**0.5 * beta * x0 + (now / before) ** 0.5 * (1 - before) * x) / (1 - now)
        x = mean + (beta**0.5 * torch.from_numpy(fresh[STEPS - 1 - at]) if at else 0)
    drawn = {"given.z": posterior, "x_T": first, **{f"z.{k}": z for k, z in enumerate(fresh)}}
    ours = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode=mode, frames=FRAMES, resolution=SIDE, steps=STEPS, noise=drawn, **given
    ).frames
    assert psnr(ours, pictures(vae, x.float(), 0.5)) >= LEAST_PSNR


def test_a_picture_file_is_animated(tiny_lavie: Any, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    frames = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="animate", image=tmp_path / "first.png", steps=2, frames=2, resolution=64
    ).frames
    assert frames.shape == (2, 48, 64, 3)


def test_only_the_large_decoder_must_be_float32(tiny_lavie: Any) -> None:
    """As in the published pipeline, which casts this autoencoder alone to float32."""
    graphs = plan.load(tiny_lavie.folder).graphs
    marked = {name: spec.precision for name, spec in graphs.items() if spec.precision is not None}
    assert marked == {"upscaling_decode": "fp32"}


def test_all_stages_make_the_published_sizes(tiny_lavie: Any) -> None:
    """F frames become 4F - 3, sides four times as long."""
    steps = {"steps.interpolation": 1, "steps.upscaling": 1}
    frames = load(tiny_lavie.folder, backend="ort")(
        PROMPT, mode="interpolated-upscaled", steps=1, frames=2, height=32, width=64, **steps
    ).frames
    assert frames.shape == (5, 128, 256, 3)


def test_only_what_the_modes_need_is_loaded(tiny_lavie: Any, tmp_path: Path) -> None:
    """A LoRA reaches the spatial layers of the base network; other networks may be missing."""
    folder = shutil.copytree(tiny_lavie.checkpoint, tmp_path / "checkpoint")
    (folder / "lavie_vsr.pt").unlink()
    shutil.rmtree(folder / "stable-diffusion-x4-upscaler")
    before = tiny_lavie.cascade.unets["base"].state_dict()
    key = next(key for key in before if key.endswith("attn1.to_q.weight"))
    down, up = torch.ones(1, before[key].shape[1]), torch.ones(before[key].shape[0], 1)
    name = "unet." + key.removesuffix(".weight")
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "l.safetensors"
    )
    extras = Extras(loras=((tmp_path / "l.safetensors", 0.5),), modes=("video",))
    found = lavie.load(folder, extras)
    assert list(found.unets) == ["base"] and found.upscaler is None
    after = found.unets["base"].state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {key}
    assert torch.allclose(after[key], before[key] + 0.5)
    assert set(found.modes()) == {"video", "image"}
    assert set(lavie.load(folder).unets) == {"base", "interpolation", "seine"}
    with pytest.raises(InputError, match=r"lacks lavie_vsr\.pt; expected it for the modes"):
        lavie.load(folder, Extras(modes=("upscaled",)))
    with pytest.raises(InputError, match=r"--controlnet has no meaning with lavie"):
        lavie.load(folder, Extras(controlnets={"canny": folder}))


@pytest.mark.parametrize("name", ["unet", "interpolation", "upscaling"])
@torch.no_grad()
def test_one_graph_serves_all_rows_frames_and_sizes(tiny_lavie: Any, name: str) -> None:
    """All free axes at once, at sizes that the graph was not traced at."""
    graph, seen = tiny_lavie.cascade.graphs()[name], 0
    path = tiny_lavie.folder / plan.load(tiny_lavie.folder).graphs[name].file
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    odd = [(2, 2, 5, 7), (1, 3, 9, 6)] if name == "upscaling" else []
    for rows, frames, height, width in [(2, 4, 8, 8), (1, 1, 4, 6), (3, 2, 6, 4), *odd]:
        sizes = {"G": rows, "F": frames, "K": frames, "h": height, "w": width}
        sizes |= {"H": height, "W": width}
        given = {}
        for key, example in graph.inputs.items():
            free = graph.free.get(key, {})
            shape = [sizes[free[n]] if n in free else own for n, own in enumerate(example.shape)]
            given[key] = torch.randn(shape) if free else example
        with exact_group_norm():
            wanted = graph.module(*given.values())
        got = session.run(list(graph.outputs), {k: v.numpy() for k, v in given.items()})
        for ours, theirs in zip(got, wanted, strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs.numpy()).max() < TOLERANCE * max(1, float(theirs.std()))
            seen += 1
    assert seen >= 6
