"""What `edgereel verify` found as one HTML page: no scripts, pictures inside it, light and dark."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from edgereel import report_chart
from edgereel.checks import LIMITS, Likeness
from edgereel.report import Drift, Report, Run, by_graph, decibels, number
from edgereel.trace import plan_hash

__all__ = ["page", "png"]

Picture = NDArray[np.uint8]

_SHOWN = 6  # frames: evenly spread ones and the worst
_LONGEST_PX = 384  # larger pictures are shown smaller
_TIMES = 8  # how much a difference is enlarged

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60656d; --line: #d9dce1; --back: #fff;
  --good: #17663a; --bad: #b3261e; --badback: #fdeceb; --goodback: #e8f5ed; --band: #f3f4f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa1ab; --line: #3a3f47;
  --back: #16181c; --good: #6fd39a; --bad: #ff8a80; --badback: #3a1a19; --goodback: #15301f;
  --band: #1e2126; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; } th { color: var(--soft); font-weight: 500; }
td.n, th.n { text-align: right; } tr.bad td { color: var(--bad); font-weight: 600; }
td.path { font-family: ui-monospace, monospace; font-size: .87em; white-space: normal;
  overflow-wrap: anywhere; }
.verdict { padding: .7rem 1rem; border-radius: .4rem; margin: 1rem 0; background: var(--goodback);
  color: var(--good); } .verdict.bad { background: var(--badback); color: var(--bad); }
.verdict ul { margin: .3rem 0 0; padding-left: 1.2rem; }
figure { margin: 0 0 1.2rem; } figcaption { margin-bottom: .3rem; }
.side { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; color: var(--soft); }
.side img { display: block; width: 100%; image-rendering: pixelated; }
svg { width: 100%; height: auto; display: block; }
"""


def page(report: Report) -> str:
    """The page."""
    plan, title = report.plan, f"edgereel verify: {report.plan.name}"
    cascade = [
        ("cascade", f"{plan.name}, made by {plan.system}"),
        ("plan.json", f"sha256 {plan_hash(plan)}"),
        ("command", report.command),
        *report.backend.items(),
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _verdict(report),
        _heading("What was checked"),
        _table(("", ""), cascade, paths=True),
        _heading("Graphs on their reference inputs"),
        _graphs(report),
        *([] if report.run is None else _run(report.run)),
        _heading("This machine"),
        _table(("", ""), report.machine),
        _heading("What is allowed"),
        _limits(),
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def _heading(words: str) -> str:
    return f"<h2>{escape(words)}</h2>"


def _verdict(report: Report) -> str:
    if not report.short:
        return f'<div class="verdict">{escape(report.verdict)}</div>'
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.short)
    return f'<div class="verdict bad">Wrong on this device:<ul>{reasons}</ul></div>'


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bad: Sequence[bool] = (),
    *,
    paths: bool = False,
) -> str:
    """Columns that begin with a number are set to the right; rows that are bad are marked."""
    kinds = [" class=n" if cell[:1].isdigit() else "" for cell in rows[0]]
    if paths:
        kinds = ["", *[" class=path"] * (len(kinds) - 1)]

    def cells(row: Sequence[str], tag: str) -> str:
        found = zip(kinds, row, strict=True)
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in found)

    marks = [" class=bad" if one else "" for one in bad] or [""] * len(rows)
    body = "".join(
        f"<tr{mark}>{cells(row, 'td')}</tr>\n" for mark, row in zip(marks, rows, strict=True)
    )
    top = f"<tr>{cells(head, 'th')}</tr>\n" if any(head) else ""
    return f'<div class="scroll"><table>\n{top}{body}</table></div>'


def _graphs(report: Report) -> str:
    head = ("graph", "precision", "worst output", "max error", "allowed", "mean error", "cosine",
            "PSNR", "engine sha256", "")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for g in report.graphs:
        verdict = "ok" if g.ok else "WRONG" if g.finite else "WRONG: not finite"
        errors = number(g.max_abs), number(g.allowed), number(g.mean_abs), f"{g.cosine:.6f}"
        rest = decibels(g.psnr_db), g.engine[:12], verdict
        rows.append((g.graph, g.precision, g.output, *errors, *rest))
    rows += [(name, *[""] * 8, "not checked: no reference vectors") for name in report.unchecked]
    bad = [not g.ok for g in report.graphs] + [False] * len(report.unchecked)
    return _table(head, rows, bad)


