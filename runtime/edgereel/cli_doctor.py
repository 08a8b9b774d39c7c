"""What this machine has and what will therefore work: libraries, GPU, driver, ffmpeg, kernels."""

import ctypes
import importlib
import platform
import subprocess
from importlib import metadata

from edgereel import kernel_library
from edgereel.backends import BACKENDS

__all__ = ["doctor"]

_CUDA_MAJOR, _CUDA_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def doctor() -> list[tuple[str, str, str]]:
    """Rows (subject, what was found, what to do): the libraries first, then each backend."""
    (providers, ort), openvino = _onnxruntime(), _imported("openvino")
    gpus, driver = _gpus()
    builders = {name: _imported(name) for name in ("tensorrt", "tensorrt_rtx")}
    rows = [
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""),
        *((name, _version(name), "") for name in ("edgereel", "numpy", "tokenizers", "msgspec")),
        ("onnxruntime", ort, _both()),
        ("openvino", openvino or "not installed", ""),
        *((name, found or "not installed", "") for name, found in builders.items()),
        ("CUDA driver", driver, ""),
        *((f"GPU {index}", text, "") for index, text in enumerate(gpus)),
        ("ffmpeg", *_ffmpeg()),
        ("OpenCV", *_opencv()),
        ("kernels", *_kernels()),
    ]
    trt = any(found and not found.startswith("broken") for found in builders.values())
    return [*rows, ("", "", ""), *_backends(providers, gpus=bool(gpus), trt=trt)]


def _backends(providers: list[str], *, gpus: bool, trt: bool) -> list[tuple[str, str, str]]:
    """One row per backend: whether it will work, and the first thing to do if not."""
    driver = "install an NVIDIA driver; `nvidia-smi` must list the GPU"
    cuda = "CUDAExecutionProvider" in providers
    install = "pip install 'edgereel[{}]'"
    rtx = "onnxruntime-ep-nv-tensorrt-rtx"
    plugin = _imported(rtx.replace("-", "_")) is not None
    swap = "pip uninstall onnxruntime onnxruntime-gpu, then " + install.format("ort-gpu")
    openvino = [(_imported("openvino") is not None, "openvino", install.format("openvino"))]
    needs: list[tuple[str, list[tuple[bool, str, str]]]] = [
        ("ort", [(bool(providers), "onnxruntime", install.format("ort"))]),
        ("openvino", openvino),
        ("openvino-bf16", [*openvino, (_bfloat16(), "a CPU with bfloat16", "--backend openvino")]),
        ("ort-cuda", [(gpus, "a CUDA GPU", driver), (cuda, "onnxruntime-gpu", swap)]),
        ("trt", [(gpus, "a CUDA GPU", driver), (trt, "TensorRT", install.format("trt"))]),
        (
            "ort-tensorrt",
            [
                (gpus, "a CUDA GPU", driver),
                ("TensorrtExecutionProvider" in providers, "onnxruntime-gpu", swap),
            ],
        ),
        (
            "ort-tensorrt-rtx",
            [(gpus, "a CUDA GPU", driver), (plugin, rtx, f"pip install {rtx}")],
        ),
    ]
    rows = []
    for name, wanted in (need for need in needs if need[0] in BACKENDS):
        missing = [(what, todo) for there, what, todo in wanted if not there]
        found = f"needs {' and '.join(what for what, _ in missing)}" if missing else "will work"
        rows.append((f"backend {name}", found, missing[0][1] if missing else ""))
    return rows


def _bfloat16() -> bool:
    """Whether OpenVINO finds instructions for it in this CPU."""
    try:
        core = importlib.import_module("openvino").Core()
        return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception:  # not installed, or broken in any way
        return False


def _opencv() -> tuple[str, str]:
    """Its version, and what lacks without it."""
    found = _imported("cv2")
    todo = "for edges of a control video: pip install 'edgereel[control]'"
    return found or "not installed", "" if found else todo


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _imported(module: str) -> str | None:
    """The module's version; None where it is not installed; why, where its import fails."""
    try:
        return str(getattr(importlib.import_module(module), "__version__", "version unknown"))
    except ModuleNotFoundError as error:
        return None if error.name == module else f"broken: {error}"
    except Exception as error:  # a compiled library may fail to load in any way
        return f"broken: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _onnxruntime() -> tuple[list[str], str]:
    """Its execution providers, and its version with them as text."""
    version = _imported("onnxruntime")
    if version is None or version.startswith("broken"):
        return [], version or "not installed"
    providers = list(importlib.import_module("onnxruntime").get_available_providers())
    short = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return providers, f"{version} ({short})"


def _both() -> str:
    """What to do if two distributions have written into the one module."""
    names = ("onnxruntime", "onnxruntime-gpu")
    if "not installed" in map(_version, names):
        return ""
    return (
        f"pip uninstall {' '.join(names)}, as both are here and own the same files, then pip "
        "install 'edgereel[ort]' or 'edgereel[ort-gpu]'"
    )


def _gpus() -> tuple[list[str], str]:
    """A line per GPU, and the driver's CUDA version, without any CUDA library."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return [], "none (libcuda is not installed)"
    version, count = ctypes.c_int(), ctypes.c_int()
    status = cuda.cuInit(0)
    if status != 0:
        return [], f"present, but no GPU answers (cuInit returned {status})"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return [_gpu(cuda, index) for index in range(count.value)], driver


def _gpu(cuda: ctypes.CDLL, index: int) -> str:
    """Name, compute capability and memory of one device."""
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(100)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_CUDA_MAJOR, _CUDA_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return (
        f"{name.value.decode(errors='replace')}, compute capability "
        f"{capability[0]}.{capability[1]}, {memory.value / 2**30:.0f} GiB"
    )


def _ffmpeg() -> tuple[str, str]:
    """Version of the ffmpeg that writes videos, and what to do if there is none."""
    try:
        import imageio_ffmpeg  # here, so that the commands are there without it

        command = [str(imageio_ffmpeg.get_ffmpeg_exe()), "-hide_banner", "-version"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return f"broken: {error}", "pip install --force-reinstall imageio-ffmpeg"
    return text.splitlines()[0].removeprefix("ffmpeg version ").split(" Copyright")[0], ""


def _kernels() -> tuple[str, str]:
    """Our kernels for ONNX Runtime on a CPU."""
    found = kernel_library.path()
    todo = "" if found else "faster with a C++ compiler and `pip install ./kernels`"
    return kernel_library.name(found), todo
