"""Reads Stable Diffusion 1.x as diffusers writes it: model_index.json and one folder per part.

    checkpoint/
      model_index.json    the class of the pipeline and of each part
      unet/  vae/         config.json, diffusion_pytorch_model.safetensors
      text_encoder/       config.json, model.safetensors
      tokenizer/          vocab.json and merges.txt, or tokenizer.json
      scheduler/          scheduler_config.json

A ControlNet comes as a folder of its own with config.json and weights. The x4 upscaler of Stable
Diffusion 2 has the same layout and a `low_res_scheduler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from torch import Tensor, nn
from transformers import (  # type: ignore[attr-defined]  # the tokenizer is made on demand in 5
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizerFast,
)

from edgereel.errors import InputError
from edgereel_export.checkpoints import read_config, read_json, read_weights
from edgereel_export.diffusers_scheduler import SchedulerConfig

__all__ = [
    "Kind",
    "SchedulerConfig",
    "Tokens",
    "check_kind",
    "check_parts",
    "check_text_to_image",
    "check_upscaler",
    "clip_text_model",
    "component",
    "controlnet",
    "described",
    "scheduler",
    "tokenizer",
]

Made = TypeVar("Made")
Kind = Literal["text-to-image", "instruct-pix2pix"]
_PARTS = {  # folder: start of the class that model_index.json gives for it
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "",
}
_UPSCALER_PARTS = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "",
    "low_res_scheduler": "DDPMScheduler",
}
_KINDS: dict[int, Kind] = {4: "text-to-image", 8: "instruct-pix2pix"}  # by channels of the UNet
_EXPECTED = "expected a diffusers folder of Stable Diffusion 1.x, with model_index.json"
_UPSCALER = "expected the diffusers folder of stable-diffusion-x4-upscaler, with model_index.json"
_PLACES = (  # a name that gives a folder away, what the folder is, and what to do
    ("model_index.json", "a whole pipeline", "Give the folder of one part."),
    ("cascade.json", "a Make-A-Video checkpoint", "Build it as make-a-video."),
    ("lavie_base.pt", "a LaVie checkpoint", "Build it as lavie."),
    ("lavie_base.safetensors", "a LaVie checkpoint", "Build it as lavie."),
    ("plan.json", "a cascade that is exported already", "Run it with `edgereel generate`."),
    ("adapter_config.json", "a LoRA", "Give the folder of its base model."),
    ("pytorch_lora_weights.safetensors", "a LoRA", "Give the folder of its base model."),
    ("snapshots", "a cache folder of Hugging Face", "Give the folder inside its snapshots/."),
    ("config.json", "one part of a pipeline", "Give the folder of the whole pipeline."),
)


def check_kind(folder: Path) -> Kind:
    """What a checkpoint of Stable Diffusion 1.x was trained for, told by its UNet's input channels.

    Raises:
        InputError: it is something else, named in the message, or a part is missing.
    """
    check_parts(folder, "StableDiffusionPipeline", _PARTS, _EXPECTED)
    config = read_config(folder / "unet")
    if family := _family(config):
        raise _refused(folder, family)
    channels = config.get("in_channels", 4)
    if channels not in _KINDS:
        what = "an inpainting model" if channels == 9 else "a model of another kind"
        raise _refused(folder, f"{what} (its UNet has {channels} input channels)")
    _check_widths(folder, config.get("cross_attention_dim"))
    return _KINDS[channels]


def check_text_to_image(folder: Path) -> None:
    """Nothing; a folder was found to have the parts of a text-to-image model.

    Raises:
        InputError: it is something else, named in the message, or a part is missing.
    """
    check_parts(folder, "StableDiffusionPipeline", _PARTS, _EXPECTED)


def check_upscaler(folder: Path, width: int | None = None) -> None:
    """Nothing; the x4 upscaler in a folder was found to have its parts.

    Args:
        folder: of the pipeline.
        width: of the text states that the UNet to be used was made for, if it is not the folder's.

    Raises:
        InputError: it is something else, named in the message, or a part is missing.
    """
    parts = dict(_UPSCALER_PARTS)
    if width is None:
        parts["unet"] = _PARTS["unet"]
    check_parts(folder, "StableDiffusionUpscalePipeline", parts, _UPSCALER)
    _check_widths(folder, width or read_config(folder / "unet").get("cross_attention_dim"))


def check_parts(folder: Path, reader: str, parts: Mapping[str, str], wanted: str) -> None:
    """Nothing; a folder was found to have the parts of a pipeline.

    Args:
        folder: of the pipeline.
        reader: diffusers' class for the whole.
        parts: starts of diffusers' classes by the folders of the parts.
        wanted: what is expected, for an error.

    Raises:
        InputError: it is something else, named in the message, or a part is missing.
    """
    if not (folder / "model_index.json").is_file():
        raise _refused(folder, *_told_apart(folder, reader), wanted)
    index = read_json(folder / "model_index.json")
    for part, expected in parts.items():
        entry = index.get(part)
        name = str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "None"
        if not name.startswith(expected):
            told = f"whose {part} is {name}, not {expected}"
            what = f"a {index.get('_class_name')} folder, {told}"
            raise _refused(folder, what, expected=wanted)
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"checkpoint: {folder} lacks {', '.join(missing)}; expected the folders "
            f"{', '.join(parts)}. Copy the checkpoint again."
        )


def component(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of `unet`, `vae` or `text_encoder`, floating weights as f32.

    The keys of a text encoder lose `text_model.`, which transformers 5 no longer writes: they fit
    its CLIPTextModel, and the `text_model` of an earlier one.

    Raises:
        InputError: the part is missing or damaged.
    """
    place = folder / name
    config, weights = read_config(place), read_weights(place)
    if name == "text_encoder":
        weights = {key.removeprefix("text_model."): value for key, value in weights.items()}
    return config, _float32(weights)


