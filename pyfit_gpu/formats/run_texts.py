"""The texts of a run file, as docs/formats/run_file.md says them: JSON that holds something else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.json_text import brief, parse_json

Rule = Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _list_of(*rules: Rule) -> Rule:
    """List of things each of which obeys one of the rules."""
    return lambda value: type(value) is list and all(any(rule(item) for rule in rules) for item in value)


def _pair_of(first: Rule, second: Rule) -> Rule:
    return lambda value: type(value) is list and len(value) == 2 and first(value[0]) and second(value[1])


def _object_of(rules: Mapping[str, Rule]) -> Rule:
    """Object with these keys, and perhaps others."""
    return lambda value: type(value) is dict and all(key in value and rule(value[key]) for key, rule in rules.items())


_errors = _list_of(_is_number, lambda value: value is None)
_history = _object_of(
    {
        "loss": _list_of(_is_number),
        "validation": _list_of(_pair_of(_is_count, _is_number)),
        "errors": _list_of(_errors),
        "validation_errors": _list_of(_pair_of(_is_count, _errors)),
        "n_restarts": _is_count,
        "n_evaluations": _is_count,
        "status": lambda value: type(value) is str,
        "kept_step": _is_count,
    }
)
_stopping = _object_of({"best": _is_number, "improved": _is_number, "waiting": _is_count})
_penalty = _list_of(lambda value: _is_number(value) and value >= 0)
_member = _object_of({"history": _history, "stopping": lambda value: _stopping(value) and len(value) == 3})
_members = _list_of(lambda value: _member(value) and _penalty(value.get("penalty", [])))
_logs = _pair_of(_is_count, _is_count)

# text: (whether it is JSON, what it must be, and whether it is)
RUN_TEXTS: dict[str, tuple[bool, str, Rule]] = {
    "potential_header": (False, "lines", lambda value: True),
    "members": (True, "histories of one member or more", lambda value: bool(value) and _members(value)),
    "settings": (True, "an object", lambda value: type(value) is dict),
    "data": (True, "an object", lambda value: type(value) is dict),
    "logs": (True, "two counts for each log", lambda value: type(value) is dict and all(map(_logs, value.values()))),
    "first_member": (True, "a whole number", _is_count),
    "done": (True, "true or false", lambda value: type(value) is bool),
}


def checked_text(name: str, text: str | None) -> Any:
    """Content of a text: parsed, where it is JSON.

    Raises:
        InputError: it is missing, no JSON, or something else than the specification says.
    """
    is_json, expected, holds = RUN_TEXTS[name]
    if text is None:
        raise InputError(f"text/{name} is missing")
    try:
        value = parse_json(text, finite=False) if is_json else text
    except InputError as error:
        raise InputError(f"text/{name}: {error.fault}") from error
    if not holds(value):
        raise InputError(f"text/{name}: expected {expected}, found {brief(value)}")
    return value
