"""Emits a student as an ONNX file that computes in bf16."""

from __future__ import annotations

from lanac.backends._onnx_variant import OnnxVariant

BACKEND = OnnxVariant("bf16")
