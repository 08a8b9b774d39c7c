"""Make-A-Video's folder against a pipeline of diffusers and transformers parts, and its features.

The reference knows neither plan.json nor the exporter's glue: it reads the checkpoint as diffusers
would and follows the paper. Alone: pytest tests/export/test_make_a_video.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import edgereel  # noqa: E402
from edgereel_export.modules.unet import UNet, UNetConfig  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

FRAMES, SKIP, LENGTH, SIZE = 4, 2, 7, 8  # of the tiny profile
STEPS = {"prior": 4, "decoder": 5, "interpolation": 4, "super_res_low": 2, "super_res_high": 2}
# Each divides 1000 (or is the prior's), so that diffusers' next timestep is the listed one.


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "model.safetensors")


class Reference:
    """The cascade in PyTorch: D^t, F and SR_l^t with our UNet, all else from the libraries."""

    def __init__(self, checkpoint: Path, noise: dict[str, np.ndarray], monkeypatch: Any) -> None:
        self.folder, self.patch = checkpoint, monkeypatch
        self.noise = {name: torch.from_numpy(array) for name, array in noise.items()}

    def unet(self, name: str) -> UNet:
        config, state = read(self.folder / name)
        unet = UNet(UNetConfig.from_json(config)).eval()
        unet.load_state_dict(state)
        return unet

    def text(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """embeds, states and mask, one row per prompt."""
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer" / "tokenizer.json"))
        found = [tokenizer.encode(prompt).ids for prompt in prompts]
        ids = torch.tensor([one + [256] * (12 - len(one)) for one in found])
        mask = torch.tensor([[1] * len(one) + [0] * (12 - len(one)) for one in found])
        config, state = read(self.folder / "text_encoder")
        model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config))
        model.load_state_dict(state)
        out = model.eval()(input_ids=ids, attention_mask=mask)
        return out.text_embeds, out.last_hidden_state, mask

    def image(self, embeds: Tensor, states: Tensor, mask: Tensor, scale: float) -> Tensor:
        """The prior's CLIP image embedding, as diffusers' UnCLIPPipeline makes it."""
        config, state = read(self.folder / "prior")
        config["num_embeddings"] = config.pop("tokens")
        prior = diffusers.PriorTransformer(**config).eval()
        prior.load_state_dict(state)
        scheduler = diffusers.UnCLIPScheduler(
            prediction_type="sample", clip_sample_range=5.0, variance_type="fixed_small_log"
        )
        scheduler.set_timesteps(STEPS["prior"])
        x, after = self.noise["image_noise"], [*scheduler.timesteps[1:], None]
        for k, (t, previous) in enumerate(zip(scheduler.timesteps, after, strict=True)):
            out = prior(torch.cat([x, x]), t, embeds, states, mask.bool())
            without, given = out.predicted_image_embedding.chunk(2)
            z = self.noise[f"prior.z.{k}"]
            self.patch.setattr(
                "diffusers.schedulers.scheduling_unclip.randn_tensor", lambda *_, z=z, **__: z
            )
            guided = without + scale * (given - without)
            x = scheduler.step(guided, t, x, prev_timestep=previous).prev_sample
        return prior.post_process_latents(x)

    def told(self, name: str, image: Tensor, text: Any, unet: UNet, fps: float) -> dict[str, Any]:
        """tokens, bias and emb of every row of `text`, the first of two unconditional."""
        from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

        config, state = read(self.folder / name)
        del config["text_states_dim"]
        proj = UnCLIPTextProjModel(**config).eval()
        proj.load_state_dict(state)
        embeds, states, mask = text
        tokens, emb = proj(
            image_embeddings=image,
            prompt_embeds=embeds,
            text_encoder_hidden_states=states,
            do_classifier_free_guidance=len(embeds) == 2,
        )
        mask = F.pad(mask, (config["clip_extra_context_tokens"], 0), value=1)
        assert unet.fps_embedding is not None
        emb = emb + unet.fps_embedding(torch.tensor([fps]))
        return {"tokens": tokens, "bias": (1.0 - mask) * -10000, "emb": emb}

    def loop(self, stage: str, x: Tensor, eta: float, predict: Any) -> Tensor:
        """diffusers' DDIM with clipped v-predictions."""
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            clip_sample=True,
        )
        scheduler.set_timesteps(STEPS[stage])
        for k, t in enumerate(scheduler.timesteps):
            z = self.noise[f"{stage}.z.{k}"].expand_as(x)
            made = predict(x, t.float().expand(len(x)))
            x = scheduler.step(
                made, t, x, eta=eta, use_clipped_model_output=True, variance_noise=z
            ).prev_sample
        return x

    @torch.no_grad()
    def __call__(self, prompt: str, *, scale: float, prior: float, eta: float, fps: float) -> Any:
        """u8 [F, H, W, 3]."""
        text = self.text(["", prompt])
        image = self.image(*text, prior)
        decoder = self.unet("decoder")
        told = self.told("text_proj", image, text, decoder, fps)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            without, given = decoder(torch.cat([x, x]), torch.cat([t, t]), **told).chunk(2)
            return without + scale * (given - without)

        clip = self.loop("decoder", self.noise["clip_noise"], eta, guided).clamp(-1, 1)
        places = dict(zip(range(0, LENGTH, SKIP), clip.unbind(2), strict=True))
        return self.filled(places, LENGTH, image, text, eta=eta, fps=fps)

    def filled(
        self,
        places: dict[int, Tensor],
        length: int,
        image: Tensor,
        text: Any,
        *,
        eta: float,
        fps: float,
    ) -> Any:
        """u8 [F, H, W, 3]: frames [1, 3, H, W] at their places, and all others made by F."""
        network = self.unet("interpolation")
        last = tuple(rows[-1:] for rows in text)
        told = self.told("interpolation_text_proj", image, last, network, fps)
        known = torch.zeros(1, 4, length, SIZE, SIZE)
        known[:, 3] = 1
        for index, frame in places.items():
            known[:, :3, index], known[:, 3, index] = frame, 0
        video = self.loop(
            "interpolation",
            self.noise["video_noise"],
            eta,
            lambda x, t: network(torch.cat([x, known], 1), t, **told),
        )
        for index, frame in places.items():
            video[:, :, index] = frame
        return self.upscaled(video, eta)

    @torch.no_grad()
    def given(self, pictures: Tensor, places: list[int], length: int, prompt: str) -> Any:
        """Pictures u8 [N, 32, 32, 3] of the user's put at their places, and told of."""
        levels = pictures.permute(0, 3, 1, 2).double()
        config, state = read(self.folder / "image_encoder")
        encoder = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**config)
        ).eval()
        encoder.load_state_dict(state)
        seen = F.interpolate(levels, size=16, mode="area").float() / 127.5 - 1
        image = encoder(pixel_values=seen).image_embeds.mean(0, keepdim=True)
        small = (F.interpolate(levels, size=SIZE, mode="area") / 127.5 - 1).float()
        frames = dict(zip(places, small[:, None], strict=True))
        return self.filled(frames, length, image, self.text([prompt]), eta=0.0, fps=8.0)

    def upscaled(self, video: Tensor, eta: float) -> Any:
        """SR_l^t on the whole video, then SR_h frame by frame with one noise."""
        network = self.unet("super_res_low")
        low = bigger(video.clamp(-1, 1)[0].transpose(0, 1))[None].transpose(1, 2)
        noise = self.noise["low_noise"]
        video = self.loop(
            "super_res_low", noise, eta, lambda x, t: network(torch.cat([x, low], 1), t)
        )
        config, state = read(self.folder / "super_res_high")
        high = diffusers.UNet2DModel(
            in_channels=6,
            out_channels=3,
            block_out_channels=config["block_out_channels"],
            layers_per_block=config["layers_per_block"],
            down_block_types=("ResnetDownsampleBlock2D",) * 2,
            up_block_types=("ResnetUpsampleBlock2D",) * 2,
            norm_num_groups=config["groups"],
            add_attention=False,
        ).eval()
        high.load_state_dict(state)
        frames = []
        for frame in video[0].transpose(0, 1):
            large = bigger(frame[None].clamp(-1, 1))

            def predict(x: Tensor, t: Tensor, large: Tensor = large) -> Tensor:
                return high(torch.cat([x, large], 1), t).sample

            frames.append(self.loop("super_res_high", self.noise["high_noise"][None], eta, predict))
        levels = (torch.cat(frames).clamp(-1, 1) / 2 + 0.5) * 255
        return levels.round().permute(0, 2, 3, 1).byte().numpy()


