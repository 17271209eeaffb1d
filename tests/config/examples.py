"""For every key a value that is right and not its default."""

from __future__ import annotations

from collections.abc import Mapping

from daisi_ws.config import FIELDS, Field, Value
from daisi_ws.config.doc import as_yaml

HEX = "c0ffee00" * 8
UNTIL = "2099-01-01T00:00:00Z"

_CHOSEN: Mapping[str, Value] = {
    "app.shutdown_timeout_seconds": 40.0,
    "server.allowed_origins": ("https://changed.example",),
    "server.trusted_proxies": ("192.0.2.7",),
    "nats.url": "nats://127.0.0.9:4333",
    "redis.address": "127.0.0.9:6390",
}


def another(field: Field) -> Value:
    """Return a value that fits the key and its rules with all others at their default.

    None if there is no other than the default.
    """
    default = field.default
    if field.name in _CHOSEN:
        return _CHOSEN[field.name]
    if field.kind in ("bool", "bool or null"):
        return not default
    if field.name.endswith("_previous_until"):
        return UNTIL
    if field.kind == "choice":
        return next((choice for choice in field.choices if choice != default), None)
    if isinstance(default, (int, float)):
        step = 1 if field.kind == "int" else max(default * 0.01, 0.01)
        low = field.key.low
        return default - step if low is None or default - step >= low else default + step
    return HEX if field.key.secret else "changed"


def with_partner(key: str, value: Value) -> dict[str, Value]:
    """Return a key's value with what it cannot do without, as a previous key its date."""
    if key == "server.proxy_protocol":
        return {key: value, "server.trusted_proxies": ("192.0.2.7",)}
    if key.endswith("_previous"):
        return {key: value, f"{key}_until": UNTIL}
    if key.endswith("_previous_until"):
        return {key: value, key.removesuffix("_until"): HEX}
    return {key: value}


def as_file(values: Mapping[str, Value]) -> str:
    """Return a YAML file with these values."""
    lines: list[str] = []
    seen: set[str] = set()
    for name in sorted(values, key=lambda name: (name.split(".")[0], name.count("."), name)):
        *sections, leaf = name.split(".")
        for depth in range(len(sections)):
            section = ".".join(sections[: depth + 1])
            if section not in seen:
                seen.add(section)
                lines.append(f"{'  ' * depth}{sections[depth]}:")
        lines.append(f"{'  ' * len(sections)}{leaf}: {as_yaml(values[name])}")
    return "\n".join(lines) + "\n"


HOT: Mapping[str, Value] = {
    name: value
    for name, field in FIELDS.items()
    if field.key.hot and (value := another(field)) is not None
}
"""Another value for each hot key."""
