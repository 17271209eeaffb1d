"""Identifiers: checked once, where they enter.

Everything that becomes part of a NATS subject or a Redis key passes through here, so that
separators, wildcards, braces, blanks and control characters never reach either.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from daisi_ws.domain.errors import BadRequest

ANY: Final = "*"
ALPHABET: Final = "[A-Za-z0-9_@=+~-]{1,128}"

_ID = re.compile(ALPHABET)
_POD = re.compile(r"-\d+-\d{13,}$")


def is_id(value: object) -> bool:
    """Tell whether `value` is an identifier of the project's alphabet."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


@lru_cache(maxsize=4096)
def is_own_pod(pod_id: str) -> bool:
    """Tell whether a pod ID is one of this project's: `{host}-{slot}-{generation}`.

    An older pod's is its host name or IP address, which does not end in a generation.
    """
    return _POD.search(pod_id) is not None


def check_id(name: str, value: object) -> str:
    """Return `value` if it is an identifier.

    :param name: what the value is, for the message (`company_id`).
    :raises BadRequest: naming the field and the alphabet, never echoing more than 40 characters.
    """
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise BadRequest(
        f"{name} is not an identifier",
        details=f"{name} must match {ALPHABET}, got {_shown(value)}",
    )


def check_scope(name: str, value: object) -> str:
    """Return `value` if it is an identifier or `*`; an empty or absent one means `*`.

    :raises BadRequest: as :func:`check_id`.
    """
    if value is None or value in ("", ANY):
        return ANY
    return check_id(name, value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
