"""JSON of other programs, of any size and compressed too, with faults that say where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.json_text import parse_json


def load_json(path: str, *, comment: bool = False) -> Any:
    """Read a JSON file.

    Args:
        comment: whether a first line that does not begin with `{` is passed over.

    Raises:
        InputError: it cannot be read, is no JSON, or has NaN or infinity.
    """
    with reading(path) as file:
        text = file.read()
    if comment and not text.lstrip().startswith("{"):
        text = "\n" + text.partition("\n")[2]  # line numbers stay
    try:
        return parse_json(text)
    except InputError as error:
        raise error.at(path) from error


@contextmanager
def as_expected(source: str) -> Iterator[None]:
    """Turn what a wrong layout raises, a list in place of an object and the like, into an error that says where.

    Raises:
        InputError: anything of that kind.
    """
    try:
        yield
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{source}: its JSON has another layout than expected ({error})") from error


def entry(record: Any, key: str, source: str) -> Any:
    """The value of a key that must be there.

    Raises:
        InputError: no such key, or nothing that has keys.
    """
    if not isinstance(record, Mapping) or key not in record:
        raise InputError(f"{source}: expected {key!r}, found {_described(record)}")
    return record[key]


def _described(record: Any) -> str:
    return f"keys {', '.join(map(str, record))[:80]}" if isinstance(record, Mapping) else f"{record!r:.60}"
