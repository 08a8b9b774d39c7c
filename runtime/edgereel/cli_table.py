"""Text for people: aligned columns and sizes in bytes."""

from collections.abc import Sequence

__all__ = ["size", "table"]


def size(count: float) -> str:
    """A number of bytes for people: 512 B, 1.5 KiB, 20 MiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} {units[0]}" if units[0] == "B" else f"{count:.1f} {units[0]}"


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows as aligned lines; the last column is as long as it likes."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        (indent + "  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
