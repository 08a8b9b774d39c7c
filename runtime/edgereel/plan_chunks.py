"""What must hold for stages in chunks: windows, the parts they cut, and what is joined again."""

from __future__ import annotations

from edgereel.errors import PlanError
from edgereel.plan_format import Each, Mode, Ref, Size, TensorSpec, Window
from edgereel.plan_scope import Scope, Sizes, cut, fit, words

__all__ = ["Chunks"]


class Chunks(Scope):
    """A scope that can go into the chunks of a stage."""

    def __init__(self, mode: Mode) -> None:
        super().__init__(mode)
        self.led: str | None = None  # axis 0 of chunks that are led
        self.lengths: Sizes = {}  # of the axes that windows cut, by their symbols

    def enter_chunks(self, place: str, each: Each) -> None:
        """Adds what exists in a chunk: its parts of values, and sizes."""
        symbols = [window.symbol for window in each.windows]
        for index, window in enumerate(each.windows):
            where = f"{place}.windows[{index}]"
            if window.symbol in self.sized or symbols.count(window.symbol) > 1:
                raise PlanError.at(
                    f"{where}.symbol", f"{window.symbol!r} has a size already", "a new symbol"
                )
            self._check_window(where, window)
        inside = {s for s, size in self.mode.sizes.items() if size.symbol in symbols}
        self.sized |= inside | set(symbols)
        self.lengths = {}
        for part, whole in each.slices.items():
            self._check_slice(f"{place}.slices.{part}", part, whole, set(symbols))
        for index, window in enumerate(each.windows):
            if window.symbol not in self.lengths:
                raise PlanError.at(f"{place}.windows[{index}]", "cuts no slice", "one that it cuts")
            first = [self.mode.values[part].shape[:1] == (window.symbol,) for part in each.slices]
            if window.lead:
                self.led = window.symbol
            if window.lead and not (all(first) and len(symbols) == 1):
                raise PlanError.at(
                    f"{place}.windows[{index}].lead",
                    f"is {window.lead}",
                    "0, as more than axis 0 is cut, or not of every slice",
                )

    def _check_window(self, place: str, window: Window) -> None:
        self.number(f"{place}.lead", window.lead, least=0)
        least = 0 if isinstance(window.size, Ref) and not window.lead else window.lead + 1
        self.number(f"{place}.size", window.size, least=least, whole=True)
        self.number(f"{place}.overlap", window.overlap, least=0, whole=True)
        if window.lead and window.overlap != 0:
            raise PlanError.at(f"{place}.overlap", "together with lead", "only one of them")

    def _check_slice(self, place: str, part: str, whole: str, symbols: set[str]) -> None:
        spec, seen = self.read(place, whole), self.make(place, part)
        sizes = []
        for index, size in enumerate(spec.shape):
            own = seen.shape[index] if index < len(seen.shape) else None
            if isinstance(own, str) and own in symbols:
                if self.lengths.setdefault(own, size) != size:
                    raise PlanError.at(
                        place, f"{own!r} cuts {size}", f"an axis of size {self.lengths[own]}"
                    )
                size = own
            sizes.append(size)
        if not symbols & set(sizes):
            raise PlanError.at(place, f"{words(part, seen)} is not cut", "an axis with a window")
        fit(place, part, seen, TensorSpec(dtype=spec.dtype, shape=tuple(sizes)))

    def check_collect(self, place: str, each: Each, chunk: str, whole: str) -> None:
        """Adds the value that a chunk's values are joined to."""
        part, joined = self.mode.values[chunk], self.declared(place, whole)
        sizes = list(part.shape)
        for window in each.windows:
            if window.overlap != 0 and part.dtype not in ("float32", "uint8"):
                raise PlanError.at(place, words(chunk, part), "float32 or uint8, as parts overlap")
            found = cut(self.mode, chunk, window.symbol)
            if found is None or (window.lead and found != (0, 1)):
                raise PlanError.at(
                    place, f"{words(chunk, part)}", f"an axis of the window {window.symbol!r}"
                )
            axis, times = found
            length = self.lengths[window.symbol]
            sizes[axis] = length if times == 1 else self._grown(joined, axis, length, times)
        spec = TensorSpec(dtype=part.dtype, shape=tuple(sizes))
        fit(place, whole, self.make(place, whole), spec)

    def _grown(self, joined: TensorSpec, axis: int, length: int | str, times: int) -> int | str:
        """The size of `length * times`: a number, or the symbol that `joined` has for it."""
        if isinstance(length, int):
            return length * times
        symbol = joined.shape[axis] if axis < len(joined.shape) else ""
        if isinstance(symbol, str):
            larger, smaller = self.mode.sizes.get(symbol), self.mode.sizes.get(length)
            if Size(symbol=length, times=times) == larger:
                return symbol
            if Size(symbol=symbol, divide=times) == smaller:
                return symbol
        return f"{length}*{times}"
