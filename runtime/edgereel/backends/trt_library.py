"""Which TensorRT is installed and which GPU is here: the one place that imports either library.

`tensorrt` and `tensorrt_rtx` have the same Python API; they differ in name, in the GPUs they run
on, and in that the builder of `tensorrt_rtx` needs no GPU. Nothing is imported before it is asked
for, so this module costs nothing where neither is installed.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgereel.errors import BackendUnavailable

__all__ = ["LIBRARIES", "NO_GPU", "Device", "Library", "device", "library"]

LIBRARIES = {
    "tensorrt": "pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}
"""Module name -> the command that installs it."""

NO_GPU = "no CUDA GPU answers here; it needs one and NVIDIA's driver"

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Library:
    """An imported TensorRT: `module` is tensorrt or tensorrt_rtx, `name` says which."""

    module: Any
    name: str
    version: str

    @property
    def builds_without_gpu(self) -> bool:
        """Whether its builder compiles for GPUs that are not in this machine."""
        return self.name == "tensorrt_rtx"

    @property
    def takes_plugins(self) -> bool:
        """Whether a network can have plugins; that of tensorrt_rtx 1.7 cannot."""
        return hasattr(self.module.INetworkDefinition, "add_plugin_v3")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Device:
    """The first CUDA GPU: its name and its compute capability, such as "8.9"."""

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability})"


def library(name: str | None = None) -> Library:
    """The named TensorRT; without a name the one that fits this machine best.

    With a GPU that is `tensorrt` if installed; without one `tensorrt_rtx`, which can still build.

    Raises:
        BackendUnavailable: it is not installed, or cannot be loaded.
    """
    if name is not None and name not in LIBRARIES:
        raise BackendUnavailable(
            f"There is no TensorRT library {name!r}; expected one of {', '.join(LIBRARIES)}. "
            "Correct the name."
        )
    preferred = sorted(LIBRARIES) if device() else sorted(LIBRARIES, reverse=True)
    wanted = [name] if name else preferred
    broken = []
    for module in wanted:
        try:
            return _imported(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                broken.append(f"{module}: {error}")
        except Exception as error:  # a compiled library may fail to load in any way
            broken.append(f"{module}: {error}")
    if broken:
        raise BackendUnavailable(
            f"TensorRT is installed but cannot be loaded ({'; '.join(broken)}). A working "
            f"installation was expected; run `{LIBRARIES[wanted[0]]} --force-reinstall`."
        )
    commands = " or ".join(f"`{LIBRARIES[module]}`" for module in wanted)
    raise BackendUnavailable(
        f"{' and '.join(wanted)} {'are' if len(wanted) > 1 else 'is'} not installed; backend trt "
        f"needs one. Run {commands}."
    )


def _imported(name: str) -> Library:
    module: ModuleType = importlib.import_module(name)
    return Library(module, name, str(getattr(module, "__version__", "unknown")))


def device() -> Device | None:
    """The first CUDA GPU, asked of the driver itself; None without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return None
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return None
    cuda.cuDeviceGetName(name, len(name), handle)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        parts.append(str(value.value))
    return Device(name.value.decode(errors="replace"), ".".join(parts))
