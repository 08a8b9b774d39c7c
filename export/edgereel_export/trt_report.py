"""A build as a table to read."""

from __future__ import annotations

from edgereel.builds import Build, Engine

__all__ = ["table"]

SHOWN = 3  # reasons per graph
HEADER = ("graph", "nodes", "parameters", "in engine", "kernels", "MiB", "build s", "peak MiB")


def table(build: Build) -> str:
    """One line per graph: nodes, parameters, precision, size, build time, peak memory; then notes.

    `in engine` is the float type that most kernels of the compiled engine write.
    """
    record = build.record
    rows = [HEADER, *(_row(name, engine) for name, engine in record.graphs.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    for name, engine in record.graphs.items():
        if engine.decomposed_attention:
            first, *others = engine.decomposed_attention
            more = f" and {len(others)} more" if others else ""
            lines.append(f"{name}: no fused attention kernel for {first}{more}")
        kept = [f"{node} stays float32, {why}" for node, why in engine.kept_float32.items()]
        lines += [f"{name}: {line}" for line in kept[:SHOWN]]
        if len(kept) > SHOWN:
            lines.append(f"{name}: {len(kept) - SHOWN} more nodes stay float32, see build.json")
        if engine.refit:
            lines.append(f"{name}: {len(engine.refit)} weights can be replaced")
    gpus = ", ".join(record.compute_capabilities)
    library = record.library
    lines.append(f"{library.name} {library.version}, compute capabilities {gpus}, {build.folder}")
    return "\n".join(lines)


def _row(name: str, engine: Engine) -> tuple[str, ...]:
    return (
        name,
        str(engine.nodes),
        f"{engine.parameters:,}",
        engine.float_type,
        " ".join(f"{n} {t}" for t, n in sorted(engine.types.items(), key=lambda e: -e[1])) or "-",
        f"{engine.bytes / 2**20:.1f}",
        f"{engine.seconds:.1f}",
        f"{engine.peak_rss_bytes / 2**20:.0f}",
    )
