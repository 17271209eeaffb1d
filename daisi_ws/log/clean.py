"""What a line may hold: plain values without secrets and control characters."""

from __future__ import annotations

import re
from collections.abc import Mapping

MASK = "********"

_LONGEST_TEXT = 2_000
_LONGEST_TRACEBACK = 20_000
_MOST_ITEMS = 100
_DEEPEST = 4

_SECRET_NAMES = frozenset({"key", "cookie", "set_cookie", "credentials", "passwd"})
_SECRET_ENDINGS = (
    "token",
    "secret",
    "password",
    "authorization",
    "api_key",
    "aes_key",
    "private_key",
)
_WORDS = r"(?:token|secret|passw(?:or)?d|authorization|api[-_]?key|aes[-_]?key)"
_SECRETS_IN_TEXT = (
    # token=abc and x-api-key%3Dabc, as in queries
    re.compile(rf"({_WORDS}(?:=|%3d)[\"']?)[^\s&\"'#,;)\]}}>]+", re.IGNORECASE),
    # 'Authorization': 'Bearer abc' and X-API-Key: abc, as in headers and reprs
    re.compile(rf"([\"']{_WORDS}[\"']\s*:\s*[\"'])[^\"']+", re.IGNORECASE),
    re.compile(r"((?:x-api-key|authorization)[\"']?\s*:\s*[\"']?(?:bearer\s+)?)[^\s\"',;]+", re.I),
    re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    # user:password@ of a URL
    re.compile(r"(\w://)[^/\s@\"']+(?=@)"),
)
# No pattern above matches a text without one of these: most values are spared the search.
_SUSPECT = re.compile(r"[=%:@]|[Ee][Aa][Rr][Ee][Rr]")
# Besides C0 and C1: what moves text on a terminal or ends a line, and lone surrogates (no UTF-8).
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CONTROLS_IN_LINES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(key: str, value: object, depth: int = 0) -> object:
    """``value`` as something JSON knows, without secrets and control characters.

    :param key: its name; the value of one that names a secret is masked whole.
    :param depth: of nesting so far; what is nested too deeply is shown by its repr.
    """
    if value is None or isinstance(value, (bool, float)):
        return value
    if value != "" and _is_secret(key):
        return MASK
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else str(value)
    if depth < _DEEPEST and isinstance(value, Mapping):
        items = list(value.items())[:_MOST_ITEMS]
        return {clean_text(str(k)): clean(str(k), v, depth + 1) for k, v in items}
    if depth < _DEEPEST and isinstance(value, (list, tuple, set, frozenset)):
        return [clean("", item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
    return clean_text(_in_words(value))


def clean_text(text: str) -> str:
    """``text`` without secrets, cut to a bearable length, on one line."""
    # Masked before it is cut, so that no half of a secret stays.
    text = _masked(text[: 4 * _LONGEST_TEXT])
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}..."
    return _escape(text, _CONTROLS)


def clean_traceback(text: str) -> str:
    """A traceback without secrets; its line breaks stay, its end matters most."""
    return _escape(_masked(text[-_LONGEST_TRACEBACK:]), _CONTROLS_IN_LINES)


def _in_words(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a line about an object must not fail because of it
        return f"<{type(value).__name__}>"


def _is_secret(key: str) -> bool:
    name = key.lower().replace("-", "_")
    return name in _SECRET_NAMES or name.endswith(_SECRET_ENDINGS)


def _masked(text: str) -> str:
    if not _SUSPECT.search(text):
        return text
    for pattern in _SECRETS_IN_TEXT:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def _escape(text: str, controls: re.Pattern[str]) -> str:
    return controls.sub(lambda found: ascii(found[0])[1:-1], text)