def controlnet(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of a folder that holds a ControlNet alone, floating weights as f32.

    Raises:
        InputError: it is something else, named in the message, or damaged.
    """
    expected = "expected the diffusers folder of a ControlNet for Stable Diffusion 1.x"
    if not (folder / "config.json").is_file():
        raise _refused(folder, *_told_apart(folder, "ControlNetModel"), expected)
    config = read_config(folder)
    name = config.get("_class_name")
    if name != "ControlNetModel":
        raise _refused(folder, f"a {name} folder", "Choose another.", expected)
    if family := _family(config):
        raise _refused(folder, f"a ControlNet for {family}", "Choose another.", expected)
    return config, _float32(read_weights(folder))


def clip_text_model(config: Mapping[str, Any], place: Path) -> nn.Module:
    """The text model of a config.json that was read from the folder `place`, without weights.

    Raises:
        InputError: no such model can be made.
    """
    model: nn.Module = described(
        lambda known: CLIPTextModel(CLIPTextConfig(**known)), config, place, "a CLIP text model"
    )
    return model


def described(
    make: Callable[[dict[str, Any]], Made], config: Mapping[str, Any], place: Path, what: str
) -> Made:
    """What `make` makes of a config.json that was read from `place`.

    Raises:
        InputError: it cannot; `what` says what was expected.
    """
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return make(known)
    except Exception as error:  # transformers raises many kinds for impossible sizes
        raise InputError(
            f"checkpoint: {place} does not describe {what} ({' '.join(str(error).split()):.200}); "
            f"expected the sizes of its weights. Copy the checkpoint again."
        ) from None


@dataclass(frozen=True)
class Tokens:
    """A tokenizers JSON, and what ids [G, length] are filled with after a text."""

    json: str
    length: int
    pad_id: int


def tokenizer(folder: Path) -> Tokens:
    """The tokenizer of a checkpoint: its tokenizer.json, or made of the files before that.

    Raises:
        InputError: files are missing or damaged, or there are more tokens than the text encoder
            has embeddings for.
    """
    place = folder / "tokenizer"
    whole = place / "tokenizer.json"
    missing = [name for name in ("vocab.json", "merges.txt") if not (place / name).is_file()]
    if missing and not whole.is_file():
        raise InputError(
            f"checkpoint: {place} lacks {' and '.join(missing)}; expected tokenizer.json, or "
            f"vocab.json and merges.txt. Copy the checkpoint again."
        )
    encoder = _decoded(folder / "text_encoder" / "config.json", _TextConfig)
    try:
        loaded = CLIPTokenizerFast.from_pretrained(place, local_files_only=True)
        length = min(int(loaded.model_max_length), encoder.max_position_embeddings)
        pad_id = int(loaded.pad_token_id)
    except Exception as error:  # tokenizers raises a plain Exception
        raise InputError(
            f"checkpoint: {place} cannot be read ({' '.join(str(error).split()):.200}); expected "
            f"the tokenizer of CLIP. Copy the checkpoint again."
        ) from None
    last = max(loaded.get_vocab().values())
    if last >= encoder.vocab_size:
        raise InputError(
            f"checkpoint: the tokenizer in {place} has ids up to {last}; expected less than the "
            f"text encoder's {encoder.vocab_size}. Take both from one checkpoint."
        )
    text = whole.read_text("utf-8") if whole.is_file() else loaded.backend_tokenizer.to_str()
    return Tokens(text, length, pad_id)


def scheduler(folder: Path, name: str = "scheduler") -> SchedulerConfig:
    """The noise schedule of a checkpoint; an upscaler also has a `low_res_scheduler`.

    Raises:
        InputError: the file is missing or damaged, or asks for what cannot be done.
    """
    return _decoded(folder / name / "scheduler_config.json", SchedulerConfig)


class _TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the rest of a checkpoint must fit; defaults as in transformers' CLIPTextConfig."""

    hidden_size: int = 512
    vocab_size: int = 49408
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=3)] = 77


