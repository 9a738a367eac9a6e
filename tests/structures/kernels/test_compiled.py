"""The kernels of the search and of the pair sums compiled for a GPU that need not be there: next to nothing spills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import interpreted  # noqa: F401, which skips where there is no Triton
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_resources.py"


@pytest.mark.slow
def test_next_to_nothing_spills(tmp_path: Path) -> None:
    """In another process: in this one kernels are interpreted. Types of loops that change would not compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, str(SCRIPT)], check=True, capture_output=True, text=True, env=environment, timeout=600
    )
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines() if "| float" in line]
    assert {row[0].split()[0] for row in rows} == {"cells", "places", "pairs", "actions", "reactions", "double"}
    assert max(int(row[3]) for row in rows) <= 16, rows
