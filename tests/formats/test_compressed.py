"""Compressed files are told by the ending of their name, read as they are, and damage is one of the known faults."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import is_compressed, open_bytes, open_text, plain_name, read_faults, reading

TEXT = "Å 1\r\n2\n"
WAYS = [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), ("", bytes)]


@pytest.mark.parametrize(
    ("path", "plain", "is_one"),
    [
        ("a.xyz", "a.xyz", False),
        ("b/a.xyz.gz", "a.xyz", True),
        ("a.bz2", "a", True),
        ("b.gz/a.xyz.xz", "a.xyz", True),
        ("b.gz/a.xyz", "a.xyz", False),
        ("a.xyz.GZ", "a.xyz.GZ", False),  # as in ASE
        ("a.zip", "a.zip", False),
        ("gz", "gz", False),
        (".gz", ".gz", False),
    ],
)
def test_names(path: str, plain: str, is_one: bool) -> None:
    assert plain_name(path) == plain_name(Path(path)) == plain
    assert is_compressed(path) is is_compressed(Path(path)) is is_one


@pytest.mark.parametrize(("ending", "compress"), WAYS)
def test_reading(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compress(TEXT.encode("utf-8-sig")))
    with open_bytes(path) as file:
        assert file.read() == TEXT.encode("utf-8-sig")
    with open_text(path) as text:
        assert text.read() == "Å 1\n2\n"
    path.write_bytes(compress(TEXT.encode("latin-1")))
    with open_text(path, "latin-1") as text:
        assert text.read() == "Å 1\n2\n"


@pytest.mark.parametrize(("ending", "compress"), WAYS[:3])
def test_damage_is_a_known_fault(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.txt{ending}"
    raw = compress(bytes(range(256)) * 99)
    seen = set()
    for kept in range(len(raw)):
        path.write_bytes(raw[:kept])
        with open_bytes(path) as file:
            try:
                file.read()
            except read_faults() as error:
                seen.add(type(error))
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
        with open_bytes(path) as file:
            try:
                file.read()
            except read_faults() as error:
                seen.add(type(error))
    assert len(seen) > 1


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys; import pyfit_gpu.formats.compressed; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"gzip", "bz2", "lzma"} & set(found.stdout.split())


@pytest.mark.parametrize(("ending", "compress"), WAYS)
def test_faults_name_the_file(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.txt{ending}"
    with pytest.raises(InputError, match=rf"a\.txt{ending}: cannot read: No such file"), reading(path):
        pass
    path.write_bytes(compress(TEXT.encode("latin-1")))
    with pytest.raises(InputError, match=rf"a\.txt{ending}: expected text, found binary data"), reading(path) as file:
        file.read()
    path.write_bytes(compress(TEXT.encode()))
    with pytest.raises(ValueError, match="of the reader"), reading(path):
        raise ValueError("of the reader")
    if ending:
        path.write_bytes(b"no archive")
        with pytest.raises(InputError, match=rf"a\.txt{ending}: cannot read: .*damaged"), reading(path) as file:
            file.read()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(("\ufeff" + TEXT).encode(encoding))
    with pytest.raises(InputError, match=r"a\.dat: expected text, found UTF-16: save it"), reading(path) as file:
        file.read()
