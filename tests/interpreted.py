"""Triton's interpreter, in which the tests run the fused kernels on a CPU: import this before any kernel."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
if importlib.util.find_spec("triton") is None:
    if os.environ.get("PYFIT_REQUIRE_TRITON"):  # as in .ci/run
        pytest.fail("triton is not installed", pytrace=False)
    pytest.skip("triton is not installed", allow_module_level=True)
