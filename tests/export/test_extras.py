"""What a user adds to a checkpoint: `pytest tests/export/test_extras.py`"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from edgereel.errors import InputError  # noqa: E402
from edgereel_export.cli import main  # noqa: E402
from edgereel_export.modules.sd_glue import SmoothBackground, _sources  # noqa: E402
from edgereel_export.systems import text2video_zero  # noqa: E402
from edgereel_export.systems.extras import Extras, read_extras  # noqa: E402
from edgereel_export.systems.text2video_zero_tiny import (  # noqa: E402
    write_checkpoint,
    write_controlnet,
)

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in `base`, a ControlNet in `control`."""
    place = tmp_path_factory.mktemp("given")
    write_checkpoint(place / "base")
    write_controlnet(place / "control")
    return place


def test_flags_are_read() -> None:
    found = read_extras(["a.safetensors", "b:c.safetensors:0.8", "d:e"], ["canny=one/two=3"])
    assert found.loras == (
        (Path("a.safetensors"), 1.0),
        (Path("b:c.safetensors"), 0.8),
        (Path("d:e"), 1.0),
    )
    assert found.controlnets == {"canny": Path("one/two=3")}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["canny"], "expected MODE=DIR"),
        (["=a"], "expected MODE=DIR"),
        (["canny=a", "canny=b"], "is given twice"),
    ],
)
def test_wrong_flags_are_refused(flags: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_extras([], flags)


def test_a_lora_is_merged_at_its_strength(folder: Path, tmp_path: Path) -> None:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    path = tmp_path / "lora.safetensors"
    save_file({f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}, path)
    found = text2video_zero.load(folder / "base", Extras(loras=((path, 0.5),)))
    plain = load_file(folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    expected = plain[f"{layer}.weight"] + 0.5 * up @ down
    torch.testing.assert_close(found.unet.state_dict()[f"{layer}.weight"], expected)


def test_wrong_controlnets_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no mode 'scribble'; expected one of canny"):
        text2video_zero.load(folder / "base", Extras(controlnets={"scribble": folder}))
    write_checkpoint(tmp_path / "edit", channels=8)
    with pytest.raises(InputError, match="InstructPix2Pix checkpoint, which follows its own"):
        text2video_zero.load(tmp_path / "edit", Extras(controlnets={"canny": folder / "control"}))


def test_a_system_without_extras_refuses_them() -> None:
    with pytest.raises(InputError, match="have no meaning with make-a-video"):
        Extras(loras=((Path("a"), 1.0),)).refuse("make-a-video")


def test_the_background_is_smoothed_as_published() -> None:
    """The formulas once more, pixel by pixel, in numpy (systems: Text2Video-Zero 1.6)."""
    rng = np.random.default_rng(0)
    frames, side, motion, keep = 3, 12, 90.0, 0.4
    x = rng.standard_normal((frames, 4, side, side)).astype(np.float32)
    masks = np.zeros((frames, 4 * side, 4 * side, 3), np.uint8)
    for k in range(frames):
        masks[k, 8:20, 4 * k : 4 * k + 12] = 255
    strength = torch.full((frames,), motion)
    given = (torch.from_numpy(x), torch.from_numpy(masks), strength, 0 * strength)
    ours = SmoothBackground(4)(*given, torch.tensor([keep])).numpy()
    front = np.zeros((frames, side, side))
    for k, y, z in np.argwhere(masks[:, ::4, ::4, 0] > 127):
        front[k, max(y - 2, 0) : y + 3, max(z - 2, 0) : z + 3] = 1
    columns = _sources(side, torch.arange(frames) * motion).numpy()
    expected = x.copy()
    for k in range(frames):
        moved = front[0][:, columns[k]] if k else np.zeros((side, side))
        background = (1 - front[k]) * (1 - moved)
        copy = (x[0] * (1 - front[0]))[:, :, columns[k]]
        expected[k] = (1 - background) * x[k] + background * (keep * x[k] + (1 - keep) * copy)
    assert 0.1 < (ours != x).mean() < 0.9
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "xl"], "--size is xl; expected one of shapes, or --checkpoint DIR"),
        (["--checkpoint", "model.safetensors"], "is a single file"),
        (["--checkpoint", "base", "--lora", "gone"], "gone is no file, nor a folder with one"),
        (["--checkpoint", "base", "--controlnet", "canny=base"], "is a whole pipeline"),
        (["--checkpoint", "control"], "is one part of a pipeline"),
    ],
)
def test_wrong_commands_end_in_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert main(["text2video-zero", *arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("build.py: error: ") and told in shown and "Traceback" not in shown
