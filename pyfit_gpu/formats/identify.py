"""What a file is, by its first bytes."""

from __future__ import annotations

import enum
import os
import re

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.ase_files import looks_like_ase
from pyfit_gpu.formats.opening import HDF5_MAGIC, read_head
from pyfit_gpu.formats.run_file import is_run_file
from pyfit_gpu.formats.training_set.shards import MANIFEST_NAME

_LOG_ROW = re.compile(r"\s*\d+( +[-+\dnia][-+.\deEnaif]*)+\s*")


class FileKind(enum.Enum):
    POTENTIAL = "potential (.nn.dat)"
    TRAINING_SET = "training set (HDF5)"
    RUN = "run file of a fit"
    MANIFEST = "training set in shards (manifest)"
    TEXT_SET = "training set (classic text)"
    DFT_TEXT = "structures with energies (classic text)"
    ASE = "structures (read by ASE)"
    CLASSIC_CONFIG = "classic configuration"
    ENERGY_VOLUME_LOG = "energy-volume log"
    ERROR_LOG = "loss or validation log"
    ENERGY_TABLE = "table of energies (evaluate)"
    GROUP_LOG = "errors by group"
    RANKING = "ranking of members"


def identify(path: str | os.PathLike[str]) -> FileKind:
    """The kind of a file by its first bytes.

    Raises:
        InputError: unreadable, empty, or none of the kinds.
    """
    name = os.fspath(path)
    head = read_head(path, 65_536)
    if head.startswith(HDF5_MAGIC):
        return FileKind.RUN if is_run_file(path) else FileKind.TRAINING_SET
    if looks_like_ase(path):
        return FileKind.ASE
    text = head.decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "\0" in text or not lines:
        raise InputError(f"{name}: expected one of our or the classic files, found binary data")
    if lines[0].startswith(("{", "//", "/*")):
        return FileKind.MANIFEST if f'"{MANIFEST_NAME}"' in text else FileKind.CLASSIC_CONFIG
    if lines[0].startswith("#"):
        return FileKind.TEXT_SET
    if lines[0].startswith("training_index"):
        return FileKind.ENERGY_VOLUME_LOG
    if lines[0].startswith("index,group,"):
        return FileKind.ENERGY_TABLE
    if lines[0].startswith("step,part,"):
        return FileKind.GROUP_LOG
    if lines[0].startswith("rank,member,"):
        return FileKind.RANKING
    if _LOG_ROW.fullmatch(lines[0]) and len(lines[0].split()) in (2, 5):
        return FileKind.ERROR_LOG
    if _looks_like_potential(lines):
        return FileKind.POTENTIAL
    return FileKind.DFT_TEXT


def _looks_like_potential(lines: list[str]) -> bool:
    """Line 1: gi_mode, shift, activation; line 2: the number of elements; line 3: symbol and mass."""
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    patterns = (rf"\d+\s+{number}\s+\d+\b.*", r"\d+\b.*", rf"['\"]?[A-Z][a-z]?['\"]?\s+{number}.*")
    return len(lines) >= 3 and all(re.match(pattern, line) for pattern, line in zip(patterns, lines[:3], strict=True))