def bigger(frames: Tensor) -> Tensor:
    """[N, C, H, W] at twice the size, as Karlo resizes."""
    return F.interpolate(frames, scale_factor=2, mode="bicubic", antialias=True)


def draws(length: int = LENGTH) -> dict[str, np.ndarray]:
    """All noise of one call of so many frames; SR_h's is shared, so it has no frame axis."""
    first = {
        "image_noise": (1, 16),
        "clip_noise": (1, 3, FRAMES, SIZE, SIZE),
        "video_noise": (1, 3, length, SIZE, SIZE),
        "low_noise": (1, 3, length, 2 * SIZE, 2 * SIZE),
        "high_noise": (3, 4 * SIZE, 4 * SIZE),
    }
    starts = dict(zip(STEPS, first, strict=True))
    shapes = first | {
        f"{stage}.z.{k}": first[starts[stage]] for stage in STEPS for k in range(STEPS[stage])
    }
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture(scope="module")
def cascade(tiny_make_a_video: Any) -> edgereel.Cascade:
    return edgereel.load(tiny_make_a_video.folder, backend="ort", threads=1)


@pytest.mark.parametrize(
    ("scale", "eta", "fps"), [(3.0, 0.0, 8.0), (3.0, 0.5, 24.0), (1.0, 0.0, 8.0)]
)
def test_video_equals_the_reference_pipeline(
    tiny_make_a_video: Any, cascade: Any, monkeypatch: Any, scale: float, eta: float, fps: float
) -> None:
    noise = draws()
    expected = Reference(tiny_make_a_video.checkpoint, noise, monkeypatch)(
        "a red dot", scale=scale, prior=2.0, eta=eta, fps=fps
    )
    params = {f"steps.{stage}": count for stage, count in STEPS.items()}
    params |= {"guidance.prior": 2.0, "guidance.decoder": scale, "eta": eta, "fps": fps}
    video = cascade("a red dot", noise=noise, params=params)
    assert video.fps == fps and video.frames.shape == expected.shape == (LENGTH, 32, 32, 3)
    agrees(video.frames, expected)


