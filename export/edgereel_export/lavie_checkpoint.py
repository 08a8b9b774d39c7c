"""Reads the trained UNets of LaVie, and of SEINE, as their authors published them.

    checkpoint/
      lavie_base.pt             text to 16 frames
      lavie_interpolation.pt    16 frames to 61
      lavie_vsr.pt              frames to four times their height and width
      seine.pt                  one or two given frames to a video
      stable-diffusion-v1-4/    see lavie_companions.py
      stable-diffusion-x4-upscaler/

Each file is a pickle with the state dict under `ema`, beside which training may have left its own
weights, optimiser and arguments; or a .safetensors of the same stem with the state dict alone. A
file is needed by the modes that use its stage only.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from edgereel.errors import InputError
from edgereel_export.checkpoints import read_values, tensors_only
from edgereel_export.modules.lavie_vsr import VSRConfig
from edgereel_export.modules.sd_config import DownBlockType, UpBlockType

__all__ = ["Stage", "read_lavie", "stages", "vsr_config"]

Stage = Literal["base", "interpolation", "vsr", "seine"]


class _File(NamedTuple):
    """A stage's file."""

    stem: str
    holds: str  # one of _NETWORKS
    costs: str  # what cannot be done without it
    source: str  # repository on huggingface.co


_FILES: dict[Stage, _File] = {
    "base": _File("lavie_base", "LaVie's base UNet", "text to video", "Vchitect/LaVie"),
    "interpolation": _File(
        "lavie_interpolation",
        "LaVie's interpolation UNet",
        "four times the frames",
        "Vchitect/LaVie",
    ),
    "vsr": _File(
        "lavie_vsr", "LaVie's super-resolution UNet", "four times the size", "Vchitect/LaVie"
    ),
    "seine": _File("seine", "SEINE's UNet", "picture to video", "Vchitect/SEINE"),
}
_NETWORKS = {  # by the kind of temporal attention and the input channels
    ("with positions", 4): "LaVie's base UNet",
    ("without positions", 8): "LaVie's interpolation UNet",
    ("of super-resolution", 7): "LaVie's super-resolution UNet",
    ("with positions", 9): "SEINE's UNet",
    ("", 4): "the UNet of a Stable Diffusion for images",
    ("", 7): "the UNet of the Stable Diffusion x4 upscaler for images",
    ("", 8): "the UNet of InstructPix2Pix for images",
    ("", 9): "the UNet of a Stable Diffusion that inpaints images",
}
_DOWN: dict[bool, DownBlockType] = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
_UP: dict[bool, UpBlockType] = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


def stages(folder: Path) -> tuple[Stage, ...]:
    """The stages whose files are in a checkpoint.

    Raises:
        InputError: there is none; says what `folder` is instead.
    """
    found = tuple(stage for stage in get_args(Stage) if _path(folder, stage))
    if found:
        return found
    what, remedy = "holds none of them", "Correct the path."
    if folder.is_file():
        what, remedy = "is a single file", "Give the folder that it is in."
    elif not folder.is_dir():
        what = "is no folder"
    elif (folder / "model_index.json").is_file():
        what, remedy = "is a whole pipeline of diffusers", "Give the folder above it."
    elif (folder / "pretrained_models").is_dir():
        what, remedy = "has them one folder deeper", "Give its pretrained_models folder."
    files = ", ".join(f"{file.stem}.pt" for file in _FILES.values())
    raise InputError(f"checkpoint: {folder} {what}; expected a folder with {files}. {remedy}")


def read_lavie(folder: Path, wanted: Iterable[Stage]) -> dict[Stage, dict[str, Tensor]]:
    """The state dicts of the wanted stages; tensors of a pickle stay in its file until used.

    Raises:
        InputError: a file is missing, damaged or holds another network, which is named.
    """
    return {stage: _read_stage(folder, stage) for stage in wanted}


