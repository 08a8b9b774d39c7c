"""Where the operators of domain `edgereel` are, as a custom-op library of ONNX Runtime."""

from pathlib import Path

__all__ = ["LIBRARY"]

LIBRARY = next(Path(__file__).parent.glob("libedgereel_ort.*"))