def agrees(frames: Any, expected: Any) -> None:
    """Within one level, and 50 dB: what rounding does."""
    error = frames.astype(float) - expected.astype(float)
    assert np.abs(error).max() <= 1
    assert 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)) >= 50
    assert expected.std() > 10


# Modes that begin with pictures or a video: which of how many frames are given, by mode
GIVEN: dict[str, tuple[list[int], int, dict[str, int]]] = {
    "animate": ([0], 7, {}),
    "transition": ([0, 4], 5, {"frames": 5}),
    "interpolate": ([0, 3, 6, 9], 10, {"skip": 3}),
    "extend": ([0, 1, 2, 3], 6, {"new_frames": 2}),
    "extend-start": ([3, 4, 5, 6], 7, {}),
}


@pytest.mark.parametrize("mode", GIVEN)
def test_modes_from_pictures_equal_the_reference(
    tiny_make_a_video: Any, cascade: Any, monkeypatch: Any, mode: str
) -> None:
    places, length, more = GIVEN[mode]
    noise, prompt = draws(length), "" if mode == "extend" else "a red dot"
    for stage in ("image", "clip"):
        del noise[f"{stage}_noise"]
    noise = {k: v for k, v in noise.items() if not k.startswith(("prior", "decoder"))}
    rng = np.random.default_rng(len(mode))
    pictures = rng.integers(0, 256, (len(places), 32, 32, 3), np.uint8)
    # all but the frames that are to be taken: longer before or after
    longer = np.concatenate([pictures[::-1], pictures] if mode == "extend" else [pictures] * 2)
    given = {"video": longer}
    if mode == "animate":
        given = {"image": pictures}
    elif mode == "transition":
        given = {"image": pictures[:1], "last_image": pictures[1:]}
    steps = {f"steps.{s}": n for s, n in STEPS.items() if s not in ("prior", "decoder")}
    made = cascade(prompt, mode=mode, noise=noise, params={**steps, **more, **given})
    reference = Reference(tiny_make_a_video.checkpoint, noise, monkeypatch)
    agrees(made.frames, reference.given(torch.from_numpy(pictures), places, length, prompt))


