"""ONNX Runtime on an NVIDIA GPU: runs the .onnx files themselves, on buffers in device memory.

Copies and graphs are queued on one stream, and nothing waits for the GPU before a value is fetched.
Nodes that no provider for GPUs takes run on the CPU, as ONNX Runtime decides. Three providers can
be chosen: CUDA's kernels, TensorRT, and TensorRT-RTX, which is a plugin of ONNX Runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, cast

from edgereel import kernel_library
from edgereel.backends import Buffer, ort
from edgereel.backends.cuda import DeviceBuffer, Memory, runtime_api
from edgereel.backends.on_device import OnDevice
from edgereel.backends.trt_library import NO_GPU, device
from edgereel.errors import BackendUnavailable, EngineError
from edgereel.plan import Plan

__all__ = ["OrtCuda", "OrtTensorrt", "OrtTensorrtRtx"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_RTX = "onnxruntime_ep_nv_tensorrt_rtx"
_GRAPHS = 4  # CUDA graphs of one session; ONNX Runtime keeps them to its end
_SEEN = 16  # calls remembered that no graph was made of yet


class OrtCuda(OnDevice, ort.Ort):
    """The `ort-cuda` backend."""

    name = "ort-cuda"
    provider = _CUDA

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        super().__init__(plan, threads, kernels=False)  # those for a CPU
        self._kernels = kernel_library.path(cuda=True) if kernels else None
        self._take_memory()

    @classmethod
    def unusable(cls, plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        if device() is None:
            return NO_GPU
        reason = cls._not_installed()
        if reason is None:
            try:
                runtime_api()
            except BackendUnavailable as error:
                return str(error)
        return reason

    def describe(self) -> dict[str, str]:
        """Library, provider, device and precision."""
        return super().describe() | {"provider": self.provider, "device": str(device())}

    @classmethod
    def _not_installed(cls) -> str | None:
        """What is missing beside a GPU, or None."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed: pip install 'edgereel[ort-gpu]'"
        import onnxruntime

        if cls.provider in onnxruntime.get_available_providers():
            return None
        return (
            f"onnxruntime {onnxruntime.__version__} is here without its {cls.provider}; pip "
            f"uninstall onnxruntime onnxruntime-gpu, then pip install 'edgereel[ort-gpu]'"
        )

    def _session(self, path: str, options: Any) -> Any:
        """With CUDA graphs, where ONNX Runtime runs no part of the graph on the CPU."""
        try:
            providers = [self._with_stream(_CUDA, enable_cuda_graph="1"), _CPU]
            return self._ort.InferenceSession(path, options, providers=providers)
        except Exception:  # onnxruntime raises its own types, all plain Exceptions
            providers = [self._with_stream(_CUDA), _CPU]
            return self._ort.InferenceSession(path, options, providers=providers)

    def _with_stream(self, provider: str, **options: str) -> tuple[str, dict[str, str]]:
        own = {"device_id": "0", "user_compute_stream": str(self._memory.stream)}
        return provider, own | options

    def _cache(self) -> str:
        """Where engines go that a provider compiles itself."""
        return str(self._plan.folder / "builds" / self.name)

    def _engine(self, session: Any, file: str, sha256: str) -> Engine:
        return Engine(session, file, sha256, self._memory)


class OrtTensorrt(OrtCuda):
    """The `ort-tensorrt` backend: engines are compiled when a graph loads, and kept."""

    name = "ort-tensorrt"
    provider = "TensorrtExecutionProvider"

    def _session(self, path: str, options: Any) -> Any:
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": self._cache()}
        providers = [self._with_stream(self.provider, **kept), self._with_stream(_CUDA), _CPU]
        return self._ort.InferenceSession(path, options, providers=providers)


class OrtTensorrtRtx(OrtCuda):
    """The `ort-tensorrt-rtx` backend; ONNX Runtime itself can be that for CPUs."""

    name = "ort-tensorrt-rtx"
    provider = "NvTensorRTRTXExecutionProvider"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        super().__init__(plan, threads, kernels=False)  # they are for CUDA's provider

    @classmethod
    def _not_installed(cls) -> str | None:
        if all(importlib.util.find_spec(name) for name in ("onnxruntime", _RTX)):
            return None
        package = _RTX.replace("_", "-")
        return f"{package} is not installed: pip install 'edgereel[ort]' {package}"

    def _session(self, path: str, options: Any) -> Any:
        plugin = importlib.import_module(_RTX)
        name = plugin.get_ep_name()
        if not any(device.ep_name == name for device in self._ort.get_ep_devices()):
            self._ort.register_execution_provider_library(name, plugin.get_library_path())
        devices = [device for device in self._ort.get_ep_devices() if device.ep_name == name]
        if not devices:
            raise EngineError(f"{name} finds no GPU it can use")
        _, kept = self._with_stream(name, nv_runtime_cache_path=self._cache())
        options.add_provider_for_devices(devices[:1], kept | {"has_user_compute_stream": "1"})
        return self._ort.InferenceSession(path, options)


class Engine(ort.Engine):
    """One session, whose calls are queued.

    Calls that come again are replayed as CUDA graphs: each has a number, under which ONNX Runtime
    captures it when it sees it first; calls numbered -1 are not captured.
    """

    place = "cuda"

    def __init__(self, session: Any, file: str, sha256: str, memory: Memory) -> None:
        super().__init__(session, file, sha256)
        self._memory = memory
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}  # options of a call, by what is bound
        self._direct = _options(-1)

    def _address(self, buffer: Buffer) -> int:
        return cast(DeviceBuffer, buffer).address

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options())
        self._memory.pace()

    def _options(self) -> Any:
        call = tuple(sorted(self._bound.items()))
        if call in self._seen and call not in self._graphs and len(self._graphs) < _GRAPHS:
            self._graphs[call] = _options(len(self._graphs) + 1)
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen.add(call)
        return self._graphs.get(call, self._direct)


def _options(graph: int) -> Any:
    """Of a call that does not wait for the GPU, captured under a number."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