_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def _decoded(path: Path, kind: type[_Struct]) -> _Struct:
    """The fields of a JSON file that `kind` has; others are not looked at."""
    try:
        return msgspec.convert(read_json(path), kind)
    except msgspec.ValidationError as error:
        raise InputError(
            f"checkpoint: {path}: {error}. Check that the checkpoint is a Stable Diffusion 1.x."
        ) from None


def _check_widths(folder: Path, width: object) -> None:
    """Nothing; raises InputError for a text encoder of another model than the UNet."""
    found = _decoded(folder / "text_encoder" / "config.json", _TextConfig).hidden_size
    if found != width:
        raise InputError(
            f"checkpoint: the text encoder of {folder} gives states of width {found}; expected "
            f"{width}, the cross_attention_dim of its UNet. Take both from one checkpoint."
        )


def _family(config: dict[str, Any]) -> str:
    """The later Stable Diffusion that the config of a UNet or a ControlNet belongs to, or ''."""
    width = config.get("cross_attention_dim")
    if config.get("addition_embed_type") or width == 2048:
        return "Stable Diffusion XL"
    return "Stable Diffusion 2.x" if config.get("use_linear_projection") or width == 1024 else ""


def _told_apart(folder: Path, reader: str) -> tuple[str, str]:
    """What a path without the expected file is, and what to do; `reader` is diffusers' class."""
    if folder.is_file():
        convert = f"diffusers.{reader}.from_single_file(FILE).save_pretrained(FOLDER)"
        return "a single file", f"Convert it with {convert}."
    if not folder.is_dir():
        return "no folder", "Correct the path."
    for name, what, remedy in _PLACES:
        if (folder / name).exists():
            return what, remedy
    return "a folder of something else", "Correct the path."


def _refused(
    folder: Path, what: str, remedy: str = "Choose another.", expected: str = _EXPECTED
) -> InputError:
    return InputError(f"checkpoint: {folder} is {what}; {expected}. {remedy}")


def _float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with half precision widened."""
    return {
        key: value.float() if value.is_floating_point() else value for key, value in weights.items()
    }
