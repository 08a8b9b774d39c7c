"""Other weights for an opened engine, without compiling: fine-tunes, and LoRA merged into them.

An engine compiled with `--refit` says in build.json which of its weights can be replaced and where
each lies in the cascade folder. Given weights have the names and shapes of the checkpoint that was
exported. They are converted as the compiler converts, so that going back is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel.backends.trt_library import Library
from edgereel.builds import Engine, Refit
from edgereel.errors import EngineError, InputError, PlanError
from edgereel.files import sha256
from edgereel.half import as_float16
from edgereel.lora import NOTHING, delta, lora_file, told
from edgereel.lora_names import layers, listed, underscored
from edgereel.tensor_files import read_tensors

__all__ = ["Refitting"]

Array = NDArray[Any]
Weights = Mapping[str, NDArray[np.floating[Any]]]


class Refitting:
    """The weights of one opened engine.

    Nothing may run the engine while its weights change; what waits on the GPU must be done first,
    and calls that were captured as CUDA graphs before must be captured again.

    Args:
        library: the TensorRT that opened the engine.
        engine: its ICudaEngine.
        record: the engine in build.json.
        folder: the cascade folder.
        logger: the library's logger of the runtime that opened the engine.
    """

    def __init__(
        self, library: Library, engine: Any, record: Engine, folder: Path, logger: Any
    ) -> None:
        if not record.refit:
            raise EngineError(
                f"{record.file}: its weights cannot be replaced; expected an engine compiled with "
                "--refit. Compile the cascade again with `--refit`."
            )
        self._library, self._engine, self._record = library, engine, record
        self._folder, self._logger = folder, logger
        self._checked: set[str] = set()  # weight files whose hash was compared
        self._swapped: set[str] = set()  # weights of the engine that are not the folder's
        self.names = tuple(sorted({part for one in record.refit.values() for part in one.parts}))

    def swap(self, given: Weights | Path) -> tuple[str, ...]:
        """The names of the weights that were replaced, as in build.json.

        All others are the cascade folder's afterwards, also those that were replaced before.

        Args:
            given: floats by name in the checkpoint, or a .safetensors file of them. A name may
                leave out what build.json has before it, such as `network.`.

        Raises:
            InputError: a name is none of the engine's, is of several, or a shape is another one.
            PlanError: a weight file of the folder was changed.
            EngineError: TensorRT refuses the weights.
        """
        weights = read_tensors(given) if isinstance(given, Path) else given
        parts = {self._part(name): array for name, array in weights.items()}
        changed = {
            name: one for name, one in self._record.refit.items() if set(one.parts) & parts.keys()
        }
        arrays = {name: self._filled(one, parts) for name, one in changed.items()}
        for name in self._swapped - changed.keys():
            arrays[name] = self._filled(self._record.refit[name], {})
        self._refit(arrays)
        self._swapped = set(changed)
        return tuple(parts)

    def swap_lora(self, path: Path, scale: float = 1.0, network: str = "unet") -> tuple[str, ...]:
        """As `swap`, of the cascade folder's weights with a LoRA merged into them.

        Args:
            path: a .safetensors file, or a folder with one as diffusers and PEFT write it.
            scale: how much of the LoRA; 1 is as it was trained, negative takes it away.
            network: "unet" or "text_encoder": which of a file's layers are this engine's.

        Raises:
            InputError: also if the file is no LoRA, or a layer of it is none that can be replaced.
        """
        path = lora_file(path)
        found = layers(path, read_tensors(path))
        factors = told(path, found)
        merged: dict[str, Array] = {}
        problems = []
        for layer in (one for one in found if one.network in ("", network)):
            part = self._place(layer.name)
            weight = self._parameter(part) if part else None
            problem = "is not there" if weight is None else layer.misfit(weight.shape)
            if weight is None or problem:
                problems.append(f"{layer.key} {problem}")
                continue
            factor = scale * factors.get(network, NOTHING).factor(layer, part)
            merged[part] = weight + delta(layer, factor).reshape(weight.shape)
        if problems or not merged:
            raise InputError(
                f"LoRA: {path} does not fit the engine in {len(problems)} of its {len(found)} "
                f"layers ({listed(problems) or f'none is of the {network}'}); expected layers that "
                "were compiled with --refit. Choose another, or compile with --refit for all."
            )
        return self.swap(merged)

    def restore(self) -> None:
        """Nothing; afterwards all weights are the cascade folder's, to the last bit."""
        self.swap({})

    def _part(self, name: str) -> str:
        """The weight in build.json that a name means."""
        found = [own for own in self.names if own == name or own.endswith(f".{name}")]
        exact = [own for own in found if own == name] or found
        if len(exact) != 1:
            what = f"is {', '.join(found)}" if found else "is none of the engine's"
            raise InputError(
                f"weight {name} {what}; expected one of {listed(list(self.names))}. Give the "
                "whole name, or leave it out."
            )
        return exact[0]

    def _place(self, module: str) -> str:
        """The weight of a module whose name has underscores for dots; "" if there is none."""
        end = f"_{module}_weight"
        found = [own for own in self.names if f"_{underscored(own)}".endswith(end)]
        return found[0] if len(found) == 1 else ""

    def _parameter(self, part: str) -> Array:
        """A weight of the cascade folder as the checkpoint had it."""
        one = next(one for one in self._record.refit.values() if part in one.parts)
        pieces = np.split(self._stored(one), len(one.parts), axis=1 if one.transposed else 0)
        piece = pieces[one.parts.index(part)]
        return piece.T if one.transposed else piece

    def _filled(self, one: Refit, parts: Mapping[str, Array]) -> Array:
        """The array that the engine is given: the folder's, with the parts that are replaced."""
        array = self._stored(one)
        axis = 1 if one.transposed else 0
        size = one.shape[axis] // len(one.parts)
        for index, part in enumerate(one.parts):
            if part not in parts:
                continue
            mine = parts[part]
            place = [slice(None)] * array.ndim
            place[axis] = slice(index * size, (index + 1) * size)
            target = array[tuple(place)]
            turned = target.shape[::-1] if one.transposed else target.shape
            if [n for n in mine.shape if n != 1] != [n for n in turned if n != 1]:
                raise InputError(
                    f"weight {part} is {list(mine.shape)}, expected {list(turned)}. Give weights "
                    "of the network that was exported."
                )
            if not np.isfinite(mine).all():
                raise InputError(
                    f"weight {part} is not finite; expected numbers. Give other weights."
                )
            mine = mine.astype(np.float32).reshape(turned)
            target[...] = mine.T if one.transposed else mine
        return np.ascontiguousarray(as_float16(array) if one.dtype == "float16" else array)

    def _stored(self, one: Refit) -> NDArray[np.float32]:
        """A weight as it is in the cascade folder, whose file is compared with its hash once."""
        path = self._folder / one.file
        if one.file not in self._checked:
            found = sha256(path) if path.is_file() else "missing"
            if found != self._record.source[one.file]:
                raise PlanError.at(
                    f"files.{one.file}",
                    f"was changed (sha256 {found[:12]}) after the engine was compiled from it",
                    f"sha256 {self._record.source[one.file][:12]}; restore it, or compile again",
                )
            self._checked.add(one.file)
        count = int(np.prod(one.shape))
        array = np.fromfile(path, "<f4", count, offset=one.offset)
        return array.reshape(one.shape)

    def _refit(self, arrays: Mapping[str, Array]) -> None:
        """Gives the engine these weights at once."""
        if not arrays:
            return
        module = self._library.module
        refitter = module.Refitter(self._engine, self._logger)
        for name, array in arrays.items():
            if not refitter.set_named_weights(name, module.Weights(array)):
                raise EngineError(
                    f"{self._library} does not take the weight {name} ({array.dtype}, "
                    f"{list(array.shape)}); expected what build.json says of {self._record.file}. "
                    "Compile the cascade again with `--refit`."
                )
        missing = refitter.get_missing_weights()
        if missing or not refitter.refit_cuda_engine():
            raise EngineError(
                f"{self._library} cannot replace weights of {self._record.file} "
                f"(missing: {listed(list(missing)) or 'none'}); expected all that depend on each "
                "other. Compile the cascade again with `--refit`."
            )
