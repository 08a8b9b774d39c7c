"""What networks of the `shapes` world are trained on, and the folders they come to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F

from edgereel_export.lavie_companions import UPSCALER
from edgereel_export.modules.emu_unet import is_own
from edgereel_export.modules.sd_vae import SDVAE, SDEncoder
from edgereel_export.shapes import (
    conditions,
    folders,
    interpolation,
    lavie,
    losses,
    networks,
    train,
    upscaling,
)
from edgereel_export.shapes.data import Data
from edgereel_export.shapes.losses import frozen
from edgereel_export.shapes.world import Scenes, draw, sample_scenes
from edgereel_export.systems import emu_video
from edgereel_export.systems import lavie as system

pytestmark = pytest.mark.torch


def _scenes(count: int) -> tuple[Data, Scenes]:
    data = Data(5)
    return data, sample_scenes(count, data.rng, np.full(count, 16.0))


def test_large_pictures_show_what_small_ones_do() -> None:
    """Averaged over 4x4 pixels, each with one sample, against small pixels of 2x2 samples.

    They differ at a few pixels of an edge only, by 7e-5 of the range on average; a shift by one
    large pixel makes that 3e-3.
    """
    data, scenes = _scenes(8)
    frames = data.uniform(8, 3) * 60
    small = draw(scenes, frames, 48).transpose(1, 2)
    large = upscaling._large(scenes, frames, 48)
    assert (F.avg_pool3d(large, (1, 4, 4)) - small).abs().mean() < 3e-4


def test_copied_latents_are_those_of_every_fourth_frame() -> None:
    """Frame j has the latents of given frame (j + 1) // 4, as published, and their noise."""
    _, scenes = _scenes(2)
    pictures = draw(scenes, torch.arange(13.0), 128)
    vae = frozen("vae")
    assert isinstance(vae, SDVAE)
    latents, copied = lavie._clips(vae, pictures)
    with torch.no_grad():
        alone = SDEncoder(vae)(pictures[1, :, 8:9].transpose(0, 1)) * 0.83
    torch.testing.assert_close(latents[1, 8:9], alone, rtol=0, atol=1e-4)  # order of sums only
    noise = copied - latents[:, [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12]]
    assert noise.abs().mean() < 0.15  # deviations are about 0.1, latents about 1
    assert noise.std() > 0.05
    assert torch.equal(copied[:, 3], copied[:, 6])
    assert not torch.equal(copied[:, 2], copied[:, 3])


def test_a_trained_folder_is_read_as_emu_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without training: spatial layers are those of the image model, which is written first."""
    for module in (networks, train):
        monkeypatch.setattr(module, "EMU", tmp_path)
    for name in ("emu_image", "emu_video", "emu_interpolation"):
        module = losses.from_image_model(name, "emu_image" if name != "emu_image" else "unet")
        train._save(name, module, module.state_dict())
    folders.write_emu(tmp_path)
    parts = emu_video.load(tmp_path).parts
    assert parts.unets.keys() == {"image", "video", "interpolation"}
    assert parts.video is not None and parts.video.alphas_cumprod()[-1] == 0
    spatial = parts.unets["image"].state_dict()
    own = parts.unets["video"].state_dict()
    assert all(torch.equal(own[key], spatial[key]) for key in spatial if not is_own(key))
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written < 40e6


def test_a_trained_folder_is_read_as_lavies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without training: what is written is read back, sizes of super-resolution by its weights."""
    monkeypatch.setattr(networks, "LAVIE", tmp_path)
    monkeypatch.setattr(train, "LAVIE", tmp_path)
    for name in ("lavie_base", "lavie_interpolation", "lavie_vsr", "upscaler_vae"):
        module = networks.build(name)
        train._save(name, module, module.state_dict())
    folders.write_lavie(tmp_path)
    found = system.load(tmp_path)
    assert found.unets.keys() == {"base", "interpolation", "vsr"}
    assert found.unets["vsr"].config == networks.CONFIGS["lavie_vsr"]
    assert found.upscaler is not None
    assert found.upscaler.vae.config == networks.CONFIGS["upscaler_vae"]
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written < 40e6
    assert (tmp_path / UPSCALER / "low_res_scheduler").is_dir()


