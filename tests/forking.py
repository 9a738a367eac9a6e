"""Scripts whose steps run in children of one process that has loaded everything: for kills, limits and races."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREAMBLE = '''
import json, os, resource, signal, sys
from dataclasses import replace
from pathlib import Path

import h5py
import torch

torch.set_num_threads(1)
from sample_sets import make_set, save_shard
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import load_run, save_run
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.shards import Shard

folder = Path(sys.argv[1])


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            sys.stdout.flush()
            os._exit(0)
    return pid


def kill_after(count):
    """In a child: kill it when this many datasets, syncs and renames are done."""
    left = [count]
    def count_down(function):
        def counted(*arguments, **keywords):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **keywords)
        return counted
    h5py.File.create_dataset = count_down(h5py.File.create_dataset)
    os.fsync, os.replace = count_down(os.fsync), count_down(os.replace)

'''


def run_script(script: str, folder: Path) -> str:
    """Run a script that may call `child(function)` and knows `folder`; return what it prints."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    command = [sys.executable, "-c", PREAMBLE + script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
