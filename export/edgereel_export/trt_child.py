"""Runs trt_engine.py as a child process: progress out of it, cancel into it, errors as errors."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any

import msgspec

from edgereel import errors
from edgereel.errors import EngineError
from edgereel_export.trt_job import Job, Made

__all__ = ["run"]

POLL_SECONDS = 0.2  # how often the caller is asked whether to go on
TAIL = 2000  # characters of the child's stderr shown when it dies


def run(job: Job, tell: Callable[[float, str], None]) -> Made:
    """What the child reports about the engine it wrote.

    Args:
        job: what to compile.
        tell: called at least every POLL_SECONDS; what it raises ends the child and goes on up.

    Raises:
        EngineError: the child refused the graph or died.
    """
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 (a string is needed)
    command = [sys.executable, "-m", "edgereel_export.trt_engine"]
    with tempfile.TemporaryFile("w+", errors="replace") as noise:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        try:
            last = _talk(child, msgspec.json.encode(job).decode(), tell)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if "made" in last:
            return msgspec.convert(last["made"], Made)
        if "error" in last:
            raise getattr(errors, last["kind"], EngineError)(last["error"])
        noise.seek(0)
        raise EngineError(_death(job.graph, code, noise.read()))


def _talk(
    child: subprocess.Popen[str], job: str, tell: Callable[[float, str], None]
) -> dict[str, Any]:
    """The child's last message."""
    assert child.stdin is not None and child.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
    reader.start()
    try:
        child.stdin.write(job)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its stderr says why
    message: dict[str, Any] = {}
    fraction, phase = 0.0, "starting"
    while True:
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            tell(fraction, phase)
            continue
        if line is None:
            reader.join()
            return message
        message = json.loads(line)
        fraction, phase = message.get("fraction", fraction), message.get("phase", phase)
        tell(fraction, phase)


def _read(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def _death(graph: str, code: int, noise: str) -> str:
    """Why a child that said nothing is gone."""
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    todo = "Report the crash with the graph, or compile with precision fp32 to go on"
    if code == -9:
        why += ", which is how a system that runs out of memory ends a process"
        todo = "Free memory, use a smaller size, or lower workspace_mib"
    return (
        f"graph {graph}: the process that compiles it ended with {why}; expected an engine. Its "
        f"last words: {noise[-TAIL:].strip() or 'none'}. {todo}."
    )