# What the params do


def frames(cascade: Any, **params: Any) -> Any:
    return cascade("a red dot", params=params).frames.astype(int)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("negative_prompt", "blue"),
        ("steps.prior", 2),
        ("steps.decoder", 2),
        ("steps.interpolation", 3),
        ("steps.super_res_low", 1),
        ("steps.super_res_high", 1),
        ("guidance.prior", 1.0),
        ("guidance.decoder", 6.0),
        ("eta", 1.0),
        ("fps", 30.0),
        ("sampler", "ddpm"),
        ("sampler", "euler_ancestral"),
        ("shared_noise", 0),
    ],
)
def test_each_param_changes_the_video(cascade: Any, name: str, value: Any) -> None:
    assert np.abs(frames(cascade, **{name: value}) - frames(cascade)).max() > 0


def test_euler_is_ddim_here(cascade: Any) -> None:
    # The same update; Euler's scale of the first noise is sigma, 1 to seven digits at t = 999.
    assert np.abs(frames(cascade, sampler="euler") - frames(cascade)).max() <= 1


def test_second_order_sampler_differs_from_three_steps_on(cascade: Any) -> None:
    # Its first and last rows are first order, so two steps are DDIM's.
    few, more = {"steps.decoder": 2}, {"steps.decoder": 3}
    one = {"steps.interpolation": 1, "steps.super_res_low": 1, "steps.super_res_high": 1}
    for steps, same in ((few, True), (more, False)):
        ours = frames(cascade, sampler="dpmpp_2m", **steps, **one)
        ddim = frames(cascade, sampler="ddim", **steps, **one)
        assert bool(np.abs(ours - ddim).max() <= 1) is same


def test_prompt_and_rate_reach_the_video(cascade: Any) -> None:
    other = cascade("three blue squares").frames.astype(int)
    assert np.abs(other - frames(cascade)).max() > 0
    assert cascade("a red dot", fps=12).fps == 12


class Spy:
    """A backend's engines with the inputs and outputs of every call noted."""

    def __init__(self, cascade: Any, monkeypatch: Any, graph: str) -> None:
        self.calls: list[tuple[dict[str, Any], dict[str, Any]]] = []
        engine = cascade._interpreter.engine(graph)
        run = engine.run

        def noted(inputs: Any, outputs: Any) -> None:
            run(inputs, outputs)
            copies = ({k: np.array(v) for k, v in side.items()} for side in (inputs, outputs))
            self.calls.append(tuple(copies))  # type: ignore[arg-type]

        monkeypatch.setattr(engine, "run", noted)


def test_guidance_one_drops_the_unconditional_row(cascade: Any, monkeypatch: Any) -> None:
    spy = Spy(cascade, monkeypatch, "decoder")
    frames(cascade)
    frames(cascade, **{"guidance.decoder": 1.0})  # the prior still needs both
    frames(cascade, **{"guidance.decoder": 1.0, "guidance.prior": 1.0})
    weights = [call["weights"].tolist() for call, _ in spy.calls[::3]]
    assert weights == [[-2.0, 3.0], [0.0, 1.0], [1.0]]
    assert [len(call["tokens"]) for call, _ in spy.calls[::3]] == [2, 2, 1]


def test_a_dropped_row_of_weight_zero_changes_nothing(cascade: Any) -> None:
    both = {"guidance.prior": 1.0, "guidance.decoder": 1.0}
    nearly = {"guidance.prior": 1.0 + 1e-7, "guidance.decoder": 1.0}  # keeps the row
    assert np.abs(frames(cascade, **both) - frames(cascade, **nearly)).max() <= 1


