"""A plan as text: what can be set, what runs in which order, and its size in files and bytes."""

from edgereel import cli_flags
from edgereel.cli_costs import Costs
from edgereel.cli_table import size, table
from edgereel.memory import Peak, open_symbols, spec_bytes, stage_peaks, writes
from edgereel.plan import (
    Denoise,
    GraphSpec,
    Mode,
    Noise,
    Op,
    Plan,
    Ref,
    Renoise,
    Run,
    Stage,
    TensorSpec,
    Tokenize,
    VideoParam,
    graphs_of,
    ops,
    resized,
    window_length,
)
from edgereel.weights import weights

__all__ = ["explain"]

_SHORT = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "uint8": "u8"}


def explain(plan: Plan, mode_name: str | None) -> str:
    """The plan of one mode (the first, if not named) as lines of at most readable width."""
    name, mode = cli_flags.pick_mode(plan, mode_name)
    lines = [f"{plan.name}: {plan.description}".rstrip(": "), ""]
    total = sum((plan.folder / rel).stat().st_size for rel in plan.files)
    lines += [
        f"folder      {plan.folder}",
        f"system      {plan.system}, plan format {plan.format}",
        f"files       {len(plan.files)}, {size(total)}",
        f"modes       {', '.join(plan.modes)} (shown: {name})",
        f"output      {_output(mode)}",
    ]
    if mode.description:
        lines += [f"mode        {mode.description}"]
    lines += ["", "Parameters", *_params(mode), "", "Stages", *_stages(plan, mode)]
    lines += ["", "Graphs of this mode", *_graphs(plan, mode)]
    return "\n".join(line.rstrip() for line in lines)


def _output(mode: Mode) -> str:
    fps = mode.output.fps
    rate = f"{_default(mode, fps)} fps" + (f" (--{fps.param})" if isinstance(fps, Ref) else "")
    return f"{mode.output.value}, {_tensor(mode.values[mode.output.value])} at {rate}"


def _params(mode: Mode) -> list[str]:
    rows = [("name", "flag", "values", "meaning")]
    for name, param in mode.params.items():
        spelled = ", ".join(cli_flags.flags(name, param)) or f"--set {name}=..."
        rows.append((name, spelled, cli_flags.describe(param), param.description))
    return table(rows)


def _stages(plan: Plan, mode: Mode) -> list[str]:
    """Every stage with its ops, the values they make, and the memory it is predicted to take."""
    sizes = _symbols(mode)
    lines = []
    costs = Costs(plan, mode, _symbols)
    peaks, low = (stage_peaks(costs.asked(mode), low_vram=low) for low in (False, True))
    for (number, stage), peak in zip(enumerate(mode.stages, 1), peaks, strict=True):
        chunks = "" if stage.each is None else f", {_chunks(mode, stage)}"
        work = costs.work(stage)
        told = f"{work}; {_peak(peak)}" if work else _peak(peak)
        lines.append(f"  {number}. {stage.name}{chunks}; {told}")
        for op in stage.ops:
            lines.append(f"       {_title(mode, op)}")
            rows = [("  " + v, *_value(mode.values[v], sizes)) for v in writes(op)]
            lines += table(rows, indent=" " * 9)
        lines += costs.chunks(stage)
    most, least = (size(max(peak.total for peak in of)) for of in (peaks, low))
    lines.append(f"  Peak memory {most}; with --low-vram {least}.")
    lines += _sources(mode)
    if sizes:
        used = ", ".join(f"{symbol} = {number}" for symbol, number in sizes.items())
        lines.append(f"  Bytes are for the defaults: {used}.")
    return lines


def _peak(peak: Peak) -> str:
    """The memory of a stage and what it is made of."""
    parts = [(peak.weights, "weights"), (peak.values, "values"), (peak.activations, "activations")]
    made_of = ", ".join(f"{size(count)} {what}" for count, what in parts if count)
    more = f", and more with {', '.join(sorted(peak.unknown))}" if peak.unknown else ""
    return f"peak memory {size(peak.total)}{f' ({made_of})' if made_of else ''}{more}"


def _sources(mode: Mode) -> list[str]:
    """Where the sizes that exist from the start come from, as a line, if there are any."""
    said = []
    for symbol, found in mode.sizes.items():
        number = found.param or found.symbol
        if (found.times, found.plus) != (1, 0):
            number = f"({number} * {found.times} {found.plus:+d})"
        divided = f" / {found.divide}" if found.divide > 1 else ""
        said.append(f"{symbol} = {number}{divided}")
    for name, param in mode.params.items():
        if isinstance(param, VideoParam):
            axes = [a for a in mode.values[name].shape if isinstance(a, str)]
            said.append(f"{', '.join(axes)} as {name} has")
    return [f"  Sizes: {'; '.join(said)}."] if said else []


