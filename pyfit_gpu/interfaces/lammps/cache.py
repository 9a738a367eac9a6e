"""The cache of built plugins: a folder for each LAMMPS, compiler, set of flags, source and processor.

The program `lmp` looks here whenever it starts (autoload.py), so nothing heavy is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path

PLUGIN_NAME = "pyfitplugin.so"  # LAMMPS loads what ends in plugin.so
SOURCES = Path(__file__).with_name("plugin")
_RECORD_NAME = "build.json"
_SOURCE_ENDINGS = (".cpp", ".h")


@dataclass(frozen=True)
class BuildRecord:
    """Everything that decides what a plugin is."""

    lammps: str  # version with update, as LAMMPS prints it
    sizes: str  # LAMMPS_SMALLBIG, ...
    compiler: str  # the line in which it says what it is
    flags: tuple[str, ...]
    sources: str  # hash of the plugin's source
    processor: str  # hash of what the processor can do: -march=native compiles for it

    @property
    def key(self) -> str:
        """Name of its folder."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:20]


def cache_folder() -> Path:
    """Folder of all builds; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the standard of these folders.
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "pyfit-gpu" / "lammps"


def plugin_file(record: BuildRecord) -> Path:
    """Path of a plugin in the cache."""
    return cache_folder() / record.key / PLUGIN_NAME


def source_files() -> list[Path]:
    """Source and header files of the plugin."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in _SOURCE_ENDINGS)


def hash_sources() -> str:
    """Hash of the plugin's source."""
    found = hashlib.sha256()
    for path in source_files():
        content = path.read_bytes()
        found.update(f"{path.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def hash_processor() -> str:
    """Hash of the kind of this machine's processor and of its instructions: -march=native depends on them."""
    kinds = "vendor_id|cpu family|model|flags|CPU implementer|CPU architecture|CPU variant|CPU part|Features"
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            # Those of the first processor alone: the kernel makes the others as they are read.
            lines = list(takewhile(str.strip, file))
    except OSError:  # no Linux
        lines = [platform.processor()]
    told = [line for line in lines if re.match(rf"({kinds})\s*:", line)] or lines
    return hashlib.sha256("".join([platform.machine(), *told]).encode()).hexdigest()


def write_record(record: BuildRecord) -> None:
    """Say that a plugin in the cache is complete."""
    file = plugin_file(record).with_name(_RECORD_NAME)
    temporary = file.with_name(f"{_RECORD_NAME}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def make_newest(record: BuildRecord) -> None:
    """Let a plugin in the cache be the one that is loaded: what was asked for last."""
    with contextlib.suppress(OSError):  # a cache of others, in which nothing can be written
        os.utime(plugin_file(record).with_name(_RECORD_NAME))


def is_complete(record: BuildRecord) -> bool:
    """Whether the cache has a plugin."""
    file = plugin_file(record)
    return file.is_file() and _read_record(file.with_name(_RECORD_NAME)) == record


def find_build(lammps: str, sizes: str | None = None) -> tuple[BuildRecord, Path] | None:
    """Newest plugin in the cache that fits a LAMMPS, the source and this machine's processor; None: there is none.

    Args:
        lammps: its version, with the update.
        sizes: of its integers; None: any.
    """
    try:
        files = sorted(cache_folder().glob(f"*/{_RECORD_NAME}"), key=os.path.getmtime, reverse=True)
    except OSError:  # taken away meanwhile, or not readable
        return None
    if not files:
        return None
    wanted = lammps, hash_sources(), hash_processor()
    for file in files:
        record, plugin = _read_record(file), file.with_name(PLUGIN_NAME)
        if record is None or not plugin.is_file() or sizes not in (None, record.sizes):
            continue
        if (record.lammps, record.sources, record.processor) == wanted:
            return record, plugin
    return None


def _read_record(file: Path) -> BuildRecord | None:
    """The record in a file; None: there is none, or it is another version's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != {one.name for one in fields(BuildRecord)}:
        return None
    return BuildRecord(**found | {"flags": tuple(found["flags"])})
