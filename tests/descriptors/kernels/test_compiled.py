"""The kernels of the default settings compiled for a GPU that need not be there: nothing spills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import interpreted  # noqa: F401, which skips where there is no Triton
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_spills(dtype: str, tmp_path: Path) -> None:
    """In another process: in this one kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), "--settings", "mode 6", "--elements", "1", "--dtypes", dtype]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=600)
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines() if line.startswith("| mode 6 | 1 |")]
    spilled = {row[3].strip(): int(row[5]) for row in rows}
    assert len(spilled) == 8
    assert not any(spilled.values()), spilled
    assert all(int(row[4]) <= 255 for row in rows)
