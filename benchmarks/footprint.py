"""What Edgereel takes to install and to start, beside diffusers with PyTorch.

Two empty environments are made with pip: `edgereel[ort]`, as a wheel of this clone, and what
diffusers' installation page names, `diffusers[torch] transformers`, with torch's build for CPUs,
the smaller one. Told are their sizes without pip and setuptools, by distribution; how much pip
would download for both from PyPI alone, where torch comes with CUDA on Linux; and, in processes
that take turns, the median time from the start of Python until

    the import is done    `import edgereel; edgereel.load`, `from diffusers import <pipeline>`
    frames are there      Text2Video-Zero from the same weights, the small ones of drawn shapes:
                          engines/text2video-zero-shapes, and diffusers' TextToVideoZeroPipeline

Files are in the system's cache. The first frame of this method is there when all are.

    python export/build.py text2video-zero --size shapes
    python benchmarks/footprint.py
    python benchmarks/footprint.py --keep /tmp/environments --threads 1

pip has to find torch's build for CPUs: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
The output is markdown; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "export" / "edgereel_export" / "shapes" / "stable_diffusion"
PEER = ("torch==2.13.0+cpu", "diffusers[torch]", "transformers")
FROM_PYPI = ("torch==2.13.0", *PEER[1:])
IMPORTS = {
    "edgereel": "import edgereel; edgereel.load; print()",
    "diffusers": "from diffusers import TextToVideoZeroPipeline; print()",
}
# The timesteps 601 and 661 of the shapes checkpoint are the 31st and 34th from the end of 50.
FRAMES = {
    "edgereel": """
import sys, edgereel
cascade = edgereel.load(sys.argv[1], backend="ort", threads=int(sys.argv[2]) or None)
video = cascade("a red circle", steps=50, t0=601, t1=661, frames=8, height=128, width=128,
                guidance=5.0, motion_x=12.0, motion_y=12.0)
print(video.frames.shape)
""",
    "diffusers": """
import sys, torch
from diffusers import TextToVideoZeroPipeline
if int(sys.argv[2]):
    torch.set_num_threads(int(sys.argv[2]))
pipeline = TextToVideoZeroPipeline.from_pretrained(
    sys.argv[1], safety_checker=None, feature_extractor=None, requires_safety_checker=False)
video = pipeline("a red circle", num_inference_steps=50, t0=30, t1=33, video_length=8, height=128,
                 width=128, guidance_scale=5.0, motion_field_strength_x=12,
                 motion_field_strength_y=12)
print(tuple(video.images.shape))
""",
}
Run = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Installs, measures and prints; returns the exit code."""
    options = _options(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        wheel = _wheel(folder / "wheel")
        wanted = {"edgereel": (f"{wheel}[ort]",), "diffusers": PEER}
        pythons = {name: _environment(folder / name, what) for name, what in wanted.items()}
        sizes = {name: _sizes(python) for name, python in pythons.items()}
        downloads = {
            "edgereel": _download(pythons["edgereel"], wanted["edgereel"]),
            "diffusers": _download(pythons["diffusers"], FROM_PYPI),
        }
        imports = _in_turn(pythons, IMPORTS, {}, options.imports)
        words = {"edgereel": options.cascade, "diffusers": CHECKPOINT}
        given = {name: [str(path), str(options.threads)] for name, path in words.items()}
        frames = _in_turn(pythons, FRAMES, given, options.runs)
    _report(sizes, downloads, imports, frames)
    import shapes_report  # brings torch: only after all was measured

    facts = {"sizes": sizes, "downloads": downloads, "imports": imports, "frames": frames}
    print(json.dumps({**facts, "machine": shapes_report.machine(), "command": sys.argv}))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "engines" / "text2video-zero-shapes"
    parser.add_argument("--cascade", type=Path, default=default, metavar="DIR")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environments there once")
    parser.add_argument("--imports", type=int, default=9, help="how often each is imported")
    parser.add_argument("--runs", type=int, default=3, help="how often each makes a video")
    parser.add_argument("--threads", type=int, default=0, help="of both (default: their choice)")
    options = parser.parse_args(argv)
    if not (options.cascade / "plan.json").is_file():
        parser.error(
            f"{options.cascade} is no cascade. Build one: python export/build.py text2video-zero "
            "--size shapes"
        )
    return options


def _wheel(folder: Path) -> Path:
    """The wheel of this clone, built from a copy, as building leaves files in the sources."""
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            sources = Path(temporary) / "edgereel"
            for name in ("runtime", "export"):
                other = shutil.ignore_patterns("cpp", "*.safetensors", "*.egg-info", "__pycache__")
                shutil.copytree(ROOT / name, sources / name, ignore=other)
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / name, sources)
            _pip(sys.executable, "wheel", "--no-deps", "-w", str(folder), str(sources))
    return next(folder.glob("*.whl"))


