"""Reads trained layers over frames for the networks of a Karlo checkpoint; the layout is ours.

One file of tensors, whose keys are a network and a key of UNet, joined by a dot:

    decoder.down_blocks.1.resnets.0.conv1_time.weight    [C, C, 3], after every 3 x 3 convolution
    decoder.down_blocks.1.attentions_time.0.to_q.weight  [C, C], after every attention
    decoder.fps_embedding.linear_1.weight                the frame rate
    interpolation.conv_in.weight                         [C, 7, 3, 3], more frames, if wanted
    super_res_first.conv_in_time.weight                  and super_res_last, if wanted

Of the decoder and of interpolation, which has the decoder's other layers, all of these must be
there; of super-resolution, all convolutions over frames or none. The metadata of a safetensors file
may say `frames`, how many the decoder draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from edgereel.errors import InputError
from edgereel_export.checkpoints import fill, read_tensors
from edgereel_export.modules.unet import UNet, UNetConfig

__all__ = ["FRAMES", "IDENTITY", "Timed", "read_temporal"]

IDENTITY = "identity"  # in place of a file: what training starts from
FRAMES = 16  # as published
_MOST_FRAMES = 256
_SUPER_RES = ("super_res_first", "super_res_last")
_NETWORKS = ("decoder", "interpolation", *_SUPER_RES)


@dataclass(frozen=True)
class Timed:
    """Networks with layers over frames, by name, and the frames that the decoder draws."""

    unets: Mapping[str, UNet]
    frames: int


def read_temporal(source: str, spatial: Mapping[str, UNet]) -> Timed:
    """The networks `spatial` of a checkpoint with layers over frames.

    Args:
        source: path of the file, or IDENTITY for a decoder with layers that change nothing.
        spatial: decoder, super_res_first and super_res_last.

    Raises:
        InputError: the file is missing, damaged, or does not fit the networks.
    """
    if source == IDENTITY:
        return Timed({"decoder": _identity(spatial["decoder"])}, FRAMES)
    path = Path(source)
    found = _split(read_tensors(path), path)
    unets = {}
    for name, own in found.items():
        base = spatial["decoder" if name == "interpolation" else name]
        config = _config(name, base.config)
        _check_own(own, name, path)
        kept = {key: value for key, value in base.state_dict().items() if key not in own}
        unets[name] = UNet(config)
        fill(unets[name], kept | own, Path(f"{path} ({name})"))
    return Timed(unets, _frames(path))


def _config(name: str, spatial: UNetConfig) -> UNetConfig:
    """Sizes of a network over frames."""
    if name == "interpolation":  # of its input: noise, known frames, and which are not known
        return replace(spatial, in_channels=7, temporal=True, fps=True)
    return replace(spatial, temporal=True, fps=name == "decoder")


def _identity(spatial: UNet) -> UNet:
    """The network with layers over frames that change nothing."""
    unet = UNet(_config("decoder", spatial.config))
    assert unet.fps_embedding is not None
    for parameter in unet.fps_embedding.parameters():  # some are drawn, with no effect
        nn.init.zeros_(parameter)
    unet.load_state_dict(unet.state_dict() | spatial.state_dict())
    return unet.eval().requires_grad_(False)


def _split(tensors: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network by its own keys, in float32."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        if name not in _NETWORKS or not rest:
            expected = f"keys that begin with a network and a dot: {', '.join(_NETWORKS)}"
            raise _refused(path, f"has {key}", expected)
        found.setdefault(name, {})[rest] = value.float()
    missing = [name for name in ("decoder", *_SUPER_RES) if name not in found]
    if "decoder" in missing:
        raise _refused(path, "has no layers of the decoder", "keys that begin with decoder.")
    if len(missing) == 1:
        raise _refused(path, f"has no layers of {missing[0]}", "both of super-resolution, or none")
    return {name: found[name] for name in _NETWORKS if name in found}


def _check_own(own: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Nothing; raises InputError for a layer that stays the checkpoint's."""
    fresh = ("fps_embedding.", "conv_in.") if name == "interpolation" else ("fps_embedding.",)
    for key in own:
        if "_time." not in key and not key.startswith(fresh):
            raise _refused(
                path,
                f"has {name}.{key}, which is no layer over frames",
                "layers over frames only, as the others stay those of the checkpoint",
            )


def _frames(path: Path) -> int:
    """What the metadata say."""
    text = str(FRAMES)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("frames", text)
    with suppress(ValueError):
        if 1 < int(text) <= _MOST_FRAMES:
            return int(text)
    raise _refused(path, f"has frames {text!r} in its metadata", f"2 to {_MOST_FRAMES}")


def _refused(path: Path, problem: str, expected: str) -> InputError:
    return InputError(
        f"--temporal {path} {problem}; expected {expected}. Write the file as "
        f"karlo_temporal.py says."
    )
