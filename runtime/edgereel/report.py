"""What `edgereel verify` found: where it falls short, as text and as JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgereel import checks
from edgereel.cli_table import table
from edgereel.plan import Plan
from edgereel.trace import Trace, plan_hash

__all__ = ["Drift", "Report", "Run", "by_graph", "decibels", "document", "lines", "number"]


@dataclass(frozen=True)
class Run:
    """A run of the cascade beside the reference run, with the same noise."""

    trace: Trace
    reference: Trace
    steps: Sequence[checks.Step]
    frames: checks.Likeness | None  # None: the run failed

    @property
    def first(self) -> checks.Step | None:
        """The first call of a graph that drifts further than it may."""
        return next((step for step in self.steps if not step.ok), None)


@dataclass(frozen=True)
class Report:
    """All of it."""

    command: str
    plan: Plan
    backend: dict[str, str]  # what ran, and why this
    machine: Sequence[tuple[str, str]]
    graphs: Sequence[checks.Graph]
    unchecked: Sequence[str]  # graphs that were to be checked and have no reference vectors
    run: Run | None

    @property
    def short(self) -> list[str]:
        """Where the cascade falls short on this device, in words; empty if it does not."""
        found = [
            f"graph {g.graph}: "
            + (
                f"{g.output} differs by {number(g.max_abs)}, allowed {number(g.allowed)}"
                if g.finite
                else f"{g.output} is not finite"
            )
            for g in self.graphs
            if not g.ok
        ]
        if self.run is not None:
            if (first := self.run.first) is not None:
                found.append(
                    f"the run leaves the reference in {_place(first)}: graph {first.graph} drifts "
                    f"by {number(first.drift)}, allowed {number(first.allowed)}"
                )
            if self.run.trace.failed:
                found.append(self.run.trace.failed.rstrip("."))
            if self.run.frames is not None:
                found += [f"frames: {words}" for words in self.run.frames.short]
        elif not self.graphs:
            found.append("nothing was checked: no graph has reference vectors, and no run was made")
        return found

    @property
    def verdict(self) -> str:
        """The last word, in one line."""
        if self.short:
            return f"Wrong on this device: {'; '.join(self.short)}."
        of = len(self.graphs) + len(self.unchecked)
        run = f" and {len(self.run.steps)} calls of a run" if self.run is not None else ""
        return f"{len(self.graphs)} of {of} graphs{run} checked, all right on this device."


@dataclass(frozen=True)
class Drift:
    """The calls of one graph in one stage of a run."""

    stage: str
    graph: str
    calls: int
    first: float  # drift of the first call
    largest: checks.Step
    cosine: float  # least
    verdict: str


def by_graph(run: Run) -> list[Drift]:
    """The calls of a run, joined by stage and graph, in the order of their first call."""
    places = dict.fromkeys((step.stage, step.graph) for step in run.steps)
    found, first = list[Drift](), run.first
    for stage, graph in places:
        calls = [step for step in run.steps if (step.stage, step.graph) == (stage, graph)]
        worst = max(calls, key=lambda step: step.drift)
        verdict = "ok" if all(step.ok for step in calls) else "after that"
        if first in calls:
            verdict = "WRONG"
        least = min(step.cosine for step in calls)
        found.append(Drift(stage, graph, len(calls), calls[0].drift, worst, least, verdict))
    return found


def lines(report: Report) -> list[str]:
    """The report as text, the verdict on its last line."""
    told = [*_graph_lines(report)]
    if report.run is not None:
        told += ["", *_run_lines(report.run)]
    return [*told, "", report.verdict]


def _graph_lines(report: Report) -> list[str]:
    head = ("graph", "worst output", "max error", "allowed", "mean error", "cosine", "PSNR", "")
    rows: list[tuple[str, ...]] = [head]
    for g in report.graphs:
        verdict = "ok" if g.ok else "WRONG" if g.finite else "WRONG: not finite"
        errors = number(g.max_abs), number(g.allowed), number(g.mean_abs)
        rows.append((g.graph, g.output, *errors, f"{g.cosine:.6f}", decibels(g.psnr_db), verdict))
    rows += [(name, *[""] * 6, "not checked: no reference vectors") for name in report.unchecked]
    return ["Graphs on their reference inputs", *table(rows)]


def _run_lines(run: Run) -> list[str]:
    its = run.reference.metadata
    given = ", ".join(f"{name} {value!r}" for name, value in run.trace.params.items())
    told = [
        f"A run of mode {run.trace.mode} ({given})",
        f"  beside one by {its['backend']}, {its['library']}, {its['device']}; drift after a call:",
    ]
    rows = [("stage", "graph", "calls", "first", "largest", "in", "allowed", "cosine", "")]
    for d in by_graph(run):
        worst = d.largest
        drifts = number(d.first), number(worst.drift), _call(worst), number(worst.allowed)
        rows.append((d.stage, d.graph, str(d.calls), *drifts, f"{d.cosine:.6f}", d.verdict))
    told += table(rows)
    return told + (_frame_lines(run.frames) if run.frames is not None else [])


def _frame_lines(found: checks.Likeness) -> list[str]:
    limits, rows = found.limits, [("frames", "", "allowed", "")]
    worst = min(range(len(found.psnr_by_frame)), key=found.psnr_by_frame.__getitem__)
    least = f"least {decibels(found.psnr_by_frame[worst])} in frame {worst}"
    rows.append(("PSNR", decibels(found.psnr_db), f"{limits.psnr_db:g} dB", least))
    if found.ssim is not None:
        least = f"least {min(s for s in found.ssim_by_frame if s is not None):.4f}"
        rows.append(("SSIM", f"{found.ssim:.4f}", f"{limits.ssim:g}", least))
    if found.flicker_error is not None:
        shown = f"flicker {found.flicker:.2f}, of the reference {found.reference_flicker:.2f}"
        rows.append(("flicker error", f"{found.flicker_error:.2f}", f"{limits.flicker:g}", shown))
    return ["", *table(rows)]


def document(report: Report) -> dict[str, Any]:
    """The report as JSON values; null where a number is infinite."""
    run = report.run
    content = {
        "command": report.command,
        "ok": not report.short,
        "short": report.short,
        "cascade": {
            "name": report.plan.name,
            "system": report.plan.system,
            "folder": str(report.plan.folder),
            "plan_sha256": plan_hash(report.plan),
        },
        "backend": report.backend,
        "machine": dict(report.machine),
        "limits": {name: asdict(limits) for name, limits in checks.LIMITS.items()},
        "graphs": [asdict(graph) for graph in report.graphs],
        "unchecked": list(report.unchecked),
        "run": None
        if run is None
        else {
            "metadata": run.trace.metadata,
            "reference": run.reference.metadata,
            "failed": run.trace.failed,
            "steps": [asdict(step) for step in run.steps],
            "frames": None if run.frames is None else asdict(run.frames),
        },
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _place(step: checks.Step) -> str:
    return f"stage {step.stage!r}, {_call(step)}"


def _call(step: checks.Step) -> str:
    chunk = f"chunk {step.chunk + 1}, " if step.chunk else ""
    return f"{chunk}step {step.step} of {step.steps}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def decibels(value: float) -> str:
    """A PSNR."""
    return "exact" if value == math.inf else f"{value:.1f} dB"
