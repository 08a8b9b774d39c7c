"""Ways to make Make-A-Video's frames larger at its end, against diffusers and torch.

Alone: pytest tests/export/test_super_res_high.py
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnxruntime")

from karlo_folder import pipeline as karlo  # noqa: E402
from karlo_folder import shaken  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_backend import TorchBackend, not_exported  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast  # noqa: E402

from edgereel import plan  # noqa: E402
from edgereel.errors import InputError  # noqa: E402
from edgereel.interpreter import Interpreter  # noqa: E402
from edgereel.params import fill_params  # noqa: E402
from edgereel_export.folder import write_folder  # noqa: E402
from edgereel_export.graph import export  # noqa: E402
from edgereel_export.karlo_temporal import IDENTITY  # noqa: E402
from edgereel_export.modules.glue import AreaDownsample  # noqa: E402
from edgereel_export.systems import emu_video, make_a_video  # noqa: E402
from edgereel_export.systems.extras import Extras  # noqa: E402
from edgereel_export.systems.make_a_video_high import Bicubic, Small  # noqa: E402
from edgereel_export.systems.make_a_video_x4 import X4, read_high  # noqa: E402
from edgereel_export.systems.sd_plan import SEED, f32  # noqa: E402
from edgereel_export.systems.text2video_zero_tiny import write_tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # diffusers: an image below 0 is not normalised
]

# Both run in float32, diffusers' schedules too; one level of 255 everywhere would be 48 dB.
LEAST_PSNR = 45.0
SIDE, FRAMES, CHUNK, STEPS, CROSS = 16, 3, 2, 4, 24
PROMPT = "a red dot"
PIPELINE = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale"
Array = np.ndarray[Any, Any]


def psnr(ours: Array, theirs: Array) -> float:
    """Of u8 frames, which must show something."""
    assert ours.shape == theirs.shape and theirs.std() > 10
    error = np.mean((ours.astype(np.float64) - theirs) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def averaged(frames: Array, side: int) -> Array:
    """u8 [F, H, H, 3] at a smaller side: pixels cut into equal squares, and their means."""
    size = frames.shape[1]
    cut = np.lcm(size, side)
    fine = frames.astype(np.float64).repeat(cut // size, 1).repeat(cut // size, 2)
    parts = fine.reshape(len(frames), side, cut // side, side, cut // side, 3)
    return np.asarray(parts.mean((2, 4)).round(), np.uint8)


# Filters


@pytest.mark.parametrize(("side", "scale"), [(16, 2), (64, 3), (9, 4)])
def test_bicubic_is_torchs(side: int, scale: int) -> None:
    """Within the rounding of sums in another order."""
    x = torch.from_numpy(normal(0, 2, 3, side, side))
    graphs = Bicubic(side, scale).graphs()
    expected = F.interpolate(x.clamp(-1, 1), scale_factor=scale, mode="bicubic", antialias=True)
    found = graphs["upsample_high"].module(x)
    assert (found - expected).abs().max() < 1e-5
    levels = (expected.clamp(-1, 1) / 2 + 0.5) * 255
    pixels = graphs["pixels"].module(found).permute(0, 3, 1, 2)
    assert (pixels - levels).abs().max() < 0.501


@pytest.mark.parametrize(("size", "side"), [(8, 6), (64, 32), (10, 4), (7, 7)])
def test_smaller_pictures_are_means_by_area(size: int, side: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    found = AreaDownsample(size, side)(torch.from_numpy(frames)).numpy()
    assert np.abs(found.astype(int) - averaged(frames, side)).max() <= 1  # halves may go either way
    assert np.mean(found != averaged(frames, side)) < 0.02


# The x4 upscaler


def saved_upscaler(folder: Path) -> Any:
    """diffusers' pipeline of small random parts, saved as `folder`/x4."""
    write_tokenizer(folder / "words", pad="!")
    text = CLIPTextConfig(
        vocab_size=514, hidden_size=CROSS, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=12, hidden_act="gelu",
        bos_token_id=512, eos_token_id=513, pad_token_id=0,
    )  # fmt: skip
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=SIDE, in_channels=7, out_channels=4, block_out_channels=(8, 16),
            layers_per_block=1, norm_num_groups=4, cross_attention_dim=CROSS, attention_head_dim=2,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),  # few, as they export slowly
            only_cross_attention=(True, False), use_linear_projection=True, num_class_embeds=1000,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.08333,
        )  # fmt: skip
        parts = {"text_encoder": shaken(CLIPTextModel(text), 0.3), "vae": shaken(vae, 0.1),
                 "unet": shaken(unet, 0.1)}  # fmt: skip
    pipe = diffusers.StableDiffusionUpscalePipeline(
        tokenizer=CLIPTokenizerFast.from_pretrained(folder / "words"),
        scheduler=diffusers.DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, steps_offset=1,
            prediction_type="v_prediction", **betas,
        ),
        low_res_scheduler=diffusers.DDPMScheduler(**betas),
        **parts,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "x4")
    return pipe