def test_known_frames_are_copied_back(cascade: Any, monkeypatch: Any) -> None:
    decoder = Spy(cascade, monkeypatch, "decoder")
    told = Spy(cascade, monkeypatch, "every_known")
    kept = Spy(cascade, monkeypatch, "keep_known")
    frames(cascade)
    frames(cascade, keep_known=0)
    clip, known = decoder.calls[2][1]["x_next"], told.calls[0][1]["known"]
    raw, video = kept.calls[0][0]["video"], kept.calls[0][1]["out"]
    assert np.array_equal(video[:, :, ::SKIP], clip.clip(-1, 1))
    between = np.arange(LENGTH) % SKIP != 0
    assert np.array_equal(video[:, :, between], raw[:, :, between].clip(-1, 1))
    assert np.array_equal(known[:, :3, ::SKIP], clip.clip(-1, 1))
    assert not known[:, :3, between].any()
    assert (known[:, 3, between] == 1).all() and not known[:, 3, ::SKIP].any()  # 1 = to be made
    assert np.array_equal(kept.calls[1][1]["out"], raw.clip(-1, 1))  # not copied, if so asked


def test_skip_sets_the_length_and_the_rate_of_the_decoder(cascade: Any, monkeypatch: Any) -> None:
    """D^t has frames `skip` apart: of a video with twice the skip, those of half its rate."""
    told = Spy(cascade, monkeypatch, "decoder_condition")
    assert len(frames(cascade, skip=4, fps=24.0)) == 3 * 4 + 1
    assert len(frames(cascade, fps=24.0)) == LENGTH
    assert len(frames(cascade, skip=4, fps=30.0)) == 3 * 4 + 1
    assert [float(call["fps"][0]) for call, _ in told.calls] == [12.0, 24.0, 15.0]


def test_variation_is_the_cascade_on_the_mean_embedding(cascade: Any, monkeypatch: Any) -> None:
    """Nothing of the pixels reaches the decoder but their embedding; the prior is not run."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    told = Spy(cascade, monkeypatch, "decoder_condition")
    alone = Spy(cascade, monkeypatch, "image_encoder")
    five = {"video": pictures, "num_frames": 5}
    whole = cascade(mode="variation", params=five).frames
    for picture in pictures:
        cascade(mode="variation", params={"video": picture[None], "frames": 1})
    image = told.calls[0][0]["image"]
    each = [out["image"] for _, out in alone.calls[1:]]
    assert np.allclose(image, np.mean(each, 0), atol=1e-5)
    backwards = cascade(mode="variation", params={**five, "video": pictures[::-1]}).frames
    assert np.abs(whole.astype(int) - backwards).max() <= 1


def test_too_few_frames_are_refused(cascade: Any) -> None:
    """Three, where four are to be gone on from."""
    video = np.zeros((3, 32, 32, 3), np.uint8)
    for mode in ("extend", "extend-start", "interpolate"):
        with pytest.raises(edgereel.EdgereelError, match="3 frame"):
            cascade(mode=mode, params={"video": video})


def test_last_stage_gives_equal_frames_equal_pictures(cascade: Any, monkeypatch: Any) -> None:
    """SR_h shares its noise, first and per step, over all frames and chunks."""
    engine = cascade._interpreter.engine("frame_batch")
    run = engine.run

    def still(inputs: Any, outputs: Any) -> None:
        run(inputs, outputs)
        outputs["frames"][...] = outputs["frames"][:1]

    monkeypatch.setattr(engine, "run", still)
    for sampler in ("ddim", "euler_ancestral"):
        made = frames(cascade, sampler=sampler)
        assert len(made) == LENGTH  # chunks of three frames: 3, 3, 1
        assert np.abs(made - made[:1]).max() <= 1
        assert made[0].std() > 1


def test_chunk_size_does_not_change_the_video(cascade: Any) -> None:
    """As the noise is shared; parts of one frame, of two and of all seven."""
    whole, *parts = (frames(cascade, chunk_size=size) for size in (64, 1, 2))
    assert len(whole) == LENGTH
    for part in parts:
        assert np.abs(part.astype(int) - whole).max() <= 1
    assert whole.std() > 1
