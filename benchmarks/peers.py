"""Denoising steps: ours beside the published code, torch.compile and a plain export.

On a CPU, or with --device cuda on a GPU. The same weights, inputs and outputs for every way; each
runs in a process of its own, in turn, so that memory is its own, and what it computes is compared
with the first way that can run. Works:

    shapes      every network of the trained cascade `shapes`, a step of each at its full size
    sd15        Text2Video-Zero on the UNet of Stable Diffusion 1.5, two guidance rows
    lavie-base  LaVie's base network at its published size, two guidance rows
    lavie-like  the same at a fifth of the widths, 16 frames of 32 x 32
    small       one to try this program with

Ways:

    published      sd15: diffusers' UNet with the attention of its TextToVideoZeroPipeline;
                   lavie: our modules, but attention as the published code computes it without
                   xformers, with baddbmm, softmax and bmm. Both in eager PyTorch; `shapes` has no
                   published code
    torch          our modules in eager PyTorch, with scaled_dot_product_attention
    torch.compile  the same through inductor
    plain export   torch.onnx.export of the first way, opset 18, on ONNX Runtime's defaults
    ort, openvino, openvino-bf16, trt, ort-cuda
                   ours: the exported graphs on these backends, in the loop of the runtime

On a GPU PyTorch's ways compute in half precision, trt is compiled to fp16, and a plain export stays
in float32. A step begins with what the one before made. With one thread on a CPU the clock is the
processor's time of the process, which other work on the machine lengthens little; else it is the
wall's. Steps are timed after one that warms up, but with --cold, where the first is timed; of
torch.compile always after one.

    python benchmarks/peers.py shapes --threads 1 --rounds 3 --steps 3
    python benchmarks/peers.py sd15 --threads 1 --frames 2 --work DIR --plot bars.png
    python benchmarks/peers.py sd15 lavie-base --device cuda --rounds 3 --steps 10

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers_ways as ways
import torch
from peers_ways import Asked
from shapes_report import machine, peak_rss_bytes

__all__ = ["main"]

Told = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a table per work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="+", choices=ways.WORKS)
    parser.add_argument("--device", default="cpu", choices=ways.DEVICES)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--frames", type=int, help="of sd15 and lavie-base (default: as published)")
    parser.add_argument("--rounds", type=int, default=1, help="in which all ways take turns")
    parser.add_argument("--steps", type=int, default=1, help="that a way is timed in a round")
    parser.add_argument("--cold", action="store_true", help="without a step that warms up")
    parser.add_argument("--skip", action="append", default=[], metavar="WAY")
    parser.add_argument("--limit", type=float, default=1200, help="seconds of a way in a round")
    parser.add_argument("--work", type=Path, help="folder where exported graphs are kept")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="bars of how much faster")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        place = options.work or Path(scratch)
        found = {work: _measured(work, options, place / work) for work in options.works}
    for work, told in found.items():
        print("\n".join(_table(work, told)))
    if options.plot is not None:
        _plot(found, options.plot)
    print(json.dumps({"works": found, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _measured(work: str, options: argparse.Namespace, folder: Path) -> dict[str, Told]:
    """What is known of every way, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in ways.of(work, options.device) if name not in options.skip]
    rounds: dict[str, list[Told]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            if any("cannot" in told for told in rounds[name]):
                continue
            steps = options.steps, options.cold and name != "torch.compile"
            asked = Asked(work, name, folder, options.frames, options.threads, options.device)
            rounds[name].append(_alone(asked, steps, options.limit))
            print(json.dumps({work: {name: rounds[name][-1]}}), file=sys.stderr, flush=True)
    first = next((name for name, told in rounds.items() if "cannot" not in told[-1]), "")
    return {name: _joined(folder, first, name, told) for name, told in rounds.items()}


def _joined(folder: Path, first: str, name: str, told: list[Told]) -> Told:
    """The rounds of a way as one, and how near it comes to the first way."""
    if "cannot" in told[-1]:
        return told[-1]
    seconds = [one["seconds"] for one in told]
    with np.load(_made(folder, name)) as made, np.load(_made(folder, first)) as wanted:
        near = min(_psnr_db(made[key], wanted[key]) for key in wanted)
    joined = {"seconds": statistics.median(seconds), "all_seconds": seconds, "psnr_db": near}
    return told[0] | joined | {"peak_gib": max(one["peak_gib"] for one in told)}


def _alone(asked: Asked, steps: tuple[int, bool], limit: float) -> Told:
    """What a way says, run in a process of its own, or why it cannot."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, asked, *steps))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"cannot": f"not done after {limit:g} s"}
        told: Told = receiver.recv()
        return told
    except EOFError:
        child.join()
        return {"cannot": f"died with exit code {child.exitcode} (-9: out of memory)"}
    finally:
        child.kill()
        child.join()


def _child(sender: Any, asked: Asked, steps: int, cold: bool) -> None:
    try:
        sender.send(_timed(asked, steps, cold))
    except Exception as error:
        sender.send({"cannot": f"{type(error).__name__}: {' '.join(str(error).split()):.200}"})


def _timed(asked: Asked, steps: int, cold: bool) -> Told:
    """Seconds of a step, summed over the networks of a work, and what it took."""
    torch.set_num_threads(asked.threads)
    alone = asked.threads == 1 and asked.device == "cpu"
    clock = time.process_time if alone else time.perf_counter
    begun = clock()
    calls, backend = ways.calls(asked)
    ready, first, seconds = clock() - begun, 0.0, 0.0
    made = {}
    for name, call in calls.items():
        if not cold:
            begun = clock()
            call(1)
            first += clock() - begun
        begun = clock()
        made[name] = call(steps)
        seconds += (clock() - begun) / steps
    np.savez(_made(asked.folder, asked.way), **made)
    told = {"seconds": round(seconds, 4), "ready_seconds": round(ready, 2)}
    told |= {} if cold else {"first_seconds": round(first, 2)}
    precision = {} if backend is None else {"precision": backend.describe()["precision"]}
    return told | {"peak_gib": round(peak_rss_bytes() / 2**30, 2)} | precision


def _made(folder: Path, name: str) -> Path:
    return folder / f"made-{name.replace(' ', '-')}.npz"


def _psnr_db(found: Any, wanted: Any) -> float:
    """Against the largest value of what the first way made."""
    error = float(np.mean((found.astype(np.float64) - wanted) ** 2))
    return round(min(200.0, 10 * float(np.log10(np.abs(wanted).max() ** 2 / (error + 1e-30)))), 1)


def _table(work: str, told: Mapping[str, Told]) -> list[str]:
    """A row per way, in Markdown."""
    head = "| way | step | times as fast | memory | PSNR | before the first step | the first |"
    lines = [f"\n{work}\n", head, "|---|--:|--:|--:|--:|--:|--:|"]
    base = next((one["seconds"] for one in told.values() if "seconds" in one), 0.0)
    for name, one in told.items():
        if "cannot" in one:
            lines.append(f"| {name} | {one['cannot']} | | | | | |")
            continue
        cells = (
            name,
            f"{one['seconds']:.3f} s",
            f"{base / one['seconds']:.2f}",
            f"{one['peak_gib']:.1f} GiB",
            f"{one['psnr_db']:.1f} dB",
            f"{one['ready_seconds']:.1f} s",
            f"{one['first_seconds']:.1f} s" if "first_seconds" in one else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plot(found: Mapping[str, Mapping[str, Told]], path: Path) -> None:
    """How many times as fast as the first way each is, a row of bars per work."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(len(found), squeeze=False, figsize=(7, 2.6 * len(found)))
    for (work, told), (axis,) in zip(found.items(), axes, strict=True):
        shown = {name: one["seconds"] for name, one in told.items() if "seconds" in one}
        first, base = next(iter(shown.items()))
        bars = axis.barh(list(shown), [base / seconds for seconds in shown.values()])
        axis.bar_label(bars, fmt="%.2f", padding=2)
        axis.invert_yaxis()
        axis.set_title(f"{work}: times as fast as {first}")
        axis.margins(x=0.1)
    plt.tight_layout()
    plt.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
