"""Systems as ONNX files, and what runs them without PyTorch.

This file imports nothing, so that
:mod:`merit_modules.export.onnx.runtime` needs NumPy and onnxruntime alone.
"""
