"""Trained Flow++ models with NumPy and ONNX Runtime, without TensorFlow: ONNX files of `fpp.export`."""

from flowpp_runtime.model import Model
from flowpp_runtime.vectors import VectorFlow

__version__ = "0.3.0"
__all__ = ["Model", "VectorFlow", "__version__"]
