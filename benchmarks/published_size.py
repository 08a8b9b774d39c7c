"""What a cascade costs at its published size: export of every graph, then its fp16 engine.

Needs no GPU and no trained weights: they are drawn while they are written. Graphs are exported in
one process, which never holds a network, and compiled one at a time, each in a process of its own.
A line per graph is added to DIR/results.jsonl as it is done; what is there already is not done
again, so an interrupted run goes on when it is started again. An engine that cannot be compiled is
a line too, and is tried again.

    python benchmarks/published_size.py make-a-video --work DIR
    python benchmarks/published_size.py make-a-video --work DIR --graph decoder --keep

make-a-video needs up to 24 GB of memory and 70 GB of disk. Engines are deleted once they are
measured, unless --keep is given. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from shapes_report import machine, peak_rss_bytes

from edgereel import plan
from edgereel.errors import EngineError
from edgereel.weights import weights
from edgereel_export.trt import Options, build

__all__ = ["main", "table"]

Record = dict[str, Any]
SIZES = ("bytes", "activation_bytes")
PHASES = ("CPU s", "wall s", "peak GiB")
HEADER = ("graph", "parameters", *PHASES, *PHASES, "engine MiB", "activations MiB")


def main(argv: Sequence[str] | None = None) -> int:
    """0; prints a table, whose rows are complete as far as the run came."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=("make-a-video", "emu-video"))
    parser.add_argument("--work", type=Path, required=True, help="folder for files and results")
    parser.add_argument("--graph", action="append", default=[], help="compile these, repeatable")
    parser.add_argument("--keep", action="store_true", help="do not delete the engines")
    parser.add_argument("--compute-capability", default="8.9", metavar="X.Y")
    options = parser.parse_args(argv)
    folder, results = options.work / "cascade", _Results(options.work / "results.jsonl")
    if not (folder / "plan.json").is_file():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(_export, options.system, folder, results).result()
    for name in options.graph or plan.load(folder).graphs:
        if not results.has(name, "engine"):
            capability, keep = options.compute_capability, options.keep
            results.add(name, "engine", **_compiled(folder, name, capability, keep=keep))
    print(table(folder, results.records()))
    told = {"machine": machine(), "command": " ".join(sys.argv), "records": results.records()}
    print(json.dumps(told))
    return 0


class _Results:
    """A file of one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def records(self) -> list[Record]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def has(self, graph: str, phase: str) -> bool:
        """Whether that was done, and done well."""
        last = _last(self.records()).get((graph, phase), {"error": ""})
        return "error" not in last

    def add(self, graph: str, phase: str, **figures: Any) -> None:
        line = json.dumps({"graph": graph, "phase": phase, **figures})
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, file=sys.stderr)


def _export(name: str, folder: Path, results: _Results) -> None:
    """Writes the cascade folder; here alone torch is loaded."""
    from edgereel_export.folder import write_folder
    from edgereel_export.systems import system

    clock, doing = _Clock(resource.RUSAGE_SELF), ["networks and examples"]

    def progress(graph: str, done: int, total: int) -> None:
        results.add(doing.pop(), "export", **clock.lap(), peak_bytes=peak_rss_bytes())
        doing.append(graph or "hashes and plan.json")

    module = system(name)
    cascade = module.load(module.CHECKPOINTS["published"])
    write_folder(cascade, folder, name=f"{name}-published", system=name, progress=progress)
    progress("", 0, 0)


def _compiled(folder: Path, graph: str, capability: str, *, keep: bool) -> Record:
    """The engine of one graph, or why there is none."""
    clock = _Clock(resource.RUSAGE_CHILDREN)
    try:
        made = build(folder, Options(compute_capabilities=(capability,)), graphs=[graph])
    except EngineError as error:
        return {"error": str(error), **clock.lap()}
    engine, taken = made.build.record.graphs[graph], clock.lap()
    if not keep:
        shutil.rmtree(made.build.folder)
    return {
        **taken,
        "bytes": engine.bytes,
        "peak_bytes": engine.peak_rss_bytes,
        "activation_bytes": engine.activation_bytes,
        "decomposed_attention": len(engine.decomposed_attention),
    }


class _Clock:
    """Processor and wall seconds since the last lap; of this process or of ended children."""

    def __init__(self, who: int) -> None:
        self.who = who
        self.started = self._now()

    def lap(self) -> Record:
        before, self.started = self.started, self._now()
        cpu, wall = (now - then for now, then in zip(self.started, before, strict=True))
        return {"cpu_seconds": round(cpu, 1), "seconds": round(wall, 1)}

    def _now(self) -> tuple[float, float]:
        used = resource.getrusage(self.who)
        return used.ru_utime + used.ru_stime, time.monotonic()


def table(folder: Path, records: Sequence[Record]) -> str:
    """A row per graph in the order of the plan, then what could not be compiled."""
    found, rows = _last(records), [HEADER]
    for name, spec in plan.load(folder).graphs.items():
        count = sum(weights(folder / spec.file).values())
        cells = (_cells(phase, found.get((name, phase), {})) for phase in ("export", "engine"))
        rows.append((name, f"{count:,}", *itertools.chain(*cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    lines += [f"{r['graph']}: {r['error']}" for r in found.values() if "error" in r]
    return "\n".join(lines)


def _last(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    """What was told last of a phase of a graph."""
    return {(r["graph"], r["phase"]): r for r in records}


def _cells(phase: str, record: Record) -> tuple[str, ...]:
    seconds = [f"{record[n]:.0f}" if n in record else "-" for n in ("cpu_seconds", "seconds")]
    peak = f"{record['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in record else "-"
    if phase == "export":
        return (*seconds, peak)
    sizes = [f"{record[n] / 2**20:.0f}" if n in record else "-" for n in SIZES]
    return (*seconds, peak, *sizes)


if __name__ == "__main__":
    sys.exit(main())
