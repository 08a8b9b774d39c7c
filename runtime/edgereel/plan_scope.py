"""What exists at one point of a mode: values, sizes of symbols, and how they are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from edgereel.errors import PlanError
from edgereel.plan_format import ChoiceParam, Each, FloatParam, IntParam, Mode, Ref, TensorSpec

__all__ = ["Scope", "Sizes", "cut", "fit", "names", "window_length", "words"]

Sizes = dict[str, int | str]
T = TypeVar("T")


class Scope:
    """The values that the next op may read; every lookup fails with a PlanError at its place."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.made: set[str] = set()  # every value made so far
        self.visible: set[str] = set()  # those that the next op may read
        self.sized: set[str] = set()  # symbols with a size
        self.used: set[str] = set()  # params and values that something reads

    def declared(self, place: str, name: str) -> TensorSpec:
        """The spec of a declared value."""
        return self.find(place, name, self.mode.values, "declared value")

    def read(self, place: str, name: str) -> TensorSpec:
        """The spec of a value that an op reads."""
        spec = self.declared(place, name)
        if name not in self.visible:
            state = "is not visible here" if name in self.made else "is not made yet"
            raise PlanError.at(place, f"{name!r} {state}", "one of " + names(self.visible))
        self.used.add(name)
        self._check_sizes(place, name, spec)
        return spec

    def make(self, place: str, name: str) -> TensorSpec:
        """The spec of a value that an op makes, once."""
        spec = self.declared(place, name)
        if name in self.made:
            raise PlanError.at(place, f"{name!r} is made twice", "each value to be made once")
        self._check_sizes(place, name, spec)
        self.made.add(name)
        self.visible.add(name)
        return spec

    def _check_sizes(self, place: str, name: str, spec: TensorSpec) -> None:
        for size in spec.shape:
            if isinstance(size, str) and size not in self.sized:
                raise PlanError.at(
                    place,
                    f"{size!r} in {name!r} has no size here",
                    "a symbol from sizes, a video, ids or a chunk",
                )

    def find(self, place: str, name: str, table: Mapping[str, T], kind: str) -> T:
        """The entry of a table."""
        if name not in table:
            raise PlanError.at(place, f"{name!r} is not a {kind}", "one of " + names(table))
        return table[name]

    def number(
        self, place: str, number: float | Ref, least: float | None = None, whole: bool = False
    ) -> None:
        """Checks a literal or a reference to a numeric param, and the least it can be."""
        low: float | None
        if isinstance(number, Ref):
            param = self.find(place, number.param, self.mode.params, "param")
            if not isinstance(param, IntParam if whole else (IntParam, FloatParam)):
                kind = "an int param" if whole else "a numeric param"
                raise PlanError.at(place, f"{number.param!r} is not {kind}", kind)
            self.used.add(number.param)
            low = param.min
        else:
            low = number
        if least is not None and (low is None or low < least):
            found = "can be anything" if low is None else f"can be {low}"
            raise PlanError.at(place, found, f"at least {least}")

    def choice(self, place: str, word: str | Ref, allowed: tuple[str, ...]) -> None:
        """Checks a reference to a choice param that can only be one of `allowed`."""
        if not isinstance(word, Ref):
            return
        param = self.find(place, word.param, self.mode.params, "param")
        if not isinstance(param, ChoiceParam) or not set(param.choices) <= set(allowed):
            raise PlanError.at(
                place, f"{word.param!r} can be something else", "choices from " + names(allowed)
            )
        self.used.add(word.param)


def cut(mode: Mode, value: str, symbol: str) -> tuple[int, int] | None:
    """The axis that a window's symbol cuts a value on, and how many entries make one of it."""
    for axis, size in enumerate(mode.values[value].shape):
        if size == symbol:
            return axis, 1
        found = mode.sizes.get(size) if isinstance(size, str) else None
        if found is not None and found.symbol == symbol:
            return axis, found.times
    return None


def window_length(mode: Mode, each: Each, symbol: str) -> int | str:
    """The size, a number or a symbol, of the axes that a window of a checked plan cuts."""
    found = ((whole, cut(mode, part, symbol)) for part, whole in each.slices.items())
    return next(mode.values[whole].shape[axis[0]] for whole, axis in found if axis)


def names(words: Iterable[str]) -> str:
    """`words` sorted, for the end of a sentence."""
    return ", ".join(sorted(words)) or "(there are none)"


def words(name: str, spec: TensorSpec) -> str:
    """A value with its dtype and shape, for a sentence."""
    return f"{name!r} is {spec.dtype} [{', '.join(map(str, spec.shape))}]"


def fit(
    place: str, name: str, spec: TensorSpec, wanted: TensorSpec, sizes: Sizes | None = None
) -> None:
    """Raises unless `spec` is `wanted`; with `sizes`, the symbols of `wanted` get sizes from it."""
    fits = spec.dtype == wanted.dtype and len(spec.shape) == len(wanted.shape)
    for have, want in zip(spec.shape, wanted.shape, strict=False):
        if sizes is not None and isinstance(want, str):
            want = sizes.setdefault(want, have)
        fits = fits and have == want
    if not fits:
        known = "".join(f", {symbol} = {size}" for symbol, size in (sizes or {}).items())
        raise PlanError.at(
            place, words(name, spec), words("it", wanted).removeprefix("'it' is ") + known
        )
