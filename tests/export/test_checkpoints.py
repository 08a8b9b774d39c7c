"""Reading trained stages, and what a user is told when one is missing or damaged.

Alone: pytest tests/export/test_checkpoints.py
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402

from edgereel.errors import InputError  # noqa: E402
from edgereel_export.checkpoints import fill, read_config, read_weights  # noqa: E402

pytestmark = pytest.mark.torch


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 3) for _ in range(4))


def weights() -> dict[str, Any]:
    """What fits a Stage, all of it different from a fresh one."""
    return {key: torch.full_like(value, 0.5) for key, value in Stage().state_dict().items()}


class Attack:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


# config.json


def test_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"width": 8, "name": "\u2191F"}', encoding="utf-8")
    assert read_config(tmp_path) == {"width": 8, "name": "\u2191F"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ('"text"', "holds no JSON object"),
    ],
)
def test_a_broken_config_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=told) as error:
        read_config(tmp_path)
    assert "config.json" in str(error.value) and "Copy the checkpoint again" in str(error.value)


def test_a_config_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="is not JSON"):
        read_config(tmp_path)


def test_a_deeply_nested_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is not JSON"):
        read_config(tmp_path)


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decoder.config\.json cannot be read \(No such file"):
        read_config(tmp_path / "decoder")


def test_a_config_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path)


# Weights


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "model.safetensors"])
def test_safetensors_are_read(tmp_path: Path, name: str) -> None:
    safetensors.save_file(weights(), tmp_path / name)
    found = read_weights(tmp_path)
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[key], value) for key, value in weights().items())


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_bin_of_tensors_is_read(tmp_path: Path, name: str) -> None:
    torch.save(weights(), tmp_path / name)
    found = read_weights(tmp_path)
    assert all(torch.equal(found[key], value) for key, value in weights().items())


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    safetensors.save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path)["a"].item() == 1


def test_missing_weights_are_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "decoder"):
        with pytest.raises(InputError, match="holds no weights; expected one of diffusion_pytorch"):
            read_weights(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    save = safetensors.save_file if path.suffix == ".safetensors" else torch.save
    save(weights(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cannot be read|is not a file of tensors") as error:
        read_weights(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "pytorch_model.bin"
    if zipped:
        torch.save({"a": torch.ones(1), "b": Attack(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(trace)))
    with pytest.raises(InputError, match="is not a file of tensors only") as error:
        read_weights(tmp_path)
    assert "safetensors" in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("values", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"model": {}}, None])
def test_a_bin_that_is_no_dict_of_tensors_is_refused(tmp_path: Path, values: Any) -> None:
    torch.save(values, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is not a file of tensors only"):
        read_weights(tmp_path)


# Filling


def test_fill_loads_and_freezes() -> None:
    stage = Stage()
    fill(stage, weights(), Path("decoder"))
    assert all(torch.equal(stage.state_dict()[key], value) for key, value in weights().items())
    assert not stage.training
    assert not any(parameter.requires_grad for parameter in stage.parameters())


def test_half_precision_weights_become_float32() -> None:
    stage = Stage()
    fill(stage, {key: value.half() for key, value in weights().items()}, Path("decoder"))
    assert {value.dtype for value in stage.state_dict().values()} == {torch.float32}


def test_position_ids_of_old_checkpoints_are_ignored() -> None:
    old = {"text_model.embeddings.position_ids": torch.arange(77)[None], **weights()}
    fill(Stage(), old, Path("text_encoder"))


def test_wrong_keys_are_named_up_to_five() -> None:
    found = {f"other.{index}": torch.ones(1) for index in range(7)}
    with pytest.raises(InputError) as error:
        fill(Stage(), found, Path("checkpoint/decoder"))
    text = str(error.value)
    assert "weights in checkpoint/decoder do not fit Stage" in text
    assert (
        "missing keys: layers.0.bias, layers.0.weight, layers.1.bias, layers.1.weight, "
        "layers.2.bias and 3 more" in text
    )
    assert "unknown keys: other.0, other.1, other.2, other.3, other.4 and 2 more" in text
    assert "config.json and weights belong together" in text


def test_wrong_shapes_are_named() -> None:
    found = weights()
    found["layers.1.weight"] = torch.ones(3, 5)
    stage = Stage()
    before = stage.state_dict()["layers.0.weight"].clone()
    with pytest.raises(InputError, match=r"layers\.1\.weight is \[3, 5\], expected \[3, 2\]"):
        fill(stage, found, Path("decoder"))
    assert torch.equal(stage.state_dict()["layers.0.weight"], before)  # nothing was loaded


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    found = weights()
    found["layers.2.bias"][1] = value
    with pytest.raises(InputError, match=r"not finite: layers\.2\.bias"):
        fill(Stage(), found, Path("decoder"))


# A whole checkpoint


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to damage."""
    import shutil

    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def load_error(folder: Path) -> str:
    from edgereel_export.systems import make_a_video

    with pytest.raises(InputError) as error:
        make_a_video.load(folder)
    return str(error.value)


@pytest.mark.parametrize(
    "missing",
    ["cascade.json", "tokenizer/tokenizer.json", "decoder/config.json", "prior/model.safetensors"],
)
def test_a_missing_file_of_a_checkpoint_is_named(checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()
    text = load_error(checkpoint)
    named = missing if not missing.endswith("safetensors") else "prior"
    assert str(checkpoint / named) in text and "checkpoint" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frames": "four"}, "Expected `int`, got `str` - at `$.frames`"),
        ({"colour": 1}, "unknown field `colour`"),
        ({"prediction": "noise"}, "Invalid enum value 'noise'"),
        ({"chunk": 0}, "Expected `int` >= 1 - at `$.chunk`"),
        ({"frames": 0}, "Expected `int` >= 1 - at `$.frames`"),
        ({"skip": 0}, "Expected `int` >= 1 - at `$.skip`"),
        ({"size": -8}, "Expected `int` >= 1 - at `$.size`"),
        ({"fps": 60.0}, "Expected `float` <= 30"),
        ({"steps": {"prior": 3}}, "steps has the keys ['prior'], expected ['decoder', "),
        ({"guidance": {}}, "guidance has the keys [], expected"),
        ({"guidance": {"prior": 2.0, "decoder": -1.0}}, "Expected `float` >= 0"),
    ],
)
def test_a_wrong_profile_is_refused(checkpoint: Path, change: dict[str, Any], told: str) -> None:
    path = checkpoint / "cascade.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    text = load_error(checkpoint)
    assert told in text and "cascade.json" in text and "Correct" in text


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("decoder", {"in_channels": "three"}),
        ("decoder", {"block_out_channels": []}),
        ("decoder", {"groups": 3}),
        ("decoder", {"temperature": 1}),
        ("prior", {"tokens": None}),
        ("prior", {"num_layers": -1}),
        ("text_proj", {"cross_attention_dim": 1.5}),
        ("text_encoder", {"num_attention_heads": 3}),
        ("text_encoder", {"vocab_size": "many"}),
    ],
)
def test_a_wrong_stage_config_is_refused(
    checkpoint: Path, stage: str, change: dict[str, Any]
) -> None:
    path = checkpoint / stage / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    text = load_error(checkpoint)
    assert str(checkpoint / stage) in text


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("decoder", {"in_channels": 4}),
        ("interpolation", {"in_channels": 3}),
        ("super_res_low", {"out_channels": 6}),
    ],
)
def test_stages_that_do_not_fit_their_config_are_refused(
    checkpoint: Path, stage: str, change: dict[str, Any]
) -> None:
    path = checkpoint / stage / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "wrong shapes: conv_" in load_error(checkpoint)
