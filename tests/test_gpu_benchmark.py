"""The benchmark on a GPU in its small mode, so that it does not fail on a card for a reason that a CPU can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"


def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert not found["failures"]
    goals = {row["name"] for row in found["rows"] if row["goal"]}
    assert {"features, neighbours given, float64", "structures to features, whole, float64"} < goals
    assert len(found["rows"]) > 50