def in_torch(source: Any, place: Path, modes: Any = None) -> plan.Plan:
    """The plan of a cascade, whose graphs are not exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgereel_export.folder.export", not_exported)
        return write_folder(source, place, name="a", system="make-a-video", modes=modes)


def run(modules: Interpreter, mode: plan.Mode, params: Any, noise: dict[str, Array]) -> Array:
    """The frames of a call."""
    values = fill_params(mode, params)
    return modules.run(mode, values, noise=noise, callback=lambda _: None, cancelled=Event()).frames


class Upscaled:
    """diffusers' pipeline, the folder it was saved as, and a cascade of SR_h alone made of that.

    Its modes `x2` and `x4` begin with small frames, given as noise.
    """

    def __init__(self, place: Path) -> None:
        self.pipe, self.folder = saved_upscaler(place), place / "x4"
        high = read_high(str(self.folder), SIDE, 2)
        assert isinstance(high, X4)
        ways = {"x2": high, "x4": X4(high.upscaler, SIDE, 4)}
        modes = {name: self._mode(way) for name, way in ways.items()}
        source: Any = SimpleNamespace(
            graphs=high.graphs, schedules=high.schedules, tokenizers=high.tokenizers
        )
        self.graphs = high.graphs()
        self.document = in_torch(source, place / "cascade", modes)
        self.modules = Interpreter(self.document, TorchBackend(self.graphs))
        self.small = np.random.default_rng(9).uniform(-1, 1, (FRAMES, 3, SIDE, SIDE))

    def _mode(self, high: X4) -> plan.Mode:
        made = high.enlarged(Small("small", FRAMES, CHUNK))
        given = plan.Stage(name="given", ops=(plan.Noise(value="small"),))
        return plan.Mode(
            params={"seed": SEED, **made.params},
            rows=made.rows,
            sizes=made.sizes,
            values={"small": f32(FRAMES, 3, SIDE, SIDE), **made.values},
            stages=(given, *made.stages),
            output=plan.Output(value="frames", fps=8.0),
        )

    def ours(self, mode: str, noise: dict[str, Array], **params: Any) -> Array:
        """u8 [F, H, W, 3]."""
        params = {"steps.super_res_high": STEPS, **params}
        given = {"small": self.small.astype(np.float32), **noise}
        return run(self.modules, self.document.modes[mode], params, given)

    def theirs(self, frame: int, first: Array, level: Array, patch: Any, **call: Any) -> Array:
        """u8 [1, 4 H, 4 W, 3] of one small frame."""
        patch.setattr(f"{PIPELINE}.randn_tensor", lambda *_, **__: torch.from_numpy(level[None]))
        image = torch.from_numpy(self.small[frame : frame + 1]).float()
        latents = torch.from_numpy(first[None].copy())
        pictures = self.pipe(
            image=image, latents=latents, num_inference_steps=STEPS, output_type="np", **call
        ).images
        return np.asarray((pictures * 255).round(), np.uint8)


@pytest.fixture(scope="module")
def upscaled(tmp_path_factory: pytest.TempPathFactory) -> Upscaled:
    return Upscaled(tmp_path_factory.mktemp("x4"))


@pytest.mark.parametrize(
    ("prompt", "scale", "level", "mode"),
    [("", 1.0, 20, "x4"), (PROMPT, 4.0, 20, "x2"), (PROMPT, 1.0, 150, "x2")],
)
def test_every_frame_is_what_diffusers_makes_with_the_same_noise(
    upscaled: Upscaled, monkeypatch: Any, prompt: str, scale: float, level: int, mode: str
) -> None:
    """One noise for all frames; half the size is that of diffusers' pictures, averaged."""
    first, noisy = normal(1, 4, SIDE, SIDE), normal(2, 3, SIDE, SIDE)
    asked = {"prompt.super_res_high": prompt, "guidance.super_res_high": scale}
    ours = upscaled.ours(
        mode, {"high_noise": first, "level_noise": noisy}, noise_level=level, **asked
    )
    for frame in range(FRAMES):
        theirs = upscaled.theirs(
            frame, first, noisy, monkeypatch, prompt=prompt, guidance_scale=scale, noise_level=level
        )
        theirs = theirs if mode == "x4" else averaged(theirs, 2 * SIDE)
        assert psnr(ours[frame : frame + 1], theirs) >= LEAST_PSNR


def test_frames_have_noise_of_their_own_if_asked(upscaled: Upscaled, monkeypatch: Any) -> None:
    first, noisy = normal(1, FRAMES, 4, SIDE, SIDE), normal(2, FRAMES, 3, SIDE, SIDE)
    noise = {f"{name}[{chunk}]": array[chunk * CHUNK : (chunk + 1) * CHUNK]
             for name, array in (("high_noise", first), ("level_noise", noisy))
             for chunk in range(2)}  # fmt: skip
    ours = upscaled.ours("x4", noise, shared_noise=0)
    for frame in range(FRAMES):
        theirs = upscaled.theirs(
            frame, first[frame], noisy[frame], monkeypatch, prompt="", guidance_scale=1.0
        )
        assert psnr(ours[frame : frame + 1], theirs) >= LEAST_PSNR


