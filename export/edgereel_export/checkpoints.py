"""Reads the folders of trained stages: config.json and weights, never a full unpickle."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgereel.errors import InputError

__all__ = [
    "fill",
    "read_config",
    "read_json",
    "read_tensors",
    "read_values",
    "read_weights",
    "tensors_only",
]

_NAMES = (  # of a whole file at full precision; each may also be fp16 or in shards
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of one stage.

    Raises:
        InputError: the folder or its config.json is missing or not JSON.
    """
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in one file of a checkpoint.

    Raises:
        InputError: the file is missing or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"checkpoint: {path} cannot be read ({error.strerror}); expected a folder per stage "
            f"with config.json and weights. Give the checkpoint's top folder with --checkpoint."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"checkpoint: {path} is not JSON ({error}). Copy the checkpoint again."
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"checkpoint: {path} holds no JSON object. Copy the checkpoint again.")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of one stage by key, from one file or from the shards that an index names.

    A file at full precision is preferred to its fp16 variant.

    Raises:
        InputError: no weight file, or it is truncated or holds more than tensors.
    """
    path = next((folder / name for name in _files() if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"checkpoint: {folder} holds no weights; expected one of {', '.join(_NAMES)}, or its "
            f"fp16 variant or index of shards. Copy the checkpoint again."
        )
    return read_tensors(path) if path.suffix != ".json" else _read_shards(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by key, from safetensors, or from a pickle of tensors only.

    Raises:
        InputError: the file is missing or truncated, or holds more than tensors.
    """
    return tensors_only(read_values(path), path)


def read_values(path: Path, *allowed: type) -> object:
    """What one file holds: tensors by key from safetensors, whatever was pickled from others.

    Tensors of a pickle stay in the file until they are used, so those that nobody uses, say of an
    optimiser, take no memory.

    Args:
        path: of the file.
        allowed: classes that a pickle may hold besides tensors, numbers, text and their containers.

    Raises:
        InputError: the file is missing or truncated, or holds objects of other classes.
    """
    _refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)  # others were written before torch 1.6
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise InputError(
            f"checkpoint: {path} cannot be read ({_first_line(error)}); expected a complete weight "
            f"file. It may be half downloaded; copy it again."
        ) from None
    except Exception as error:  # torch's UnpicklingError has no public base of its own
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it holds {found[1]}" if found else _first_line(error)
        raise InputError(
            f"checkpoint: {path} is not a file of tensors only ({what}). Convert it to safetensors "
            f"with the tool that wrote it."
        ) from None


def tensors_only(values: object, path: Path) -> dict[str, Tensor]:
    """The values, which were read from `path`, as a state dict.

    Raises:
        InputError: they are something else.
    """
    tensors = values.items() if isinstance(values, dict) else [("", values)]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors):
        raise InputError(
            f"checkpoint: {path} is not a file of tensors only; expected a state dict, tensors by "
            f"name. Convert it to safetensors with the tool that wrote it."
        )
    return dict(tensors)


def fill(module: nn.Module, weights: Mapping[str, Tensor], place: Path) -> None:
    """Load `weights` into `module`, every key and shape, and set it to evaluation.

    Raises:
        InputError: names up to five missing, unknown, differently shaped and not finite keys.
    """
    own = module.state_dict()
    weights = {key: value for key, value in weights.items() if not key.endswith("position_ids")}
    wrong = [
        f"{key} is {list(value.shape)}, expected {list(own[key].shape)}"
        for key, value in weights.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = [
        _listed("missing keys", sorted(own.keys() - weights.keys())),
        _listed("unknown keys", sorted(weights.keys() - own.keys())),
        _listed("wrong shapes", wrong),
        _listed("not finite", sorted(k for k, v in weights.items() if not v.isfinite().all())),
    ]
    told = "; ".join(problem for problem in problems if problem)
    if told:
        raise InputError(
            f"checkpoint: the weights in {place} do not fit {type(module).__name__}: {told}. "
            f"Check that config.json and weights belong together and to this system."
        )
    module.load_state_dict(weights)
    module.float().eval().requires_grad_(False)


def _files() -> Iterator[str]:
    """Names of weight files and of indices of shards, as transformers and diffusers write them."""
    for variant in ("", ".fp16"):
        for name in _NAMES:
            stem, suffix = name.split(".")
            yield f"{stem}{variant}.{suffix}"
            yield f"{stem}.{suffix}.index{variant}.json"


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards of an index, whose `weight_map` gives the file of each key."""
    places = read_json(index).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    plain = all(isinstance(name, str) and name == Path(name).name for name in names)
    if not names or not plain:  # a name with a folder could leave the checkpoint
        raise InputError(
            f"checkpoint: {index} is no index of shards; expected a weight_map from keys to files "
            f"beside it. Copy the checkpoint again."
        )
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names)):
        tensors |= read_tensors(index.parent / name)
    return tensors


def _refuse_pointer(path: Path) -> None:
    """Nothing; raises InputError for the note that git leaves in the place of a large file."""
    note = b"version https://git-lfs"
    with suppress(OSError), path.open("rb") as file:  # what cannot be opened is told later
        if file.read(len(note)) == note:
            raise InputError(
                f"checkpoint: {path} is a Git LFS pointer; expected the weights it stands for. Run "
                f"`git lfs pull` in the clone of the checkpoint."
            )


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"{what}: {', '.join(items[:5])}{more}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
