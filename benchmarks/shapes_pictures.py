"""Pictures of measured clips: a contact sheet of all prompts, and a strip of a few."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgereel import files
from edgereel_export.shapes.world import COLOURS, MOTIONS, SHAPES

__all__ = ["sheet", "stills", "strip"]

Record = Mapping[str, Any]
STILLS = 6  # frames kept of a clip, spread from the first to the last
_STILL_SIDE = 128
_BACK, _LINE, _TEXT, _DIM, _WRONG = "#23272f", "#3a404b", "#eceef2", "#a3abb8", "#ff6b6b"
_LEGEND = (
    "first, middle and last frame over each other, the last brightest; red: not what was asked"
)
_TRAIL = (0.30, 0.0, 0.55, 0.0, 0.0, 1.0)  # brightness of the stills laid over each other
# Five colours, every shape, every motion: fixed before any result was seen.
STRIP = (
    ("red", "circle", "right"),
    ("yellow", "triangle", "up"),
    ("blue", "square", "left"),
    ("purple", "circle", "down"),
    ("white", "triangle", "still"),
)


def stills(frames: NDArray[Any]) -> str:
    """Six frames of a clip side by side, a JPEG as base64, to be kept with its result.

    Args:
        frames: u8 [F, H, W, 3], sRGB 0..255.
    """
    chosen = np.linspace(0, len(frames) - 1, STILLS).round().astype(int)
    small = [
        Image.fromarray(frames[i]).resize((_STILL_SIDE,) * 2, Image.Resampling.LANCZOS)
        for i in chosen
    ]
    written = io.BytesIO()
    row = np.concatenate([np.asarray(image) for image in small], axis=1)
    Image.fromarray(row).save(written, "JPEG", quality=92, subsampling=0)
    return base64.b64encode(written.getvalue()).decode("ascii")


def sheet(records: Sequence[Record], title: str, path: Path) -> None:
    """Writes all prompts as one PNG: a row per colour, a column per shape and motion.

    A cell lays the first, middle and last frame over each other, older ones darker, so that a
    motion shows as a trail. A cell that was measured as something else has a red frame and says
    what it was measured as.
    """
    cell, gap, left, top = 96, 4, 74, 84
    columns = list(product(SHAPES, MOTIONS))
    group = 14  # more air between shapes
    xs = [left + n * (cell + gap) + n // len(MOTIONS) * group for n in range(len(columns))]
    height = top + len(COLOURS) * (cell + gap) + 14
    image = Image.new("RGB", (xs[-1] + cell + 16, height), _BACK)
    pen = ImageDraw.Draw(image)
    pen.text((16, 12), title, _TEXT, _font(20))
    pen.text((image.width - 16, 18), _LEGEND, _DIM, _font(14), anchor="ra")
    for n, (shape, motion) in enumerate(columns):
        if n % len(MOTIONS) == 0:
            pen.text((xs[n], 42), shape, _TEXT, _font(16))
        pen.text((xs[n] + cell // 2, 66), motion, _DIM, _font(14), anchor="ma")
    found = {_asked(record): record for record in records}
    for row, colour in enumerate(COLOURS):
        y = top + row * (cell + gap)
        pen.text((left - 10, y + cell // 2), colour, _TEXT, _font(15), anchor="rm")
        for x, (shape, motion) in zip(xs, columns, strict=True):
            record = found.get((colour, shape, motion))
            if record is None:
                pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline=_LINE)
            else:
                _cell(image, (x, y), cell, record)
    _save(image, path)


def strip(records: Sequence[Record], path: Path) -> None:
    """Writes a few prompts as one PNG, each a row of six frames below its caption."""
    found = {_asked(record): record for record in records}
    rows = [found[prompt] for prompt in STRIP if prompt in found] or list(records[:5])
    side, gap, margin, caption = _STILL_SIDE, 4, 16, 26
    width = 2 * margin + STILLS * (side + gap) - gap
    step = caption + side + 12
    image = Image.new("RGB", (width, margin + len(rows) * step), _BACK)
    pen = ImageDraw.Draw(image)
    for number, record in enumerate(rows):
        y = margin + number * step
        pen.text((margin, y - 2), f'"{record["prompt"]}"', _TEXT, _font(17))
        for column, still in enumerate(_opened(record)):
            image.paste(still, (margin + column * (side + gap), y + caption))
    _save(image, path)


def _cell(image: Image.Image, place: tuple[int, int], cell: int, record: Record) -> None:
    """One clip of the sheet."""
    pen = ImageDraw.Draw(image)
    layers = [
        np.asarray(still, np.float32) * weight
        for still, weight in zip(_opened(record), _TRAIL, strict=True)
        if weight
    ]
    trail = Image.fromarray(np.max(layers, axis=0).round().astype(np.uint8))
    image.paste(trail.resize((cell, cell), Image.Resampling.LANCZOS), place)
    x, y = place
    wrong = [
        record["seen"][field]
        for field in ("colour", "shape", "motion")
        if record["seen"][field] != record[field]
    ]
    if wrong:
        pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline=_WRONG, width=2)
        pen.rectangle((x + 2, y + cell - 18, x + cell - 3, y + cell - 3), fill=_BACK)
        words = ", ".join(dict.fromkeys(wrong))
        pen.text((x + cell // 2, y + cell - 4), words, _WRONG, _font(12), anchor="md")


def _opened(record: Record) -> list[Image.Image]:
    """The stills of a result."""
    row = Image.open(io.BytesIO(base64.b64decode(record["stills"]))).convert("RGB")
    side = row.height
    return [row.crop((n * side, 0, (n + 1) * side, side)) for n in range(STILLS)]


def _asked(record: Record) -> tuple[str, str, str]:
    return record["colour"], record["shape"], record["motion"]


def _font(size: int) -> Any:
    """Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)


def _save(image: Image.Image, path: Path) -> None:
    """Writes a PNG of at most 1600 px width."""
    if image.width > 1600:
        image = image.resize((1600, round(image.height * 1600 / image.width)))
    with files.all_or_nothing(path) as temp:
        image.save(temp, "PNG", optimize=True)