def test_equal_frames_stay_equal_with_one_noise_alone(upscaled: Upscaled) -> None:
    upscaled.small, kept = np.repeat(upscaled.small[:1], FRAMES, 0), upscaled.small
    for shared in (1, 0):
        frames = upscaled.ours("x2", {}, shared_noise=shared).astype(int)
        assert bool(np.abs(frames - frames[:1]).max() <= 1) is bool(shared)
    upscaled.small = kept


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampler.super_res_high", "dpmpp_2m"), ("seed", 1), ("decode_tile.super_res_high", 24)],
)
def test_params_reach_the_pictures(upscaled: Upscaled, name: str, value: Any) -> None:
    plain, other = upscaled.ours("x2", {}), upscaled.ours("x2", {}, **{name: value})
    changes = not name.startswith("decode_tile")  # a tile as large as the picture
    assert bool(np.abs(plain.astype(int) - other).max() > 0) is changes


def test_onnx_runtime_takes_the_same_step(upscaled: Upscaled, tmp_path: Path) -> None:
    """Compared with PyTorch as it is exported; the larger of the other graphs are LaVie's too."""
    spec = export(upscaled.graphs["super_res_high"], "super_res_high", tmp_path)
    wanted = upscaled.document.graphs["super_res_high"]
    assert (spec.inputs, spec.outputs) == (wanted.inputs, wanted.outputs)


# In a cascade


def played(checkpoint: Path, place: Path, mode: str, **extras: Any) -> Array:
    """The frames of a cascade with these extras, its modules run as they are."""
    source = make_a_video.load(checkpoint, Extras(**extras))
    document = in_torch(source, place)
    program = document.modes[mode]
    few = {name: 2 for name in program.params if name.startswith("steps")}
    modules = Interpreter(document, TorchBackend(source.graphs()))
    return run(modules, program, {"prompt": PROMPT, "seed": 3, **few}, {})


def test_karlos_frames_get_three_times_as_large(tmp_path: Path, upscaled: Upscaled) -> None:
    karlo(tmp_path)
    plain, bicubic, x4 = (
        played(tmp_path / "karlo", tmp_path / name, mode, temporal=IDENTITY, super_res_high=word)
        for name, mode, word in (
            ("plain", "video", None),
            ("bicubic", "video", "bicubic"),
            ("x4", "image", str(upscaled.folder)),
        )
    )
    unit = torch.from_numpy(plain).permute(0, 3, 1, 2) / 127.5 - 1
    large = F.interpolate(unit, scale_factor=3, mode="bicubic", antialias=True).clamp(-1, 1)
    expected = ((large + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert psnr(bicubic, expected) >= 45  # of frames that were levels before, which rounds twice
    assert x4.shape == (1, *expected.shape[1:]) and x4.std() > 5


def test_own_stages_need_none_of_their_own(
    tiny_checkpoint: Path, tmp_path: Path, upscaled: Upscaled
) -> None:
    """The checkpoint's own network is not even read."""
    for stage in tiny_checkpoint.iterdir():
        if stage.name != "super_res_high":
            (tmp_path / stage.name).symlink_to(stage)
    for word in ("bicubic", str(upscaled.folder)):
        frames = played(tmp_path, tmp_path / f"{len(word)}", "video", super_res_high=word)
        assert frames.shape == (7, 32, 32, 3) and frames.std() > 1


def test_what_cannot_be_used_is_refused(tmp_path: Path, upscaled: Upscaled) -> None:
    with pytest.raises(InputError, match=r"enlarges 4 times; expected at least the 5.*bicubic"):
        read_high(str(upscaled.folder), SIDE, 5)
    with pytest.raises(InputError, match=r"no folder.*stable-diffusion-x4-upscaler"):
        read_high(str(tmp_path / "nothing"), SIDE, 2)
    with pytest.raises(InputError, match="--super-res-high bicubic has no meaning with emu-video"):
        emu_video.load(tmp_path, Extras(super_res_high="bicubic"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"only_cross_attention": [True, True]}, "not false at the last level"),
        ({"only_cross_attention": [True, True, False]}, "3 entries for 2 levels"),
        ({"in_channels": 4}, "channels 4 and 4, not 7 and 4"),
        ({"act_fn": "gelu"}, "act_fn gelu; expected act_fn silu. Give stabilityai/"),
    ],
)
def test_another_unet_is_refused(
    tmp_path: Path, upscaled: Upscaled, changes: dict[str, Any], words: str
) -> None:
    for part in upscaled.folder.iterdir():
        if part.name != "unet":
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "unet").mkdir()
    source = upscaled.folder / "unet"
    for file in source.glob("*.safetensors"):
        (tmp_path / "unet" / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError) as error:
        read_high(str(tmp_path), SIDE, 2)
    assert words in str(error.value)
