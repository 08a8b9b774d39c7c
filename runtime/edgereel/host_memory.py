"""How much memory this machine, or the container it pretends to be, can still give."""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["free_memory", "peak_memory"]


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes a process can take without swapping; None where Linux does not say.

    The least of the kernel's own estimate and what the cgroup's limit leaves, in which cached
    files that can be dropped at once do not count as used.

    Args:
        root: where proc and sys are; another folder in tests.
    """
    known = []
    available = re.search(r"MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"))
    if available:
        known.append(int(available[1]) * 1024)
    group = root / "sys/fs/cgroup"
    limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        cached = re.search(r"^inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE)
        known.append(max(int(limit) - int(used) + (int(cached[1]) if cached else 0), 0))
    return min(known, default=None)


def peak_memory() -> int | None:
    """Most bytes this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _text(path: Path) -> str:
    """The contents of a file, empty if there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
