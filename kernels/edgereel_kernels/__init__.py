"""Where the operators of domain `edgereel` are: a custom-op library of ONNX Runtime and a plugin
library of TensorRT, this one if it was built with CUDA and TensorRT's headers.
"""

from pathlib import Path
from typing import Any

__all__ = ["CUDA_LIBRARY", "LIBRARY", "PLUGIN", "register_plugin"]

_HERE = Path(__file__).parent
LIBRARY = next(_HERE.glob("libedgereel_ort.*"))
CUDA_LIBRARY: Path | None = next(_HERE.glob("libedgereel_cuda.*"), None)
PLUGIN: Path | None = next(_HERE.glob("libedgereel_trt.*"), None)


def register_plugin(tensorrt: Any) -> None:
    """Tells a TensorRT of the plugin, once; needed before engines that have it are built or opened.

    Args:
        tensorrt: the module, `tensorrt`.

    Raises:
        RuntimeError: this package was built without the plugin, or the library cannot be loaded.
    """
    if PLUGIN is None:
        raise RuntimeError(
            "edgereel-kernels was built without the plugin for TensorRT; expected CUDA's nvcc and "
            "TensorRT's headers when it is built. Run `pip install ./kernels "
            "-C cmake.define.EDGEREEL_CUDA=ON -C cmake.define.TENSORRT_INCLUDE_DIR=DIR`."
        )
    registry = tensorrt.get_plugin_registry()
    if registry.get_creator("TemporalAttention", "1", "edgereel") is not None:
        return
    if registry.load_library(str(PLUGIN)) is None:
        raise RuntimeError(
            f"{PLUGIN}: {tensorrt.__name__} {tensorrt.__version__} cannot load it; expected a "
            f"library made with headers of this version or older. Install edgereel-kernels again."
        )