def _chunks(mode: Mode, stage: Stage) -> str:
    assert stage.each is not None
    parts = []
    for window in stage.each.windows:
        count, overlap = _default(mode, window.size), _default(mode, window.overlap)
        more = f", overlapping by {overlap}" if overlap else ""
        more += f", the first {window.lead} in front of each" if window.lead else ""
        parts.append(f"once per {count or 'all'} of {window.symbol}{more}")
    seen = [f"{whole} seen as {part}" for part, whole in stage.each.slices.items()]
    joined = [f"{inner} joined as {outer}" for inner, outer in stage.collect.items()]
    return "; ".join((*parts, ", ".join(seen), ", ".join(joined)))


def _title(mode: Mode, op: Op) -> str:
    """One op in words, with what it reads."""
    match op:
        case Tokenize():
            rows = mode.rows[op.rows]
            texts = [f"{r.param}{'+' + repr(r.append) if r.append else ''}" for r in rows]
            named = [text if r.param else repr(r.text) for r, text in zip(rows, texts, strict=True)]
            return f"tokenize {' | '.join(named)} with {op.tokenizer}"
        case Noise():
            return "draw noise" + (", the same for every entry of axis 0" if op.shared else "")
        case Run():
            return f"run {op.graph}({', '.join(op.inputs.values())})"
        case Renoise():
            start = "clean" if op.from_ is None else _default(mode, op.from_)
            return f"renoise {op.x} from t = {start} to {_default(mode, op.to)} on {op.schedule}"
        case Denoise():
            return _denoise_title(mode, op)


def _denoise_title(mode: Mode, op: Denoise) -> str:
    guided = "" if op.guidance is None else f", {len(op.guidance.weights)} guidance rows"
    part = ""
    if op.range is not None:
        end = "clean" if op.range.to is None else f"t > {_default(mode, op.range.to)}"
        part = f", from t <= {_default(mode, op.range.from_)} until {end}"
    return (
        f"denoise {op.x} with {op.graph}({', '.join(op.conditions.values())}): "
        f"{_default(mode, op.steps)} steps of {_default(mode, op.sampler)} on {op.schedule} "
        f"({_default(mode, op.spacing)}){part}{guided}"
    )


def _graphs(plan: Plan, mode: Mode) -> list[str]:
    rows = [("graph", "weights", "files", "")]
    for name in graphs_of(ops([mode])):
        spec = plan.graphs[name]
        counts = weights(plan.folder / spec.file)
        counted = ", ".join(f"{_millions(n)} {_SHORT.get(t, t)}" for t, n in counts.items())
        rows.append((name, counted or "none", _files(plan, spec), _always(spec)))
    return table(rows)


def _always(spec: GraphSpec) -> str:
    return f"always {spec.precision}" if spec.precision else ""


def _files(plan: Plan, spec: GraphSpec) -> str:
    files = (spec.file, *spec.weights)
    return ", ".join(f"{rel} ({size((plan.folder / rel).stat().st_size)})" for rel in files)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)


def _tensor(spec: TensorSpec) -> str:
    return f"{_SHORT.get(spec.dtype, spec.dtype)} [{', '.join(map(str, spec.shape))}]"


def _value(spec: TensorSpec, sizes: dict[str, int]) -> tuple[str, str]:
    return _tensor(spec), " x ".join([size(spec_bytes(spec, sizes)), *open_symbols(spec, sizes)])


def _default(mode: Mode, field: object) -> object:
    """The literal, or the default of the param it refers to."""
    return mode.params[field.param].default if isinstance(field, Ref) else field


def _symbols(mode: Mode) -> dict[str, int]:
    """Sizes of the shape symbols for the default params, as far as those decide them."""
    sizes = _start_symbols(mode)
    for op in ops([mode]):
        if isinstance(op, Tokenize):
            axis = mode.values[op.ids].shape[0]
            if isinstance(axis, str):
                sizes[axis] = len(mode.rows[op.rows])
    for stage in mode.stages:
        for window in stage.each.windows if stage.each is not None else ():
            assert stage.each is not None
            axis, size = window_length(mode, stage.each, window.symbol), _default(mode, window.size)
            total = axis if isinstance(axis, int) else sizes.get(axis)
            known = [n for n in (size, total) if isinstance(n, int) and n > 0]
            if known:
                sizes[window.symbol] = min(known)
    for symbol, size_of in mode.sizes.items():
        if symbol not in sizes and size_of.symbol in sizes:
            sizes[symbol] = resized(size_of, sizes[size_of.symbol])[0]
    return sizes


def _start_symbols(mode: Mode) -> dict[str, int]:
    """Sizes by default params, and numbers of frames that a video is cut to."""
    sizes: dict[str, int] = {}
    for name, param in mode.params.items():
        if isinstance(param, VideoParam):
            axis, frames = mode.values[name].shape[0], _default(mode, param.frames)
            if isinstance(axis, str) and isinstance(frames, int) and frames > 0:
                sizes[axis] = frames
    for symbol, found in mode.sizes.items():
        number = None if found.param is None else mode.params[found.param].default
        if isinstance(number, int):
            sizes[symbol] = resized(found, number)[0]
    for symbol, found in mode.sizes.items():
        if found.symbol in sizes:
            sizes[symbol] = resized(found, sizes[found.symbol])[0]
    return sizes