def _run(run: Run) -> list[str]:
    its, params = run.reference.metadata, run.trace.metadata.get("params", run.trace.params)
    by = ", ".join(f"{its[name]}" for name in ("backend", "library", "device"))
    given = "; ".join(f"{name} {value!r}" for name, value in params.items())
    told = [
        _heading("A run beside the reference run"),
        f"<p>Mode {escape(run.trace.mode)}: {escape(given)}.</p>",
        f"<p>The reference is a run by {escape(by)}, with the same noise. Drift is the norm of the "
        "difference by the norm of the reference, after each call of a graph; of a denoising step, "
        "of its latents. Each call goes on from what its own run made, so where drift begins is "
        "what counts.</p>",
    ]
    if run.steps:  # else the first call failed
        told += [report_chart.chart(run.steps), _drifts(by_graph(run))]
    if run.frames is not None:
        told += [_heading("Frames"), _likeness(run.frames), *_frames(run, run.frames)]
    return told


def _drifts(found: Sequence[Drift]) -> str:
    head = ("stage", "graph", "calls", "first drift", "largest", "in step", "chunk", "allowed",
            "least cosine", "")  # fmt: skip
    rows = [
        (
            *(d.stage, d.graph, str(d.calls), number(d.first), number(d.largest.drift)),
            *(f"{d.largest.step} of {d.largest.steps}", str(d.largest.chunk + 1)),
            *(number(d.largest.allowed), f"{d.cosine:.6f}", d.verdict),
        )
        for d in found
    ]
    return _table(head, rows, [d.verdict == "WRONG" for d in found])


def _likeness(found: Likeness) -> str:
    limits = found.limits
    rows = [("PSNR", decibels(found.psnr_db), f"at least {limits.psnr_db:g} dB")]
    if found.ssim is not None:
        rows.append(("SSIM", f"{found.ssim:.4f}", f"at least {limits.ssim:g}"))
    if found.flicker_error is not None:
        told = f"at most {limits.flicker:g} levels"
        rows.append(("flicker error", f"{found.flicker_error:.2f}", told))
        rows.append(("flicker, here", f"{found.flicker:.2f}", ""))
        rows.append(("flicker, reference", f"{found.reference_flicker:.2f}", ""))
    about = (
        '<p class="soft">SSIM of windows of 11 x 11. Flicker is the mean absolute difference of '
        "neighbouring frames in levels of 255, flicker error the root mean square of how "
        "differently the two videos change from frame to frame.</p>"
    )
    return _table(("", "", "allowed"), rows) + about


def _frames(run: Run, found: Likeness) -> list[str]:
    """Frames side by side: evenly spread ones, and the one that is furthest off."""
    mine, its = run.trace.frames, run.reference.frames
    assert mine is not None and its is not None
    worst = int(np.argmin(found.psnr_by_frame))
    spread = np.linspace(0, len(mine) - 1, min(_SHOWN - 1, len(mine))).round().astype(int)
    told = []
    for index in sorted({worst, *spread.tolist()}):
        apart = np.abs(mine[index].astype(np.int16) - its[index])
        enlarged = np.minimum(apart * _TIMES, 255).astype(np.uint8)
        ssim = found.ssim_by_frame[index]
        words = f"frame {index}: {decibels(found.psnr_by_frame[index])}"
        words += "" if ssim is None else f", SSIM {ssim:.4f}"
        words += ", the worst" if index == worst and len(mine) > 1 else ""
        shown = [("reference", its[index]), ("here", mine[index]),
                 (f"difference, {_TIMES} times", enlarged)]  # fmt: skip
        pictures = "".join(f"<div>{_image(name, index, one)}{name}</div>" for name, one in shown)
        told.append(
            f'<figure><figcaption>{words}</figcaption><div class="side">{pictures}</div></figure>'
        )
    return told


def _image(name: str, index: int, picture: Picture) -> str:
    data = base64.b64encode(png(_smaller(picture))).decode()
    return f'<img alt="{name}, frame {index}" src="data:image/png;base64,{data}">'


def _smaller(picture: Picture) -> Picture:
    """Means of squares of pixels, so that the longer side is at most _LONGEST_PX."""
    by = -(-max(picture.shape[:2]) // _LONGEST_PX)
    height, width = (max(1, side // by) for side in picture.shape[:2])
    cut = picture[: height * by, : width * by]
    squares = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width, 3)
    means: Picture = squares.mean((1, 3)).round().astype(np.uint8)
    return means


def png(picture: Picture) -> bytes:
    """A PNG file of a picture u8 [H, W, 3], sRGB (ISO/IEC 15948)."""
    height, width = picture.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # a 0 in front: no filter
    rows[:, 1:] = picture.reshape(height, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        ends = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
        return ends[0] + kind + content + ends[1]

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _limits() -> str:
    head = ("precision", "error of a graph", "drift", "PSNR", "SSIM", "flicker error")
    rows = [
        (
            *(name, f"{of.error:g} of its largest number", f"{of.drift:g}"),
            *(f"{of.psnr_db:g} dB", f"{of.ssim:g}", f"{of.flicker:g} levels"),
        )
        for name, of in LIMITS.items()
    ]
    return _table(head, rows)
