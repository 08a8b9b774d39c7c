"""Registers and spills of the kernels for GPUs, by nvcc; none may spill.

    python kernels/tests/registers.py            # 8.0, 8.6, 8.7, 8.9, 9.0 and 12.0
    python kernels/tests/registers.py 80 120

Needs nvcc 12.8 or newer and no GPU; about ten seconds of a core for each.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "temporal_attention.cu"
ARCHITECTURES = ("80", "86", "87", "89", "90", "120")

# float or half; steps of 64 bytes; whether pairs lie half a head apart; whether F is at most 16
_KERNEL = re.compile(
    r"attendI([ft])Li(\d+)ELb([01])ELb([01])E.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
    re.DOTALL,
)


class Kernel(NamedTuple):
    """One compiled kernel."""

    architecture: str
    kind: str
    steps: int
    halves: bool
    short: bool
    registers: int
    spilled_bytes: int
    shared_bytes: int


def compiled(architecture: str) -> list[Kernel]:
    """The kernels as nvcc compiles them; RuntimeError with what it says if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", "-Xptxas=-v", "-Werror=all-warnings"]
        command += [f"-arch=sm_{architecture}", "-c", str(SOURCE), "-o", f"{folder}/kernels.o"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    parts = done.stderr.split("Compiling entry function")[1:]
    found = [match for part in parts if (match := _KERNEL.search(part))]
    if not found or len(found) != len(parts):
        raise RuntimeError(f"cannot read what nvcc says of {len(parts)} kernels:\n{done.stderr}")
    return [
        Kernel(architecture, "half" if kind == "t" else "float", int(steps), halves == "1",
               short == "1", int(registers), int(stores) + int(loads), int(shared or 0))
        for kind, steps, halves, short, stores, loads, registers, shared in (
            match.groups() for match in found
        )
    ]  # fmt: skip


def table(kernels: list[Kernel]) -> str:
    """A line for each kernel."""
    lines = ["arch  type   d up to  pairs        frames  registers  spilled  shared"]
    for k in kernels:
        width = k.steps * (32 if k.kind == "half" else 16)
        pairs, frames = "halves" if k.halves else "interleaved", "to 16" if k.short else "more"
        lines.append(
            f"{k.architecture:5} {k.kind:6} {width:7}  {pairs:11}  {frames:6}  {k.registers:9}  "
            f"{k.spilled_bytes:7}  {k.shared_bytes:6}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """0; 1 where a kernel spills or cannot be compiled; 2 without nvcc."""
    if shutil.which("nvcc") is None:
        print("nvcc is not here; it comes with the CUDA toolkit", file=sys.stderr)
        return 2
    kernels: list[Kernel] = []
    for architecture in argv or ARCHITECTURES:
        try:
            kernels += compiled(architecture)
        except RuntimeError as error:
            print(f"{architecture}: {error}", file=sys.stderr)
            return 1
    print(table(kernels))
    spilling = sum(k.spilled_bytes > 0 for k in kernels)
    print(f"{len(kernels)} kernels, {spilling} spill")
    return spilling > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
