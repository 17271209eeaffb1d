"""From what was written to the value of a key, or to what is wrong with it."""

from __future__ import annotations

import re
from math import isfinite

from daisi_ws.config.keys import MASK, Field, Value, number_text, without_userinfo
from daisi_ws.config.problems import quoted

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_WHOLE = re.compile(r"[-+]?\d+(_\d+)*", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\d+(_\d+)*(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


class RefusedError(Exception):
    """A value does not fit its key; the text says why and holds no secret."""


def from_text(field: Field, text: str) -> Value:
    """Read ``text``, as an environment variable or a flag gives it.

    :raises RefusedError: it is not a value of the key's type, or not in its range.
    """
    if field.kind == "list":
        items = tuple(item.strip() for item in text.split(","))
        return check(field, tuple(item for item in items if item))
    return check(field, _scalar(field, text))


def from_python(field: Field, given: object) -> Value:
    """Take a value that a command or a test gives.

    :raises RefusedError: it is not a value of the key's type, or not in its range.
    """
    if isinstance(given, str):
        return from_text(field, given)
    if isinstance(given, bool):
        if field.kind in ("bool", "bool or null"):
            return given
    elif isinstance(given, int) and field.kind == "int":
        return check(field, given)
    elif isinstance(given, (int, float)) and field.kind == "float" and isfinite(given):
        return check(field, float(given))
    elif isinstance(given, (list, tuple)) and field.kind == "list":
        return check(field, tuple(str(item) for item in given))
    raise RefusedError(f"{type(given).__name__} is not {field.kind}")


def check(field: Field, value: Value) -> Value:
    """``value`` itself if it is in the key's range.

    :raises RefusedError: it is not.
    """
    key = field.key
    if field.kind == "choice" and value not in field.choices:
        raise RefusedError(f"{shown(field, value)} is none of the choices")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key.low is not None and value < key.low:
            raise RefusedError(f"{number_text(value)} is less than {number_text(key.low)}")
        if key.high is not None and value > key.high:
            raise RefusedError(f"{number_text(value)} is more than {number_text(key.high)}")
    if key.pattern and isinstance(value, str) and not re.fullmatch(key.pattern, value):
        raise RefusedError(_mismatch(field, value))
    return value


def shown(field: Field, value: Value) -> str:
    """``value`` as it may be shown: secrets and passwords in URLs are masked."""
    if field.key.secret:
        return MASK if value else "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(quoted(item) for item in value) + "]"
    return "null" if value is None else quoted(str(without_userinfo(value)))


def _scalar(field: Field, text: str) -> Value:
    if field.kind in ("text", "choice"):
        return text
    bare = text.strip()
    if field.kind == "int" and _WHOLE.fullmatch(bare) and len(bare) < 20:
        return int(bare)
    if field.kind == "float" and _DECIMAL.fullmatch(bare) and len(bare) < 40:
        return float(bare)
    if field.kind in ("bool", "bool or null"):
        if bare.lower() in _TRUE | _FALSE:
            return bare.lower() in _TRUE
        if field.kind == "bool or null" and bare.lower() in ("null", "none"):
            return None
    raise RefusedError(f"{shown(field, text)} is not {_type_in_words(field)}")


def _type_in_words(field: Field) -> str:
    return {"int": "a whole number", "float": "a number"}.get(field.kind, "true or false")


def _mismatch(field: Field, value: str) -> str:
    if not field.key.secret:
        return f"{shown(field, value)} does not fit"
    length = f"has {len(value)} characters"
    return f"{length} (not shown)" if value else "is empty"
