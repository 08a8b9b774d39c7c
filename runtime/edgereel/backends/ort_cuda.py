"""ONNX Runtime on an NVIDIA GPU: runs the .onnx files themselves, on buffers in device memory.

Copies and graphs are queued on one stream, and nothing waits for the GPU before a value is fetched.
Nodes that the CUDA provider has no kernel for run on the CPU, as ONNX Runtime decides.
"""

from __future__ import annotations

import importlib.util
from typing import Any, cast

from edgereel import kernel_library
from edgereel.backends import Buffer, ort
from edgereel.backends.cuda import DeviceBuffer, Memory, OnDevice, runtime_api
from edgereel.backends.trt_library import device
from edgereel.errors import BackendUnavailable
from edgereel.plan import Plan

__all__ = ["OrtCuda"]

_PROVIDER = "CUDAExecutionProvider"


class OrtCuda(OnDevice, ort.Ort):
    """The `ort-cuda` backend."""

    name = "ort-cuda"

    def __init__(self, plan: Plan, threads: int | None = None, kernels: bool = True) -> None:
        super().__init__(plan, threads, kernels)
        self._kernels = kernel_library.path(cuda=True) if kernels else None
        self._memory = Memory()

    @staticmethod
    def unusable(plan: Plan) -> str | None:
        """Why this backend cannot run the cascade here, or None."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed: pip install 'edgereel[ort-gpu]'"
        import onnxruntime

        if _PROVIDER not in onnxruntime.get_available_providers():
            return (
                f"onnxruntime {onnxruntime.__version__} is here without its CUDA provider; pip "
                f"uninstall onnxruntime, then pip install 'edgereel[ort-gpu]'"
            )
        if device() is None:
            return "no CUDA GPU answers here; it needs one and NVIDIA's driver"
        try:
            runtime_api()
        except BackendUnavailable as error:
            return str(error)
        return None

    def free_memory(self) -> int | None:
        """What the GPU can still give."""
        return self._memory.free()

    def describe(self) -> dict[str, str]:
        """Library, device and precision."""
        return super().describe() | {"device": str(device())}

    def _providers(self) -> list[Any]:
        return [
            (_PROVIDER, {"device_id": "0", "user_compute_stream": str(int(self._memory.stream))}),
            "CPUExecutionProvider",
        ]

    def _engine(self, session: Any, file: str, sha256: str) -> Engine:
        return Engine(session, file, sha256)


class Engine(ort.Engine):
    """One session, whose calls are queued."""

    place = "cuda"

    def __init__(self, session: Any, file: str, sha256: str) -> None:
        import onnxruntime

        super().__init__(session, file, sha256)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def _address(self, buffer: Buffer) -> int:
        return cast(DeviceBuffer, buffer).address

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)
