"""What a mode has before its first op: params as values, videos, and symbols with a size."""

from __future__ import annotations

from edgereel.errors import PlanError
from edgereel.plan_format import FloatParam, IntParam, Mode, Ref, Size, TensorSpec, VideoParam
from edgereel.plan_scope import Scope, words

__all__ = ["check_start"]


def check_start(scope: Scope, place: str) -> None:
    """Adds the values and symbols that exist from the start to `scope`.

    Raises:
        PlanError: a param cannot be the value of its name, or a size comes from nowhere.
    """
    mode = scope.mode
    for name, param in mode.params.items():
        if isinstance(param, VideoParam):
            _check_video(scope, place, name, param)
        elif name in mode.values:
            _check_number(f"{place}.values.{name}", param, mode.values[name])
        else:
            continue
        scope.made.add(name)
        scope.visible.add(name)
    measured = {symbol for symbol, size in mode.sizes.items() if size.param is not None}
    measured |= _of_videos(mode) - mode.sizes.keys()
    stages = [stage.each for stage in mode.stages if stage.each is not None]
    inside = {window.symbol for each in stages for window in each.windows}
    for symbol, size in mode.sizes.items():
        _check_size(scope, f"{place}.sizes.{symbol}", size, measured | inside)
        if size.symbol in inside and (size.plus, size.divide) != (0, 1):
            raise PlanError.at(
                f"{place}.sizes.{symbol}", f"of the window {size.symbol!r}", "times and no more"
            )
        if not any(symbol in spec.shape for spec in mode.values.values()):
            raise PlanError.at(f"{place}.sizes.{symbol}", "is in no value's shape", "one with it")
    made = {symbol for symbol, size in mode.sizes.items() if size.symbol not in inside}
    scope.sized |= measured | made


def _check_number(place: str, param: object, spec: TensorSpec) -> None:
    """A numeric param that is declared as a value is that number, repeated to the shape."""
    bits = {"int32": 31, "int64": 63}.get(spec.dtype)
    match param:
        case FloatParam():
            good = spec.dtype == "float32"
        case IntParam(min=int(low), max=int(high)) if bits is not None:
            good = -(2**bits) <= low and high < 2**bits
        case _:
            good = isinstance(param, IntParam) and spec.dtype == "float32"
    if not good:
        raise PlanError.at(
            place,
            f"the param of that name cannot be {spec.dtype}",
            "float32 for a numeric param, or int64 or int32 for an int param in that range",
        )


def _check_video(scope: Scope, place: str, name: str, param: VideoParam) -> None:
    """A video is declared as frames, and its numbers are possible ones."""
    spec = scope.declared(f"{place}.params.{name}", name)
    if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[3] != 3:
        raise PlanError.at(f"{place}.values.{name}", words(name, spec), "uint8 [F, H, W, 3]")
    for field, number, least in (
        ("start", param.start, 0.0),
        ("end", param.end, 0.001),
        ("fps", param.fps, 0.001),
        ("frames", param.frames, 1),
        ("longest", param.longest, 1),
        ("height", param.height, 1),
        ("width", param.width, 1),
    ):
        if isinstance(number, Ref) and field in ("start", "end", "fps", "frames"):
            least = 0  # says null
        if number is not None:
            whole = field not in ("start", "end", "fps")
            scope.number(f"{place}.params.{name}.{field}", number, least=least, whole=whole)


def _of_videos(mode: Mode) -> set[str]:
    """The symbols in the shapes of videos."""
    shapes = (mode.values[n].shape for n, p in mode.params.items() if isinstance(p, VideoParam))
    return {size for shape in shapes for size in shape if isinstance(size, str)}


def _check_size(scope: Scope, place: str, size: Size, measured: set[str]) -> None:
    """A size is an int param from 1 to a max, or that of a symbol in `measured`."""
    if (size.param is None) == (size.symbol is None) or min(size.divide, size.times) < 1:
        raise PlanError.at(
            place, "is not a size", "either param or symbol, and times and divide of at least 1"
        )
    if size.symbol is not None and size.symbol not in measured:
        raise PlanError.at(
            f"{place}.symbol",
            f"{size.symbol!r} has no size of its own",
            "a symbol whose size is a param, or comes from a video or a window",
        )
    if size.param is not None:
        scope.number(f"{place}.param", Ref(param=size.param), least=1, whole=True)
        param = scope.mode.params[size.param]
        if isinstance(param, IntParam) and param.max is None:
            raise PlanError.at(f"{place}.param", f"{size.param!r} has no max", "a param with one")
