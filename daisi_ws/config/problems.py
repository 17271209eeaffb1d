"""What is wrong with a configuration, said in one message."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

_TYPO = 8
"""So much behind a secret's name may be a wrong name; what is longer may be the secret."""

_NAME: Final = re.compile(r"(?:_|(?!(?:[^\W_]*\d){3})[^\W_]+)*")
"""What may be a name: letters and `_`, and no more than two digits in a word."""

SECRET_HINT = 'python -c "import secrets; print(secrets.token_hex(32))"'  # noqa: S105 - a command, no secret


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    :param key: dotted key, or the name found where a key was expected.
    :param origin: where the value comes from, such as ``conf/config.yaml:12``.
    :param wrong: what is wrong; never holds the value of a secret.
    :param right: what would be right.
    """

    key: str
    origin: str
    wrong: str
    right: str

    def __str__(self) -> str:
        return f"{self.key}  ({self.origin})\n  wrong: {self.wrong}\n  right: {self.right}"


class ConfigError(Exception):
    """The configuration cannot be used.

    Raised by ``load``; its text is the whole message for people, its ``problems`` are every
    problem found. A command ends with exit code 2 on it.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self._message())

    def _message(self) -> str:
        total = len(self.problems)
        lines = [f"the configuration has {total} problem{'' if total == 1 else 's'}:"]
        for problem in self.problems:
            lines += ["", *(f"  {line}" for line in str(problem).splitlines())]
        if any(problem.key.startswith("auth.") for problem in self.problems):
            lines += ["", f"A new secret is made by: {SECRET_HINT}"]
        return "\n".join(lines)


def quoted(text: str, longest: int = 60) -> str:
    """``text`` as it may be shown: quoted, control characters escaped, cut to ``longest``."""
    return ascii(text if len(text) <= longest else text[:longest] + "...")


def without_value(name: str, secrets: Iterable[str]) -> str:
    """``name`` without the value that stands right behind the name of a secret in it.

    Where a sign between the two was forgotten, or is another; what is too short to be one may be a
    wrong name. The name may be misspelt, too: what can be no name is never shown.
    """
    known = max((s for s in secrets if name.startswith(s)), key=len, default="")
    if not known:
        known = match[0] if (match := _NAME.match(name)) else ""
    return name if len(name) - len(known) <= _TYPO else f"{known}..."


def origin_of(keys: Collection[str], origins: Mapping[str, str]) -> str:
    """Where the values of several keys come from: those somebody set, else "default"."""
    set_by = dict.fromkeys(origins[key] for key in keys if not origins[key].startswith("default"))
    return ", ".join(set_by) or "default"