def test_one_frame_of_some_clips_is_a_hint() -> None:
    """Three clips in four of the first phase; the hint has little noise, the others much."""
    t, levels = lavie._clip_levels(Data(0), torch.full((800,), 10), lavie._PHASES[0], 0.0)
    hint = levels != t[:, None]
    assert set(hint.sum(1).tolist()) == {0, 1}
    assert hint.any(1).float().mean() == pytest.approx(0.75, abs=0.05)
    assert levels[hint].max() < 300 and t[hint.any(1)].min() >= 500
    others = t[~hint.any(1)]
    settled = (others >= 250) & (others < 800)
    assert settled.float().mean() == pytest.approx(2 / 3, abs=0.1)
    assert hint.sum(0).min() > 0  # any frame may be one
    t, levels = lavie._clip_levels(Data(0), torch.full((800,), 10), lavie._PHASES[1], 1.0)
    assert set(t[(levels == t[:, None]).all(1)].tolist()) == {10}  # at the end, as they were drawn


def test_heads_begin_with_looking_back_and_ahead() -> None:
    """Scores of the frame after against those of the frame before, averaged over attentions."""
    component = networks.build("lavie_base")
    ways = []
    for module in component.modules():
        if hasattr(module, "attn_temp"):
            lavie._look_both_ways(module.attn_temp)
            bias = module.attn_temp.time_rel_pos_bias(9)  # [heads, 9, 9], query frames first
            ways.append(torch.stack([bias[:, 4, 5:].mean(1) - bias[:, 4, :4].mean(1)]))
    back, ahead = torch.cat(ways).mean(0)
    assert back < -2 and ahead > 2


def test_clips_are_given_frames_of_every_kind() -> None:
    """Of 400, how many each kind has of what the modes give: between, first, last, one, two."""
    data, kinds = Data(2), {"between": 0, "first": 0, "last": 0, "one": 0, "two": 0}
    for _ in range(400):
        known = interpolation._varied(data)
        places, last = known.nonzero()[:, 0].tolist(), len(known) - 1
        assert 16 <= len(known) <= 76
        if places == [0]:
            kinds["one"] += 1
        elif places == [0, last]:
            kinds["two"] += 1
        elif places == list(range(16)):
            kinds["first"] += 1
        elif places == list(range(last - 15, last + 1)):
            kinds["last"] += 1
        else:
            assert len(places) == 16 and len(set(np.diff(places))) == 1 and places[-1] == last
            kinds["between"] += 1
    shares = {"between": 0.18, "first": 0.2, "last": 0.2, "one": 0.35, "two": 0.07}
    assert {k: n / 400 for k, n in kinds.items()} == pytest.approx(shares, abs=0.07)


def test_a_share_of_clips_is_told_no_text() -> None:
    """Those of half the rows are the empty text's; the pictures of these stay."""
    data = Data(3)
    batch = data.scenes(200)
    encoders = losses.frozen("text_encoder"), losses.frozen("image_encoder")
    text, _, mask, image, null = conditions.encoded(data, batch, encoders, 0.5)
    empty = mask.sum(1) == data.tokens([""])[1].sum()
    assert empty.float().mean() == pytest.approx(0.55, abs=0.1)  # a tenth, and half of the others
    assert null.float().mean() == pytest.approx(0.1, abs=0.07)
    assert (empty | ~null).all()
    assert torch.unique(text[empty], dim=0).shape[0] == 1
    assert torch.unique(image[empty], dim=0).shape[0] > 50


def test_the_embedding_of_given_frames_is_told() -> None:
    """The mean over those frames: another frame's would show where a shape goes."""
    encoders = losses.frozen("text_encoder"), losses.frozen("image_encoder")

    def told(*seen: float) -> torch.Tensor:
        data = Data(3)
        return conditions.encoded(data, data.scenes(9), encoders, 0.5, torch.tensor(seen))[3]

    torch.testing.assert_close(told(0, 30, 75), (told(0) + told(30) + told(75)) / 3)
    assert (told(0) - told(75)).abs().max() > 0.1
