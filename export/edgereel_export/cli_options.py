"""The options of `python export/build.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["parser"]


def parser(description: str) -> argparse.ArgumentParser:
    """Of `python export/build.py`."""
    made = argparse.ArgumentParser(
        prog="build.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "system",
        metavar="SYSTEM",
        help="make-a-video, text2video-zero, lavie, emu-video, shapes, or compile",
    )
    add("folder", nargs="?", type=Path, help="the cascade folder, for compile")
    add("--checkpoint", type=Path, metavar="DIR", help="top folder of the trained stages")
    add("--size", help="a checkpoint that comes with Edgereel, instead of --checkpoint")
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA to merge into a Stable Diffusion checkpoint, repeatable",
    )
    add(
        "--controlnet",
        action="append",
        default=[],
        metavar="MODE=DIR",
        help="a ControlNet and the mode it makes (canny, depth or pose), repeatable",
    )
    add(
        "--mode",
        action="append",
        default=[],
        metavar="NAME",
        help="a mode the cascade is to have, repeatable (default: all that the checkpoint can do)",
    )
    add(
        "--temporal",
        metavar="FILE",
        help="trained layers over frames for a checkpoint of Karlo, or `identity` for untrained "
        "ones, which change nothing",
    )
    add(
        "--super-res-high",
        metavar="DIR",
        help="what makes the frames of make-a-video larger at the end: Stable Diffusion's x4 "
        "upscaler in diffusers' layout, or `bicubic` for no network (default: the checkpoint's)",
    )
    add("--out", type=Path, metavar="DIR", help="folder to write (default: engines/NAME)")
    add("--backend", choices=("ort", "trt"), default="ort", help="trt also compiles engines")
    add(
        "--precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="of the engines, where the plan does not say it of a graph",
    )
    add(
        "--compute-capability",
        action="append",
        metavar="X.Y",
        help="GPU to compile for, repeatable (default: this GPU, or all that are supported)",
    )
    add("--workspace", type=int, metavar="MiB", help="most scratch memory of a kernel")
    add("--optimization-level", type=int, metavar="0-5", help="effort of the engine builder")
    add(
        "--profile",
        action="append",
        default=[],
        metavar="PARAM=SIZES",
        help="sizes the engines take instead of a default, repeatable: height=512, frames=16,24 or "
        "8..32, control_video=288x512",
    )
    add(
        "--bucket",
        action="append",
        default=[],
        metavar="FxHxW[xB]",
        help="frames, height and width, and perhaps guidance rows, that the engines take exactly, "
        "repeatable: 16x320x512",
    )
    add(
        "--weight-streaming",
        action="store_true",
        help="where weights do not fit into the GPU's memory, the rest comes from the host's",
    )
    add(
        "--refit",
        action="store_true",
        help="engines take other weights without compiling again, such as a LoRA's; needs a GPU",
    )
    add(
        "--refit-weights",
        action="append",
        default=[],
        metavar="PATTERN",
        help="as --refit, but only of layers named so, such as '*attn*', repeatable",
    )
    add(
        "--no-ranges",
        action="store_true",
        help="do not measure, on reference inputs, which values half precision cannot hold",
    )
    add(
        "--layout",
        choices=("video", "folded"),
        default="video",
        help="of engines with convolutions over frames: folded keeps frames in the batch, as the "
        "graphs have them (default: video, which moves less memory)",
    )
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="GRAPH",
        help="a graph whose attention over frames is to be TensorRT's plugin (kernels/README.md) "
        "instead of its definition, repeatable",
    )
    add("--debug", action="store_true", help="show the traceback of an error")
    return made