def _environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that has these and nothing else."""
    python = folder / "bin" / "python"
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _pip(str(python), "install", *requirements)
    return python


def _pip(python: str, *words: str, **environment: str) -> str:
    """What pip prints."""
    command = [python, "-m", "pip", "--quiet", *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return done.stdout


def _sizes(python: Path) -> dict[str, int]:
    """Bytes of the files of each distribution, what pip compiled of them included."""
    (folder,) = python.parents[1].glob("lib/python3*/site-packages")
    found = {}
    for one in importlib.metadata.distributions(path=[str(folder)]):
        files = [Path(str(one.locate_file(file))) for file in one.files or ()]
        found[one.metadata["Name"]] = sum(file.stat().st_size for file in files if file.is_file())
    return {name: size for name, size in found.items() if name not in ("pip", "setuptools")}


def _download(python: Path, requirements: Sequence[str]) -> dict[str, int]:
    """Bytes that pip would fetch from PyPI by distribution; nothing is installed."""
    plain = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    words = ("install", "--dry-run", "--ignore-installed", "--report", "-", *requirements)
    found = {}
    for item in json.loads(_pip(str(python), *words, **plain))["install"]:
        asked = urllib.request.Request(item["download_info"]["url"], method="HEAD")
        with urllib.request.urlopen(asked) as answer:
            found[item["metadata"]["name"]] = int(answer.headers["Content-Length"])
    return found


def _in_turn(
    pythons: dict[str, Path], codes: dict[str, str], words: dict[str, list[str]], count: int
) -> dict[str, list[Run]]:
    """Runs of each program, after one of each that is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in pythons}
    for index in range(count + 1):
        for name, python in pythons.items():
            run = _measured([str(python), "-c", codes[name], *words.get(name, [])])
            runs[name] += [run] if index else []
    said = {run["said"] for found in runs.values() for run in found}
    if len(said) != 1:
        raise SystemExit(f"not the same work: {said}")
    return runs


def _measured(words: Sequence[str]) -> Run:
    """Seconds until a process prints a line, what it says, its processor time, most memory."""
    started = time.monotonic()
    child = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    assert child.stdout is not None
    said = child.stdout.readline()
    spent = time.monotonic() - started
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or not said:
        raise SystemExit(f"{words[0]} failed:\n{words[2]}")
    return {
        "said": said.strip(),
        "seconds": round(spent, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def _report(
    sizes: dict[str, dict[str, int]],
    downloads: dict[str, dict[str, int]],
    imports: dict[str, list[Run]],
    frames: dict[str, list[Run]],
) -> None:
    def row(words: str, values: dict[str, float], unit: str) -> None:
        ours, other = values["edgereel"], values["diffusers"]
        print(f"| {words} | {ours:.4g} {unit} | {other:.4g} {unit} | {ours / other:.3f} |")

    def total(of: dict[str, dict[str, int]]) -> dict[str, float]:
        return {name: sum(parts.values()) / 2**20 for name, parts in of.items()}

    def median(runs: dict[str, list[Run]], field: str, scale: float = 1) -> dict[str, float]:
        return {n: statistics.median(run[field] for run in r) / scale for n, r in runs.items()}

    print("| | Edgereel | diffusers | Edgereel / diffusers |\n|---|--:|--:|--:|")
    row("installed, torch for CPUs", total(sizes), "MiB")
    row("downloaded from PyPI, torch with CUDA", total(downloads), "MiB")
    row("start to import done", median(imports, "seconds"), "s")
    row("its processor time", median(imports, "cpu_seconds"), "s")
    row("start to frames", median(frames, "seconds"), "s")
    row("its processor time", median(frames, "cpu_seconds"), "s")
    row("most memory", median(frames, "peak_rss_bytes", 2**20), "MiB")
    for name, parts in sizes.items():
        large = sorted(((size, part) for part, size in parts.items()), reverse=True)[:10]
        rest = sum(parts.values()) - sum(size for size, _ in large)
        told = ", ".join(f"{part} {size / 2**20:.0f}" for size, part in large)
        print(f"\n{name}, MiB: {told}, {len(parts) - len(large)} others {rest / 2**20:.0f}.")
    print(
        f"\nMedians of {len(imports['edgereel'])} imports and {len(frames['edgereel'])} videos.\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