def _read_stage(folder: Path, stage: Stage) -> dict[str, Tensor]:
    """The state dict of one stage, known to be of the network that the stage needs."""
    stem, expected, costs, source = _FILES[stage]
    path = _path(folder, stage)
    if path is None:
        raise InputError(
            f"checkpoint: {folder} lacks {stem}.pt; expected it for the modes that need it "
            f"({costs}). Download it from https://huggingface.co/{source}, or leave these out."
        )
    values = read_values(path, Namespace)  # training scripts keep their arguments in it
    averaged = values.get("ema") if isinstance(values, dict) else None
    state = _tensors(values if averaged is None else averaged, path)
    found = _network(state)
    if found != expected:
        theirs = next((file.stem for file in _FILES.values() if file.holds == found), "")
        rename = f"Name it {theirs}{path.suffix} and d" if theirs else "D"
        raise InputError(
            f"checkpoint: {path} holds {found}; expected {expected}. {rename}ownload {stem}.pt "
            f"from https://huggingface.co/{source}."
        )
    if stage == "vsr" and averaged is None and path.suffix == ".pt":
        raise InputError(
            f"checkpoint: {path} has no entry `ema`; expected averaged weights under this name, as "
            f"published. Download it from https://huggingface.co/{source}."
        )
    return state


def _tensors(values: object, path: Path) -> dict[str, Tensor]:
    """The values as a state dict, or an InputError that names what is there instead of `ema`."""
    if isinstance(values, dict) and any(isinstance(value, dict) for value in values.values()):
        raise InputError(
            f"checkpoint: {path} holds {', '.join(map(str, list(values)[:5]))} but not `ema`; "
            f"expected the averaged weights under this name. Download the published file."
        )
    return tensors_only(values, path)


def _network(state: Mapping[str, Tensor]) -> str:
    """What a state dict belongs to, by its keys and the channels of its first convolution."""
    first = state.get("conv_in.weight")
    if first is None or first.ndim != 4:
        whole = any(key.startswith("model.diffusion_model.") for key in state)
        return "a whole Stable Diffusion in one file" if whole else "no UNet of diffusers"
    names = {name for key in state for name in key.split(".")}
    if "attn_temporal" in names:
        temporal = "of super-resolution"
    elif "attn_temp" in names:
        temporal = "with positions" if "time_rel_pos_bias" in names else "without positions"
    else:
        temporal = "of another kind" if any("temp" in name for name in names) else ""
    attention = f" and temporal attention {temporal}" if temporal else ""
    other = f"a UNet with {first.shape[1]} input channels{attention}"
    return _NETWORKS.get((temporal, first.shape[1]), other)


def _path(folder: Path, stage: Stage) -> Path | None:
    """The file of a stage, or None."""
    names = (f"{_FILES[stage].stem}.{suffix}" for suffix in ("safetensors", "pt"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def vsr_config(state: Mapping[str, Tensor], place: Path) -> VSRConfig:
    """The sizes of a super-resolution UNet, which has no config.json, by the shapes of its weights.

    What no shape tells is as published: norms have 32 groups, and only the lowest level has
    self-attention.

    Args:
        state: its weights.
        place: the checkpoint, for errors.

    Raises:
        InputError: weights that tell a size are missing.
    """
    channels = _widths(state, "down_blocks.{}.resnets.0.conv1.weight")
    attention = [f"down_blocks.{n}.attentions.0.norm.weight" in state for n in range(len(channels))]
    block = "mid_block.attentions.0.transformer_blocks.0"
    bias = f"{block}.attn_temporal.time_rel_pos_bias.relative_attention_bias.weight"
    try:
        return VSRConfig(
            in_channels=state["conv_in.weight"].shape[1],
            block_out_channels=tuple(channels),
            layers_per_block=len(_widths(state, "down_blocks.0.resnets.{}.conv1.weight")),
            down_block_types=tuple(_DOWN[each] for each in attention),
            up_block_types=tuple(_UP[each] for each in reversed(attention)),
            cross_attention_dim=state[f"{block}.attn2.to_k.weight"].shape[1],
            attention_head_dim=state[bias].shape[1],
            only_cross_attention=(True,) * (len(channels) - 1) + (False,),
            num_class_embeds=state["class_embedding.weight"].shape[0],
        )
    except KeyError as error:
        raise InputError(
            f"checkpoint: the super-resolution UNet in {place} lacks {error.args[0]}; expected all "
            f"weights that were published. Download it again."
        ) from None


def _widths(state: Mapping[str, Tensor], name: str) -> list[int]:
    """Output channels of the weights `name` with 0, 1, … in it, as far as there are any."""
    found: list[int] = []
    while (weight := state.get(name.format(len(found)))) is not None:
        found.append(weight.shape[0])
    return found
