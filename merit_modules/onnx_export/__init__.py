"""Systems as ONNX files, and what runs them without PyTorch.

This file imports nothing, so that
:mod:`merit_modules.onnx_export.runtime` needs NumPy and onnxruntime alone.
"""
