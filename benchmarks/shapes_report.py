"""What measured clips of the `shapes` cascade add up to, as numbers and as a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shapes_measure import LIMIT, NOTHING

__all__ = ["FIELDS", "machine", "peak_rss_bytes", "quality", "seconds", "table", "wrong_fields"]

Record = Mapping[str, Any]
FIELDS = ("colour", "shape", "motion")
_PACKAGES = ("edgereel", "numpy", "onnxruntime", "imageio-ffmpeg", "torch")


def wrong_fields(record: Record) -> list[str]:
    """The fields in which a clip does not show what was asked."""
    return [field for field in FIELDS if record["seen"][field] != record[field]]


def quality(records: Sequence[Record]) -> dict[str, Any]:
    """Shares right in percent of all clips, and the drift of standing shapes.

    A standing shape that cannot be followed has no drift; it is counted as unmeasured and the
    limit is then not held.
    """
    wrong = [wrong_fields(record) for record in records]
    share = {
        field: _percent(sum(field not in fields for fields in wrong), len(records))
        for field in FIELDS
    }
    drifts = [record["seen"]["drift"] for record in records if record["motion"] == "still"]
    measured = [drift for drift in drifts if drift is not None]
    return {
        "clips": len(records),
        **{f"{field}_percent": value for field, value in share.items()},
        "all_three_percent": _percent(sum(not fields for fields in wrong), len(records)),
        "standing_clips": len(drifts),
        "standing_drift_max": round(max(measured), 4) if measured else None,
        "standing_unmeasured": len(drifts) - len(measured),
        "standing_drift_held": len(measured) == len(drifts) and max(measured, default=0) < LIMIT,
        "clips_with_empty_frames": sum(record["seen"]["empty"] > 0 for record in records),
        "clips_of_nothing": sum(record["seen"]["colour"] == NOTHING for record in records),
        "template_overlap_median": round(float(np.median([r["seen"]["fit"] for r in records])), 4),
    }


def seconds(records: Sequence[Record]) -> dict[str, Any]:
    """Seconds per video, cascade and mp4, and of its stages; the graphs load in the first video."""
    spent = np.array([record["seconds"] for record in records])
    stages = records[0]["stage_seconds"]
    return {
        "mean": round(float(spent.mean()), 3),
        "p50": round(float(np.quantile(spent, 0.5)), 3),
        "p90": round(float(np.quantile(spent, 0.9)), 3),
        "max": round(float(spent.max()), 3),
        "stages_p50": {
            name: round(float(np.median([r["stage_seconds"][name] for r in records])), 3)
            for name in stages
        },
    }


def machine() -> dict[str, Any]:
    """Versions and the machine, without names of places or people."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def peak_rss_bytes() -> int:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def table(results: Mapping[str, Mapping[str, Any]], records: Sequence[Record]) -> Iterator[str]:
    """The lines of a readable report.

    Args:
        results: `quality` by wording.
        records: all clips, for the list of the wrong ones.
    """
    yield "wording    clips  colour   shape  motion  all three  drift of standing shapes"
    for wording, result in results.items():
        shares = [result[f"{field}_percent"] for field in (*FIELDS, "all_three")]
        drift = result["standing_drift_max"]
        shown = "none measured" if drift is None else f"max {drift:.1%} of the frame"
        if result["standing_unmeasured"]:
            shown += f", {result['standing_unmeasured']} not measurable"
        held = "held" if result["standing_drift_held"] else "NOT held"
        yield (
            f"{wording:<9}{result['clips']:>7}"
            + "".join(f"{share:>7.1f}%" for share in shares[:3])
            + f"{shares[3]:>10.1f}%  {shown} (limit {LIMIT:.0%} {held})"
        )
    wrong = [record for record in records if wrong_fields(record)]
    if wrong:
        yield ""
        yield "measured as something else:"
    for record in wrong:
        seen = ", ".join(f"{field} {record['seen'][field]}" for field in wrong_fields(record))
        yield f"  {record['prompt']} (seed {record['seed']}): {seen}"


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2)


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _commit() -> str | None:
    """The checked-out commit, with a + where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).parent
    head, changes = (
        subprocess.run([git, *words], cwd=here, capture_output=True, text=True, check=False)
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno"))
    )
    return (
        None if head.returncode else head.stdout.strip() + ("+" if changes.stdout.strip() else "")
    )
